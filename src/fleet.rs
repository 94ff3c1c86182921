//! The fleet: sandboxes that programs hold by the API. Knows no HTTP.
//!
//! Each is one task, [`lease`]'s, that owns its sandbox, its place and its clock:
//! `starting → running ⇄ stopped → ended`. Everyone else has a [`Held`], which sends it commands and
//! watches its status, and uses the link by itself. An [`Order`] says what is wanted, a [`Caller`]
//! who wants it.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Live};
use crate::limit::{self, Permit, Starts};
use crate::sandbox::{AtCapacity, EngineState, LaunchError, Leave, Sandboxes, Slot};
use crate::store::{Ends, Store};
use crate::telemetry::Metrics;

mod caller;

mod held;

mod lease;

mod note;

mod order;

mod path;

mod recipe;

pub use caller::{Caller, Owner};
pub use held::{ActError, Held, HeldId, Identity, NotRunning, Reason, State, Status};
pub use order::{BadOrder, Order, WORKSPACE};
pub use recipe::Recipe;

use lease::{Lease, Origin};
use note::Note;
use order::Plan;

/// The agent's own deadline lies this much after the gateway's, so that the gateway is the one that
/// says why a sandbox has ended.
const AGENT_SLACK: Duration = Duration::from_secs(30);

/// Ended ones remembered at once. The largest has 0.4 MiB of environment and metadata.
const MAX_ENDED: usize = 1024;

