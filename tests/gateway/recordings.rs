//! Recordings: what is in them, who gets them, and what happens when there is no room.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use belljar::config::Config;
use bytesize::ByteSize;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{Client, PATIENCE, TestGateway, process_config, visits};

visits! {
    on processes, cluster: {
        a_session_is_recorded_announced_and_handed_to_its_owner,
        nobody_is_recorded_who_was_not_to_be,
        a_recording_stops_at_its_bound_and_the_session_goes_on,
        the_oldest_recordings_make_room,
    }
}

/// A directory for the recordings of one test, and a configuration that records every session.
pub fn recorded(mut config: Config) -> (Config, PathBuf) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("belljar-recordings-{}-{number}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    let _ = std::fs::remove_dir_all(&dir);
    config.recordings.dir.clone_from(&dir);
    let template = config.templates.get_mut("base").expect("there is a base");
    template.recording = true;
    (config, dir)
}

/// An asciicast, taken apart: its header, its events.
pub struct Cast {
    pub header: Value,
    pub events: Vec<(f64, String, String)>,
}

impl Cast {
    /// Fails if a line is not what the format says.
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "whole lines: {text:?}");
        let mut lines = text.lines();
        let header: Value = serde_json::from_str(lines.next().expect("a header")).expect("JSON");
        assert_eq!(header["version"], 2);
        let event = |line| serde_json::from_str(line).expect("an event");
        let events: Vec<(f64, String, String)> = lines.map(event).collect();
        assert!(events.is_sorted_by(|a, b| a.0 <= b.0), "time goes forward");
        Self { header, events }
    }

    /// Everything of one kind.
    pub fn all(&self, code: &str) -> String {
        let events = self.events.iter().filter(|event| event.1 == code);
        events.map(|event| event.2.as_str()).collect()
    }
}

async fn get(gateway: &TestGateway, session: &str, token: &str) -> (u16, String) {
    let bearer = format!("Bearer {token}");
    let path = format!("/sessions/{session}/recording");
    gateway
        .http("GET", &path, &[("authorization", &bearer)], "")
        .await
}

