//! Pods of a real cluster, sealed in gVisor: the visits of the other launchers, and what many gateways
//! must be able to do together.
//!
//! Where `KUBECONFIG` names no cluster these tests say so and pass, unless `BELLJAR_TEST_KUBERNETES=1`:
//! then it is a failure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant, SystemTime};

use belljar::config::{Config, LauncherKind, Template};
use belljar::sandbox::{EngineState, LaunchError, SandboxId, SandboxSpec, launcher};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client as Cluster, ResourceExt};
use serde_json::json;
use tokio::process::Command;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use crate::harness::{PATIENCE, TestGateway, process_config};
use crate::sealed::restart::{CROWD, begin_and_kill};
use crate::sealed::serve::{Home, Served};
use crate::sealed::{bytes, say};

mod owners;

mod pool;

const NAMESPACE: &str = "belljar-sandboxes";

/// Tests in the cluster at once.
const PLACES: u32 = 2;

/// A place in the cluster for one test. `None` where there is none.
async fn place() -> Option<SemaphorePermit<'static>> {
    places(1).await
}

/// So many of them: all, for a test that needs the cluster for itself.
async fn places(count: u32) -> Option<SemaphorePermit<'static>> {
    static FREE: Semaphore = Semaphore::const_new(PLACES as usize);
    static SAID: Once = Once::new();
    if let Err(why) = pods().await {
        let wanted = std::env::var("BELLJAR_TEST_KUBERNETES").is_ok_and(|v| v == "1");
        assert!(!wanted, "these tests need a cluster: {why}");
        SAID.call_once(|| say!("skipped: no Kubernetes cluster ({why})"));
        return None;
    }
    Some(FREE.acquire_many(count).await.expect("never closed"))
}

/// The pods of the cluster, by a client of this test's own.
async fn pods() -> Result<Api<Pod>, String> {
    if std::env::var_os("KUBECONFIG").is_none() {
        return Err("KUBECONFIG is not set".into());
    }
    let client = Cluster::try_default().await.map_err(|e| e.to_string())?;
    let answer = timeout(PATIENCE, client.apiserver_version()).await;
    answer
        .map_err(|_| "no answer")?
        .map_err(|e| e.to_string())?;
    Ok(Api::namespaced(client, NAMESPACE))
}

/// Gateways that belong together, and their sandboxes.
struct Instance {
    name: String,
    key: PathBuf,
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.key);
        // What a failed test has left would take the next one's place.
        if std::thread::panicking() {
            let name = self.name.clone();
            let cleared = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(clear(&name));
                std::io::Result::Ok(())
            });
            let _ = cleared.join();
        }
    }
}

/// Remove an instance's pods, if the cluster answers.
async fn clear(instance: &str) {
    let labels = ListParams::default().labels(&format!("belljar.dev/instance={instance}"));
    if let Ok(pods) = pods().await {
        let now = DeleteParams::default().grace_period(0);
        let _ = pods.delete_collection(&now, &labels).await;
    }
}

impl Instance {
    fn new() -> Arc<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}", std::process::id());
        let key = std::env::temp_dir().join(format!("belljar-{name}.key"));
        std::fs::write(&key, name.repeat(8)).expect("room for a file");
        Arc::new(Self { name, key })
    }

    /// One of its gateways, in this process.
    fn config(&self, replica: &str) -> Config {
        let mut config = process_config();
        config.launcher = LauncherKind::Kubernetes;
        config.kubernetes.instance.clone_from(&self.name);
        config.kubernetes.replica = Some(replica.into());
        config.kubernetes.token_key_file = Some(self.key.clone());
        config.limits.idle_timeout = Duration::from_secs(60);
        let template = config.templates.get_mut("base").expect("there is a base");
        // Small, because what is asked for is taken: the cluster has two cores.
        template.cpus = 0.3;
        config
    }

    /// One of its gateways, in a process of its own.
    fn replica(self: &Arc<Self>, name: &str) -> Replica {
        Replica {
            instance: self.clone(),
            name: name.into(),
        }
    }

    async fn pods(&self) -> Vec<Pod> {
        let labels = ListParams::default().labels(&format!("belljar.dev/instance={}", self.name));
        let listed = pods().await.expect("a cluster").list(&labels).await;
        listed.expect("it answers").items
    }

    /// Nothing is left.
    async fn assert_gone(&self) {
        let left = self.pods().await;
        let names: Vec<_> = left
            .iter()
            .map(|pod| {
                (
                    pod.name_any(),
                    pod.labels().clone(),
                    pod.annotations().clone(),
                )
            })
            .collect();
        assert!(names.is_empty(), "left: {names:?}");
    }
}

