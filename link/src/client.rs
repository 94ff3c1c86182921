//! The gateway's side of a link: typed calls to the agent.
//!
//! Here are the link itself and its terminals; [`process`] is programs without a terminal, [`files`]
//! the sandbox's files, [`port`] its ports.

pub mod process;

pub mod files;

pub mod port;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::frame::{Frame, FrameError};
use crate::message::files::Page;
use crate::message::{
    Alive, Attach, Attached, ControlCommand, ControlEvent, Done, Hello, InputReady, Inspection,
    MAX_TERMINALS, OpenTerminal, Refusal, Reply, Request, TerminalCommand, TerminalEvent,
    TerminalInfo, TerminalOpened, VERSION, Welcome,
};
use crate::mux::{self, Buffers, ByteStream, FrameStream, Mux, Side};
use crate::socket::Redial;

/// How long a call may take. An agent answers in under a millisecond; one starved of CPU by its
/// own sandbox may take seconds.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// How long an agent may take to dial once more. It takes a millisecond; without it there is another way.
const DIAL_DEADLINE: Duration = Duration::from_secs(1);

/// Streams of a terminal's controller: its attach and its input.
const CONTROLLER_STREAMS: usize = 2;

/// How long the agent's last word may take to be read after a link has ended.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Initial frame buffer. Small, because the gateway holds several for every session.
const FRAME_BUFFER: usize = 1024;

/// Why a call over the link failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The agent understood and refused.
    #[error("the agent refused: {0}")]
    Refused(#[from] Refusal),
    /// The agent broke the protocol or the connection failed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The agent did not answer in time.
    #[error("the agent did not answer in time")]
    Deadline,
    /// Everything the link can carry at once is under way.
    #[error("the link to the agent carries as much as it can")]
    Busy,
    /// The agent said what cannot be.
    #[error("the agent sent {0}")]
    Garbled(&'static str),
    /// The link has ended.
    #[error("the link to the agent has ended")]
    Closed,
    /// The agent speaks a protocol this gateway does not.
    #[error("the agent speaks link version {theirs}, this gateway {VERSION}")]
    Version {
        /// What the agent announced.
        theirs: u32,
    },
}

impl From<std::io::Error> for LinkError {
    fn from(error: std::io::Error) -> Self {
        Self::Frame(error.into())
    }
}

/// A live link to an agent. Dropping it ends the connection, not the sandbox.
#[derive(Debug)]
pub struct Link {
    mux: Mux,
    /// For streams with connections of their own.
    redial: Option<Redial>,
    /// Such connections that were dialled before anybody wanted them.
    ahead: Mutex<Vec<ByteStream>>,
    control: tokio::sync::Mutex<SplitSink<FrameStream, Frame>>,
    welcome: Welcome,
    driver: tokio::task::AbortHandle,
    /// Listens to what the agent says of the link itself.
    listener: tokio::task::AbortHandle,
    /// Whether another gateway has taken the link over; the sender goes when nothing more is said.
    taken_over: watch::Receiver<bool>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
        self.listener.abort();
    }
}

