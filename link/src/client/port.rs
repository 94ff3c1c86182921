//! Ports of the sandbox's loopback, and what the sandbox uses.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Link, LinkError, call};
use crate::message::port::SandboxStats;
use crate::message::{Done, Request};
use crate::mux::ByteStream;

impl Link {
    /// Connect to a port of the sandbox's own loopback: 127.0.0.1, or else `::1`.
    pub async fn connect_port(&self, port: u16) -> Result<PortStream, LinkError> {
        let (_, stream) = call::<Done>(&self.mux, &Request::Connect { port }).await?;
        let parts = stream.into_parts();
        Ok(PortStream {
            early: parts.read_buf.freeze(),
            stream: parts.io,
        })
    }

    /// What the sandbox uses at this moment.
    pub async fn stats(&self) -> Result<SandboxStats, LinkError> {
        Ok(call(&self.mux, &Request::Stats).await?.0)
    }
}

/// A connection to a port in the sandbox. Shutting it down is the end of what the server reads;
/// dropping it ends both directions.
#[derive(Debug)]
pub struct PortStream {
    /// What came behind the reply.
    early: Bytes,
    stream: ByteStream,
}

impl AsyncRead for PortStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let now = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early[..now]);
        self.early.advance(now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
