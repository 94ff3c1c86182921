//! What is known of the pods, by a watch: nothing is polled.
//!
//! Not kube's own store, which keeps whole pods and finds them by name only. Of a pod a few words are
//! kept, and a session's is found at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::super::SandboxId;
use super::super::launcher::Member;
use super::owners::is_session;
use super::pod::{
    ANNOTATION_HOLDER, ANNOTATION_NOTE, ANNOTATION_TERMINAL, LABEL_BOOT, LABEL_OWNER, LABEL_POOL,
    LABEL_REPLICA, LABEL_SANDBOX, LABEL_SESSION, LABEL_TEMPLATE, label_value,
};
use super::stage::Stage;

/// What has finished is left to its own gateway for so long, which may want to know why.
const OTHERS: Duration = Duration::from_secs(60);

/// A member of the pool is at its prompt after so long, or it never will be: its maker is gone. It takes
/// seconds, and is given up after a minute.
const MAKING_TAKES: Duration = Duration::from_secs(120);

/// Longest pause before a watch that failed is begun anew. Kube's own is 30 s, for which no session could
/// begin though the API server was back.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Kube's pauses, as far as they are no longer than that.
#[derive(Default)]
struct Pauses(DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.next()?.min(LONGEST_PAUSE))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// What is known of one pod.
#[derive(Debug)]
struct Known {
    stage: Stage,
    session: String,
    owner: String,
    replica: String,
    boot: String,
    /// Whether a gateway could take it back.
    noted: bool,
    /// When it was first seen to have finished.
    finished: Option<SystemTime>,
    /// While nobody has claimed it that was started ahead.
    spare: Option<Spare>,
}

/// A member of the pool.
#[derive(Debug)]
struct Spare {
    template: String,
    /// What it was started from, and its main terminal, once it waits there.
    waits: Option<(String, u32)>,
    created: SystemTime,
    /// Since when it waits, or does not.
    since: SystemTime,
    /// The gateway that has a link to it.
    holder: Option<String>,
    /// The pod as it is known here: whoever claims it says so, and is refused if it has changed.
    version: String,
    /// This gateway has tried to claim it, and has not heard of it since.
    picked: bool,
}

impl Spare {
    /// `before` is what was known of it.
    fn of(pod: &Pod, before: Option<&Self>) -> Option<Self> {
        let meta = &pod.metadata;
        let labels = meta.labels.as_ref()?;
        let stamp = labels.get(LABEL_POOL)?;
        let annotations = meta.annotations.as_ref();
        let terminal = annotations.and_then(|all| all.get(ANNOTATION_TERMINAL)?.parse().ok());
        let created = meta.creation_timestamp.as_ref();
        let created = created.map_or_else(SystemTime::now, |time| time.0.into());
        // A member that is being made, or taken up, has no terminal yet.
        let waits = terminal.map(|terminal| (stamp.clone(), terminal));
        let holder = annotations.and_then(|all| all.get(ANNOTATION_HOLDER).cloned());
        let since = match before {
            Some(before) if before.waits.is_some() == waits.is_some() => before.since,
            None if holder.is_none() => created,
            // It has just changed, or is being taken up.
            _ => SystemTime::now(),
        };
        Some(Self {
            template: labels.get(LABEL_TEMPLATE).cloned().unwrap_or_default(),
            waits,
            created,
            since,
            holder,
            version: meta.resource_version.clone().unwrap_or_default(),
            picked: false,
        })
    }

    /// By the API server's clock, and ours: whatever they differ in, members live an hour.
    fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.created).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct State {
    pods: HashMap<SandboxId, Known>,
    of_sessions: HashMap<String, SandboxId>,
    /// While everything is listed anew: what has been listed so far.
    listed: Option<HashMap<SandboxId, Known>>,
    /// Why the watch does not work at the moment.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Rung with every change; true once everything has been listed.
    changed: watch::Sender<bool>,
}

