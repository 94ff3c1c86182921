//! Those who say nothing, or not enough.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::harness::{PATIENCE, TestGateway, process_config};
use crate::raw::{BINARY, FIN, Raw, frame};

use super::floods::flood;
use super::{error, told_why};

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
