//! A Unix socket that wakes its owner only for news.
//!
//! A runtime's own Unix stream is registered for reading and writing at once, and the kernel then
//! reports "writable" after every single message that the peer has read. For a keystroke's round
//! trip these are two wake-ups with nothing to do, at the moment when the shell needs the processor;
//! inside gVisor each costs as much as the keystroke. So this one registers for writing only while
//! a write has found the buffer full.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::try_join;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::message::KEY_BYTES;

/// Writes up to this size, bytes, find room in a socket unless it is being flooded.
const SMALL: usize = 4 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub struct QuietSocket {
    /// Registered for reading. The runtime's type is named after pipes, but reads any descriptor.
    reader: pipe::Receiver,
    /// Not registered.
    writer: UnixStream,
    /// Registered for writing, while writes find the buffer full.
    blocked: Option<pipe::Sender>,
}

impl QuietSocket {
    /// Take over a connected socket. Needs a runtime with I/O.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let reader = OwnedFd::from(socket.try_clone()?);
        Ok(Self {
            reader: pipe::Receiver::from_owned_fd_unchecked(reader)?,
            writer: socket,
            blocked: None,
        })
    }
}

impl AsyncRead for QuietSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for QuietSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.blocked.is_none() {
            match self.writer.write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writer = OwnedFd::from(self.writer.try_clone()?);
                    self.blocked = Some(pipe::Sender::from_owned_fd_unchecked(writer)?);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                written => return Poll::Ready(written),
            }
        }
        let Some(sender) = &mut self.blocked else {
            return Poll::Pending;
        };
        let written = ready!(Pin::new(sender).poll_write(cx, buf));
        // While large writes go on, so will the waiting.
        if buf.len() <= SMALL {
            self.blocked = None;
        }
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.writer.shutdown(std::net::Shutdown::Write))
    }
}

/// Listen at this path, in the place of whoever did so before. Any user may dial.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Where an agent that has dialled its link may dial again, for single streams.
///
/// Whatever runs in a sandbox may dial there, so only a connection that begins with the key at hand
/// is let in, and nobody listens while none is expected.
#[derive(Debug)]
pub struct Redial {
    /// Locked while somebody is expected: one at a time.
    path: Mutex<PathBuf>,
    /// Makes a key of [`KEY_BYTES`] bytes that nobody can guess.
    key: fn() -> String,
}

/// How long one connection may take to say its key.
const KEY_DEADLINE: Duration = Duration::from_millis(200);

impl Redial {
    /// `path` is the socket that the agent dials; `key` makes a text of [`KEY_BYTES`] bytes that
    /// nobody can guess.
    pub fn new(path: PathBuf, key: fn() -> String) -> Self {
        Self {
            path: Mutex::new(path),
            key,
        }
    }

    /// Expect a connection, and have it dialled by `ask`, which is given the key.
    pub(crate) async fn expect<E: From<io::Error>>(
        &self,
        ask: impl AsyncFnOnce(String) -> Result<(), E>,
    ) -> Result<QuietSocket, E> {
        let path = self.path.lock().await;
        let listener = listen(&path)?;
        let key = (self.key)();
        let expected = key.clone();
        let enter = async {
            loop {
                let (mut socket, _) = listener.accept().await?;
                let mut said = [0; KEY_BYTES];
                let heard = timeout(KEY_DEADLINE, socket.read_exact(&mut said)).await;
                // Each key is for one moment, so how long a comparison takes tells nobody anything.
                if matches!(heard, Ok(Ok(_))) && said == expected.as_bytes() {
                    return Ok(QuietSocket::new(socket.into_std()?)?);
                }
            }
        };
        let (socket, ()) = try_join(enter, ask(key)).await?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn carries_more_than_its_buffers_hold_both_ways() {
        const LENGTH: usize = 3 << 20;
        let (a, b) = UnixStream::pair().unwrap();
        let (mut a, mut b) = (QuietSocket::new(a).unwrap(), QuietSocket::new(b).unwrap());
        let sent: Vec<u8> = (0..LENGTH)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        let write = async {
            for piece in sent.chunks(60_000) {
                a.write_all(piece).await.unwrap();
            }
            a.write_all(b"end").await.unwrap();
            let mut answer = [0; 2];
            a.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"ok");
            a.shutdown().await.unwrap();
        };
        let read = async {
            let mut received = vec![0; LENGTH + 3];
            b.read_exact(&mut received).await.unwrap();
            assert!(received[..LENGTH] == sent && received.ends_with(b"end"));
            b.write_all(b"ok").await.unwrap();
            assert_eq!(b.read(&mut received).await.unwrap(), 0, "the end");
        };
        tokio::join!(write, read);
    }

    #[tokio::test]
    async fn only_who_knows_the_key_is_let_in() {
        let path = std::env::temp_dir().join(format!("belljar-redial-{}", std::process::id()));
        let redial = Redial::new(path.clone(), || "0123456789abcdef0123456789abcdef".into());
        let dial = || tokio::net::UnixStream::connect(&path);
        let ask = async |key: String| {
            // One that says nothing, one that goes, one that guesses; then the one that was asked.
            let _silent = dial().await?;
            drop(dial().await?);
            let mut guess = dial().await?;
            guess.write_all(&[b'0'; KEY_BYTES]).await?;
            let mut asked = dial().await?;
            asked.write_all(key.as_bytes()).await?;
            asked.write_all(b"hello").await?;
            assert_eq!(guess.read(&mut [0]).await?, 0, "it is shown out");
            Ok(())
        };
        let mut entered = redial.expect::<io::Error>(ask).await.unwrap();
        let mut said = [0; 5];
        entered.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
        // Nobody is waited for whom nobody has asked, and nobody listens then.
        let refused = redial.expect::<io::Error>(async |_| Err(io::ErrorKind::Unsupported.into()));
        assert_eq!(
            refused.await.unwrap_err().kind(),
            io::ErrorKind::Unsupported
        );
        assert_eq!(
            dial().await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        fs::remove_file(path).unwrap();
    }
}
