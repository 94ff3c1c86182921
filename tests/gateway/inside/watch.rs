//! Changes of files, as server-sent events.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::sandbox;
use crate::harness::{PATIENCE, TestGateway};

/// Read on until this has come; everything that has.
async fn read_until(stream: &mut TcpStream, heard: &mut String, wanted: &str) {
    while !heard.contains(wanted) {
        let mut piece = [0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut piece)).await;
        let read = read.expect("in time").expect("a connection");
        assert_ne!(read, 0, "it ended without {wanted:?}: {heard}");
        heard.push_str(str::from_utf8(&piece[..read]).expect("text"));
    }
}

#[tokio::test]
async fn a_watch_says_what_happens_and_why_it_ends() {
    let gateway = TestGateway::process().await;
    let below = sandbox(&gateway).await;
    let mut stream = TcpStream::connect(gateway.address)
        .await
        .expect("it listens");
    let directory = std::env::temp_dir().join(format!("belljar-watch-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let watched = directory.display();
    let request = format!(
        "GET {below}/files/watch?path={watched} HTTP/1.1\r\nhost: {}\r\n\r\n",
        gateway.address
    );
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut heard = String::new();
    read_until(&mut stream, &mut heard, "event: ready").await;
    let path = format!("{below}/files?path={watched}/new");
    let (status, _) = gateway.http("PUT", &path, &[], "x").await;
    assert_eq!(status, 204);
    read_until(&mut stream, &mut heard, "/new\"").await;
    let (status, _) = gateway.http("DELETE", &below, &[], "").await;
    assert_eq!(status, 204);
    read_until(&mut stream, &mut heard, "\"error\":\"not_running\"").await;
    assert!(heard.contains("event: error"), "{heard}");
    std::fs::remove_dir_all(&directory).expect("it is there");
    gateway.stop().await;
}
