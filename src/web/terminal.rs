//! Joins a WebSocket to a session's terminal.
//!
//! Two loops share a connection, and neither awaits inside the other: one reads the visitor and
//! types, the other reads the terminal and shows. Whichever ends first ends both; what they hold
//! (the viewer, the queue) goes with them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use belljar_link::message::Size;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::App;
use super::auth::{self, Key};
use super::error::{of_attach, of_ending, of_seat};
use super::input::InputQueue;
use super::protocol::{
    self, AttachMessage, CLOSE_TAKEN_OVER, ClientMessage, Fault, FaultCode, Notice, Ready,
    ServerMessage, v1,
};
use super::toolkata;
use super::turns::{self, Turn};
use super::websocket::{self, CLOSE_DEADLINE, SEND_DEADLINE};
use crate::session::{
    AttachError, AttachRequest, Elsewhere, EndReason, Ending, Identity, Recorded, Session, Viewer,
    Waiting,
};

mod acks;

mod early;

mod line;

mod news;

mod reader;

mod shower;

mod upgrade;

use acks::Acks;
use early::Early;
use news::News;
use reader::Reader;
use shower::Shower;
pub(super) use upgrade::{attach, start};

/// How long a client may take to present its token.
const FIRST_MESSAGE_DEADLINE: Duration = Duration::from_secs(10);

/// When a visitor whose session is handed over should come back: a gateway starts in less.
const COME_BACK: Duration = Duration::from_millis(500);

/// Messages from the reading loop to the showing one. Each is the answer to a client's own message.
const TELLINGS: usize = 16;

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V1,
    Toolkata,
}

impl Dialect {
    fn decode(self, message: Message) -> ClientMessage {
        match self {
            Self::V1 => v1::decode(message),
            Self::Toolkata => toolkata::decode(message),
        }
    }

    /// Whether the client acknowledges output. Otherwise its socket's taking it counts.
    fn acknowledges(self) -> bool {
        self == Self::V1
    }
}

/// What a connection is for, decided before the upgrade.
enum Purpose {
    /// A session of its own, just begun.
    Start(Unclaimed, String, Option<Size>),
    /// The same, when its turn has come.
    Wait(Box<Waiting>, Option<Size>),
    /// A session whose token was presented.
    Attach(Arc<Session>, Key, AttachRequest),
    /// A session whose token will come with the first message.
    Await(Awaited, AttachRequest),
    /// To be told why not. Only for clients that can be told after the upgrade.
    Refuse(Fault),
}

/// Where the session is whose token is awaited.
enum Awaited {
    Here(Arc<Session>),
    Elsewhere(Box<Elsewhere>),
}

impl Awaited {
    fn identity(&self) -> &Identity {
        match self {
            Self::Here(session) => session,
            Self::Elsewhere(session) => session,
        }
    }

    /// What `token` opens of it. One that is elsewhere is taken over, for its owner only: guests of one
    /// session at two gateways would take it from each other for ever.
    fn open(self, app: &App, token: String) -> Result<(Arc<Session>, Key), Fault> {
        match self {
            Self::Here(session) => {
                let key = auth::key(app, &session, token)?;
                Ok((session, key))
            }
            Self::Elsewhere(session) if session.opens_with(&token) => {
                Ok((app.sessions.take_over(*session), Key::Owner(token)))
            }
            Self::Elsewhere(_) => Err(auth::wrong_token(app)),
        }
    }
}

/// A session whose visitor has not been given its token yet: if the visitor leaves now, nobody can
/// ever come back to it.
pub(super) struct Unclaimed {
    session: Arc<Session>,
    pub(super) claimed: bool,
}

impl Unclaimed {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            claimed: false,
        }
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if !self.claimed {
            self.session.close_soon();
        }
    }
}

