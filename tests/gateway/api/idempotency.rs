//! A request that comes again is answered as the first one, and done once.

use serde_json::{Value, json};

use super::get;
use crate::harness::{TestGateway, process_config};

async fn create(gateway: &TestGateway, key: &str, body: &Value) -> (String, String) {
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", key),
    ];
    let body = body.to_string();
    gateway
        .exchange("POST", "/sandboxes", &headers, &body)
        .await
}

#[tokio::test]
async fn a_repeated_creation_makes_one_sandbox() {
    let gateway = TestGateway::process().await;
    let order = json!({"metadata": {"a": "b"}});
    let answers = tokio::join!(
        create(&gateway, "one", &order),
        create(&gateway, "one", &order),
        create(&gateway, "one", &order),
    );
    let (_, body) = &answers.0;
    let replayed = [&answers.0, &answers.1, &answers.2].map(|(head, other)| {
        assert!(head.starts_with("HTTP/1.1 201"), "{head}");
        assert_eq!(other, body);
        usize::from(head.contains("idempotent-replayed: true"))
    });
    assert_eq!(replayed.iter().sum::<usize>(), 2);
    let (head, told) = create(&gateway, "one", &json!({})).await;
    assert!(head.starts_with("HTTP/1.1 422"), "{head}");
    assert!(told.contains("idempotency_key_reused"), "{told}");
    create(&gateway, "two", &order).await;
    let (_, all) = get(&gateway, "/sandboxes").await;
    assert_eq!(all.as_array().map(Vec::len), Some(2));
    let (head, _) = create(&gateway, &"x".repeat(300), &order).await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    gateway.stop().await;
}

#[tokio::test]
async fn what_has_failed_may_be_tried_again_with_the_same_key() {
    let mut config = process_config();
    config.api.sandboxes = 1;
    let gateway = TestGateway::with(config).await;
    let (_, first) = create(&gateway, "first", &json!({})).await;
    let first: Value = serde_json::from_str(&first).expect("JSON");
    let (head, _) = create(&gateway, "again", &json!({})).await;
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    let path = format!("/sandboxes/{}", first["id"].as_str().expect("an id"));
    gateway.http("DELETE", &path, &[], "").await;
    let (head, _) = create(&gateway, "again", &json!({})).await;
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    gateway.stop().await;
}
