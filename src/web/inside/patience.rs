//! Answers that take as long as they take: a command's output, a large file, a watch.
//!
//! A connection is told to come back anew after a while, and then ended, so that nobody holds one for
//! ever by not reading an answer. Whoever answers for longer holds the connection's [`Patience`]
//! meanwhile, and sees to deadlines of its own.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tokio::sync::watch;

/// How many long answers of one connection are under way.
#[derive(Debug, Clone, Default)]
pub struct Patience(Arc<watch::Sender<usize>>);

impl Patience {
    /// Have the connection live on until the guard is dropped.
    pub fn hold(&self) -> Holding {
        self.0.send_modify(|holding| *holding += 1);
        Holding(self.clone())
    }

    /// Resolves while nothing is under way.
    pub async fn over(&self) {
        let mut holding = self.0.subscribe();
        // The sender is this one.
        let _ = holding.wait_for(|holding| *holding == 0).await;
    }
}

/// A long answer under way.
#[derive(Debug)]
pub struct Holding(Patience);

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.0.send_modify(|holding| *holding -= 1);
    }
}

impl<S: Sync> FromRequestParts<S> for Patience {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Absent only where a test calls a handler without a connection.
        let patience = parts.extensions.get::<Self>().cloned();
        Ok(patience.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn it_is_over_when_the_last_one_lets_go() {
        let patience = Patience::default();
        assert!(patience.over().now_or_never().is_some());
        let (one, other) = (patience.hold(), patience.clone().hold());
        drop(one);
        assert!(patience.over().now_or_never().is_none());
        drop(other);
        assert!(patience.over().now_or_never().is_some());
    }
}
