//! The store in which gateways count together: a real Redis, reached by a Unix socket.
//!
//! Where there is no `redis-server` these tests say so and pass, unless `BELLJAR_TEST_STORE=1`: then it is a
//! failure.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use belljar::config::{Config, WhenAway};
use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::gateway;
use crate::harness::{PATIENCE, TestGateway};
use crate::sealed::say;

/// A Redis of this test's own, without a port and without a file.
struct Redis {
    socket: PathBuf,
    process: Child,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Redis {
    async fn start() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("belljar-redis-{}-{number}.sock", std::process::id());
        Self::at(std::env::temp_dir().join(name)).await
    }

    async fn at(socket: PathBuf) -> Option<Self> {
        let started = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let process = match started {
            Ok(process) => process,
            Err(error) => {
                let wanted = std::env::var("BELLJAR_TEST_STORE").is_ok_and(|v| v == "1");
                assert!(!wanted, "these tests need a redis-server: {error}");
                say!("skipped: no redis-server ({error})");
                return None;
            }
        };
        let begun = Instant::now();
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "it does not listen");
            sleep(Duration::from_millis(10)).await;
        }
        Some(Self { socket, process })
    }

    /// A gateway that counts here.
    async fn gateway(&self, per_hour: u32, change: impl FnOnce(&mut Config)) -> TestGateway {
        let url = format!("redis+unix://{}", self.socket.display());
        gateway(|config| {
            config.limits.sessions_per_hour = per_hour;
            config.limits.concurrent_sessions = 1000;
            config.limits.store.url = Some(url);
            change(config);
        })
        .await
    }

    async fn kill(mut self) -> PathBuf {
        self.process.kill().await.expect("it lives");
        self.socket.clone()
    }

    fn signal(&self, signal: Signal) {
        let id = self.process.id().expect("it lives");
        let id = Pid::from_raw(i32::try_from(id).expect("an id")).expect("not 0");
        kill_process(id, signal).expect("it lives");
    }
}

/// Ask for a session, as the client with this address: status and answer.
async fn ask(gateway: &TestGateway, address: &str) -> (u16, Value) {
    let headers = [("x-forwarded-for", address)];
    gateway.json("POST", "/sessions", &headers, json!({})).await
}

#[tokio::test]
async fn fifty_at_once_at_two_gateways_get_exactly_ten_an_hour() {
    let Some(redis) = Redis::start().await else {
        return;
    };
    let gateways = [
        redis.gateway(10, |_| {}).await,
        redis.gateway(10, |_| {}).await,
    ];
    let asking = (0..50).map(|n| {
        let gateway = &gateways[n % 2];
        async move { (gateway, ask(gateway, "192.0.2.1").await) }
    });
    let mut begun = Vec::new();
    for (gateway, (status, answer)) in join_all(asking).await {
        if status == 429 {
            assert_eq!(answer["error"], "rate_limited");
            let retry = answer["retryAfter"].as_u64().expect("a number");
            assert!((3500..=3600).contains(&retry), "{retry}");
        } else {
            assert!((200..300).contains(&status), "{status}: {answer}");
            begun.push((gateway, answer));
        }
    }
    assert_eq!(begun.len(), 10);
    // Others are free, and it does not help to end one.
    let (status, other) = ask(&gateways[0], "192.0.2.2").await;
    assert!((200..300).contains(&status), "{status}: {other}");
    gateways[0].end(&other).await;
    for (gateway, session) in &begun {
        gateway.end(session).await;
    }
    assert_eq!(ask(&gateways[1], "192.0.2.1").await.0, 429);
    let (_, metrics) = gateways[0].http("GET", "/metrics", &[], "").await;
    let up = "belljar_limit_store_up{when_away=\"open\"} 1";
    assert!(metrics.contains(up), "{metrics}");
    for gateway in gateways {
        gateway.stop().await;
    }
}

