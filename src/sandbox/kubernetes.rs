//! The `kubernetes` launcher: pods of a cluster. Here and below is all that knows kube.
//!
//! In reading order: [`pod`] is what a sandbox is as a pod, [`pods`] what is known of all of them, by a
//! watch, [`channel`] the stream to one, [`pool`] those that were started ahead, [`lease`] which gateway
//! starts them, [`owners`] what one owner has at all gateways, [`mod@trouble`] what the cluster says when it does not work.
//!
//! Gateways of one instance are all alike. Which sandboxes there are, whose sessions they are and which
//! gateway has them is written on the pods; who comes last has the agent.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use hmac::{Hmac, KeyInit, Mac};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use serde_json::json;
use sha2::Sha256;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tracing::{Instrument, info_span, instrument};

use super::launcher::SharedPool;
use super::launcher::Transport;
use super::{Death, LaunchError, Launcher, SandboxId, SandboxSpec};
use crate::config::{self, Config};
use crate::secret::{hex, random_hex};

mod channel;

mod lease;

mod owners;

mod pod;

mod pods;

mod pool;

mod stage;

mod trouble;

use pod::{
    AGENT, ANNOTATION_NOTE, LABEL_BOOT, LABEL_INSTANCE, LABEL_REPLICA, LABEL_SESSION, label_value,
    pod_name,
};
use pods::Pods;
use stage::Stage;
use trouble::{Doing, trouble};

/// How long one call of the API server may take. It takes milliseconds.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// How long a connection to it may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// How long a pod may take to run: shorter than a start may take as a whole, so that there is time to
/// ask why it does not. It takes a second where the image is there already.
const RUNNING_DEADLINE: Duration = Duration::from_secs(35);

/// How long the stream to a container may take to be opened. It takes 50 ms.
const CHANNEL_DEADLINE: Duration = Duration::from_secs(10);

/// After the link has ended, how long the cluster may take to say why. Shorter than what a visitor
/// waits for the reason.
const AUTOPSY_DEADLINE: Duration = Duration::from_secs(2);

/// Largest note, bytes: all annotations of an object together may have 256 KiB.
const MAX_NOTE: usize = 240 * 1024;

/// Least length of the secret that gateways share, bytes.
const MIN_KEY: usize = 32;

/// Starts pods.
#[derive(Debug)]
pub struct KubernetesLauncher {
    cluster: config::Kubernetes,
    /// This gateway's name among those of its instance.
    replica: String,
    /// This start of it: what an earlier one has left is not in use any more.
    boot: String,
    /// The longest that a sandbox may live, whatever is asked for later.
    longest: Duration,
    connection: OnceCell<Connection>,
}

/// A connection to the API server, and what is known through it.
struct Connection {
    client: Client,
    pods: Api<Pod>,
    known: Pods,
    key: Option<Key>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// The secret that gateways of one instance share.
struct Key(Vec<u8>);

impl Key {
    /// What the agent of a sandbox lets a gateway in by, in hexadecimal digits. Each gateway can make
    /// it, and no sandbox can make another's.
    fn relay(&self, id: &SandboxId) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length");
        mac.update(b"belljar relay ");
        mac.update(id.as_str().as_bytes());
        hex(&mac.finalize().into_bytes())
    }
}

impl KubernetesLauncher {
    /// A launcher for the configured cluster. Nothing is contacted yet.
    pub fn new(config: &Config) -> Self {
        let host = || {
            rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned()
        };
        let replica = config.kubernetes.replica.clone().unwrap_or_else(host);
        Self {
            cluster: config.kubernetes.clone(),
            replica: label_value(&replica),
            boot: random_hex::<8>(),
            longest: config.limits.max_duration.max(config.api.max_ttl),
            connection: OnceCell::new(),
        }
    }

