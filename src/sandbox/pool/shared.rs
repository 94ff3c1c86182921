//! A pool that all gateways of an instance have together. Any of them claims members; one of them, the
//! elected one, starts them and removes those that nobody will want.
//!
//! A member takes nobody's place: whoever claims it has reserved one. It misses no gateway while it waits:
//! it is asked when it is claimed. One gateway holds it, which has a link to it and needs no other if it is
//! the one who claims it: first the one that has started it, and then each a fair share.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use belljar_link::client::Link;
use futures::future::join_all;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::launcher::{Member, SharedPool};
use super::super::{
    EngineState, LaunchError, Leave, Sandbox, SandboxId, SandboxSpec, Sandboxes, Slot, UNLINKED,
    Warm,
};
use super::{LIFETIME, OLDEST, RETRY, WEED_EVERY, make_way, warm_up};
use crate::config::{Config, Template};

/// Members that are tried for one visitor. One that others claim first costs a few milliseconds; whoever
/// is unlucky so often is better served by a start.
const TRIES: usize = 8;

/// Members that were claimed and do not answer, for one visitor.
const DUDS: usize = 2;

/// How long a member that was claimed may take to answer: it takes a tenth of a second, and a start, which
/// comes after it, has its own deadline.
const ANSWER: Duration = Duration::from_secs(5);

/// Starts ahead at once. More than the one of a single machine, because a cluster has nodes for them; few,
/// because it may have one, on which visitors start, too.
const AT_ONCE: usize = 4;

/// Pause between two looks at who holds what: news come in crowds.
const HOLD_EVERY: Duration = Duration::from_millis(100);

/// How long the gateway that fills the pool looks for a place of its own for that. Then another gateway,
/// which may have one, is to fill it.
const NO_PLACE: Duration = Duration::from_secs(10);

/// How long the pool may take to be given up at the end: a few calls of milliseconds.
const GIVE_UP: Duration = Duration::from_secs(5);

impl Sandboxes {
    /// Whether what is started ahead is in a pool that other gateways claim from, too.
    pub fn shares_pool(&self) -> bool {
        self.launcher.pool().is_some()
    }

    /// In the place of a sandbox that was to be started, one that was started ahead, at its prompt; the
    /// place comes back if there is none. It lives for as long as that one would have.
    pub async fn claim_shared(&self, slot: Slot, spec: &SandboxSpec) -> Result<Warm, Slot> {
        let Some(pool) = self.launcher.pool() else {
            return Err(slot);
        };
        // Nothing is handed out before the seal was proved; a start knows how to wait for that.
        if self.engine() != EngineState::Ready {
            return Err(slot);
        }
        let stamp = pool.stamp(&spec.template_name, &spec.template);
        let mut duds = 0;
        for _ in 0..TRIES {
            let Some(id) = pool.pick(&stamp) else { break };
            // From now on no sweep of this gateway takes it for an orphan.
            let place = slot.beside(id.clone());
            match self.claim_one(pool, &id, spec).await {
                Ok(Some((link, terminal))) => {
                    let sandbox = Sandbox { slot: place, link };
                    return Ok(Warm { sandbox, terminal });
                }
                Ok(None) => place.let_go(),
                Err(Unclaimed::Refused(error)) => {
                    // Whatever became of it, nobody here uses it: if it was claimed, the sweep finds it.
                    place.let_go();
                    tracing::warn!(sandbox = %id, %error, remedy = error.remedy(), "not claimed");
                    break;
                }
                Err(Unclaimed::Dud(error)) => {
                    tracing::warn!(sandbox = %id, %error, "a sandbox that waited does not answer");
                    duds += 1;
                    if duds == DUDS {
                        break;
                    }
                }
            }
        }
        Err(slot)
    }

