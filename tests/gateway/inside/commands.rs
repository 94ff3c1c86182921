//! Commands on a WebSocket.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{connect, sandbox, say, told, until};
use crate::harness::{Client, TestGateway};

async fn begin(gateway: &TestGateway, below: &str, command: Value) -> Client {
    let mut client = connect(gateway, &format!("{below}/commands/ws")).await;
    say(&mut client, Message::text(command.to_string())).await;
    client
}

/// Everything that is said up to the close, and its code.
async fn all(client: &mut Client) -> (Vec<Value>, u16) {
    let mut said = Vec::new();
    loop {
        match told(client).await {
            Ok(value) => said.push(value),
            Err(code) => return (said, code),
        }
    }
}

fn text(said: &[Value], kind: &str) -> String {
    let of_kind = said.iter().filter(|value| value["type"] == kind);
    of_kind.filter_map(|value| value["data"].as_str()).collect()
}

#[tokio::test]
async fn a_command_speaks_and_ends() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let command = json!({"command": "echo out; echo ä >&2; exit 4"});
    let (said, code) = all(&mut begin(&gateway, &below, command).await).await;
    assert_eq!(said[0]["type"], "start");
    assert!(said[0]["process"].is_u64());
    assert_eq!(
        (text(&said, "stdout"), text(&said, "stderr")),
        ("out\n".into(), "ä\n".into())
    );
    let exit = said.last().expect("an end");
    assert_eq!(
        (exit["type"].as_str(), exit["exitCode"].as_i64(), code),
        (Some("exit"), Some(4), 1000)
    );
    gateway.stop().await;
}

#[tokio::test]
async fn a_command_hears_its_input_and_its_end() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let mut client = begin(&gateway, &below, json!({"command": ["wc", "-c"]})).await;
    let piece = vec![b'x'; 60_000];
    for _ in 0..20 {
        say(&mut client, Message::binary(piece.clone())).await;
    }
    say(&mut client, Message::text(r#"{"type":"eof"}"#)).await;
    let (said, code) = all(&mut client).await;
    assert_eq!((text(&said, "stdout").trim(), code), ("1200000", 1000));
    gateway.stop().await;
}

/// Also while the program reads nothing of what is sent to it.
#[tokio::test]
async fn a_signal_gets_through() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let command = json!({"command": "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"});
    let mut client = begin(&gateway, &below, command).await;
    let mut said = String::new();
    while !said.contains("ready") {
        let value = told(&mut client).await.expect("it goes on");
        said.push_str(value["data"].as_str().unwrap_or_default());
    }
    for _ in 0..4 {
        say(&mut client, Message::binary(vec![b'x'; 60_000])).await;
    }
    say(
        &mut client,
        Message::text(r#"{"type":"signal","signal":"SIGINT"}"#),
    )
    .await;
    let (said, code) = all(&mut client).await;
    assert!(text(&said, "stdout").contains("caught"), "{said:?}");
    assert_eq!(
        (said.last().expect("an end")["exitCode"].as_i64(), code),
        (Some(9), 1000)
    );
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_ends_its_command() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let mut client = begin(&gateway, &below, json!({"command": ["sleep", "1000"]})).await;
    let process = told(&mut client).await.expect("it goes on")["process"].clone();
    let path = format!("{below}/processes/{process}");
    assert_eq!(gateway.http("GET", &path, &[], "").await.0, 200);
    drop(client);
    until("the command has ended", async || {
        let (status, shown) = gateway.json("GET", &path, &[], json!(null)).await;
        status == 404 || shown["running"] == false
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn what_cannot_be_run_is_told() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    for bad in [
        Message::text("{}"),
        Message::text("[]"),
        Message::text("{\"command\": 1}"),
        Message::text("not JSON"),
        Message::binary(&b"{\"command\": \"true\"}"[..]),
        Message::text(r#"{"command": ["/nowhere"]}"#),
    ] {
        let mut client = connect(&gateway, &format!("{below}/commands/ws")).await;
        say(&mut client, bad.clone()).await;
        let (said, code) = all(&mut client).await;
        assert_eq!((said.len(), code), (1, 1008), "{bad:?}: {said:?}");
        assert_eq!(said[0]["type"], "error", "{bad:?}");
    }
    let mut client = begin(&gateway, &below, json!({"command": "cat"})).await;
    say(
        &mut client,
        Message::text(r#"{"type":"signal","signal":"SIGFLY"}"#),
    )
    .await;
    assert_eq!(all(&mut client).await.1, 1008);
    gateway.stop().await;
}