impl Link {
    /// Take up a link on `io`: multiplex it, say hello, read the welcome. Spawns the task that
    /// drives the connection. With `relay_key` ([`crate::message::RELAY_KEY`] bytes) a later gateway
    /// can come to the agent by a relay.
    pub async fn establish<T>(
        io: T,
        gateway: &str,
        relay_key: Option<String>,
    ) -> Result<Self, LinkError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mux, driver) = mux::connect(io, Side::Gateway, Buffers::SMALL, |_| false);
        let driver = tokio::spawn(driver).abort_handle();
        let hello = Request::Hello(Hello {
            version: VERSION,
            gateway: gateway.into(),
            relay_key,
        });
        let opened = call::<Welcome>(&mux, &hello).await;
        let (welcome, mut control) = opened.inspect_err(|_| driver.abort())?;
        // Nothing follows the welcome on this stream.
        *control.read_buffer_mut() = BytesMut::new();
        if welcome.version != VERSION {
            driver.abort();
            return Err(LinkError::Version {
                theirs: welcome.version,
            });
        }
        let (control, news) = control.split();
        let (tell, taken_over) = watch::channel(false);
        let listener = tokio::spawn(listen(news, tell, driver.clone())).abort_handle();
        Ok(Self {
            mux,
            redial: None,
            ahead: Mutex::default(),
            control: tokio::sync::Mutex::new(control),
            welcome,
            driver,
            listener,
            taken_over,
        })
    }

    /// Let the agent dial connections of their own for the streams of terminals' controllers. A stream
    /// on a connection of its own costs a keystroke less than one among others does.
    #[must_use]
    pub fn with_redial(mut self, redial: Option<Redial>) -> Self {
        self.redial = redial;
        self
    }

    /// Whether a link that has ended did so because another gateway took it over.
    pub async fn taken_over(&self) -> bool {
        let mut taken_over = self.taken_over.clone();
        // The agent's last word may come a moment after the end is seen.
        let told = taken_over.wait_for(|taken_over| *taken_over);
        matches!(timeout(LAST_WORD, told).await, Ok(Ok(_)))
    }

    /// What the agent said of itself when the link was taken up.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Resolves when the link has ended, for whatever reason.
    pub async fn closed(&self) {
        self.mux.closed().await;
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.mux.is_closed()
    }

    /// Ask whether the agent is there.
    pub async fn ping(&self) -> Result<(), LinkError> {
        match call::<Alive>(&self.mux, &Request::Ping).await {
            // An older agent does not know the question; it is there.
            Ok(_) | Err(LinkError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ask the agent to look around.
    pub async fn inspect(&self) -> Result<Inspection, LinkError> {
        Ok(call(&self.mux, &Request::Inspect).await?.0)
    }

    /// Start a program on a new PTY; returns the terminal's id.
    pub async fn open_terminal(&self, open: OpenTerminal) -> Result<u32, LinkError> {
        let request = Request::OpenTerminal(open);
        let (opened, _) = call::<TerminalOpened>(&self.mux, &request).await?;
        Ok(opened.terminal)
    }

    /// Read a terminal's output, and command it.
    pub async fn attach(
        &self,
        attach: Attach,
    ) -> Result<(Attached, TerminalOutput, TerminalControl), LinkError> {
        // A watcher is in no hurry.
        let stream = match attach.window {
            Some(_) => self.own_stream().await?,
            None => stream(&self.mux).await?,
        };
        self::attach(stream, &Request::Attach(attach)).await
    }

    /// Open a terminal's input.
    pub async fn input(&self, terminal: u32) -> Result<TerminalInput, LinkError> {
        input(self.own_stream().await?, terminal).await
    }

    /// A stream with a connection of its own, or one among others where that cannot be had: over
    /// another route, from an older agent, or from one that has dialled as many as it may.
    async fn own_stream(&self) -> Result<ByteStream, LinkError> {
        let ahead = self.ahead().pop();
        if let Some(stream) = ahead {
            return Ok(stream);
        }
        match self.dialled().await {
            Some(stream) => Ok(stream),
            None => stream(&self.mux).await,
        }
    }

    async fn dialled(&self) -> Option<ByteStream> {
        let redial = self.redial.as_ref()?;
        let ask = async |key| {
            call::<Done>(&self.mux, &Request::Dial { key }).await?;
            Ok(())
        };
        let dialled = timeout(DIAL_DEADLINE, redial.expect::<LinkError>(ask)).await;
        Some(ByteStream::own(dialled.ok()?.ok()?))
    }

    /// Have the agent dial for a terminal's first controller now, who then need not wait for it: of the
    /// way to a terminal that waits at its prompt it is most. Where that is not to be had, nothing is lost.
    pub async fn dial_ahead(&self) {
        for _ in 0..CONTROLLER_STREAMS {
            let Some(stream) = self.dialled().await else {
                return;
            };
            self.ahead().push(stream);
        }
    }

    fn ahead(&self) -> MutexGuard<'_, Vec<ByteStream>> {
        // No code that could panic runs under the lock.
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle to a terminal, for those who watch it.
    pub fn terminal(&self, terminal: u32) -> TerminalHandle {
        TerminalHandle {
            mux: self.mux.clone(),
            terminal,
        }
    }

    /// Every terminal that there is, ended ones too as long as they are known.
    pub async fn terminals(&self) -> Result<Vec<TerminalInfo>, LinkError> {
        let (terminals, _) = call_pages(&self.mux, &Request::Terminals, MAX_TERMINALS).await?;
        Ok(terminals)
    }

    /// Hang up a terminal: its program is killed, and the terminal forgotten.
    pub async fn close_terminal(&self, terminal: u32) -> Result<(), LinkError> {
        call::<Done>(&self.mux, &Request::CloseTerminal { terminal }).await?;
        Ok(())
    }

    /// Move the sandbox's own deadline.
    pub async fn set_deadline(&self, remaining: Duration) -> Result<(), LinkError> {
        self.set_clocks(remaining, None).await
    }

    /// The same, and how long it may be without a gateway: less, once it is somebody's, than while it
    /// waits for whoever takes it.
    pub async fn set_life(&self, remaining: Duration, unlinked: Duration) -> Result<(), LinkError> {
        self.set_clocks(remaining, Some(unlinked)).await
    }

    async fn set_clocks(
        &self,
        remaining: Duration,
        unlinked: Option<Duration>,
    ) -> Result<(), LinkError> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let command = ControlCommand::SetDeadline {
            remaining_ms: ms(remaining),
            unlinked_ms: unlinked.map(ms),
        };
        self.command(&command).await
    }

    /// Ask the agent to end the sandbox. The launcher's removal is what makes it sure.
    pub async fn terminate(&self) -> Result<(), LinkError> {
        self.command(&ControlCommand::Terminate).await
    }

    async fn command(&self, command: &ControlCommand) -> Result<(), LinkError> {
        let frame = Frame::message(command)?;
        let send = async { self.control.lock().await.send(frame).await };
        timeout(CALL_DEADLINE, send)
            .await
            .map_err(|_| LinkError::Deadline)??;
        Ok(())
    }
}

/// Hear what the agent says of the link itself. What was taken over is nobody's to use any more.
async fn listen(
    mut news: SplitStream<FrameStream>,
    tell: watch::Sender<bool>,
    driver: tokio::task::AbortHandle,
) {
    while let Some(Ok(frame)) = news.next().await {
        if let Ok(ControlEvent::TakenOver) = frame.parse() {
            tell.send_replace(true);
            driver.abort();
            return;
        }
    }
}

/// A handle to one terminal, for those who come beside its controller. Does not keep the link alive.
#[derive(Debug, Clone)]
pub struct TerminalHandle {
    mux: Mux,
    terminal: u32,
}

impl TerminalHandle {
    /// Read the terminal's output from an offset on (absent: everything still held) as a watcher,
    /// whose slowness costs only itself.
    pub async fn watch(
        &self,
        from: Option<u64>,
    ) -> Result<(Attached, TerminalOutput, TerminalControl), LinkError> {
        let request = Request::Attach(Attach {
            terminal: self.terminal,
            from,
            window: None,
            hold_ms: 0,
        });
        attach(stream(&self.mux).await?, &request).await
    }

    /// Open the terminal's input.
    pub async fn input(&self) -> Result<TerminalInput, LinkError> {
        input(stream(&self.mux).await?, self.terminal).await
    }
}

async fn attach(
    stream: ByteStream,
    request: &Request,
) -> Result<(Attached, TerminalOutput, TerminalControl), LinkError> {
    let answered = answered::<Attached>(begin(stream, request));
    let (attached, stream) = deadline(CALL_DEADLINE, answered).await?;
    let (sink, stream) = stream.split();
    Ok((attached, TerminalOutput(stream), TerminalControl(sink)))
}

async fn input(stream: ByteStream, terminal: u32) -> Result<TerminalInput, LinkError> {
    let request = Request::Input { terminal };
    let answered = answered::<InputReady>(begin(stream, &request));
    let (_, stream) = deadline(CALL_DEADLINE, answered).await?;
    // Nothing follows the reply on this stream, so the frame buffer is empty.
    Ok(TerminalInput(stream.into_inner()))
}

/// Open a stream, send the request, read the reply; the stream goes on.
async fn call<T: DeserializeOwned>(
    mux: &Mux,
    request: &Request,
) -> Result<(T, FrameStream), LinkError> {
    call_within(mux, request, CALL_DEADLINE).await
}

/// The same, for what may take longer.
async fn call_within<T: DeserializeOwned>(
    mux: &Mux,
    request: &Request,
    within: Duration,
) -> Result<(T, FrameStream), LinkError> {
    deadline(within, answered(open(mux, request))).await
}

/// Read the reply to a request; the stream goes on.
async fn answered<T: DeserializeOwned>(
    request: impl Future<Output = Result<FrameStream, LinkError>>,
) -> Result<(T, FrameStream), LinkError> {
    let mut stream = request.await?;
    let reply = stream.next().await.ok_or(LinkError::Closed)??;
    let reply = reply.parse::<Reply<T>>()??;
    Ok((reply, stream))
}

/// Send a request that is answered in parts; returns at most `most` of what they hold, and whether
/// there is more.
async fn call_pages<T: DeserializeOwned>(
    mux: &Mux,
    request: &Request,
    most: usize,
) -> Result<(Vec<T>, bool), LinkError> {
    let exchange = async {
        let mut stream = open(mux, request).await?;
        let mut items = Vec::new();
        loop {
            let reply = stream.next().await.ok_or(LinkError::Closed)??;
            let page = reply.parse::<Reply<Page<T>>>()??;
            if page.items.len() > most - items.len() || page.more && page.items.is_empty() {
                return Err(LinkError::Garbled("a list without end"));
            }
            items.extend(page.items);
            if !page.more {
                return Ok((items, page.truncated));
            }
        }
    };
    deadline(files::FILE_DEADLINE, exchange).await
}

/// A stream on the link, among others.
async fn stream(mux: &Mux) -> Result<ByteStream, LinkError> {
    mux.open().await.ok_or_else(|| {
        if mux.is_closed() {
            LinkError::Closed
        } else {
            LinkError::Busy
        }
    })
}

/// Open a stream and send the request.
async fn open(mux: &Mux, request: &Request) -> Result<FrameStream, LinkError> {
    begin(stream(mux).await?, request).await
}

async fn begin(stream: ByteStream, request: &Request) -> Result<FrameStream, LinkError> {
    let mut stream = mux::framed(stream, FRAME_BUFFER);
    stream.send(Frame::message(request)?).await?;
    Ok(stream)
}

async fn deadline<T>(
    within: Duration,
    doing: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout(within, doing)
        .await
        .map_err(|_| LinkError::Deadline)?
}

/// What comes out of a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The next bytes, without a gap since the last.
    Bytes(Bytes),
    /// Something other than bytes, in order with them.
    Event(TerminalEvent),
}