/// Why a loop stopped.
enum Stop {
    /// The peer is gone; the session may go on without it.
    Gone,
    /// The peer has closed; it is to be answered.
    Left,
    /// Say this and close.
    Fault(Fault),
    /// The session is over: say so and close.
    Ended(Ending),
    /// Another viewer has taken over.
    TakenOver,
}

/// One WebSocket, split.
struct Connection {
    app: App,
    dialect: Dialect,
    sink: Sink,
    stream: SplitStream<WebSocket>,
}

/// The sending half with its dialect.
struct Sink {
    socket: SplitSink<WebSocket, Message>,
    dialect: Dialect,
    encoder: toolkata::Encoder,
    turn: Turn,
}

impl Sink {
    async fn send(&mut self, message: &ServerMessage) -> Result<(), Stop> {
        match self.dialect {
            Dialect::V1 => {
                if let Some(message) = v1::encode(message) {
                    self.send_raw(message).await?;
                }
            }
            Dialect::Toolkata => {
                for message in self.encoder.encode(message) {
                    self.send_raw(message).await?;
                }
            }
        }
        Ok(())
    }

    async fn send_raw(&mut self, message: Message) -> Result<(), Stop> {
        let length = turns::length(&message);
        match timeout(SEND_DEADLINE, self.socket.send(message)).await {
            Ok(Ok(())) => {
                self.turn.sent(length).await;
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(Stop::Gone),
        }
    }
}

impl Connection {
    fn new(app: App, dialect: Dialect, socket: WebSocket) -> Self {
        let (socket, stream) = socket.split();
        let sink = Sink {
            socket,
            dialect,
            encoder: toolkata::Encoder::default(),
            turn: Turn::new(&app.turns),
        };
        Self {
            app,
            dialect,
            sink,
            stream,
        }
    }

    async fn serve(mut self, purpose: Purpose) {
        let stop = match purpose {
            Purpose::Start(unclaimed, token, size) => {
                let early = Early::new(from_the_beginning(size));
                self.start(unclaimed, token, early).await
            }
            Purpose::Wait(waiting, size) => {
                let early = Early::new(from_the_beginning(size));
                self.wait(*waiting, early).await
            }
            Purpose::Attach(session, key, request) => self.attach(session, key, request).await,
            Purpose::Await(awaited, request) => self.await_token(awaited, request).await,
            Purpose::Refuse(fault) => Stop::Fault(fault),
        };
        self.finish(stop).await;
    }

    async fn start(&mut self, mut unclaimed: Unclaimed, token: String, early: Early) -> Stop {
        let session = unclaimed.session.clone();
        let key = Key::Owner(token);
        let (viewer, early) = match self.attach_while_reading(&session, &key, early).await {
            Ok(attached) => attached,
            Err(stop) => return stop,
        };
        if let Err(stop) = self.ready(&session, key.token(), &viewer).await {
            return stop;
        }
        unclaimed.claimed = true;
        self.join(session, viewer, early).await
    }

    async fn attach(&mut self, session: Arc<Session>, key: Key, request: AttachRequest) -> Stop {
        // One who comes back to a session that is over learns how it ended.
        if let Some(ending) = session.ending() {
            return Stop::Ended(ending);
        }
        let early = Early::new(request);
        let (viewer, early) = match self.attach_while_reading(&session, &key, early).await {
            Ok(attached) => attached,
            Err(stop) => return stop,
        };
        if let Err(stop) = self.ready(&session, key.token(), &viewer).await {
            return stop;
        }
        self.join(session, viewer, early).await
    }

