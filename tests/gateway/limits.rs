//! Limits: who may start how much, and that everything is given back, whatever the end was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use belljar::config::Config;
use futures::SinkExt;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Client, Heard, PATIENCE, TestGateway, agent, process_config};
use crate::raw::{Raw, eventually};

mod store;

/// A gateway with the limits that ship, which believes the test who it is.
async fn gateway(change: impl FnOnce(&mut Config)) -> TestGateway {
    let mut config = process_config();
    config.limits = Config::defaults().limits;
    change(&mut config);
    TestGateway::with(config).await
}

/// Connect as the client with this address.
async fn connect(gateway: &TestGateway, address: &str) -> Client {
    let headers = [
        ("sec-websocket-protocol", "belljar.v1"),
        ("x-forwarded-for", address),
    ];
    let client = gateway.connect_with("/ws?cols=80&rows=24", &headers).await;
    client.expect("a belljar.v1 client is always accepted")
}

/// A visitor with this address at his prompt.
async fn visit(gateway: &TestGateway, address: &str) -> Client {
    let mut client = connect(gateway, address).await;
    client.ready().await;
    client.until("$ ").await;
    client
}

/// `ready`, or the error and the close code.
async fn outcome(client: &mut Client) -> Result<(), (Value, u16)> {
    match client.hear().await {
        Heard::Told(told) if told["type"] == "ready" => Ok(()),
        Heard::Told(told) => Err((told, client.closed().await)),
        other => panic!("{other:?}"),
    }
}

async fn end(mut client: Client) {
    client.send(json!({"type": "close"})).await;
    assert_eq!(client.closed().await, 1000);
}

