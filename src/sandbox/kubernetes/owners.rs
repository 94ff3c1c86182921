//! How many sessions an owner has at all gateways: by the labels of their pods.
//!
//! Every session is a pod, and whoever makes one counts after it is made. Of two who make the last one that
//! is allowed, the later one's list has both, so no more than are allowed are ever kept. That neither
//! is kept is avoided by an order: see [`judge`].

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use tokio::time::{Instant, sleep};

use super::super::{LaunchError, SandboxId};
use super::pod::{
    ANNOTATION_NOTE, LABEL_INSTANCE, LABEL_OWNER, LABEL_SANDBOX, LABEL_SESSION, owner_label,
};
use super::trouble::Doing;
use super::{KubernetesLauncher, call};

/// What the session of a visitor is called; programs' sandboxes have other names, and other limits.
const SESSION: &str = "sess_";

/// How long somebody who is over, or who is in the way, may take to go: removals and refusals take a
/// fraction of a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often is looked meanwhile.
const EVERY: Duration = Duration::from_millis(200);

/// Pods of an owner that are listed beyond those that are allowed: some that are over them, and some that are
/// on their way out.
const BEYOND: u32 = 500;

/// Another session of the same owner, at this gateway or at another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Other {
    id: SandboxId,
    /// Its gateway has counted, and it stays.
    stays: bool,
}

/// What is to become of one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// There are no more than are allowed.
    Keep,
    /// There are, and it is not one's own to stay.
    GiveWay,
    /// There are, and others are to go, or are going.
    Wait,
}

/// Whether a session may stay whose owner has `others` beside it.
///
/// Only who sees no more than are allowed stays. Among those who have not counted yet, the first by id may
/// wait for the others to give way, and they do so at once; so as many as are allowed stay, unless
/// a gateway is lost meanwhile.
fn judge(own: &SandboxId, others: &[Other], most: usize) -> Verdict {
    if others.len() < most {
        return Verdict::Keep;
    }
    let stay = others.iter().filter(|other| other.stays).count();
    let left = most.saturating_sub(stay);
    let before = |other: &&Other| !other.stays && other.id < *own;
    let rank = others.iter().filter(before).count();
    if left > 0 && rank >= left {
        Verdict::GiveWay
    } else {
        Verdict::Wait
    }
}

impl KubernetesLauncher {
    /// Sessions of an owner that other gateways have, as far as the watch knows.
    pub(super) fn owned_elsewhere(&self, owner: &str) -> usize {
        let Some(to) = self.connection.get() else {
            return 0;
        };
        to.known.of_owner(&owner_label(owner), &self.replica)
    }

    /// Whether a session whose pod has just been made may stay.
    pub(super) async fn stays(
        &self,
        id: &SandboxId,
        owner: &str,
        most: usize,
    ) -> Result<bool, LaunchError> {
        let to = self.connection().await?;
        let instance = &self.cluster.instance;
        let selector = format!(
            "{LABEL_INSTANCE}={instance},{LABEL_OWNER}={}",
            owner_label(owner)
        );
        let page = u32::try_from(most)
            .unwrap_or(u32::MAX)
            .saturating_add(BEYOND);
        let until = Instant::now() + PATIENCE;
        loop {
            let list = ListParams::default().labels(&selector).limit(page);
            let listed = call(Doing::List, to.pods.list(&list)).await?;
            let others: Vec<Other> = listed.iter().filter_map(session).collect();
            let others: Vec<Other> = others.into_iter().filter(|other| other.id != *id).collect();
            match judge(id, &others, most) {
                Verdict::Keep => return Ok(true),
                Verdict::GiveWay => return Ok(false),
                Verdict::Wait if Instant::now() >= until => return Ok(false),
                Verdict::Wait => sleep(EVERY).await,
            }
        }
    }
}

/// A pod that is a visitor's session, and is there to stay.
fn session(pod: &Pod) -> Option<Other> {
    let labels = pod.metadata.labels.as_ref()?;
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let over =
        pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Failed" | "Succeeded"));
    let annotations = pod.metadata.annotations.as_ref();
    (!over && is_session(labels.get(LABEL_SESSION)?)).then_some(Other {
        id: SandboxId::parse(labels.get(LABEL_SANDBOX)?)?,
        stays: annotations.is_some_and(|all| all.contains_key(ANNOTATION_NOTE)),
    })
}

/// Whether this is the label of a visitor's session.
pub(super) fn is_session(label: &str) -> bool {
    label.starts_with(SESSION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: usize) -> SandboxId {
        SandboxId::parse(&format!("{n:032x}")).unwrap()
    }

    #[test]
    fn of_two_who_want_the_last_place_the_first_by_id_waits_and_the_other_goes() {
        let undecided = |n| Other {
            id: id(n),
            stays: false,
        };
        let staying = |n| Other {
            id: id(n),
            stays: true,
        };
        assert_eq!(judge(&id(1), &[], 1), Verdict::Keep);
        assert_eq!(judge(&id(1), &[undecided(2)], 1), Verdict::Wait);
        assert_eq!(judge(&id(2), &[undecided(1)], 1), Verdict::GiveWay);
        // Somebody else has it: unless that one is about to end, there is nothing to wait for.
        assert_eq!(judge(&id(1), &[staying(2)], 1), Verdict::Wait);
        // Two places, and one of them is taken.
        let others = [staying(9), undecided(1)];
        assert_eq!(judge(&id(2), &others, 2), Verdict::GiveWay);
        assert_eq!(judge(&id(0), &others, 2), Verdict::Wait);
    }

    /// One gateway's attempt.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Step {
        Coming,
        /// Its pod is made.
        There,
        /// It has counted and stays.
        Stays,
        Gone,
    }

    proptest! {
        /// Each of some gateways makes one session of one owner; makes and counts come in any order. Never
        /// more stay than may, and as many as may do.
        #[test]
        fn exactly_as_many_stay_as_may(
            most in 1usize..4,
            ids in proptest::sample::subsequence((0..12usize).collect::<Vec<_>>(), 1..8).prop_shuffle(),
            order in proptest::collection::vec(0usize..8, 200),
        ) {
            let mut steps = vec![Step::Coming; ids.len()];
            // At last everybody has had enough turns.
            let turns = order.into_iter().chain((0..ids.len() * 40).map(|n| n % ids.len()));
            for at in turns.map(|at| at % ids.len()) {
                steps[at] = match steps[at] {
                    Step::Coming => Step::There,
                    Step::There => {
                        let others: Vec<Other> = (0..ids.len())
                            .filter(|other| *other != at)
                            .filter(|other| matches!(steps[*other], Step::There | Step::Stays))
                            .map(|other| Other { id: id(ids[other]), stays: steps[other] == Step::Stays })
                            .collect();
                        match judge(&id(ids[at]), &others, most) {
                            Verdict::Keep => Step::Stays,
                            Verdict::GiveWay => Step::Gone,
                            Verdict::Wait => Step::There,
                        }
                    }
                    done => done,
                };
                let stay = steps.iter().filter(|step| **step == Step::Stays).count();
                prop_assert!(stay <= most, "{stay} of {most} stay");
            }
            let stay = steps.iter().filter(|step| **step == Step::Stays).count();
            prop_assert_eq!(stay, most.min(ids.len()), "{:?}", steps);
        }
    }
}
