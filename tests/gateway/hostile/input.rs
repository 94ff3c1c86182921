//! Messages, parameters and requests that make no sense.

use std::time::Duration;

use belljar::config::Config;
use futures::SinkExt;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{TestGateway, process_config, visits};
use crate::raw::{BINARY, FIN, Raw, frame};

use super::{assert_well, error, refusal, told_why};

visits! {
    on processes, cluster: {
        bad_messages_are_explained_until_there_are_too_many,
        sizes_beyond_all_measure_are_brought_into_range,
    }
}

pub async fn bad_messages_are_explained_until_there_are_too_many(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    let long = "x".repeat(60_000);
    let bad = [
        (
            r#"{"type":"resize","cols":-5,"rows":24}"#,
            vec!["cols", "2 to 1000"],
        ),
        (
            r#"{"type":"resize","cols":80,"rows":"many"}"#,
            vec!["rows", "1 to 500"],
        ),
        (
            r#"{"type":"resize","cols":80}"#,
            vec!["rows", "missing", "1 to 500"],
        ),
        (
            r#"{"type":"resize","cols":1e99,"rows":24}"#,
            vec!["cols", "2 to 1000"],
        ),
        (r#"{"type":"ack"}"#, vec!["offset", "whole number"]),
        (
            r#"{"type":"ack","offset":-1}"#,
            vec!["offset", "whole number"],
        ),
        (r#"{"type":"ping","id":"x"}"#, vec!["id", "whole number"]),
        (
            r#"{"type":"attach","window":"all"}"#,
            vec!["window", "4096 to 262144"],
        ),
        (
            r#"{"type":"sudo"}"#,
            vec!["type", "attach, resize, ack, extend, ping or close"],
        ),
        (r#"{"no":"type"}"#, vec!["type"]),
        ("{", vec!["JSON"]),
        ("", vec!["JSON"]),
        ("ls -l\r", vec!["JSON"]),
        ("null", vec!["JSON"]),
    ];
    for (message, named) in &bad {
        client
            .socket
            .send(Message::Text((*message).into()))
            .await
            .unwrap();
        let notice = client.told("notice").await;
        assert_eq!(notice["code"], "bad_message");
        let text = notice["message"].as_str().unwrap();
        for name in named {
            assert!(text.contains(name), "{message}: {text}");
        }
    }
    let nested = "[".repeat(50_000);
    let quoted = json!({"type": "ping", "id": long}).to_string();
    for message in [nested, quoted] {
        client
            .socket
            .send(Message::Text(message.into()))
            .await
            .unwrap();
        let notice = client.told("notice").await;
        assert!(
            notice["message"].as_str().unwrap().len() < 400,
            "it quotes too much"
        );
    }
    // Sixteen by now, and nothing else has changed.
    assert_eq!(client.run("stty size").await, "24 80\n[0]");

    client
        .socket
        .send(Message::Text("once too often".into()))
        .await
        .unwrap();
    let told = client.told("error").await;
    assert_eq!(told["code"], "too_many_bad_messages");
    assert_eq!(client.closed().await, 1008);
    let (session, token, _) = client.cut();
    let mut client = gateway.resume(&session, &token, None).await;
    client.ready().await;
    client.until("24 80").await;
    gateway.stop().await;
}

pub async fn sizes_beyond_all_measure_are_brought_into_range(config: Config) {
    let gateway = TestGateway::with(config).await;
    for (query, size) in [
        ("cols=0&rows=0", "1 2"),
        ("cols=4294967295&rows=4294967295", "500 1000"),
        ("cols=100", "24 80"),
        ("rows=50", "24 80"),
        ("", "24 80"),
    ] {
        let mut client = gateway.connect(&format!("/ws?{query}")).await;
        let ready = client.ready().await;
        let told = format!("{} {}", ready["rows"], ready["cols"]);
        assert_eq!(told, size, "{query}");
        client.input("stty size\r").await;
        client.until(size).await;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_bad_query_is_told_what_is_allowed() {
    let gateway = TestGateway::process().await;
    for query in [
        "cols=x&rows=24",
        "cols=-1&rows=24",
        "cols=80&rows=4294967296",
        "cols=80&cols=90",
        "from=-1",
        "cols=",
    ] {
        let mut client = gateway.connect(&format!("/ws?{query}")).await;
        let told = client.told("error").await;
        assert_eq!(told["code"], "bad_request", "{query}");
        let text = told["message"].as_str().unwrap();
        assert!(text.contains("cols takes 2 to 1000"), "{text}");
        assert_eq!(client.closed().await, 1008);
        let (status, body) = refusal(gateway.connect_with(&format!("/ws?{query}"), &[]).await);
        assert_eq!((status, body["error"].as_str()), (400, Some("bad_request")));
    }
    let client = gateway.connect("/ws?template=none").await;
    assert_eq!(told_why(client).await, error("no_such_template", 1008));
    assert_eq!(gateway.app.limiter.held(), 0, "nothing was begun");
    gateway.stop().await;
}

#[tokio::test]
async fn whatever_is_refused_is_refused_in_json() {
    let gateway = TestGateway::process().await;
    let visitor = gateway.visit().await;
    let id = &visitor.session;
    let large = "x".repeat(65 * 1024);
    let json = ("content-type", "application/json");
    for (method, path, headers, body, status) in [
        ("GET", "/nothing".to_owned(), vec![], "", 404),
        ("GET", "/api/v1/nothing".to_owned(), vec![], "", 404),
        ("GET", "/assets/nothing.js".to_owned(), vec![], "", 404),
        ("GET", "/assets/../Cargo.toml".to_owned(), vec![], "", 404),
        (
            "GET",
            "/assets/%2e%2e/Cargo.toml".to_owned(),
            vec![],
            "",
            404,
        ),
        ("PUT", "/sessions".to_owned(), vec![], "", 405),
        ("POST", "/health".to_owned(), vec![], "", 405),
        ("POST", "/sessions".to_owned(), vec![json], "{", 400),
        ("POST", "/sessions".to_owned(), vec![json], "[]", 422),
        (
            "POST",
            "/sessions".to_owned(),
            vec![json],
            r#"{"timeout":"soon"}"#,
            422,
        ),
        (
            "POST",
            "/sessions".to_owned(),
            vec![json],
            r#"{"timeout":0}"#,
            400,
        ),
        (
            "POST",
            "/sessions".to_owned(),
            vec![json],
            r#"{"env":{"A=B":"x"}}"#,
            400,
        ),
        (
            "POST",
            "/sessions".to_owned(),
            vec![json],
            r#"{"template":"none"}"#,
            400,
        ),
        (
            "POST",
            "/sessions".to_owned(),
            vec![("content-type", "text/plain")],
            "{}",
            415,
        ),
        ("POST", "/sessions".to_owned(), vec![json], &large, 413),
        // Without an upgrade.
        ("GET", "/ws".to_owned(), vec![], "", 400),
        ("GET", format!("/sessions/{id}/ws"), vec![], "", 400),
        ("POST", "/ws".to_owned(), vec![], "", 405),
        ("GET", "/sessions/%ff".to_owned(), vec![], "", 400),
        (
            "GET",
            format!("/sessions/{id}?token=a&token=b"),
            vec![],
            "",
            400,
        ),
    ] {
        let (got, answer) = gateway.http(method, &path, &headers, body).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        let answer: Value = serde_json::from_str(&answer)
            .unwrap_or_else(|_| panic!("{method} {path} {body:.20}: not JSON: {answer}"));
        assert!(answer["error"].is_string(), "{answer}");
        assert!(answer["message"].is_string(), "{answer}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn huge_and_broken_heads_are_refused() {
    let gateway = TestGateway::process().await;
    for (head, status) in [
        (format!("GET /health HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(20_000)), "431"),
        (format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(20_000)), "4"),
        (format!("GET /health HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200)), "431"),
        ("NONSENSE\r\n\r\n".to_owned(), "400"),
        ("GET /health HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n".to_owned(), "400"),
        ("GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n".to_owned(), "400"),
        (
            "POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            "4",
        ),
    ] {
        let mut raw = Raw::connect(&gateway).await;
        raw.send(head.as_bytes()).await;
        let answer = raw.head().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head:.60}: {answer}");
    }
    assert_well(&gateway).await;
    gateway.stop().await;
}

/// A connection counts as long as its socket is open, WebSocket or not.
#[tokio::test]
async fn connections_are_bounded() {
    let mut config = process_config();
    config.limits.max_connections = 2;
    let gateway = TestGateway::with(config).await;
    let first = gateway.visit().await;
    let mut second = gateway.visit().await;
    // It waits in the kernel's queue.
    let mut waiting = Box::pin(gateway.http("GET", "/health", &[], ""));
    let early = timeout(Duration::from_secs(1), &mut waiting).await;
    assert!(early.is_err(), "a third connection was served");
    assert_eq!(second.run("echo well").await, "well\n[0]");
    drop(first);
    assert_eq!(waiting.await.0, 200);
    drop(second);
    gateway.stop().await;
}

/// A refusal reaches its client although he goes on sending: his connection is not reset.
#[tokio::test]
async fn a_refusal_is_not_lost_under_what_follows() {
    let gateway = TestGateway::process().await;
    let mut raw = Raw::visit(&gateway).await;
    raw.send(&frame(FIN | BINARY, &vec![b'x'; 200 * 1024]))
        .await;
    let (told, code) = raw.farewell().await;
    assert_eq!(
        (told["code"].as_str(), code),
        (Some("message_too_big"), 1009)
    );
    raw.assert_not_reset().await;
    let mut raw = Raw::connect(&gateway).await;
    let head = "POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 300000\r\n\r\n";
    raw.send(head.as_bytes()).await;
    raw.send(&vec![b'x'; 300_000]).await;
    let answer = raw.head().await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    raw.assert_not_reset().await;
    gateway.stop().await;
}
