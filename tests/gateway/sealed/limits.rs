//! What a visitor can use up: only what is the visitor's own.

use std::time::{Duration, Instant};

use belljar::config::Config;
use bytesize::ByteSize;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{Sealed, config, engine, place, python, say, until_or_exit, write_file};
use crate::harness::{Client, PATIENCE, TestGateway, visits};

visits! {
    on engine, cluster: {
        a_million_tiny_files_end_at_worst_ones_own_session,
        limits_of_a_process_hold,
        a_fork_bomb_ends_in_errors_and_the_shell_lives_on,
        a_memory_hog_ends_its_own_session_and_says_why,
        root_of_a_namespace_of_ones_own_ends_only_ones_own_session,
        a_template_sets_the_limits,
    }
}

/// The neighbour notices nothing: it answers, and so does the gateway.
async fn assert_untouched(gateway: &TestGateway, neighbour: &mut Client) {
    assert_eq!(neighbour.run("echo $((6*7))").await, "42\n[0]");
    assert_eq!(gateway.http("GET", "/health", &[], "").await.0, 200);
}

#[tokio::test]
async fn a_full_disk_is_the_visitors_own_and_the_shell_lives_on() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let mut client = gateway.visit().await;
    for (path, mib) in [("/tmp/big", 10), ("/dev/shm/big", 1), ("~/big", 50)] {
        let write =
            format!("dd if=/dev/zero of={path} bs=1M count=100 2>&1 | grep -c 'No space left'");
        assert_eq!(client.run(&write).await, "1\n[0]", "{path}");
        let size = client.run(&format!("stat -c %s {path}")).await;
        assert_eq!(size, format!("{}\n[0]", mib << 20), "{path}");
    }
    // All of them full at once is still less than the memory.
    let seen = client.run("echo one more >~/more").await;
    assert!(seen.contains("No space left on device"), "{seen}");
    let seen = client
        .run("rm /tmp/big ~/big && echo one more >~/more && cat ~/more")
        .await;
    assert_eq!(seen, "one more\n[0]");
    assert_eq!(client.run("true").await, "[0]");
    gateway.end([client]).await;
    gateway.stop().await;
}

/// gVisor keeps what it knows of each file outside of the file system's size, so that very many
/// tiny ones reach the memory limit first.
pub async fn a_million_tiny_files_end_at_worst_ones_own_session(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut neighbour = gateway.visit_wide().await;
    let mut client = gateway.visit_wide().await;
    let program = "import os, errno
os.chdir('/home/sandbox')
try:
  for i in range(10**6): open(str(i), 'wb').write(b'x')
except OSError as e: print(errno.errorcode[e.errno], flush=True)";
    write_file(&mut client, "/tmp/program.py", program).await;
    client.input("python3 /tmp/program.py\r").await;
    match until_or_exit(&mut client, "ENOSPC\r\n").await {
        Ok(()) => client.send(json!({"type": "close"})).await,
        Err(exit) => assert_eq!(exit["reason"], "out_of_memory", "{exit}"),
    }
    client.closed().await;
    assert_untouched(&gateway, &mut neighbour).await;
    gateway.leave([neighbour]).await;
    gateway.stop().await;
}

pub async fn limits_of_a_process_hold(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit_wide().await;
    let limits = client
        .run("ulimit -Hu; ulimit -Hn; ulimit -Hf; ulimit -Hc")
        .await;
    assert_eq!(limits, "64\n1024\n1048576\n0\n[0]");

    let open = "import os, errno\ntry:\n  n = 0\n  while True: os.dup(0); n += 1\nexcept OSError as e: print(errno.errorcode[e.errno], n > 1000, n < 1024)";
    assert_eq!(python(&mut client, open).await, "EMFILE True True\n[0]");
    // Sparse, so that the size is the limit and not the space.
    let seen = client.run("(truncate -s 1G ~/ok) && rm ~/ok; (truncate -s 2G ~/no) 2>/dev/null || stat -c %s ~/no 2>&1").await;
    assert!(!seen.contains("2147483648"), "{seen}");
    gateway.leave([client]).await;
    gateway.stop().await;
}

/// On a cluster the size of a directory is the cluster's to hold (docs/configuration.md).
#[tokio::test]
async fn a_template_sets_the_size_of_every_place_to_write() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    let mut small = config.templates["base"].clone();
    small.home_size = ByteSize::mib(2);
    small.tmp_size = ByteSize::mib(3);
    config.templates.insert("small".into(), small);
    let gateway = Sealed::with(config).await;
    for (template, kib) in [
        ("base", [1024, 51_200, 10_240]),
        ("small", [1024, 2048, 3072]),
    ] {
        let mut client = gateway.visit_template(template).await;
        let sizes = client
            .run("df --output=size /dev/shm ~ /tmp | tail -n +2 | tr -d ' '")
            .await;
        let [shm, home, tmp] = kib;
        assert_eq!(sizes, format!("{shm}\n{home}\n{tmp}\n[0]"), "{template}");
        gateway.end([client]).await;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn busy_loops_share_half_a_cpu() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let mut client = gateway.visit().await;
    // As the engine counts it: a clock inside counts time that it was kept waiting, too.
    let container = gateway.namespace.container_of(&client.session).await;
    let id = container["Id"].as_str().expect("an id");
    let used = async || {
        let path = format!("/containers/{id}/stats?stream=false&one-shot=true");
        let (_, stats) = engine("GET", &path, &Value::Null).await;
        let used = stats["cpu_stats"]["cpu_usage"]["total_usage"].as_u64();
        (
            Duration::from_nanos(used.expect("a number")),
            Instant::now(),
        )
    };
    client
        .run("for i in 1 2 3; do (while :; do :; done) & done")
        .await;
    let (before, begun) = used().await;
    sleep(Duration::from_secs(3)).await;
    let (after, now) = used().await;
    let share = after.saturating_sub(before).as_secs_f64() / (now - begun).as_secs_f64();
    say!("three busy loops in half a CPU: {share:.2} CPUs");
    assert!(share < 0.75, "{share}");
    gateway.leave([client]).await;
    gateway.stop().await;
}