/// Why a sandbox was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The order is not in order.
    #[error(transparent)]
    Bad(#[from] BadOrder),
    /// The engine does not have the image.
    #[error("{field}: there is no image {image:?} here")]
    NoImage {
        /// What asked for it: `template` or `image`.
        field: &'static str,
        /// Its name.
        image: String,
    },
    /// The owner is over a limit.
    #[error(transparent)]
    Limited(#[from] limit::Refusal),
    /// There is no place.
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    /// The engine is not usable.
    #[error("the engine is not usable: {0}")]
    Unavailable(String),
    /// It did not start.
    #[error("the sandbox did not start: {0}")]
    StartFailed(LaunchError),
    /// The gateway is going away.
    #[error("the gateway is going away")]
    ShuttingDown,
}

/// All sandboxes that programs hold.
#[derive(Debug)]
pub struct Fleet {
    config: Arc<Live>,
    sandboxes: Arc<Sandboxes>,
    metrics: Arc<Metrics>,
    starts: Arc<Starts<Owner>>,
    store: Arc<Store<Held>>,
    tasks: TaskTracker,
    leave: watch::Sender<Option<Leave>>,
}

impl Fleet {
    /// None yet. Their tasks will run in `tasks` until they end or all [`Fleet::leave`].
    pub fn new(
        config: Arc<Live>,
        sandboxes: Arc<Sandboxes>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            config,
            sandboxes,
            metrics,
            starts: Arc::default(),
            store: Arc::new(Store::new(MAX_ENDED)),
            tasks,
            leave: watch::Sender::new(None),
        }
    }

    /// Tell every sandbox that the gateway goes away. No more can be created.
    pub fn leave(&self, how: Leave) {
        self.leave.send_replace(Some(how));
    }

    /// Resolves when that is told.
    pub fn leaving(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut leave = self.leave.subscribe();
        async move {
            // An error: there is no fleet any more.
            let _ = leave.wait_for(Option::is_some).await;
        }
    }

    /// Start a sandbox, or claim one that was started ahead; resolves when it runs. Nobody waits in
    /// line. Whoever gives up waiting gets none.
    pub async fn create(&self, order: Order) -> Result<Arc<Held>, CreateError> {
        if self.leave.borrow().is_some() {
            return Err(CreateError::ShuttingDown);
        }
        let config = self.config.get();
        let built = self.built(&order, &config).await?;
        let plan = Plan::of(order, built, &config)?;
        if let EngineState::Down { reason } | EngineState::Unsafe { reason } =
            self.sandboxes.engine()
        {
            return Err(CreateError::Unavailable(reason));
        }
        let template = plan.recipe.template(&config)?;
        let allowance = plan.caller.allowance(&config.api);
        let permit = self
            .starts
            .admit(&plan.caller.owner, allowance, Instant::now())?;
        let warm = if plan.recipe.is_template_only() {
            self.sandboxes.claim(&plan.recipe.template, &template)
        } else {
            None
        };
        let origin = match warm {
            Some(warm) => Origin::Pool(warm),
            None => match self.sandboxes.reserve() {
                Ok(slot) => Origin::Engine(slot),
                Err(full) => {
                    permit.forgive();
                    return Err(full.into());
                }
            },
        };
        // From a pool that gateways share, the sandbox's task claims.
        if !self.sandboxes.shares_pool() {
            self.metrics
                .fleet_started(matches!(origin, Origin::Pool(_)));
        }
        let (identity, ttl) = plan.identity(&template);
        let (held, handle) = Held::new(identity, SystemTime::now() + ttl, State::Starting);
        let (tell, started) = oneshot::channel();
        let mut unclaimed = Unclaimed(Some(held.clone()));
        self.run(&held, handle, permit, Some((ttl, tell)), origin);
        match started.await {
            Ok(Ok(())) => {
                unclaimed.0 = None;
                Ok(held)
            }
            Ok(Err(LaunchError::NoImage(image))) => Err(CreateError::NoImage {
                field: held.recipe.image_field(),
                image,
            }),
            Ok(Err(error)) => Err(CreateError::StartFailed(error)),
            // It was told to go away before it ran.
            Err(_) => Err(CreateError::ShuttingDown),
        }
    }

    /// The image of the template that an order names, if it is none of the configuration but was built
    /// here.
    async fn built(&self, order: &Order, config: &Config) -> Result<Option<String>, CreateError> {
        let named = order.template.as_deref().filter(|_| order.image.is_none());
        let unknown = named.filter(|name| config.api.builds && config.template(name).is_none());
        let Some(name) = unknown else {
            return Ok(None);
        };
        let found = self.sandboxes.builds.find(name).await;
        let built = found.map_err(|error| CreateError::Unavailable(error.to_string()))?;
        Ok(built.map(|built| built.image))
    }

    /// Start a stopped sandbox anew, or a running one over: it keeps its id and its end, and nothing
    /// else. Counts as a start.
    pub async fn restart(&self, held: &Held, caller: &Caller) -> Result<(), RestartError> {
        let config = self.config.get();
        let allowance = limit::Allowance {
            // It is one of the owner's already.
            at_once: u32::MAX,
            ..caller.allowance(&config.api)
        };
        // Only the start is counted: the place that goes with it is given back at once.
        let start = self
            .starts
            .admit(&caller.owner, allowance, Instant::now())?;
        held.restart().await.inspect_err(|_| start.forgive())?;
        Ok(())
    }

    /// Let a sandbox end this long from now, sooner or later than it would have.
    pub async fn set_timeout(&self, held: &Held, ttl: Duration) -> Result<(), TimeoutError> {
        let ttl = order::check_ttl(Some(ttl), &self.config.get().api)?;
        Ok(held.set_timeout(ttl).await?)
    }

    /// Take back what earlier gateways left. What cannot be is removed.
    pub fn adopt(&self, kept: Vec<(Slot, String)>) {
        for (slot, note) in kept {
            let note = match Note::read(&note, SystemTime::now()) {
                Ok(note) => note,
                Err(error) => {
                    tracing::warn!(sandbox = %slot.id(), %error, "not taken back");
                    self.metrics.adopted("refused");
                    continue;
                }
            };
            let owner = &note.identity.owner;
            let ago = note.identity.created_at.elapsed().unwrap_or_default();
            let permit = self.starts.readmit(owner, ago, Instant::now());
            let (held, handle) = Held::new(note.identity, note.expires_at, State::Starting);
            // What is stopped has nothing but its note, which goes with its place.
            let origin = if note.stopped {
                Origin::Stopped
            } else {
                Origin::Earlier(slot)
            };
            self.run(&held, handle, permit, None, origin);
        }
    }

    /// Whether a note is of a program's sandbox.
    pub fn wrote(note: &str) -> bool {
        Note::is(note)
    }

    /// Hand a sandbox to its task.
    fn run(
        &self,
        held: &Arc<Held>,
        handle: held::Handle,
        permit: Permit<Owner>,
        first: Option<lease::First>,
        origin: Origin,
    ) {
        self.store.insert(held.id.as_str(), held.clone());
        let lease = Lease {
            held: held.clone(),
            sandboxes: self.sandboxes.clone(),
            config: self.config.clone(),
            metrics: self.metrics.clone(),
            permit,
            first,
            kept: false,
            status: handle.status,
            commands: handle.commands,
            leave: self.leave.subscribe(),
        };
        self.tasks.spawn(lease.run(origin));
    }

    /// A sandbox that is there, or ended by itself a short while ago, as far as it is this caller's
    /// business.
    pub fn find(&self, id: &str, caller: &Caller) -> Option<Arc<Held>> {
        let held = self.store.find(id)?;
        (caller.sees(&held.owner) && !held.is_gone()).then_some(held)
    }

    /// All those that are there and this caller's business, the oldest first.
    pub fn list(&self, caller: &Caller) -> Vec<Arc<Held>> {
        let mut all = self.store.live();
        all.retain(|held| caller.sees(&held.owner));
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }

    /// All those that ended within the last ten minutes or so, whoever ended them, and are this caller's
    /// business; the last to end first.
    pub fn ended(&self, caller: &Caller) -> Vec<Arc<Held>> {
        let mut all = self.store.all();
        all.retain(|held| held.is_over() && caller.sees(&held.owner));
        all.sort_by_cached_key(|held| (Reverse(held.status().ended_at), held.id.clone()));
        all
    }

    /// How many are held, by all owners.
    pub fn held(&self) -> u32 {
        self.starts.held()
    }

    /// Forget what ended long ago. Call now and then.
    pub fn prune(&self) {
        self.store.prune(Instant::now());
        self.starts.prune(Instant::now());
    }
}

/// Why a sandbox was not started anew.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The owner has started too many.
    #[error(transparent)]
    Limited(#[from] limit::Refusal),
    /// It cannot be.
    #[error(transparent)]
    Act(#[from] ActError),
}

/// Why a sandbox's end was not moved.
#[derive(Debug, thiserror::Error)]
pub enum TimeoutError {
    /// Not to there.
    #[error(transparent)]
    Bad(#[from] BadOrder),
    /// It has ended.
    #[error(transparent)]
    Act(#[from] ActError),
}

/// A sandbox that nobody has been told of yet.
struct Unclaimed(Option<Arc<Held>>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            held.kill_soon();
        }
    }
}
