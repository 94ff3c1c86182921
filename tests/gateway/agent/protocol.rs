//! Older and newer gateways, and broken ones.

use tokio::io::AsyncReadExt;
use tokio::task::AbortHandle;

use super::*;

/// Open a stream, send these bytes as a message, return the reply.
async fn ask(mux: &Mux, message: &Value) -> Value {
    let stream = mux.open().await.expect("a link");
    let mut stream = mux::framed(stream, 1024);
    let message = Frame::Message(Bytes::from(message.to_string()));
    stream.send(message).await.expect("a link");
    let reply = timeout(PATIENCE, stream.next()).await.expect("in time");
    reply
        .expect("a reply")
        .expect("a frame")
        .parse()
        .expect("JSON")
}

/// The gateway's end of a raw link.
async fn raw(agent: &Agent) -> (Mux, AbortHandle) {
    let (mux, driver) = mux::connect(agent.call().await, Side::Gateway, Buffers::SMALL, |_| false);
    (mux, tokio::spawn(driver).abort_handle())
}

#[tokio::test]
async fn a_newer_gateway_is_understood_as_far_as_it_goes() {
    let agent = Agent::start();
    let (mux, _) = raw(&agent).await;
    let hello =
        json!({"op": "hello", "version": VERSION + 7, "gateway": "belljar 9", "wish": ["x"]});
    let welcome = ask(&mux, &hello).await;
    let welcome: Reply<Welcome> = serde_json::from_value(welcome).expect("a welcome");
    assert_eq!(welcome.expect("understood").version, VERSION);
    for unknown in [
        json!({"op": "teleport", "to": "mars"}),
        json!({"op": "attach"}),
        json!({"op": "input", "terminal": "one"}),
        json!({"op": 3}),
        json!(["hello"]),
        json!(null),
    ] {
        let reply = ask(&mux, &unknown).await;
        assert_eq!(reply["Err"]["code"], UNSUPPORTED, "{unknown}: {reply}");
    }
    let none = ask(&mux, &json!({"op": "input", "terminal": 99})).await;
    assert_eq!(none["Err"]["code"], "no_terminal");
    let open = json!({"op": "open_terminal", "command": ["/bin/sh", "-c", "echo alive; sleep 600"],
        "size": {"cols": 80, "rows": 24, "depth": 3}, "colour": "red"});
    let opened = ask(&mux, &open).await;
    assert_eq!(opened["Ok"]["terminal"], 1, "{opened}");

    // Commands that this agent does not know are passed over, on either kind of stream.
    let stream = mux.open().await.expect("a link");
    let mut stream = mux::framed(stream, 1024);
    let say = |value: Value| Frame::Message(Bytes::from(value.to_string()));
    stream
        .send(say(json!({"op": "attach", "terminal": 1, "from": 0})))
        .await
        .expect("a link");
    for unknown in [
        json!({"do": "dance"}),
        json!(7),
        json!({"do": "ping", "id": 5}),
    ] {
        stream.send(say(unknown)).await.expect("a link");
    }
    let mut seen = Vec::new();
    while !seen.contains(&json!({"event": "pong", "id": 5})) {
        let next = timeout(PATIENCE, stream.next()).await.expect("in time");
        match next.expect("a link").expect("a frame") {
            Frame::Data(_) => {}
            message @ Frame::Message(_) => seen.push(message.parse().expect("JSON")),
        }
    }
}

/// Whatever comes, the agent drops that link and dials anew; its terminals go on.
#[tokio::test]
async fn garbage_ends_the_link_and_not_the_agent() {
    let agent = Agent::start();
    let link = agent.link().await;
    let terminal = link
        .open_terminal(shell("echo alive; exec sleep 600"))
        .await
        .expect("it opens");
    drop(link);
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 64],
        // A window update for a stream that nobody opened; a data frame of 4 GB.
        &[0, 1, 0, 0, 0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
    ];
    for bytes in garbage {
        let mut stream = agent.call().await;
        stream.write_all(bytes).await.expect("it reads");
        // Closed or not, it is the gateway's turn to go.
        sleep(Duration::from_millis(50)).await;
        drop(stream);
    }
    // Well-formed streams with nonsense on them cost only themselves.
    let (mux, driver) = raw(&agent).await;
    for bytes in [
        &[9_u8, 0, 0, 0, 0][..],
        &[1, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 0, 1, 0],
        b"\x01\0\0\0\x04nope",
    ] {
        let mut stream = mux.open().await.expect("a link");
        stream.write_all(bytes).await.expect("a link");
        stream.flush().await.expect("a link");
    }
    // More streams than there may be are not opened, and the link stays.
    let mut held = Vec::new();
    while let Some(mut stream) = mux.open().await {
        // As a call does: yamux lets only so many wait for an answer.
        stream
            .write_all(b"\x01\0\0\0\x04nope")
            .await
            .expect("a link");
        let mut refused = [0];
        stream.read_exact(&mut refused).await.expect("an answer");
        held.push(stream);
        assert!(held.len() < 10_000, "there is no end to it");
    }
    assert!(held.len() > 400 && !mux.is_closed());
    held.pop();
    let hello = json!({"op": "hello", "version": VERSION, "gateway": "test"});
    let welcome = ask(&mux, &hello).await;
    assert!(welcome["Ok"].is_object(), "{welcome}");
    drop((held, mux));
    driver.abort();
    let link = agent.link().await;
    assert_eq!(link.welcome().terminals.len(), 1);
    let mut reader = Reader::attach(&link, terminal, Some(0), None, 0).await;
    reader.until("alive").await;
}

/// An agent whose hello says another version is refused by name, not misunderstood; one that says
/// more than this gateway knows is welcome.
#[tokio::test]
async fn a_gateway_meets_other_agents() {
    let meet = |welcome: Value| async move {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let (_mux, driver) = mux::connect(theirs, Side::Agent, Buffers::SMALL, move |stream| {
            let mut stream = mux::framed(stream, 1024);
            let reply = Frame::Message(Bytes::from(json!({"Ok": welcome}).to_string()));
            tokio::spawn(async move {
                let _ = stream.next().await;
                let _ = stream.send(reply).await;
                let _ = stream.next().await;
            });
            true
        });
        let driver = tokio::spawn(driver);
        let met = Link::establish(ours, "test", None).await;
        driver.abort();
        met
    };
    let welcome = json!({"version": VERSION, "agent": "9.9", "sandbox": "x", "deadline_ms": 1,
        "terminals": [], "colour": "red"});
    assert_eq!(
        meet(welcome).await.expect("understood").welcome().agent,
        "9.9"
    );
    let older = json!({"version": VERSION, "agent": "0.0.1", "sandbox": "x", "deadline_ms": 1});
    assert!(
        meet(older)
            .await
            .expect("understood")
            .welcome()
            .terminals
            .is_empty()
    );
    let newer = json!({"version": VERSION + 1, "agent": "9.9", "sandbox": "x", "deadline_ms": 1});
    let refused = meet(newer).await.expect_err("refused");
    assert!(matches!(refused, LinkError::Version { theirs } if theirs == VERSION + 1));
    let nonsense = meet(json!("hello")).await.expect_err("refused");
    assert!(matches!(nonsense, LinkError::Frame(_)), "{nonsense}");
}
