//! Guests and recordings in front of real sandboxes.

use belljar::config::Config;
use serde_json::json;

use crate::harness::{TestGateway, visits};
use crate::recordings::{Cast, recorded};
use crate::shares::{guest, share};

visits! {
    on engine, cluster: {
        guests_watch_and_type_in_a_sealed_sandbox_and_never_slow_it,
        a_sealed_session_is_recorded_to_its_last_byte,
    }
}

pub async fn guests_watch_and_type_in_a_sealed_sandbox_and_never_slow_it(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut owner = gateway.visit_wide().await;
    let (_, read) = share(&gateway, &owner, "read").await;
    let (_, write) = share(&gateway, &owner, "write").await;
    let (mut silent, _) = guest(&gateway, &owner, &read).await;
    silent.acknowledge = false;
    let (mut typist, _) = guest(&gateway, &owner, &write).await;
    typist.until("$ ").await;
    assert_eq!(typist.run("dmesg | grep -c gVisor").await, "1\n[0]");
    owner.until("$ ").await;

    let seen = owner.run("head -c 2000000 /dev/zero | tr '\\0' x").await;
    assert_eq!(seen.len(), 2_000_000 + "[0]".len());
    while silent.offset < 262_144 {
        silent.hear().await;
    }
    silent.acknowledge = true;
    silent
        .send(json!({"type": "ack", "offset": silent.offset}))
        .await;
    silent.told("gap").await;
    owner.run("echo the end").await;
    silent.until("the end\r\n").await;
    gateway.stop().await;
}

pub async fn a_sealed_session_is_recorded_to_its_last_byte(config: Config) {
    let (config, dir) = recorded(config);
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit_wide().await;
    client.input("seq 1 20000; exit 5\r").await;
    assert_eq!(client.told("exit").await["code"], 5);
    client.closed().await;
    gateway.assert_empty().await;
    let path = format!("/sessions/{}/recording", client.session);
    let bearer = format!("Bearer {}", client.token);
    let headers = [("authorization", bearer.as_str())];
    let (status, body) = gateway.http("GET", &path, &headers, "").await;
    assert_eq!(status, 200);
    let shown = Cast::parse(&body).all("o");
    let numbers: String = (1..=20_000).map(|n| format!("{n}\r\n")).collect();
    assert!(shown.contains(&numbers), "{} bytes", shown.len());
    gateway.stop().await;
    std::fs::remove_dir_all(dir).expect("it is ours");
}
