//! A WebSocket on its way through, byte by byte: the two ends agree by themselves on what it says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{Instant, sleep_until, timeout};

use super::body::IDLE_DEADLINE;
use crate::web::protocol::millis;
use crate::web::websocket::{CLOSE_DEADLINE, SEND_DEADLINE};

/// How long the upgrade itself may take, on either side.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes that are on their way in each direction.
const BUFFER: usize = 8 * 1024;

/// When something last passed.
struct Passed {
    begun: Instant,
    /// Milliseconds after `begun`.
    at: AtomicU64,
}

impl Passed {
    /// Resolves once nothing has passed for [`IDLE_DEADLINE`].
    async fn nothing(&self) {
        loop {
            let at = Duration::from_millis(self.at.load(Ordering::Relaxed));
            let until = self.begun + at + IDLE_DEADLINE;
            if Instant::now() >= until {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// Carry bytes both ways until either side ends, stalls, or neither says anything for long.
pub(super) async fn run(visitor: OnUpgrade, server: OnUpgrade) {
    let both = async { tokio::try_join!(visitor, server) };
    if let Ok(Ok((visitor, server))) = timeout(UPGRADE_DEADLINE, both).await {
        carry(TokioIo::new(visitor), TokioIo::new(server)).await;
    }
}

async fn carry(
    visitor: impl AsyncRead + AsyncWrite + Unpin,
    server: impl AsyncRead + AsyncWrite + Unpin,
) {
    let passed = Passed {
        begun: Instant::now(),
        at: AtomicU64::new(0),
    };
    let (from_visitor, to_visitor) = split(visitor);
    let (from_server, to_server) = split(server);
    let up = copy(from_visitor, to_server, &passed);
    let down = copy(from_server, to_visitor, &passed);
    tokio::pin!(up, down);
    // No WebSocket goes on in one direction; a last word may be under way.
    tokio::select! {
        () = &mut up => drop(timeout(CLOSE_DEADLINE, down).await),
        () = &mut down => drop(timeout(CLOSE_DEADLINE, up).await),
        () = passed.nothing() => {}
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, passed: &Passed) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            let _ = timeout(CLOSE_DEADLINE, to.shutdown()).await;
            return;
        };
        let write = async {
            to.write_all(&buffer[..read]).await?;
            to.flush().await
        };
        let Ok(Ok(())) = timeout(SEND_DEADLINE, write).await else {
            return;
        };
        let now = millis(passed.begun.elapsed());
        passed.at.store(now, Ordering::Relaxed);
    }
}