    async fn claim_one(
        &self,
        pool: &dyn SharedPool,
        id: &SandboxId,
        spec: &SandboxSpec,
    ) -> Result<Option<(Arc<Link>, u32)>, Unclaimed> {
        let claimed = pool.claim(id, spec).await.map_err(Unclaimed::Refused)?;
        let Some(terminal) = claimed else {
            return Ok(None);
        };
        let taken_up = async {
            let link = if let Some(held) = self.pool.held.take(id) {
                held
            } else {
                let link = self.link(id).await?;
                let mut terminals = link.welcome().terminals.iter();
                if !terminals.any(|info| info.terminal == terminal) {
                    return Err(LaunchError::NoLink("its terminal is gone".into()));
                }
                link.into()
            };
            // It is somebody's now, and ends as such.
            link.set_life(spec.deadline, UNLINKED).await?;
            Ok(link)
        };
        let late = Err(LaunchError::Deadline("the answer of a sandbox that waited"));
        let link = timeout(ANSWER, taken_up).await.unwrap_or(late);
        Ok(Some((link.map_err(Unclaimed::Dud)?, terminal)))
    }
}

/// The links to members that this gateway holds.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<HashMap<SandboxId, Arc<Link>>>);

impl Held {
    fn links(&self) -> MutexGuard<'_, HashMap<SandboxId, Arc<Link>>> {
        // No code that could panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, id: SandboxId, link: Arc<Link>) {
        self.links().insert(id, link);
    }

    fn take(&self, id: &SandboxId) -> Option<Arc<Link>> {
        let link = self.links().remove(id);
        link.filter(|link| !link.is_closed())
    }

    /// Let go of those that are no members any more, or another's.
    fn retain(&self, members: &[Member], holder: &str) {
        let others = |member: &Member| member.holder.as_ref().is_some_and(|its| its != holder);
        let is_held = |id: &SandboxId| {
            members
                .iter()
                .any(|member| member.id == *id && !others(member))
        };
        self.links()
            .retain(|id, link| is_held(id) && !link.is_closed());
    }
}

/// Why a member that was tried is not had.
enum Unclaimed {
    /// The engine did not do it.
    Refused(LaunchError),
    /// It is claimed, and of no use.
    Dud(LaunchError),
}

/// Fill the pool, whenever it is this gateway's to do, until `stop`.
pub(super) async fn keep_full(
    sandboxes: &Sandboxes,
    pool: &dyn SharedPool,
    stop: &CancellationToken,
) {
    let mut in_office = false;
    let work = async {
        loop {
            wanted(sandboxes, pool).await;
            let term = pool.elected().await;
            tracing::info!("this gateway fills the pool");
            in_office = true;
            let why = tokio::select! {
                why = fill(sandboxes, pool) => why,
                () = weed(sandboxes, pool) => "",
                () = term.lost() => "the lease was lost",
            };
            in_office = false;
            tracing::info!(why, "this gateway fills the pool no more");
        }
    };
    let filling = async {
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    };
    let holding = async {
        let late = async {
            stop.cancelled().await;
            sleep(GIVE_UP).await;
        };
        tokio::select! {
            () = hold_share(sandboxes, pool, stop) => {}
            () = late => {}
        }
    };
    tokio::join!(filling, holding);
    // Whoever goes for good, and not for others to come, leaves nothing behind.
    if sandboxes.leave() == Leave::End {
        let _ = timeout(GIVE_UP, give_up(pool, in_office)).await;
    }
}