#[tokio::test]
async fn the_third_at_once_is_refused_and_told_when_to_come_back() {
    let gateway = gateway(|_| {}).await;
    let one = visit(&gateway, "192.0.2.1").await;
    let two = visit(&gateway, "192.0.2.1").await;
    let (told, code) = outcome(&mut connect(&gateway, "192.0.2.1").await)
        .await
        .unwrap_err();
    assert_eq!((told["code"].as_str(), code), (Some("rate_limited"), 4029));
    assert!(told["retryAfterMs"].as_u64().unwrap() >= 1000, "{told}");
    // Nobody else is concerned, and a place that is given back is there again.
    let other = visit(&gateway, "192.0.2.2").await;
    end(one).await;
    let three = visit(&gateway, "192.0.2.1").await;
    for client in [two, three, other] {
        end(client).await;
    }
    gateway.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn the_eleventh_within_an_hour_is_refused() {
    let gateway = gateway(|_| {}).await;
    for _ in 0..10 {
        end(visit(&gateway, "192.0.2.1").await).await;
    }
    let (told, code) = outcome(&mut connect(&gateway, "192.0.2.1").await)
        .await
        .unwrap_err();
    assert_eq!((told["code"].as_str(), code), (Some("rate_limited"), 4029));
    let wait = told["retryAfterMs"].as_u64().unwrap();
    // The first of the ten was less than ten minutes ago.
    assert!((3_000_000..=3_600_000).contains(&wait), "{wait}");
    // A refusal counts for nothing.
    end(visit(&gateway, "192.0.2.2").await).await;
    gateway.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn of_fifty_at_the_same_moment_two_get_in() {
    let gateway = gateway(|_| {}).await;
    let attempts = (0..50).map(|n| {
        let gateway = &gateway;
        async move {
            if n % 2 == 0 {
                let mut client = connect(gateway, "192.0.2.1").await;
                let admitted = outcome(&mut client).await;
                (admitted.map_err(|(_, code)| code), Some(client))
            } else {
                let headers = [("x-forwarded-for", "192.0.2.1")];
                let (status, _) = gateway.json("POST", "/sessions", &headers, json!({})).await;
                let admitted = if status == 201 { Ok(()) } else { Err(status) };
                (admitted, None)
            }
        }
    });
    let outcomes = join_all(attempts).await;
    let admitted = outcomes.iter().filter(|(outcome, _)| outcome.is_ok());
    assert_eq!(admitted.count(), 2);
    assert!(
        outcomes
            .iter()
            .all(|(outcome, _)| matches!(outcome, Ok(()) | Err(4029 | 429)))
    );
    assert_eq!(gateway.app.limiter.held(), 2);
    gateway.stop().await;
}

#[tokio::test]
async fn when_every_place_is_taken_visitors_are_told() {
    let gateway = gateway(|config| {
        config.limits.max_sandboxes = 2;
        config.limits.queue_length = 0;
    })
    .await;
    let one = visit(&gateway, "192.0.2.1").await;
    let two = visit(&gateway, "192.0.2.2").await;
    let (told, code) = outcome(&mut connect(&gateway, "192.0.2.3").await)
        .await
        .unwrap_err();
    assert_eq!((told["code"].as_str(), code), (Some("at_capacity"), 4030));
    assert!(told["retryAfterMs"].as_u64().unwrap() >= 1000, "{told}");
    let (_, status) = gateway.json("GET", "/status", &[], Value::Null).await;
    assert_eq!(status["isOpen"], false);
    end(one).await;
    // It was not the visitor's fault, so it does not count in his hour.
    for _ in 0..20 {
        let mut client = connect(&gateway, "192.0.2.3").await;
        if outcome(&mut client).await.is_ok() {
            end(client).await;
            break;
        }
    }
    end(two).await;
    gateway.assert_empty().await;
    let (_, status) = gateway.json("GET", "/status", &[], Value::Null).await;
    assert_eq!(status["isOpen"], true);
    gateway.stop().await;
}

#[tokio::test]
async fn refusals_over_rest_say_when_to_come_back() {
    let gateway = gateway(|config| config.limits.max_sandboxes = 2).await;
    let visitors = [
        visit(&gateway, "192.0.2.1").await,
        visit(&gateway, "192.0.2.1").await,
    ];
    for (address, status, error) in [
        ("192.0.2.1", 429, "rate_limited"),
        ("192.0.2.2", 503, "at_capacity"),
    ] {
        let mut raw = Raw::connect(&gateway).await;
        let request = format!(
            "POST /sessions HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {address}\r\n\
             content-length: 0\r\nconnection: close\r\n\r\n"
        );
        raw.send(request.as_bytes()).await;
        let head = raw.head().await.to_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        let header = head
            .lines()
            .find_map(|line| line.strip_prefix("retry-after: "));
        let header: u64 = header.expect("a header").parse().expect("seconds");
        let body: Value = serde_json::from_str(&raw.rest().await).expect("JSON");
        assert_eq!(body["error"], error);
        assert!(body["message"].is_string());
        assert_eq!(body["retryAfter"].as_u64(), Some(header));
        let millis = body["retryAfterMs"].as_u64().expect("a number");
        assert_eq!(millis.div_ceil(1000), header);
        assert!(header >= 1);
    }
    drop(visitors);
    gateway.stop().await;
}

#[tokio::test]
async fn one_client_cannot_take_every_connection() {
    let gateway = gateway(|config| {
        config.trusted_proxies.clear();
        config.limits.connections_per_client = 3;
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::connect(&gateway).await;
        raw.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
        held.push(raw);
    }
    let mut fourth = Raw::connect(&gateway).await;
    fourth
        .send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let head = fourth.head().await.to_lowercase();
    assert!(head.starts_with("http/1.1 429 "), "{head}");
    assert!(head.contains("retry-after: 10"), "{head}");
    let body: Value = serde_json::from_str(&fourth.rest().await).expect("JSON, then the end");
    assert_eq!(body["error"], "rate_limited");
    // One that is given back is there again.
    drop(held);
    let begun = std::time::Instant::now();
    loop {
        let (status, _) = gateway.http("GET", "/health", &[], "").await;
        if status == 200 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "none was given back");
    }
    gateway.stop().await;
}

// --- commands --------------------------------------------------------------------------------------

#[tokio::test]
async fn commands_over_the_rate_are_slowed_told_and_run_in_order() {
    let gateway = gateway(|config| config.limits.commands_per_minute = 120).await;
    let mut client = visit(&gateway, "192.0.2.1").await;
    for n in 0..124 {
        client.input(format!("echo o{n}'u't\r")).await;
    }
    for n in 0..124 {
        client.until(&format!("o{n}ut\r\n")).await;
    }
    // Four had to wait, and that was said once.
    let notice = client.told("notice").await;
    assert_eq!(notice["code"], "input_slowed");
    let wait = notice["remainingMs"].as_u64().expect("a number");
    assert!((1..=500).contains(&wait), "{wait}");
    assert!(notice["message"].is_string());
    assert!(client.told.is_empty(), "{:?}", client.told);
    gateway.stop().await;
}

#[tokio::test]
async fn ctrl_c_overtakes_commands_that_wait() {
    let gateway = gateway(|config| config.limits.commands_per_minute = 1).await;
    let mut client = visit(&gateway, "192.0.2.1").await;
    client.input("sh -c 'echo ru''ns; exec sleep 1000'\r").await;
    client.until("runs\r\n").await;
    // A minute from now.
    client.input("echo later\r").await;
    let notice = client.told("notice").await;
    assert_eq!(notice["code"], "input_slowed");
    // What is no command still waits behind what is.
    client.input("\x03").await;
    client.until("^C").await;
    client.until("$ ").await;
    let typed = String::from_utf8_lossy(&client.output).into_owned();
    assert!(!typed.contains("later"), "{typed}");
    gateway.stop().await;
}

#[tokio::test]
async fn one_visitor_slowed_slows_nobody_else() {
    let gateway = gateway(|config| config.limits.commands_per_minute = 2).await;
    let mut slow = visit(&gateway, "192.0.2.1").await;
    for _ in 0..3 {
        slow.input("true\r").await;
    }
    slow.told("notice").await;
    // The limit is the visitor's, not the session's.
    let mut same = visit(&gateway, "192.0.2.1").await;
    same.input("true\r").await;
    same.told("notice").await;
    let mut other = visit(&gateway, "192.0.2.2").await;
    assert_eq!(other.run("echo free").await, "free\n[0]");
    gateway.stop().await;
}

// --- ends ------------------------------------------------------------------------------------------

/// An agent under a name of its own, so that its processes can be told from those of other tests.
struct OwnAgent(PathBuf);

impl OwnAgent {
    fn new(name: &str) -> Self {
        let name = format!("belljar-agent-{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_file(&path);
        std::fs::copy(agent(), &path).expect("the agent can be copied");
        Self(path)
    }

    /// Its running processes.
    fn running(&self) -> Vec<i32> {
        let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
        let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|id: &i32| {
            let program = std::fs::read_link(format!("/proc/{id}/exe"));
            program.is_ok_and(|program| program == self.0)
        })
        .collect()
    }

    /// The process of one sandbox.
    fn of(&self, session: &Client, gateway: &TestGateway) -> i32 {
        assert!(gateway.app.sessions.find(&session.session).is_some());
        let running = self.running();
        assert_eq!(running.len(), 1, "one at a time");
        running[0]
    }
}

impl Drop for OwnAgent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An agent that takes a second to start, as a container does.
pub struct SlowAgent(pub PathBuf);

impl SlowAgent {
    pub fn new(name: &str) -> Self {
        let name = format!("slow-agent-{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let script = format!("#!/bin/sh\nsleep 1\nexec {} \"$@\"\n", agent().display());
        std::fs::write(&path, script).expect("room for a file");
        let rights = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, rights).expect("it is ours");
        Self(path)
    }
}

impl Drop for SlowAgent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn kill(id: i32) {
    let killed = std::process::Command::new("kill")
        .args(["-9", &id.to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
}

/// Every way a session can end.
#[derive(Debug, Clone, Copy)]
enum End {
    Exit,
    CloseMessage,
    Delete,
    RestCutWhileStarting,
    Destroy,
    ShellKilled,
    AgentKilled,
    CutWhileStarting,
    NeverAttached,
    CutAndForgotten,
    TakenOverThenExit,
    Idle,
    MaxDuration,
}

const QUICK: [End; 9] = [
    End::Exit,
    End::CloseMessage,
    End::Delete,
    End::RestCutWhileStarting,
    End::Destroy,
    End::ShellKilled,
    End::AgentKilled,
    End::CutWhileStarting,
    End::TakenOverThenExit,
];

const BY_THE_CLOCK: [End; 4] = [
    End::NeverAttached,
    End::CutAndForgotten,
    End::Idle,
    End::MaxDuration,
];

async fn create(gateway: &TestGateway, address: &str, body: Value) -> (String, String) {
    let headers = [("x-forwarded-for", address)];
    let (status, created) = gateway.json("POST", "/sessions", &headers, body).await;
    assert_eq!(status, 201, "{created}");
    let text = |name: &str| created[name].as_str().expect("text").to_owned();
    (text("sessionId"), text("token"))
}

/// Let a session of this client's come to its end.
async fn play(gateway: &TestGateway, own: &OwnAgent, address: &str, way: End) {
    match way {
        End::Exit => {
            let mut client = visit(gateway, address).await;
            client.input("exit\r").await;
            assert_eq!(client.closed().await, 1000);
        }
        End::CloseMessage => end(visit(gateway, address).await).await,
        End::Delete => {
            let mut client = visit(gateway, address).await;
            let path = format!("/sessions/{}?token={}", client.session, client.token);
            let (status, _) = gateway.json("DELETE", &path, &[], Value::Null).await;
            assert_eq!(status, 200);
            let exit = client.told("exit").await;
            assert_eq!(exit["reason"], "closed");
            assert_eq!(client.closed().await, 1000);
        }
        End::RestCutWhileStarting => {
            let mut raw = Raw::connect(gateway).await;
            let request = format!(
                "POST /sessions HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {address}\r\n\
                 content-length: 0\r\n\r\n"
            );
            raw.send(request.as_bytes()).await;
        }
        End::Destroy => {
            let (id, token) = create(gateway, address, json!({})).await;
            let path = format!("/sessions/{id}/destroy?token={token}");
            let (status, _) = gateway.http("POST", &path, &[], "").await;
            assert_eq!(status, 200);
        }
        End::ShellKilled => {
            let mut client = visit(gateway, address).await;
            client.input("kill -9 $$\r").await;
            let exit = client.told("exit").await;
            assert_eq!(exit["signal"], "SIGKILL");
            assert_eq!(client.closed().await, 1000);
        }
        End::AgentKilled => {
            let mut client = visit(gateway, address).await;
            kill(own.of(&client, gateway));
            let exit = client.told("exit").await;
            assert_eq!(exit["reason"], "sandbox_lost");
            assert_eq!(client.closed().await, 1011);
        }
        End::CutWhileStarting => drop(connect(gateway, address).await),
        End::NeverAttached => drop(create(gateway, address, json!({})).await),
        End::CutAndForgotten => drop(visit(gateway, address).await),
        End::TakenOverThenExit => {
            let first = visit(gateway, address).await;
            let mut second = gateway.resume(&first.session, &first.token, None).await;
            second.ready().await;
            second.input("exit\r").await;
            assert_eq!(second.closed().await, 1000);
        }
        End::Idle => {
            let mut client = visit(gateway, address).await;
            assert_eq!(client.closed().await, 4008);
        }
        End::MaxDuration => {
            let (id, token) = create(gateway, address, json!({"timeout": 1500})).await;
            let mut client = gateway.resume(&id, &token, None).await;
            client.ready().await;
            assert_eq!(client.closed().await, 4009);
        }
    }
}

#[tokio::test]
async fn after_two_hundred_sessions_nothing_is_held() {
    let own = OwnAgent::new("ends");
    let gateway = gateway(|config| {
        config.agent.clone_from(&own.0);
        config.limits.sessions_per_hour = 1000;
        config.limits.detach_timeout = Duration::from_secs(1);
        config.limits.idle_timeout = Duration::from_secs(3);
    })
    .await;
    let mut played = 0;
    // One after the other, and each from the same address: a permit that stayed would be missed.
    while played < 170 {
        for way in QUICK {
            play(&gateway, &own, "192.0.2.1", way).await;
            played += 1;
            if matches!(
                way,
                End::CutWhileStarting | End::RestCutWhileStarting | End::AgentKilled
            ) {
                gateway.assert_empty().await;
            }
            eventually("one agent at most is left over", || {
                own.running().is_empty()
            })
            .await;
        }
    }
    // Those that wait for a clock, at once and each from an address of its own.
    let slow = (0..40).map(|n| {
        let (gateway, own) = (&gateway, &own);
        async move {
            let address = format!("192.0.2.{}", n + 2);
            play(gateway, own, &address, BY_THE_CLOCK[n % 4]).await;
        }
    });
    played += join_all(slow).await.len();
    assert!(played >= 200, "{played}");
    gateway.assert_empty().await;
    eventually("no agent is left", || own.running().is_empty()).await;
    let (_, metrics) = gateway.http("GET", "/metrics", &[], "").await;
    for line in metrics
        .lines()
        .filter(|line| line.starts_with("belljar_sessions{"))
    {
        assert!(line.ends_with(" 0"), "{line}");
    }
    let (_, health) = gateway.json("GET", "/health", &[], Value::Null).await;
    assert_eq!(health["containers"], 0);
    gateway.stop().await;
}

/// Whoever leaves before he was told his token can never come back, so nothing is kept for him.
#[tokio::test]
async fn sessions_whose_token_nobody_got_are_not_waited_for() {
    let slow = SlowAgent::new("unclaimed");
    let gateway = gateway(|config| {
        config.agent.clone_from(&slow.0);
        config.limits.detach_timeout = Duration::from_secs(600);
    })
    .await;
    let begun = || gateway.app.limiter.held() == 1;
    let client = connect(&gateway, "192.0.2.1").await;
    eventually("a session has begun", begun).await;
    drop(client);
    gateway.assert_empty().await;

    let mut raw = Raw::connect(&gateway).await;
    raw.send(b"POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        .await;
    eventually("a session has begun", begun).await;
    drop(raw);
    gateway.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_that_goes_away_says_so_and_leaves_nothing() {
    let own = OwnAgent::new("shutdown");
    let gateway = gateway(|config| config.agent.clone_from(&own.0)).await;
    let mut visitors = Vec::new();
    for n in 1..=5 {
        visitors.push(visit(&gateway, &format!("192.0.2.{n}")).await);
    }
    let mut stuck = visit(&gateway, "192.0.2.9").await;
    stuck.acknowledge = true;
    // One who reads nothing while his program floods him, and claims to have read it all.
    stuck.input("yes\r").await;
    let claim = json!({"type": "ack", "offset": u64::MAX}).to_string();
    for _ in 0..2000 {
        stuck
            .socket
            .send(Message::Text(claim.clone().into()))
            .await
            .expect("it reads");
    }
    let (_, late_token) = create(&gateway, "192.0.2.10", json!({})).await;
    assert!(!late_token.is_empty());
    // One whose start is under way.
    let mut starting = connect(&gateway, "192.0.2.11").await;
    let address = gateway.address;

    let farewells = join_all(visitors.iter_mut().map(|visitor| async {
        let exit = visitor.told("exit").await;
        (
            exit["reason"].as_str().map(str::to_owned),
            visitor.closed().await,
        )
    }));
    let (farewells, starting, ()) = tokio::join!(farewells, starting.closed(), gateway.stop());
    for farewell in farewells {
        assert_eq!(farewell, (Some("shutdown".to_owned()), 1001));
    }
    assert_eq!(starting, 1001);
    assert_eq!(own.running(), Vec::<i32>::new(), "no agent is left");
    let refused = tokio::net::TcpStream::connect(address).await;
    assert!(refused.is_err(), "nobody listens any more");
}
