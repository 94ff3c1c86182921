//! The service manager: the socket that it may hand over, and what it wants to know. Without one,
//! nothing here does anything. <https://www.freedesktop.org/software/systemd/man/sd_notify.html>

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};

/// The socket that was handed over, if one was. It stays open while the gateway restarts.
pub(super) fn inherited(mut sockets: ListenFd) -> Result<Option<TcpListener>, String> {
    if sockets.len() > 1 {
        // The others would stay open, and everything that is started would inherit them.
        return Err(format!(
            "{} sockets were handed over; give the socket unit one ListenStream=",
            sockets.len()
        ));
    }
    let failed = |error| format!("the socket that was handed over cannot be used: {error}");
    let Some(socket) = sockets.take_tcp_listener(0).map_err(failed)? else {
        return Ok(None);
    };
    socket.set_nonblocking(true).map_err(failed)?;
    TcpListener::from_std(socket).map(Some).map_err(failed)
}

/// Visitors are served at this address. `doing` begins the line that `systemctl status` shows.
pub(super) fn ready(doing: &str, address: SocketAddr) {
    let status = format!("{doing} (http://{address})");
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The configuration is being read.
pub(super) fn reloading() {
    // Without the time, a newer systemd takes the reload for failed.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// The gateway is going away.
pub(super) fn stopping() {
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("telling visitors that the gateway goes away"),
    ]);
}

/// Show signs of life, twice as often as is asked for.
pub(super) async fn keep_alive() -> Infallible {
    let Some(every) = sd_notify::watchdog_enabled().filter(|every| !every.is_zero()) else {
        return pending().await;
    };
    let mut ticks = interval(every / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// To `$NOTIFY_SOCKET`, if there is one. Launchers start nothing with the gateway's own variables.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