/// Discard what this gateway holds, and, if it is in office, whatever else waits. Again until none is known: what
/// has just changed is not discarded before it is known how.
async fn give_up(pool: &dyn SharedPool, in_office: bool) {
    let me = pool.holder();
    loop {
        let mut changes = pool.changes();
        let its = |member: &Member| member.holder.as_ref() == Some(&me);
        let waits = |member: &Member| in_office && member.stamp.is_some();
        let members = pool.members().into_iter();
        let left: Vec<_> = members.filter(|m| its(m) || waits(m)).collect();
        if left.is_empty() {
            return;
        }
        discard(pool, left.into_iter().map(|member| member.id)).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Resolves when there may be something to do, for this gateway.
async fn wanted(sandboxes: &Sandboxes, pool: &dyn SharedPool) {
    loop {
        sandboxes.usable().await;
        let config = sandboxes.config.get();
        let wants = config.templates.values().any(|template| template.pool > 0);
        let has_place = sandboxes.registry.closed().is_none();
        if (wants || !pool.members().is_empty()) && has_place {
            return;
        }
        // A reload may bring a template that wants one; a place may come free.
        sleep(RETRY.0).await;
    }
}

/// Start what is lacking, a few at a time. Returns why another gateway should.
async fn fill(sandboxes: &Sandboxes, pool: &dyn SharedPool) -> &'static str {
    let mut pause = RETRY.0;
    let mut no_place: Option<Instant> = None;
    loop {
        let mut changes = pool.changes();
        if sandboxes.engine() != EngineState::Ready {
            return "the engine is not usable";
        }
        let config = sandboxes.config.get();
        let lacking = lacking(&config, &pool.members(), pool);
        if lacking.is_empty() {
            tokio::select! {
                _ = changes.changed() => {}
                // The configuration may have changed, or the engine's health.
                () = sleep(WEED_EVERY) => {}
            }
            continue;
        }
        make_way(sandboxes).await;
        let adding = lacking
            .into_iter()
            .map(|(name, template)| add(sandboxes, pool, name, template));
        let added = join_all(adding).await;
        let some = added.iter().any(Result::is_ok);
        let error = added.into_iter().find_map(|added| added.err().flatten());
        match error {
            Some(error) => {
                tracing::warn!(%error, remedy = error.remedy(), "no sandbox was started ahead");
                sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
            None if some => (pause, no_place) = (RETRY.0, None),
            None => {
                let since = no_place.get_or_insert_with(Instant::now);
                if since.elapsed() >= NO_PLACE {
                    return "there is no place here";
                }
                sleep(RETRY.0).await;
            }
        }
    }
}

/// Templates of whose pools something is missing: the emptiest first, each as often as it is to be
/// started now.
fn lacking<'a>(
    config: &'a Config,
    members: &[Member],
    pool: &dyn SharedPool,
) -> Vec<(&'a String, &'a Template)> {
    let has = |name: &String, template: &Template| {
        let stamp = pool.stamp(name, template);
        let of_it = |member: &&Member| match &member.stamp {
            Some(its) => *its == stamp,
            // One that is being started will be.
            None => member.template == *name,
        };
        members.iter().filter(of_it).count()
    };
    let templates = config.templates.iter();
    let mut pools: Vec<_> = templates.map(|(name, t)| (has(name, t), name, t)).collect();
    let mut lacking = Vec::new();
    while lacking.len() < AT_ONCE {
        let open = pools
            .iter_mut()
            .filter(|(has, _, template)| *has < template.pool);
        let Some((has, name, template)) = open.min_by_key(|(has, _, _)| *has) else {
            break;
        };
        *has += 1;
        lacking.push((*name, *template));
    }
    lacking
}

/// Start one member, bring it to its prompt and let go of it. `Err(None)` is no error: there is no place.
async fn add(
    sandboxes: &Sandboxes,
    pool: &dyn SharedPool,
    name: &str,
    template: &Template,
) -> Result<(), Option<LaunchError>> {
    let place = sandboxes.registry.reserve(SandboxId::random());
    let slot = place.map_err(|_| None)?;
    let stamp = pool.stamp(name, template);
    let warm = warm_up(sandboxes, slot, name, template, LIFETIME).await?;
    let (id, link) = (warm.sandbox.id().clone(), warm.sandbox.link.clone());
    sandboxes.pool.held.put(id.clone(), link);
    let offered = pool.offer(&id, &stamp, warm.terminal).await;
    // Offered or not: if it is not known which, somebody may have it by now. One that was not is an orphan
    // before long.
    warm.sandbox.let_go();
    Ok(offered?)
}

/// Hold a fair share of the members, so that there is one at hand for whoever comes here, until `stop`: what it
/// is taking up then is brought to its end, or nobody could have it.
async fn hold_share(sandboxes: &Sandboxes, pool: &dyn SharedPool, stop: &CancellationToken) {
    let me = pool.holder();
    while !stop.is_cancelled() {
        let mut changes = pool.changes();
        let members = pool.members();
        sandboxes.pool.held.retain(&members, &me);
        let config = sandboxes.config.get();
        let pause = if sandboxes.engine() == EngineState::Ready
            && let Some((id, stamp)) = due(&config, &members, pool)
        {
            match take_up(sandboxes, pool, &id, &stamp).await {
                Ok(()) => HOLD_EVERY,
                Err(error) => {
                    tracing::warn!(sandbox = %id, %error, remedy = error.remedy(), "not held");
                    RETRY.0
                }
            }
        } else {
            // The configuration may have changed, or the engine's health.
            let news = timeout(WEED_EVERY, changes.changed());
            stop.run_until_cancelled(news).await;
            HOLD_EVERY
        };
        stop.run_until_cancelled(sleep(pause)).await;
    }
}

/// A member, and its stamp, that should be this gateway's to hold: another holds more of its kind than both
/// would with one that has changed hands.
fn due(config: &Config, members: &[Member], pool: &dyn SharedPool) -> Option<(SandboxId, String)> {
    let me = pool.holder();
    for (name, template) in &config.templates {
        let stamp = pool.stamp(name, template);
        let mut held: BTreeMap<&str, Vec<&SandboxId>> = BTreeMap::new();
        let waiting = members
            .iter()
            .filter(|member| member.stamp.as_ref() == Some(&stamp));
        for member in waiting {
            let holder = member.holder.as_deref().unwrap_or_default();
            held.entry(holder).or_default().push(&member.id);
        }
        let mine = held.remove(me.as_str()).map_or(0, |mine| mine.len());
        let richest = held.into_values().max_by_key(Vec::len);
        if let Some(theirs) = richest
            && theirs.len() >= mine + 2
        {
            return Some((theirs[0].clone(), stamp));
        }
    }
    None
}

async fn take_up(
    sandboxes: &Sandboxes,
    pool: &dyn SharedPool,
    id: &SandboxId,
    stamp: &str,
) -> Result<(), LaunchError> {
    let Some(terminal) = pool.hold(id).await? else {
        return Ok(());
    };
    let late = Err(LaunchError::Deadline("the answer of a sandbox that waited"));
    let linked = timeout(ANSWER, sandboxes.link(id)).await.unwrap_or(late);
    let linked = linked.map(|link| sandboxes.pool.held.put(id.clone(), link.into()));
    // Without a link, too: it is no worse than it was, and counts as held. Otherwise one member after the
    // other would be taken out of a pool whose relays do not work.
    pool.offer(id, stamp, terminal).await?;
    linked
}

/// Give up what nobody will want. Never returns.
async fn weed(sandboxes: &Sandboxes, pool: &dyn SharedPool) {
    let mut ticks = interval(WEED_EVERY);
    loop {
        ticks.tick().await;
        let surplus = surplus(&sandboxes.config.get(), pool.members(), pool);
        discard(pool, surplus).await;
    }
}

/// Members that wait in vain: of a template that is not, or is another now; too old; more than are wanted.
fn surplus(config: &Config, mut members: Vec<Member>, pool: &dyn SharedPool) -> Vec<SandboxId> {
    let mut room: BTreeMap<String, usize> = config
        .templates
        .iter()
        .map(|(name, template)| (pool.stamp(name, template), template.pool))
        .collect();
    // The youngest stay.
    members.sort_by_key(|member| member.age);
    let mut in_vain = |member: &Member| {
        let Some(stamp) = &member.stamp else {
            return false;
        };
        match room.get_mut(stamp) {
            Some(left) if *left > 0 && member.age < OLDEST => {
                *left -= 1;
                false
            }
            _ => true,
        }
    };
    members.retain(|member| in_vain(member));
    members.into_iter().map(|member| member.id).collect()
}

async fn discard(pool: &dyn SharedPool, members: impl IntoIterator<Item = SandboxId>) {
    for id in members {
        match pool.discard(&id).await {
            Ok(()) => tracing::debug!(sandbox = %id, "it waited in vain"),
            Err(error) => tracing::warn!(sandbox = %id, %error, "it waits in vain, still"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use tokio::sync::watch;

    use crate::sandbox::launcher::Term;

    /// Knows what stamps are, and holds nothing.
    struct Stamps;

    #[async_trait]
    impl SharedPool for Stamps {
        fn stamp(&self, name: &str, template: &Template) -> String {
            format!("{name} of {}", template.image)
        }

        fn members(&self) -> Vec<Member> {
            Vec::new()
        }

        fn changes(&self) -> watch::Receiver<bool> {
            watch::channel(true).1
        }

        fn holder(&self) -> String {
            "me".into()
        }

        fn pick(&self, _: &str) -> Option<SandboxId> {
            None
        }

        async fn hold(&self, _: &SandboxId) -> Result<Option<u32>, LaunchError> {
            Ok(None)
        }

        async fn claim(&self, _: &SandboxId, _: &SandboxSpec) -> Result<Option<u32>, LaunchError> {
            Ok(None)
        }

        async fn offer(&self, _: &SandboxId, _: &str, _: u32) -> Result<(), LaunchError> {
            Ok(())
        }

        async fn discard(&self, _: &SandboxId) -> Result<(), LaunchError> {
            Ok(())
        }

        async fn elected(&self) -> Term {
            std::future::pending().await
        }
    }

    fn config(pools: &[(&str, usize)]) -> Config {
        let mut config = Config::defaults();
        config.templates.clear();
        for (name, pool) in pools {
            let template = Template {
                image: "new".into(),
                pool: *pool,
                ..Template::default()
            };
            config.templates.insert((*name).into(), template);
        }
        config
    }

    fn member(template: &str, image: Option<&str>, minutes: u64) -> Member {
        Member {
            id: SandboxId::random(),
            template: template.into(),
            stamp: image.map(|image| format!("{template} of {image}")),
            age: Duration::from_secs(60 * minutes),
            holder: None,
        }
    }

    #[test]
    fn whoever_holds_two_more_gives_one_away() {
        let config = config(&[("a", 3), ("b", 1)]);
        let held = |template, holder: &str| Member {
            holder: Some(holder.into()),
            ..member(template, Some("new"), 1)
        };
        let due = |members: &[Member]| due(&config, members, &Stamps).map(|(id, _)| id);
        assert_eq!(due(&[]), None);
        assert_eq!(
            due(&[held("a", "x"), held("b", "x")]),
            None,
            "of each kind one"
        );
        let rich = [held("a", "y"), held("a", "x"), held("a", "x")];
        assert_eq!(due(&rich), Some(rich[1].id.clone()));
        let fair = [held("a", "me"), held("a", "x"), held("a", "x")];
        assert_eq!(due(&fair), None);
        let orphans = [member("a", Some("new"), 1), member("a", Some("new"), 1)];
        assert!(due(&orphans).is_some(), "nobody's");
        let making = [member("a", None, 0), member("a", None, 0)];
        assert_eq!(due(&making), None);
    }

    #[test]
    fn the_emptiest_pool_is_filled_first_and_what_is_being_started_counts() {
        let config = config(&[("a", 2), ("b", 2), ("none", 0)]);
        let lacks = |members: &[Member]| -> Vec<String> {
            let lacking = lacking(&config, members, &Stamps).into_iter();
            lacking.map(|(name, _)| name.clone()).collect()
        };
        let new = |name| member(name, Some("new"), 1);
        assert_eq!(lacks(&[]), ["a", "b", "a", "b"]);
        assert_eq!(lacks(&[new("a")]), ["b", "a", "b"]);
        assert_eq!(lacks(&[new("a"), new("b"), new("b")]), ["a"]);
        // One of the template as it was is none.
        let old = member("a", Some("old"), 1);
        assert_eq!(lacks(&[new("a"), old, new("b"), new("b")]), ["a"]);
        let making = member("a", None, 0);
        assert!(lacks(&[new("a"), making, new("b"), new("b")]).is_empty());
    }

    #[test]
    fn what_nobody_will_want_is_given_up_the_oldest_first() {
        let config = config(&[("a", 2)]);
        let [young, middle, old] = [1, 2, 3].map(|age| member("a", Some("new"), age));
        let stale = member("a", Some("new"), 60);
        let changed = member("a", Some("old"), 1);
        let unknown = member("gone", Some("new"), 1);
        let making = member("gone", None, 1);
        let members = [&old, &stale, &young, &changed, &making, &unknown, &middle];
        let members = members.into_iter().cloned().collect();
        let mut given_up = surplus(&config, members, &Stamps);
        given_up.sort();
        let mut expected = [old, stale, changed, unknown].map(|member| member.id);
        expected.sort();
        assert_eq!(given_up, expected);
    }
}