struct Replica {
    instance: Arc<Instance>,
    name: String,
}

impl Home for Replica {
    fn tell(&self, command: &mut Command) {
        let run_dir = std::env::temp_dir().join("belljar-test-run");
        command
            .env("BELLJAR_RUN_DIR", run_dir)
            .env(
                "BELLJAR_DOCKER__NAMESPACE",
                format!("{}-{}", self.instance.name, self.name),
            )
            .env("BELLJAR_LAUNCHER", "kubernetes")
            .env("BELLJAR_KUBERNETES__INSTANCE", &self.instance.name)
            .env("BELLJAR_KUBERNETES__REPLICA", &self.name)
            .env("BELLJAR_KUBERNETES__TOKEN_KEY_FILE", &self.instance.key)
            .env("BELLJAR_TEMPLATES__BASE__CPUS", "0.1")
            .env("BELLJAR_LIMITS__MIN_AVAILABLE_MEMORY", "0")
            .env("BELLJAR_LIMITS__MAX_MEMORY_PRESSURE", "0");
    }

    async fn count(&self) -> usize {
        self.instance.pods().await.len()
    }

    async fn assert_empty(&self) {
        self.instance.assert_gone().await;
    }
}

/// Visits to pods; nothing is left of them.
pub async fn on_cluster<F: Future<Output = ()>>(visit: impl FnOnce(Config) -> F) {
    let Some(_place) = place().await else { return };
    let instance = Instance::new();
    visit(instance.config("one")).await;
    instance.assert_gone().await;
}

#[tokio::test]
async fn bytes_arrive_exactly_over_cuts() {
    on_cluster(|config| async {
        let gateway = TestGateway::with(config).await;
        for kind in ["random", "utf-8"] {
            let client = gateway.visit().await;
            let streamed = bytes::stream_exactly(&gateway, client, kind, 10_000_000, 5).await;
            let (mut client, speed) = streamed;
            say!(
                "cluster, {kind}: 10 MB exact over 5 cuts, {:.1} MB/s (unoptimised)",
                speed / 1e6
            );
            client.send(json!({"type": "close"})).await;
            client.closed().await;
        }
        gateway.stop().await;
    })
    .await;
}

#[tokio::test]
async fn control_c_ends_a_flood() {
    on_cluster(|config| async {
        let gateway = TestGateway::with(config).await;
        let mut client = gateway.visit().await;
        bytes::interrupt_floods(&mut client, 10).await;
        gateway.stop().await;
    })
    .await;
}

#[tokio::test]
async fn ten_sessions_of_a_killed_gateway_go_on_at_another() {
    let Some(_place) = place().await else { return };
    let instance = Instance::new();
    let other = Served::start_in(instance.replica("other"), &CROWD).await;
    let gateway = Served::start_in(instance.replica("one"), &CROWD).await;
    let (_, mut counting) = begin_and_kill(gateway, 10).await;
    let begun = Instant::now();
    join_all(counting.iter_mut().map(|c| c.resume(&other))).await;
    say!(
        "10 of 10 are back at another gateway after {:.2?}",
        begun.elapsed()
    );
    // Nothing is missing, and nothing comes twice.
    let counting = counting.into_iter().map(|c| {
        let last = c.next + 20;
        c.until(last)
    });
    for mut counting in join_all(counting).await {
        counting.client.send(json!({"type": "close"})).await;
        assert_eq!(counting.client.closed().await, 1000);
    }
    other.stop().await;
}

