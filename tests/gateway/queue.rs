//! At capacity: who waits, in which order, and how a wait ends.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use belljar::config::Config;
use belljar::sandbox::Host;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Client, Heard, TestGateway, process_config, visits};
use crate::raw::eventually;

visits! {
    on processes, cluster: {
        whoever_leaves_makes_those_behind_move_up,
        a_full_line_refuses_and_says_when_to_come_back,
        other_dialects_are_refused_as_before,
        one_client_has_no_more_places_in_line_than_sessions_and_waiting_costs_nothing,
        a_wait_ends_when_it_has_become_too_long,
        a_session_begins_with_its_sandbox_and_what_was_typed_in_line_is_typed_then,
        the_estimate_comes_with_experience,
        a_gateway_that_goes_away_says_so_to_those_who_wait,
    }
}

fn one_place(mut config: Config, change: impl FnOnce(&mut Config)) -> Config {
    config.limits.max_sandboxes = 1;
    change(&mut config);
    config
}

/// A visitor who joins the line here.
async fn wait_in_line(gateway: &TestGateway, position: u64) -> Client {
    let mut client = gateway.connect("/ws?cols=80&rows=24").await;
    moves_to(&mut client, position).await;
    client
}

/// Wait until the visitor is told of this place.
async fn moves_to(client: &mut Client, position: u64) -> Value {
    loop {
        let queued = client.told("queued").await;
        if queued["position"] == position {
            return queued;
        }
    }
}

async fn end(mut client: Client) {
    client.send(json!({"type": "close"})).await;
    assert_eq!(client.closed().await, 1000);
}

/// The value of a series in `/metrics`.
async fn metric(gateway: &TestGateway, series: &str) -> String {
    let (_, text) = gateway.http("GET", "/metrics", &[], "").await;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is missing from:\n{text}"))
        .to_owned()
}

/// Not on a cluster, where each takes seconds to begin.
#[tokio::test]
async fn twenty_get_in_in_the_order_of_their_arrival() {
    let gateway = TestGateway::with(one_place(process_config(), |_| {})).await;
    let inside = gateway.visit().await;
    let mut waiting = Vec::new();
    for position in 1..=20 {
        waiting.push(wait_in_line(&gateway, position).await);
    }
    assert_eq!(metric(&gateway, "belljar_queue").await, "20");
    let order = Arc::new(Mutex::new(Vec::new()));
    end(inside).await;
    let visits = waiting.into_iter().enumerate().map(|(number, mut client)| {
        let order = order.clone();
        async move {
            client.ready().await;
            order.lock().unwrap().push(number);
            end(client).await;
        }
    });
    join_all(visits).await;
    assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    gateway.assert_empty().await;
    let admitted = "belljar_queue_wait_seconds_count{outcome=\"admitted\"}";
    assert_eq!(metric(&gateway, admitted).await, "20");
    gateway.stop().await;
}

pub async fn whoever_leaves_makes_those_behind_move_up(config: Config) {
    let gateway = TestGateway::with(one_place(config, |_| {})).await;
    let inside = gateway.visit().await;
    let mut first = wait_in_line(&gateway, 1).await;
    let second = wait_in_line(&gateway, 2).await;
    let mut third = wait_in_line(&gateway, 3).await;
    let mut fourth = wait_in_line(&gateway, 4).await;
    // Without a word.
    drop(second);
    moves_to(&mut third, 2).await;
    moves_to(&mut fourth, 3).await;
    // With a close frame.
    first.socket.close(None).await.expect("it reads");
    moves_to(&mut third, 1).await;
    // With the message.
    third.send(json!({"type": "close"})).await;
    assert_eq!(third.told("exit").await["reason"], "closed");
    assert_eq!(third.closed().await, 1000);
    moves_to(&mut fourth, 1).await;
    assert_eq!(gateway.app.limiter.held(), 2, "inside and fourth");
    end(inside).await;
    fourth.ready().await;
    end(fourth).await;
    gateway.assert_empty().await;
    let left = "belljar_queue_wait_seconds_count{outcome=\"left\"}";
    assert_eq!(metric(&gateway, left).await, "3");
    gateway.stop().await;
}

