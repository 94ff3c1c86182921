//! A visitor's TCP connection, with what is held as long as it is open.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::places::Place;

/// How long a peer that is still sending is heard after the last answer.
const LINGER: Duration = Duration::from_secs(2);

/// A connection. It outlives its HTTP life when it becomes a WebSocket, so what counts it is here.
#[derive(Debug)]
pub(super) struct Socket {
    /// Taken by the drop.
    stream: Option<TcpStream>,
    held: Option<Held>,
}

/// One of the places for connections, and its count among the open ones.
#[derive(Debug)]
struct Held {
    _place: Place,
    open: Gauge,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl Socket {
    pub(super) fn new(stream: TcpStream, place: Place, open: Gauge) -> Self {
        // A keystroke is a packet of its own.
        let _ = stream.set_nodelay(true);
        open.inc();
        Self {
            stream: Some(stream),
            held: Some(Held {
                _place: place,
                open,
            }),
        }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        let stream = self.get_mut().stream.as_mut();
        Pin::new(stream.expect("only the drop takes it"))
    }
}

impl Drop for Socket {
    /// Closing a socket with unread bytes resets the connection, and the reset destroys the answer
    /// that is under way: the visitor would never learn that the message was too big. So the rest
    /// is read for a moment.
    fn drop(&mut self) {
        if let (Some(stream), Ok(runtime)) = (self.stream.take(), Handle::try_current()) {
            runtime.spawn(linger(stream, self.held.take()));
        }
    }
}

async fn linger(mut stream: TcpStream, held: Option<Held>) {
    let read_to_end = async {
        stream.shutdown().await?;
        let mut unwanted = [0; 1024];
        while stream.read(&mut unwanted).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    let _ = timeout(LINGER, read_to_end).await;
    drop((stream, held));
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
