//! Where a pod is in its life, as its status says it.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus};

use super::trouble::Stuck;

/// Where a pod is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// It will run.
    Pending,
    Running,
    /// It will not run as things are.
    Stuck(Stuck),
    Finished {
        /// Its memory limit was reached.
        oom: bool,
        why: String,
    },
}

impl Stage {
    /// By its status.
    pub(super) fn of(status: Option<&PodStatus>) -> Self {
        let Some(status) = status else {
            return Self::Pending;
        };
        let containers = || status.container_statuses.iter().flatten();
        if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
            return finished(status);
        }
        // A moment before the phase says so.
        if containers().any(|c| terminated(c).is_some()) {
            return finished(status);
        }
        let runs = |c: &ContainerStatus| c.state.as_ref().is_some_and(|s| s.running.is_some());
        if containers().next().is_some() && containers().all(runs) {
            return Self::Running;
        }
        let of_all = status
            .init_container_statuses
            .iter()
            .flatten()
            .chain(containers());
        for container in of_all {
            let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref());
            let Some(waiting) = waiting else { continue };
            let reason = waiting.reason.as_deref().unwrap_or_default();
            let message = waiting.message.as_deref().unwrap_or_default();
            if let Some(stuck) = Stuck::waiting(reason, message, &container.image) {
                return Self::Stuck(stuck);
            }
        }
        let conditions = status.conditions.iter().flatten();
        for condition in conditions {
            let unschedulable = condition.type_ == "PodScheduled"
                && condition.status == "False"
                && condition.reason.as_deref() == Some("Unschedulable");
            if unschedulable {
                let message = condition.message.clone().unwrap_or_default();
                return Self::Stuck(Stuck::Unschedulable(message));
            }
        }
        Self::Pending
    }
}

fn terminated(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.state.as_ref()?.terminated.as_ref()
}

fn finished(status: &PodStatus) -> Stage {
    let containers = status.container_statuses.iter().flatten();
    let containers = containers.chain(status.init_container_statuses.iter().flatten());
    let ends: Vec<_> = containers.filter_map(terminated).collect();
    let oom = ends
        .iter()
        .any(|end| end.reason.as_deref() == Some("OOMKilled"));
    // The first that did not end well says most.
    let end = ends.iter().find(|end| end.exit_code != 0).or(ends.first());
    let why = match (end, &status.reason) {
        (_, Some(reason)) => {
            let message = status.message.as_deref().unwrap_or_default();
            format!("its pod has failed: {reason} {message}")
                .trim_end()
                .to_owned()
        }
        (Some(end), None) => {
            let reason = end.reason.as_deref().unwrap_or("unknown");
            let message = end.message.as_deref().unwrap_or_default();
            let code = end.exit_code;
            format!("a container ended with code {code}: {reason} {message}")
                .trim_end()
                .to_owned()
        }
        (None, None) => "its pod has ended".to_owned(),
    };
    Stage::Finished { oom, why }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn stage_of(status: Value) -> Stage {
        let status: PodStatus = serde_json::from_value(status).unwrap();
        Stage::of(Some(&status))
    }

    fn container(state: &Value) -> Value {
        json!({"name": "sandbox", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state})
    }

    #[test]
    fn a_pod_that_cannot_run_is_known_at_once() {
        assert_eq!(stage_of(json!({"phase": "Pending"})), Stage::Pending);
        let creating = container(&json!({"waiting": {"reason": "ContainerCreating"}}));
        let pending = json!({"phase": "Pending", "containerStatuses": [creating]});
        assert_eq!(stage_of(pending), Stage::Pending);
        for reason in ["ErrImagePull", "ImagePullBackOff", "CreateContainerError"] {
            let waiting = container(&json!({"waiting": {"reason": reason, "message": "no such"}}));
            let stuck = json!({"phase": "Pending", "initContainerStatuses": [waiting]});
            assert!(matches!(stage_of(stuck), Stage::Stuck(_)), "{reason}");
        }
        let full = json!({"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient cpu."
        }]});
        let Stage::Stuck(stuck) = stage_of(full) else {
            panic!("it is stuck");
        };
        let text = stuck.explain("image").to_string();
        assert!(text.contains("Insufficient cpu"), "{text}");
    }

    #[test]
    fn a_pod_that_has_ended_says_why() {
        let running = container(&json!({"running": {}}));
        let status = json!({"phase": "Running", "containerStatuses": [running]});
        assert_eq!(stage_of(status), Stage::Running);
        let oom = container(&json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}));
        for phase in ["Running", "Failed"] {
            let status = json!({"phase": phase, "containerStatuses": [oom]});
            assert!(matches!(
                stage_of(status),
                Stage::Finished { oom: true, .. }
            ));
        }
        let late = json!({"phase": "Failed", "reason": "DeadlineExceeded", "message": "too long"});
        let Stage::Finished { oom: false, why } = stage_of(late) else {
            panic!("it has finished");
        };
        assert_eq!(why, "its pod has failed: DeadlineExceeded too long");
    }
}
