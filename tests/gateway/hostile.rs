//! Visitors, pages and programs that mean harm, each with the exact answer it gets.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error as WsError;

use crate::harness::{Client, TestGateway};

mod floods;
mod frames;
mod identity;
mod input;
mod programs;
mod silence;

const V1: (&str, &str) = ("sec-websocket-protocol", "belljar.v1");

/// Status and body of a refused upgrade.
fn refusal(refused: Result<Client, WsError>) -> (u16, Value) {
    match refused {
        Err(WsError::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let json = serde_json::from_slice(body).unwrap_or(Value::Null);
            (response.status().as_u16(), json)
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the upgrade was accepted"),
    }
}

/// The error that a refused `belljar.v1` client is told, and the close code.
async fn told_why(mut client: Client) -> (String, u16) {
    let error = client.told("error").await;
    let code = client.closed().await;
    (error["code"].as_str().expect("a code").to_owned(), code)
}

fn error(code: &str, close: u16) -> (String, u16) {
    (code.to_owned(), close)
}

/// The next visitor finds everything in order.
async fn assert_well(gateway: &TestGateway) {
    let mut client = gateway.visit().await;
    assert_eq!(client.run("echo well").await, "well\n[0]");
    client.send(json!({"type": "close"})).await;
    assert_eq!(client.closed().await, 1000);
}