    async fn connection(&self) -> Result<&Connection, LaunchError> {
        self.connection.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Connection, LaunchError> {
        let address = || {
            let file = self.cluster.kubeconfig.as_ref();
            file.map_or("the cluster".to_owned(), |file| file.display().to_string())
        };
        let unreachable = |cause: String| LaunchError::Cluster {
            problem: format!("{} cannot be used: {cause}", address()),
            remedy: "set kubernetes.kubeconfig or KUBECONFIG, or run the gateway as a pod with a service \
                     account",
        };
        let read = async {
            match &self.cluster.kubeconfig {
                Some(file) => {
                    let config = Kubeconfig::read_from(file).map_err(|e| e.to_string())?;
                    let options = KubeConfigOptions::default();
                    let config = kube::Config::from_custom_kubeconfig(config, &options).await;
                    config.map_err(|e| e.to_string())
                }
                None => kube::Config::infer().await.map_err(|e| e.to_string()),
            }
        };
        let mut config = read.await.map_err(unreachable)?;
        config.connect_timeout = Some(CONNECT_DEADLINE);
        // Every call has a deadline of its own, and whoever calls knows when to try again.
        config.default_retry = false;
        let key = self.key()?;
        let client = Client::try_from(config).map_err(|e| unreachable(e.to_string()))?;
        let pods = Api::namespaced(client.clone(), &self.cluster.namespace);
        let instance = format!("{LABEL_INSTANCE}={}", self.cluster.instance);
        Ok(Connection {
            known: Pods::watch(pods.clone(), &instance),
            client,
            pods,
            key,
        })
    }

    /// The shared secret, if there is one.
    fn key(&self) -> Result<Option<Key>, LaunchError> {
        let Some(file) = &self.cluster.token_key_file else {
            tracing::warn!(
                remedy = "set kubernetes.token_key_file",
                "gateways share no secret: a session ends with its gateway"
            );
            return Ok(None);
        };
        let host = |cause| LaunchError::Host {
            doing: format!("reading kubernetes.token_key_file, {}", file.display()),
            cause,
        };
        let key = std::fs::read(file).map_err(host)?;
        if key.len() < MIN_KEY {
            let short = format!("it has {} bytes, and needs {MIN_KEY}", key.len());
            return Err(host(std::io::Error::other(short)));
        }
        Ok(Some(Key(key)))
    }

    fn key_of(&self, id: &SandboxId) -> Option<String> {
        Some(self.connection.get()?.key.as_ref()?.relay(id))
    }

    /// The API server's version, for `belljar doctor`.
    pub async fn describe(&self) -> Result<String, LaunchError> {
        let client = &self.connection().await?.client;
        let version = call(Doing::Version, client.apiserver_version()).await?;
        Ok(version.git_version)
    }

    /// Whether sessions outlive their gateway.
    pub async fn shares_sessions(&self) -> Result<bool, LaunchError> {
        Ok(self.connection().await?.key.is_some())
    }

    #[instrument(skip_all)]
    async fn create(&self, to: &Connection, spec: &SandboxSpec) -> Result<(), LaunchError> {
        let pod = pod::pod(&self.cluster, spec, self.longest, &self.replica, &self.boot);
        let parameters = PostParams::default();
        call(Doing::Create, to.pods.create(&parameters, &pod)).await?;
        Ok(())
    }

    /// Wait until a pod runs, or cannot.
    #[instrument(skip_all)]
    async fn running(&self, to: &Connection, spec: &SandboxSpec) -> Result<(), LaunchError> {
        let running = async {
            let mut changes = to.known.changes();
            let mut seen = false;
            loop {
                match to.known.stage(&spec.id) {
                    // The watch is a moment behind, or the pod is gone again.
                    None if seen => {
                        return Err(LaunchError::Died("its pod was removed".into()));
                    }
                    None => {}
                    Some(Stage::Pending) => seen = true,
                    Some(Stage::Running) => return Ok(()),
                    Some(Stage::Stuck(stuck)) => return Err(stuck.explain(&spec.template.image)),
                    Some(Stage::Finished { oom: true, .. }) => {
                        let small = "its memory limit is too small to start";
                        return Err(LaunchError::Died(small.into()));
                    }
                    Some(Stage::Finished { why, .. }) => return Err(LaunchError::Died(why)),
                }
                if changes.changed().await.is_err() {
                    return Err(LaunchError::NotReady("the watch has ended".into()));
                }
            }
        };
        match timeout(RUNNING_DEADLINE, running).await {
            Ok(ended) => ended,
            Err(_) => Err(self.late(to, &spec.id).await),
        }
    }

    /// Why a pod does not run though nothing is wrong with it: only events tell.
    async fn late(&self, to: &Connection, id: &SandboxId) -> LaunchError {
        let events: Api<Event> = Api::namespaced(to.client.clone(), &self.cluster.namespace);
        let of_pod = format!("involvedObject.name={},type=Warning", pod_name(id));
        let parameters = ListParams::default().fields(&of_pod).limit(20);
        let listed = call(Doing::List, events.list(&parameters)).await.ok();
        let last = listed.and_then(|events| events.items.into_iter().next_back()?.message);
        let seconds = RUNNING_DEADLINE.as_secs();
        let cause = last.map_or(String::new(), |message| format!(": {message}"));
        LaunchError::Cluster {
            problem: format!("the pod did not run within {seconds} s{cause}"),
            remedy: "look at `kubectl describe pod` and the node's kubelet; the nodes' container runtime \
                     must know the RuntimeClass's handler",
        }
    }

    /// The stream to the agent's standard streams.
    #[instrument(skip_all)]
    async fn attach(
        &self,
        to: &Connection,
        id: &SandboxId,
    ) -> Result<Box<dyn Transport>, LaunchError> {
        let name = pod_name(id);
        let opening = channel::attach(&to.client, &self.cluster.namespace, &name);
        self.opened(opening).await
    }

    async fn opened(
        &self,
        opening: impl Future<Output = Result<channel::Channel, LaunchError>>,
    ) -> Result<Box<dyn Transport>, LaunchError> {
        let opened = timeout(CHANNEL_DEADLINE, opening).await;
        let channel = opened.map_err(|_| LaunchError::Deadline("the stream to a pod"))??;
        Ok(Box::new(channel))
    }

    /// A session's note, as it is now.
    async fn note(&self, to: &Connection, id: &SandboxId) -> Result<Option<String>, LaunchError> {
        let pod = call(Doing::Get, to.pods.get_opt(&pod_name(id))).await?;
        let pod = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pod.and_then(|mut pod| pod.annotations_mut().remove(ANNOTATION_NOTE)))
    }
}

