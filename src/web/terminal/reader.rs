//! The loop that reads the visitor and types.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::ws::WebSocket;
use belljar_link::client::{TerminalControl, TerminalInput};
use belljar_link::message::{Size, TerminalCommand};
use futures::StreamExt;
use futures::stream::SplitStream;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::acks::Acks;
use super::shower::Telling;
use super::{Shared, Stop, broken};
use crate::limit::Limiter;
use crate::secret::random_hex;
use crate::web::input::{InputQueue, Step};
use crate::web::protocol::{AttachMessage, ClientMessage, Fault, FaultCode, Notice, ServerMessage};
use crate::web::toolkata::InitWatch;

/// Resizes reach the terminal at most this often; of those between, the last.
const RESIZE_EVERY: Duration = Duration::from_millis(50);

/// Messages that are not understood before the connection is closed.
const MAX_BAD_MESSAGES: u32 = 16;

/// Reads the visitor.
pub(super) struct Reader<'a> {
    pub(super) shared: &'a Shared,
    pub(super) stream: &'a mut SplitStream<WebSocket>,
    pub(super) limiter: &'a Limiter,
    pub(super) queue: InputQueue,
    /// Absent if this viewer may only watch.
    pub(super) input: Option<TerminalInput>,
    pub(super) control: TerminalControl,
    /// Of an owner: a guest's go no further than to the showing loop.
    pub(super) acks: Acks,
    /// To the showing loop.
    pub(super) tell: mpsc::Sender<Telling>,
    pub(super) bytes_in: Counter,
    pub(super) bad_messages: u32,
    /// Whether a guest has been told that it may not do what it tried.
    pub(super) refused: bool,
    /// Whether the socket is being read.
    pub(super) listening: bool,
    /// A size that waits for its turn.
    pub(super) size: Option<Size>,
    pub(super) size_sent: Instant,
}