/// The recording, once it holds this text: it is written a quarter of a second later.
pub async fn cast_with(gateway: &TestGateway, client: &Client, text: &str) -> Cast {
    for _ in 0..PATIENCE.as_millis() / 50 {
        if let (200, body) = get(gateway, &client.session, &client.token).await {
            let cast = Cast::parse(&body);
            if cast.all("o").contains(text) {
                return cast;
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("the recording never holds {text:?}");
}

async fn end(client: &mut Client) {
    client.send(json!({"type": "close"})).await;
    client.closed().await;
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.into_string().expect("text"))
        .collect();
    names.sort();
    names
}

pub async fn a_session_is_recorded_announced_and_handed_to_its_owner(config: Config) {
    let (config, dir) = recorded(config);
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.connect("/ws?cols=80&rows=24").await;
    assert_eq!(client.ready().await["recorded"], true);
    assert_eq!(client.told("notice").await["code"], "recorded");
    client.until("$ ").await;
    // One character, in two pieces that the program prints apart.
    client
        .input(
            "stty -echo; printf 'be''gin \\360\\237'; sleep 0.4; printf '\\253\\231 \\377 e''nd'\r",
        )
        .await;
    client.until(" end").await;
    client
        .send(json!({"type": "resize", "cols": 100, "rows": 30}))
        .await;
    let cast = cast_with(&gateway, &client, "begin 🫙 \u{fffd} end").await;
    assert_eq!(
        (&cast.header["width"], &cast.header["height"]),
        (&json!(80), &json!(24))
    );

    // While it goes on, files are nobody else's.
    let mode = |path: &Path| {
        std::fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
    };
    assert_eq!(mode(&dir) & 0o777, 0o700);
    for name in names(&dir) {
        assert_eq!(mode(&dir.join(&name)) & 0o777, 0o600, "{name}");
    }
    client.input("echo last words; exit 3\r").await;
    assert_eq!(client.told("exit").await["code"], 3);
    client.closed().await;
    gateway.assert_empty().await;
    assert_eq!(names(&dir), [format!("{}.cast", client.session)]);
    let (status, body) = get(&gateway, &client.session, &client.token).await;
    assert_eq!(status, 200);
    let cast = Cast::parse(&body);
    assert!(cast.all("o").contains("last words\r\n"), "{body}");
    assert_eq!(cast.all("r"), "100x30");

    let path = format!("/sessions/{}/recording", client.session);
    assert_eq!(gateway.http("GET", &path, &[], "").await.0, 401);
    let wrong = client.token.replace(|c: char| c.is_ascii_digit(), "0");
    assert_eq!(get(&gateway, &client.session, &wrong).await.0, 403);
    gateway.stop().await;
    std::fs::remove_dir_all(dir).expect("it is ours");
}

pub async fn nobody_is_recorded_who_was_not_to_be(config: Config) {
    let (mut config, dir) = recorded(config);
    config.templates.get_mut("base").expect("a base").recording = false;
    let gateway = TestGateway::with(config.clone()).await;
    let body = json!({"record": true});
    let (status, answer) = gateway.json("POST", "/sessions", &[], body.clone()).await;
    assert_eq!(status, 400, "{answer}");
    assert_eq!(
        answer["message"],
        "record: sessions are not recorded on request here."
    );
    let mut client = gateway.connect("/ws").await;
    assert_eq!(client.ready().await["recorded"], false);
    client.until("$ ").await;
    let (status, answer) = get(&gateway, &client.session, &client.token).await;
    assert_eq!(status, 404, "{answer}");
    assert!(answer.contains("no_recording"), "{answer}");
    end(&mut client).await;
    gateway.stop().await;
    assert!(!dir.exists(), "not even a directory");

    config.recordings.on_request = true;
    let gateway = TestGateway::with(config).await;
    let (status, created) = gateway.json("POST", "/sessions", &[], body).await;
    assert_eq!(status, 201, "{created}");
    assert_eq!(created["recorded"], true);
    let text = |name: &str| created[name].as_str().expect("text");
    let mut client = gateway.resume(text("sessionId"), text("token"), None).await;
    assert_eq!(client.ready().await["recorded"], true);
    client.run("echo on request").await;
    cast_with(&gateway, &client, "on request").await;
    gateway.stop().await;
    std::fs::remove_dir_all(dir).expect("it is ours");
}

pub async fn a_recording_stops_at_its_bound_and_the_session_goes_on(config: Config) {
    let (mut config, dir) = recorded(config);
    config.recordings.max_size = ByteSize::kib(64);
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    assert_eq!(client.told("notice").await["code"], "recorded");
    let seen = client.run("head -c 300000 /dev/zero | tr '\\0' x").await;
    assert_eq!(seen.len(), 300_000 + 3);
    assert_eq!(client.told("notice").await["code"], "recording_stopped");
    assert_eq!(client.run("echo goes on").await, "goes on\n[0]");
    let (_, body) = get(&gateway, &client.session, &client.token).await;
    assert!(body.len() <= 64 * 1024, "{}", body.len());
    assert_eq!(
        Cast::parse(&body).all("m"),
        "the recording stopped: max_size"
    );
    let (_, metrics) = gateway.http("GET", "/metrics", &[], "").await;
    for line in [
        "belljar_recordings_stopped_total{reason=\"max_size\"} 1",
        "belljar_recordings 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    // Who comes later is not told of a recording that is over.
    let (session, token, _) = client.cut();
    let mut client = gateway.resume(&session, &token, None).await;
    assert_eq!(client.ready().await["recorded"], false);
    gateway.stop().await;
    std::fs::remove_dir_all(dir).expect("it is ours");
}

pub async fn the_oldest_recordings_make_room(config: Config) {
    let (mut config, dir) = recorded(config);
    config.recordings.max_size = ByteSize::kib(64);
    config.recordings.max_total = ByteSize::kib(100);
    let gateway = TestGateway::with(config).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.visit().await;
        client.run("head -c 40000 /dev/zero | tr '\\0' x").await;
        cast_with(&gateway, &client, "mark 0").await;
        end(&mut client).await;
        gateway.assert_empty().await;
        sessions.push((client.session, client.token));
    }
    let mut statuses = Vec::new();
    for (session, token) in &sessions {
        statuses.push(get(&gateway, session, token).await.0);
    }
    assert_eq!(statuses, [404, 200, 200]);
    assert_eq!(names(&dir).len(), 2);
    gateway.stop().await;
    std::fs::remove_dir_all(dir).expect("it is ours");
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_costs_the_recording_and_not_the_session() {
    let (config, dir) = recorded(process_config());
    std::fs::create_dir(&dir).expect("it is new");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&dir, open).expect("it is ours");
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    let stopped = async { while client.told("notice").await["code"] != "recording_stopped" {} };
    stopped.await;
    assert_eq!(client.run("echo fine").await, "fine\n[0]");
    assert_eq!(get(&gateway, &client.session, &client.token).await.0, 404);
    gateway.stop().await;
    assert!(names(&dir).is_empty());
    std::fs::remove_dir_all(dir).expect("it is ours");
}

/// A file system that is full after 64 KiB. Only root can make one.
#[tokio::test]
async fn a_full_disk_costs_the_recording_and_not_the_session() {
    let (config, dir) = recorded(process_config());
    std::fs::create_dir(&dir).expect("it is new");
    let mount = |arguments: &[&str]| {
        let status = std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(&dir)
            .output();
        status.is_ok_and(|output| output.status.success())
    };
    let options = "size=64k,mode=700";
    if !mount(&["mount", "-t", "tmpfs", "-o", options, "tmpfs"]) {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no tmpfs");
        std::fs::remove_dir(dir).expect("it is ours");
        return;
    }
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    assert_eq!(client.told("notice").await["code"], "recorded");
    let seen = client.run("head -c 300000 /dev/zero | tr '\\0' x").await;
    assert_eq!(seen.len(), 300_000 + 3);
    assert_eq!(client.told("notice").await["code"], "recording_stopped");
    assert_eq!(client.run("echo goes on").await, "goes on\n[0]");
    let (status, body) = get(&gateway, &client.session, &client.token).await;
    assert_eq!(status, 200);
    Cast::parse(&body);
    let (_, metrics) = gateway.http("GET", "/metrics", &[], "").await;
    assert!(metrics.contains("belljar_recordings_stopped_total{reason=\"disk\"} 1"));
    gateway.stop().await;
    assert!(mount(&["umount"]));
    std::fs::remove_dir(dir).expect("it is ours");
}
