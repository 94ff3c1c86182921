//! The cluster on which sandboxes are pods.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A Kubernetes cluster.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct Kubernetes {
    /// The namespace of the sandboxes' pods, which holds nothing else.
    pub namespace: String,
    /// The `RuntimeClass` that is gVisor's.
    pub runtime_class: String,
    /// How the cluster is reached. By default as `kubectl` does, else as a pod of it.
    pub kubeconfig: Option<PathBuf>,
    /// The image that brings `belljar-agent` into every pod.
    pub agent_image: String,
    /// Refuse to hand out sandboxes until one was seen to run on gVisor. May be switched off on a
    /// loopback address only.
    pub require_gvisor: bool,
    /// Gateways of one instance serve the same sessions; those of others leave them alone.
    pub instance: String,
    /// This gateway's name among those of its instance. By default the host's, which is its pod's.
    pub replica: Option<String>,
    /// A file with the secret that gateways of one instance share, 32 bytes or more. Without it, a
    /// session ends with its gateway.
    pub token_key_file: Option<PathBuf>,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            namespace: "belljar-sandboxes".into(),
            runtime_class: "gvisor".into(),
            kubeconfig: None,
            agent_image: "belljar-agent:latest".into(),
            require_gvisor: true,
            instance: "belljar".into(),
            replica: None,
            token_key_file: None,
        }
    }
}

impl Kubernetes {
    /// What is wrong: `(key, message)`.
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut check = |field: &str, ok: bool, message: &str| {
            if !ok {
                wrong.push((format!("kubernetes.{field}"), message.to_owned()));
            }
        };
        let name = "must be 1 to 63 lower-case letters, digits or hyphens, and begin and end with a \
                    letter or digit";
        check("namespace", is_name(&self.namespace, 63), name);
        check("instance", is_name(&self.instance, 63), name);
        if let Some(replica) = &self.replica {
            check("replica", is_name(replica, 63), name);
        }
        check(
            "runtime_class",
            is_name(&self.runtime_class, 253),
            "must be the name of a RuntimeClass",
        );
        check(
            "agent_image",
            !self.agent_image.is_empty(),
            "must not be empty",
        );
        wrong
    }
}

/// Whether the cluster takes this as a name and as a label's value. Dots, which some may have, are left
/// to those who name runtime classes.
fn is_name(text: &str, most: usize) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=most).contains(&text.len())
        && text
            .bytes()
            .all(|b| edge(b) || b == b'-' || (most > 63 && b == b'.'))
        && text.bytes().next().is_some_and(edge)
        && text.bytes().last().is_some_and(edge)
}
