//! One visitor's sessions at all gateways of an instance.

use std::time::Instant;

use futures::future::join_all;
use serde_json::json;

use super::{Instance, place};
use crate::harness::{PATIENCE, TestGateway};
use crate::sealed::say;

#[tokio::test]
async fn a_visitor_has_no_more_at_two_gateways_than_at_one() {
    let Some(_place) = place().await else { return };
    let instance = Instance::new();
    let start = |replica: &'static str| {
        let mut config = instance.config(replica);
        config.limits.concurrent_sessions = 2;
        config.templates.get_mut("base").expect("a base").cpus = 0.1;
        TestGateway::with(config)
    };
    let gateways = [start("one").await, start("other").await];
    let visitor = [("x-forwarded-for", "192.0.2.1")];
    for round in 1..=3 {
        // Each gateway lets two begin, as far as it knows: four pods are made, and two stay.
        let asking = (0..6).map(|n| {
            let gateway = &gateways[n % 2];
            async move {
                let (status, answer) = gateway.json("POST", "/sessions", &visitor, json!({})).await;
                (gateway, status, answer)
            }
        });
        let mut stay = Vec::new();
        for (gateway, status, answer) in join_all(asking).await {
            if status == 429 {
                assert_eq!(answer["error"], "rate_limited", "{answer}");
                assert!(answer["retryAfter"].is_u64(), "{answer}");
            } else {
                assert!((200..300).contains(&status), "{status}: {answer}");
                stay.push((gateway, answer));
            }
        }
        assert_eq!(stay.len(), 2, "round {round}: as many as may, and no more");
        // It is known everywhere before long, and then nothing is started in vain.
        for gateway in &gateways {
            let begun = Instant::now();
            let (status, _) = gateway.json("POST", "/sessions", &visitor, json!({})).await;
            assert_eq!(status, 429);
            say!(
                "round {round}: two of six stay; the next is refused after {:.0?}",
                begun.elapsed()
            );
        }
        let others = [("x-forwarded-for", "192.0.2.2")];
        let (status, other) = gateways[0]
            .json("POST", "/sessions", &others, json!({}))
            .await;
        assert!((200..300).contains(&status), "{status}: {other}");
        stay.push((&gateways[0], other));
        for (gateway, session) in stay {
            gateway.end(&session).await;
        }
        for gateway in &gateways {
            gateway.assert_empty().await;
        }
        let begun = Instant::now();
        while gateways
            .iter()
            .any(|g| g.app.sandboxes.elsewhere("192.0.2.1") > 0)
        {
            assert!(begun.elapsed() < PATIENCE, "the watch is behind");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    for gateway in gateways {
        gateway.stop().await;
    }
    instance.assert_gone().await;
}
