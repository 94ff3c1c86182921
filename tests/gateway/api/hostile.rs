//! The client that means harm, or has gone wrong; and the page of another site in a browser of this
//! machine.

use std::net::SocketAddr;
use std::process::Stdio;

use belljar::keys::Scope;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::auth::Ring;
use super::http;
use crate::harness::{PATIENCE, TestGateway, agent, process_config};
use crate::inside::until;

/// A request: method, path below the sandbox, body.
type Ask<'a> = (&'a str, &'a str, &'a str);

/// One of every kind of thing that can be done in a sandbox or with it, its end last.
const EVERYTHING: [Ask; 26] = [
    ("GET", "", ""),
    ("POST", "/timeout", "{\"timeout\": 1}"),
    ("POST", "/actions", "{\"action\": \"stop\"}"),
    ("POST", "/actions", "{\"action\": \"restart\"}"),
    ("GET", "/stats", ""),
    ("GET", "/logs", ""),
    (
        "POST",
        "/commands",
        "{\"command\": \"touch /tmp/belljar-hostile\"}",
    ),
    (
        "POST",
        "/commands",
        "{\"command\": \"true\", \"mode\": \"stream\"}",
    ),
    (
        "POST",
        "/commands",
        "{\"command\": \"true\", \"mode\": \"background\"}",
    ),
    ("POST", "/code", "{\"code\": \"1\"}"),
    ("GET", "/processes", ""),
    ("GET", "/processes/1", ""),
    ("GET", "/processes/1/output", ""),
    ("POST", "/processes/1/signal", "{\"signal\": 9}"),
    ("POST", "/processes/1/stdin", "x"),
    ("DELETE", "/processes/1", ""),
    ("GET", "/files?path=/etc/passwd", ""),
    ("PUT", "/files?path=/tmp/belljar-hostile", "x"),
    ("DELETE", "/files?path=/tmp/belljar-hostile", ""),
    ("GET", "/files/list?path=/", ""),
    ("GET", "/files/watch?path=/", ""),
    ("POST", "/files/move", "{\"from\": \"a\", \"to\": \"b\"}"),
    ("GET", "/files/archive?path=/etc", ""),
    ("POST", "/pty", "{}"),
    ("GET", "/ports/80/", ""),
    ("DELETE", "", ""),
];

async fn ask(
    address: SocketAddr,
    below: &str,
    (method, path, body): Ask<'_>,
    headers: &[(&str, &str)],
) -> http::Answer {
    let mut headers = headers.to_vec();
    if body.starts_with('{') {
        headers.push(("content-type", "application/json"));
    }
    let path = format!("{below}{path}");
    http::send(address, method, &path, &headers, body.as_bytes()).await
}

/// A gateway, and a sandbox of it that works in `/tmp`; the path of what is below that.
async fn begin() -> (TestGateway, String) {
    let mut config = process_config();
    config.limits.connections_per_client = 1000;
    let base = config.templates.get_mut("base").expect("a base");
    base.home = "/tmp".into();
    let gateway = TestGateway::with(config).await;
    let below = crate::inside::sandbox(&gateway).await;
    (gateway, below)
}

