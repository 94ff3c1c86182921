//! What all gateways count together: starts within the hour, in a Redis or Valkey server.
//!
//! One script, run by the server as one step, forgets what is old, counts, and writes the start down: check
//! and reservation are one step for all gateways, by the server's clock. Nobody's address is kept: a key is
//! its hash.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client as Server, IntoConnectionInfo, RedisError, Script};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::{Client, HOUR, Refusal};
use crate::config::{LimitStore, WhenAway};
use crate::secret::{hex, random_hex};

/// How long the store may take to answer, connecting included. It takes a millisecond, and a visitor waits
/// for it.
const DEADLINE: Duration = Duration::from_millis(500);

/// After a failure the store is not asked for so long, so that a crowd does not wait for the same deadline one
/// by one.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the store may leave what it is sent unacknowledged before its connection is given up.
const GONE: Duration = Duration::from_secs(2);

/// What a visitor is told to wait who is refused because the store is away.
const AWAY_RETRY: Duration = Duration::from_secs(10);

/// -1 if the start was written down, else the milliseconds until it may be.
const COUNT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
local over = redis.call('ZCARD', KEYS[1]) - limit
if over >= 0 then
    local last = redis.call('ZRANGE', KEYS[1], over, over, 'WITHSCORES')
    return math.max(tonumber(last[2]) + window - now, 1)
end
redis.call('ZADD', KEYS[1], now, ARGV[3])
redis.call('PEXPIRE', KEYS[1], window)
return -1
";

/// The store, and whether it answers.
#[derive(Debug)]
pub(super) struct Store {
    when_away: WhenAway,
    prefix: String,
    server: Server,
    connection: OnceCell<ConnectionManager>,
    count: Script,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// While it does not answer: until when it is not asked.
    away: Option<Instant>,
    /// How often it has not answered.
    failures: u64,
}

/// Why the store did not do it. Says nothing of who it was for, nor of its password.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It refused, or cannot be reached.
    #[error("{0}")]
    Server(#[from] RedisError),
    /// It took too long.
    #[error("no answer within {} ms", DEADLINE.as_millis())]
    Deadline,
}

impl Store {
    /// The configured store, if there is one. Nothing is contacted yet.
    pub(super) fn of(config: &LimitStore) -> Option<Arc<Self>> {
        let server = config.url.as_deref()?.into_connection_info().ok()?;
        // A connection whose other end is gone without a trace ends by this, and the next who asks makes a new
        // one; by the kernel's own measure it would stay, and the store be away, for a quarter of an hour.
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_user_timeout(GONE);
        let server = Server::open(server.set_tcp_settings(tcp)).ok()?;
        Some(Arc::new(Self {
            when_away: config.when_away,
            prefix: config.prefix.clone(),
            server,
            connection: OnceCell::new(),
            count: Script::new(COUNT),
            state: Mutex::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that could panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Count a client's start, if it may have one more. `None` where the store is away and nobody minds.
    pub(super) async fn count(
        self: &Arc<Self>,
        client: Client,
        per_hour: u32,
    ) -> Result<Option<Receipt>, Refusal> {
        let receipt = Receipt {
            key: self.key(client),
            start: random_hex::<16>(),
            store: self.clone(),
        };
        let away = match self.when_away {
            WhenAway::Open => Ok(None),
            WhenAway::Closed => Err(Refusal::Uncounted {
                retry_after: AWAY_RETRY,
            }),
        };
        if self
            .state()
            .away
            .is_some_and(|until| Instant::now() < until)
        {
            return away;
        }
        let window = u64::try_from(HOUR.as_millis()).unwrap_or(u64::MAX);
        let counted = self
            .ask(async |mut connection| {
                let mut count = self.count.key(&receipt.key);
                count.arg(per_hour).arg(window).arg(&receipt.start);
                count.invoke_async::<i64>(&mut connection).await
            })
            .await;
        match counted {
            Ok(..0) => Ok(Some(receipt)),
            Ok(wait) => Err(Refusal::Hourly {
                retry_after: Duration::from_millis(wait.unsigned_abs()),
            }),
            Err(_) => away,
        }
    }

    /// Ask whether it answers. Bounded.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.ask(async |mut connection| redis::cmd("PING").exec_async(&mut connection).await)
            .await
    }

    async fn ask<T>(
        &self,
        what: impl AsyncFnOnce(ConnectionManager) -> Result<T, RedisError>,
    ) -> Result<T, StoreError> {
        let asked = timeout(DEADLINE, async {
            let connection = self.connection.get_or_try_init(|| self.connect()).await?;
            what(connection.clone()).await
        });
        let answer = match asked.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(StoreError::Server(error)),
            Err(_) => Err(StoreError::Deadline),
        };
        self.note(answer.as_ref().err());
        answer
    }

    async fn connect(&self) -> Result<ConnectionManager, RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE))
            // Whoever asks next tries again.
            .set_number_of_retries(0);
        ConnectionManager::new_with_config(self.server.clone(), config).await
    }

    /// Say so, once, when it goes away or comes back.
    fn note(&self, error: Option<&StoreError>) {
        let mut state = self.state();
        let was_away = state.away.is_some();
        state.away = error.map(|_| Instant::now() + PAUSE);
        state.failures += u64::from(error.is_some());
        drop(state);
        match error {
            Some(error) if !was_away => {
                let when_away = match self.when_away {
                    WhenAway::Open => "sessions begin as far as this gateway's own count allows",
                    WhenAway::Closed => "no sessions begin",
                };
                tracing::error!(
                    %error, when_away, remedy = "start it, or correct limits.store.url",
                    "the store of limits is away"
                );
            }
            None if was_away => tracing::info!("the store of limits is back"),
            _ => {}
        }
    }

    /// Whether it answered when it was last asked.
    pub(super) fn is_up(&self) -> bool {
        self.state().away.is_none()
    }

    /// How often it has not answered.
    pub(super) fn failures(&self) -> u64 {
        self.state().failures
    }

    /// A client's key. A hash, though a short one can be guessed: for addresses not to lie about.
    fn key(&self, client: Client) -> String {
        let hash = Sha256::digest(format!("belljar starts {} {client}", self.prefix));
        format!("{}:starts:{}", self.prefix, hex(&hash[..16]))
    }
}

/// A start that was counted.
#[derive(Debug)]
pub(super) struct Receipt {
    key: String,
    start: String,
    store: Arc<Store>,
}

impl Receipt {
    /// It is not to count, after all. In the background: nobody waits for it, and what is lost ends within
    /// the hour.
    pub(super) fn forget(&self) {
        let (store, key, start) = (self.store.clone(), self.key.clone(), self.start.clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let forgotten = store.ask(async |mut connection| {
                let mut forget = redis::cmd("ZREM");
                forget.arg(key).arg(start).exec_async(&mut connection).await
            });
            // It was said already that the store is away.
            let _ = forgotten.await;
        });
    }
}
