//! Servers in a sandbox: what passes, what does not, and servers and clients that mean harm.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::{connect, next, sandbox, say};
use crate::harness::{PATIENCE, TestGateway};

/// A server that hears one request's head and body as far as they come, and says this.
async fn server(answer: impl Into<Vec<u8>>) -> (u16, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let answer = answer.into();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("somebody comes");
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        while !heard.windows(4).any(|w| w == b"\r\n\r\n") {
            match stream.read(&mut buffer).await {
                Ok(read @ 1..) => heard.extend_from_slice(&buffer[..read]),
                _ => break,
            }
        }
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
        // The rest of the request, and the end.
        let _ = stream.read_to_end(&mut heard).await;
        String::from_utf8_lossy(&heard).into_owned()
    });
    (port, heard)
}

/// A request as it stands; head and body of the answer.
async fn raw(gateway: &TestGateway, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(gateway.address)
        .await
        .expect("it listens");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("it answers in time");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_ascii_lowercase(), body.to_owned())
}

fn get(gateway: &TestGateway, path: &str, headers: &str) -> String {
    let host = gateway.address;
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n")
}

#[tokio::test]
async fn requests_and_answers_pass_without_what_is_the_gateways() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let answer = "HTTP/1.1 418 I'm a teapot\r\ncontent-type: text/html\r\ncontent-length: 3\r\n\
                  set-cookie: a=b\r\ncontent-security-policy: default-src *\r\n\
                  service-worker-allowed: /\r\nclear-site-data: \"*\"\r\n\
                  access-control-allow-origin: *\r\nx-own: kept\r\n\r\ntea";
    let (port, heard) = server(answer).await;
    let path = format!("{below}/ports/{port}/a/../b//c%2Fd?x=%201&api_key=secret&y");
    let headers = "authorization: Bearer secret\r\nx-api-key: secret\r\ncookie: secret=1\r\n\
                   referer: http://x/?secret\r\nx-own: passed\r\nconnection: x-secret\r\n\
                   x-secret: secret\r\n";
    let (head, body) = raw(&gateway, &get(&gateway, &path, headers)).await;
    assert!(head.starts_with("http/1.1 418 "), "{head}");
    assert_eq!(body, "tea");
    assert!(
        head.contains("content-security-policy: sandbox allow-scripts"),
        "{head}"
    );
    assert!(
        head.contains("x-own: kept") && head.contains("nosniff"),
        "{head}"
    );
    for gone in [
        "set-cookie",
        "service-worker",
        "clear-site",
        "access-control-allow",
        "default-src",
    ] {
        assert!(!head.contains(gone), "{gone}: {head}");
    }
    let heard = heard.await.expect("no panic").to_ascii_lowercase();
    assert!(
        heard.starts_with("get /a/../b//c%2fd?x=%201&y http/1.1\r\n"),
        "{heard}"
    );
    assert!(
        heard.contains(&format!("host: 127.0.0.1:{port}\r\n")),
        "{heard}"
    );
    assert!(heard.contains("x-own: passed"), "{heard}");
    for gone in ["secret", "cookie", "referer", "authorization"] {
        assert!(!heard.contains(gone), "{gone}: {heard}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_body_goes_up_and_comes_down() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let (port, heard) = server("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end").await;
    let path = format!("{below}/ports/{port}");
    let (status, body) = gateway.http("POST", &path, &[], "sent").await;
    assert_eq!(
        (status, body.contains("until the end")),
        (200, true),
        "{body}"
    );
    let heard = heard.await.expect("no panic");
    assert!(heard.starts_with("POST / HTTP/1.1\r\n"), "{heard}");
    assert!(
        heard.contains("content-length: 4\r\n") && heard.ends_with("sent"),
        "{heard}"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn a_request_of_two_lengths_is_one_request() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let (port, heard) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
    let host = gateway.address;
    let smuggled = format!(
        "POST {below}/ports/{port}/ HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
         content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
    );
    let (head, _) = raw(&gateway, &smuggled).await;
    if head.starts_with("http/1.1 204") {
        let heard = heard.await.expect("no panic");
        assert!(!heard.contains("smuggled"), "{heard}");
        assert!(!heard.contains("content-length: 4"), "{heard}");
    } else {
        assert!(head.starts_with("http/1.1 400"), "{head}");
        heard.abort();
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_server_that_is_none_is_a_bad_gateway() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    for n in 0..20_000 {
        endless.extend(format!("x-{n}: {}\r\n", "y".repeat(40)).bytes());
    }
    let one_line = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'y'; 1 << 20]].concat();
    let ask = "Upgrade: websocket\r\nconnection: upgrade\r\n";
    let upgraded = format!("HTTP/1.1 101 Switching Protocols\r\n{ask}\r\n");
    let answers: [Vec<u8>; 7] = [
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        b"".to_vec(),
        vec![0xff; 4096],
        endless,
        one_line,
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_vec(),
        upgraded.into_bytes(),
    ];
    for answer in answers {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        let (port, heard) = server(answer).await;
        let path = format!("{below}/ports/{port}/");
        let (status, body) = gateway.http("GET", &path, &[], "").await;
        assert_eq!(
            (status, body.contains("bad_answer")),
            (502, true),
            "{shown}: {body}"
        );
        heard.await.expect("no panic");
    }
    // Nobody listens any more.
    let (port, heard) = server("").await;
    heard.abort();
    let _ = heard.await;
    let path = format!("{below}/ports/{port}/");
    let (status, body) = gateway.http("GET", &path, &[], "").await;
    assert_eq!(
        (status, body.contains("connection_refused")),
        (502, true),
        "{body}"
    );
    for port in ["0", "x", "65536", "-1"] {
        let path = format!("{below}/ports/{port}/");
        let (status, body) = gateway.http("GET", &path, &[], "").await;
        assert_eq!((status, body.contains("port: ")), (400, true), "{body}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_page_that_could_read_a_key_is_not_shown() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let path = format!("{below}/ports/1/?api_key=secret");
    let headers = [("sec-fetch-mode", "navigate"), ("sec-fetch-site", "none")];
    let (status, body) = gateway.http("GET", &path, &headers, "").await;
    assert_eq!((status, body.contains("api_key: ")), (400, true), "{body}");
    gateway.stop().await;
}

/// A length that does not come: the client must not take it for the whole.
#[tokio::test]
async fn an_answer_that_breaks_off_is_broken_off() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let chunked =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 99\r\n\r\n5\r\nhello\r\n";
    let (port, _) = server(chunked).await;
    let path = format!("{below}/ports/{port}/");
    let (head, body) = raw(&gateway, &get(&gateway, &path, "")).await;
    assert!(!head.contains("content-length"), "{head}");
    assert!(
        body.contains("hello") && !body.ends_with("0\r\n\r\n"),
        "{body}"
    );
    gateway.stop().await;
}

/// What is sent to a client that does not read fills sockets, and nothing else.
#[tokio::test]
async fn a_flood_waits_for_its_client() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (stood, standing) = oneshot::channel();
    let flood = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("somebody comes");
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.expect("it asks") > 0);
        let head = b"HTTP/1.1 200 OK\r\n\r\n";
        stream.write_all(head).await.expect("it reads");
        let piece = vec![b'x'; 64 * 1024];
        let mut sent = 0_usize;
        // Nothing goes any more.
        while let Ok(written) = timeout(Duration::from_secs(2), stream.write_all(&piece)).await {
            written.expect("it is connected");
            sent += piece.len();
            assert!(sent < 256 << 20, "it is kept somewhere");
        }
        stood.send(sent).expect("the test waits");
        // And it ends with the client.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    });
    let mut client = TcpStream::connect(gateway.address)
        .await
        .expect("it listens");
    let request = get(&gateway, &format!("{below}/ports/{port}/"), "");
    client
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let sent = timeout(PATIENCE, standing)
        .await
        .expect("it stands in time");
    assert!(sent.expect("no panic") > 0);
    drop(client);
    timeout(PATIENCE, flood)
        .await
        .expect("it ends")
        .expect("no panic");
    gateway.stop().await;
}