pub async fn a_full_line_refuses_and_says_when_to_come_back(config: Config) {
    let gateway =
        TestGateway::with(one_place(config, |config| config.limits.queue_length = 1)).await;
    let inside = gateway.visit().await;
    let waiting = wait_in_line(&gateway, 1).await;
    let mut refused = gateway.connect("/ws").await;
    let error = refused.told("error").await;
    assert_eq!(error["code"], "at_capacity");
    assert!(error["retryAfterMs"].as_u64().unwrap() >= 1000, "{error}");
    assert_eq!(refused.closed().await, 4030);
    assert_eq!(metric(&gateway, "belljar_queue_refused_total").await, "1");
    drop(waiting);
    let waiting = loop {
        let mut client = gateway.connect("/ws").await;
        if let Heard::Told(told) = client.hear().await
            && told["type"] == "queued"
        {
            break client;
        }
    };
    drop((waiting, inside));
    gateway.stop().await;
}

/// Who cannot be told of a place in line does not stand in it, and does not overtake either.
pub async fn other_dialects_are_refused_as_before(config: Config) {
    let gateway = TestGateway::with(one_place(config, |_| {})).await;
    let inside = gateway.visit().await;
    let waiting = wait_in_line(&gateway, 1).await;
    let (status, body) = gateway.json("POST", "/sessions", &[], json!({})).await;
    assert_eq!((status, &body["error"]), (503, &json!("at_capacity")));
    assert!(body["retryAfter"].as_u64().unwrap() >= 1, "{body}");
    let refused = gateway.connect_with("/ws", &[]).await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(answer)) = refused.map(|_| ()) else {
        panic!("the upgrade is refused");
    };
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let (_, status) = gateway.json("GET", "/status", &[], Value::Null).await;
    assert_eq!(status["isOpen"], false);
    assert_eq!(status["metrics"]["waiting"], 1);
    drop(waiting);
    end(inside).await;
    gateway.assert_empty().await;
    gateway.stop().await;
}

pub async fn one_client_has_no_more_places_in_line_than_sessions_and_waiting_costs_nothing(
    config: Config,
) {
    let gateway = TestGateway::with(one_place(config, |config| {
        config.limits.concurrent_sessions = 2;
        config.limits.sessions_per_hour = 3;
    }))
    .await;
    let headers = [
        ("sec-websocket-protocol", "belljar.v1"),
        ("x-forwarded-for", "192.0.2.1"),
    ];
    let connect = async || {
        let client = gateway.connect_with("/ws?cols=80&rows=24", &headers).await;
        client.expect("a belljar.v1 client is always accepted")
    };
    let inside = gateway.visit().await;
    // More often than the hour allows sessions.
    for _ in 0..5 {
        let mut first = connect().await;
        moves_to(&mut first, 1).await;
        let mut second = connect().await;
        moves_to(&mut second, 2).await;
        let mut third = connect().await;
        assert_eq!(third.told("error").await["code"], "rate_limited");
        assert_eq!(third.closed().await, 4029);
        drop((first, second));
        eventually("they have left", || gateway.app.limiter.held() == 1).await;
    }
    drop(inside);
    gateway.stop().await;
}

pub async fn a_wait_ends_when_it_has_become_too_long(config: Config) {
    let gateway = TestGateway::with(one_place(config, |config| {
        config.limits.queue_timeout = Duration::from_secs(1);
    }))
    .await;
    let inside = gateway.visit().await;
    let mut waiting = wait_in_line(&gateway, 1).await;
    let error = waiting.told("error").await;
    assert_eq!(error["code"], "at_capacity");
    assert!(error["retryAfterMs"].as_u64().unwrap() >= 1000, "{error}");
    assert_eq!(waiting.closed().await, 4030);
    end(inside).await;
    gateway.assert_empty().await;
    gateway.stop().await;
}

pub async fn a_session_begins_with_its_sandbox_and_what_was_typed_in_line_is_typed_then(
    config: Config,
) {
    let longest = Duration::from_secs(600);
    let gateway = TestGateway::with(one_place(config, |config| {
        config.limits.max_duration = longest;
    }))
    .await;
    let inside = gateway.visit().await;
    let mut waiting = wait_in_line(&gateway, 1).await;
    waiting.input("echo wai''ted\r").await;
    waiting
        .send(json!({"type": "resize", "cols": 90, "rows": 20}))
        .await;
    let before = SystemTime::now();
    end(inside).await;
    let ready = waiting.ready().await;
    let expires = ready["expiresAt"].as_str().expect("a time");
    let expires = humantime::parse_rfc3339(expires).expect("in RFC 3339");
    // What is told has whole milliseconds.
    assert!(expires + Duration::from_millis(1) >= before + longest);
    waiting.until("waited\r\n").await;
    waiting.until("$ ").await;
    // Sizes take a moment.
    while waiting.run("stty size").await != "20 90\n[0]" {}
    end(waiting).await;
    gateway.assert_empty().await;
    gateway.stop().await;
}

