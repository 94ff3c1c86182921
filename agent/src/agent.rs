//! The sandbox's state, and how the gateway's requests act on it.
//!
//! Here are the terminals; [`links`] are the links themselves, [`process`] answers about programs
//! without a terminal.

mod links;

mod process;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, mpsc};
use std::time::{Duration, Instant};

use belljar_link::frame::{Frame, FrameError};
use belljar_link::message::files::Page;
use belljar_link::message::{
    Alive, Attach, Attached, Done, InputReady, MAX_TERMINALS, OpenTerminal, Refusal, Reply,
    Request, TerminalCommand, TerminalEvent, TerminalInfo, TerminalOpened, UNSUPPORTED,
};
use belljar_link::mux::{self, ByteStream, FrameStream};
use futures::{SinkExt, StreamExt};
use rustix::process::{Pid, Signal};
use serde::Serialize;
use tokio::io::AsyncReadExt;

use crate::files::Files;
use crate::hands::Hands;
use crate::history::Read;
use crate::inspect::inspect;
use crate::life::Life;
use crate::poller::Poller;
use crate::process::Processes;
use crate::reaper::Reaper;
use crate::terminal::Terminal;
use crate::{Event, port, stats, tasks};

use links::LinkState;

/// Largest data frame sent. A full turn of the PTY; more would only delay the next ping.
const CHUNK: usize = 32 * 1024;

/// Most bytes of a list in one message, roughly. One item more still fits into a frame.
const PAGE: usize = 64 * 1024;

/// Between hanging up a terminal's program and killing it.
const HANG_UP: Duration = Duration::from_millis(500);

/// Pings of one attach that may wait for their turn. A gateway sends one every few seconds.
const MAX_PINGS: usize = 16;

/// Everything the agent owns.
pub(crate) struct Agent {
    sandbox: String,
    pub(crate) life: Life,
    pub(crate) reaper: Arc<Reaper>,
    pub(crate) poller: Arc<Poller>,
    hands: Arc<Hands>,
    processes: Arc<Processes>,
    files: Files,
    /// Where to dial again for streams of their own; `None` over standard input and output.
    gateway: Option<PathBuf>,
    /// Connections that were dialled for them and live.
    dialled: AtomicUsize,
    started: Instant,
    terminals: Mutex<BTreeMap<u32, Arc<Terminal>>>,
    next_terminal: AtomicU32,
    /// The link whose gateway has said hello last.
    current: Mutex<Option<Arc<LinkState>>>,
    /// What a later gateway must present to be let in by a relay. There is no other way to come by one
    /// than to be given it, so the first one counts.
    relay_key: OnceLock<String>,
    events: mpsc::SyncSender<Event>,
}

impl Agent {
    pub(crate) fn new(
        sandbox: String,
        life: Life,
        gateway: Option<PathBuf>,
        events: mpsc::SyncSender<Event>,
    ) -> io::Result<Self> {
        let reaper = Arc::new(Reaper::default());
        let poller = Poller::new()?;
        let hands = Arc::new(Hands::default());
        let processes = Processes::new(reaper.clone(), poller.clone(), hands.clone());
        let files = Files::new(hands.clone(), poller.clone());
        Ok(Self {
            sandbox,
            life,
            reaper,
            poller,
            hands,
            processes: Arc::new(processes),
            files,
            gateway,
            dialled: AtomicUsize::new(0),
            started: Instant::now(),
            terminals: Mutex::default(),
            next_terminal: AtomicU32::new(1),
            current: Mutex::default(),
            relay_key: OnceLock::new(),
            events,
        })
    }

