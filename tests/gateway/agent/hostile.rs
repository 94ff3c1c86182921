//! An agent that lies. A visitor who has found a way into it, or who speaks in its place where
//! attach carries the link, can send the gateway whatever they like: it costs them their session.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use belljar::sandbox::launcher::Transport;
use belljar::sandbox::{Death, LaunchError, Launcher, SandboxId, SandboxSpec};
use belljar_link::mux::{ByteStream, FrameStream};
use serde_json::{Value, json};

use super::*;
use crate::harness::{TestGateway, process_config};

/// What the agent does instead of what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// Nothing: this one is honest.
    None,
    HangsUp,
    Garbage,
    /// Accepts and says nothing.
    Silence,
    /// A welcome of the wrong form.
    WrongWelcome,
    /// Opens streams of its own, which only a gateway may.
    OpensStreams,
    /// Announces more than a frame may hold.
    GiantFrame,
    /// A frame of a kind that does not exist.
    UnknownFrame,
    /// Text that is no message, in the middle of the output.
    WrongEvent,
    /// Offsets that cannot be.
    Offsets,
    /// An end with a signal of 80 kB that commands terminals.
    LongSignal,
    /// Pongs that nobody asked for, without end.
    Pongs,
    /// Output without end, whatever is acknowledged.
    Flood,
}

const LIES: [Lie; 13] = [
    Lie::None,
    Lie::HangsUp,
    Lie::Garbage,
    Lie::Silence,
    Lie::WrongWelcome,
    Lie::OpensStreams,
    Lie::GiantFrame,
    Lie::UnknownFrame,
    Lie::WrongEvent,
    Lie::Offsets,
    Lie::LongSignal,
    Lie::Pongs,
    Lie::Flood,
];

/// A launcher of liars: the next lie with each start.
#[derive(Debug, Default)]
struct Liars {
    started: AtomicUsize,
}

#[async_trait]
impl Launcher for Liars {
    fn name(&self) -> &'static str {
        "liars"
    }

    fn must_be_proved(&self) -> bool {
        false
    }

    async fn ping(&self) -> Result<(), LaunchError> {
        Ok(())
    }

    async fn start(&self, _: &SandboxSpec) -> Result<Box<dyn Transport>, LaunchError> {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(lie(LIES[number], theirs));
        Ok(Box::new(ours))
    }

    async fn list(&self) -> Result<Vec<SandboxId>, LaunchError> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: &SandboxId) -> Result<(), LaunchError> {
        Ok(())
    }

    async fn post_mortem(&self, _: &SandboxId) -> Death {
        Death::Unknown
    }
}

fn message(value: &Value) -> Frame {
    Frame::Message(Bytes::from(value.to_string()))
}

async fn lie(lie: Lie, mut io: UnixStream) {
    match lie {
        Lie::HangsUp => return,
        Lie::Garbage => {
            // The gateway may hang up first.
            let _ = io.write_all(&[0xa5; 10_000]).await;
            return;
        }
        Lie::Silence => {
            sleep(2 * PATIENCE).await;
            return;
        }
        _ => {}
    }
    let (mux, driver) = mux::connect(io, Side::Agent, Buffers::SMALL, move |stream| {
        tokio::spawn(answer(lie, stream));
        true
    });
    if lie == Lie::OpensStreams {
        tokio::spawn(async move {
            sleep(Duration::from_millis(300)).await;
            while let Some(mut stream) = mux.open().await {
                let written = tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello").await;
                if written.is_err() {
                    return;
                }
            }
        });
        let _ = driver.await;
    } else {
        let _ = driver.await;
        drop(mux);
    }
}

