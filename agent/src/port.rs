//! Connections to servers in the sandbox.
//!
//! Only to its own loopback, which nothing outside reaches: the sandbox has no network.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use belljar_link::frame::FrameError;
use belljar_link::message::{Done, Refusal, Reply, code};
use belljar_link::mux::FrameStream;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socket_with, sockopt,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::agent::reply;
use crate::poller::{Poller, Watched};
use crate::tasks;

/// How long a server may take to accept.
const CONNECT: Duration = Duration::from_secs(5);

/// After one direction has ended, how long the other may be silent. Its peer may be gone without a
/// word.
const LINGER: Duration = Duration::from_secs(60);

/// Bytes moved in one turn.
const TURN: usize = 32 * 1024;

/// Connect, and move bytes until both directions have ended, or one has failed.
pub(crate) async fn serve(
    poller: &Arc<Poller>,
    port: u16,
    mut stream: FrameStream,
) -> Result<(), FrameError> {
    let (reading, writing) = match connect(poller, port).await {
        Ok(connection) => connection,
        Err(refusal) => return reply::<()>(&mut stream, Err(refusal)).await,
    };
    reply(&mut stream, Ok(Done {})).await?;
    // What came behind the request is the connection's already.
    let parts = stream.into_parts();
    let (source, sink) = tokio::io::split(parts.io);
    let (moved, ended) = (AtomicU64::new(0), Notify::new());
    let up = async {
        write(&writing, &parts.read_buf).await?;
        up(source, &writing, &moved).await?;
        let _ = shutdown(&writing, Shutdown::Write);
        ended.notify_one();
        io::Result::Ok(())
    };
    let down = async {
        down(&reading, sink, &moved).await?;
        ended.notify_one();
        io::Result::Ok(())
    };
    let silence = async {
        ended.notified().await;
        loop {
            let before = moved.load(Ordering::Relaxed);
            poller.sleep(LINGER).await;
            if moved.load(Ordering::Relaxed) == before {
                return;
            }
        }
    };
    tokio::select! {
        both = async { tokio::try_join!(up, down) } => both.map(|_| ()).map_err(FrameError::from),
        () = silence => Ok(()),
    }
}

async fn connect(poller: &Arc<Poller>, port: u16) -> Reply<(Watched, Watched)> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let refused = |e: io::Error| {
        let message = format!("port {port}: {e}");
        Refusal::new(code::CONNECTION_REFUSED, message)
    };
    match connect_to(poller, v4).await {
        Ok(connection) => Ok(connection),
        // What the first says is what the visitor expects to hear.
        Err(error) => connect_to(poller, v6).await.map_err(|_| refused(error)),
    }
}

async fn connect_to(poller: &Arc<Poller>, address: SocketAddr) -> io::Result<(Watched, Watched)> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    let begun = rustix::net::connect(&socket, &address);
    // One for each direction, for each waits by itself.
    let reading = Watched::new(poller, socket.try_clone()?);
    let writing = Watched::new(poller, socket);
    match begun {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            tokio::select! {
                ready = writing.writable() => ready?,
                () = poller.sleep(CONNECT) => return Err(io::ErrorKind::TimedOut.into()),
            }
            sockopt::socket_error(&writing)??;
        }
        Err(e) => return Err(e.into()),
    }
    Ok((reading, writing))
}

async fn up(
    mut source: impl AsyncRead + Unpin,
    socket: &Watched,
    moved: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; 8 * 1024];
    loop {
        let read = source.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        write(socket, &buffer[..read]).await?;
        moved.fetch_add(1, Ordering::Relaxed);
    }
}

async fn write(socket: &Watched, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(socket, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::AGAIN) => socket.writable().await?,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

async fn down(
    socket: &Watched,
    mut sink: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
) -> io::Result<()> {
    loop {
        socket.readable().await?;
        let read = tasks::with_buffer(TURN, |buffer| {
            let read = rustix::io::read(socket, &mut buffer[..TURN])?;
            Ok(buffer[..read].to_vec())
        });
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        if bytes.is_empty() {
            return sink.shutdown().await;
        }
        sink.write_all(&bytes).await?;
        moved.fetch_add(1, Ordering::Relaxed);
    }
}
