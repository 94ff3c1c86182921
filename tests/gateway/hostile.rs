//! Visitors, pages and programs that mean harm, each with the exact answer it gets.

use std::time::Duration;

use belljar::config::Config;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::harness::{Client, Heard, PATIENCE, TestGateway, process_config, visits};
use crate::limits::SlowAgent;
use crate::raw::{BINARY, CONTINUATION, FIN, PING, Raw, TEXT, alone, frame, resident};

visits! {
    on processes, cluster: {
        output_that_looks_like_control_is_output,
        every_byte_a_program_can_print_arrives,
        a_message_may_be_64_kib_and_no_more,
        a_message_in_many_pieces_is_one_message,
        pieces_without_end_are_too_big,
        a_text_frame_must_be_utf_8,
        a_client_that_closes_is_answered,
        of_ten_thousand_sizes_the_last_counts,
        a_megabyte_is_pasted_whole_although_the_acknowledgements_come_behind_it,
        a_program_that_reads_nothing_can_be_interrupted_and_removed,
        an_id_alone_opens_nothing,
        a_ping_may_come_before_the_token,
        bad_messages_are_explained_until_there_are_too_many,
        sizes_beyond_all_measure_are_brought_into_range,
    }
}

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

// --- programs --------------------------------------------------------------------------------------

pub async fn output_that_looks_like_control_is_output(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    for forged in [
        r#"{"type":"exit","code":0,"signal":null,"reason":"exited"}"#,
        r#"{"type":"error","code":"rate_limited","message":"Pay up."}"#,
        r#"{"type":"ready","session":"sess_0","token":"t","offset":0}"#,
    ] {
        let printed = client.run(&format!("printf '%s\\n' '{forged}'")).await;
        assert_eq!(printed, format!("{forged}\n[0]"));
    }
    assert!(client.told.is_empty(), "{:?}", client.told);
    gateway.stop().await;
}

