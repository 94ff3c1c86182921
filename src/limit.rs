//! Limits per client: sessions at once, sessions an hour, commands a minute.
//!
//! Knows clients, not sessions. What is held is counted by [`starts`]; what all gateways count together, by
//! [`store`].

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

pub mod client_ip;

mod connections;

mod guesses;

mod starts;

mod store;

pub use client_ip::Client;
pub use connections::{Connected, Connections};
pub use guesses::Guesses;
pub use starts::{Allowance, CONCURRENT_RETRY, Permit, Refusal, Starts};
pub use store::StoreError;

use starts::HOUR;
use store::{Receipt, Store};

use crate::config::Live;

/// Every client's record.
#[derive(Debug)]
pub struct Limiter {
    config: Arc<Live>,
    sessions: Arc<Starts>,
    /// Where gateways count together.
    store: Option<Arc<Store>>,
    /// Wrong keys.
    pub guesses: Guesses,
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
        let limits = &config.get().limits;
        let commands = Commands::new(limits.commands_per_minute);
        let store = Store::of(&limits.store);
        Self {
            config,
            sessions: Arc::default(),
            store,
            guesses: Guesses::default(),
            commands: ArcSwap::from_pointee(commands),
            clock: DefaultClock::default(),
        }
    }

    /// The same for all gateways that count together, where they do: this one's own count first.
    /// Of those that other gateways hold for it, `elsewhere` are known.
    pub async fn admit_among_all(
        &self,
        client: Client,
        elsewhere: usize,
        now: Instant,
    ) -> Result<Permit, Refusal> {
        let permit = self.admit_beside(client, elsewhere, now)?;
        if let Some(store) = &self.store {
            let per_hour = self.config.get().limits.sessions_per_hour;
            let counted = store.count(client, per_hour).await;
            // What another count refuses was no start.
            let receipt = counted.inspect_err(|_| permit.forgive())?;
            permit.counted(receipt);
        }
        Ok(permit)
    }

    /// Ask whether the store answers, if there is one. Bounded.
    pub async fn look_for_store(&self) -> Option<Result<(), StoreError>> {
        Some(self.store.as_ref()?.ping().await)
    }

    /// Whether the store answered when it was last asked, and how often it has not; `None` without one.
    pub fn store(&self) -> Option<(bool, u64)> {
        let store = self.store.as_ref()?;
        Some((store.is_up(), store.failures()))
    }

    /// Admit a client to one more session, or say why not: by this gateway's own count.
    pub fn admit(&self, client: Client, now: Instant) -> Result<Permit, Refusal> {
        self.admit_beside(client, 0, now)
    }

    fn admit_beside(
        &self,
        client: Client,
        elsewhere: usize,
        now: Instant,
    ) -> Result<Permit, Refusal> {
        let config = self.config.get();
        let elsewhere = u32::try_from(elsewhere).unwrap_or(u32::MAX);
        let allowance = Allowance {
            at_once: config.limits.concurrent_sessions.saturating_sub(elsewhere),
            per_hour: config.limits.sessions_per_hour,
        };
        self.sessions.admit(&client, allowance, now)
    }

    /// A client holds a session that it was admitted to by an earlier gateway, this long ago.
    pub fn readmit(&self, client: Client, ago: Duration, now: Instant) -> Permit {
        self.sessions.readmit(&client, ago, now)
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
        self.sessions.prune(now);
        self.guesses.prune();
        let commands = self.commands();
        commands.left.retain_recent();
        commands.left.shrink_to_fit();
    }

    /// Sessions held by all clients.
    pub fn held(&self) -> u32 {
        self.sessions.held()
    }
}

#[cfg(test)]
mod tests {
    use super::starts::MAX_HOLDERS;
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
        assert!(limiter.sessions.remembered() == 0);
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
        assert_eq!(
            limiter.sessions.remembered(),
            1,
            "the one that holds a session"
        );
        drop(held);
        limiter.prune(now + HOUR);
        assert!(limiter.sessions.remembered() == 0);
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
        for n in 0..MAX_HOLDERS {
            drop(limiter.admit(address(n), now).unwrap());
        }
        let refusal = limiter.admit(address(MAX_HOLDERS), now).unwrap_err();
        assert!(matches!(refusal, Refusal::Crowded { .. }), "{refusal:?}");
        assert!(limiter.admit(address(0), now).is_ok(), "known already");
        limiter.prune(now + HOUR);
        assert!(limiter.admit(address(MAX_HOLDERS), now + HOUR).is_ok());
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