    fn terminals(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Terminal>>> {
        self.terminals.lock().expect("no panic while it is held")
    }

    /// Pass a signal on to the program of every terminal.
    pub(crate) fn forward(&self, signal: Signal) {
        let leaders: Vec<Pid> = self.terminals().values().map(|t| t.pid()).collect();
        for pid in leaders {
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }

    async fn stream(
        self: Arc<Self>,
        stream: ByteStream,
        link: Arc<LinkState>,
    ) -> Result<(), FrameError> {
        let mut stream = mux::framed(stream, 4096);
        let Some(first) = stream.next().await else {
            return Ok(());
        };
        self.life.heard();
        let Ok(request) = first?.parse::<Request>() else {
            let refusal = Refusal::new(UNSUPPORTED, "this agent does not know that operation");
            return reply::<()>(&mut stream, Err(refusal)).await;
        };
        match request {
            Request::Hello(hello) => self.control(hello, stream, link).await,
            Request::Ping => reply(&mut stream, Ok(Alive {})).await,
            Request::Inspect => reply(&mut stream, Ok(inspect())).await,
            Request::OpenTerminal(open) => {
                let opened = self.open_terminal(&open);
                reply(&mut stream, opened).await
            }
            Request::Attach(attach) => self.attach(attach, stream).await,
            Request::Input { terminal } => self.input(terminal, stream).await,
            Request::Terminals => {
                let infos = self.infos();
                pages(&mut stream, infos, false).await
            }
            Request::StartProcess(start) => {
                let started = self.start_process(start).await;
                reply(&mut stream, started).await
            }
            Request::Exec(start) => self.exec(start, stream).await,
            Request::Processes => pages(&mut stream, self.processes.infos(), false).await,
            Request::Process { process } => {
                let info = self.processes.get(process).map(|process| process.info());
                reply(&mut stream, info).await
            }
            Request::SignalProcess { process, signal } => {
                let signalled = self.signal_process(process, signal);
                reply(&mut stream, signalled).await
            }
            Request::FollowProcess { process, from } => {
                self.follow_process(process, from, stream).await
            }
            Request::ProcessInput { process } => self.process_input(process, stream).await,
            Request::CloseTerminal { terminal } => {
                let closed = self.close_terminal(terminal);
                reply(&mut stream, closed).await
            }
            Request::Connect { port } => port::serve(&self.poller, port, stream).await,
            Request::Stats => {
                let started = self.started;
                let stats = self.hands.run(move || stats::stats(started)).await;
                reply(&mut stream, Ok(stats)).await
            }
            Request::Dial { key } => {
                let dialled = self.dial(key, link);
                reply(&mut stream, dialled).await
            }
            // All others are about files, and whoever serves those knows which are not.
            request => self.files.serve(request, stream).await,
        }
    }

    fn infos(&self) -> Vec<TerminalInfo> {
        let terminals = self.terminals();
        terminals.iter().map(|(id, t)| t.info(*id)).collect()
    }

    fn terminal(&self, id: u32) -> Reply<Arc<Terminal>> {
        let found = self.terminals().get(&id).cloned();
        found.ok_or_else(|| Refusal::new("no_terminal", format!("there is no terminal {id}")))
    }

    fn open_terminal(&self, open: &OpenTerminal) -> Reply<TerminalOpened> {
        if open.command.is_empty() {
            return Err(Refusal::new("bad_command", "command: must not be empty"));
        }
        let mut terminals = self.terminals();
        if terminals.len() >= MAX_TERMINALS {
            // An ended terminal makes room; a live one does not.
            let ended = terminals.iter().find(|(_, t)| t.exit().is_some());
            let Some(id) = ended.map(|(id, _)| *id) else {
                return Err(Refusal::new(
                    "too_many_terminals",
                    format!("a sandbox has at most {MAX_TERMINALS} terminals"),
                ));
            };
            terminals.remove(&id);
        }
        let terminal = Terminal::open(open, &self.reaper)
            .map_err(|message| Refusal::new("spawn_failed", message))?;
        let id = self.next_terminal.fetch_add(1, Ordering::Relaxed);
        terminals.insert(id, terminal);
        Ok(TerminalOpened { terminal: id })
    }

    fn close_terminal(&self, id: u32) -> Reply<Done> {
        let terminal = self.terminal(id)?;
        self.terminals().remove(&id);
        if terminal.exit().is_none() {
            let _ = rustix::process::kill_process_group(terminal.pid(), Signal::HUP);
            let poller = self.poller.clone();
            tasks::spawn(async move {
                poller.sleep(HANG_UP).await;
                if terminal.exit().is_none() {
                    let _ = rustix::process::kill_process_group(terminal.pid(), Signal::KILL);
                }
            });
        }
        Ok(Done {})
    }

    async fn input(&self, terminal: u32, mut stream: FrameStream) -> Result<(), FrameError> {
        let found = self.terminal(terminal);
        let answer = found.as_ref().map(|_| InputReady {}).map_err(Clone::clone);
        reply(&mut stream, answer).await?;
        let Ok(terminal) = found else { return Ok(()) };
        // What came behind the request already is input.
        let parts = stream.into_parts();
        let mut early = &parts.read_buf[..];
        let mut late = parts.io;
        let mut buffer = vec![0; 4096];
        loop {
            let read = if early.is_empty() {
                late.read(&mut buffer).await?
            } else {
                early.read(&mut buffer).await?
            };
            if read == 0 {
                return Ok(());
            }
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                let taken = terminal.write(rest).await?;
                rest = &rest[taken..];
            }
        }
    }

    async fn attach(&self, attach: Attach, mut stream: FrameStream) -> Result<(), FrameError> {
        let terminal = match self.terminal(attach.terminal) {
            Ok(terminal) => terminal,
            Err(refusal) => return reply::<()>(&mut stream, Err(refusal)).await,
        };
        let info = terminal.info(attach.terminal);
        // An offset from the future is a client's mistake; it gets what comes next.
        let offset = attach.from.unwrap_or(info.start).min(info.end);
        let attached = Attached {
            offset,
            end: info.end,
            size: info.size,
        };
        // The controller's turn ends with this stream, whichever way that comes about.
        let controller = attach.window.map(|window| Turn {
            number: terminal.take(offset, window),
            terminal: terminal.clone(),
            hold: Duration::from_millis(attach.hold_ms),
        });
        let turn = controller.as_ref().map(|turn| turn.number);
        reply(&mut stream, Ok(attached)).await?;

        let (mut sink, mut source) = stream.split();
        let pings = Mutex::new(VecDeque::new());
        let waiting = || pings.lock().expect("no panic while it is held");
        let send = async {
            let mut offset = offset;
            let mut exit_sent = false;
            loop {
                let changed = terminal.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let ping = waiting().pop_front();
                if let Some(id) = ping {
                    let answer = Frame::message(&TerminalEvent::Pong { id })?;
                    sink.send(answer).await?;
                }
                let (read, exit) = terminal.read(offset, CHUNK);
                match read {
                    Read::Bytes(bytes) => {
                        offset += bytes.len() as u64;
                        sink.send(Frame::Data(bytes.into())).await?;
                    }
                    Read::Expired { start } => {
                        let gap = TerminalEvent::Gap {
                            from: offset,
                            to: start,
                        };
                        offset = start;
                        sink.send(Frame::message(&gap)?).await?;
                    }
                    Read::UpToDate => {
                        if let Some(exit) = exit.filter(|_| !exit_sent) {
                            exit_sent = true;
                            let exit = Frame::message(&TerminalEvent::Exit(exit))?;
                            sink.send(exit).await?;
                        } else if waiting().is_empty() {
                            changed.await;
                        }
                    }
                }
            }
        };
        let receive = async {
            while let Some(frame) = source.next().await {
                match frame?.parse() {
                    Ok(TerminalCommand::Ack { offset }) => {
                        if let Some(turn) = turn {
                            terminal.ack(turn, offset);
                        }
                    }
                    Ok(TerminalCommand::Resize(size)) => terminal.resize(size),
                    Ok(TerminalCommand::Ping { id }) => {
                        let mut pings = waiting();
                        if pings.len() < MAX_PINGS {
                            pings.push_back(id);
                            drop(pings);
                            terminal.changed.notify_waiters();
                        }
                    }
                    // From a newer gateway.
                    Ok(_) | Err(_) => {}
                }
            }
            Ok(())
        };
        tokio::select! {
            result = send => result,
            result = receive => result,
        }
    }
}

/// A controller's turn at a terminal's flow.
struct Turn {
    terminal: Arc<Terminal>,
    number: u64,
    hold: Duration,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.terminal.release(self.number, self.hold);
    }
}

/// Answer with a list, in parts that fit into a message.
pub(crate) async fn pages<T: Serialize>(
    stream: &mut FrameStream,
    items: Vec<T>,
    truncated: bool,
) -> Result<(), FrameError> {
    let mut items = items.into_iter().peekable();
    loop {
        let mut page = Vec::new();
        let mut bytes = 0;
        while let Some(item) = items.peek() {
            // Encoded twice, which is cheaper than to know how long JSON makes a name.
            bytes += Frame::message(item)?.len();
            if bytes > PAGE && !page.is_empty() {
                break;
            }
            page.extend(items.next());
        }
        let more = items.peek().is_some();
        let page = Page {
            items: page,
            more,
            truncated,
        };
        reply(stream, Ok(page)).await?;
        if !more {
            return Ok(());
        }
    }
}

/// Answer.
pub(crate) async fn reply<T: Serialize>(
    stream: &mut FrameStream,
    reply: Reply<T>,
) -> Result<(), FrameError> {
    stream.send(Frame::message(&reply)?).await
}
