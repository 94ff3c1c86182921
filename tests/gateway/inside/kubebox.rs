//! Kubebox's sessions and its Socket.IO, without its client.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::{connect, next, say};
use crate::harness::{Client, TestGateway, process_config};

const SOCKET: &str = "/socket.io/?EIO=4&transport=websocket";

/// A session's directory is below its home, which is this machine's own here.
async fn gateway() -> TestGateway {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "belljar-kubebox-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let mut config = process_config();
    let template = config.templates.get_mut("base").expect("there is a base");
    template.home = std::env::temp_dir().join(name).display().to_string();
    TestGateway::with(config).await
}

async fn post(gateway: &TestGateway, path: &str, body: Value) -> (u16, Value) {
    gateway.json("POST", path, &[], body).await
}

async fn packet(client: &mut Client) -> String {
    match next(client).await {
        Some(Message::Text(text)) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The next event, and what it is about.
async fn event(client: &mut Client) -> (String, Value) {
    let packet = packet(client).await;
    let event = packet
        .strip_prefix("42")
        .unwrap_or_else(|| panic!("{packet}"));
    serde_json::from_str(event).expect("a name and an argument")
}

async fn emit(client: &mut Client, name: &str, about: Value) {
    say(client, Message::text(format!("42{}", json!([name, about])))).await;
}

async fn socket(gateway: &TestGateway) -> Client {
    let mut client = connect(gateway, SOCKET).await;
    assert!(packet(&mut client).await.starts_with("0{"));
    say(&mut client, Message::text("40")).await;
    assert!(packet(&mut client).await.starts_with("40{"));
    client
}

#[tokio::test]
async fn a_session_is_a_sandbox_by_its_name() {
    let gateway = gateway().await;
    let body = json!({"session_id": "one", "path": "workspace"});
    for _ in 0..2 {
        let (status, made) = post(&gateway, "/initialize", body.clone()).await;
        assert_eq!(
            (status, made["session_id"].as_str()),
            (200, Some("one")),
            "{made}"
        );
    }
    assert_eq!(gateway.app.fleet.held(), 1);
    let command =
        json!({"session_id": "one", "command": "pwd; echo e >&2; exit 3", "mode": "wait"});
    let (status, said) = post(&gateway, "/run_command", command).await;
    assert_eq!(
        (status, &said["exit_code"], &said["stderr"]),
        (200, &json!(3), &json!("e\n"))
    );
    assert!(
        said["stdout"]
            .as_str()
            .expect("text")
            .ends_with("/workspace\n"),
        "{said}"
    );
    let file =
        json!({"session_id": "one", "file_path": "a/b.py", "content": "ä", "make_dirs": true});
    assert_eq!(post(&gateway, "/write_file", file).await.0, 200);
    let ask = async |path: &str| gateway.json("GET", path, &[], Value::Null).await;
    let query = "?session_id=one&file_path=a/b.py";
    assert_eq!(
        ask(&format!("/read_file{query}")).await,
        (200, json!({"content": "ä"}))
    );
    assert_eq!(ask(&format!("/get_file{query}")).await.0, 200);
    assert_eq!(
        ask(&format!("/file_exists{query}")).await,
        (200, json!({"exists": true}))
    );
    assert_eq!(ask("/file_exists?session_id=one&file_path=c").await.0, 404);
    assert_eq!(
        ask("/get_all_file_paths?session_id=one").await,
        (200, json!(["a/b.py"]))
    );
    let none = "/get_all_file_paths?session_id=one&regexes=%5C.rs%24";
    assert_eq!(ask(none).await, (200, json!([])));
    let file = json!({"session_id": "one", "file_path": "a"});
    assert_eq!(post(&gateway, "/delete_file", file).await.0, 200);
    assert_eq!(
        ask("/get_all_file_paths?session_id=one").await,
        (200, json!([]))
    );
    for (path, body, status, said) in [
        ("/initialize", json!({"session_id": ""}), 400, "session_id"),
        (
            "/initialize",
            json!({"session_id": "two", "path": "../.."}),
            400,
            "cwd",
        ),
        (
            "/run_command",
            json!({"session_id": "none", "command": "true"}),
            404,
            "no_session",
        ),
        (
            "/kill_command",
            json!({"session_id": "one"}),
            400,
            "process_id",
        ),
        (
            "/write_file",
            json!({"session_id": "one", "file_path": "x"}),
            400,
            "content",
        ),
    ] {
        let (told, answer) = post(&gateway, path, body).await;
        assert_eq!(
            (told, answer.to_string().contains(said)),
            (status, true),
            "{path}: {answer}"
        );
    }
    gateway.stop().await;
}

#[tokio::test]
async fn what_programs_say_comes_as_events() {
    let gateway = gateway().await;
    let mut client = socket(&gateway).await;
    post(
        &gateway,
        "/initialize",
        json!({"session_id": "one", "path": "w"}),
    )
    .await;
    emit(&mut client, "initialize", json!({"session_id": "one"})).await;
    assert_eq!(event(&mut client).await.0, "initialized");
    let mut processes = Vec::new();
    for n in 0..3 {
        let command = json!({"session_id": "one", "command": format!("echo out{n}; echo err{n} >&2; exit {n}"), "mode": "stream"});
        let (_, started) = post(&gateway, "/run_command", command).await;
        processes.push(started["process_id"].as_u64().expect("a number"));
    }
    for process in &processes {
        let about = json!({"session_id": "one", "process_id": process});
        emit(&mut client, "start_command_stream", about).await;
    }
    let mut said = vec![(String::new(), String::new(), None); 3];
    while said.iter().any(|(.., exit)| exit.is_none()) {
        let (name, about) = event(&mut client).await;
        let process = about["process_id"].as_u64();
        let at = processes
            .iter()
            .position(|p| Some(*p) == process)
            .expect("one of them");
        match (name.as_str(), about["type"].as_str()) {
            ("command_output", Some("stdout")) => {
                said[at].0 += about["output"].as_str().expect("text");
            }
            ("command_output", Some("stderr")) => {
                said[at].1 += about["output"].as_str().expect("text");
            }
            ("command_exit", None) => said[at].2 = about["exit_code"].as_u64(),
            other => panic!("{other:?}"),
        }
    }
    for (n, said) in said.into_iter().enumerate() {
        assert_eq!(
            said,
            (format!("out{n}\n"), format!("err{n}\n"), Some(n as u64))
        );
    }
    let command = json!({"session_id": "one", "command": "sleep 1000", "mode": "background"});
    let (_, started) = post(&gateway, "/run_command", command).await;
    let about = json!({"session_id": "one", "process_id": started["process_id"]});
    emit(&mut client, "check_status", about.clone()).await;
    assert_eq!(event(&mut client).await.1["running"], true);
    let (_, killed) = post(&gateway, "/kill_command", about.clone()).await;
    assert_eq!(killed, json!({"status": "killed", "exit_code": 137}));
    emit(&mut client, "check_status", about.clone()).await;
    assert_eq!(event(&mut client).await.1["running"], false);
    assert_eq!(
        post(&gateway, "/kill_command", about).await.1["status"],
        "not found"
    );
    // What is nobody's, and what is no event.
    for (name, about) in [
        (
            "start_command_stream",
            json!({"session_id": "none", "process_id": 1}),
        ),
        (
            "start_command_stream",
            json!({"session_id": "one", "process_id": 99}),
        ),
        ("start_command_stream", json!({"session_id": "one"})),
        ("nothing", json!({})),
        ("initialize", json!([1])),
    ] {
        emit(&mut client, name, about).await;
        assert_eq!(event(&mut client).await.0, "command_error", "{name}");
    }
    say(&mut client, Message::text("41")).await;
    gateway.stop().await;
}

#[tokio::test]
async fn sockets_that_are_none_are_refused() {
    let gateway = gateway().await;
    for path in [
        "/socket.io/?EIO=3&transport=websocket",
        "/socket.io/?EIO=4&transport=polling",
    ] {
        let refused = gateway.connect_with(path, &[]).await.map(|_| ());
        assert!(
            matches!(refused, Err(WsError::Http(r)) if r.status() == 400),
            "{path}"
        );
    }
    let foreign = [("origin", "https://evil.example")];
    let refused = gateway.connect_with(SOCKET, &foreign).await.map(|_| ());
    assert!(matches!(refused, Err(WsError::Http(r)) if r.status() == 403));
    for bad in ["x", "40/admin,", "42[\"initialize\",{}]", "451-[\"x\"]"] {
        let mut client = connect(&gateway, SOCKET).await;
        packet(&mut client).await;
        say(&mut client, Message::text(bad)).await;
        assert!(
            matches!(next(&mut client).await, Some(Message::Close(Some(_)))),
            "{bad}"
        );
    }
    // One that has gone away with its gateway is no reason to stay.
    let _client = socket(&gateway).await;
    gateway.stop().await;
}