    /// The token comes with the first message.
    async fn await_token(&mut self, awaited: Awaited, mut request: AttachRequest) -> Stop {
        let first = async {
            loop {
                match self.hear().await? {
                    (ClientMessage::Nothing, _) => {}
                    (message, _) => return Ok(message),
                }
            }
        };
        let message = match timeout(FIRST_MESSAGE_DEADLINE, first).await {
            Ok(Ok(message)) => message,
            Ok(Err(stop)) => return stop,
            Err(_) => ClientMessage::Nothing,
        };
        let ClientMessage::Attach(AttachMessage {
            token: Some(token),
            from,
            size,
            window,
        }) = message
        else {
            let message = "The first message must be an attach with a token of this session.";
            return Stop::Fault(Fault::new(FaultCode::TokenRefused, message));
        };
        let (session, key) = match awaited.open(&self.app, token) {
            Ok(opened) => opened,
            Err(fault) => return Stop::Fault(fault),
        };
        request.from = from.or(request.from);
        request.size = size.or(request.size);
        request.window = window;
        self.attach(session, key, request).await
    }

    /// Attach, which may take as long as a start, and meanwhile keep what is typed and notice who
    /// leaves. Returns what was kept, too.
    async fn attach_while_reading(
        &mut self,
        session: &Session,
        key: &Key,
        mut early: Early,
    ) -> Result<(Viewer, VecDeque<ClientMessage>), Stop> {
        let started = session.started();
        tokio::pin!(started);
        let ended = loop {
            tokio::select! {
                started = &mut started => break started,
                message = self.hear(), if early.has_room() => {
                    let (message, length) = message?;
                    early.keep(message, length);
                }
            }
        };
        if let Err(ending) = ended {
            return Err(Stop::Fault(of_ending(ending.reason)));
        }
        let attached = match key {
            Key::Owner(_) => session.attach(early.request).await,
            Key::Guest(token) => {
                let seat = session.shares.seat(token);
                let seat = seat.map_err(|error| Stop::Fault(of_seat(&error, &self.app.metrics)))?;
                session.watch(seat, early.request).await
            }
        };
        match attached {
            Ok(viewer) => Ok((viewer, early.into_messages())),
            Err(AttachError::Ended(ending)) => Err(Stop::Ended(ending)),
            Err(error) => Err(Stop::Fault(of_attach(&error))),
        }
    }

    /// The next message, and how many bytes of it may be kept. Cancel-safe.
    async fn hear(&mut self) -> Result<(ClientMessage, usize), Stop> {
        let message = match self.stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(broken(error)),
            None => return Err(Stop::Gone),
        };
        let length = length(&message);
        match self.dialect.decode(message) {
            ClientMessage::Leave => Err(Stop::Left),
            message => Ok((message, length)),
        }
    }

    async fn ready(&mut self, session: &Session, token: &str, viewer: &Viewer) -> Result<(), Stop> {
        let ready = Ready {
            session: session.id.to_string(),
            token: token.to_owned(),
            offset: viewer.attached.offset,
            end: viewer.attached.end,
            size: viewer.attached.size,
            read_only: viewer.input.is_none(),
            recorded: *session.recorded().borrow() == Recorded::Running,
            idle_timeout: session.idle_timeout,
            expires_at: session.expires_at,
            remaining: session.remaining(),
            window: viewer.window,
        };
        self.sink.send(&ServerMessage::Ready(ready)).await
    }