pub async fn every_byte_a_program_can_print_arrives(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    client
        .input("stty raw -echo; printf RE''ADY; for i in {0..255}; do printf \\\\x$(printf %02x $i); done; printf DO''NE; stty sane\r")
        .await;
    client.until("READY").await;
    while !client.output.ends_with(b"DONE") && client.output.len() < 260 {
        match client.hear().await {
            Heard::Output(bytes) => client.output.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    let expected: Vec<u8> = (0..=255).chain(*b"DONE").collect();
    assert_eq!(client.output[..260], expected);
    gateway.stop().await;
}

// --- frames ----------------------------------------------------------------------------------------

pub async fn a_message_may_be_64_kib_and_no_more(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    client.input("head -c 65536 | wc -c\r").await;
    client.until("wc -c\r\n").await;
    let mut largest = [b"x".repeat(63), vec![b'\n']].concat().repeat(1024);
    client.input(&largest).await;
    client.until("65536\r\n").await;

    for over in [1, 1024 * 1024] {
        let mut client = gateway.visit().await;
        largest.resize(65536 + over, b'x');
        // The gateway need not read to the end what it has refused.
        let message = Message::Binary(largest.clone().into());
        let (mut sink, mut stream) = (&mut client.socket).split();
        let told = async {
            let mut told = Value::Null;
            loop {
                match stream.next().await {
                    Some(Ok(Message::Text(text))) => {
                        told = serde_json::from_str(&text).expect("JSON");
                    }
                    Some(Ok(Message::Close(Some(frame)))) => return (told, frame.code),
                    Some(Ok(_)) => {}
                    other => panic!("{other:?} before a close frame, told {told}"),
                }
            }
        };
        let (_, (told, code)) = tokio::join!(sink.send(message), told);
        drop((sink, stream));
        assert_eq!(told["code"], "message_too_big");
        assert!(told["message"].as_str().unwrap().contains("65536 bytes"));
        assert_eq!(code, CloseCode::Size);
        // Whoever made that mistake may come back.
        let (session, token, _) = client.cut();
        let mut client = gateway.resume(&session, &token, None).await;
        client.ready().await;
        client.until("$ ").await;
    }
    gateway.stop().await;
}

pub async fn a_message_in_many_pieces_is_one_message(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut raw = Raw::visit(&gateway).await;
    let command = b"echo in $((1+1)) pieces\r";
    let mut frames = frame(BINARY, &command[..1]);
    for byte in &command[1..command.len() - 1] {
        frames.extend(frame(CONTINUATION, &[*byte]));
        // Empty pieces and pings may stand between.
        frames.extend(frame(CONTINUATION, b""));
        frames.extend(frame(FIN | PING, b"?"));
    }
    frames.extend(frame(FIN | CONTINUATION, &command[command.len() - 1..]));
    raw.send(&frames).await;
    raw.until("in 2 pieces\r\n").await;
    gateway.stop().await;
}

pub async fn pieces_without_end_are_too_big(config: Config) {
    let gateway = TestGateway::with(config).await;
    for first in [BINARY, TEXT] {
        let mut raw = Raw::visit(&gateway).await;
        raw.send(&frame(first, &[b'x'; 1024])).await;
        let more = frame(CONTINUATION, &[b'x'; 1024]).repeat(64);
        raw.send(&more).await;
        let (told, code) = raw.farewell().await;
        assert_eq!(
            (told["code"].as_str(), code),
            (Some("message_too_big"), 1009)
        );
    }
    assert_well(&gateway).await;
    gateway.stop().await;
}

pub async fn a_text_frame_must_be_utf_8(config: Config) {
    let gateway = TestGateway::with(config).await;
    let half = "é".as_bytes();
    for frames in [
        frame(FIN | TEXT, b"{\"type\":\"\xff\xfe\"}"),
        frame(FIN | TEXT, &half[..1]),
        [frame(TEXT, &half[..1]), frame(FIN | CONTINUATION, b"x")].concat(),
    ] {
        let mut raw = Raw::visit(&gateway).await;
        raw.send(&frames).await;
        let (told, code) = raw.farewell().await;
        assert_eq!((told["code"].as_str(), code), (Some("invalid_text"), 1007));
    }
    // A character may well lie across the pieces of one message.
    let mut raw = Raw::visit(&gateway).await;
    let whole = [
        frame(TEXT, b"{\"type\":\"ping\",\"id\":7,\"x\":\"\xc3"),
        frame(FIN | CONTINUATION, b"\xa9\"}"),
    ];
    raw.send(&whole.concat()).await;
    loop {
        match raw.next().await {
            Some((TEXT, json)) => {
                assert_eq!(json, br#"{"type":"pong","id":7}"#);
                break;
            }
            Some(_) => {}
            None => panic!("closed"),
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn who_breaks_the_websocket_protocol_is_closed_with_1002() {
    let gateway = TestGateway::process().await;
    let broken = |name, frames| (name, frames);
    for (name, frames) in [
        broken("unmasked", vec![FIN | BINARY, 2, b'l', b's']),
        broken("reserved bit 1", frame(FIN | 0x40 | BINARY, b"ls")),
        broken("reserved bit 2", frame(FIN | 0x20 | TEXT, b"{}")),
        broken("reserved bit 3", frame(FIN | 0x10 | BINARY, b"ls")),
        broken("reserved data opcode", frame(FIN | 0x3, b"ls")),
        broken("reserved control opcode", frame(FIN | 0xb, b"")),
        broken("end without beginning", frame(FIN | CONTINUATION, b"ls")),
        broken(
            "beginning within another",
            [frame(BINARY, b"l"), frame(FIN | BINARY, b"s")].concat(),
        ),
        broken("ping in pieces", frame(PING, b"")),
        broken("long ping", frame(FIN | PING, &[0; 126])),
    ] {
        let mut raw = Raw::visit(&gateway).await;
        raw.send(&frames).await;
        let (told, code) = raw.farewell().await;
        assert_eq!(
            (told["code"].as_str(), code),
            (Some("protocol_error"), 1002),
            "{name}"
        );
    }
    assert_well(&gateway).await;
    gateway.stop().await;
}

pub async fn a_client_that_closes_is_answered(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    let frame = CloseFrame {
        code: CloseCode::Away,
        reason: "".into(),
    };
    client.socket.close(Some(frame)).await.expect("it reads");
    assert_eq!(client.closed().await, 1001, "the handshake's other half");
    gateway.stop().await;
}

// --- floods ----------------------------------------------------------------------------------------

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
        "hostile::clients_that_never_read_cost_no_memory_and_disturb_nobody",
        body,
    )
    .await;
}

/// Send until the gateway takes no more; how many bytes that were.
async fn flood(raw: &mut Raw, bytes: &[u8], most: usize) -> usize {
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
    alone("hostile::input_that_nobody_reads_is_bounded", body).await;
}

// --- silence ---------------------------------------------------------------------------------------

/// The gateway closes this connection within `deadline`, generously counted.
async fn assert_closed_within(raw: &mut Raw, deadline: Duration, what: &str) -> String {
    let closed = timeout(deadline + PATIENCE / 4, raw.rest()).await;
    closed.unwrap_or_else(|_| panic!("{what}: not closed"))
}

/// Every silence has its end. In one test, because they can all be waited for at once.
#[tokio::test]
async fn who_falls_silent_is_closed() {
    const HEADER: Duration = Duration::from_secs(10);
    let mut config = process_config();
    config.limits.detach_timeout = Duration::from_secs(600);
    let gateway = TestGateway::with(config).await;
    let mut holder = gateway.visit().await;

    let nothing = async {
        let mut raw = Raw::connect(&gateway).await;
        assert_closed_within(&mut raw, HEADER, "nothing sent").await;
    };
    let half_a_head = async {
        let mut raw = Raw::connect(&gateway).await;
        raw.send(b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ")
            .await;
        assert_closed_within(&mut raw, HEADER, "half a head").await;
    };
    let one_byte_a_second = async {
        let mut raw = Raw::connect(&gateway).await;
        raw.send(b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ")
            .await;
        let drip = async {
            use tokio::io::AsyncWriteExt;
            // Until it is closed.
            while raw.stream.write_all(b"z").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        };
        let dripped = timeout(HEADER + PATIENCE / 4, drip).await;
        assert!(dripped.is_ok(), "a head in drips: not closed");
    };
    let kept_alive = async {
        let mut raw = Raw::connect(&gateway).await;
        raw.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
        assert_closed_within(&mut raw, HEADER, "kept alive").await;
    };
    let no_body = async {
        let mut raw = Raw::connect(&gateway).await;
        let head = "POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                    content-length: 100\r\n\r\n{";
        raw.send(head.as_bytes()).await;
        let answer = assert_closed_within(&mut raw, HEADER, "no body").await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("\"error\":\"bad_request\""), "{answer}");
    };
    let path = format!("/sessions/{}/ws", holder.session);
    let no_token = async {
        let client = gateway.connect(&path).await;
        assert_eq!(told_why(client).await, error("token_refused", 4003));
    };
    let no_pong = async {
        // It sends nothing at all: no answer to pings either.
        let mut raw = Raw::visit(&gateway).await;
        assert_closed_within(&mut raw, Duration::from_secs(50), "no pong").await;
    };
    // As long as the gateway does not listen to him, he is not expected to say anything.
    let not_listened_to = async {
        let mut raw = Raw::visit(&gateway).await;
        raw.send(&frame(FIN | BINARY, b"sleep 1000\r")).await;
        raw.until("sleep 1000\r\n").await;
        let line = [b"x".repeat(1023), vec![b'\n']].concat();
        let _ = flood(&mut raw, &frame(FIN | BINARY, &line), 2 * 1024 * 1024).await;
        let closed = timeout(Duration::from_secs(52), raw.farewell()).await;
        assert!(closed.is_err(), "{closed:?}");
    };
    tokio::join!(
        not_listened_to,
        nothing,
        half_a_head,
        one_byte_a_second,
        kept_alive,
        no_body,
        no_token,
        no_pong,
        // Whoever answers pings may be silent as long as he likes.
        async {
            let quiet = timeout(Duration::from_secs(52), holder.told("never")).await;
            assert!(quiet.is_err());
        }
    );
    assert_eq!(holder.run("echo still").await, "still\n[0]");
    gateway.stop().await;
}

/// Neither may hold the gateway back when it goes away.
#[tokio::test]
async fn slow_requests_do_not_keep_the_gateway_from_going_away() {
    let gateway = TestGateway::process().await;
    let _visitor = gateway.visit().await;
    let mut half = Raw::connect(&gateway).await;
    half.send(b"POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{")
        .await;
    let mut unread = Raw::connect(&gateway).await;
    // More answers than the kernel's buffers take.
    let requests = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(10_000);
    let _ = timeout(Duration::from_secs(2), unread.send(&requests)).await;
    // Checks that no sandbox is left.
    gateway.stop().await;
}

// --- who somebody is -------------------------------------------------------------------------------

async fn concurrent(gateway: &TestGateway, forwarded: &str) -> Result<Client, (String, u16)> {
    let headers = [V1, ("x-forwarded-for", forwarded)];
    let client = gateway.connect_with("/ws", &headers).await;
    let mut client = client.expect("a belljar.v1 client is always accepted");
    match client.hear().await {
        Heard::Told(ready) if ready["type"] == "ready" => Ok(client),
        Heard::Told(told) => {
            let code = told["code"].as_str().expect("a code").to_owned();
            Err((code, client.closed().await))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stranger_cannot_choose_his_address() {
    let mut config = process_config();
    config.limits.concurrent_sessions = 1;
    config.trusted_proxies.clear();
    let gateway = TestGateway::with(config).await;
    let held = concurrent(&gateway, "192.0.2.1").await;
    assert!(held.is_ok());
    for forged in [
        "192.0.2.2",
        "2001:db8::1",
        "127.0.0.1",
        "",
        "nonsense, 192.0.2.3",
    ] {
        let refused = concurrent(&gateway, forged).await.err();
        assert_eq!(refused, Some(error("rate_limited", 4029)), "{forged}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_its_visitors_are_not() {
    let mut config = process_config();
    config.limits.concurrent_sessions = 1;
    config.trusted_proxies = vec![
        "127.0.0.1/32".parse().unwrap(),
        "10.0.0.0/8".parse().unwrap(),
    ];
    let gateway = TestGateway::with(config).await;
    // The visitor's own words stand left of what the proxies wrote.
    let held = concurrent(&gateway, "192.0.2.1, 10.1.1.1").await;
    assert!(held.is_ok());
    for forged in [
        "203.0.113.9, 192.0.2.1",
        "203.0.113.9, 192.0.2.1, 10.1.1.2",
        "192.0.2.1:4711",
    ] {
        let refused = concurrent(&gateway, forged).await.err();
        assert_eq!(refused, Some(error("rate_limited", 4029)), "{forged}");
    }
    let other = concurrent(&gateway, "192.0.2.1, 192.0.2.2").await;
    assert!(other.is_ok());
    let subscriber = concurrent(&gateway, "2001:db8::1").await;
    assert!(subscriber.is_ok());
    let same = concurrent(&gateway, "[2001:db8::2]:99").await.err();
    assert_eq!(same, Some(error("rate_limited", 4029)));
    drop((held, other, subscriber));
    gateway.stop().await;
}

#[tokio::test]
async fn a_page_of_another_site_is_refused() {
    let mut config = process_config();
    config.allowed_origins = vec!["https://tutorials.example.com".into()];
    let gateway = TestGateway::with(config).await;
    let holder = gateway.visit().await;
    let own = format!("http://{}", gateway.address);
    let attach = format!("/sessions/{}/ws?token={}", holder.session, holder.token);
    for wrong in [
        "https://evil.example",
        "https://tutorials.example.com.evil.example",
        "http://tutorials.example.com",
        "https://tutorials.example.com:8443",
        "null",
        "file://",
        "",
        "http://127.0.0.1",
    ] {
        for path in ["/ws", &attach] {
            let client = gateway.connect_with(path, &[V1, ("origin", wrong)]).await;
            let why = told_why(client.expect("accepted, to be told")).await;
            assert_eq!(why, error("origin_refused", 4003), "{wrong} {path}");
            let refused = gateway.connect_with(path, &[("origin", wrong)]).await;
            let (status, body) = refusal(refused);
            assert_eq!(
                (status, body["error"].as_str()),
                (403, Some("origin_refused"))
            );
        }
        let (status, body) = gateway
            .json("POST", "/sessions", &[("origin", wrong)], json!({}))
            .await;
        assert_eq!(
            (status, body["error"].as_str()),
            (403, Some("origin_refused"))
        );
    }
    for right in ["https://tutorials.example.com", &own] {
        let client = gateway.connect_with("/ws", &[V1, ("origin", right)]).await;
        client.expect("accepted").ready().await;
        let (status, _) = gateway
            .json("POST", "/sessions", &[("origin", right)], json!({}))
            .await;
        assert_eq!(status, 201, "{right}");
    }
    gateway.stop().await;
}

pub async fn an_id_alone_opens_nothing(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut victim = gateway.visit().await;
    let thief = gateway.visit().await;
    let id = victim.session.clone();
    let wrong = ["x", &thief.token, &victim.token[1..], &id];

    for token in wrong {
        let client = gateway.resume(&id, token, Some(0)).await;
        assert_eq!(told_why(client).await, error("token_refused", 4003));
        let path = format!("/sessions/{id}/ws?token={token}");
        let client = gateway.connect(&path).await;
        assert_eq!(told_why(client).await, error("token_refused", 4003));
        let (status, body) = refusal(gateway.connect_with(&path, &[]).await);
        assert_eq!(
            (status, body["error"].as_str()),
            (403, Some("token_refused"))
        );
        let bearer = format!("Bearer {token}");
        for (method, path) in [
            ("GET", format!("/sessions/{id}")),
            ("DELETE", format!("/sessions/{id}")),
            ("POST", format!("/sessions/{id}/destroy")),
            ("DELETE", format!("/api/v1/sessions/{id}")),
        ] {
            let headers = [("authorization", bearer.as_str())];
            let (status, body) = gateway.json(method, &path, &headers, Value::Null).await;
            assert_eq!(
                (status, body["error"].as_str()),
                (403, Some("token_refused"))
            );
            let path = format!("{path}?token={token}");
            let (status, _) = gateway.json(method, &path, &[], Value::Null).await;
            assert_eq!(status, 403, "{method} {path}");
        }
    }

    // Anything but an attach with the token, first.
    for first in [
        json!({"type": "attach"}),
        json!({"type": "ping", "id": 1}),
        json!({"type": "close"}),
        json!({"type": "attach", "token": 5}),
    ] {
        let mut client = gateway.connect(&format!("/sessions/{id}/ws")).await;
        client.send(first).await;
        assert_eq!(told_why(client).await, error("token_refused", 4003));
    }
    let mut client = gateway.connect(&format!("/sessions/{id}/ws")).await;
    client.input("id\r").await;
    assert_eq!(told_why(client).await, error("token_refused", 4003));

    // Without any token at all.
    let (status, body) = refusal(
        gateway
            .connect_with(&format!("/sessions/{id}/ws"), &[])
            .await,
    );
    assert_eq!(
        (status, body["error"].as_str()),
        (401, Some("token_refused"))
    );
    for method in ["GET", "DELETE"] {
        let path = format!("/sessions/{id}");
        let (status, body) = gateway.json(method, &path, &[], Value::Null).await;
        assert_eq!(
            (status, body["error"].as_str()),
            (401, Some("token_refused"))
        );
    }

    // Ids that are not there.
    let absent = format!("sess_{}", "0".repeat(32));
    for id in [&absent, "x", "..%2f..", "%00"] {
        let client = gateway.connect(&format!("/sessions/{id}/ws")).await;
        assert_eq!(
            told_why(client).await,
            error("no_such_session", 4004),
            "{id}"
        );
        let path = format!("/sessions/{id}/ws?token={}", thief.token);
        let (status, body) = refusal(gateway.connect_with(&path, &[]).await);
        assert_eq!(
            (status, body["error"].as_str()),
            (404, Some("no_such_session")),
            "{id}"
        );
        for method in ["GET", "DELETE"] {
            let path = format!("/sessions/{id}?token={}", thief.token);
            let (status, body) = gateway.json(method, &path, &[], Value::Null).await;
            assert_eq!(
                (status, body["error"].as_str()),
                (404, Some("no_such_session")),
                "{id}"
            );
        }
    }

    // The victim has noticed nothing.
    assert_eq!(victim.run("echo mine").await, "mine\n[0]");
    assert!(victim.told.is_empty(), "{:?}", victim.told);
    gateway.stop().await;
}

/// A WebSocket ping is not a message: proxies and libraries send them when they like.
pub async fn a_ping_may_come_before_the_token(config: Config) {
    let gateway = TestGateway::with(config).await;
    let holder = gateway.visit().await;
    let mut client = gateway
        .connect(&format!("/sessions/{}/ws", holder.session))
        .await;
    client
        .socket
        .send(Message::Ping(vec![1].into()))
        .await
        .unwrap();
    client
        .send(json!({"type": "attach", "token": holder.token}))
        .await;
    client.ready().await;
    gateway.stop().await;
}

// --- bad input -------------------------------------------------------------------------------------

pub async fn bad_messages_are_explained_until_there_are_too_many(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    let long = "x".repeat(60_000);
    let bad = [
        (
            r#"{"type":"resize","cols":-5,"rows":24}"#,
            vec!["cols", "2 to 1000"],
        ),
        (
            r#"{"type":"resize","cols":80,"rows":"many"}"#,
            vec!["rows", "1 to 500"],
        ),
        (
            r#"{"type":"resize","cols":80}"#,
            vec!["rows", "missing", "1 to 500"],
        ),
        (
            r#"{"type":"resize","cols":1e99,"rows":24}"#,
            vec!["cols", "2 to 1000"],
        ),
        (r#"{"type":"ack"}"#, vec!["offset", "whole number"]),
        (
            r#"{"type":"ack","offset":-1}"#,
            vec!["offset", "whole number"],
        ),
        (r#"{"type":"ping","id":"x"}"#, vec!["id", "whole number"]),
        (
            r#"{"type":"attach","window":"all"}"#,
            vec!["window", "4096 to 262144"],
        ),
        (
            r#"{"type":"sudo"}"#,
            vec!["type", "attach, resize, ack, extend, ping or close"],
        ),
        (r#"{"no":"type"}"#, vec!["type"]),
        ("{", vec!["JSON"]),
        ("", vec!["JSON"]),
        ("ls -l\r", vec!["JSON"]),
        ("null", vec!["JSON"]),
    ];
    for (message, named) in &bad {
        client
            .socket
            .send(Message::Text((*message).into()))
            .await
            .unwrap();
        let notice = client.told("notice").await;
        assert_eq!(notice["code"], "bad_message");
        let text = notice["message"].as_str().unwrap();
        for name in named {
            assert!(text.contains(name), "{message}: {text}");
        }
    }
    let nested = "[".repeat(50_000);
    let quoted = json!({"type": "ping", "id": long}).to_string();
    for message in [nested, quoted] {
        client
            .socket
            .send(Message::Text(message.into()))
            .await
            .unwrap();
        let notice = client.told("notice").await;
        assert!(
            notice["message"].as_str().unwrap().len() < 400,
            "it quotes too much"
        );
    }
    // Sixteen by now, and nothing else has changed.
    assert_eq!(client.run("stty size").await, "24 80\n[0]");

    client
        .socket
        .send(Message::Text("once too often".into()))
        .await
        .unwrap();
    let told = client.told("error").await;
    assert_eq!(told["code"], "too_many_bad_messages");
    assert_eq!(client.closed().await, 1008);
    let (session, token, _) = client.cut();
    let mut client = gateway.resume(&session, &token, None).await;
    client.ready().await;
    client.until("24 80").await;
    gateway.stop().await;
}

pub async fn sizes_beyond_all_measure_are_brought_into_range(config: Config) {
    let gateway = TestGateway::with(config).await;
    for (query, size) in [
        ("cols=0&rows=0", "1 2"),
        ("cols=4294967295&rows=4294967295", "500 1000"),
        ("cols=100", "24 80"),
        ("rows=50", "24 80"),
        ("", "24 80"),
    ] {
        let mut client = gateway.connect(&format!("/ws?{query}")).await;
        let ready = client.ready().await;
        let told = format!("{} {}", ready["rows"], ready["cols"]);
        assert_eq!(told, size, "{query}");
        client.input("stty size\r").await;
        client.until(size).await;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_bad_query_is_told_what_is_allowed() {
    let gateway = TestGateway::process().await;
    for query in [
        "cols=x&rows=24",
        "cols=-1&rows=24",
        "cols=80&rows=4294967296",
        "cols=80&cols=90",
        "from=-1",
        "cols=",
    ] {
        let mut client = gateway.connect(&format!("/ws?{query}")).await;
        let told = client.told("error").await;
        assert_eq!(told["code"], "bad_request", "{query}");
        let text = told["message"].as_str().unwrap();
        assert!(text.contains("cols takes 2 to 1000"), "{text}");
        assert_eq!(client.closed().await, 1008);
        let (status, body) = refusal(gateway.connect_with(&format!("/ws?{query}"), &[]).await);
        assert_eq!((status, body["error"].as_str()), (400, Some("bad_request")));
    }
    let client = gateway.connect("/ws?template=none").await;
    assert_eq!(told_why(client).await, error("no_such_template", 1008));
    assert_eq!(gateway.app.limiter.held(), 0, "nothing was begun");
    gateway.stop().await;
}

#[tokio::test]
async fn whatever_is_refused_is_refused_in_json() {
    let gateway = TestGateway::process().await;
    let visitor = gateway.visit().await;
    let id = &visitor.session;
    let large = "x".repeat(65 * 1024);
    let json = ("content-type", "application/json");
    for (method, path, headers, body, status) in [
        ("GET", "/nothing".to_owned(), vec![], "", 404),
        ("GET", "/api/v1/nothing".to_owned(), vec![], "", 404),
        ("GET", "/assets/nothing.js".to_owned(), vec![], "", 404),
        ("GET", "/assets/../Cargo.toml".to_owned(), vec![], "", 404),
        (
            "GET",
            "/assets/%2e%2e/Cargo.toml".to_owned(),
            vec![],
            "",
            404,
        ),
        ("PUT", "/sessions".to_owned(), vec![], "", 405),
        ("POST", "/health".to_owned(), vec![], "", 405),
        ("POST", "/sessions".to_owned(), vec![json], "{", 400),
        ("POST", "/sessions".to_owned(), vec![json], "[]", 422),
        (
            "POST",
            "/sessions".to_owned(),
            vec![json],
            r#"{"timeout":"soon"}"#,
            422,
        ),
        (
            "POST",
            "/sessions".to_owned(),
            vec![json],
            r#"{"timeout":0}"#,
            400,
        ),
        (
            "POST",
            "/sessions".to_owned(),
            vec![json],
            r#"{"env":{"A=B":"x"}}"#,
            400,
        ),
        (
            "POST",
            "/sessions".to_owned(),
            vec![json],
            r#"{"template":"none"}"#,
            400,
        ),
        (
            "POST",
            "/sessions".to_owned(),
            vec![("content-type", "text/plain")],
            "{}",
            415,
        ),
        ("POST", "/sessions".to_owned(), vec![json], &large, 413),
        // Without an upgrade.
        ("GET", "/ws".to_owned(), vec![], "", 400),
        ("GET", format!("/sessions/{id}/ws"), vec![], "", 400),
        ("POST", "/ws".to_owned(), vec![], "", 405),
        ("GET", "/sessions/%ff".to_owned(), vec![], "", 400),
        (
            "GET",
            format!("/sessions/{id}?token=a&token=b"),
            vec![],
            "",
            400,
        ),
    ] {
        let (got, answer) = gateway.http(method, &path, &headers, body).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        let answer: Value = serde_json::from_str(&answer)
            .unwrap_or_else(|_| panic!("{method} {path} {body:.20}: not JSON: {answer}"));
        assert!(answer["error"].is_string(), "{answer}");
        assert!(answer["message"].is_string(), "{answer}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn huge_and_broken_heads_are_refused() {
    let gateway = TestGateway::process().await;
    for (head, status) in [
        (format!("GET /health HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(20_000)), "431"),
        (format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(20_000)), "4"),
        (format!("GET /health HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200)), "431"),
        ("NONSENSE\r\n\r\n".to_owned(), "400"),
        ("GET /health HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n".to_owned(), "400"),
        ("GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n".to_owned(), "400"),
        (
            "POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            "4",
        ),
    ] {
        let mut raw = Raw::connect(&gateway).await;
        raw.send(head.as_bytes()).await;
        let answer = raw.head().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head:.60}: {answer}");
    }
    assert_well(&gateway).await;
    gateway.stop().await;
}

/// A connection counts as long as its socket is open, WebSocket or not.
#[tokio::test]
async fn connections_are_bounded() {
    let mut config = process_config();
    config.limits.max_connections = 2;
    let gateway = TestGateway::with(config).await;
    let first = gateway.visit().await;
    let mut second = gateway.visit().await;
    // It waits in the kernel's queue.
    let mut waiting = Box::pin(gateway.http("GET", "/health", &[], ""));
    let early = timeout(Duration::from_secs(1), &mut waiting).await;
    assert!(early.is_err(), "a third connection was served");
    assert_eq!(second.run("echo well").await, "well\n[0]");
    drop(first);
    assert_eq!(waiting.await.0, 200);
    drop(second);
    gateway.stop().await;
}

/// A refusal reaches its client although he goes on sending: his connection is not reset.
#[tokio::test]
async fn a_refusal_is_not_lost_under_what_follows() {
    let gateway = TestGateway::process().await;
    let mut raw = Raw::visit(&gateway).await;
    raw.send(&frame(FIN | BINARY, &vec![b'x'; 200 * 1024]))
        .await;
    let (told, code) = raw.farewell().await;
    assert_eq!(
        (told["code"].as_str(), code),
        (Some("message_too_big"), 1009)
    );
    raw.assert_not_reset().await;
    let mut raw = Raw::connect(&gateway).await;
    let head = "POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 300000\r\n\r\n";
    raw.send(head.as_bytes()).await;
    raw.send(&vec![b'x'; 300_000]).await;
    let answer = raw.head().await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    raw.assert_not_reset().await;
    gateway.stop().await;
}
