//! Limits per client: sessions at once, sessions an hour, commands a minute.
//!
//! Knows clients, not sessions. Check and reservation are one step under one lock; a reservation is
//! a guard, so it ends with whatever holds it, on every path.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

pub mod client_ip;

mod connections;

pub use client_ip::Client;
pub use connections::{Connected, Connections};

use crate::config::Live;

const HOUR: Duration = Duration::from_secs(3600);

/// Clients remembered at once. Each costs about 200 bytes; whoever comes when all places are taken
/// by others active within the hour is refused.
const MAX_CLIENTS: usize = 65_536;

/// What a client is told to wait when too many others are remembered. Some are forgotten whenever
/// the gateway prunes, twice in this time.
const CROWDED_RETRY: Duration = Duration::from_secs(60);

/// What a visitor with too many sessions at once is told to wait: there is no telling when one of
/// them ends.
const CONCURRENT_RETRY: Duration = Duration::from_secs(10);

/// Why a client may not start a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has as many as it may have at once.
    #[error("too many sessions at once")]
    Concurrent {
        /// When to try again.
        retry_after: Duration,
    },
    /// It has started as many as it may in an hour.
    #[error("too many sessions within an hour")]
    Hourly {
        /// When to try again.
        retry_after: Duration,
    },
    /// It is new, and no more clients can be remembered.
    #[error("too many clients within an hour")]
    Crowded {
        /// When to try again.
        retry_after: Duration,
    },
}

impl Refusal {
    /// When to try again.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Concurrent { retry_after }
            | Self::Hourly { retry_after }
            | Self::Crowded { retry_after } => *retry_after,
        }
    }
}

#[derive(Debug, Default)]
struct Record {
    /// Sessions held now.
    held: u32,
    /// Starts within the last hour, oldest first; at most `sessions_per_hour`.
    starts: VecDeque<Instant>,
}

impl Record {
    fn forget_old(&mut self, now: Instant) {
        while self
            .starts
            .front()
            .is_some_and(|start| now.duration_since(*start) >= HOUR)
        {
            self.starts.pop_front();
        }
    }

    fn is_blank(&self) -> bool {
        self.held == 0 && self.starts.is_empty()
    }
}

/// Every client's record.
#[derive(Debug)]
pub struct Limiter {
    config: Arc<Live>,
    records: Mutex<HashMap<Client, Record>>,
    commands: ArcSwap<Commands>,
    clock: DefaultClock,
}

/// What every client has left of its commands, for one setting of the limit.
#[derive(Debug)]
struct Commands {
    per_minute: u32,
    left: DefaultKeyedRateLimiter<Client>,
}

impl Commands {
    fn new(per_minute: u32) -> Self {
        let quota = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        Self {
            per_minute,
            left: RateLimiter::keyed(Quota::per_minute(quota)),
        }
    }
}

impl Limiter {
    /// A limiter for the limits in force.
    pub fn new(config: Arc<Live>) -> Self {
        let commands = Commands::new(config.get().limits.commands_per_minute);
        Self {
            config,
            records: Mutex::default(),
            commands: ArcSwap::from_pointee(commands),
            clock: DefaultClock::default(),
        }
    }

    fn records(&self) -> MutexGuard<'_, HashMap<Client, Record>> {
        // No code that could panic runs under the lock.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admit a client to one more session, or say why not.
    pub fn admit(self: &Arc<Self>, client: Client, now: Instant) -> Result<Permit, Refusal> {
        let config = self.config.get();
        let concurrent = config.limits.concurrent_sessions;
        let hourly = config.limits.sessions_per_hour as usize;
        let mut records = self.records();
        if records.len() >= MAX_CLIENTS && !records.contains_key(&client) {
            return Err(Refusal::Crowded {
                retry_after: CROWDED_RETRY,
            });
        }
        let record = records.entry(client).or_default();
        record.forget_old(now);
        if record.held >= concurrent {
            return Err(Refusal::Concurrent {
                retry_after: CONCURRENT_RETRY,
            });
        }
        if let Some(over) = record.starts.len().checked_sub(hourly) {
            // The last of those that must be an hour old first: more than one, if the limit was
            // lowered.
            let last = record.starts.get(over).copied().unwrap_or(now);
            return Err(Refusal::Hourly {
                retry_after: (last + HOUR).saturating_duration_since(now),
            });
        }
        record.held += 1;
        record.starts.push_back(now);
        Ok(Permit {
            client,
            start: now,
            limiter: self.clone(),
        })
    }