/// Told to go and started anew: the same gateway takes back what it left.
#[tokio::test]
async fn a_visitor_keeps_the_shell_over_a_restart() {
    let Some(_place) = place().await else { return };
    let instance = Instance::new();
    let gateway = Served::start_in(instance.replica("one"), &[]).await;
    let mut client = gateway.visit().await;
    assert_eq!(client.run("X=42").await, "[0]");
    let (home, ()) = tokio::join!(gateway.hand_over(), async {
        assert_eq!(client.told("error").await["code"], "going_away");
        assert_eq!(client.closed().await, 1001);
    });
    assert_eq!(home.count().await, 1, "it lives on");
    let gateway = Served::start_in(home, &[]).await;
    let offset = client.offset;
    let mut client = gateway.resume(&client.session, &client.token, offset).await;
    client.ready().await;
    // Counted by the time that somebody is let in.
    let metrics = gateway.get("/metrics").await;
    assert!(
        metrics.contains("belljar_adoptions_total{outcome=\"linked\"} 1"),
        "{metrics}"
    );
    assert_eq!(client.run("echo $X").await, "42\n[0]");
    client.send(json!({"type": "close"})).await;
    assert_eq!(client.closed().await, 1000);
    gateway.stop().await;
}

#[tokio::test]
async fn a_visitor_takes_the_session_along_to_another_gateway() {
    let Some(_place) = place().await else { return };
    let instance = Instance::new();
    let one = TestGateway::with(instance.config("one")).await;
    let other = TestGateway::with(instance.config("other")).await;
    let mut first = one.visit().await;
    first.run("x=42").await;
    let (session, token) = (first.session.clone(), first.token.clone());

    // Whoever knows no more than its name takes nothing.
    let mut stranger = other.resume(&session, &"0".repeat(32), None).await;
    assert_eq!(stranger.told("error").await["code"], "token_refused");
    let mut stranger = other
        .resume("sess_00000000000000000000000000000000", &token, None)
        .await;
    assert_eq!(stranger.told("error").await["code"], "no_such_session");
    assert_eq!(first.run("echo here").await, "here\n[0]");

    let mut second = other.resume(&session, &token, Some(first.offset)).await;
    second.ready().await;
    assert_eq!(first.told("notice").await["code"], "taken_over");
    assert_eq!(first.closed().await, 4001);
    one.assert_empty().await;
    assert_eq!(second.run("echo $x").await, "42\n[0]");

    // A gateway that has lost it without being told, as one that was cut off, removes nothing that is another's.
    let pods = instance.pods().await;
    let pod = pods
        .iter()
        .find(|pod| pod.labels()["belljar.dev/session"] == session);
    let sandbox = &pod.expect("it has one").labels()["belljar.dev/sandbox"];
    let sandbox = SandboxId::parse(sandbox).expect("a sandbox");
    let cut_off = launcher(&instance.config("one"));
    assert!(cut_off.taken(&sandbox).await.expect("it answers"));
    cut_off
        .remove(&sandbox)
        .await
        .expect("there is nothing to do");
    let owner = launcher(&instance.config("other"));
    assert!(!owner.taken(&sandbox).await.expect("it answers"));
    assert_eq!(second.run("echo $x").await, "42\n[0]");

    // And back, by HTTP too.
    let mut third = one.resume(&session, &token, Some(second.offset)).await;
    third.ready().await;
    assert_eq!(second.closed().await, 4001);
    assert_eq!(third.run("echo $x").await, "42\n[0]");
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let path = format!("/sessions/{session}");
    let (status, _) = other.http("GET", &path, &headers, "").await;
    assert_eq!(status, 200);
    assert_eq!(third.closed().await, 4001);
    let (status, _) = other.http("DELETE", &path, &headers, "").await;
    assert!((200..300).contains(&status), "{status}");
    other.assert_empty().await;
    instance.assert_gone().await;
    one.stop().await;
    other.stop().await;
}

fn spec(template: Template) -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::random(),
        template_name: "base".into(),
        template,
        env: BTreeMap::new(),
        session: "test".into(),
        owner: "test".into(),
        expires_at: SystemTime::now() + Duration::from_secs(60),
        deadline: Duration::from_secs(60),
        unlinked: Duration::from_secs(60),
    }
}

