//! How a gateway goes away, and what becomes of its sandboxes then.

use tokio::sync::watch;

/// How a gateway goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Every sandbox ends.
    End,
    /// Sandboxes that the next gateway can take back live on.
    HandOver,
}

/// Resolves when the gateway goes away.
pub async fn leaving(leave: &mut watch::Receiver<Option<Leave>>) -> Leave {
    let told = leave.wait_for(Option::is_some).await;
    told.ok().and_then(|how| *how).unwrap_or(Leave::End)
}
