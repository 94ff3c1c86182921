//! Which gateway fills the pool: one at a time, by a Lease.
//!
//! By hand, because the crates that do this judge by the clocks of two machines. Whether a holder is gone is
//! judged here as Kubernetes' own controllers do it: by how long this gateway, by its own clock, has
//! not seen the lease change.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::super::LaunchError;
use super::super::launcher::Term;
use super::trouble::Doing;
use super::{call, in_time};

/// A holder that has not renewed its lease for so long is gone.
const DURATION: Duration = Duration::from_secs(15);

/// How long a holder who cannot renew believes itself to be one: less than the others do, by more than a call takes.
const BELIEF: Duration = Duration::from_secs(10);

/// How often the holder renews it, and the others look.
const EVERY: Duration = Duration::from_secs(3);

/// The office of filling the pool, and who runs for it.
#[derive(Debug, Clone)]
pub(super) struct Office {
    pub(super) leases: Api<Lease>,
    /// The lease's name: the instance's.
    pub(super) name: String,
    /// Who this is: no other process, not even an earlier one of the same replica.
    pub(super) holder: String,
}

/// The lease as it was when it was last seen to change.
#[derive(Debug)]
struct Seen {
    version: Option<String>,
    at: Instant,
}

/// What a look at the lease says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// This gateway holds it.
    Held,
    /// It may be taken.
    Free,
    /// Another gateway holds it.
    Taken,
}

impl Office {
    /// Resolves when this gateway holds it. It is renewed until it is lost, or given up.
    pub(super) async fn win(self) -> Term {
        let mut seen = None;
        let mut refused = false;
        loop {
            let asked = Instant::now();
            match self.run(&mut seen).await {
                Ok(true) => {
                    let (lost, over) = (CancellationToken::new(), CancellationToken::new());
                    let term = Term::new(lost.clone(), over.clone());
                    tokio::spawn(async move {
                        let _lost = lost.drop_guard();
                        self.serve(asked, over).await;
                    });
                    return term;
                }
                Ok(false) => refused = false,
                Err(error) => {
                    if !std::mem::replace(&mut refused, true) {
                        let remedy = error.remedy();
                        tracing::warn!(%error, remedy, "nobody may be filling the pools; trying on");
                    }
                }
            }
            sleep(EVERY).await;
        }
    }

    /// Renew it until it is lost or given up.
    async fn serve(&self, mut renewed: Instant, over: CancellationToken) {
        let mut seen = None;
        while !over.is_cancelled() {
            tokio::select! {
                () = sleep(EVERY) => {}
                () = over.cancelled() => break,
            }
            let asked = Instant::now();
            let renewing = tokio::time::timeout_at(renewed + BELIEF, self.run(&mut seen)).await;
            match renewing {
                Ok(Ok(true)) => renewed = asked,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the lease was not renewed");
                    if renewed.elapsed() >= BELIEF {
                        return;
                    }
                }
                // Another has it, or it is too late to be sure.
                Ok(Ok(false)) | Err(_) => return,
            }
        }
        if let Err(error) = self.give_up().await {
            tracing::debug!(%error, "the lease was not given up: it ends by itself");
        }
    }

    /// Take the lease, or renew it, if it may be: true if it is held now.
    async fn run(&self, seen: &mut Option<Seen>) -> Result<bool, LaunchError> {
        let Some(lease) = call(Doing::Lease, self.leases.get_opt(&self.name)).await? else {
            return self.create().await;
        };
        let version = lease.metadata.resource_version.clone();
        let now = Instant::now();
        if seen.as_ref().is_none_or(|seen| seen.version != version) {
            *seen = Some(Seen {
                version: version.clone(),
                at: now,
            });
        }
        let since = seen.as_ref().map_or(now, |seen| seen.at);
        let standing = standing(lease.spec.as_ref(), &self.holder, now - since);
        let spec = match standing {
            Standing::Taken => return Ok(false),
            Standing::Held => json!({"renewTime": MicroTime(Timestamp::now())}),
            Standing::Free => {
                let before = lease.spec.and_then(|spec| spec.lease_transitions);
                let mut spec = json!(self.spec());
                spec["leaseTransitions"] = json!(before.unwrap_or(0).saturating_add(1));
                spec
            }
        };
        self.patch(version, spec).await
    }

    fn spec(&self) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }

    async fn create(&self) -> Result<bool, LaunchError> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec()),
        };
        let parameters = PostParams::default();
        let created = async { in_time(self.leases.create(&parameters, &lease).await) };
        call(Doing::Lease, created).await
    }

    /// Nobody's if it is not of this version any more: false.
    async fn patch(
        &self,
        version: Option<String>,
        spec: serde_json::Value,
    ) -> Result<bool, LaunchError> {
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "spec": spec}));
        let parameters = PatchParams::default();
        let patched = async { in_time(self.leases.patch(&self.name, &parameters, &patch).await) };
        call(Doing::Lease, patched).await
    }

    /// Let another gateway have it at once.
    async fn give_up(&self) -> Result<(), LaunchError> {
        let lease = call(Doing::Lease, self.leases.get_opt(&self.name)).await?;
        let holds = |spec: &LeaseSpec| spec.holder_identity.as_ref() == Some(&self.holder);
        if let Some(lease) = lease.filter(|lease| lease.spec.as_ref().is_some_and(holds)) {
            let nobody = json!({"holderIdentity": null});
            self.patch(lease.metadata.resource_version, nobody).await?;
        }
        Ok(())
    }
}

/// Whose it is, if it has not changed for so long.
fn standing(spec: Option<&LeaseSpec>, holder: &str, unchanged: Duration) -> Standing {
    match spec.and_then(|spec| spec.holder_identity.as_deref()) {
        None | Some("") => Standing::Free,
        Some(it) if it == holder => Standing::Held,
        // Ours, whatever the lease says: gateways of one instance have the same.
        Some(_) if unchanged >= DURATION => Standing::Free,
        Some(_) => Standing::Taken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_silent_for_long_loses_it() {
        let of = |holder: &str| LeaseSpec {
            holder_identity: Some(holder.into()),
            ..LeaseSpec::default()
        };
        let now = Duration::ZERO;
        assert_eq!(standing(None, "me", now), Standing::Free);
        assert_eq!(standing(Some(&of("")), "me", now), Standing::Free);
        assert_eq!(standing(Some(&of("me")), "me", DURATION), Standing::Held);
        assert_eq!(standing(Some(&of("you")), "me", now), Standing::Taken);
        assert_eq!(
            standing(Some(&of("you")), "me", DURATION / 2),
            Standing::Taken
        );
        assert_eq!(standing(Some(&of("you")), "me", DURATION), Standing::Free);
        // Whoever holds it stops believing so before anyone else may take it.
        assert!(BELIEF + EVERY < DURATION);
    }
}