/// Why a sandbox of this template does not start, and what to do.
async fn refusal(config: &Config, template: Template) -> String {
    let launcher = launcher(config);
    let spec = spec(template);
    let begun = Instant::now();
    let Err(error) = launcher.start(&spec).await else {
        panic!("it must not start");
    };
    // At once, and not when patience ends.
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{:?}",
        begun.elapsed()
    );
    assert!(matches!(error, LaunchError::Cluster { .. }), "{error}");
    launcher.remove(&spec.id).await.expect("it can be removed");
    format!("{error}; {}", error.remedy())
}

#[tokio::test]
async fn what_cannot_start_says_why_and_what_to_do() {
    on_cluster(|config| async move {
        let template = config.templates["base"].clone();
        let mut no_image = template.clone();
        no_image.image = "belljar-no-such-image:1".into();
        let text = refusal(&config, no_image).await;
        assert!(
            text.contains("the image belljar-no-such-image:1 cannot be pulled"),
            "{text}"
        );
        let mut huge = template.clone();
        huge.cpus = 250.0;
        let text = refusal(&config, huge).await;
        // A quota or the scheduler, whichever comes first.
        assert!(
            text.contains("no node has room") || text.contains("quota"),
            "{text}"
        );
        let mut unsealed = config.clone();
        unsealed.kubernetes.runtime_class = "no-such-class".into();
        let text = refusal(&unsealed, template).await;
        assert!(text.contains("apply the RuntimeClass"), "{text}");
    })
    .await;
}

/// The API server is away for a while in the middle of a session, by a command that
/// `BELLJAR_TEST_KUBERNETES_FAULT` names and that ends when it is back. The shell waits.
#[tokio::test]
async fn a_session_outlives_its_api_server() {
    let Ok(fault) = std::env::var("BELLJAR_TEST_KUBERNETES_FAULT") else {
        say!("skipped: BELLJAR_TEST_KUBERNETES_FAULT names no command");
        return;
    };
    let Some(_places) = places(PLACES).await else {
        return;
    };
    let instance = Instance::new();
    let gateway = TestGateway::with(instance.config("one")).await;
    let mut client = gateway.visit().await;
    client.run("x=42").await;
    let (session, token) = (client.session.clone(), client.token.clone());
    let mut away = Command::new("/bin/sh")
        .args(["-c", &fault])
        .spawn()
        .expect("it runs");
    assert_eq!(client.closed().await, 1001);
    let told = client.told.last().expect("a word");
    assert_eq!(told["code"], "going_away", "{told}");
    let gone = Instant::now();
    let mut again = gateway.resume(&session, &token, Some(client.offset)).await;
    again.ready().await;
    say!(
        "the session is back {:.1?} after it was cut",
        gone.elapsed()
    );
    assert_eq!(again.run("echo $x").await, "42\n[0]");
    again.send(json!({"type": "close"})).await;
    assert_eq!(again.closed().await, 1000);
    assert!(away.wait().await.expect("it ends").success());
    // It proves the seal anew, by a pod of its own.
    let begun = Instant::now();
    while gateway.app.sandboxes.engine() != EngineState::Ready {
        assert!(begun.elapsed() < PATIENCE, "the engine is not ready again");
        sleep(Duration::from_millis(100)).await;
    }
    gateway.stop().await;
    instance.assert_gone().await;
}

/// What earlier runs of these tests have left because they were killed.
#[tokio::test]
async fn what_was_left_by_the_dead_is_removed() {
    let Some(_place) = place().await else { return };
    let pods = pods().await.expect("a cluster");
    let listed = pods.list(&ListParams::default()).await.expect("it answers");
    for pod in listed {
        let instance = pod
            .labels()
            .get("belljar.dev/instance")
            .cloned()
            .unwrap_or_default();
        let pid = instance
            .strip_prefix("test-")
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            let parameters = DeleteParams::default().grace_period(0);
            let _ = pods.delete(&pod.name_any(), &parameters).await;
        }
    }
    sleep(Duration::from_millis(10)).await;
}