    /// A client holds a session that it was admitted to by an earlier gateway, this long ago.
    pub fn readmit(self: &Arc<Self>, client: Client, ago: Duration, now: Instant) -> Permit {
        let start = now.checked_sub(ago);
        let mut records = self.records();
        let record = records.entry(client).or_default();
        record.held += 1;
        if let Some(start) = start.filter(|_| ago < HOUR) {
            let later = record.starts.partition_point(|other| *other <= start);
            record.starts.insert(later, start);
        }
        Permit {
            client,
            start: start.unwrap_or(now),
            limiter: self.clone(),
        }
    }

    /// A client submits a command: now, or after a wait.
    pub fn submit(&self, client: Client) -> Result<(), Duration> {
        self.commands()
            .left
            .check_key(&client)
            .map_err(|until| until.wait_time_from(self.clock.now()))
    }

    fn commands(&self) -> Arc<Commands> {
        let per_minute = self.config.get().limits.commands_per_minute;
        let commands = self.commands.load_full();
        if commands.per_minute == per_minute {
            return commands;
        }
        // A quota cannot be changed under way: everyone begins anew with the new one.
        let commands = Arc::new(Commands::new(per_minute));
        self.commands.store(commands.clone());
        commands
    }

    /// Forget clients that left no trace within the hour. Call now and then.
    pub fn prune(&self, now: Instant) {
        self.records().retain(|_, record| {
            record.forget_old(now);
            !record.is_blank()
        });
        let commands = self.commands();
        commands.left.retain_recent();
        commands.left.shrink_to_fit();
    }

    /// Sessions held by all clients.
    pub fn held(&self) -> u32 {
        self.records().values().map(|record| record.held).sum()
    }
}

/// Leave to hold one session; given back on drop.
#[derive(Debug)]
pub struct Permit {
    client: Client,
    start: Instant,
    limiter: Arc<Limiter>,
}

impl Permit {
    /// The client that holds it.
    pub fn client(&self) -> Client {
        self.client
    }