/// Call the API server, bounded.
async fn call<T>(
    doing: Doing,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, LaunchError> {
    match timeout(CALL_DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(trouble(doing, error)),
        Err(_) => Err(LaunchError::Deadline(doing.name())),
    }
}

/// Whether a pod is of a session that another gateway serves, as far as its labels say, and lives.
fn is_anothers(pod: &Pod, replica: &str) -> bool {
    let meta = &pod.metadata;
    let its = meta.labels.as_ref().and_then(|all| all.get(LABEL_REPLICA));
    let annotations = meta.annotations.as_ref();
    let kept = annotations.is_some_and(|all| all.contains_key(ANNOTATION_NOTE));
    let lives = || !matches!(Stage::of(pod.status.as_ref()), Stage::Finished { .. });
    kept && its.is_some_and(|its| its != replica) && lives()
}

/// Whether it was done; false if it was not to be done any more, because somebody else was earlier.
fn in_time<T>(done: Result<T, kube::Error>) -> Result<bool, kube::Error> {
    match done {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Launcher for KubernetesLauncher {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn must_be_proved(&self) -> bool {
        true
    }

    fn shared(&self) -> bool {
        true
    }

    async fn ping(&self) -> Result<(), LaunchError> {
        let to = self.connection().await?;
        call(Doing::Version, to.client.apiserver_version()).await?;
        // Without it nothing would be seen to start.
        let synced = timeout(CALL_DEADLINE, to.known.synced()).await;
        synced.map_err(|_| LaunchError::Cluster {
            problem: format!("the pods cannot be watched: {}", to.known.trouble()),
            remedy: "allow the gateway to list and watch pods in kubernetes.namespace",
        })
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Transport>, LaunchError> {
        let to = self.connection().await?;
        self.create(to, spec).await?;
        self.running(to, spec).await?;
        self.attach(to, &spec.id).await
    }

    async fn keep(&self, id: &SandboxId, session: &str, note: &str) -> Result<bool, LaunchError> {
        let to = self.connection().await?;
        if to.key.is_none() {
            return Ok(false);
        }
        if note.len() > MAX_NOTE {
            return Err(LaunchError::Cluster {
                problem: format!(
                    "a note of {} bytes, of which a pod holds {MAX_NOTE}",
                    note.len()
                ),
                remedy: "let programs hold less: environment and metadata",
            });
        }
        let patch = json!({"metadata": {
            "labels": {
                LABEL_SESSION: label_value(session),
                LABEL_REPLICA: self.replica,
                LABEL_BOOT: self.boot,
            },
            "annotations": {ANNOTATION_NOTE: note},
        }});
        let name = pod_name(id);
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
        let patched = to.pods.patch_metadata(&name, &parameters, &patch);
        match timeout(CALL_DEADLINE, patched).await {
            Ok(Ok(_)) => Ok(true),
            // What has no pod has nothing to come back to.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(false),
            Ok(Err(error)) => Err(trouble(Doing::Patch, error)),
            Err(_) => Err(LaunchError::Deadline(Doing::Patch.name())),
        }
    }

    async fn kept(&self) -> Result<Vec<(SandboxId, String)>, LaunchError> {
        let to = self.connection().await?;
        if to.key.is_none() {
            return Ok(Vec::new());
        }
        let synced = timeout(CALL_DEADLINE, to.known.synced()).await;
        synced.map_err(|_| LaunchError::Deadline(Doing::List.name()))?;
        let mut kept = Vec::new();
        for id in to.known.left_by(&self.replica, &self.boot) {
            if let Some(note) = self.note(to, &id).await? {
                kept.push((id, note));
            }
        }
        Ok(kept)
    }

    async fn find(&self, session: &str) -> Result<Option<(SandboxId, String)>, LaunchError> {
        let to = self.connection.get().filter(|to| to.key.is_some());
        // Only what is known is asked for, or anybody could keep the API server busy with guesses.
        let Some((to, id)) = to.and_then(|to| Some((to, to.known.of_session(session)?))) else {
            return Ok(None);
        };
        Ok(self.note(to, &id).await?.map(|note| (id, note)))
    }

    fn relay_key(&self, id: &SandboxId) -> Option<String> {
        self.key_of(id)
    }

    async fn relink(&self, id: &SandboxId) -> Result<Box<dyn Transport>, LaunchError> {
        let to = self.connection().await?;
        let Some(key) = self.key_of(id) else {
            return Err(LaunchError::Died("gateways share no secret".into()));
        };
        // Of an API server that is away nothing is known anew, and what was known is tried.
        match to.known.stage(id) {
            Some(Stage::Finished { why, .. }) => return Err(LaunchError::Died(why)),
            None => return Err(LaunchError::Died("its pod is gone".into())),
            Some(_) => {}
        }
        let command = [AGENT, "relay", "--sandbox", id.as_str()];
        let name = pod_name(id);
        let opening = channel::exec(&to.client, &self.cluster.namespace, &name, &command);
        let opening = opening.instrument(info_span!("relay"));
        let mut relay = self.opened(opening).await?;
        let sent = async {
            relay.write_all(key.as_bytes()).await?;
            relay.flush().await
        };
        match timeout(CHANNEL_DEADLINE, sent).await {
            Ok(Ok(())) => Ok(relay),
            Ok(Err(error)) => Err(LaunchError::NoLink(error.to_string())),
            Err(_) => Err(LaunchError::Deadline("the stream to a pod")),
        }
    }

    async fn list(&self) -> Result<Vec<SandboxId>, LaunchError> {
        let to = self.connection().await?;
        let synced = timeout(CALL_DEADLINE, to.known.synced()).await;
        synced.map_err(|_| LaunchError::Deadline(Doing::List.name()))?;
        Ok(to.known.removable_by(&self.replica))
    }

    async fn taken(&self, id: &SandboxId) -> Result<bool, LaunchError> {
        let to = self.connection().await?;
        let pod = call(Doing::Get, to.pods.get_opt(&pod_name(id))).await?;
        Ok(pod.is_some_and(|pod| is_anothers(&pod, &self.replica)))
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), LaunchError> {
        let to = self.connection().await?;
        // A gateway that was cut off has lost a session, and not the session its sandbox: another may serve it by
        // now.
        if self.taken(id).await? {
            return Ok(());
        }
        // There is nothing in it to be put in order.
        let parameters = DeleteParams::default().grace_period(0);
        let name = pod_name(id);
        let deleted = to.pods.delete(&name, &parameters);
        match timeout(CALL_DEADLINE, deleted).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Ok(Err(error)) => Err(trouble(Doing::Delete, error)),
            Err(_) => Err(LaunchError::Deadline(Doing::Delete.name())),
        }
    }

    fn elsewhere(&self, owner: &str) -> usize {
        self.owned_elsewhere(owner)
    }

    async fn may_stay(
        &self,
        id: &SandboxId,
        owner: &str,
        most: usize,
    ) -> Result<bool, LaunchError> {
        self.stays(id, owner, most).await
    }

    fn pool(&self) -> Option<&dyn SharedPool> {
        // Before there is a connection nothing is known of it.
        self.connection.get()?.key.as_ref()?;
        Some(self)
    }

    async fn post_mortem(&self, id: &SandboxId) -> Death {
        let Some(to) = self.connection.get() else {
            return Death::Unknown;
        };
        let finished = async {
            let mut changes = to.known.changes();
            loop {
                match to.known.stage(id) {
                    Some(Stage::Finished { oom, .. }) => return oom,
                    None => return false,
                    Some(_) => {}
                }
                if changes.changed().await.is_err() {
                    return false;
                }
            }
        };
        match timeout(AUTOPSY_DEADLINE, finished).await {
            Ok(true) => Death::OutOfMemory,
            Ok(false) | Err(_) => Death::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sandbox_has_a_key_of_its_own_that_every_gateway_can_make() {
        let (one, other) = (SandboxId::random(), SandboxId::random());
        let key = Key(vec![7; 32]);
        let relay = key.relay(&one);
        assert_eq!(relay.len(), belljar_link::message::RELAY_KEY);
        assert_eq!(relay, Key(vec![7; 32]).relay(&one));
        assert_ne!(relay, key.relay(&other));
        assert_ne!(relay, Key(vec![8; 32]).relay(&one));
    }
}
