//! The agent by itself, over a socket as a gateway makes it: no gateway, no engine.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use belljar_link::client::{
    Link, LinkError, Output, TerminalControl, TerminalInput, TerminalOutput,
};
use belljar_link::frame::Frame;
use belljar_link::message::{
    Attach, Exit, HISTORY_BYTES, MIN_WINDOW, OpenTerminal, Reply, Size, TerminalCommand,
    TerminalEvent, UNSUPPORTED, VERSION, Welcome,
};
use belljar_link::mux::{self, Buffers, Mux, Side};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::harness::{PATIENCE, agent};

mod terminals;

mod processes;

mod files;

mod ports;

mod protocol;

mod relay;

mod life;

mod hostile;

/// A running agent and the socket it dials.
struct Agent {
    child: Child,
    directory: PathBuf,
    /// `None` while there is no gateway.
    listener: Option<UnixListener>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Agent {
    /// An agent that lives as long as its test.
    fn start() -> Self {
        Self::with("600", "600", |_| ())
    }

    fn with(deadline: &str, unlinked: &str, change: impl FnOnce(&mut Command)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("belljar-agent-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("it can be made");
        let socket = directory.join("link.sock");
        let listener = UnixListener::bind(&socket).expect("it can be bound");
        let mut command = Command::new(agent());
        command
            .args(["--sandbox", "test", "--deadline", deadline])
            .args(["--unlinked", unlinked])
            .arg("--link")
            .arg(&socket)
            .kill_on_drop(true);
        change(&mut command);
        Self {
            child: command.spawn().expect("it starts"),
            directory,
            listener: Some(listener),
        }
    }

    fn pid(&self) -> Pid {
        let id = self.child.id().expect("it runs");
        Pid::from_raw(id.cast_signed()).expect("a pid")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is ours");
    }

    /// The agent's next call, nothing said yet.
    async fn call(&self) -> UnixStream {
        let listener = self.listener.as_ref().expect("there is a gateway");
        let accepted = timeout(PATIENCE, listener.accept()).await;
        accepted.expect("it calls in time").expect("it calls").0
    }

    async fn link(&self) -> Link {
        Link::establish(self.call().await, "test", None)
            .await
            .expect("it answers")
    }

    /// The gateway dies.
    fn hang_up(&mut self) {
        self.listener = None;
        std::fs::remove_file(self.directory.join("link.sock")).expect("it was there");
    }

    /// It is there again.
    fn listen(&mut self) {
        let listener = UnixListener::bind(self.directory.join("link.sock"));
        self.listener = Some(listener.expect("it can be bound"));
    }

    async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        ended.expect("it ends in time").expect("it ends")
    }

    /// A file for its programs to write to.
    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn open(command: &[&str]) -> OpenTerminal {
    OpenTerminal {
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        env: [("PS1".to_owned(), "$ ".to_owned())].into(),
        cwd: None,
        size: Size::default(),
    }
}

fn shell(script: &str) -> OpenTerminal {
    open(&["/bin/sh", "-c", script])
}

/// Someone at a terminal.
struct Reader {
    terminal: u32,
    output: TerminalOutput,
    control: TerminalControl,
    /// Offset of the next byte.
    offset: u64,
    /// What was not looked for yet.
    seen: Vec<u8>,
    acknowledge: bool,
}

impl Reader {
    /// A controller from the terminal's first byte on.
    async fn open(link: &Link, open: OpenTerminal) -> Self {
        let terminal = link.open_terminal(open).await.expect("it opens");
        Self::attach(link, terminal, Some(0), Some(HISTORY_BYTES), 0).await
    }

    async fn attach(
        link: &Link,
        terminal: u32,
        from: Option<u64>,
        window: Option<u32>,
        hold_ms: u64,
    ) -> Self {
        let attach = Attach {
            terminal,
            from,
            window,
            hold_ms,
        };
        let (attached, output, control) = link.attach(attach).await.expect("it attaches");
        Self {
            terminal,
            output,
            control,
            offset: attached.offset,
            seen: Vec::new(),
            acknowledge: window.is_some(),
        }
    }

    async fn next(&mut self) -> Output {
        let next = timeout(PATIENCE, self.output.next()).await;
        let next = next.expect("in time").expect("a link").expect("a frame");
        match &next {
            Output::Bytes(bytes) => {
                self.offset += bytes.len() as u64;
                if self.acknowledge {
                    let ack = TerminalCommand::Ack {
                        offset: self.offset,
                    };
                    self.control.send(ack).await.expect("it listens");
                }
            }
            Output::Event(TerminalEvent::Gap { from, to }) => {
                assert_eq!(*from, self.offset);
                self.offset = *to;
            }
            Output::Event(_) => {}
        }
        next
    }

    /// Everything up to and with this text.
    async fn until(&mut self, text: &str) -> String {
        loop {
            let seen = String::from_utf8_lossy(&self.seen).into_owned();
            if let Some(at) = seen.find(text) {
                self.seen = seen[at + text.len()..].into();
                return seen[..at + text.len()].to_owned();
            }
            match self.next().await {
                Output::Bytes(bytes) => self.seen.extend(bytes),
                Output::Event(event) => panic!("{event:?} before {text:?}; seen: {seen:?}"),
            }
        }
    }

    /// Everything up to the program's end, and the end.
    async fn rest(&mut self) -> (String, Exit) {
        loop {
            match self.next().await {
                Output::Bytes(bytes) => self.seen.extend(bytes),
                Output::Event(TerminalEvent::Exit(exit)) => {
                    let seen = std::mem::take(&mut self.seen);
                    return (String::from_utf8_lossy(&seen).into_owned(), exit);
                }
                Output::Event(_) => {}
            }
        }
    }
}

async fn input(link: &Link, terminal: u32, text: &str) -> TerminalInput {
    let mut input = link.input(terminal).await.expect("there is a terminal");
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let typed = timeout(PATIENCE, input.write(rest)).await;
        rest = &rest[typed.expect("in time").expect("a link")..];
    }
    input
}

fn exited(code: i32) -> Exit {
    Exit {
        code: Some(code),
        signal: None,
    }
}

fn alive(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

/// Wait until something is so.
async fn eventually(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "not {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
