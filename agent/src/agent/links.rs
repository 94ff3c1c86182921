//! The links to gateways, one after the other: whoever says hello last has the sandbox. And the
//! connections that are dialled for single streams of theirs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use belljar_link::frame::{Frame, FrameError};
use belljar_link::message::{
    ControlCommand, ControlEvent, Done, Hello, MAX_DIALLED, RELAY_KEY, Refusal, Reply, UNSUPPORTED,
    VERSION, Welcome, code,
};
use belljar_link::mux::{self, Buffers, ByteStream, FrameStream, Side};
use futures::{SinkExt, StreamExt};
use tokio::sync::watch;

use super::{Agent, reply};
use crate::{Event, dial, relay, tasks, wire};

/// How long a link that was taken over may take to tell its gateway so. It takes a moment, unless
/// the gateway is gone, and then nobody is left to be told.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where a link is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Phase {
    Live,
    /// Another gateway has said hello.
    TakenOver,
    /// It has had its time to say so.
    Over,
}

/// One link, as the others see it.
pub(super) struct LinkState {
    phase: watch::Sender<Phase>,
    taken_over: OnceLock<Instant>,
}

impl LinkState {
    fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Live),
            taken_over: OnceLock::new(),
        }
    }

    /// Resolves once it has come so far.
    async fn reached(&self, phase: Phase) {
        // The sender is this one's own.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Whether it is to be given up, for a write that is held up and holds up the tasks that would
    /// say so.
    fn is_over(&self) -> bool {
        let late = |since: &Instant| since.elapsed() >= FAREWELL;
        *self.phase.borrow() == Phase::Over || self.taken_over.get().is_some_and(late)
    }

    fn take_over(&self) {
        self.phase.send_if_modified(|phase| {
            let live = *phase == Phase::Live;
            if live {
                let _ = self.taken_over.set(Instant::now());
                *phase = Phase::TakenOver;
            }
            live
        });
    }
}

impl Agent {
    /// Serve one link until it ends.
    pub(crate) fn serve(self: &Arc<Self>, input: &OwnedFd, output: OwnedFd) {
        let link = Arc::new(LinkState::new());
        let (end, ended) = mpsc::channel::<()>();
        let over = {
            let link = link.clone();
            Box::new(move || link.is_over())
        };
        self.end_when_taken_over(&link);
        wire::serve(input, output, over, |wire| {
            let (agent, its) = (self.clone(), link.clone());
            let (_mux, driver) = mux::connect(wire, Side::Agent, Buffers::LARGE, move |stream| {
                let (agent, its) = (agent.clone(), its.clone());
                tasks::spawn(async move {
                    // A stream that fails is the gateway's to notice; the sandbox goes on.
                    let _ = agent.stream(stream, its).await;
                });
                true
            });
            let (agent, link) = (self.clone(), link.clone());
            tasks::spawn(async move {
                tokio::select! {
                    _ = driver => {}
                    () = link.reached(Phase::Over) => {}
                }
                agent.lost(&link);
                drop(end);
            });
        });
        // The next link's hello must not be overtaken by this one's end.
        let _ = ended.recv();
        // Nobody waits for it any more; ends the task beside it.
        link.phase.send_replace(Phase::Over);
        tasks::run();
    }

    /// Dial the gateway once more and serve one stream there, on a thread of its own: what a key passes
    /// on its way is then only what concerns it.
    pub(super) fn dial(self: &Arc<Self>, key: String, link: Arc<LinkState>) -> Reply<Done> {
        let Some(path) = self.gateway.clone() else {
            return Err(Refusal::new(UNSUPPORTED, "this link was not dialled"));
        };
        if self.dialled.fetch_add(1, Ordering::Relaxed) >= MAX_DIALLED {
            self.dialled.fetch_sub(1, Ordering::Relaxed);
            let message = format!("{MAX_DIALLED} connections are all that it dials");
            return Err(Refusal::new(code::BUSY, message));
        }
        let agent = self.clone();
        let started = tasks::thread("stream", move || {
            // A gateway that does not let it in has another way.
            let _ = agent.serve_own(&path, &key, &link);
            agent.dialled.fetch_sub(1, Ordering::Relaxed);
        });
        started.map(|()| Done {}).map_err(|error| {
            self.dialled.fetch_sub(1, Ordering::Relaxed);
            Refusal::new(code::BUSY, format!("no thread: {error}"))
        })
    }

