//! `LiteBoxd`'s interactive exec.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{connect, sandbox, say, told, until};
use crate::harness::{Client, TestGateway};

async fn output_until(client: &mut Client, text: &str) {
    let mut shown = String::new();
    while !shown.contains(text) {
        let said = told(client).await.expect("it goes on");
        assert_eq!(said["type"], "output", "{said} after {shown}");
        shown.push_str(said["data"].as_str().expect("text"));
    }
}

fn input(data: &str) -> Message {
    Message::text(json!({"type": "input", "data": data}).to_string())
}

async fn end(client: &mut Client) -> (Value, u16) {
    let mut last = Value::Null;
    loop {
        match told(client).await {
            Ok(said) => last = said,
            Err(code) => return (last, code),
        }
    }
}

#[tokio::test]
async fn a_terminal_is_typed_into_resized_and_left() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let path = format!("{below}/exec/interactive?command=sh&tty=true&rows=30&cols=100");
    let mut client = connect(&gateway, &path).await;
    say(&mut client, input("stty size; echo ä\r")).await;
    output_until(&mut client, "ä\r\n").await;
    let resize = json!({"type": "resize", "rows": 41, "cols": 101});
    say(&mut client, Message::text(resize.to_string())).await;
    say(
        &mut client,
        input("until [ \"$(stty size)\" = '41 101' ]; do :; done; echo do''ne\r"),
    )
    .await;
    output_until(&mut client, "done").await;
    say(&mut client, input("exit 5\r")).await;
    let (exit, code) = end(&mut client).await;
    assert_eq!((exit, code), (json!({"type": "exit", "exitCode": 5}), 1000));
    // Nobody can come back to one, so it goes with its client.
    let path = format!("{below}/exec/interactive?command=cat");
    let client = connect(&gateway, &path).await;
    drop(client);
    until("no terminal is left", async || {
        let (_, list) = gateway
            .json("GET", &format!("{below}/pty"), &[], json!(null))
            .await;
        list == json!([])
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_program_without_a_terminal_is_fed() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let path = format!("{below}/exec/interactive?command=head&command=-n1&tty=false");
    let mut client = connect(&gateway, &path).await;
    say(&mut client, input("one\ntwo\n")).await;
    output_until(&mut client, "one\n").await;
    let (exit, code) = end(&mut client).await;
    assert_eq!((exit, code), (json!({"type": "exit", "exitCode": 0}), 1000));
    let path = format!("{below}/exec/interactive?command=/nowhere&command=x");
    let (error, code) = end(&mut connect(&gateway, &path).await).await;
    assert_eq!((error["type"].as_str(), code), (Some("error"), 1011));
    gateway.stop().await;
}
