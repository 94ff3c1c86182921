//! Sandboxes that programs hold.

use std::time::{Duration, Instant};

use belljar::config::Template;
use belljar::fleet::{Caller, Reason};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::serve::Served;
use super::{Namespace, Sealed, config, place, say};
use crate::harness::{PATIENCE, exchange};

async fn ask(gateway: &Served, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let json = [("content-type", "application/json")];
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (head, body) = exchange(gateway.address, method, path, &json, &body).await;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let body = serde_json::from_str(&body).unwrap_or_default();
    (status.expect("a status"), body)
}

async fn made(gateway: &Sealed, order: Value) -> (String, Value) {
    let (status, made) = gateway.json("POST", "/sandboxes", &[], order).await;
    assert_eq!(status, 201, "{made}");
    (made["id"].as_str().expect("an id").to_owned(), made)
}

#[tokio::test]
async fn a_sandbox_has_what_was_ordered() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let order = json!({
        "template": "base", "cpus": 1, "memoryMB": 96, "cwd": "/workspace", "env": {"LESSON": "7"},
        "metadata": {"k": "v"}, "timeout": 600,
    });
    let (id, made) = made(&gateway, order).await;
    assert_eq!(
        (&made["cwd"], &made["memoryMB"]),
        (&json!("/workspace"), &json!(96))
    );
    let container = gateway.namespace.container_of(&id).await;
    let host = &container["HostConfig"];
    assert_eq!(host["Memory"], 96 << 20);
    assert_eq!(host["NanoCpus"], 1_000_000_000);
    assert!(host["Tmpfs"]["/workspace"].is_string(), "{}", host["Tmpfs"]);
    let labels = &container["Config"]["Labels"];
    assert_eq!(
        (&labels["belljar.owner"], &labels["belljar.template"]),
        (&json!("local"), &json!("base"))
    );
    let env = container["Config"]["Env"].to_string();
    assert!(
        env.contains("LESSON=7") && env.contains("HOME=/workspace"),
        "{env}"
    );
    let held = gateway.app.fleet.find(&id, &Caller::local()).expect("it");
    held.link()
        .await
        .expect("it runs")
        .ping()
        .await
        .expect("it answers");

    let (status, told) = gateway
        .json(
            "POST",
            "/sandboxes",
            &[],
            json!({"image": "nowhere/nothing:9"}),
        )
        .await;
    assert_eq!((status, &told["field"]), (400, &json!("image")), "{told}");
    assert!(
        told["detail"].to_string().contains("nowhere/nothing:9"),
        "{told}"
    );
    let (status, told) = gateway
        .json(
            "POST",
            "/sandboxes",
            &[],
            json!({"template": "nowhere/nothing:9"}),
        )
        .await;
    assert_eq!(
        (status, &told["error"]),
        (400, &json!("image_not_found")),
        "{told}"
    );
    let (status, _) = gateway
        .http("DELETE", &format!("/sandboxes/{id}"), &[], "")
        .await;
    assert_eq!(status, 204);
    gateway.namespace.gone(&id).await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_image_will_do_and_needs_no_shell() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    // What `docker/test-images.sh` builds: an image with nothing in it.
    for image in [Template::default().image.as_str(), "belljar-test-empty"] {
        let order = json!({"image": image, "memory": "64Mi", "cpu": "250m"});
        let (status, made) = gateway.json("POST", "/sandboxes", &[], order).await;
        assert_eq!(status, 201, "{made}");
        assert_eq!(
            (&made["image"], &made["cwd"]),
            (&json!(image), &json!("/workspace"))
        );
        assert_eq!(made["template"], "base");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn its_time_ends_it_and_its_owner_starts_it_anew() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let (id, _) = made(&gateway, json!({})).await;
    let path = format!("/sandboxes/{id}/actions");
    let (status, stopped) = gateway
        .json("POST", &path, &[], json!({"action": "stop"}))
        .await;
    assert_eq!((status, &stopped["status"]), (200, &json!("stopped")));
    gateway.namespace.gone(&id).await;
    for _ in 0..2 {
        let restart = json!({"action": "restart"});
        let (status, again) = gateway.json("POST", &path, &[], restart).await;
        assert_eq!(
            (status, &again["status"]),
            (200, &json!("running")),
            "{again}"
        );
    }
    let begun = Instant::now();
    while gateway.namespace.containers().await.len() > 1 {
        assert!(begun.elapsed() < PATIENCE, "the one before is left");
        sleep(Duration::from_millis(20)).await;
    }
    let held = gateway.app.fleet.find(&id, &Caller::local()).expect("it");
    let body = json!({"action": "set_timeout", "timeout": 1});
    assert_eq!(gateway.json("POST", &path, &[], body).await.0, 200);
    let reason = timeout(PATIENCE, held.ended()).await.expect("it ends");
    assert_eq!(reason, Reason::Timeout);
    gateway.namespace.gone(&id).await;
    gateway.stop().await;
}

