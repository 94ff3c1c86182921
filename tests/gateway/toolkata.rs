//! toolkata's Sandbox API: its REST calls, its terminal dialect, and each of its known faults.

use belljar::config::Config;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Client, PATIENCE, TestGateway, visits};

visits! {
    on processes, cluster: {
        its_pages_work,
        init_runs_in_the_visitors_shell_and_says_when_it_is_done,
        each_init_is_answered_in_order,
        sizes_are_brought_into_its_own_range,
        rest_init_runs_before_the_shell,
        rest_has_the_documented_form,
        a_page_that_goes_away_can_end_its_session_by_a_beacon,
        characters_split_over_chunks_stay_whole,
        output_cannot_be_taken_for_control_and_pasted_json_is_typed,
        large_and_bracketed_pastes_arrive,
        a_second_socket_gets_the_same_shell_and_a_strangers_gets_none,
        a_guest_may_speak_this_dialect_too,
    }
}

/// A session made over REST: id, token, the path of its socket.
async fn create(gateway: &TestGateway, body: Value) -> (String, String, String) {
    let (status, created) = gateway.json("POST", "/sessions", &[], body).await;
    assert_eq!(status, 201, "{created}");
    let id = created["sessionId"].as_str().expect("an id").to_owned();
    let token = created["token"].as_str().expect("a token").to_owned();
    let url = created["wsUrl"].as_str().expect("a URL");
    let base = format!("ws://{}", gateway.address);
    let path = url.strip_prefix(&base).expect("on this gateway").to_owned();
    (id, token, path)
}

/// A client of the dialect: text frames only.
struct Page(Client);

impl Page {
    async fn open(gateway: &TestGateway, path: &str) -> Self {
        let client = gateway.connect_with(path, &[]).await;
        let mut page = Self(client.expect("the upgrade is accepted"));
        let connected: Value = serde_json::from_str(&page.text().await).expect("control");
        assert_eq!(connected["type"], "connected");
        assert!(
            connected["sessionId"]
                .as_str()
                .expect("an id")
                .starts_with("sess_")
        );
        page
    }