#[tokio::test]
async fn a_body_that_makes_no_sense_is_refused() {
    let (gateway, below) = begin().await;
    let address = gateway.address;
    let many: serde_json::Map<_, _> = (0..65).map(|i| (format!("V{i}"), json!(""))).collect();
    let huge = json!({"command": "true", "env": {"V": "x".repeat(60_000)}}).to_string();
    let larger = json!({"command": "true", "stdin": "x".repeat(1 << 20)}).to_string();
    let arguments = json!({"command": vec!["a"; 2000]}).to_string();
    let many = json!({"command": "true", "env": many}).to_string();
    let deep = format!("{{\"command\": {}", "[".repeat(10_000));
    let json = "application/json";
    for (kind, body, status) in [
        (json, "{\"command\": \"true\"", 400),
        (json, "[\"true\"]", 400),
        (json, "\"true\"", 400),
        (json, "null", 400),
        (json, "{\"command\": {}}", 400),
        (json, "{\"command\": 7}", 400),
        (json, "{\"command\": \"a\\u0000b\"}", 400),
        (json, "{\"command\": [\"a\", \"b\\u0000\"]}", 400),
        (json, "{\"command\": \"\"}", 400),
        (json, "{\"command\": []}", 400),
        (
            json,
            "{\"command\": \"true\", \"env\": {\"A=B\": \"c\"}}",
            400,
        ),
        (json, "{\"command\": \"true\", \"env\": {\"\": \"c\"}}", 400),
        (
            json,
            "{\"command\": \"true\", \"env\": {\"A\": \"\\u0000\"}}",
            400,
        ),
        (json, "{\"command\": \"true\", \"timeout\": -1}", 400),
        (json, "{\"command\": \"true\", \"timeout\": 1e300}", 400),
        (json, "{\"command\": \"true\", \"mode\": \"sideways\"}", 400),
        (json, "{\"command\": \"true\", \"cwd\": \"/no/where\"}", 404),
        (json, "{\"command\": \"true\", \"cwd\": \"a\\u0000b\"}", 400),
        (json, "\u{feff}{}", 400),
        (json, &arguments, 400),
        (json, &many, 400),
        (json, &huge, 400),
        (json, &deep, 400),
        (json, &larger, 413),
        ("text/plain", "{\"command\": \"true\"}", 415),
        ("application/x-www-form-urlencoded", "command=true", 415),
        ("multipart/form-data; boundary=x", "--x--", 415),
        ("", "{\"command\": \"true\"}", 415),
    ] {
        let headers = [("content-type", kind)];
        let path = format!("{below}/commands");
        let answer = http::send(address, "POST", &path, &headers, body.as_bytes()).await;
        let start: String = body.chars().take(60).collect();
        assert_eq!(answer.status, status, "{kind} {start}: {}", answer.text());
        assert!(
            answer.head.contains("application/problem+json"),
            "{}",
            answer.head
        );
        assert!(
            answer.json()["error"].is_string(),
            "{start}: {}",
            answer.text()
        );
    }
    // None of them ran, and a good one does.
    let processes = http::get(address, &format!("{below}/processes"))
        .await
        .json();
    assert_eq!(processes, json!([]));
    let command = json!({"command": "cat", "stdin": "x".repeat(60_000)});
    let ran = http::post(address, &format!("{below}/commands"), &command)
        .await
        .json();
    assert_eq!(ran["stdout"].as_str().map(str::len), Some(60_000));
    gateway.stop().await;
}

#[tokio::test]
async fn whoever_is_not_the_owner_finds_nothing() {
    let ring = Ring::new("hostile");
    let keys =
        [Scope::Sandboxes, Scope::Sandboxes, Scope::Admin].map(|scope| ring.add(scope, None));
    let [one, other, admin] = keys.each_ref().map(|key| [("x-api-key", key.as_str())]);
    let mut config = process_config();
    config.api.keys_file.clone_from(&ring.path);
    let base = config.templates.get_mut("base").expect("a base");
    base.home = "/tmp".into();
    let gateway = TestGateway::with(config).await;
    let address = gateway.address;
    let made = http::send(address, "POST", "/api/v1/sandboxes", &one, b"").await;
    assert_eq!(made.status, 201, "{}", made.text());
    let below = format!(
        "/api/v1/sandboxes/{}",
        made.json()["id"].as_str().expect("an id")
    );
    for root in ["/api/v1", "/api", ""] {
        let below = below.replace("/api/v1", root);
        for asked in EVERYTHING {
            let theirs = ask(address, &below, asked, &other).await;
            let refusal = (404, "sandbox_not_found".to_owned());
            assert_eq!(
                theirs.refusal(),
                refusal,
                "{root} {asked:?}: {}",
                theirs.text()
            );
            let nobodys = ask(address, &below, asked, &[]).await;
            assert_eq!(nobodys.status, 401, "{root} {asked:?}: {}", nobodys.text());
        }
    }
    for path in ["/commands/ws", "/pty/1", "/ports/80/"] {
        let connected = gateway
            .connect_with(&format!("{below}{path}"), &other)
            .await;
        let refused = connected.err().expect("it is somebody else's").to_string();
        assert!(refused.contains("404"), "{path}: {refused}");
    }
    let processes = ask(address, &below, ("GET", "/processes", ""), &one).await;
    assert_eq!(
        (processes.status, processes.json()),
        (200, json!([])),
        "nothing ran"
    );
    let shown = ask(address, &below, ("GET", "", ""), &one).await.json();
    assert_eq!(shown["status"], "running", "{shown}");
    // The administrator may.
    let command = ("POST", "/commands", "{\"command\": \"echo here\"}");
    let ran = ask(address, &below, command, &admin).await;
    assert_eq!(ran.json()["stdout"], "here\n", "{}", ran.text());
    // One sandbox for each key.
    let more = http::send(address, "POST", "/api/v1/sandboxes", &one, b"").await;
    assert_eq!(
        more.refusal(),
        (429, "rate_limited".into()),
        "{}",
        more.text()
    );
    assert!(more.head.contains("retry-after: "), "{}", more.head);
    assert_eq!(
        ask(address, &below, ("DELETE", "", ""), &admin)
            .await
            .status,
        204
    );
    gateway.stop().await;
}