    /// Join the two until one side ends.
    async fn join(
        &mut self,
        session: Arc<Session>,
        viewer: Viewer,
        early: VecDeque<ClientMessage>,
    ) -> Stop {
        let (tell, told) = mpsc::channel(TELLINGS);
        let (bytes_in, bytes_out) = self.app.metrics.byte_counters();
        let client = session.client;
        let offset = viewer.attached.offset;
        let shared = Shared {
            dialect: self.dialect,
            session,
            owner: viewer.presence.is_owner(),
            mends: self.app.sandboxes.shared(),
            begun: Instant::now(),
            heard: AtomicU64::new(0),
            shown: watch::Sender::new(offset),
            processed: watch::Sender::new(offset),
        };
        let news = News::of(&shared, viewer.attached.size);
        let mut reader = Reader {
            shared: &shared,
            stream: &mut self.stream,
            limiter: &self.app.limiter,
            queue: InputQueue::new(client),
            input: viewer.input,
            control: viewer.control,
            acks: Acks::new(offset, viewer.window),
            tell,
            bytes_in,
            bad_messages: 0,
            refused: false,
            listening: true,
            size: None,
            size_sent: Instant::now(),
        };
        let mut shower = Shower {
            shared: &shared,
            sink: &mut self.sink,
            terminal: viewer.output,
            window: viewer.window,
            news,
            notices: viewer.notices,
            told,
            inits: VecDeque::new(),
            bytes_out,
        };
        tokio::select! {
            stop = reader.run(early) => stop,
            stop = shower.run() => stop,
            // Here and not in a loop, which a viewer who reads nothing may hold up.
            () = viewer.presence.revoked() => Stop::Fault(Fault::new(
                FaultCode::ShareRevoked,
                "This terminal is not shared any more.",
            )),
            // The shower says so, unless it is stuck with a visitor who reads nothing.
            () = async {
                shared.session.ended().await;
                sleep(CLOSE_DEADLINE).await;
            } => Stop::Gone,
        }
    }

    /// Say why it ends, and close. What the peer may still be sending is the socket's to deal with:
    /// it lingers.
    async fn finish(mut self, stop: Stop) {
        let (message, code, reason) = match stop {
            Stop::Gone => return,
            Stop::Left => {
                // Reading on sends the answer to the peer's close frame.
                let _ = timeout(CLOSE_DEADLINE, self.stream.next()).await;
                return;
            }
            Stop::Fault(fault) => {
                let (code, name) = (fault.code.close_code(), fault.code.name());
                (ServerMessage::Error(fault), code, name)
            }
            // No end for the visitor, who is to come back to the next gateway.
            Stop::Ended(Ending {
                reason: reason @ EndReason::HandedOver,
                ..
            }) => {
                let fault = of_ending(reason).retry_after(COME_BACK);
                let (code, name) = (fault.code.close_code(), fault.code.name());
                (ServerMessage::Error(fault), code, name)
            }
            Stop::TakenOver
            | Stop::Ended(Ending {
                reason: EndReason::TakenOver,
                ..
            }) => {
                let notice = ServerMessage::Notice(Notice::TakenOver);
                (notice, CLOSE_TAKEN_OVER, "taken_over")
            }
            Stop::Ended(Ending { reason, exit }) => {
                let code = protocol::close_code(reason);
                (ServerMessage::Exit { reason, exit }, code, reason.name())
            }
        };
        let farewell = async {
            self.sink.send(&message).await?;
            self.sink.send_raw(protocol::close(code, reason)).await
        };
        // A peer that does not read is gone either way.
        let _ = timeout(CLOSE_DEADLINE, farewell).await;
    }
}

/// How the first viewer of a session attaches.
fn from_the_beginning(size: Option<Size>) -> AttachRequest {
    AttachRequest {
        from: Some(0),
        size,
        ..AttachRequest::default()
    }
}

/// Bytes of a message, as far as they are kept.
fn length(message: &Message) -> usize {
    match message {
        Message::Binary(bytes) => bytes.len(),
        Message::Text(text) => text.len(),
        _ => 0,
    }
}

/// What a broken connection is told.
fn broken(error: axum::Error) -> Stop {
    websocket::broken(error).map_or(Stop::Gone, Stop::Fault)
}

/// What the two loops have in common.
struct Shared {
    dialect: Dialect,
    session: Arc<Session>,
    /// Whether this is the session's owner, not somebody whom a share let in.
    owner: bool,
    /// Whether a terminal whose link was lost may come back.
    mends: bool,
    begun: Instant,
    /// When the peer was last heard, milliseconds after `begun`; `u64::MAX` while it is not
    /// listened to.
    heard: AtomicU64,
    /// Offset up to which the socket has taken the output.
    shown: watch::Sender<u64>,
    /// Offset up to which a guest has acknowledged it. An owner's acknowledgements are the agent's.
    processed: watch::Sender<u64>,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