/// The pods of one instance, and the task that watches them.
#[derive(Debug)]
pub(super) struct Pods {
    shared: Arc<Shared>,
    watch: AbortHandle,
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Pods {
    /// Watch the pods with these labels from now on.
    pub(super) fn watch(pods: Api<Pod>, labels: &str) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(false),
        });
        let config = watcher::Config::default().labels(labels);
        let events = watcher(pods, config).backoff(Pauses::default());
        let watching = {
            let shared = shared.clone();
            async move {
                let mut events = events.boxed();
                // It never ends by itself: what goes wrong is tried again.
                while let Some(event) = events.next().await {
                    match event {
                        Ok(event) => shared.apply(event),
                        Err(error) => shared.fail(&error),
                    }
                }
            }
        };
        Self {
            shared,
            watch: tokio::spawn(watching).abort_handle(),
        }
    }

    /// Resolves once everything has been listed.
    pub(super) async fn synced(&self) {
        let mut changed = self.shared.changed.subscribe();
        if changed.wait_for(|synced| *synced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Why the watch does not work.
    pub(super) fn trouble(&self) -> String {
        let trouble = self.shared.state().trouble.clone();
        trouble.unwrap_or_else(|| "no answer".into())
    }

    /// Changes whenever a pod does. To be taken before a pod is looked at.
    pub(super) fn changes(&self) -> watch::Receiver<bool> {
        self.shared.changed.subscribe()
    }

    pub(super) fn stage(&self, id: &SandboxId) -> Option<Stage> {
        Some(self.shared.state().pods.get(id)?.stage.clone())
    }

    /// The sandbox of a session that could be taken back.
    pub(super) fn of_session(&self, session: &str) -> Option<SandboxId> {
        let state = self.shared.state();
        let id = state.of_sessions.get(session)?;
        let known = state.pods.get(id)?;
        (known.noted && known.stage == Stage::Running).then(|| id.clone())
    }

    /// What earlier starts of a gateway have left that could be taken back.
    pub(super) fn left_by(&self, replica: &str, boot: &str) -> Vec<SandboxId> {
        let left = |known: &Known| {
            let earlier = known.replica == replica && known.boot != boot;
            earlier && known.noted && known.stage == Stage::Running
        };
        self.shared.those(left)
    }

    /// What a gateway may remove unless it knows it: its own that nobody can come back to, and what has
    /// finished. A session of another gateway, or one whose gateway is gone, is nobody's orphan: its
    /// agent ends it in time.
    pub(super) fn removable_by(&self, replica: &str) -> Vec<SandboxId> {
        let now = SystemTime::now();
        self.shared.those(|known| {
            let own = known.replica == replica;
            match (known.finished, &known.spare) {
                (Some(since), _) => own || now.duration_since(since).is_ok_and(|ago| ago > OTHERS),
                (None, Some(spare)) => {
                    let since = now.duration_since(spare.since).unwrap_or_default();
                    spare.waits.is_none() && since > MAKING_TAKES
                }
                (None, None) => own && !known.noted,
            }
        })
    }

    /// Sessions of an owner that are another gateway's.
    pub(super) fn of_owner(&self, owner: &str, replica: &str) -> usize {
        let live = |known: &Known| matches!(known.stage, Stage::Pending | Stage::Running);
        let theirs = |known: &Known| known.owner == owner && known.replica != replica;
        let of_owner = |known: &Known| theirs(known) && live(known) && is_session(&known.session);
        self.shared.those(of_owner).len()
    }

    /// Every member of the pool that waits, or is about to.
    pub(super) fn members(&self) -> Vec<Member> {
        let now = SystemTime::now();
        let state = self.shared.state();
        let member = |(id, known): (&SandboxId, &Known)| {
            let spare = known.spare.as_ref()?;
            matches!(known.stage, Stage::Pending | Stage::Running).then(|| Member {
                id: id.clone(),
                template: spare.template.clone(),
                stamp: spare.waits.as_ref().map(|(stamp, _)| stamp.clone()),
                age: spare.age(now),
                holder: spare.holder.clone(),
            })
        };
        state.pods.iter().filter_map(member).collect()
    }

    /// A member that waits with this stamp, and that `holder` holds if there is one. No other caller gets
    /// it before there is news of it. Not the oldest: all gateways would try the same one, and all but one
    /// in vain.
    pub(super) fn pick(&self, stamp: &str, holder: &str) -> Option<SandboxId> {
        let mut state = self.shared.state();
        // In the order of a hash that every process has of its own.
        let waiting = state.pods.iter_mut().filter_map(|(id, known)| {
            let spare = known.spare.as_mut()?;
            let fits = spare.waits.as_ref().is_some_and(|(its, _)| its == stamp);
            (fits && !spare.picked && known.stage == Stage::Running).then_some((id, spare))
        });
        let (id, spare) =
            waiting.min_by_key(|(_, spare)| spare.holder.as_deref() != Some(holder))?;
        spare.picked = true;
        Some(id.clone())
    }

    /// What became of it is not known: it may be picked again.
    pub(super) fn unpick(&self, id: &SandboxId) {
        let mut state = self.shared.state();
        let spare = state.pods.get_mut(id).and_then(|k| k.spare.as_mut());
        if let Some(spare) = spare {
            spare.picked = false;
        }
    }

    /// The version and the main terminal of a member that waits.
    pub(super) fn waiting(&self, id: &SandboxId) -> Option<(String, u32)> {
        let state = self.shared.state();
        let spare = state.pods.get(id)?.spare.as_ref()?;
        let (_, terminal) = spare.waits.as_ref()?;
        Some((spare.version.clone(), *terminal))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that could panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn those(&self, which: impl Fn(&Known) -> bool) -> Vec<SandboxId> {
        let state = self.state();
        let found = state.pods.iter().filter(|(_, known)| which(known));
        found.map(|(id, _)| id.clone()).collect()
    }

    fn apply(&self, event: Event<Pod>) {
        let mut state = self.state();
        let mut synced = *self.changed.borrow();
        match event {
            Event::Init => state.listed = Some(HashMap::new()),
            Event::InitApply(pod) => {
                if let Some((id, known)) = known(&pod, &state.pods)
                    && let Some(listed) = &mut state.listed
                {
                    listed.insert(id, known);
                }
            }
            Event::InitDone => {
                if let Some(listed) = state.listed.take() {
                    let sessions = listed.iter().filter(|(_, known)| !known.session.is_empty());
                    state.of_sessions = sessions
                        .map(|(id, known)| (known.session.clone(), id.clone()))
                        .collect();
                    state.pods = listed;
                }
                if state.trouble.take().is_some() {
                    tracing::info!("the pods are watched again");
                }
                synced = true;
            }
            Event::Apply(pod) => {
                if let Some((id, known)) = known(&pod, &state.pods) {
                    state.put(id, known);
                }
            }
            Event::Delete(pod) => {
                if let Some(id) = id(&pod) {
                    state.remove(&id);
                }
            }
        }
        drop(state);
        self.changed.send_replace(synced);
    }

    fn fail(&self, error: &watcher::Error) {
        let text = error.to_string();
        let mut state = self.state();
        if state.trouble.is_none() {
            tracing::warn!(error = text, "the pods cannot be watched; trying on");
        }
        state.trouble = Some(text);
    }
}

impl State {
    fn put(&mut self, id: SandboxId, known: Known) {
        let session = known.session.clone();
        if let Some(before) = self.pods.insert(id.clone(), known)
            && before.session != session
        {
            self.of_sessions.remove(&before.session);
        }
        if !session.is_empty() {
            self.of_sessions.insert(session, id);
        }
    }

    fn remove(&mut self, id: &SandboxId) {
        let Some(gone) = self.pods.remove(id) else {
            return;
        };
        if self.of_sessions.get(&gone.session) == Some(id) {
            self.of_sessions.remove(&gone.session);
        }
    }
}

/// The sandbox that a pod is; `None` if it is none of ours.
fn id(pod: &Pod) -> Option<SandboxId> {
    SandboxId::parse(pod.metadata.labels.as_ref()?.get(LABEL_SANDBOX)?)
}

/// What there is to know of a pod of ours, where so much is known of all before.
fn known(pod: &Pod, before: &HashMap<SandboxId, Known>) -> Option<(SandboxId, Known)> {
    let id = id(pod)?;
    let before = before.get(&id);
    let label = |name: &str| -> Option<&String> { pod.metadata.labels.as_ref()?.get(name) };
    let text = |name| label(name).cloned().unwrap_or_default();
    let stage = if pod.metadata.deletion_timestamp.is_some() {
        Stage::Finished {
            oom: false,
            why: "its pod is being removed".into(),
        }
    } else {
        Stage::of(pod.status.as_ref())
    };
    let over = matches!(stage, Stage::Finished { .. });
    let annotations = pod.metadata.annotations.as_ref();
    let known = Known {
        session: label_value(&text(LABEL_SESSION)),
        owner: text(LABEL_OWNER),
        replica: text(LABEL_REPLICA),
        boot: text(LABEL_BOOT),
        noted: annotations.is_some_and(|all| all.contains_key(ANNOTATION_NOTE)),
        finished: over.then(|| {
            let finished = before.and_then(|before| before.finished);
            finished.unwrap_or_else(SystemTime::now)
        }),
        spare: Spare::of(pod, before.and_then(|before| before.spare.as_ref())),
        stage,
    };
    Some((id, known))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shared() -> Shared {
        Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(false),
        }
    }

    fn pod(id: &SandboxId, session: &str, replica: &str, noted: bool) -> Pod {
        let annotations = if noted {
            json!({ANNOTATION_NOTE: "{}"})
        } else {
            json!({})
        };
        let pod = json!({
            "metadata": {
                "labels": {LABEL_SANDBOX: id.as_str(), LABEL_SESSION: session,
                    LABEL_REPLICA: replica, LABEL_BOOT: "1"},
                "annotations": annotations,
            },
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "sandbox", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {}},
            }]},
        });
        serde_json::from_value(pod).unwrap()
    }

    #[tokio::test]
    async fn sessions_of_others_are_found_and_are_nobodys_orphans() {
        let shared = Arc::new(shared());
        let known = Pods {
            shared: shared.clone(),
            watch: tokio::spawn(async {}).abort_handle(),
        };
        let (one, other) = (SandboxId::random(), SandboxId::random());
        shared.apply(Event::Init);
        shared.apply(Event::InitApply(pod(&one, "sess_1", "a", true)));
        assert_eq!(
            known.of_session("sess_1"),
            None,
            "not before all are listed"
        );
        shared.apply(Event::InitDone);
        known.synced().await;
        assert_eq!(known.of_session("sess_1").as_ref(), Some(&one));
        shared.apply(Event::Apply(pod(&other, "pool", "a", false)));
        assert_eq!(known.removable_by("a"), std::slice::from_ref(&other));
        assert!(known.removable_by("b").is_empty());
        assert_eq!(known.left_by("a", "2"), std::slice::from_ref(&one));
        assert!(known.left_by("a", "1").is_empty(), "in use");

        // A member of a pool is given to a session.
        shared.apply(Event::Apply(pod(&other, "sess_2", "a", true)));
        assert_eq!(known.of_session("sess_2").as_ref(), Some(&other));
        assert_eq!(known.of_session("pool"), None);
        shared.apply(Event::Delete(pod(&other, "sess_2", "a", true)));
        assert_eq!(known.of_session("sess_2"), None);

        // Listed anew, what is not there any more is gone.
        shared.apply(Event::Init);
        assert_eq!(known.of_session("sess_1").as_ref(), Some(&one), "meanwhile");
        shared.apply(Event::InitDone);
        assert_eq!(known.of_session("sess_1"), None);
    }

    fn spare(id: &SandboxId, pool: Option<&str>, terminal: Option<&str>, version: &str) -> Pod {
        let mut spare = pod(id, "pool", "a", false);
        let created = serde_json::from_value(json!("2020-01-01T00:00:00Z")).unwrap();
        spare.metadata.creation_timestamp = Some(created);
        spare.metadata.resource_version = Some(version.into());
        let pool = pool.map(|stamp| (LABEL_POOL.to_owned(), stamp.to_owned()));
        spare.metadata.labels.as_mut().unwrap().extend(pool);
        let terminal = terminal.map(|it| (ANNOTATION_TERMINAL.to_owned(), it.to_owned()));
        spare
            .metadata
            .annotations
            .as_mut()
            .unwrap()
            .extend(terminal);
        spare
    }

    #[tokio::test]
    async fn a_member_is_picked_once_until_there_is_news_of_it() {
        let shared = Arc::new(shared());
        let known = Pods {
            shared: shared.clone(),
            watch: tokio::spawn(async {}).abort_handle(),
        };
        let id = SandboxId::random();
        shared.apply(Event::Apply(spare(&id, Some("making"), None, "1")));
        assert_eq!(known.pick("making", "me"), None, "it is not at its prompt");
        assert_eq!(known.members()[0].stamp, None);
        assert_eq!(
            known.removable_by("b"),
            std::slice::from_ref(&id),
            "since 2020"
        );
        shared.apply(Event::Apply(spare(&id, Some("s"), Some("3"), "2")));
        assert!(known.removable_by("a").is_empty(), "it waits, for anybody");
        assert_eq!(known.pick("other", "me"), None);
        assert_eq!(known.pick("s", "me").as_ref(), Some(&id));
        assert_eq!(known.waiting(&id), Some(("2".to_owned(), 3)));
        assert_eq!(known.pick("s", "me"), None, "picked already");
        known.unpick(&id);
        assert_eq!(known.pick("s", "me").as_ref(), Some(&id));
        // One that this gateway holds comes first.
        let mine = SandboxId::random();
        let mut held = spare(&mine, Some("s"), Some("3"), "7");
        let holder = (ANNOTATION_HOLDER.to_owned(), "me".to_owned());
        held.metadata.annotations.as_mut().unwrap().extend([holder]);
        shared.apply(Event::Apply(held));
        assert_eq!(known.pick("s", "me").as_ref(), Some(&mine));
        // Taken over by another gateway: not to be claimed meanwhile, and not left over for that.
        shared.apply(Event::Apply(spare(&mine, Some("making"), None, "8")));
        assert_eq!(known.waiting(&mine), None);
        assert!(known.removable_by("b").is_empty(), "since a moment");
        shared.apply(Event::Delete(spare(&mine, Some("making"), None, "8")));
        // The kubelet had something to say.
        shared.apply(Event::Apply(spare(&id, Some("s"), Some("3"), "3")));
        assert_eq!(known.pick("s", "me").as_ref(), Some(&id));
        // Claimed by another gateway.
        shared.apply(Event::Apply(spare(&id, None, None, "4")));
        assert_eq!((known.pick("s", "me"), known.waiting(&id)), (None, None));
        assert!(known.members().is_empty());
    }
}
