//! Sandboxes started ahead, so that a visitor is at a prompt in milliseconds. They take places like all
//! others, and give them up to a visitor who finds none.
//!
//! This gateway's own are here; where gateways have them together, [`shared`] keeps them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use belljar_link::client::{Link, LinkError, Output};
use belljar_link::message::Attach;
use futures::future::join_all;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    LaunchError, MainTerminal, POOL, Sandbox, SandboxId, SandboxSpec, Sandboxes, Slot, UNLINKED,
    Warm,
};
use crate::config::{Config, Template};

pub(super) mod shared;

/// A member older than this is replaced: nothing that runs is left to grow stale for ever.
const OLDEST: Duration = Duration::from_secs(3600);

/// A member whose gateway forgets it ends by itself after this.
const LIFETIME: Duration = OLDEST.saturating_add(Duration::from_secs(300));

/// How often members are asked whether they are there.
const WEED_EVERY: Duration = Duration::from_secs(15);

/// How long a start ahead gives way to visitors' own. Longer, and under a steady crowd nobody would
/// ever find the pool full.
const GIVE_WAY: Duration = Duration::from_secs(5);

/// Pause after a start that failed; doubled up to the second each time.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long a shell may take to its prompt, and how long it must then be silent. One that prints
/// nothing is handed out all the same.
const PROMPT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(100));

#[derive(Debug)]
struct Member {
    warm: Warm,
    /// What it was started from: the configuration may have changed since.
    template: Template,
    since: Instant,
}

/// Members by template, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Pool {
    members: Mutex<HashMap<String, VecDeque<Member>>>,
    /// Rung when there is one less.
    taken: Notify,
    /// Of a pool that gateways have together.
    held: shared::Held,
}

impl Pool {
    fn members(&self) -> MutexGuard<'_, HashMap<String, VecDeque<Member>>> {
        // No code that could panic runs under the lock.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.members().values().map(VecDeque::len).sum()
    }

    pub(super) fn counts(&self) -> BTreeMap<String, usize> {
        let members = self.members();
        let counts = members
            .iter()
            .map(|(name, pool)| (name.clone(), pool.len()));
        counts.collect()
    }

    /// A member of a template's pool.
    pub(super) fn take(&self, name: &str, template: &Template) -> Option<Warm> {
        let mut members = self.members();
        let pool = members.get_mut(name)?;
        while let Some(member) = pool.pop_front() {
            self.taken.notify_one();
            if member.template == *template && !member.warm.sandbox.link.is_closed() {
                return Some(member.warm);
            }
        }
        None
    }

    /// A member of the fullest pool, whose place is needed.
    pub(super) fn give_up_one(&self) -> Option<Sandbox> {
        let mut members = self.members();
        let fullest = members.values_mut().max_by_key(|pool| pool.len())?;
        Some(fullest.pop_front()?.warm.sandbox)
    }

    fn put(&self, name: &str, member: Member) {
        let mut members = self.members();
        members
            .entry(name.to_owned())
            .or_default()
            .push_back(member);
    }

    /// A template whose pool is not full; the emptiest.
    fn wanting<'a>(&self, config: &'a Config) -> Option<(&'a String, &'a Template)> {
        let members = self.members();
        let has = |name| members.get(name).map_or(0, VecDeque::len);
        let templates = config.templates.iter();
        let lacking = templates.filter(|(name, template)| has(*name) < template.pool);
        lacking.min_by_key(|(name, _)| has(*name))
    }

    /// Give up members that have ended, do not answer, are too old, or that the configuration does
    /// not want any more.
    async fn weed(&self, config: &Config) {
        let links: Vec<(SandboxId, Arc<Link>)> = {
            let members = self.members();
            let fit = |member: &&Member| member.since.elapsed() < OLDEST;
            let fit = members.values().flatten().filter(fit);
            fit.map(|m| &m.warm.sandbox)
                .map(|sandbox| (sandbox.id().clone(), sandbox.link.clone()))
                .collect()
        };
        let begun = Instant::now();
        let answers = join_all(
            links
                .into_iter()
                .map(|(id, link)| async move { link.ping().await.is_ok().then_some(id) }),
        );
        let alive: Vec<SandboxId> = answers.await.into_iter().flatten().collect();
        for (name, pool) in self.members().iter_mut() {
            let template = config.template(name);
            pool.retain(|m| {
                Some(&m.template) == template
                    && (m.since >= begun || alive.contains(m.warm.sandbox.id()))
            });
            pool.truncate(template.map_or(0, |template| template.pool));
        }
    }
}