/// Polite on every stream until the visitor's output is due.
async fn answer(lie: Lie, stream: ByteStream) -> Option<()> {
    let mut stream = mux::framed(stream, 1024);
    let request: Value = stream.next().await?.ok()?.parse().ok()?;
    let reply = match request["op"].as_str()? {
        "hello" if lie == Lie::WrongWelcome => json!({"Ok": {"version": "one"}}),
        "hello" => {
            json!({"Ok": {"version": VERSION, "agent": "0", "sandbox": "0", "deadline_ms": 1}})
        }
        "open_terminal" => json!({"Ok": {"terminal": 1}}),
        "attach" => {
            let offset = if lie == Lie::Offsets { u64::MAX } else { 0 };
            json!({"Ok": {"offset": offset, "end": 0, "size": {"cols": 80, "rows": 24}}})
        }
        _ => json!({"Ok": {}}),
    };
    stream.send(message(&reply)).await.ok()?;
    if request["op"] == "attach" {
        output(lie, &mut stream).await?;
    }
    // Stay until the gateway goes.
    while let Some(Ok(_)) = stream.next().await {}
    Some(())
}

async fn output(lie: Lie, stream: &mut FrameStream) -> Option<()> {
    let hello = Frame::Data(Bytes::from_static(b"hello $ "));
    stream.send(hello).await.ok()?;
    let raw: &[u8] = match lie {
        Lie::GiantFrame => &[0, 0xff, 0xff, 0xff, 0xff, b'x'],
        Lie::UnknownFrame => &[7, 0, 0, 0, 1, b'x'],
        Lie::WrongEvent => b"\x01\0\0\0\x05never",
        Lie::Offsets => {
            for (from, to) in [(5, 3), (0, u64::MAX), (u64::MAX, 0), (0, u64::MAX - 2)] {
                let gap = json!({"event": "gap", "from": from, "to": to});
                stream.send(message(&gap)).await.ok()?;
                let data = Frame::Data(Bytes::from_static(b"abcdefgh"));
                stream.send(data).await.ok()?;
            }
            b"\x01\0\0\0\x05never"
        }
        Lie::LongSignal => {
            let signal = "\x1b]0;owned\x07".repeat(4_000);
            let exit = json!({"event": "exit", "code": null, "signal": signal});
            stream.send(message(&exit)).await.ok()?;
            return Some(());
        }
        Lie::Pongs => loop {
            let pong = json!({"event": "pong", "id": u64::MAX});
            stream.send(message(&pong)).await.ok()?;
        },
        Lie::Flood => loop {
            let data = Frame::Data(Bytes::from(vec![b'x'; 60_000]));
            stream.send(data).await.ok()?;
        },
        _ => return Some(()),
    };
    tokio::io::AsyncWriteExt::write_all(stream.get_mut(), raw)
        .await
        .ok()?;
    tokio::io::AsyncWriteExt::flush(stream.get_mut()).await.ok()
}

#[tokio::test]
async fn an_agent_that_lies_costs_its_own_session() {
    let liars = Arc::new(Liars::default());
    let mut config = process_config();
    // Some of them leave a session that its visitor could come back to.
    config.limits.detach_timeout = Duration::from_secs(1);
    let gateway = TestGateway::launched(config, liars).await;
    gateway.app.sandboxes.engine_known().await;
    let mut honest = gateway.connect("/ws").await;
    honest.ready().await;
    honest.until("$ ").await;
    for lie in &LIES[1..] {
        let mut client = gateway.connect("/ws").await;
        let begun = Instant::now();
        let code = match lie {
            // There is no end to these until the visitor has had enough.
            Lie::Pongs | Lie::Flood => {
                client.ready().await;
                for _ in 0..1000 {
                    client.hear().await;
                }
                client.send(json!({"type": "close"})).await;
                client.closed().await
            }
            _ => client.closed().await,
        };
        // With a word, and not because a task of the gateway broke down.
        let told = client.told.last().expect("it is told why");
        let expected = match lie {
            Lie::Pongs | Lie::Flood | Lie::LongSignal => 1000,
            _ => 1011,
        };
        assert_eq!(code, expected, "{lie:?}: {told}");
        assert!(
            matches!(told["type"].as_str(), Some("exit" | "error")),
            "{lie:?}: {told}"
        );
        assert!(begun.elapsed() < PATIENCE, "{lie:?}");
    }
    // Nobody else noticed.
    honest.send(json!({"type": "ping", "id": 1})).await;
    honest.send(json!({"type": "close"})).await;
    assert_eq!(honest.closed().await, 1000);
    gateway.assert_empty().await;
    gateway.stop().await;
}