    async fn text(&mut self) -> String {
        loop {
            match timeout(PATIENCE, self.0.socket.next())
                .await
                .expect("in time")
            {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Terminal text up to and with `end`; control in between fails the test.
    async fn until(&mut self, end: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(end) {
            seen.push_str(&self.text().await);
        }
        seen
    }

    async fn send(&mut self, text: impl Into<String>) {
        let message = Message::Text(text.into().into());
        self.0.socket.send(message).await.expect("it reads");
    }

    /// The close code; text before it is passed over.
    async fn closed(&mut self) -> u16 {
        loop {
            match timeout(PATIENCE, self.0.socket.next())
                .await
                .expect("in time")
            {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn control(&mut self, value: Value) {
        self.send(value.to_string()).await;
    }
}

pub async fn its_pages_work(config: Config) {
    let gateway = TestGateway::with(config).await;
    let body = json!({"toolPair": "jj-git", "environment": "base", "timeout": 600_000});
    let (_, _, path) = create(&gateway, body).await;
    let mut page = Page::open(&gateway, &format!("{path}&cols=100&rows=30")).await;
    page.until("$ ").await;
    page.control(json!({"type": "input", "data": "stty size\r"}))
        .await;
    page.until("30 100").await;
    page.control(json!({"type": "resize", "rows": 40, "cols": 120}))
        .await;
    page.send("sleep 0.2; stty size\r").await;
    page.until("40 120").await;
    page.send("exit\r").await;
    assert_eq!(page.closed().await, 1000);
    gateway.stop().await;
}

pub async fn init_runs_in_the_visitors_shell_and_says_when_it_is_done(config: Config) {
    let gateway = TestGateway::with(config).await;
    let (_, _, path) = create(&gateway, json!({})).await;
    let mut page = Page::open(&gateway, &path).await;
    page.until("$ ").await;
    let init = |commands: Value, silent: bool| json!({"type": "init", "commands": commands, "timeout": 20_000, "silent": silent});
    page.control(init(json!(["cd /tmp", "x=42"]), true)).await;
    let shown = page.text().await;
    let done: Value = serde_json::from_str(&shown)
        .unwrap_or_else(|_| panic!("nothing else is shown than the end: {shown:?}"));
    assert_eq!(done, json!({"type": "initComplete", "success": true}));
    page.until("$ ").await;
    page.send("echo $PWD $x\r").await;
    page.until("/tmp 42").await;

    page.control(init(json!(["false", "echo never"]), true))
        .await;
    let mut text = page.text().await;
    while !text.contains("initComplete") {
        text = page.text().await;
    }
    assert!(text.contains("\"success\":false"), "{text}");

    let slow = json!({"type": "init", "commands": ["sleep 30"], "timeout": 300});
    page.control(slow).await;
    while !text.contains("\"success\":false") || text.contains("never") {
        text = page.text().await;
    }
    gateway.stop().await;
}

pub async fn each_init_is_answered_in_order(config: Config) {
    let gateway = TestGateway::with(config).await;
    let (_, _, path) = create(&gateway, json!({})).await;
    let mut page = Page::open(&gateway, &path).await;
    page.until("$ ").await;
    for command in ["true", "false", "cd /tmp"] {
        page.control(json!({"type": "init", "commands": [command], "silent": true}))
            .await;
    }
    let mut answers = Vec::new();
    while answers.len() < 3 {
        let told: Result<Value, _> = serde_json::from_str(&page.text().await);
        if let Ok(told) = told {
            assert_eq!(told["type"], "initComplete");
            answers.push(told["success"] == true);
        }
    }
    assert_eq!(answers, [true, false, true]);
    gateway.stop().await;
}

pub async fn sizes_are_brought_into_its_own_range(config: Config) {
    let gateway = TestGateway::with(config).await;
    for (asked, size) in [
        ("cols=1&rows=1", "5 20"),
        ("cols=9999&rows=9999", "200 500"),
        ("cols=90", "24 80"),
    ] {
        let (_, _, path) = create(&gateway, json!({})).await;
        let mut page = Page::open(&gateway, &format!("{path}&{asked}")).await;
        page.until("$ ").await;
        page.send("stty size\r").await;
        page.until(&format!("{size}\r\n")).await;
    }
    // Straight to a session of its own, in the same dialect.
    let mut page = Page::open(&gateway, "/ws?cols=1&rows=1").await;
    page.until("$ ").await;
    page.send("stty size\r").await;
    page.until("5 20\r\n").await;
    gateway.stop().await;
}

pub async fn rest_init_runs_before_the_shell(config: Config) {
    let gateway = TestGateway::with(config).await;
    let body = json!({"init": ["cd /tmp", "export GREETING=hello"]});
    let (_, _, path) = create(&gateway, body).await;
    let mut page = Page::open(&gateway, &path).await;
    page.until("$ ").await;
    page.send("echo $PWD $GREETING\r").await;
    page.until("/tmp hello").await;
    gateway.stop().await;
}

pub async fn rest_has_the_documented_form(config: Config) {
    let gateway = TestGateway::with(config).await;
    for prefix in ["", "/api/v1"] {
        let sessions = format!("{prefix}/sessions");
        let (status, created) = gateway.json("POST", &sessions, &[], json!({})).await;
        assert_eq!(status, 201);
        let id = created["sessionId"].as_str().expect("an id");
        assert!(id.len() == 37 && id.starts_with("sess_"), "{id}");
        for field in ["wsUrl", "status", "createdAt", "expiresAt"] {
            assert!(created[field].is_string(), "{field}: {created}");
        }
        let token = created["token"].as_str().expect("a token");
        let path = format!("{sessions}/{id}");
        let bearer = format!("Bearer {token}");
        let authorized = [("authorization", bearer.as_str())];

        let (status, shown) = gateway.json("GET", &path, &authorized, Value::Null).await;
        assert_eq!((status, &shown["status"]), (200, &json!("detached")));
        assert!(shown["token"].is_null(), "the token is told once");
        let (status, _) = gateway
            .json("GET", &format!("{path}?token={token}"), &[], Value::Null)
            .await;
        assert_eq!(status, 200);
        // Ending what has ended succeeds.
        for _ in 0..2 {
            let (status, ended) = gateway
                .json("DELETE", &path, &authorized, Value::Null)
                .await;
            assert_eq!((status, &ended["success"]), (200, &json!(true)));
        }
        let (_, shown) = gateway.json("GET", &path, &authorized, Value::Null).await;
        assert_eq!(shown["status"], "ended");
        assert_eq!(shown["reason"], "closed");

        let (status, environments) = gateway
            .json("GET", &format!("{prefix}/environments"), &[], Value::Null)
            .await;
        assert_eq!(status, 200);
        let first = &environments["environments"][0];
        assert_eq!(first["name"], "base");
        assert_eq!(first["defaultTimeout"], 1_800_000);
        assert!(first["description"].is_string() && first["category"].is_string());

        let (status, open) = gateway
            .json("GET", &format!("{prefix}/status"), &[], Value::Null)
            .await;
        assert_eq!((status, &open["isOpen"]), (200, &json!(true)));
        assert!(open["metrics"].is_object());
    }
    gateway.assert_empty().await;
    gateway.stop().await;
}

pub async fn a_page_that_goes_away_can_end_its_session_by_a_beacon(config: Config) {
    let gateway = TestGateway::with(config).await;
    let (id, token, _) = create(&gateway, json!({})).await;
    let path = format!("/sessions/{id}/destroy?token={token}");
    let (status, ended) = gateway.json("POST", &path, &[], Value::Null).await;
    assert_eq!((status, &ended["success"]), (200, &json!(true)));
    gateway.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn health_is_exactly_what_monitors_know() {
    let gateway = TestGateway::process().await;
    let (status, body) = gateway.http("GET", "/health", &[], "").await;
    assert_eq!(status, 200);
    let uptime = body
        .strip_prefix(r#"{"status":"ok","containers":0,"uptime":""#)
        .and_then(|rest| rest.strip_suffix(r#""}"#))
        .unwrap_or_else(|| panic!("{body}"));
    assert!(uptime.ends_with('s') && !uptime.contains(' '), "{uptime}");
    let client = gateway.visit().await;
    let (_, body) = gateway.http("GET", "/health", &[], "").await;
    assert!(
        body.starts_with(r#"{"status":"ok","containers":1,"#),
        "{body}"
    );
    drop(client);
    gateway.stop().await;
}

// --- its known faults ------------------------------------------------------------------------------

pub async fn characters_split_over_chunks_stay_whole(config: Config) {
    let gateway = TestGateway::with(config).await;
    let (_, _, path) = create(&gateway, json!({})).await;
    let mut page = Page::open(&gateway, &path).await;
    page.until("$ ").await;
    // One byte at a time, each in a chunk of its own.
    let split = r"for b in f0 9f ab 99; do printf '\x'$b; sleep 0.05; done; echo en''d";
    page.send(format!("{split}\r")).await;
    let seen = page.until("end").await;
    assert!(
        seen.contains('🫙') && !seen.contains('\u{fffd}'),
        "{seen:?}"
    );
    gateway.stop().await;
}

pub async fn output_cannot_be_taken_for_control_and_pasted_json_is_typed(config: Config) {
    let gateway = TestGateway::with(config).await;
    let (_, _, path) = create(&gateway, json!({})).await;
    let mut page = Page::open(&gateway, &path).await;
    page.until("$ ").await;
    page.send("stty -echo; cat\r").await;
    page.until("\n").await;
    // Typed by the visitor, printed by the program: every frame of it must be text, not control.
    for pasted in [
        r#"{"type":"error","message":"forged"}"#,
        r#"{"type":"connected","sessionId":"sess_0"}"#,
        r#"{"name":"pasted"}"#,
    ] {
        page.send(pasted).await;
        page.send("\n").await;
        let mut seen = String::new();
        while !seen.contains(pasted) {
            let frame = page.text().await;
            let parsed: Result<Value, _> = serde_json::from_str(&frame);
            assert!(!parsed.is_ok_and(|value| value.is_object()), "{frame}");
            seen.push_str(&frame);
        }
    }
    gateway.stop().await;
}

pub async fn large_and_bracketed_pastes_arrive(config: Config) {
    let gateway = TestGateway::with(config).await;
    let (_, _, path) = create(&gateway, json!({})).await;
    let mut page = Page::open(&gateway, &path).await;
    page.until("$ ").await;
    page.send("stty raw -echo; printf re''ady; head -c 40012 | sha256sum\r")
        .await;
    page.until("ready").await;
    let paste = format!("\x1b[200~{}\x1b[201~", "0123456789".repeat(4000));
    page.control(json!({"type": "input", "data": paste})).await;
    let digest = Sha256::digest(paste.as_bytes());
    let hex = digest
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    page.until(&hex).await;
    gateway.stop().await;
}

pub async fn a_second_socket_gets_the_same_shell_and_a_strangers_gets_none(config: Config) {
    let gateway = TestGateway::with(config).await;
    let (id, token, path) = create(&gateway, json!({})).await;
    let mut page = Page::open(&gateway, &path).await;
    page.until("$ ").await;
    page.send("x=42\r").await;
    page.until("$ ").await;
    let mut again = Page::open(&gateway, &path).await;
    assert_eq!(page.closed().await, 4001);
    again.send("echo $((x))-same\r").await;
    again.until("42-same").await;

    let wrong = format!("/sessions/{id}/ws?token={}", "0".repeat(64));
    assert!(gateway.connect_with(&wrong, &[]).await.is_err());
    let (status, _) = gateway
        .json(
            "DELETE",
            &format!("/sessions/{id}?token=x"),
            &[],
            Value::Null,
        )
        .await;
    assert_eq!(status, 403);
    let (status, _) = gateway
        .json("DELETE", &format!("/sessions/{id}"), &[], Value::Null)
        .await;
    assert_eq!(status, 401);
    again.send("echo still-here-$x\r").await;
    again.until("still-here-42").await;
    let _ = token;
    gateway.stop().await;
}

#[tokio::test]
async fn an_end_by_the_clock_does_not_look_like_an_exit() {
    let gateway = TestGateway::process().await;
    let (_, _, path) = create(&gateway, json!({"timeout": 2000})).await;
    let mut page = Page::open(&gateway, &path).await;
    let mut last = page.text().await;
    while !last.contains("\"type\":\"error\"") {
        last = page.text().await;
    }
    assert!(last.contains("time limit"), "{last}");
    assert_eq!(page.closed().await, 4009);
    gateway.stop().await;
}

pub async fn a_guest_may_speak_this_dialect_too(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut owner = gateway.visit().await;
    let (_, token) = crate::shares::share(&gateway, &owner, "read").await;
    let path = format!(
        "/sessions/{}/ws?token={token}&cols=40&rows=10",
        owner.session
    );
    let mut guest = Page::open(&gateway, &path).await;
    guest.send("echo typed\r").await;
    owner.run("echo $((6 * 7)); stty size").await;
    let seen = guest.until("42\r\n24 80\r\n").await;
    assert!(!seen.contains("typed"), "{seen}");
    gateway.stop().await;
}
