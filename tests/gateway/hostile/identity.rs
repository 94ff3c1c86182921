//! Addresses, origins and ids that are somebody else's.

use belljar::config::Config;
use futures::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Client, Heard, TestGateway, process_config, visits};

use super::{V1, error, refusal, told_why};

visits! {
    on processes, cluster: {
        an_id_alone_opens_nothing,
        a_ping_may_come_before_the_token,
    }
}

async fn concurrent(gateway: &TestGateway, forwarded: &str) -> Result<Client, (String, u16)> {
    let headers = [V1, ("x-forwarded-for", forwarded)];
    let client = gateway.connect_with("/ws", &headers).await;
    let mut client = client.expect("a belljar.v1 client is always accepted");
    match client.hear().await {
        Heard::Told(ready) if ready["type"] == "ready" => Ok(client),
        Heard::Told(told) => {
            let code = told["code"].as_str().expect("a code").to_owned();
            Err((code, client.closed().await))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stranger_cannot_choose_his_address() {
    let mut config = process_config();
    config.limits.concurrent_sessions = 1;
    config.trusted_proxies.clear();
    let gateway = TestGateway::with(config).await;
    let held = concurrent(&gateway, "192.0.2.1").await;
    assert!(held.is_ok());
    for forged in [
        "192.0.2.2",
        "2001:db8::1",
        "127.0.0.1",
        "",
        "nonsense, 192.0.2.3",
    ] {
        let refused = concurrent(&gateway, forged).await.err();
        assert_eq!(refused, Some(error("rate_limited", 4029)), "{forged}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_its_visitors_are_not() {
    let mut config = process_config();
    config.limits.concurrent_sessions = 1;
    config.trusted_proxies = vec![
        "127.0.0.1/32".parse().unwrap(),
        "10.0.0.0/8".parse().unwrap(),
    ];
    let gateway = TestGateway::with(config).await;
    // The visitor's own words stand left of what the proxies wrote.
    let held = concurrent(&gateway, "192.0.2.1, 10.1.1.1").await;
    assert!(held.is_ok());
    for forged in [
        "203.0.113.9, 192.0.2.1",
        "203.0.113.9, 192.0.2.1, 10.1.1.2",
        "192.0.2.1:4711",
    ] {
        let refused = concurrent(&gateway, forged).await.err();
        assert_eq!(refused, Some(error("rate_limited", 4029)), "{forged}");
    }
    let other = concurrent(&gateway, "192.0.2.1, 192.0.2.2").await;
    assert!(other.is_ok());
    let subscriber = concurrent(&gateway, "2001:db8::1").await;
    assert!(subscriber.is_ok());
    let same = concurrent(&gateway, "[2001:db8::2]:99").await.err();
    assert_eq!(same, Some(error("rate_limited", 4029)));
    drop((held, other, subscriber));
    gateway.stop().await;
}

#[tokio::test]
async fn a_page_of_another_site_is_refused() {
    let mut config = process_config();
    config.allowed_origins = vec!["https://tutorials.example.com".into()];
    let gateway = TestGateway::with(config).await;
    let holder = gateway.visit().await;
    let own = format!("http://{}", gateway.address);
    let attach = format!("/sessions/{}/ws?token={}", holder.session, holder.token);
    for wrong in [
        "https://evil.example",
        "https://tutorials.example.com.evil.example",
        "http://tutorials.example.com",
        "https://tutorials.example.com:8443",
        "null",
        "file://",
        "",
        "http://127.0.0.1",
    ] {
        for path in ["/ws", &attach] {
            let client = gateway.connect_with(path, &[V1, ("origin", wrong)]).await;
            let why = told_why(client.expect("accepted, to be told")).await;
            assert_eq!(why, error("origin_refused", 4003), "{wrong} {path}");
            let refused = gateway.connect_with(path, &[("origin", wrong)]).await;
            let (status, body) = refusal(refused);
            assert_eq!(
                (status, body["error"].as_str()),
                (403, Some("origin_refused"))
            );
        }
        let (status, body) = gateway
            .json("POST", "/sessions", &[("origin", wrong)], json!({}))
            .await;
        assert_eq!(
            (status, body["error"].as_str()),
            (403, Some("origin_refused"))
        );
    }
    for right in ["https://tutorials.example.com", &own] {
        let client = gateway.connect_with("/ws", &[V1, ("origin", right)]).await;
        client.expect("accepted").ready().await;
        let (status, _) = gateway
            .json("POST", "/sessions", &[("origin", right)], json!({}))
            .await;
        assert_eq!(status, 201, "{right}");
    }
    gateway.stop().await;
}

pub async fn an_id_alone_opens_nothing(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut victim = gateway.visit().await;
    let thief = gateway.visit().await;
    let id = victim.session.clone();
    let wrong = ["x", &thief.token, &victim.token[1..], &id];

    for token in wrong {
        let client = gateway.resume(&id, token, Some(0)).await;
        assert_eq!(told_why(client).await, error("token_refused", 4003));
        let path = format!("/sessions/{id}/ws?token={token}");
        let client = gateway.connect(&path).await;
        assert_eq!(told_why(client).await, error("token_refused", 4003));
        let (status, body) = refusal(gateway.connect_with(&path, &[]).await);
        assert_eq!(
            (status, body["error"].as_str()),
            (403, Some("token_refused"))
        );
        let bearer = format!("Bearer {token}");
        for (method, path) in [
            ("GET", format!("/sessions/{id}")),
            ("DELETE", format!("/sessions/{id}")),
            ("POST", format!("/sessions/{id}/destroy")),
            ("DELETE", format!("/api/v1/sessions/{id}")),
        ] {
            let headers = [("authorization", bearer.as_str())];
            let (status, body) = gateway.json(method, &path, &headers, Value::Null).await;
            assert_eq!(
                (status, body["error"].as_str()),
                (403, Some("token_refused"))
            );
            let path = format!("{path}?token={token}");
            let (status, _) = gateway.json(method, &path, &[], Value::Null).await;
            assert_eq!(status, 403, "{method} {path}");
        }
    }

    // Anything but an attach with the token, first.
    for first in [
        json!({"type": "attach"}),
        json!({"type": "ping", "id": 1}),
        json!({"type": "close"}),
        json!({"type": "attach", "token": 5}),
    ] {
        let mut client = gateway.connect(&format!("/sessions/{id}/ws")).await;
        client.send(first).await;
        assert_eq!(told_why(client).await, error("token_refused", 4003));
    }
    let mut client = gateway.connect(&format!("/sessions/{id}/ws")).await;
    client.input("id\r").await;
    assert_eq!(told_why(client).await, error("token_refused", 4003));

    // Without any token at all.
    let (status, body) = refusal(
        gateway
            .connect_with(&format!("/sessions/{id}/ws"), &[])
            .await,
    );
    assert_eq!(
        (status, body["error"].as_str()),
        (401, Some("token_refused"))
    );
    for method in ["GET", "DELETE"] {
        let path = format!("/sessions/{id}");
        let (status, body) = gateway.json(method, &path, &[], Value::Null).await;
        assert_eq!(
            (status, body["error"].as_str()),
            (401, Some("token_refused"))
        );
    }

    // Ids that are not there.
    let absent = format!("sess_{}", "0".repeat(32));
    for id in [&absent, "x", "..%2f..", "%00"] {
        let client = gateway.connect(&format!("/sessions/{id}/ws")).await;
        assert_eq!(
            told_why(client).await,
            error("no_such_session", 4004),
            "{id}"
        );
        let path = format!("/sessions/{id}/ws?token={}", thief.token);
        let (status, body) = refusal(gateway.connect_with(&path, &[]).await);
        assert_eq!(
            (status, body["error"].as_str()),
            (404, Some("no_such_session")),
            "{id}"
        );
        for method in ["GET", "DELETE"] {
            let path = format!("/sessions/{id}?token={}", thief.token);
            let (status, body) = gateway.json(method, &path, &[], Value::Null).await;
            assert_eq!(
                (status, body["error"].as_str()),
                (404, Some("no_such_session")),
                "{id}"
            );
        }
    }

    // The victim has noticed nothing.
    assert_eq!(victim.run("echo mine").await, "mine\n[0]");
    assert!(victim.told.is_empty(), "{:?}", victim.told);
    gateway.stop().await;
}

/// A WebSocket ping is not a message: proxies and libraries send them when they like.
pub async fn a_ping_may_come_before_the_token(config: Config) {
    let gateway = TestGateway::with(config).await;
    let holder = gateway.visit().await;
    let mut client = gateway
        .connect(&format!("/sessions/{}/ws", holder.session))
        .await;
    client
        .socket
        .send(Message::Ping(vec![1].into()))
        .await
        .unwrap();
    client
        .send(json!({"type": "attach", "token": holder.token}))
        .await;
    client.ready().await;
    gateway.stop().await;
}
