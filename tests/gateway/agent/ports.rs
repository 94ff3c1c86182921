//! Connections to servers in the sandbox, what it uses, and terminals that are closed.

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn bytes_go_through_both_ways_and_so_does_each_end() {
    const LENGTH: usize = 2 << 20;
    let agent = Agent::start();
    let link = agent.link().await;
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(server) = TcpListener::bind(address).await else {
            continue;
        };
        let port = server.local_addr().expect("it is bound").port();
        let serve = async {
            let mut socket = server.accept().await.expect("a client").0;
            let mut heard = Vec::new();
            socket.read_to_end(&mut heard).await.expect("the end");
            socket.write_all(&heard).await.expect("it is read");
        };
        let ask = async {
            let mut stream = link.connect_port(port).await.expect("it listens");
            let sent: Vec<u8> = (0..LENGTH)
                .map(|i| u8::try_from(i % 251).expect("small"))
                .collect();
            stream.write_all(&sent).await.expect("it is read");
            stream.shutdown().await.expect("it is read");
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.expect("the end");
            assert!(heard == sent);
        };
        timeout(PATIENCE, async { tokio::join!(serve, ask) })
            .await
            .expect("in time");
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_and_a_client_that_leaves() {
    let agent = Agent::start();
    let link = agent.link().await;
    let server = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("it can be bound");
    let port = server.local_addr().expect("it is bound").port();
    let (stream, accepted) = tokio::join!(link.connect_port(port), server.accept());
    let (mut stream, mut socket) = (stream.expect("it listens"), accepted.expect("a client").0);
    socket.write_all(b"hello").await.expect("it is read");
    let mut heard = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut heard))
        .await
        .expect("in time")
        .expect("bytes");
    assert_eq!(&heard, b"hello");
    drop(stream);
    let end = timeout(PATIENCE, socket.read(&mut heard))
        .await
        .expect("in time");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    drop((server, socket));
    let refused = link.connect_port(port).await.expect_err("nothing listens");
    assert!(matches!(refused, LinkError::Refused(refusal) if refusal.code == "connection_refused"));
    let refused = link.connect_port(0).await.expect_err("nothing can listen");
    assert!(matches!(refused, LinkError::Refused(refusal) if refusal.code == "connection_refused"));
}

#[tokio::test]
async fn what_is_used_is_said() {
    let agent = Agent::start();
    let link = agent.link().await;
    let stats = link.stats().await.expect("it looks");
    assert!(
        stats.memory_limit_bytes > 0 && stats.memory_bytes > 0 && stats.processes > 0,
        "{stats:?}"
    );
    assert!(
        stats.tmp_size > 0 && stats.tmp_used <= stats.tmp_size,
        "{stats:?}"
    );
}

#[tokio::test]
async fn a_terminal_that_is_closed_is_gone_with_its_program() {
    let agent = Agent::start();
    let link = agent.link().await;
    let mut reader = Reader::open(
        &link,
        shell("trap '' HUP; echo $$; while :; do sleep 0.1; done"),
    )
    .await;
    let pid = reader.until("\n").await;
    let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a pid");
    link.close_terminal(reader.terminal)
        .await
        .expect("there is one");
    let (_, exit) = reader.rest().await;
    assert_eq!(exit.signal.as_deref(), Some("SIGKILL"));
    assert!(!alive(pid));
    let refused = link
        .close_terminal(reader.terminal)
        .await
        .expect_err("it is gone");
    assert!(matches!(refused, LinkError::Refused(refusal) if refusal.code == "no_terminal"));
    let refused = link.input(reader.terminal).await.expect_err("it is gone");
    assert!(matches!(refused, LinkError::Refused(refusal) if refusal.code == "no_terminal"));
}
