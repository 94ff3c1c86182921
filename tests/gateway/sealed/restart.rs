//! Sessions outlive their gateway: killed, told to go, replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::counting::Counting;
use super::serve::{Home, Served};
use super::{NO_SOCKETS, Namespace, config, place, say};
use crate::harness::{Client, PATIENCE};

/// Everyone comes from one address here.
pub const CROWD: [(&str, &str); 2] = [
    ("BELLJAR_LIMITS__SESSIONS_PER_HOUR", "1000"),
    ("BELLJAR_LIMITS__CONCURRENT_SESSIONS", "30"),
];

/// Visitors whose programs count, and the gateway killed under them.
pub async fn begin_and_kill<H: Home + Send + Sync + 'static>(
    gateway: Served<H>,
    visitors: usize,
) -> (H, Vec<Counting>) {
    let gateway = Arc::new(gateway);
    // A few at a time, so that none waits for long on a busy machine; meanwhile the others read, or
    // they would be lost.
    let starts = Arc::new(Semaphore::new(4));
    let counting: Vec<_> = (0..visitors)
        .map(|_| {
            let (gateway, starts) = (gateway.clone(), starts.clone());
            tokio::spawn(async move {
                let start = starts.acquire_owned().await.expect("never closed");
                let counting = Counting::begin(&gateway).await.until(2).await;
                drop((start, gateway));
                counting.until_cut().await
            })
        })
        .collect();
    while Arc::strong_count(&gateway) > 1 {
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(gateway.namespace.count().await, visitors);
    let home = Arc::into_inner(gateway).expect("ours alone").kill().await;
    let counting = join_all(counting).await;
    (
        home,
        counting.into_iter().map(|c| c.expect("no gap")).collect(),
    )
}

#[tokio::test]
async fn thirty_sessions_outlive_a_killed_gateway() {
    let Some(_place) = place().await else { return };
    let gateway = Served::start(&CROWD).await;
    let (namespace, mut counting) = begin_and_kill(gateway, 30).await;

    let begun = Instant::now();
    let gateway = Served::start_in(namespace, &CROWD).await;
    let started = begun.elapsed();
    join_all(counting.iter_mut().map(|c| c.resume(&gateway))).await;
    let took = begun.elapsed();
    say!("30 of 30 are back {took:.2?} after the next gateway's start ({started:.2?} to serving)");
    let counting = counting.into_iter().map(|c| {
        let last = c.next + 20;
        c.until(last)
    });
    let mut counting = join_all(counting).await;

    // The permits are taken, and given back one by one.
    let mut refused = gateway.connect("/ws").await;
    assert_eq!(refused.told("error").await["code"], "rate_limited");
    assert_eq!(refused.closed().await, 4029);
    let mut leaver = counting.pop().expect("thirty").client;
    leaver.send(json!({"type": "close"})).await;
    assert_eq!(leaver.closed().await, 1000);
    let newcomer = gateway.visit().await;
    counting.push(Counting {
        client: newcomer,
        next: 0,
    });
    let metrics = gateway.get("/metrics").await;
    let linked = "belljar_adoptions_total{outcome=\"linked\"} 30";
    assert!(metrics.contains(linked), "{metrics}");
    for mut counting in counting {
        counting.client.send(json!({"type": "close"})).await;
        assert_eq!(counting.client.closed().await, 1000);
    }
    let begun = Instant::now();
    while !gateway.namespace.containers().await.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "sandboxes are left");
        sleep(Duration::from_millis(50)).await;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_visitor_keeps_the_shell_over_a_restart() {
    let Some(_place) = place().await else { return };
    let mut gateway = Served::start(&[]).await;
    let mut client = gateway.visit().await;
    assert_eq!(client.run("X=42").await, "[0]");
    // Twice, because a gateway that took a session back must be able to pass it on.
    for _ in 0..2 {
        let (namespace, ()) = tokio::join!(gateway.hand_over(), async {
            assert_eq!(client.told("error").await["code"], "going_away");
            assert_eq!(client.closed().await, 1001);
        });
        assert_eq!(namespace.containers().await.len(), 1, "it lives on");
        gateway = Served::start_in(namespace, &[]).await;
        client = gateway
            .resume(&client.session, &client.token, client.offset)
            .await;
        client.ready().await;
        assert_eq!(client.run("echo $X").await, "42\n[0]");
    }
    client.input("exit 3\r").await;
    let exit = client.told("exit").await;
    assert_eq!(
        (&exit["reason"], &exit["code"]),
        (&json!("exited"), &json!(3))
    );
    let mut late = gateway.resume(&client.session, &client.token, 0).await;
    assert_eq!(
        late.told("exit").await["reason"],
        "exited",
        "known, and over"
    );
    gateway.stop().await;
}

/// What cannot be taken back is removed, and its visitor told.
#[tokio::test]
async fn what_cannot_be_taken_back_is_removed() {
    let Some(_place) = place().await else { return };
    let gateway = Served::start(&CROWD).await;
    let (mut garbled, mut expired, mut dead, mut alive) = tokio::join!(
        gateway.visit(),
        gateway.visit(),
        gateway.visit(),
        gateway.visit()
    );
    let namespace = gateway.kill().await;
    let sandbox = |container: &serde_json::Value| {
        let id = &container["Config"]["Labels"]["belljar.sandbox"];
        id.as_str().expect("a label").to_owned()
    };
    let note = |id: &str| namespace.sockets.join(format!("{id}.note"));
    let of = |client: &Client| client.session.clone();
    let (one, other, third) = (of(&garbled), of(&expired), of(&dead));
    let (one, other, third) = tokio::join!(
        namespace.container_of(&one),
        namespace.container_of(&other),
        namespace.container_of(&third),
    );
    std::fs::write(note(&sandbox(&one)), "{\"version\":1,").expect("a note");
    let path = note(&sandbox(&other));
    let text = std::fs::read_to_string(&path).expect("a note");
    let mut old: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    old["expires_at"] = json!("2020-01-01T00:00:00Z");
    std::fs::write(&path, old.to_string()).expect("a note");
    let container = third["Id"].as_str().expect("an id");
    super::docker(&["kill", container]).expect("it is killed");

    let gateway = Served::start_in(namespace, &CROWD).await;
    for client in [&mut garbled, &mut expired] {
        let mut back = gateway.resume(&client.session, &client.token, 0).await;
        assert_eq!(back.told("error").await["code"], "no_such_session");
        assert_eq!(back.closed().await, 4004);
    }
    let mut back = gateway.resume(&dead.session, &dead.token, 0).await;
    assert_eq!(back.told("error").await["code"], "no_such_session");
    back.closed().await;
    dead = back;
    drop(dead);
    let mut back = gateway.resume(&alive.session, &alive.token, 0).await;
    back.ready().await;
    back.until("$ ").await;
    alive = back;
    assert_eq!(alive.run("echo here").await, "here\n[0]");
    let begun = Instant::now();
    while gateway.namespace.containers().await.len() > 1 {
        assert!(begun.elapsed() < PATIENCE, "orphans are left");
        sleep(Duration::from_millis(50)).await;
    }
    gateway.stop().await;
}

/// Where the link is the container's own standard input, nobody can take it up again: such sessions
/// end with their gateway, and say so.
#[tokio::test]
async fn a_session_over_attach_ends_with_its_gateway() {
    let Some(_place) = place().await else { return };
    let settings = [("BELLJAR_DOCKER__RUNTIME", NO_SOCKETS)];
    let gateway = Served::start_in(Namespace::of(&config()), &settings).await;
    let mut client = gateway.visit().await;
    let (namespace, ()) = tokio::join!(gateway.hand_over(), async {
        assert_eq!(client.told("exit").await["reason"], "shutdown");
        assert_eq!(client.closed().await, 1001);
    });
    namespace.assert_empty().await;
}

/// Two gateways of one namespace would take each other's sandboxes for orphans.
#[tokio::test]
async fn a_second_gateway_waits_for_the_first_and_is_refused() {
    let Some(_place) = place().await else { return };
    let gateway = Served::start(&[]).await;
    let mut client = gateway.visit().await;
    let mut second = super::serve::belljar(&gateway.namespace, &[]);
    let second = second.arg("serve").output();
    let output = timeout(PATIENCE, second)
        .await
        .expect("in time")
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("another gateway serves the namespace"),
        "{said}"
    );
    assert_eq!(client.run("echo here").await, "here\n[0]");
    drop(client);
    gateway.stop().await;
}
