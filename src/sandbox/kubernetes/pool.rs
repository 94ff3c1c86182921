//! The pool as the cluster keeps it: pods with a label, each claimed by a patch that only one can make.

use async_trait::async_trait;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::super::launcher::{Member, SharedPool, Term};
use super::super::{LaunchError, SandboxId, SandboxSpec};
use super::lease::Office;
use super::pod::{
    ANNOTATION_EXPIRES, ANNOTATION_HOLDER, ANNOTATION_OWNER, ANNOTATION_TERMINAL, LABEL_BOOT,
    LABEL_OWNER, LABEL_POOL, LABEL_REPLICA, LABEL_SESSION, MAKING, label_value, owner_label,
    pod_name,
};
use super::trouble::Doing;
use super::{Connection, KubernetesLauncher, call, in_time};
use crate::config::Template;
use crate::secret::hex;

impl KubernetesLauncher {
    /// The connection that made the pool known.
    fn pool_connection(&self) -> &Connection {
        let connection = self.connection.get();
        connection.expect("there is no pool before there is a connection")
    }

    /// Change a member that is as it is known here; false if it is not so any more.
    async fn change(&self, id: &SandboxId, metadata: Value) -> Result<bool, LaunchError> {
        let to = self.pool_connection();
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let (name, parameters) = (pod_name(id), PatchParams::default());
        let patched = async { in_time(to.pods.patch_metadata(&name, &parameters, &patch).await) };
        call(Doing::Patch, patched).await
    }
}

#[async_trait]
impl SharedPool for KubernetesLauncher {
    fn stamp(&self, name: &str, template: &Template) -> String {
        let mut template = template.clone();
        // How many there are to be says nothing of what they are.
        template.pool = 0;
        let cluster = &self.cluster;
        let from = json!([name, template, cluster.runtime_class, cluster.agent_image]);
        let hash = Sha256::digest(from.to_string().as_bytes());
        hex(&hash[..16])
    }

    fn members(&self) -> Vec<Member> {
        self.pool_connection().known.members()
    }

    fn changes(&self) -> watch::Receiver<bool> {
        self.pool_connection().known.changes()
    }

    fn pick(&self, stamp: &str) -> Option<SandboxId> {
        self.pool_connection().known.pick(stamp, &self.holder())
    }

    fn holder(&self) -> String {
        format!("{}-{}", self.replica, self.boot)
    }

    async fn claim(&self, id: &SandboxId, spec: &SandboxSpec) -> Result<Option<u32>, LaunchError> {
        let to = self.pool_connection();
        let Some((version, terminal)) = to.known.waiting(id) else {
            return Ok(None);
        };
        let expires = humantime::format_rfc3339_seconds(spec.expires_at).to_string();
        let claim = json!({
            // Whoever is second is refused: 409.
            "resourceVersion": version,
            "labels": {
                LABEL_POOL: null,
                LABEL_SESSION: label_value(&spec.session),
                LABEL_OWNER: owner_label(&spec.owner),
                LABEL_REPLICA: self.replica,
                LABEL_BOOT: self.boot,
            },
            "annotations": {
                ANNOTATION_TERMINAL: null,
                ANNOTATION_HOLDER: null,
                ANNOTATION_OWNER: spec.owner,
                ANNOTATION_EXPIRES: expires,
            },
        });
        let claimed = self.change(id, claim).await;
        let claimed = claimed.inspect_err(|_| to.known.unpick(id))?;
        Ok(claimed.then_some(terminal))
    }

    async fn hold(&self, id: &SandboxId) -> Result<Option<u32>, LaunchError> {
        let Some((version, terminal)) = self.pool_connection().known.waiting(id) else {
            return Ok(None);
        };
        let hold = json!({
            "resourceVersion": version,
            "labels": {LABEL_POOL: MAKING},
            "annotations": {ANNOTATION_TERMINAL: null, ANNOTATION_HOLDER: self.holder()},
        });
        Ok(self.change(id, hold).await?.then_some(terminal))
    }

    async fn offer(&self, id: &SandboxId, stamp: &str, terminal: u32) -> Result<(), LaunchError> {
        let to = self.pool_connection();
        let patch = Patch::Merge(json!({"metadata": {
            "labels": {LABEL_POOL: stamp},
            "annotations": {
                ANNOTATION_TERMINAL: terminal.to_string(),
                ANNOTATION_HOLDER: self.holder(),
            },
        }}));
        let (name, parameters) = (pod_name(id), PatchParams::default());
        let patched = to.pods.patch_metadata(&name, &parameters, &patch);
        call(Doing::Patch, patched).await?;
        Ok(())
    }

    async fn discard(&self, id: &SandboxId) -> Result<(), LaunchError> {
        let to = self.pool_connection();
        let Some((version, _)) = to.known.waiting(id) else {
            return Ok(());
        };
        let parameters = DeleteParams::default()
            .grace_period(0)
            .preconditions(Preconditions {
                resource_version: Some(version),
                uid: None,
            });
        let name = pod_name(id);
        let deleted = async { in_time(to.pods.delete(&name, &parameters).await) };
        call(Doing::Delete, deleted).await?;
        Ok(())
    }

    async fn elected(&self) -> Term {
        let to = self.pool_connection();
        let office = Office {
            leases: Api::namespaced(to.client.clone(), &self.cluster.namespace),
            name: self.cluster.instance.clone(),
            holder: self.holder(),
        };
        office.win().await
    }
}
