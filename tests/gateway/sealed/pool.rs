//! Sandboxes started ahead.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use super::serve::Served;
use super::{Sealed, config, place, say};
use crate::harness::PATIENCE;

async fn filled(gateway: &Sealed, members: usize) {
    let begun = Instant::now();
    while gateway.app.sandboxes.in_pools() < members {
        assert!(begun.elapsed() < PATIENCE, "the pool stays empty");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_visitor_is_at_a_prompt_that_was_there_before() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    let base = config.templates.get_mut("base").expect("there is a base");
    base.pool = 2;
    base.init = vec!["echo made ahead".into()];
    let gateway = Sealed::with(config).await;
    filled(&gateway, 2).await;
    let begun = Instant::now();
    let mut warm = gateway.begin("base").await;
    let seen = warm.until("$ ").await;
    let took = begun.elapsed();
    assert!(seen.contains("made ahead"), "{seen:?}");
    assert_eq!(
        warm.run("stty size").await,
        "50 1000\n[0]",
        "the visitor's size"
    );

    // An environment of one's own is not what was started ahead.
    let body = json!({"env": {"MINE": "yes"}});
    let (status, cold) = gateway.json("POST", "/sessions", &[], body).await;
    assert_eq!(status, 201, "{cold}");
    let token = cold["token"].as_str().expect("a token");
    let session = cold["sessionId"].as_str().expect("an id");
    let mut cold = gateway.resume(session, token, None).await;
    cold.ready().await;
    cold.until("$ ").await;
    assert_eq!(cold.run("echo $MINE").await, "yes\n[0]");

    filled(&gateway, 2).await;
    say!("from the WebSocket's handshake to the prompt: {took:.1?}");
    let metrics = gateway.json("GET", "/metrics", &[], json!(null)).await.1;
    let metrics = metrics.as_str().expect("text");
    for line in [
        "belljar_pool_claims_total{start=\"warm\"} 1",
        "belljar_pool_claims_total{start=\"cold\"} 1",
        "belljar_pool_ready 2",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    gateway.stop().await;
}

/// Its lifetime is the session's, not the pool's.
#[tokio::test]
async fn a_claimed_sandbox_has_the_deadline_of_its_session() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    config.templates.get_mut("base").expect("a base").pool = 1;
    let gateway = Sealed::with(config).await;
    filled(&gateway, 1).await;
    let body = json!({"timeout": 3000});
    let (status, created) = gateway.json("POST", "/sessions", &[], body).await;
    assert_eq!(status, 201, "{created}");
    let token = created["token"].as_str().expect("a token");
    let session = created["sessionId"].as_str().expect("an id");
    let mut client = gateway.resume(session, token, None).await;
    client.ready().await;
    assert_eq!(client.told("exit").await["reason"], "max_duration");
    gateway.stop().await;
}

/// A pool takes places, and gives them to whoever comes.
#[tokio::test]
async fn a_visitor_comes_before_the_pool() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    config.limits.max_sandboxes = 1;
    config.templates.get_mut("base").expect("a base").pool = 1;
    let gateway = Sealed::with(config).await;
    filled(&gateway, 1).await;
    let body = json!({"env": {"MINE": "yes"}});
    let (status, created) = gateway.json("POST", "/sessions", &[], body.clone()).await;
    assert_eq!(status, 201, "{created}");
    let (status, refused) = gateway.json("POST", "/sessions", &[], body).await;
    assert_eq!(
        (status, &refused["error"]),
        (503, &json!("at_capacity")),
        "{refused}"
    );
    gateway.stop().await;
}

/// A member that dies is replaced; one of a gateway that was killed is an orphan.
#[tokio::test]
async fn members_that_end_are_replaced() {
    let Some(_place) = place().await else { return };
    let pool = [("BELLJAR_TEMPLATES__BASE__POOL", "1")];
    let gateway = Served::start(&pool).await;
    let one_but = |old: String| {
        let namespace = &gateway.namespace;
        async move {
            let begun = Instant::now();
            loop {
                let containers = namespace.containers().await;
                let running = containers
                    .iter()
                    .find(|c| c["State"] == "running" && c["Labels"]["belljar.session"] == "pool");
                let id = running.and_then(|c| c["Id"].as_str()).unwrap_or_default();
                if !id.is_empty() && id != old {
                    return id.to_owned();
                }
                assert!(begun.elapsed() < PATIENCE, "{containers:?}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let first = one_but(String::new()).await;
    super::docker(&["kill", &first]).expect("it is killed");
    // Whoever comes meanwhile is not given a dead one.
    let mut client = gateway.visit().await;
    assert_eq!(client.run("echo alive").await, "alive\n[0]");
    let second = one_but(first).await;
    let namespace = gateway.kill().await;
    let gateway = Served::start_in(namespace, &[]).await;
    let begun = Instant::now();
    loop {
        let containers = gateway.namespace.containers().await;
        if !containers.iter().any(|c| c["Id"] == second.as_str()) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{containers:?}");
        sleep(Duration::from_millis(100)).await;
    }
    gateway.stop().await;
}