#[tokio::test]
async fn a_page_of_another_site_can_do_nothing() {
    let (gateway, below) = begin().await;
    let address = gateway.address;
    let port = address.port();
    let rebound = format!("evil.example:{port}");
    let rebound_origin = format!("http://evil.example:{port}");
    for headers in [
        vec![("origin", "https://evil.example")],
        vec![("origin", "null")],
        vec![("origin", "http://127.0.0.1:1")],
        vec![("sec-fetch-site", "cross-site")],
        vec![("host", rebound.as_str())],
        vec![
            ("host", rebound.as_str()),
            ("origin", rebound_origin.as_str()),
        ],
        vec![("host", "evil.example")],
    ] {
        for asked in EVERYTHING {
            let answer = ask(address, &below, asked, &headers).await;
            assert_eq!(
                answer.status,
                403,
                "{headers:?} {asked:?}: {}",
                answer.text()
            );
        }
        let made = http::send(address, "POST", "/sandboxes", &headers, b"").await;
        assert_eq!(made.status, 403, "{headers:?}: {}", made.text());
        for path in ["/commands/ws", "/pty/1"] {
            let connected = gateway
                .connect_with(&format!("{below}{path}"), &headers)
                .await;
            assert!(connected.is_err(), "{headers:?} {path}");
        }
    }
    let processes = http::get(address, &format!("{below}/processes"))
        .await
        .json();
    assert_eq!(processes, json!([]));
    assert_eq!(gateway.app.sandboxes.count(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn two_hundred_watches_are_told_and_let_go() {
    let (gateway, below) = begin().await;
    let directory = std::env::temp_dir().join(format!("belljar-watched-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("it may");
    for round in ["one", "two"] {
        let make = async || std::fs::write(directory.join(round), "x").expect("it may");
        let path = directory.to_str().expect("text");
        // How many there may be at once is this machine's business, and shared with others.
        let told = watched(gateway.address, &below, path, round, make).await;
        assert!(told > 0);
    }
    gateway.stop().await;
    let _ = std::fs::remove_dir_all(&directory);
}

/// Watch a directory two hundred times; how many were let, and have been told of a file of this name.
/// Those that are too many are told to wait.
pub async fn watched(
    address: SocketAddr,
    below: &str,
    directory: &str,
    name: &str,
    make: impl AsyncFnOnce(),
) -> usize {
    let path = format!("{below}/files/watch?path={directory}");
    let mut watches = Vec::new();
    for _ in 0..200 {
        let mut watch = http::begin(address, "GET", &path, &[]).await;
        let (status, head) = http::head(&mut watch).await;
        if status == 429 {
            assert!(head.contains("retry-after: "), "{head}");
            continue;
        }
        assert_eq!(status, 200, "{head}");
        heard(&mut watch, "event: ready").await;
        watches.push(watch);
    }
    make().await;
    for watch in &mut watches {
        heard(watch, &format!("/{name}\"")).await;
    }
    // They go without a word, and one more is let soon.
    let told = watches.len();
    drop(watches);
    until("there is room", async || {
        let mut watch = http::begin(address, "GET", &path, &[]).await;
        http::head(&mut watch).await.0 == 200
    })
    .await;
    told
}

/// Read until this text has come.
async fn heard(stream: &mut tokio::net::TcpStream, text: &str) {
    let mut seen = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            seen.push(stream.read_u8().await.expect("it goes on"));
        }
    };
    let read = timeout(PATIENCE, reading).await;
    read.unwrap_or_else(|_| panic!("{text} never came"));
}

/// It may block, and is ended when its reader has gone; a download lets go of its file.
#[tokio::test]
async fn a_reader_that_never_reads_holds_little_and_ends_its_command() {
    let (gateway, below) = begin().await;
    let address = gateway.address;
    let json = [("content-type", "application/json")];
    let body = json!({"command": "yes", "mode": "stream"}).to_string();
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let length = body.len().to_string();
        let headers = [json[0], ("content-length", length.as_str())];
        let mut stream = http::begin(address, "POST", &format!("{below}/commands"), &headers).await;
        stream.write_all(body.as_bytes()).await.expect("it reads");
        assert_eq!(http::head(&mut stream).await.0, 200);
        deaf.push(stream);
    }
    let large = std::env::temp_dir().join(format!("belljar-large-{}", std::process::id()));
    std::fs::write(&large, vec![0; 64 << 20]).expect("it may");
    let path = format!("{below}/files?path={}", large.display());
    for _ in 0..20 {
        let mut stream = http::begin(address, "GET", &path, &[]).await;
        assert_eq!(http::head(&mut stream).await.0, 200);
        deaf.push(stream);
    }
    let produced = async || {
        let processes = http::get(address, &format!("{below}/processes"))
            .await
            .json();
        let processes = processes.as_array().expect("a list").clone();
        let ends = processes
            .iter()
            .map(|p| p["outputEnd"].as_u64().expect("a number"));
        (processes.len(), ends.sum::<u64>())
    };
    // They stand still, all of them.
    let mut before = produced().await;
    until("they wait for their readers", async || {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let now = produced().await;
        std::mem::replace(&mut before, now) == now
    })
    .await;
    assert_eq!(before.0, 20);
    assert!(before.1 < 20 * (16 << 20), "{} bytes", before.1);
    // Others are served meanwhile.
    let ran = http::post(
        address,
        &format!("{below}/commands"),
        &json!({"command": "echo on"}),
    )
    .await;
    assert_eq!(ran.json()["stdout"], "on\n", "{}", ran.text());
    drop(deaf);
    until("they are ended", async || produced().await.0 == 0).await;
    gateway.stop().await;
    let _ = std::fs::remove_file(&large);
}

/// However it is presented, and at every level of detail; neither is what is typed or printed.
#[tokio::test]
async fn the_log_holds_no_secrets() {
    let ring = Ring::new("log");
    let key = ring.add(Scope::Sandboxes, None);
    let secret = key.rsplit('_').next().expect("a secret").to_owned();
    let log = std::env::temp_dir().join(format!("belljar-log-{}", std::process::id()));
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_belljar"))
        .arg("serve")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("BELLJAR_LISTEN", "127.0.0.1:0")
        .env("BELLJAR_LAUNCHER", "process")
        .env("BELLJAR_AGENT", agent())
        .env("BELLJAR_API__KEYS_FILE", &ring.path)
        .env("BELLJAR_LOG__FILTER", "trace")
        .env("BELLJAR_TEMPLATES__BASE__HOME", "/tmp")
        .env("BELLJAR_TEMPLATES__BASE__POOL", "0")
        .stderr(Stdio::from(std::fs::File::create(&log).expect("it may")))
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let read = || std::fs::read_to_string(&log).expect("it is there");
    let mut address = None;
    until("it serves", async || {
        let log = read();
        let line = log.split_once("serving on http://").map(|(_, rest)| rest);
        let line = line.and_then(|rest| rest.split_once('\n'));
        address = line.and_then(|(at, _)| at.trim().parse().ok());
        address.is_some()
    })
    .await;
    let address = address.expect("it serves");
    let bearer = format!("Bearer {key}");
    let basic = {
        use base64::Engine;
        let pair = base64::prelude::BASE64_STANDARD.encode(format!("x:{key}"));
        format!("Basic {pair}")
    };
    let made = http::send(address, "POST", "/sandboxes", &[("x-api-key", &key)], b"").await;
    assert_eq!(made.status, 201, "{}", made.text());
    let below = format!("/sandboxes/{}", made.json()["id"].as_str().expect("an id"));
    for headers in [
        [("authorization", bearer.as_str())],
        [("authorization", &basic)],
    ] {
        assert_eq!(
            http::send(address, "GET", &below, &headers, b"")
                .await
                .status,
            200
        );
    }
    let asked = format!("{below}/commands?api_key={key}");
    let typed =
        json!({"command": "cat; echo pri''nted $V", "stdin": "typed", "env": {"V": "value-of-it"}});
    let ran = http::post(address, &asked, &typed).await;
    assert_eq!(
        ran.json()["stdout"],
        "typedprinted value-of-it\n",
        "{}",
        ran.text()
    );
    let path = format!("{below}/files?path=/tmp/none/such&api_key={key}");
    assert_eq!(http::get(address, &path).await.status, 404);
    for path in [
        format!("/sandboxes/none?api_key={key}"),
        format!("/nowhere?api_key={key}"),
    ] {
        assert_eq!(http::get(address, &path).await.status, 404);
    }
    let wrong = format!("{key}0");
    let path = format!("{below}?api_key={wrong}");
    assert_eq!(http::get(address, &path).await.status, 403);
    let ended = http::send(
        address,
        "DELETE",
        &format!("{below}?api_key={key}"),
        &[],
        b"",
    )
    .await;
    assert_eq!(ended.status, 204);
    gateway.kill().await.expect("it is ours");
    let log = read();
    assert!(
        log.contains("a held sandbox has ended") || log.contains("is held"),
        "{log}"
    );
    for secret in [
        secret.as_str(),
        "printed",
        "pri''nted",
        "typed",
        "value-of-it",
    ] {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
}
