//! A visitor's life: prompt, resize, leave, come back, end.

use std::sync::Arc;

use belljar::config::Config;
use futures::future::join_all;
use serde_json::json;

use crate::harness::{TestGateway, visits};

visits! { on processes, of terminal:
    a_visitor_gets_a_shell_and_its_exit_code,
    a_resize_reaches_the_program,
}

pub async fn a_visitor_gets_a_shell_and_its_exit_code(config: Config) {
    let gateway = TestGateway::with(config).await;
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

pub async fn a_resize_reaches_the_program(config: Config) {
    let gateway = TestGateway::with(config).await;
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

/// Every wake-up is somebody's: none may be lost, whoever else is woken at that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_visitors_at_once_each_get_every_answer() {
    let gateway = Arc::new(TestGateway::process().await);
    let visits = (0..16).map(|visitor| {
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let mut client = gateway.visit().await;
            for n in 0..60 {
                let answer = client.run(&format!("echo $(({visitor}*{n}))")).await;
                assert_eq!(answer, format!("{}\n[0]", visitor * n));
            }
            client.send(json!({"type": "close"})).await;
            assert_eq!(client.closed().await, 1000);
        })
    });
    for visit in join_all(visits.collect::<Vec<_>>()).await {
        visit.expect("no panic");
    }
    let gateway = Arc::into_inner(gateway).expect("the visitors are gone");
    gateway.stop().await;
}

/// An agent that stands still breaks nothing, so it has to be asked.
#[tokio::test]
async fn a_sandbox_that_stands_still_is_given_up() {
    let gateway = TestGateway::process().await;
    let mut client = gateway.visit().await;
    client.input("kill -STOP $PPID\r").await;
    let exit = client.told("exit").await;
    assert_eq!(exit["reason"], "sandbox_lost");
    assert_eq!(client.closed().await, 1011);
    gateway.assert_empty().await;
    gateway.stop().await;
}
