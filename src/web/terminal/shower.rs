//! The loop that reads the terminal and shows.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::Message;
use belljar_link::client::{Output, TerminalOutput};
use belljar_link::message::TerminalEvent;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep_until, timeout};

use super::news::News;
use super::{COME_BACK, Shared, Sink, Stop};
use crate::session::{self, EndReason, Ending};
use crate::web::protocol::{Fault, FaultCode, Notice, ServerMessage, millis};
use crate::web::toolkata::InitWatch;
use crate::web::websocket::{PING_EVERY, PONG_DEADLINE};

/// After the link is lost, how long the session may take to find out why.
const AUTOPSY_DEADLINE: Duration = Duration::from_secs(3);

/// `init`s that are watched for at once; for one more, the oldest is given up.
const MAX_INITS: usize = 16;

/// From the reading loop. Boxed, because a channel has room for 32 of them from the beginning, which
/// was a quarter of what an idle session costs.
pub(super) enum Telling {
    /// Say this to the visitor.
    Say(Box<ServerMessage>),
    /// Look for the end of these commands in the output.
    Watch(Box<InitWatch>),
}

/// Shows the terminal.
pub(super) struct Shower<'a> {
    pub(super) shared: &'a Shared,
    pub(super) sink: &'a mut Sink,
    pub(super) terminal: TerminalOutput,
    /// How far a guest may be behind, bytes, before its terminal is not read. (An owner's program is
    /// stopped by the agent.)
    pub(super) window: u32,
    pub(super) news: News,
    pub(super) notices: mpsc::Receiver<session::Notice>,
    pub(super) told: mpsc::Receiver<Telling>,
    /// Each `init` under way, in the order in which they were typed, and when to give it up.
    pub(super) inits: VecDeque<(InitWatch, Instant)>,
    pub(super) bytes_out: Counter,
}

impl Shower<'_> {
    /// Show until the session, the terminal or the connection ends.
    pub(super) async fn run(&mut self) -> Stop {
        let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        let session = self.shared.session.clone();
        let ended = session.ended();
        tokio::pin!(ended);
        let mut processed = self.shared.processed.subscribe();
        loop {
            let ahead = self
                .shared
                .shown
                .borrow()
                .saturating_sub(*processed.borrow_and_update());
            let room = self.shared.owner || ahead < self.window.into();
            let give_up = self.inits.front().map(|(_, at)| *at);
            let shown = tokio::select! {
                // What little there is to say comes before output, which may never pause.
                biased;
                ending = &mut ended => Err(Stop::Ended(ending)),
                Some(notice) = self.notices.recv() => match notice {
                    session::Notice::Idle(left) => self.notice(Notice::IdleWarning(left)).await,
                    session::Notice::Expiry(left) => {
                        self.notice(Notice::ExpiryWarning(left)).await
                    }
                    session::Notice::TakenOver => Err(Stop::TakenOver),
                },
                Some(telling) = self.told.recv() => match telling {
                    Telling::Say(message) => self.sink.send(&message).await,
                    Telling::Watch(watch) => self.watch(*watch).await,
                },
                news = self.news.next() => self.sink.send(&news).await,
                at = pings.tick() => self.ping(at).await,
                () = async {
                    match give_up {
                        Some(at) => sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => self.init_complete(false).await,
                Ok(()) = processed.changed(), if !room => Ok(()),
                output = self.terminal.next(), if room => match output {
                    Some(Ok(Output::Bytes(bytes))) => self.bytes(bytes).await,
                    Some(Ok(Output::Event(event))) => self.event(event).await,
                    Some(Err(_)) | None => Err(self.link_lost().await),
                },
            };
            if let Err(stop) = shown {
                return stop;
            }
        }
    }

    async fn notice(&mut self, notice: Notice) -> Result<(), Stop> {
        self.sink.send(&ServerMessage::Notice(notice)).await
    }

    async fn watch(&mut self, watch: InitWatch) -> Result<(), Stop> {
        if self.inits.len() >= MAX_INITS {
            self.init_complete(false).await?;
        }
        let at = Instant::now() + watch.timeout;
        self.inits.push_back((watch, at));
        Ok(())
    }

    /// The oldest `init` is done, or given up.
    async fn init_complete(&mut self, success: bool) -> Result<(), Stop> {
        self.inits.pop_front();
        let done = ServerMessage::InitComplete { success };
        self.sink.send(&done).await
    }

    async fn output(&mut self, bytes: Bytes) -> Result<(), Stop> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.sink.send(&ServerMessage::Output(bytes)).await
    }

    async fn bytes(&mut self, bytes: Bytes) -> Result<(), Stop> {
        let length = bytes.len() as u64;
        let mut rest = bytes;
        while let Some((watch, _)) = self.inits.front_mut() {
            let (shown, done) = watch.look(&rest);
            self.output(shown).await?;
            let Some((success, after)) = done else {
                rest = Bytes::new();
                break;
            };
            self.init_complete(success).await?;
            rest = after;
        }
        self.output(rest).await?;
        self.bytes_out.inc_by(length);
        // The offset is the agent's word, which may be anything.
        let add = |offset: &mut u64| *offset = offset.saturating_add(length);
        self.shared.shown.send_modify(add);
        Ok(())
    }

    async fn event(&mut self, event: TerminalEvent) -> Result<(), Stop> {
        match event {
            TerminalEvent::Gap { from, to } => {
                self.shared.shown.send_replace(to);
                // A client has nothing to process in a gap, so it need not acknowledge it.
                self.shared
                    .processed
                    .send_if_modified(|at| std::mem::replace(at, to) != to);
                self.sink.send(&ServerMessage::Gap { from, to }).await
            }
            TerminalEvent::Pong { id } => self.sink.send(&ServerMessage::Pong(id)).await,
            // Known to the session's task once the owner has seen all its output, and then to everyone.
            TerminalEvent::Exit(_) if !self.shared.owner => Ok(()),
            TerminalEvent::Exit(exit) => {
                self.shared.session.exited(exit.clone()).await;
                Err(Stop::Ended(Ending {
                    reason: EndReason::Exited,
                    exit: Some(exit),
                }))
            }
        }
    }

    async fn ping(&mut self, now: Instant) -> Result<(), Stop> {
        let heard = self.shared.heard.load(Ordering::Relaxed);
        let silence = self.shared.now().saturating_sub(heard);
        // The pings before this one went unanswered.
        if silence > millis(PING_EVERY + PONG_DEADLINE) && now > self.shared.begun {
            return Err(Stop::Gone);
        }
        self.sink.send_raw(Message::Ping(Bytes::new())).await
    }

    /// The sandbox has died, or the session has ended it: the session knows.
    async fn link_lost(&self) -> Stop {
        match timeout(AUTOPSY_DEADLINE, self.shared.session.ended()).await {
            Ok(ending) => Stop::Ended(ending),
            Err(_) if !self.shared.mends => Stop::Fault(Fault::new(
                FaultCode::Internal,
                "The connection to the terminal was lost.",
            )),
            // It may find another way to it.
            Err(_) => {
                let message =
                    "The connection to the terminal was lost. It may be back in a moment.";
                let fault = Fault::new(FaultCode::GoingAway, message);
                Stop::Fault(fault.retry_after(COME_BACK))
            }
        }
    }
}
