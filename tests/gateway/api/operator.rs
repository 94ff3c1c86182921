//! The operators' routes: an admin, a plain key, a stranger, and this machine without keys.

use belljar::config::Config;
use belljar::fleet::{Caller, Reason};
use belljar::keys::Scope;
use serde_json::{Value, json};

use super::auth::Ring;
use crate::harness::{Client, TestGateway, process_config};

const ROOT: &str = "/api/v1/operator";

async fn ask(gateway: &TestGateway, key: &str, method: &str, path: &str) -> (u16, Value) {
    let path = format!("{ROOT}{path}");
    let key = [("x-api-key", key)];
    gateway.json(method, &path, &key, Value::Null).await
}

fn with_keys(ring: &Ring) -> Config {
    let mut config = process_config();
    config.api.keys_file.clone_from(&ring.path);
    config
}

/// The session of a visitor in the list.
async fn listed(gateway: &TestGateway, key: &str, session: &str) -> Value {
    let (status, list) = ask(gateway, key, "GET", "/sessions").await;
    assert_eq!(status, 200, "{list}");
    let sessions = list["sessions"].as_array().expect("a list").clone();
    let found = sessions.into_iter().find(|one| one["id"] == session);
    found.unwrap_or_else(|| panic!("{session} is not in {list}"))
}

/// The way in for an operator who watches a visitor's session, and the share to take back.
async fn watch(gateway: &TestGateway, key: &str, visitor: &Client) -> (Client, String) {
    let path = format!("/sessions/{}/watch", visitor.session);
    let (status, way) = ask(gateway, key, "POST", &path).await;
    assert_eq!(status, 201, "{way}");
    let token = way["token"].as_str().expect("a token");
    let mut watcher = gateway.resume(&visitor.session, token, None).await;
    let ready = watcher.ready().await;
    assert_eq!(ready["readOnly"], true);
    (watcher, way["share"].as_str().expect("an id").to_owned())
}

#[tokio::test]
async fn only_an_admin_gets_anything() {
    let ring = Ring::new("operators");
    let (admin, plain) = (
        ring.add(Scope::Admin, None),
        ring.add(Scope::Sandboxes, None),
    );
    let gateway = TestGateway::with(with_keys(&ring)).await;
    let visitor = gateway.visit().await;
    let session = format!("/sessions/{}", visitor.session);
    for (method, path) in [
        ("GET", "/overview"),
        ("GET", "/usage"),
        ("GET", "/sessions"),
        ("GET", "/sandboxes/ended"),
        ("GET", session.as_str()),
        ("POST", &format!("{session}/watch")),
        ("DELETE", &format!("{session}/watch/share_0")),
        ("DELETE", session.as_str()),
    ] {
        let (status, told) = ask(&gateway, &plain, method, path).await;
        assert_eq!((status, &told["error"]), (403, &json!("scope_missing")));
        let whole = format!("{ROOT}{path}");
        let (status, told) = gateway.json(method, &whole, &[], Value::Null).await;
        assert_eq!((status, &told["error"]), (401, &json!("key_missing")));
        let token = [("authorization", format!("Bearer {}", visitor.token))];
        let token = [(token[0].0, token[0].1.as_str())];
        let (status, _) = gateway.json(method, &whole, &token, Value::Null).await;
        assert_eq!(status, 403, "a visitor's own token is no key");
        // One address, so that a proxy can close it.
        for root in ["", "/api"] {
            let elsewhere = format!("{root}/operator{path}");
            let key = [("x-api-key", admin.as_str())];
            let (status, _) = gateway.json(method, &elsewhere, &key, Value::Null).await;
            assert_eq!(status, 404, "{elsewhere}");
        }
    }
    assert_eq!(
        listed(&gateway, &admin, &visitor.session).await["viewers"],
        0
    );
    gateway.stop().await;
}