/// The reading half of an attach.
#[derive(Debug)]
pub struct TerminalOutput(SplitStream<FrameStream>);

impl TerminalOutput {
    /// The next output; `None` when the link has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Output, LinkError>> {
        Some(match self.0.next().await? {
            Ok(Frame::Data(bytes)) => Ok(Output::Bytes(bytes)),
            Ok(message) => message.parse().map(Output::Event).map_err(LinkError::from),
            Err(error) => Err(error.into()),
        })
    }
}

/// The commanding half of an attach.
#[derive(Debug)]
pub struct TerminalControl(SplitSink<FrameStream, Frame>);

impl TerminalControl {
    /// Send a command. Waits while the agent does not read.
    pub async fn send(&mut self, command: TerminalCommand) -> Result<(), LinkError> {
        Ok(self.0.send(Frame::message(&command)?).await?)
    }
}

/// A terminal's input.
#[derive(Debug)]
pub struct TerminalInput(ByteStream);

impl TerminalInput {
    /// Type some of these bytes; returns how many. Waits while the program does not read and
    /// 256 KiB are under way. Cancel-safe: a call that is cancelled has typed nothing.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, LinkError> {
        match self.0.write(bytes).await? {
            0 if !bytes.is_empty() => Err(LinkError::Closed),
            typed => Ok(typed),
        }
    }
}
