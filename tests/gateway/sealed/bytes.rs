//! Bytes come through gVisor, agent, link, gateway and a connection that breaks again and again, as
//! they are; and a flood of them holds nothing up.

use std::time::{Duration, Instant};

use belljar::config::Config;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::{NO_SOCKETS, Sealed, config, place, say, serve::Served, write_file};
use crate::harness::{Client, Heard, TestGateway};

/// Bytes of one stream.
const LENGTH: u64 = 50_000_000;

/// How often the client loses its connection on the way.
const CUTS: u64 = 20;

/// Python: so many bytes that any machine would make, then their SHA-256. In pieces of 1 MB,
/// because the sandbox has 128 MiB.
const STREAM: &str = r#"
import hashlib, os, random, sys
kind, length = sys.argv[1], int(sys.argv[2])
source, whole = random.Random(1), hashlib.sha256()
LANES = 250_000
MASK = int.from_bytes(b"\xff\xff\x0f\x00" * LANES, "little")
BASE = int.from_bytes(b"\x00\x00\x01\x00" * LANES, "little")
def piece():
    if kind == "random": return source.randbytes(4 * LANES)
    # Code points from U+10000 to U+10FFFF: four bytes each in UTF-8.
    points = (source.getrandbits(32 * LANES) & MASK) + BASE
    return points.to_bytes(4 * LANES, "little").decode("utf-32-le").encode()
def write(data):
    data = memoryview(data)
    while data: data = data[os.write(1, data):]
write(b"BEGIN")
for _ in range(length // (4 * LANES)):
    data = piece()
    whole.update(data)
    write(data)
write(whole.hexdigest().encode())
"#;

/// Have a stream made in a visitor's sandbox, lose the connection on the way `cuts` times, compare.
/// Returns the visitor and bytes a second.
pub async fn stream_exactly(
    gateway: &TestGateway,
    mut client: Client,
    kind: &str,
    length: u64,
    cuts: u64,
) -> (Client, f64) {
    let mut to_come = 1..=cuts;
    write_file(&mut client, "/tmp/stream.py", STREAM).await;
    client
        .input(format!(
            "stty raw -echo; python3 /tmp/stream.py {kind} {length}; read; stty sane\r"
        ))
        .await;
    client.until("BEGIN").await;
    let begun = Instant::now();
    let mut whole = Sha256::new();
    let mut seen = 0;
    let mut first = std::mem::take(&mut client.output);
    let digest = loop {
        let bytes = if first.is_empty() {
            match client.hear().await {
                Heard::Output(bytes) => bytes,
                Heard::Told(told) => {
                    // A gap, above all, has no place here.
                    assert_eq!(told["type"], "notice", "{told}");
                    continue;
                }
                Heard::Closed(code) => panic!("closed with {code} after {seen} bytes"),
            }
        } else {
            std::mem::take(&mut first)
        };
        let rest = usize::try_from(length - seen)
            .expect("it fits")
            .min(bytes.len());
        whole.update(&bytes[..rest]);
        seen += rest as u64;
        if rest < bytes.len() {
            client.output = bytes[rest..].to_vec();
            while client.output.len() < 64 {
                let Heard::Output(more) = client.hear().await else {
                    continue;
                };
                client.output.extend(more);
            }
            break String::from_utf8(client.output.drain(..64).collect()).expect("text");
        }
        if !to_come.is_empty() && seen > to_come.start() * length / (cuts + 1) {
            to_come.next();
            client = cut(gateway, client).await;
        }
    };
    let took = begun.elapsed();
    assert!(to_come.is_empty(), "it was cut as often as it should");
    let ours: String = whole
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(ours, digest, "{kind}");
    // It was the whole stream. Only now the terminal becomes one again: gVisor turns line ends into
    // pairs when output leaves its queue, not when it enters, so that this would change the last of
    // it on its way.
    client.input("\n").await;
    client.until("$ ").await;
    assert_eq!(client.run("echo alive").await, "alive\n[0]");
    (client, length as f64 / took.as_secs_f64())
}

/// Lose the connection with output on its way, and come back.
async fn cut(gateway: &TestGateway, client: Client) -> Client {
    let (session, token, offset) = client.cut();
    let mut client = gateway.resume(&session, &token, Some(offset)).await;
    client.ready().await;
    assert_eq!(client.offset, offset, "it goes on where it was");
    client
}

async fn both_streams(config: Config) {
    let runtime = config.docker.runtime.clone();
    let gateway = Sealed::with(config).await;
    for kind in ["random", "utf-8"] {
        let client = gateway.visit().await;
        let (client, speed) = stream_exactly(&gateway, client, kind, LENGTH, CUTS).await;
        gateway.end([client]).await;
        say!(
            "{runtime}, {kind}: {LENGTH} bytes exact over {CUTS} cuts, {:.1} MB/s (unoptimised)",
            speed / 1e6
        );
    }
    gateway.stop().await;
}

#[tokio::test]
async fn fifty_megabytes_arrive_exactly_over_twenty_cuts() {
    let Some(_place) = place().await else { return };
    both_streams(config()).await;
}

#[tokio::test]
async fn fifty_megabytes_arrive_exactly_by_way_of_attach() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    config.docker.runtime = NO_SOCKETS.into();
    both_streams(config).await;
}