#[tokio::test]
async fn without_keys_this_machine_is_the_operator_and_nobody_else() {
    let gateway = TestGateway::process().await;
    let path = format!("{ROOT}/overview");
    assert_eq!(gateway.http("GET", &path, &[], "").await.0, 200);
    for header in [
        ("x-forwarded-for", "192.0.2.1"),
        ("origin", "http://evil.example"),
        ("sec-fetch-site", "cross-site"),
    ] {
        assert_eq!(gateway.http("GET", &path, &[header], "").await.0, 403);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn sessions_are_listed_while_they_live_and_after_with_their_reason() {
    let ring = Ring::new("operators-list");
    let admin = ring.add(Scope::Admin, None);
    let gateway = TestGateway::with(with_keys(&ring)).await;
    let mut gone = gateway.visit().await;
    gone.send(json!({"type": "close"})).await;
    gone.closed().await;
    let here = gateway.visit().await;
    let (status, list) = ask(&gateway, &admin, "GET", "/sessions").await;
    assert_eq!((status, &list["total"]), (200, &json!(2)));
    let [live, ended] = [0, 1].map(|at| &list["sessions"][at]);
    assert_eq!(live["id"], here.session);
    assert_eq!(
        (&live["state"], &live["template"]),
        (&json!("attached"), &json!("base"))
    );
    assert_eq!(
        (&live["client"], &live["recorded"]),
        (&json!("127.0.0.1"), &json!(false))
    );
    assert!(live["idleMs"].is_u64() && live["reason"].is_null() && live["endedAt"].is_null());
    assert_eq!(ended["id"], gone.session);
    assert_eq!(
        (&ended["state"], &ended["reason"]),
        (&json!("ended"), &json!("closed"))
    );
    assert!(ended["endedAt"].as_str() >= ended["createdAt"].as_str());
    for secret in [&here.token, &gone.token] {
        assert!(!list.to_string().contains(secret.as_str()));
    }
    let (_, first) = ask(&gateway, &admin, "GET", "/sessions?limit=1").await;
    assert_eq!(first["sessions"].as_array().map(Vec::len), Some(1));
    assert_eq!(first["sessions"][0]["id"], here.session);
    assert_eq!(first["total"], 2, "and says that there are more");
    for limit in ["0", "1001", "-1", "x", ""] {
        let (status, told) =
            ask(&gateway, &admin, "GET", &format!("/sessions?limit={limit}")).await;
        assert_eq!((status, &told["field"]), (400, &json!("limit")), "{limit}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn sandboxes_that_ended_are_listed_with_their_reason() {
    let ring = Ring::new("operators-ended");
    let (admin, plain) = (
        ring.add(Scope::Admin, None),
        ring.add(Scope::Sandboxes, None),
    );
    let gateway = TestGateway::with(with_keys(&ring)).await;
    let plain = [("x-api-key", plain.as_str())];
    let make = async |timeout: u64| {
        let order = json!({"timeout": timeout});
        let (status, one) = gateway.json("POST", "/sandboxes", &plain, order).await;
        assert_eq!(status, 201, "{one}");
        one["id"].as_str().expect("an id").to_owned()
    };
    // The key is for one at a time.
    let short = make(1).await;
    let held = gateway.app.fleet.find(&short, &Caller::local());
    assert_eq!(held.expect("it").ended().await, Reason::Timeout);
    let killed = make(600).await;
    let path = format!("/sandboxes/{killed}");
    assert_eq!(gateway.http("DELETE", &path, &plain, "").await.0, 204);
    // Its program finds it no more, and the operator learns what became of it.
    let (status, _) = gateway.json("GET", &path, &plain, Value::Null).await;
    assert_eq!(status, 404);
    let lives = make(600).await;
    let (status, ended) = ask(&gateway, &admin, "GET", "/sandboxes/ended").await;
    assert_eq!(status, 200, "{ended}");
    let told = |at: usize| [&ended[at]["id"], &ended[at]["reason"]];
    assert_eq!(told(0), [&json!(killed), &json!("killed")]);
    assert_eq!(told(1), [&json!(short), &json!("timeout")]);
    assert_eq!(ended.as_array().map(Vec::len), Some(2), "{lives} lives");
    let owner = ended[0]["owner"].as_str().expect("an owner");
    assert!(owner.starts_with("key "), "{owner}");
    assert!(ended[0]["endedAt"].as_str() >= ended[0]["createdAt"].as_str());
    let (_, first) = ask(&gateway, &admin, "GET", "/sandboxes/ended?limit=1").await;
    assert_eq!(first.as_array().map(Vec::len), Some(1));
    let (status, told) = ask(&gateway, &admin, "GET", "/sandboxes/ended?limit=0").await;
    assert_eq!((status, &told["field"]), (400, &json!("limit")));
    gateway.stop().await;
}

#[tokio::test]
async fn a_visitor_is_told_that_the_operator_ended_the_session() {
    let ring = Ring::new("operators-end");
    let admin = ring.add(Scope::Admin, None);
    let gateway = TestGateway::with(with_keys(&ring)).await;
    let mut visitor = gateway.visit().await;
    let path = format!("/sessions/{}", visitor.session);
    let (status, ended) = ask(&gateway, &admin, "DELETE", &path).await;
    assert_eq!(
        (status, &ended["reason"]),
        (200, &json!("ended_by_operator"))
    );
    let exit = visitor.told("exit").await;
    assert_eq!(exit["reason"], "ended_by_operator");
    assert_eq!(exit["message"], "The session was ended by the operator.");
    assert_eq!(visitor.closed().await, 1000);
    gateway.assert_empty().await;
    // Whoever comes back is told, too; and it keeps its reason.
    let mut late = gateway.resume(&visitor.session, &visitor.token, None).await;
    assert_eq!(late.told("exit").await["reason"], "ended_by_operator");
    let (status, again) = ask(&gateway, &admin, "DELETE", &path).await;
    assert_eq!(
        (status, &again["reason"]),
        (200, &json!("ended_by_operator"))
    );
    let (_, overview) = ask(&gateway, &admin, "GET", "/overview").await;
    assert_eq!(overview["sessionsEnded"], json!({"ended_by_operator": 1}));

    for (method, path) in [
        ("GET", "/sessions/sess_0"),
        ("DELETE", "/sessions/sess_0"),
        ("POST", "/sessions/sess_0/watch"),
        ("DELETE", "/sessions/sess_0/watch/share_0"),
        ("POST", &format!("{path}/watch")),
    ] {
        let (status, told) = ask(&gateway, &admin, method, path).await;
        assert_eq!(
            (status, &told["error"]),
            (404, &json!("no_such_session")),
            "{path}"
        );
    }
    gateway.stop().await;
}

#[tokio::test]
async fn an_operator_watches_and_the_visitor_knows() {
    let ring = Ring::new("operators-watch");
    let admin = ring.add(Scope::Admin, None);
    let gateway = TestGateway::with(with_keys(&ring)).await;
    let mut visitor = gateway.visit().await;
    visitor.run("echo before").await;
    let (mut watcher, share) = watch(&gateway, &admin, &visitor).await;
    watcher.until("before\r\n").await;
    assert_eq!(visitor.told("viewers").await["count"], 1);
    assert_eq!(
        listed(&gateway, &admin, &visitor.session).await["viewers"],
        1
    );
    for keys in ["touch /tmp/never\r", "exit\r", "\x03"] {
        watcher.input(keys).await;
    }
    assert_eq!(watcher.told("notice").await["code"], "read_only");
    assert_eq!(visitor.run("echo after").await, "after\n[0]");
    // The visitor sees whose share it is, and neither its token nor how to come by it.
    let path = format!(
        "/sessions/{}/shares?token={}",
        visitor.session, visitor.token
    );
    let (_, shares) = gateway.json("GET", &path, &[], Value::Null).await;
    assert_eq!(shares["shares"][0]["share"], share.as_str());
    assert_eq!(shares["shares"][0]["operator"], true);

    let path = format!("/sessions/{}/watch/{share}", visitor.session);
    for _ in 0..2 {
        assert_eq!(ask(&gateway, &admin, "DELETE", &path).await.0, 204);
    }
    assert_eq!(watcher.closed().await, 4003);
    assert_eq!(visitor.told("viewers").await["count"], 0);
    let (_, shares) = gateway
        .json(
            "GET",
            &format!(
                "/sessions/{}/shares?token={}",
                visitor.session, visitor.token
            ),
            &[],
            Value::Null,
        )
        .await;
    assert_eq!(shares, json!({"shares": []}));
    gateway.stop().await;
}

#[tokio::test]
async fn what_sandboxes_use_is_told_of_visitors_and_programs() {
    let gateway = TestGateway::process().await;
    let visitor = gateway.visit().await;
    let held = super::made(&gateway, json!({})).await;
    let (status, usage) = ask(&gateway, "", "GET", "/usage").await;
    assert_eq!(status, 200, "{usage}");
    let usage = usage.as_array().expect("a list");
    for id in [&visitor.session, &held] {
        let one = usage.iter().find(|one| one["id"] == id.as_str());
        let one = one.unwrap_or_else(|| panic!("{id} is not in {usage:?}"));
        assert!(
            one["cpuMs"].is_u64() && one["memoryBytes"].as_u64() > Some(0),
            "{one}"
        );
    }
    assert_eq!(usage.len(), 2);
    gateway.stop().await;
}

#[tokio::test]
async fn the_overview_counts_what_there_is() {
    let mut config = process_config();
    config.limits.max_sandboxes = 2;
    config.limits.queue_length = 1;
    let gateway = TestGateway::with(config).await;
    let visitor = gateway.visit().await;
    super::made(&gateway, json!({})).await;
    let mut waiting = gateway.connect("/ws").await;
    waiting.told("queued").await;
    let mut refused = gateway.connect("/ws").await;
    assert_eq!(refused.told("error").await["code"], "at_capacity");
    let (status, overview) = ask(&gateway, "", "GET", "/overview").await;
    assert_eq!(status, 200, "{overview}");
    for (pointer, value) in [
        ("/places", json!({"taken": 2, "max": 2})),
        ("/line", json!({"waiting": 1, "max": 1})),
        ("/engine", json!({"state": "ready"})),
        ("/sealed", json!(false)),
        ("/doorClosed", json!(null)),
        ("/sessions", json!({"attached": 1})),
        ("/sandboxes", json!({"running": 1})),
        ("/pools", json!([])),
        ("/refusals", json!({"at_capacity": 1})),
        ("/starts/count", json!(2)),
    ] {
        assert_eq!(
            overview.pointer(pointer),
            Some(&value),
            "{pointer} of {overview}"
        );
    }
    assert!(overview["starts"]["p95Ms"].as_f64() > Some(0.0));
    drop((visitor, waiting));
    gateway.stop().await;
}

/// A page's WebSocket can set no header, and its key must not stand in an address.
#[tokio::test]
async fn a_pages_socket_offers_its_key_as_a_subprotocol() {
    let ring = Ring::new("operators-socket");
    let admin = ring.add(Scope::Admin, None);
    let gateway = TestGateway::with(with_keys(&ring)).await;
    let key = [("x-api-key", admin.as_str())];
    let (status, made) = gateway
        .json("POST", "/api/v1/sandboxes", &key, json!({}))
        .await;
    assert_eq!(status, 201, "{made}");
    let sandbox = format!("/api/v1/sandboxes/{}", made["id"].as_str().expect("an id"));
    let (status, pty) = gateway
        .json("POST", &format!("{sandbox}/pty"), &key, json!({}))
        .await;
    assert_eq!(status, 201, "{pty}");
    let path = format!("{sandbox}/pty/{}", pty["id"].as_str().expect("an id"));
    let offer = format!("belljar.pty, belljar.key.{admin}");
    let mut terminal = gateway
        .connect_with(&path, &[("sec-websocket-protocol", &offer)])
        .await
        .expect("it is let in");
    terminal.acknowledge = false;
    terminal.input("echo $((40 + 2))\r").await;
    terminal.until("42\r\n").await;
    let wrong = "belljar.pty, belljar.key.blj_0123456789ab_00";
    let wrong = [("sec-websocket-protocol", wrong)];
    assert!(gateway.connect_with(&path, &wrong).await.is_err());
    gateway.stop().await;
}
