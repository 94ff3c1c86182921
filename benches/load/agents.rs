//! Stands in for the agents of thousands of sandboxes: speaks the link, and its programs echo what is
//! typed, or flood when they are told to.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use belljar_link::frame::{Frame, FrameError};
use belljar_link::message::{
    Alive, Attached, HISTORY_BYTES, InputReady, Reply, Request, Size, TerminalCommand,
    TerminalEvent, TerminalOpened, VERSION, Welcome,
};
use belljar_link::mux::{self, Buffers, ByteStream, FrameStream, Side};
use belljar_link::socket::QuietSocket;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::yield_now;

/// The argument that makes this binary the agents.
pub(crate) const NAME: &str = "agents";

/// Typed, it makes the program print without end.
pub(crate) const FLOOD: u8 = b'!';

/// One piece of a flood, bytes: what a busy PTY gives at a time.
const PIECE: usize = 4096;

/// Typed pieces that may wait for the program.
const TYPED: usize = 16;

/// Be the agents, at this socket, until standard input ends.
pub(crate) fn serve(socket: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a thread").block_on(async {
        let listener = UnixListener::bind(socket).expect("a socket");
        println!("ready");
        let accept = async {
            loop {
                let (socket, _) = listener.accept().await.expect("a link");
                tokio::spawn(agent(socket));
            }
        };
        let (mut stdin, mut byte) = (tokio::io::stdin(), [0]);
        tokio::select! {
            () = accept => {}
            _ = stdin.read(&mut byte) => {}
        }
    });
    ExitCode::SUCCESS
}

/// What is typed into an agent's one program, on its way from the input's stream to the output's.
struct Program {
    typed: mpsc::Sender<Bytes>,
    /// Taken by whoever attaches.
    taken: Mutex<Option<mpsc::Receiver<Bytes>>>,
}

async fn agent(socket: UnixStream) {
    let socket = socket.into_std().and_then(QuietSocket::new);
    let (typed, taken) = mpsc::channel(TYPED);
    let program = Arc::new(Program {
        typed,
        taken: Mutex::new(Some(taken)),
    });
    let socket = socket.expect("a socket");
    let (_mux, driver) = mux::connect(socket, Side::Agent, Buffers::SMALL, move |stream| {
        let program = program.clone();
        // A stream that fails is the gateway's to notice.
        tokio::spawn(async move { program.answer(stream).await.unwrap_or_default() });
        true
    });
    let _ = driver.await;
}

impl Program {
    async fn answer(&self, stream: ByteStream) -> Result<(), FrameError> {
        let mut stream = mux::framed(stream, 256);
        let Some(first) = stream.next().await else {
            return Ok(());
        };
        match first?.parse::<Request>()? {
            Request::Hello(_) => {
                let welcome = Welcome {
                    version: VERSION,
                    agent: "stand-in".into(),
                    sandbox: String::new(),
                    deadline_ms: u64::MAX,
                    terminals: Vec::new(),
                };
                reply(&mut stream, welcome).await?;
                while stream.next().await.is_some() {}
                Ok(())
            }
            Request::Ping => reply(&mut stream, Alive {}).await,
            Request::OpenTerminal(_) => reply(&mut stream, TerminalOpened { terminal: 1 }).await,
            Request::Attach(attach) => self.print(stream, attach.window).await,
            Request::Input { .. } => self.read(stream).await,
            other => panic!("the gateway asks for {other:?}"),
        }
    }

    async fn read(&self, mut stream: FrameStream) -> Result<(), FrameError> {
        reply(&mut stream, InputReady {}).await?;
        let mut stream = stream.into_inner();
        let mut buffer = [0; 256];
        loop {
            let read = stream.read(&mut buffer).await?;
            let typed = Bytes::copy_from_slice(&buffer[..read]);
            if read == 0 || self.typed.send(typed).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn print(&self, mut stream: FrameStream, window: Option<u32>) -> Result<(), FrameError> {
        let taken = self.taken.lock().expect("no panic").take();
        let mut typed = taken.expect("a session attaches once");
        let attached = Attached {
            offset: 0,
            end: 0,
            size: Size::default(),
        };
        reply(&mut stream, attached).await?;
        let window = u64::from(window.unwrap_or(HISTORY_BYTES));
        let piece = Bytes::from_static(&[b'y'; PIECE]);
        let (mut sent, mut acked, mut flooding) = (0, 0, false);
        loop {
            let room = sent - acked + PIECE as u64 <= window;
            tokio::select! {
                biased;
                frame = stream.next() => match frame {
                    Some(frame) => match frame?.parse()? {
                        TerminalCommand::Ack { offset } => acked = offset.min(sent),
                        TerminalCommand::Ping { id } => {
                            stream.send(Frame::message(&TerminalEvent::Pong { id })?).await?;
                        }
                        _ => {}
                    },
                    None => return Ok(()),
                },
                Some(bytes) = typed.recv() => {
                    flooding |= bytes[0] == FLOOD;
                    sent += bytes.len() as u64;
                    stream.send(Frame::Data(bytes)).await?;
                }
                () = std::future::ready(()), if flooding && room => {
                    sent += PIECE as u64;
                    stream.send(Frame::Data(piece.clone())).await?;
                    // Each is a process of its own where the sandboxes are real.
                    yield_now().await;
                }
            }
        }
    }
}

async fn reply(stream: &mut FrameStream, reply: impl Serialize) -> Result<(), FrameError> {
    let reply: Reply<_> = Ok(reply);
    stream.send(Frame::message(&reply)?).await
}