#[tokio::test]
async fn what_did_not_begin_does_not_count() {
    let Some(redis) = Redis::start().await else {
        return;
    };
    let full = |config: &mut Config| {
        config.limits.max_sandboxes = 1;
        config.limits.queue_length = 0;
    };
    let gateway = redis.gateway(2, full).await;
    let (_, first) = ask(&gateway, "192.0.2.1").await;
    for _ in 0..5 {
        assert_eq!(ask(&gateway, "192.0.2.1").await.0, 503, "there is no place");
        // It is forgiven in the background.
        sleep(Duration::from_millis(50)).await;
    }
    gateway.end(&first).await;
    gateway.assert_empty().await;
    let (status, second) = ask(&gateway, "192.0.2.1").await;
    assert!((200..300).contains(&status), "{status}: {second}");
    gateway.end(&second).await;
    gateway.assert_empty().await;
    assert_eq!(ask(&gateway, "192.0.2.1").await.0, 429);
    gateway.stop().await;
}

#[tokio::test]
async fn while_the_store_is_away_sessions_begin_or_do_not_as_configured() {
    let Some(redis) = Redis::start().await else {
        return;
    };
    let open = redis.gateway(2, |_| {}).await;
    let closed = redis
        .gateway(2, |config| config.limits.store.when_away = WhenAway::Closed)
        .await;
    let (status, session) = ask(&closed, "192.0.2.1").await;
    assert!((200..300).contains(&status), "{status}: {session}");
    closed.end(&session).await;
    let socket = redis.kill().await;

    let (status, answer) = ask(&closed, "192.0.2.1").await;
    assert_eq!((status, &answer["error"]), (503, &json!("at_capacity")));
    assert!(answer["retryAfter"].is_u64(), "{answer}");
    // Its own count holds: it knows nothing of the other's.
    for _ in 0..2 {
        let (status, session) = ask(&open, "192.0.2.1").await;
        assert!((200..300).contains(&status), "{status}: {session}");
        open.end(&session).await;
    }
    assert_eq!(ask(&open, "192.0.2.1").await.0, 429);
    for (gateway, when_away) in [(&open, "open"), (&closed, "closed")] {
        let (_, metrics) = gateway.http("GET", "/metrics", &[], "").await;
        let up = format!("belljar_limit_store_up{{when_away=\"{when_away}\"}} 0");
        assert!(metrics.contains(&up), "{metrics}");
        let (status, health) = gateway.http("GET", "/health", &[], "").await;
        assert_eq!(status, 200, "terminals go on");
        assert!(health.contains("\"limitStore\":\"away\""), "{health}");
    }

    let _redis = Redis::at(socket).await.expect("it was there before");
    let begun = Instant::now();
    loop {
        let (status, session) = ask(&closed, "192.0.2.2").await;
        if status != 503 {
            assert!((200..300).contains(&status), "{status}: {session}");
            closed.end(&session).await;
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it is not asked again");
        sleep(Duration::from_millis(100)).await;
    }
    let (_, health) = closed.http("GET", "/health", &[], "").await;
    assert!(health.contains("\"limitStore\":\"ok\""), "{health}");
    open.stop().await;
    closed.stop().await;
}

#[tokio::test]
async fn a_store_that_hangs_delays_one_visitor_for_a_moment() {
    let Some(redis) = Redis::start().await else {
        return;
    };
    let gateway = redis.gateway(100, |_| {}).await;
    let (_, session) = ask(&gateway, "192.0.2.1").await;
    gateway.end(&session).await;
    redis.signal(Signal::STOP);
    let begun = Instant::now();
    // A dozen together, not one after the other.
    let asked = join_all((0..12).map(|_| ask(&gateway, "192.0.2.1"))).await;
    let took = begun.elapsed();
    redis.signal(Signal::CONT);
    for (status, session) in asked {
        assert!((200..300).contains(&status), "{status}: {session}");
        gateway.end(&session).await;
    }
    assert!(took < Duration::from_secs(10), "{took:?}");
    gateway.stop().await;
}