/// Keep every pool full until `stop`, one start at a time, and then give the members up.
pub(super) async fn keep_full(sandboxes: &Sandboxes, stop: &CancellationToken) {
    // Which kind it is may be known only once the engine was reached.
    tokio::select! {
        () = sandboxes.usable() => {}
        () = stop.cancelled() => return,
    }
    if let Some(pool) = sandboxes.launcher.pool() {
        return shared::keep_full(sandboxes, pool, stop).await;
    }
    let pool = &sandboxes.pool;
    let fill = async {
        let mut pause = RETRY.0;
        loop {
            let config = sandboxes.config.get();
            let Some((name, template)) = pool.wanting(&config) else {
                pool.taken.notified().await;
                continue;
            };
            let Err(why) = add(sandboxes, name, template).await else {
                pause = RETRY.0;
                continue;
            };
            if let Some(error) = why {
                tracing::warn!(%error, remedy = error.remedy(), "no sandbox was started ahead");
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    };
    let weed = async {
        loop {
            sleep(WEED_EVERY).await;
            pool.weed(&sandboxes.config.get()).await;
            pool.taken.notify_one();
        }
    };
    tokio::select! {
        never = fill => never,
        never = weed => never,
        () = stop.cancelled() => {}
    }
    pool.members().clear();
}

/// Let visitors' own starts go first, for a while.
async fn make_way(sandboxes: &Sandboxes) {
    let _ = timeout(GIVE_WAY, sandboxes.nobody_starts()).await;
}

/// Start one member. `Err(None)` is no error: there is no place.
async fn add(
    sandboxes: &Sandboxes,
    name: &str,
    template: &Template,
) -> Result<(), Option<LaunchError>> {
    make_way(sandboxes).await;
    let place = sandboxes.registry.reserve(SandboxId::random());
    let slot = place.map_err(|_| None)?;
    let warm = warm_up(sandboxes, slot, name, template, UNLINKED).await?;
    let member = Member {
        warm,
        template: template.clone(),
        since: Instant::now(),
    };
    sandboxes.pool.put(name, member);
    Ok(())
}

/// Start a sandbox of this template in this place, and bring it to its prompt. It ends when it was without
/// a gateway for as long as `unlinked`.
async fn warm_up(
    sandboxes: &Sandboxes,
    slot: Slot,
    name: &str,
    template: &Template,
    unlinked: Duration,
) -> Result<Warm, LaunchError> {
    let spec = SandboxSpec {
        id: slot.id().clone(),
        template_name: name.to_owned(),
        template: template.clone(),
        env: BTreeMap::new(),
        session: POOL.into(),
        owner: POOL.into(),
        expires_at: SystemTime::now() + LIFETIME,
        deadline: LIFETIME,
        unlinked,
    };
    let sandbox = sandboxes.start_one(slot, &spec).await?;
    let main = MainTerminal::default();
    let opened = sandbox.open_main(spec.template, spec.env, main).await;
    let warm = Warm {
        terminal: opened?,
        sandbox,
    };
    // A shell that is slow or silent is no failure.
    let _ = timeout(PROMPT.0, at_prompt(&warm)).await;
    warm.sandbox.link.dial_ahead().await;
    Ok(warm)
}

/// Wait until the shell has said something and fallen silent.
async fn at_prompt(warm: &Warm) -> Result<(), LinkError> {
    let watch = Attach {
        terminal: warm.terminal,
        from: None,
        window: None,
        hold_ms: 0,
    };
    let (_, mut output, _control) = warm.sandbox.link.attach(watch).await?;
    let mut spoken = false;
    loop {
        let silence = async {
            if !spoken {
                pending::<()>().await;
            }
            sleep(PROMPT.1).await;
        };
        tokio::select! {
            next = output.next() => match next {
                Some(next) => spoken |= matches!(next?, Output::Bytes(_)),
                None => return Err(LinkError::Closed),
            },
            () = silence => return Ok(()),
        }
    }
}