/// A pool's sandbox is handed out when nothing differs, and its end is then the order's.
#[tokio::test]
async fn a_sandbox_that_was_started_ahead_is_there_at_once() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    config.templates.get_mut("base").expect("a base").pool = 1;
    let gateway = Sealed::with(config).await;
    let begun = Instant::now();
    while gateway.app.sandboxes.in_pools() < 1 {
        assert!(begun.elapsed() < PATIENCE, "the pool stays empty");
        sleep(Duration::from_millis(20)).await;
    }
    let begun = Instant::now();
    let (_, warm) = made(&gateway, json!({"timeout": 60, "metadata": {"a": "b"}})).await;
    say!(
        "a sandbox by the API, started ahead: {:.1?}",
        begun.elapsed()
    );
    assert_eq!(warm["status"], "running");
    made(&gateway, json!({"env": {"MINE": "yes"}})).await;
    let (_, metrics) = gateway.http("GET", "/metrics", &[], "").await;
    for line in [
        "belljar_fleet_starts_total{start=\"warm\"} 1",
        "belljar_fleet_starts_total{start=\"cold\"} 1",
        "belljar_fleet{state=\"running\"} 2",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    gateway.stop().await;
}

/// Killed, told to go, replaced: sandboxes live on, with their ids, ends and owners.
#[tokio::test]
async fn sandboxes_outlive_their_gateway() {
    let Some(_place) = place().await else { return };
    let mut gateway = Served::start(&[]).await;
    let order = json!({"timeout": 600, "metadata": {"k": "v"}, "env": {"A": "1"}});
    let (status, before) = ask(&gateway, "POST", "/sandboxes", &order).await;
    assert_eq!(status, 201, "{before}");
    let (_, stopped) = ask(&gateway, "POST", "/sandboxes", &json!({"timeout": 600})).await;
    let id = before["id"].as_str().expect("an id");
    let path = format!("/sandboxes/{id}");
    let stopped = format!("/sandboxes/{}", stopped["id"].as_str().expect("an id"));
    let stop = json!({"action": "stop"});
    ask(&gateway, "POST", &format!("{stopped}/actions"), &stop).await;
    let container = gateway.namespace.container_of(id).await["Id"].clone();
    // A visitor's session beside it: each kind of note goes to its own.
    let visitor = gateway.visit().await;
    for hand_over in [true, false] {
        let namespace: Namespace = if hand_over {
            gateway.hand_over().await
        } else {
            gateway.kill().await
        };
        gateway = Served::start_in(namespace, &[]).await;
        let (status, after) = ask(&gateway, "GET", &path, &Value::Null).await;
        assert_eq!(status, 200, "{after}");
        for name in [
            "id",
            "createdAt",
            "expiresAt",
            "metadata",
            "cwd",
            "template",
        ] {
            assert_eq!(after[name], before[name], "{name}");
        }
        let begun = Instant::now();
        loop {
            let (_, now) = ask(&gateway, "GET", &path, &Value::Null).await;
            if now["status"] == "running" {
                break;
            }
            assert!(
                begun.elapsed() < PATIENCE && now["status"] == "starting",
                "{now}"
            );
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(gateway.namespace.container_of(id).await["Id"], container);
        if hand_over {
            let (status, now) = ask(&gateway, "GET", &stopped, &Value::Null).await;
            assert_eq!((status, &now["status"]), (200, &json!("stopped")), "{now}");
        }
    }
    let mut back = gateway.resume(&visitor.session, &visitor.token, 0).await;
    back.ready().await;
    back.send(json!({"type": "close"})).await;
    back.closed().await;
    let (status, _) = ask(&gateway, "DELETE", &path, &Value::Null).await;
    assert_eq!(status, 204);
    gateway.namespace.gone(id).await;
    gateway.stop().await;
}