impl Reader<'_> {
    /// Read until the visitor is gone. `early` came before the terminal was there.
    pub(super) async fn run(&mut self, early: VecDeque<ClientMessage>) -> Stop {
        for message in early {
            if let Err(stop) = self.handle(message).await {
                return stop;
            }
        }
        let mut shown = self.shared.shown.subscribe();
        loop {
            // While so much input waits that the socket is not read, the visitor's own
            // acknowledgements are not read either. The program may be waiting for them before it
            // reads any input: so the gateway gives them itself until there is room again.
            let full = self.queue.is_full();
            self.listen(!full);
            let acknowledge = full || !self.shared.dialect.acknowledges();
            let step = tokio::select! {
                // What was typed goes in before more is heard, be it that the visitor has gone.
                biased;
                step = async {
                    match &mut self.input {
                        Some(input) => self.queue.deliver(input, self.limiter).await,
                        None => std::future::pending().await,
                    }
                }, if !self.queue.is_empty() => {
                    match step {
                        Ok(Step::Typed(n)) => {
                            self.bytes_in.inc_by(n as u64);
                            Ok(())
                        }
                        Ok(Step::Slowed(wait)) => {
                            self.say(Notice::InputSlowed(wait));
                            Ok(())
                        }
                        Err(_) => link_lost().await,
                    }
                }
                Ok(()) = shown.changed(), if acknowledge => {
                    let offset = *shown.borrow_and_update();
                    self.acknowledge(offset).await
                }
                () = sleep_until(self.acks.due().unwrap_or_else(Instant::now)), if self.acks.due().is_some() => {
                    let offset = self.acks.take();
                    self.command(TerminalCommand::Ack { offset }).await
                }
                () = sleep_until(self.size_sent + RESIZE_EVERY), if self.size.is_some() => {
                    self.send_size().await
                }
                message = self.stream.next(), if !full => match message {
                    Some(Ok(message)) => {
                        self.shared.heard.store(self.shared.now(), Ordering::Relaxed);
                        let message = self.shared.dialect.decode(message);
                        self.handle(message).await
                    }
                    Some(Err(error)) => Err(broken(error)),
                    None => Err(Stop::Gone),
                },
            };
            if let Err(stop) = step {
                return stop;
            }
        }
    }

    /// While the socket is not read, its peer's silence says nothing.
    fn listen(&mut self, listening: bool) {
        if listening != self.listening {
            self.listening = listening;
            let heard = if listening {
                self.shared.now()
            } else {
                u64::MAX
            };
            self.shared.heard.store(heard, Ordering::Relaxed);
        }
    }

    async fn handle(&mut self, message: ClientMessage) -> Result<(), Stop> {
        match message {
            ClientMessage::Input(_) | ClientMessage::Init(_) if self.input.is_none() => {
                self.refuse(Notice::ReadOnly);
            }
            ClientMessage::Input(bytes) => {
                self.shared.session.touch();
                self.queue.push(&bytes);
            }
            ClientMessage::Resize(size)
            | ClientMessage::Attach(AttachMessage {
                size: Some(size), ..
            }) if self.shared.owner => self.size = Some(size),
            // The size is the owner's: a guest is told of it and fits its screen to it.
            ClientMessage::Resize(_) | ClientMessage::Attach(_) | ClientMessage::Nothing => {}
            ClientMessage::Ack(offset) => {
                // A client cannot have processed what was not sent.
                let offset = offset.min(*self.shared.shown.borrow());
                self.acknowledge(offset).await?;
            }
            ClientMessage::Extend if self.input.is_none() => {}
            ClientMessage::Extend => self.shared.session.touch(),
            ClientMessage::Ping(id) => self.command(TerminalCommand::Ping { id }).await?,
            ClientMessage::Close if !self.shared.owner => self.refuse(Notice::OwnerOnly),
            // The showing loop sees the end and says it.
            ClientMessage::Close => drop(self.shared.session.close().await),
            ClientMessage::Init(init) => {
                let (watch, line) = InitWatch::begin(&init, &random_hex::<8>());
                if self
                    .tell
                    .send(Telling::Watch(Box::new(watch)))
                    .await
                    .is_ok()
                {
                    self.queue.push(&line);
                }
            }
            ClientMessage::Leave => return Err(Stop::Left),
            ClientMessage::Bad(complaint) => {
                self.bad_messages += 1;
                if self.bad_messages > MAX_BAD_MESSAGES {
                    let fault = Fault::new(FaultCode::TooManyBadMessages, complaint);
                    return Err(Stop::Fault(fault));
                }
                self.say(Notice::BadMessage(complaint));
            }
        }
        Ok(())
    }

    /// Output before `offset` has been processed. An owner's program waits for that; a guest waits
    /// for itself.
    async fn acknowledge(&mut self, offset: u64) -> Result<(), Stop> {
        if self.shared.owner {
            return match self.acks.add(offset, Instant::now()) {
                Some(offset) => self.command(TerminalCommand::Ack { offset }).await,
                None => Ok(()),
            };
        }
        let forward = |processed: &mut u64| {
            let before = *processed;
            *processed = before.max(offset);
            *processed > before
        };
        self.shared.processed.send_if_modified(forward);
        Ok(())
    }

    /// A guest may not do this. Said once, or a key that is held down would be answered without end.
    fn refuse(&mut self, notice: Notice) {
        if !std::mem::replace(&mut self.refused, true) {
            self.say(notice);
        }
    }

    /// Tell the visitor, unless so much is being told already that it would not help.
    fn say(&self, notice: Notice) {
        let telling = Telling::Say(Box::new(ServerMessage::Notice(notice)));
        let _ = self.tell.try_send(telling);
    }

    async fn send_size(&mut self) -> Result<(), Stop> {
        if let Some(size) = self.size.take() {
            self.size_sent = Instant::now();
            self.shared.session.resized(size);
            self.command(TerminalCommand::Resize(size)).await?;
        }
        Ok(())
    }

    async fn command(&mut self, command: TerminalCommand) -> Result<(), Stop> {
        match self.control.send(command).await {
            Ok(()) => Ok(()),
            Err(_) => link_lost().await,
        }
    }
}

/// The showing loop learns why and ends both; this one waits for that.
async fn link_lost() -> Result<(), Stop> {
    std::future::pending().await
}