    fn serve_own(
        self: &Arc<Self>,
        gateway: &Path,
        key: &str,
        link: &Arc<LinkState>,
    ) -> io::Result<()> {
        let (input, output) = dial::dial(gateway)?;
        rustix::io::write(&output, key.as_bytes())?;
        let over = {
            let link = link.clone();
            Box::new(move || link.is_over())
        };
        wire::serve(&input, output, over, |wire| {
            let (agent, link) = (self.clone(), link.clone());
            tasks::spawn(async move {
                let stream = agent.stream(ByteStream::own(wire), link.clone());
                // It is the gateway's that has asked for it.
                tokio::select! {
                    _ = stream => {}
                    () = link.reached(Phase::Over) => {}
                }
            });
        });
        Ok(())
    }

    /// Give a link up, a moment after another has taken its place.
    fn end_when_taken_over(self: &Arc<Self>, link: &Arc<LinkState>) {
        let (agent, link) = (self.clone(), link.clone());
        tasks::spawn(async move {
            link.reached(Phase::TakenOver).await;
            if !link.is_over() {
                agent.poller.sleep(FAREWELL).await;
                link.phase.send_replace(Phase::Over);
            }
        });
        tasks::run();
    }

    /// A gateway has said hello on this link: it is the one that counts.
    fn linked(&self, link: &Arc<LinkState>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let before = current.replace(link.clone());
        self.life.set_linked(true);
        drop(current);
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, link)) {
            before.take_over();
        }
    }

    /// This link has ended. One that had been taken over, or never said hello, was not the gateway's
    /// any more.
    fn lost(&self, link: &Arc<LinkState>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|now| Arc::ptr_eq(now, link)) {
            *current = None;
            self.life.set_linked(false);
        }
    }

    pub(super) async fn control(
        self: &Arc<Self>,
        hello: Hello,
        mut stream: FrameStream,
        link: Arc<LinkState>,
    ) -> Result<(), FrameError> {
        self.linked(&link);
        self.let_in_later(hello.relay_key);
        let welcome = Welcome {
            version: VERSION,
            agent: env!("CARGO_PKG_VERSION").into(),
            sandbox: self.sandbox.clone(),
            deadline_ms: u64::try_from(self.life.remaining().as_millis()).unwrap_or(u64::MAX),
            terminals: self.infos(),
        };
        reply(&mut stream, Ok(welcome)).await?;
        loop {
            let frame = tokio::select! {
                frame = stream.next() => frame,
                () = link.reached(Phase::TakenOver) => {
                    return stream.send(Frame::message(&ControlEvent::TakenOver)?).await;
                }
            };
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame?;
            // A sandbox that was started ahead waits in silence, and what it hears first may be that it is
            // to bear less of it.
            self.life.heard();
            match frame.parse() {
                Ok(ControlCommand::SetDeadline {
                    remaining_ms,
                    unlinked_ms,
                }) => {
                    self.life.set_deadline(Duration::from_millis(remaining_ms));
                    if let Some(limit) = unlinked_ms {
                        self.life.set_unlinked(Duration::from_millis(limit));
                    }
                }
                Ok(ControlCommand::Terminate) => {
                    let _ = self
                        .events
                        .send(Event::Over("the gateway has ended the sandbox"));
                }
                // From a newer gateway, which knows by the welcome that this agent is older.
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Listen for later gateways, if this one has said how they are known.
    fn let_in_later(self: &Arc<Self>, key: Option<String>) {
        let Some(key) = key.filter(|key| key.len() == RELAY_KEY) else {
            return;
        };
        if self.relay_key.set(key).is_err() {
            return;
        }
        self.life.mistrust_silence();
        if let Err(error) = relay::listen(self) {
            eprintln!("belljar-agent: no later gateway can come: {error}");
        }
    }

    /// The sandbox's id.
    pub(crate) fn sandbox(&self) -> &str {
        &self.sandbox
    }

    /// Whether this is what a later gateway presents, in constant time.
    pub(crate) fn admits(&self, presented: &[u8; RELAY_KEY]) -> bool {
        let Some(key) = self.relay_key.get() else {
            return false;
        };
        let differing = key.bytes().zip(presented).map(|(one, other)| one ^ other);
        std::hint::black_box(differing.fold(0, |all, bits| all | bits)) == 0
    }
}
