//! A visitor's life: prompt, resize, leave, come back, end.

use serde_json::json;

use crate::harness::TestGateway;

#[tokio::test]
async fn a_visitor_gets_a_shell_and_its_exit_code() {
    let gateway = TestGateway::process().await;
    let mut client = gateway.visit().await;
    assert_eq!(client.run("echo $((6*7))").await, "42\n[0]");
    assert_eq!(client.run("stty size").await, "24 80\n[0]");
    client.input("exit 7\r").await;
    let exit = client.told("exit").await;
    assert_eq!(
        (exit["code"].as_i64(), exit["reason"].as_str()),
        (Some(7), Some("exited"))
    );
    assert_eq!(client.closed().await, 1000);
    gateway.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_resize_reaches_the_program() {
    let gateway = TestGateway::process().await;
    let mut client = gateway.visit().await;
    client
        .send(json!({"type": "resize", "cols": 132, "rows": 43}))
        .await;
    client
        .input("trap 'stty size' WINCH; stty size; sleep 0.2; stty size\r")
        .await;
    client.until("43 132").await;
    gateway.stop().await;
}