/// Ctrl-C is read while the program writes as fast as it can, and little is on its way when it is.
#[tokio::test]
async fn control_c_ends_a_flood() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let mut client = gateway.visit().await;
    interrupt_floods(&mut client, 20).await;
    gateway.end([client]).await;
    gateway.stop().await;
}

/// Type Ctrl-C into floods, `rounds` times, and say how long it takes to the prompt.
pub async fn interrupt_floods(client: &mut Client, rounds: u64) {
    let mut took = Vec::new();
    for round in 0..rounds {
        client.input("yes\r").await;
        client.until("y\r\ny\r\n").await;
        // Let it flow for a while.
        let until = client.offset + 500_000 + 10_000 * round;
        while client.offset < until {
            client.hear().await;
        }
        client.output.clear();
        let begun = Instant::now();
        client.input("\x03").await;
        client.until("$ ").await;
        took.push(begun.elapsed());
    }
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    say!(
        "Ctrl-C during `yes` to the prompt: median {median:.1?}, worst {worst:.1?} of {rounds} (unoptimised)"
    );
    assert!(worst < Duration::from_secs(10), "{took:?}");
    assert_eq!(client.run("echo alive").await, "alive\n[0]");
}

/// A client that never reads costs what is on its way, not what its program would write.
#[tokio::test]
async fn a_client_that_never_reads_costs_no_memory() {
    let Some(_place) = place().await else { return };
    // A process of its own, whose memory is that of nobody else.
    let gateway = Served::start(&[]).await;
    let mut client = gateway.visit().await;
    // What is used once and then kept, as buffers and the allocator's arenas, is used now.
    client.input("yes | head -c 4000000\r").await;
    client.until("$ ").await;
    let before = gateway.memory();
    client.input("yes\r").await;
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        // In the second half it even lies: it has seen everything, it says.
        if begun.elapsed() > Duration::from_millis(2500) {
            client
                .send(json!({"type": "ack", "offset": u64::MAX}))
                .await;
        }
        most = most.max(gateway.memory());
        sleep(Duration::from_millis(50)).await;
    }
    let grown = most.saturating_sub(before);
    say!(
        "a client that never reads: the gateway grew by {} KiB to {} KiB in 5 s",
        grown >> 10,
        most >> 10
    );
    assert!(grown < 8 << 20, "{before} to {most}");
    // It has missed nothing.
    client.input("\x03").await;
    client.until("$ ").await;
    assert_eq!(client.run("echo alive").await, "alive\n[0]");
    client.send(json!({"type": "close"})).await;
    assert_eq!(client.closed().await, 1000);
    gateway.stop().await;
}