    /// The session never came to be, through no fault of the client: it does not count in the
    /// client's hour.
    pub fn forgive(&self) {
        let mut records = self.limiter.records();
        if let Some(record) = records.get_mut(&self.client)
            && let Some(at) = record.starts.iter().position(|start| *start == self.start)
        {
            record.starts.remove(at);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(record) = self.limiter.records().get_mut(&self.client) {
            record.held = record.held.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn limiter() -> Arc<Limiter> {
        Arc::new(Limiter::new(Arc::new(Live::new(Config::defaults()))))
    }

    fn client(last: u8) -> Client {
        Client::of(std::net::Ipv4Addr::new(192, 0, 2, last).into())
    }

    #[tokio::test(start_paused = true)]
    async fn two_at_once_and_ten_an_hour() {
        let limiter = limiter();
        let begun = Instant::now();
        let one = limiter.admit(client(1), begun).unwrap();
        let two = limiter.admit(client(1), begun).unwrap();
        assert!(matches!(
            limiter.admit(client(1), begun),
            Err(Refusal::Concurrent { .. })
        ));
        assert!(limiter.admit(client(2), begun).is_ok(), "others are free");
        drop((one, two));
        for _ in 0..8 {
            drop(limiter.admit(client(1), begun).unwrap());
        }
        let later = begun + Duration::from_secs(600);
        assert_eq!(
            limiter.admit(client(1), later).unwrap_err(),
            Refusal::Hourly {
                retry_after: Duration::from_secs(3000)
            }
        );
        assert!(limiter.admit(client(1), begun + HOUR).is_ok());
        assert_eq!(limiter.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn fifty_at_once_get_exactly_two() {
        let limiter = limiter();
        let now = Instant::now();
        let threads: Vec<_> = (0..50)
            .map(|_| {
                let limiter = limiter.clone();
                std::thread::spawn(move || limiter.admit(client(1), now).ok())
            })
            .collect();
        let permits: Vec<_> = threads
            .into_iter()
            .filter_map(|t| t.join().unwrap())
            .collect();
        assert_eq!(permits.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_never_was_is_forgiven() {
        let limiter = limiter();
        let now = Instant::now();
        for _ in 0..30 {
            limiter.admit(client(1), now).unwrap().forgive();
        }
        limiter.prune(now);
        assert!(limiter.records().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_of_an_earlier_gateway_count() {
        let limiter = limiter();
        let now = Instant::now() + 2 * HOUR;
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let young = limiter.readmit(client(1), minutes(10), now);
        let old = limiter.readmit(client(1), minutes(70), now);
        assert!(matches!(
            limiter.admit(client(1), now),
            Err(Refusal::Concurrent { .. })
        ));
        drop((young, old));
        for _ in 0..9 {
            drop(limiter.admit(client(1), now).unwrap());
        }
        let retry_after = minutes(50);
        assert_eq!(
            limiter.admit(client(1), now).unwrap_err(),
            Refusal::Hourly { retry_after }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_remembered_for_ever() {
        let limiter = limiter();
        let now = Instant::now();
        let held = limiter.admit(client(1), now).unwrap();
        drop(limiter.admit(client(2), now).unwrap());
        limiter.prune(now + HOUR);
        assert_eq!(limiter.records().len(), 1, "the one that holds a session");
        drop(held);
        limiter.prune(now + HOUR);
        assert!(limiter.records().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn limits_that_are_lowered_hold_for_the_next_session_and_command() {
        let limiter = limiter();
        let begun = Instant::now();
        for minute in 0..4 {
            let at = begun + Duration::from_secs(60 * minute);
            drop(limiter.admit(client(1), at).unwrap());
        }
        limiter.submit(client(1)).unwrap();
        let mut lower = Config::defaults();
        lower.limits.sessions_per_hour = 2;
        lower.limits.commands_per_minute = 1;
        limiter.config.replace(&lower);
        let now = begun + Duration::from_secs(600);
        assert_eq!(
            limiter.admit(client(1), now).unwrap_err(),
            Refusal::Hourly {
                retry_after: Duration::from_secs(3600 + 120 - 600)
            },
            "until the third start is an hour old"
        );
        limiter.submit(client(1)).unwrap();
        limiter.submit(client(1)).unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_among_too_many_is_not_told_of_its_own_limits() {
        let limiter = limiter();
        let now = Instant::now();
        let address = |n: usize| {
            let bits = u32::try_from(n).unwrap();
            Client::of(std::net::Ipv4Addr::from_bits(bits).into())
        };
        for n in 0..MAX_CLIENTS {
            drop(limiter.admit(address(n), now).unwrap());
        }
        let refusal = limiter.admit(address(MAX_CLIENTS), now).unwrap_err();
        assert!(matches!(refusal, Refusal::Crowded { .. }), "{refusal:?}");
        assert!(limiter.admit(address(0), now).is_ok(), "known already");
        limiter.prune(now + HOUR);
        assert!(limiter.admit(address(MAX_CLIENTS), now + HOUR).is_ok());
    }

    #[test]
    fn the_sixty_first_command_waits() {
        let limiter = limiter();
        for _ in 0..60 {
            limiter.submit(client(1)).unwrap();
        }
        let wait = limiter.submit(client(1)).unwrap_err();
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        limiter.submit(client(2)).unwrap();
    }
}