pub async fn the_estimate_comes_with_experience(config: Config) {
    let gateway = TestGateway::with(one_place(config, |_| {})).await;
    let mut inside = gateway.visit().await;
    for _ in 0..2 {
        let mut next = wait_in_line(&gateway, 1).await;
        end(inside).await;
        next.ready().await;
        inside = next;
    }
    let mut first = gateway.connect("/ws").await;
    let mut second = gateway.connect("/ws").await;
    let eta = async |client: &mut Client| client.told("queued").await["etaMs"].as_u64();
    let (first, second) = (eta(&mut first).await, eta(&mut second).await);
    // Each was rounded down to whole milliseconds.
    let (first, second) = (first.expect("known"), second.expect("known"));
    assert!(
        (2 * first..=2 * first + 1).contains(&second),
        "{first} {second}"
    );
    drop(inside);
    gateway.stop().await;
}

pub async fn a_gateway_that_goes_away_says_so_to_those_who_wait(config: Config) {
    let gateway = TestGateway::with(one_place(config, |_| {})).await;
    let _inside = gateway.visit().await;
    let mut waiting = [
        wait_in_line(&gateway, 1).await,
        wait_in_line(&gateway, 2).await,
    ];
    let farewells = join_all(waiting.iter_mut().map(|client| async {
        assert_eq!(client.told("error").await["code"], "going_away");
        client.closed().await
    }));
    let (farewells, ()) = tokio::join!(farewells, gateway.stop());
    assert_eq!(farewells, [1001, 1001]);
}

// --- the host ----------------------------------------------------------------------------------------

/// A `/proc` whose contents a test decides.
struct FakeProc(PathBuf);

impl FakeProc {
    fn new() -> Self {
        let name = format!("proc-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(path.join("pressure")).expect("room for a directory");
        let host = Self(path);
        host.available("1048576 kB");
        host.pressure("memory", "0.00");
        host.pressure("cpu", "99.00");
        host
    }

    fn available(&self, value: &str) {
        self.write("meminfo", &format!("MemAvailable:   {value}\n"));
    }

    fn pressure(&self, of: &str, avg10: &str) {
        let text = format!("some avg10={avg10} avg60=0.00 avg300=0.00 total=0\n");
        self.write(&format!("pressure/{of}"), &text);
    }

    /// In one step, so that nobody reads half of it.
    fn write(&self, name: &str, text: &str) {
        let new = self.0.join("new");
        std::fs::write(&new, text).expect("room for a file");
        std::fs::rename(new, self.0.join(name)).expect("one file system");
    }
}

impl Drop for FakeProc {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_host_under_pressure_closes_the_door_and_opens_it_again() {
    let proc = FakeProc::new();
    let mut config = process_config();
    config.limits.min_available_memory = Config::defaults().limits.min_available_memory;
    config.limits.max_memory_pressure = 50.0;
    let gateway = TestGateway::on(Host::at(&proc.0), config).await;
    let mut inside = gateway.visit().await;
    let closed = || gateway.app.sandboxes.closed().is_some();
    let door = "belljar_door_closed{reason=\"memory_pressure\"}";

    proc.pressure("memory", "50.01");
    eventually("the door closes", closed).await;
    assert_eq!(metric(&gateway, door).await, "1");
    let (status, health) = gateway.json("GET", "/health", &[], Value::Null).await;
    assert_eq!((status, &health["status"]), (200, &json!("ok")));
    let (_, status) = gateway.json("GET", "/status", &[], Value::Null).await;
    assert_eq!(status["isOpen"], false);
    let (status, body) = gateway.json("POST", "/sessions", &[], json!({})).await;
    assert_eq!((status, &body["error"]), (503, &json!("at_capacity")));
    let mut waiting = wait_in_line(&gateway, 1).await;
    assert_eq!(inside.run("echo still here").await, "still here\n[0]");

    // What cannot be understood keeps nobody out.
    proc.write("pressure/memory", "\u{0}\u{fffd}some avg10=nan");
    waiting.ready().await;
    assert!(!closed());
    assert_eq!(metric(&gateway, door).await, "0");

    proc.available("262143 kB");
    eventually("the door closes", closed).await;
    let mut patient = wait_in_line(&gateway, 1).await;
    proc.available("9999999 kB");
    patient.ready().await;
    for client in [inside, waiting, patient] {
        end(client).await;
    }
    gateway.assert_empty().await;
    gateway.stop().await;
}