pub async fn a_fork_bomb_ends_in_errors_and_the_shell_lives_on(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut neighbour = gateway.visit_wide().await;
    let mut client = gateway.visit_wide().await;
    client.input(":(){ :|:& };:\r").await;
    client.until("Resource temporarily unavailable").await;
    let begun = Instant::now();
    // No process is needed for this; it comes between the bomb's own complaints.
    client.input("\recho an''swer\r").await;
    client.until("answer\r\n").await;
    say!("fork bomb: the shell answered after {:?}", begun.elapsed());
    assert_untouched(&gateway, &mut neighbour).await;
    // The bomb dies away, and then there is room for processes again.
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < 3 * PATIENCE, "no process can be started");
        client.input("/bin/echo ro''om\r").await;
        if timeout(Duration::from_secs(2), client.until("room\r\n"))
            .await
            .is_ok()
        {
            break;
        }
        client.input("\x03").await;
        assert_untouched(&gateway, &mut neighbour).await;
    }
    say!("fork bomb: processes again after {:?}", begun.elapsed());
    assert_untouched(&gateway, &mut neighbour).await;
    gateway.leave([client, neighbour]).await;
    gateway.stop().await;
}

pub async fn a_memory_hog_ends_its_own_session_and_says_why(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut neighbour = gateway.visit_wide().await;
    for hog in ["tail /dev/zero", "python3 -c 'x=bytearray(500*2**20)'"] {
        let mut client = gateway.visit_wide().await;
        let begun = Instant::now();
        client.input(format!("{hog}\r")).await;
        let exit = client.told("exit").await;
        say!("memory hog ({hog}): ended after {:?}", begun.elapsed());
        assert_eq!(exit["reason"], "out_of_memory", "{exit}");
        assert_eq!(client.closed().await, 1011);
        let gone = gateway.left(1).await;
        say!("memory hog: its sandbox gone {gone:?} later");
        assert_untouched(&gateway, &mut neighbour).await;
    }
    gateway.leave([neighbour]).await;
    gateway.stop().await;
}

/// gVisor gives every process the right to make itself root of a user namespace, where the limit on
/// processes does not count and a tmpfs needs no size. What is left is the outer wall: the sandbox
/// ends, and nothing else notices.
pub async fn root_of_a_namespace_of_ones_own_ends_only_ones_own_session(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut neighbour = gateway.visit_wide().await;

    let mut client = gateway.visit_wide().await;
    assert_eq!(client.run("unshare -Ur id -u").await, "0\n[0]");
    client
        .input("unshare -Urm sh -c 'mount -t tmpfs none /mnt && cat /dev/zero >/mnt/x'\r")
        .await;
    assert_eq!(client.told("exit").await["reason"], "out_of_memory");
    assert_eq!(client.closed().await, 1011);
    assert_untouched(&gateway, &mut neighbour).await;

    let mut client = gateway.visit_wide().await;
    write_file(&mut client, "/tmp/bomb", "bomb() { bomb | bomb & }\nbomb").await;
    client.input("unshare -Ur bash /tmp/bomb\r").await;
    let exit = client.told("exit").await;
    say!("fork bomb without a limit: {}", exit["reason"]);
    let reason = exit["reason"].as_str();
    assert!(
        matches!(reason, Some("sandbox_lost" | "out_of_memory")),
        "{exit}"
    );
    assert_eq!(client.closed().await, 1011);
    assert_untouched(&gateway, &mut neighbour).await;

    gateway.leave([neighbour]).await;
    gateway.stop().await;
}

pub async fn a_template_sets_the_limits(mut config: Config) {
    let template = config.templates.get_mut("base").expect("there is a base");
    template.memory = ByteSize::mib(256);
    template.pids = 40;
    template.open_files = 256;
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit_wide().await;
    assert_eq!(client.run("ulimit -u; ulimit -n").await, "40\n256\n[0]");
    // More than the default's 128 MiB, less than 256.
    let seen = client
        .run("python3 -c 'print(len(bytearray(180*2**20)))'")
        .await;
    assert_eq!(seen, "188743680\n[0]");
    gateway.leave([client]).await;
    gateway.stop().await;
}
