//! Wrong keys, counted for each client.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::Client;

/// Wrong keys a client may present in a minute before it is told to wait. No secret of 256 bits is
/// guessed, however often: this is for the log and the metrics.
const PER_MINUTE: NonZeroU32 = NonZeroU32::new(30).expect("not zero");

/// How many wrong keys each client has left.
#[derive(Debug)]
pub struct Guesses {
    left: DefaultKeyedRateLimiter<Client>,
    clock: DefaultClock,
}

impl Default for Guesses {
    fn default() -> Self {
        Self {
            left: RateLimiter::keyed(Quota::per_minute(PER_MINUTE)),
            clock: DefaultClock::default(),
        }
    }
}

impl Guesses {
    /// A client has presented a wrong key; an error says how long it must wait.
    pub fn wrong(&self, client: Client) -> Result<(), Duration> {
        let checked = self.left.check_key(&client);
        checked.map_err(|until| until.wait_time_from(self.clock.now()))
    }

    /// Forget clients that have all of them left again. Call now and then.
    pub fn prune(&self) {
        self.left.retain_recent();
        self.left.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_guesses_waits_and_others_do_not() {
        let guesses = Guesses::default();
        let client = |last| Client::of(std::net::Ipv4Addr::new(192, 0, 2, last).into());
        for _ in 0..PER_MINUTE.get() {
            guesses.wrong(client(1)).unwrap();
        }
        assert!(guesses.wrong(client(1)).unwrap_err() <= Duration::from_secs(2));
        guesses.wrong(client(2)).unwrap();
    }
}
