//! Sandboxes: made, found, moved in time, stopped, ended.

use std::time::Duration;

use belljar::fleet::{Caller, Reason, State};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::{act, get, made, post};
use crate::harness::{PATIENCE, TestGateway, process_config};

fn ids(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a bare array");
    list.iter().filter_map(|s| s["id"].as_str()).collect()
}

#[tokio::test]
async fn a_sandbox_has_the_names_of_every_system() {
    let gateway = TestGateway::process().await;
    let order = json!({
        "templateID": "base", "timeout": "10m", "envs": {"A": "1"}, "metadata": {"purpose": "test"},
        "cpu": "500m", "memory": "128Mi", "cwd": "project", "whatever": {"is": "new"},
    });
    let (head, body) = gateway
        .exchange(
            "POST",
            "/sandboxes",
            &[("content-type", "application/json")],
            &order.to_string(),
        )
        .await;
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    let made: Value = serde_json::from_str(&body).expect("JSON");
    let id = made["id"].as_str().expect("an id").to_owned();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    for (name, value) in [
        ("sandboxID", json!(id)),
        ("sandbox_id", json!(id)),
        ("template", json!("base")),
        ("templateID", json!("base")),
        ("image", json!("belljar-sandbox:latest")),
        ("status", json!("running")),
        ("metadata", json!({"purpose": "test"})),
        ("cpus", json!(0.5)),
        ("cpuCount", json!(0.5)),
        ("memoryMB", json!(128)),
        ("cwd", json!("/home/sandbox/project")),
    ] {
        assert_eq!(made[name], value, "{name} of {made}");
    }
    assert_eq!(made["createdAt"], made["startedAt"]);
    assert_eq!(made["expiresAt"], made["endAt"]);
    let left = made["timeout"].as_u64().expect("seconds");
    assert!((590..=600).contains(&left), "{left}");

    // The same resource at every root.
    for root in ["", "/api", "/api/v1"] {
        let path = format!("{root}/sandboxes/{id}");
        let (status, found) = gateway.json("GET", &path, &[], json!(null)).await;
        assert_eq!((status, &found["id"]), (200, &json!(id)), "{path}");
        let path = format!("{root}/sandboxes");
        let (_, found) = gateway.json("GET", &path, &[], json!(null)).await;
        assert_eq!(ids(&found), [id.as_str()], "{path}");
    }
    // Its environment is there without anyone naming it again.
    let held = gateway.app.fleet.find(&id, &Caller::local()).expect("it");
    assert_eq!(held.env()["A"], "1");
    held.link()
        .await
        .expect("it runs")
        .ping()
        .await
        .expect("it answers");

    let path = format!("/sandboxes/{id}");
    let (status, body) = gateway.http("DELETE", &path, &[], "").await;
    assert_eq!((status, body.as_str()), (204, ""));
    let (status, gone) = gateway.json("GET", &path, &[], json!(null)).await;
    assert_eq!((status, &gone["error"]), (404, &json!("sandbox_not_found")));
    gateway.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_order_may_be_empty() {
    let gateway = TestGateway::process().await;
    let (status, _) = gateway.http("POST", "/sandboxes", &[], "").await;
    assert_eq!(status, 201);
    let id = made(&gateway, json!({})).await;
    assert_eq!(
        get(&gateway, &format!("/sandboxes/{id}")).await.1["template"],
        "base"
    );
    let (_, python) = get(&gateway, "/templates/python").await;
    assert_eq!(python["name"], "python");
    let (_, templates) = get(&gateway, "/templates").await;
    let names: Vec<_> = templates
        .as_array()
        .expect("a list")
        .iter()
        .map(|t| &t["name"])
        .collect();
    assert_eq!(names, ["base", "node", "python"]);
    assert_eq!(get(&gateway, "/templates/nope").await.0, 404);
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_told_with_its_field() {
    let gateway = TestGateway::process().await;
    for (order, field, said) in [
        (
            json!({"timeout": 0}),
            "timeout",
            "timeout: must be from 1 to 86400 s.",
        ),
        (
            json!({"timeout": "soon"}),
            "timeout",
            "timeout: must be a number of seconds",
        ),
        (
            json!({"memory": "1Ti"}),
            "memory",
            "memory: must be from 32 to 2048 MiB.",
        ),
        (
            json!({"cpuCount": 64}),
            "cpus",
            "cpus: must be from 0.05 to 2.",
        ),
        (
            json!({"cwd": "/proc/self"}),
            "cwd",
            "cwd: must not be /proc/self",
        ),
        (
            json!({"template": "nope"}),
            "template",
            "template: there is no template \"nope\".",
        ),
        (
            json!({"image": "../../etc"}),
            "image",
            "image: an image's name",
        ),
        (
            json!({"envs": {"A=B": "x"}}),
            "env",
            "env: at most 64 names",
        ),
        (
            json!({"envs": {"A": 1}}),
            "envs.A",
            "envs.A: invalid type: integer `1`",
        ),
        (
            json!({"metadata": []}),
            "metadata",
            "metadata: invalid type: sequence",
        ),
    ] {
        let (status, told) = post(&gateway, "/sandboxes", order.clone()).await;
        assert_eq!(
            (status, &told["field"]),
            (400, &json!(field)),
            "{order}: {told}"
        );
        let detail = told["detail"].as_str().expect("a sentence");
        assert!(detail.starts_with(said), "{order}: {detail}");
        assert_eq!(
            (&told["message"], &told["status"]),
            (&told["detail"], &json!(400))
        );
        assert_eq!(told["error"], "invalid_request");
    }
    gateway.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_no_request_of_ours_is_told_in_the_same_form() {
    let gateway = TestGateway::process().await;
    let json = [("content-type", "application/json")];
    for (method, path, headers, body, status, code) in [
        (
            "POST",
            "/sandboxes",
            &json[..],
            "{\"a\"",
            400,
            "invalid_request",
        ),
        (
            "POST",
            "/sandboxes",
            &json[..],
            "[]",
            400,
            "invalid_request",
        ),
        (
            "POST",
            "/sandboxes",
            &[],
            "{}",
            415,
            "unsupported_media_type",
        ),
        (
            "PATCH",
            "/api/sandboxes",
            &[],
            "",
            405,
            "method_not_allowed",
        ),
        ("GET", "/sandboxes?limit=0", &[], "", 400, "invalid_request"),
        (
            "GET",
            "/sandboxes?cursor=x",
            &[],
            "",
            400,
            "invalid_request",
        ),
        (
            "GET",
            "/sandboxes?state=asleep",
            &[],
            "",
            400,
            "invalid_request",
        ),
        (
            "GET",
            "/sandboxes/..%2f..",
            &[],
            "",
            404,
            "sandbox_not_found",
        ),
    ] {
        let (head, told) = gateway.exchange(method, path, headers, body).await;
        assert!(head.contains(&format!(" {status} ")), "{path}: {head}");
        let head = head.to_lowercase();
        assert!(
            head.contains("content-type: application/problem+json"),
            "{head}"
        );
        assert!(status != 405 || head.contains("allow: "), "{head}");
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(told["error"], code, "{path}: {told}");
    }
    let long = format!("{{\"cwd\": \"{}\"}}", "x".repeat(100_000));
    let (status, told) = gateway.http("POST", "/sandboxes", &json, &long).await;
    assert!(status == 413 && told.contains("too_large"), "{told}");
    gateway.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_sandbox_is_stopped_and_started_anew_under_its_id() {
    let gateway = TestGateway::process().await;
    let id = made(&gateway, json!({"metadata": {"k": "v"}})).await;
    let held = gateway.app.fleet.find(&id, &Caller::local()).expect("it");
    let first = held.link().await.expect("it runs");
    let (status, stopped) = act(&gateway, &id, "stop").await;
    assert_eq!((status, &stopped["status"]), (200, &json!("stopped")));
    timeout(PATIENCE, first.closed())
        .await
        .expect("its link ends");
    let refused = held.link().await.expect_err("it does not run");
    assert_eq!(refused.0, State::Stopped);
    let begun = Instant::now();
    while gateway.app.sandboxes.count() > 0 {
        assert!(begun.elapsed() < PATIENCE, "something is left of it");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(act(&gateway, &id, "stop").await.0, 200, "again");

    for _ in 0..2 {
        let (status, again) = act(&gateway, &id, "restart").await;
        assert_eq!(
            (status, &again["status"]),
            (200, &json!("running")),
            "{again}"
        );
        assert_eq!(
            (&again["id"], &again["metadata"]["k"]),
            (&json!(id), &json!("v"))
        );
        held.link()
            .await
            .expect("it runs")
            .ping()
            .await
            .expect("it answers");
    }
    let (status, killed) = act(&gateway, &id, "kill").await;
    assert_eq!((status, &killed["status"]), (200, &json!("stopped")));
    assert_eq!(act(&gateway, &id, "restart").await.0, 404);
    let (status, told) = act(&gateway, &id, "dance").await;
    assert_eq!(status, 404, "{told}");
    gateway.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_sandbox_ends_in_time_and_says_why_for_a_while() {
    let gateway = TestGateway::process().await;
    let id = made(&gateway, json!({"ttl": 3600})).await;
    let path = format!("/sandboxes/{id}/timeout");
    assert_eq!(post(&gateway, &path, json!({})).await.1["field"], "timeout");
    assert_eq!(post(&gateway, &path, json!({"timeout": 1e9})).await.0, 400);
    let (status, _) = post(&gateway, &path, json!({"timeout": 1800})).await;
    assert_eq!(status, 204);
    let left = get(&gateway, &format!("/sandboxes/{id}")).await.1["timeout"].clone();
    assert!(
        (1790..=1800).contains(&left.as_u64().expect("seconds")),
        "{left}"
    );
    let body = json!({"action": "set_timeout", "timeout": 1});
    let (status, _) = post(&gateway, &format!("/sandboxes/{id}/actions"), body).await;
    assert_eq!(status, 200);
    let held = gateway.app.fleet.find(&id, &Caller::local()).expect("it");
    let reason = timeout(PATIENCE, held.ended()).await.expect("it ends");
    assert_eq!(reason, Reason::Timeout);
    let (status, ended) = get(&gateway, &format!("/sandboxes/{id}")).await;
    assert_eq!((status, &ended["status"]), (200, &json!("stopped")));
    assert_eq!(ended["reason"], "timeout");
    assert_eq!(
        get(&gateway, "/sandboxes").await.1,
        json!([]),
        "not in the list"
    );
    assert_eq!(post(&gateway, &path, json!({"timeout": 5})).await.0, 404);
    gateway.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn one_that_dies_says_so_and_can_be_started_anew() {
    let gateway = TestGateway::process().await;
    let id = made(&gateway, json!({})).await;
    let held = gateway.app.fleet.find(&id, &Caller::local()).expect("it");
    let link = held.link().await.expect("it runs");
    link.terminate().await.expect("it is told");
    timeout(PATIENCE, link.closed()).await.expect("it ends");
    let begun = Instant::now();
    let dead = loop {
        let dead = get(&gateway, &format!("/sandboxes/{id}")).await.1;
        if dead["status"] != "running" {
            break dead;
        }
        assert!(begun.elapsed() < PATIENCE, "{dead}");
        sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(
        (&dead["status"], &dead["reason"]),
        (&json!("error"), &json!("sandbox_lost"))
    );
    let (_, found) = get(&gateway, "/sandboxes?state=error,stopped").await;
    assert_eq!(ids(&found), [id.as_str()]);
    let (status, again) = act(&gateway, &id, "restart").await;
    assert_eq!(
        (status, &again["status"]),
        (200, &json!("running")),
        "{again}"
    );
    assert_eq!(again["reason"], json!(null));
    gateway.stop().await;
}

#[tokio::test]
async fn a_list_comes_in_pages_and_by_what_is_looked_for() {
    let gateway = TestGateway::process().await;
    let mut all = Vec::new();
    for number in 0..5 {
        let parity = if number % 2 == 0 { "even" } else { "odd" };
        let order = json!({"metadata": {"parity": parity}, "template": "python"});
        all.push(made(&gateway, order).await);
    }
    let (mut path, mut seen) = ("/sandboxes?limit=2&state=running".to_owned(), Vec::new());
    loop {
        let (head, body) = gateway.exchange("GET", &path, &[], "").await;
        let page: Value = serde_json::from_str(&body).expect("JSON");
        assert!(ids(&page).len() <= 2);
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        let link = head.lines().find_map(|line| line.strip_prefix("link: <"));
        let Some((next, rel)) = link.and_then(|link| link.split_once('>')) else {
            break;
        };
        assert_eq!(rel, "; rel=\"next\"");
        next.clone_into(&mut path);
    }
    assert_eq!(seen, all, "each once, the oldest first");
    let (_, odd) = get(&gateway, "/sandboxes?metadata.parity=odd").await;
    assert_eq!(ids(&odd), [all[1].as_str(), all[3].as_str()]);
    let (_, none) = get(&gateway, "/sandboxes?metadata.parity=odd&template=base").await;
    assert_eq!(none, json!([]));
    let (_, none) = get(&gateway, "/sandboxes?state=stopped").await;
    assert_eq!(none, json!([]));
    gateway.stop().await;
}

#[tokio::test]
async fn who_has_too_many_or_comes_when_all_are_taken_is_told_to_wait() {
    let mut config = process_config();
    config.api.sandboxes = 2;
    config.api.sandboxes_per_hour = 3;
    config.limits.max_sandboxes = 2;
    config.limits.queue_length = 100;
    let gateway = TestGateway::with(config).await;
    let one = made(&gateway, json!({})).await;
    let other = made(&gateway, json!({})).await;
    let (status, told) = post(&gateway, "/sandboxes", json!({})).await;
    assert_eq!((status, &told["error"]), (429, &json!("rate_limited")));
    assert!(
        told["retryAfter"].as_u64().is_some_and(|wait| wait > 0),
        "{told}"
    );
    // A visitor takes the place of the one that is stopped.
    act(&gateway, &other, "stop").await;
    let visitor = gateway.visit().await;
    let (status, told) = act(&gateway, &other, "restart").await;
    assert_eq!(
        (status, &told["error"]),
        (503, &json!("at_capacity")),
        "{told}"
    );
    gateway
        .http("DELETE", &format!("/sandboxes/{other}"), &[], "")
        .await;
    let (head, told) = gateway.exchange("POST", "/sandboxes", &[], "").await;
    assert!(
        head.starts_with("HTTP/1.1 503") && told.contains("at_capacity"),
        "{head}{told}"
    );
    assert!(head.to_lowercase().contains("retry-after: 15"), "{head}");
    drop(visitor);
    gateway
        .http("DELETE", &format!("/sandboxes/{one}"), &[], "")
        .await;
    gateway.app.sandboxes.count();
    // What had no place does not count in the hour; what was started does.
    let begun = Instant::now();
    loop {
        let (status, told) = post(&gateway, "/sandboxes", json!({})).await;
        match status {
            503 => assert!(begun.elapsed() < PATIENCE, "{told}"),
            status => break assert_eq!(status, 201, "{told}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
    let (status, told) = post(&gateway, "/sandboxes", json!({})).await;
    assert_eq!(
        (status, &told["error"]),
        (429, &json!("rate_limited")),
        "{told}"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn nothing_is_left_for_a_client_that_left() {
    let gateway = TestGateway::process().await;
    for _ in 0..10 {
        let mut stream = TcpStream::connect(gateway.address)
            .await
            .expect("it listens");
        let request = format!(
            "POST /sandboxes HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n\r\n",
            gateway.address
        );
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it reads");
        // Wherever the creation is when it happens.
        sleep(Duration::from_millis(1)).await;
        drop(stream);
    }
    // Those whose answer was written before they left are theirs: their time ends them.
    let local = Caller::local();
    for held in gateway.app.fleet.list(&local) {
        held.kill().await;
    }
    gateway.assert_empty().await;
    gateway.stop().await;
}
