//! Too much of everything.

use std::time::Duration;

use belljar::config::Config;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Client, PATIENCE, TestGateway, process_config, visits};
use crate::limits::SlowAgent;
use crate::raw::{BINARY, FIN, Raw, TEXT, alone, frame, resident};

visits! {
    on processes, cluster: {
        of_ten_thousand_sizes_the_last_counts,
        a_megabyte_is_pasted_whole_although_the_acknowledgements_come_behind_it,
        a_program_that_reads_nothing_can_be_interrupted_and_removed,
    }
}

pub async fn of_ten_thousand_sizes_the_last_counts(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    client
        .run("n=0; trap 'n=$((n+1))' WINCH; size() { stty size; }")
        .await;
    let (mut sink, mut stream) = (&mut client.socket).split();
    let flood = async {
        for n in 0..10_000_u32 {
            let (cols, rows) = (80 + n % 100, 24 + n % 50);
            let resize = json!({"type": "resize", "cols": cols, "rows": rows}).to_string();
            sink.feed(Message::Text(resize.into()))
                .await
                .expect("it reads");
        }
        let last = json!({"type": "resize", "cols": 101, "rows": 37}).to_string();
        sink.feed(Message::Text(last.into()))
            .await
            .expect("it reads");
        // Behind them all, on the same connection.
        let ping = json!({"type": "ping", "id": 1}).to_string();
        sink.send(Message::Text(ping.into()))
            .await
            .expect("it reads");
    };
    let answered = async {
        loop {
            match timeout(PATIENCE, stream.next()).await.expect("in time") {
                Some(Ok(Message::Text(text))) if text.contains("pong") => return,
                Some(Ok(Message::Binary(_) | Message::Ping(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let begun = Instant::now();
    tokio::join!(flood, answered, async {
        let mut other = gateway.visit().await;
        assert_eq!(other.run("echo calm").await, "calm\n[0]");
    });
    drop((sink, stream));
    // One in 50 ms at most, and the one at the end.
    let most = begun.elapsed().as_millis() / 50 + 2;
    loop {
        if client.run("size").await.starts_with("37 101\n") {
            break;
        }
    }
    let counted = client.run("echo $n").await;
    let counted: u128 = counted.split('\n').next().unwrap().parse().unwrap();
    assert!((1..=most).contains(&counted), "{counted} of at most {most}");
    gateway.stop().await;
}

/// A paste as a browser sends it: all of it is in the socket's queue before the first
/// acknowledgement, which therefore comes after.
pub async fn a_megabyte_is_pasted_whole_although_the_acknowledgements_come_behind_it(
    config: Config,
) {
    const LENGTH: usize = 1024 * 1024;
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    let text: Vec<u8> = (0..LENGTH)
        .map(|i| {
            if i % 64 == 63 {
                b'\n'
            } else {
                b'a' + u8::try_from(i % 26).unwrap()
            }
        })
        .collect();
    client
        .input("stty -echo; printf RE''ADY; cat; stty echo\r")
        .await;
    client.until("READY").await;

    let (mut sink, mut stream) = (&mut client.socket).split();
    let (acks, mut due) = mpsc::unbounded_channel();
    let mut offset = client.offset;
    let send = async {
        for chunk in text.chunks(64 * 1024) {
            let message = Message::Binary(chunk.to_vec().into());
            sink.send(message).await.expect("it reads");
        }
        while let Some(ack) = due.recv().await {
            sink.send(Message::Text(ack)).await.expect("it reads");
        }
    };
    // As a terminal prints it.
    let expected = String::from_utf8(text.clone())
        .unwrap()
        .replace('\n', "\r\n");
    let receive = async {
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            match timeout(PATIENCE, stream.next()).await.expect("no deadlock") {
                Some(Ok(Message::Binary(bytes))) => {
                    offset += bytes.len() as u64;
                    let ack = json!({"type": "ack", "offset": offset}).to_string();
                    acks.send(ack.into()).expect("it is sent");
                    seen.extend_from_slice(&bytes);
                }
                Some(Ok(Message::Text(_) | Message::Ping(_))) => {}
                other => panic!("{other:?}"),
            }
        }
        drop(acks);
        seen
    };
    let ((), seen) = tokio::join!(send, receive);
    assert!(seen == expected.as_bytes(), "what was pasted is printed");
    gateway.stop().await;
}

/// Whoever reads nothing costs the gateway nothing, whatever he claims to have read.
#[tokio::test]
async fn clients_that_never_read_cost_no_memory_and_disturb_nobody() {
    let body = async {
        let gateway = TestGateway::process().await;
        let mut other = gateway.visit().await;
        // Whatever is allocated once is allocated by now.
        other.run("yes | head -c 8000000 | tail -c 1").await;
        let silent = |mut client: Client| async {
            client.input("yes 0123456789abcdef\r").await;
            client
        };
        let warm = silent(gateway.visit().await).await;
        sleep(Duration::from_millis(500)).await;

        let before = resident();
        let quiet = silent(gateway.visit().await).await;
        let mut liar = silent(gateway.visit().await).await;
        let mut most = before;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(6) {
            let claim = json!({"type": "ack", "offset": u64::MAX}).to_string();
            let claim = liar.socket.send(Message::Text(claim.into()));
            // Not at all once the gateway does not read him any more.
            let _ = timeout(Duration::from_millis(20), claim).await;
            assert_eq!(other.run("echo $((20+3))").await, "23\n[0]");
            most = most.max(resident());
        }
        let grown = (most - before) / 1024;
        println!("grown by {grown} KiB");
        assert!(grown < 8 * 1024, "grown by {grown} KiB");
        drop((warm, quiet, liar));
        gateway.stop().await;
    };
    alone(
        "hostile::floods::clients_that_never_read_cost_no_memory_and_disturb_nobody",
        body,
    )
    .await;
}

/// Send until the gateway takes no more; how many bytes that were.
pub async fn flood(raw: &mut Raw, bytes: &[u8], most: usize) -> usize {
    use tokio::io::AsyncWriteExt;
    let mut sent = 0;
    while sent < most {
        // What the kernel's buffers take is not the gateway's memory.
        match timeout(
            Duration::from_secs(2),
            raw.stream.write(&bytes[sent % bytes.len()..]),
        )
        .await
        {
            Ok(written) => sent += written.expect("it is still there"),
            Err(_) => break,
        }
    }
    sent
}

/// More than is kept until there is a terminal; the rest waits in the visitor's own machine.
#[tokio::test]
async fn what_is_typed_before_there_is_a_terminal_is_not_lost() {
    let slow = SlowAgent::new("early");
    let mut config = process_config();
    config.agent.clone_from(&slow.0);
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.connect("/ws").await;
    for n in 0..400 {
        client.input(format!("echo o{n}'u't\r")).await;
    }
    client.ready().await;
    for n in 0..400 {
        client.until(&format!("o{n}ut\r\n")).await;
    }
    gateway.stop().await;
}

/// Start a program that reads nothing; it is in the foreground when this returns.
async fn deaf(client: &mut Client) {
    client.input("sh -c 'echo de''af; exec sleep 1000'\r").await;
    client.until("deaf\r\n").await;
}

pub async fn a_program_that_reads_nothing_can_be_interrupted_and_removed(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    deaf(&mut client).await;
    // What a terminal holds of lines nobody reads is 4 KiB, here as anywhere; a Ctrl-C behind more
    // than that waits with it.
    client.input("x\n".repeat(1000)).await;
    client.input("\x03").await;
    client.until("$ ").await;
    client.send(json!({"type": "close"})).await;
    assert_eq!(client.closed().await, 1000);

    // Ten times what the terminal, the link and the queue take: from there on the gateway does not
    // read this socket, but another can end the session.
    let mut client = gateway.visit().await;
    deaf(&mut client).await;
    let flood = async {
        loop {
            let lines = Message::Binary("x\n".repeat(30_000).into());
            if client.socket.send(lines).await.is_err() {
                return;
            }
        }
    };
    let stuck = timeout(Duration::from_secs(1), flood).await;
    assert!(stuck.is_err(), "the gateway has closed");
    let path = format!("/sessions/{}?token={}", client.session, client.token);
    let (status, _) = gateway.json("DELETE", &path, &[], Value::Null).await;
    assert_eq!(status, 200);
    drop(client);
    gateway.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn input_that_nobody_reads_is_bounded() {
    let body = async {
        let mut config = process_config();
        config.limits.commands_per_minute = 60;
        let gateway = TestGateway::with(config).await;
        let mut warm = gateway.visit().await;
        warm.run("true").await;
        for (name, frames) in [
            (
                "large frames",
                frame(FIN | BINARY, &[b"x".repeat(60_000), vec![b'\n']].concat()),
            ),
            ("small frames", frame(FIN | BINARY, b"x\n").repeat(1000)),
            (
                "small frames behind large ones",
                [
                    frame(
                        FIN | TEXT,
                        &[b"{\"type\":\"extend\"}".to_vec(), b" ".repeat(8000)].concat(),
                    ),
                    frame(FIN | BINARY, b"\n"),
                ]
                .concat(),
            ),
        ] {
            let mut raw = Raw::visit(&gateway).await;
            raw.send(&frame(FIN | BINARY, b"sleep 1000\r")).await;
            raw.until("sleep 1000\r\n").await;
            let before = resident();
            let sent = flood(&mut raw, &frames, 256 * 1024 * 1024).await;
            let grown = resident().saturating_sub(before) / 1024;
            println!("{name}: {sent} bytes sent, grown by {grown} KiB");
            assert!(
                sent < 256 * 1024 * 1024,
                "{name}: the gateway takes everything"
            );
            assert!(grown < 4 * 1024, "{name}: grown by {grown} KiB");
        }
        assert_eq!(warm.run("echo well").await, "well\n[0]");
        gateway.stop().await;
    };
    alone("hostile::floods::input_that_nobody_reads_is_bounded", body).await;
}
