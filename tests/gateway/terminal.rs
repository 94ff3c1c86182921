//! A visitor's life: prompt, resize, leave, come back, end.

use std::sync::Arc;

use belljar::config::Config;
use futures::future::join_all;
use serde_json::json;

use crate::harness::{TestGateway, visits};

visits! {
    on processes, engine, cluster: {
        a_visitor_gets_a_shell_and_its_exit_code,
        a_resize_reaches_the_program,
        ctrl_c_is_not_held_up_by_what_nobody_reads,
    }
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
        .input("sh -c \"trap 'echo program \\$(stty size); exit' WINCH; echo wai''ting; while :; do sleep 0.1; done\"\r")
        .await;
    client.until("waiting\r\n").await;
    client
        .send(json!({"type": "resize", "cols": 132, "rows": 43}))
        .await;
    client.until("program 43 132\r\n").await;
    gateway.stop().await;
}

/// Lines typed ahead go with it, as they do on Linux.
pub async fn ctrl_c_is_not_held_up_by_what_nobody_reads(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    client
        .input("sh -c 'echo star''ted; exec sleep 1000'\r")
        .await;
    client.until("started\r\n").await;
    client.input("echo typed ahead\r".repeat(3)).await;
    client.input("\x03").await;
    let seen = client.until("$ ").await;
    assert!(!seen.contains("\ntyped ahead"), "{seen}");
    assert_eq!(client.run("echo after").await, "after\n[0]");
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
