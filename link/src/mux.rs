//! Streams over one connection, by yamux.
//!
//! [`connect`] wraps a byte stream and returns a [`Mux`] that opens streams and a future that drives
//! the connection. The future must be spawned; when it ends, every stream ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{fmt, io};

use bytes::BytesMut;
use futures::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite, BufStream, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::codec::Framed;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use crate::frame::FrameCodec;

/// Streams that a gateway may have open on a link: two for each of a hundred commands in parallel
/// (output and input), as many for connections to ports, two for each of a session's 32 viewers, and
/// room for calls. What a silent reader can make the gateway hold is this times yamux's window.
const MAX_STREAMS: usize = 512;

/// Streams that yamux counts on a gateway's side. More than are given out: one that was dropped counts
/// until the driver has heard of it, and one too many would end the link.
const MAX_COUNTED: usize = 2 * MAX_STREAMS;

/// Streams an agent accepts. More again: what the gateway has forgotten, the agent may still be letting
/// go.
const MAX_ACCEPTED: usize = 4 * MAX_STREAMS;

/// Largest yamux frame. Larger than its default (16 KiB) so that a full read of a busy PTY is one
/// frame: each costs two system calls, which are dear inside gVisor.
const SPLIT_SEND: usize = 64 * 1024;

/// One stream as bytes.
pub struct ByteStream {
    carrier: Carrier,
    /// Its place among those that were opened here.
    _place: Option<OwnedSemaphorePermit>,
}

/// What carries a stream.
enum Carrier {
    /// The link, with others.
    Link(Compat<yamux::Stream>),
    /// A connection of its own.
    Own(Box<dyn Connection>),
}

trait Connection: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Connection for T {}

impl ByteStream {
    /// A stream that has this connection for itself.
    pub fn own(connection: impl AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static) -> Self {
        Self {
            carrier: Carrier::Own(Box::new(connection)),
            _place: None,
        }
    }

    fn link(stream: yamux::Stream, place: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            carrier: Carrier::Link(stream.compat()),
            _place: place,
        }
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream").finish_non_exhaustive()
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Link(stream) => Pin::new(stream).poll_read(cx, buf),
            Carrier::Own(connection) => Pin::new(connection).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.carrier {
            Carrier::Link(stream) => Pin::new(stream).poll_write(cx, buf),
            Carrier::Own(connection) => Pin::new(connection).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Link(stream) => Pin::new(stream).poll_flush(cx),
            Carrier::Own(connection) => Pin::new(connection).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Link(stream) => Pin::new(stream).poll_shutdown(cx),
            Carrier::Own(connection) => Pin::new(connection).poll_shutdown(cx),
        }
    }
}

/// One stream as frames.
pub type FrameStream = Framed<ByteStream, FrameCodec>;

/// Which end of the link this is. The two must differ; nothing else depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens streams.
    Gateway,
    /// Accepts them.
    Agent,
}

/// Bytes of buffer in front of the socket. Yamux writes and reads a frame's header apart from its
/// body; buffered, the two are one system call.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    /// Read buffer, bytes.
    pub read: usize,
    /// Write buffer, bytes.
    pub write: usize,
}

impl Buffers {
    /// For the gateway, which holds thousands of links and writes keystrokes. Bodies longer than
    /// these pass them by.
    pub const SMALL: Self = Self {
        read: 1024,
        write: 512,
    };
    /// For the agent, which has one link and writes output.
    pub const LARGE: Self = Self {
        read: 16 * 1024,
        write: SPLIT_SEND + 64,
    };
}

/// Opens streams on a connection.
#[derive(Debug, Clone)]
pub struct Mux {
    requests: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
    /// One for each stream that may be open.
    places: Arc<Semaphore>,
}

impl Mux {
    /// Open a stream; `None` if the connection has ended, or has as many as it may.
    pub async fn open(&self) -> Option<ByteStream> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let (reply, stream) = oneshot::channel();
        self.requests.send(reply).await.ok()?;
        Some(ByteStream::link(stream.await.ok()?, Some(place)))
    }

    /// Resolves when the connection has ended.
    pub async fn closed(&self) {
        self.requests.closed().await;
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

/// Multiplex `io`. `on_stream` is called for every stream that the peer opens and says whether it
/// was welcome; one that was not ends the connection, for the peer does not keep to the protocol.
pub fn connect<T, F>(
    io: T,
    side: Side,
    buffers: Buffers,
    mut on_stream: F,
) -> (
    Mux,
    impl Future<Output = Result<(), yamux::ConnectionError>>,
)
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(ByteStream) -> bool,
{
    let streams = match side {
        Side::Gateway => MAX_COUNTED,
        Side::Agent => MAX_ACCEPTED,
    };
    let mut config = yamux::Config::default();
    config
        .set_max_num_streams(streams)
        // Every stream keeps yamux's fixed 256 KiB window: what a silent reader can make this side
        // hold is then the streams it opened itself times that.
        .set_max_connection_receive_window(Some(streams * yamux::DEFAULT_CREDIT as usize))
        .set_split_send_size(SPLIT_SEND);
    let mode = match side {
        Side::Gateway => yamux::Mode::Client,
        Side::Agent => yamux::Mode::Server,
    };
    let io = BufStream::with_capacity(buffers.read, buffers.write, io).compat();
    let mut connection = yamux::Connection::new(io, config, mode);
    // A few calls may wait while yamux takes a breath; more would be a caller without a bound.
    let (requests, mut opens) = mpsc::channel::<oneshot::Sender<yamux::Stream>>(8);

    let driver = async move {
        let mut waiting: Option<oneshot::Sender<yamux::Stream>> = None;
        let result = poll_fn(|cx| {
            loop {
                if waiting.is_none()
                    && let Poll::Ready(Some(reply)) = opens.poll_recv(cx)
                {
                    waiting = Some(reply);
                }
                if waiting.is_some()
                    && let Poll::Ready(opened) = connection.poll_new_outbound(cx)
                {
                    // A caller that gave up takes its stream with it.
                    let _ = waiting.take().map(|reply| opened.map(|s| reply.send(s)));
                    continue;
                }
                match connection.poll_next_inbound(cx) {
                    Poll::Ready(Some(Ok(stream))) => {
                        if !on_stream(ByteStream::link(stream, None)) {
                            return Poll::Ready(Err(yamux::ConnectionError::Closed));
                        }
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        drop(opens);
        result
    };
    let places = Arc::new(Semaphore::new(MAX_STREAMS));
    (Mux { requests, places }, driver)
}

/// Read and write [`crate::frame::Frame`]s on a stream. `capacity` is the initial read buffer,
/// bytes; it grows to the frame at hand and no further. The write buffer begins with nothing.
pub fn framed(stream: ByteStream, capacity: usize) -> FrameStream {
    let mut framed = Framed::with_capacity(stream, FrameCodec, capacity);
    *framed.write_buffer_mut() = BytesMut::new();
    framed
}
