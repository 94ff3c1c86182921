//! The API for programs, on plain processes.

use serde_json::{Value, json};

use crate::harness::TestGateway;

mod auth;

mod embed;

mod idempotency;

mod operator;

mod sandboxes;

pub mod hostile;

pub mod http;

/// A sandbox of this order; its id.
async fn made(gateway: &TestGateway, order: Value) -> String {
    let (status, made) = gateway.json("POST", "/api/v1/sandboxes", &[], order).await;
    assert_eq!(status, 201, "{made}");
    made["id"].as_str().expect("an id").to_owned()
}

/// `GET` of a path below the API's root.
async fn get(gateway: &TestGateway, path: &str) -> (u16, Value) {
    let path = format!("/api/v1{path}");
    gateway.json("GET", &path, &[], json!(null)).await
}

/// `POST` to a path below the API's root.
async fn post(gateway: &TestGateway, path: &str, body: Value) -> (u16, Value) {
    let path = format!("/api/v1{path}");
    gateway.json("POST", &path, &[], body).await
}

/// An action on a sandbox.
async fn act(gateway: &TestGateway, id: &str, action: &str) -> (u16, Value) {
    let body = json!({"action": action});
    post(gateway, &format!("/sandboxes/{id}/actions"), body).await
}
