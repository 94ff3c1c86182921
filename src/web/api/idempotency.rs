//! `Idempotency-Key`: a request that is repeated is answered as the first one was, and done once.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use super::problem::Problem;
use crate::fleet::Owner;

/// How long an answer is remembered: far longer than anyone tries again.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Answers remembered at once, of 1 KiB each as a rule. Beyond, the oldest is forgotten.
const MAX_ANSWERS: usize = 4096;

/// Longest key, bytes: RFC-like clients send 36.
const MAX_KEY: usize = 255;

/// What came of the first request.
pub(super) type Outcome = Result<Bytes, Problem>;

#[derive(Debug)]
struct Entry {
    fingerprint: [u8; 32],
    since: Instant,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// Answers to requests that may come again.
#[derive(Debug, Default)]
pub struct Answers(Mutex<HashMap<(Owner, String), Entry>>);

/// Whether a request is the first of its key.
#[derive(Debug)]
pub(super) enum Turn {
    /// It is: do it, and say what came of it.
    First(watch::Sender<Option<Outcome>>),
    /// It is not: this came of the first, or will.
    Again(watch::Receiver<Option<Outcome>>),
}

impl Answers {
    fn entries(&self) -> MutexGuard<'_, HashMap<(Owner, String), Entry>> {
        // No code that could panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose turn it is. The same key with another body is a mistake.
    pub(super) fn turn(&self, owner: &Owner, key: &str, body: &[u8]) -> Result<Turn, Problem> {
        let fingerprint: [u8; 32] = Sha256::digest(body).into();
        let now = Instant::now();
        let mut entries = self.entries();
        entries.retain(|_, entry| now.duration_since(entry.since) < REMEMBERED);
        if entries.len() >= MAX_ANSWERS {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.since);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                entries.remove(&oldest);
            }
        }
        match entries.entry((owner.clone(), key.to_owned())) {
            Place::Occupied(entry) if entry.get().fingerprint != fingerprint => Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "This Idempotency-Key came with another request before.",
            )),
            Place::Occupied(entry) => Ok(Turn::Again(entry.get().outcome.clone())),
            Place::Vacant(place) => {
                let (tell, outcome) = watch::channel(None);
                place.insert(Entry {
                    fingerprint,
                    since: now,
                    outcome,
                });
                Ok(Turn::First(tell))
            }
        }
    }

    /// Nothing came of it: the next one may try.
    pub(super) fn forget(&self, owner: &Owner, key: &str) {
        self.entries().remove(&(owner.clone(), key.to_owned()));
    }
}

/// The key of a request, if it has one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().ok().map(str::trim);
    let key = key.filter(|key| (1..=MAX_KEY).contains(&key.len()));
    let wrong = || {
        let allowed = format!("must be 1 to {MAX_KEY} visible ASCII characters");
        Problem::bad_field("Idempotency-Key", &allowed)
    };
    key.map(|key| Some(key.to_owned())).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(turn: &Result<Turn, Problem>) -> bool {
        matches!(turn, Ok(Turn::First(_)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_stands_for_one_request_of_one_owner() {
        let answers = Answers::default();
        let turn = |key: &str, body: &str| answers.turn(&Owner::Local, key, body.as_bytes());
        assert!(first(&turn("a", "x")));
        assert!(matches!(turn("a", "x"), Ok(Turn::Again(_))));
        assert!(turn("a", "y").is_err());
        assert!(first(&turn("b", "y")));
        answers.forget(&Owner::Local, "a");
        assert!(first(&turn("a", "y")));
        tokio::time::advance(REMEMBERED).await;
        assert!(first(&turn("a", "z")));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_remembered_than_there_is_room_for() {
        let answers = Answers::default();
        for number in 0..MAX_ANSWERS + 10 {
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(first(&answers.turn(
                &Owner::Local,
                &number.to_string(),
                b""
            )));
        }
        assert_eq!(answers.entries().len(), MAX_ANSWERS);
        assert!(
            first(&answers.turn(&Owner::Local, "0", b"")),
            "the oldest is forgotten"
        );
    }
}