#[tokio::test]
async fn a_websocket_goes_through() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let echo = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("somebody comes");
        let mut socket = tokio_tungstenite::accept_async(stream)
            .await
            .expect("upgraded");
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.expect("it reads");
            }
        }
    });
    let mut client = connect(&gateway, &format!("{below}/ports/{port}/socket")).await;
    let large = vec![7; 1 << 20];
    for message in [Message::text("hello"), Message::binary(large)] {
        // Sent and read at once, for what is under way is little.
        say(&mut client, message.clone()).await;
        assert_eq!(next(&mut client).await, Some(message));
    }
    client.socket.close(None).await.expect("it is open");
    assert!(matches!(
        next(&mut client).await,
        Some(Message::Close(_)) | None
    ));
    timeout(PATIENCE, echo)
        .await
        .expect("it ends")
        .expect("no panic");
    gateway.stop().await;
}

#[tokio::test]
async fn an_upgrade_that_the_server_refuses_is_refused() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let (port, _) = server("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    let refused = gateway
        .connect_with(&format!("{below}/ports/{port}/"), &[])
        .await;
    let Err(WsError::Http(response)) = refused.map(|_| ()) else {
        panic!("it is not refused");
    };
    assert_eq!(response.status(), 403);
    // Nobody speaks for the sandbox's servers but the sandbox.
    let foreign = [("origin", "https://evil.example")];
    let refused = gateway
        .connect_with(&format!("{below}/ports/{port}/"), &foreign)
        .await;
    assert!(matches!(refused.map(|_| ()), Err(WsError::Http(r)) if r.status() == 403));
    gateway.stop().await;
}

/// A tunnel that nobody uses does not hold up a gateway that goes away.
#[tokio::test]
async fn a_tunnel_ends_with_its_sandbox() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let silent = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("somebody comes");
        let mut socket = tokio_tungstenite::accept_async(stream)
            .await
            .expect("upgraded");
        while let Some(Ok(_)) = socket.next().await {}
    });
    let mut client = connect(&gateway, &format!("{below}/ports/{port}/")).await;
    let (status, _) = gateway.http("DELETE", &below, &[], "").await;
    assert_eq!(status, 204);
    assert!(next(&mut client).await.is_none());
    timeout(PATIENCE, silent)
        .await
        .expect("it ends")
        .expect("no panic");
    gateway.stop().await;
}
