//! Terminals of programs, by WebSocket.

use serde_json::json;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::{connect, next, sandbox, say, until};
use crate::harness::{Client, TestGateway, process_config};

async fn open(gateway: &TestGateway, below: &str, body: serde_json::Value) -> String {
    let (status, made) = gateway
        .json("POST", &format!("{below}/pty"), &[], body)
        .await;
    assert_eq!(status, 201, "{made}");
    assert!(below.ends_with(made["sandboxID"].as_str().expect("its sandbox")));
    assert_eq!(made["sessionID"], made["id"]);
    format!(
        "{below}/pty/{}",
        made["sessionID"].as_str().expect("a name")
    )
}

/// What is shown until `text` is.
async fn until_shown(client: &mut Client, text: &str) -> String {
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains(text) {
        match next(client).await {
            Some(Message::Binary(bytes)) => shown.extend_from_slice(&bytes),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&shown)),
        }
    }
    String::from_utf8_lossy(&shown).into_owned()
}

async fn closed(client: &mut Client) -> u16 {
    loop {
        match next(client).await {
            Some(Message::Close(frame)) => return frame.map_or(1005, |frame| frame.code.into()),
            Some(_) => {}
            None => return 1006,
        }
    }
}

#[tokio::test]
async fn a_terminal_is_opened_used_left_and_found_again() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let body = json!({"cols": 100, "rows": 30, "envs": {"GREETING": "hi"}});
    let pty = open(&gateway, &below, body).await;
    let mut client = connect(&gateway, &pty).await;
    // As `@xterm/addon-attach` sends it: text, or binary.
    say(
        &mut client,
        Message::text("stty size; echo $GREETING-you\r"),
    )
    .await;
    until_shown(&mut client, "hi-you\r\n").await;
    say(&mut client, Message::binary(&b"echo {1..3}\r"[..])).await;
    until_shown(&mut client, "1 2 3").await;
    drop(client);
    let (status, _) = gateway
        .json(
            "POST",
            &format!("{pty}/resize"),
            &[],
            json!({"cols": 120, "rows": 40}),
        )
        .await;
    assert_eq!(status, 204);
    let mut client = connect(&gateway, &pty).await;
    let before = until_shown(&mut client, "1 2 3").await;
    assert!(before.contains("30 100"), "{before}");
    say(&mut client, Message::text("stty size\r")).await;
    until_shown(&mut client, "40 120").await;
    let (status, list) = gateway
        .json("GET", &format!("{below}/pty"), &[], json!(null))
        .await;
    assert_eq!(
        (
            status,
            list[0]["cols"].as_u64(),
            list[0]["running"].as_bool()
        ),
        (200, Some(120), Some(true))
    );
    say(&mut client, Message::text("exit 3\r")).await;
    assert_eq!(closed(&mut client).await, 1000);
    let (_, list) = gateway
        .json("GET", &format!("{below}/pty"), &[], json!(null))
        .await;
    assert_eq!(
        (list[0]["running"].as_bool(), list[0]["exitCode"].as_i64()),
        (Some(false), Some(3))
    );
    gateway.stop().await;
}

#[tokio::test]
async fn a_terminal_has_the_size_of_its_visitor_and_ends_when_told_to() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let pty = open(
        &gateway,
        &below,
        json!({"shell": "/bin/sh", "env": {"PS1": "$ "}}),
    )
    .await;
    let mut client = connect(&gateway, &format!("{pty}?cols=90&rows=20")).await;
    say(&mut client, Message::text("stty size\r")).await;
    until_shown(&mut client, "20 90").await;
    let (status, _) = gateway.http("DELETE", &pty, &[], "").await;
    assert_eq!(status, 204);
    // Hung up.
    assert_eq!(closed(&mut client).await, 1000);
    for (method, path) in [("DELETE", pty.clone()), ("POST", format!("{pty}/resize"))] {
        let body = json!({"cols": 80, "rows": 24});
        let (status, told) = gateway.json(method, &path, &[], body).await;
        assert_eq!(
            (status, &told["error"]),
            (404, &json!("no_terminal")),
            "{method}"
        );
    }
    for other in [pty.as_str(), &format!("{below}/pty/x")] {
        let refused = gateway.connect_with(other, &[]).await.map(|_| ());
        assert!(matches!(refused, Err(WsError::Http(r)) if r.status() == 404));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn two_at_one_terminal_see_the_same() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let pty = open(&gateway, &below, json!({})).await;
    let mut one = connect(&gateway, &pty).await;
    let mut other = connect(&gateway, &pty).await;
    for turn in 0..3 {
        let typist = if turn % 2 == 0 { &mut one } else { &mut other };
        say(typist, Message::text(format!("echo tu''rn{turn}\r"))).await;
        let expected = format!("turn{turn}\r\n");
        until_shown(&mut one, &expected).await;
        until_shown(&mut other, &expected).await;
    }
    gateway.stop().await;
}

/// A client that never reads stops the program: nothing is kept for it beyond what the agent keeps.
#[tokio::test]
async fn a_client_that_does_not_read_stops_the_program() {
    let directory = std::env::temp_dir().join(format!("belljar-pty-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let count = directory.join("count");
    let gateway = TestGateway::with(process_config()).await;
    let below = sandbox(&gateway).await;
    // Counts what it has written, 64 KiB at a time.
    let script = format!(
        "n=0; while :; do head -c 65536 /dev/zero | tr '\\0' x; n=$((n+1)); echo $n > {}.new; mv {0}.new {0}; done",
        count.display()
    );
    let pty = open(&gateway, &below, json!({"command": script})).await;
    let client = connect(&gateway, &pty).await;
    let read = || std::fs::read_to_string(&count).unwrap_or_default();
    let mut last = String::new();
    until("the program stands still", async || {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let now = read();
        let still = !now.is_empty() && now == last;
        last = now;
        still
    })
    .await;
    let written: u64 = last.trim().parse().expect("a number");
    // Sockets hold some megabytes.
    assert!(written * 65536 < 64 << 20, "{written}");
    drop(client);
    // It is held a while for somebody who comes back, who sees all that is kept.
    let mut client = connect(&gateway, &pty).await;
    until_shown(&mut client, &"x".repeat(100_000)).await;
    drop(client);
    gateway.stop().await;
    let _ = std::fs::remove_dir_all(&directory);
}
