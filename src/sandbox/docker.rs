//! The `docker` launcher: containers of a Docker or Podman engine. Here and below is all that knows bollard.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use belljar_link::message::AGENT_THREADS;
use belljar_link::socket::{QuietSocket, Redial};
use bollard::container::LogOutput;
use bollard::errors::Error as EngineError;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, ResourcesUlimits};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, InspectContainerOptions,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder, WaitContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use futures::{StreamExt, TryStreamExt};
use tokio::time::timeout;
use tokio_util::io::StreamReader;
use tracing::instrument;

use super::builds::{Built, Dockerfile};
use super::launcher::Transport;
use super::notes::Notes;
use super::sockets::{SOCKET_NAME, Sockets, dialled};
use super::{Death, LaunchError, Launcher, SandboxId, SandboxSpec};
use crate::config::{self, Config, Template};

mod build;

/// Deadline of one engine call, seconds. A start takes 0.4 s, and a few seconds behind a queue of
/// others.
const CALL_DEADLINE: u64 = 30;

/// After the link has ended, how long the engine may take to say why. It takes a moment to notice
/// the sandbox's end, on a busy machine more than half a second. Shorter than what a visitor waits
/// for the reason.
const AUTOPSY_DEADLINE: Duration = Duration::from_secs(2);

/// How long an agent may take to end its sandbox before it is killed, seconds. It takes a tenth of one.
const STOP_SECONDS: i32 = 1;

/// How long the engine may take for that, killing included. One that takes longer is asked for the removal
/// all the same: it must not use up what the reaper gives both.
const STOP_DEADLINE: Duration = Duration::from_secs(4);

/// What the agent is told by, whatever the image says.
const STOP_SIGNAL: &str = "SIGTERM";

/// Where things are inside a sandbox.
const AGENT_INSIDE: &str = "/.belljar/agent";
const LINK_INSIDE: &str = "/.belljar/link";

/// gVisor runs on threads of the host: 27 when idle, more for each process. At this limit the whole
/// sandbox dies, so it is only the outer wall; `RLIMIT_NPROC` is the visitor's limit.
const HOST_THREADS: i64 = 512;

/// Largest file a visitor can write, bytes: an outer wall beyond every tmpfs.
const FILE_SIZE: i64 = 1 << 30;

const LABEL_NAMESPACE: &str = "belljar.namespace";
const LABEL_SANDBOX: &str = "belljar.sandbox";
const LABEL_SESSION: &str = "belljar.session";
const LABEL_TEMPLATE: &str = "belljar.template";
const LABEL_OWNER: &str = "belljar.owner";
const LABEL_EXPIRES: &str = "belljar.expires";

/// How agents are reached. Found out by the first sandbox, which is the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// The agent dials a Unix socket of the gateway: twice as fast.
    Socket = 1,
    /// The container's standard input and output, through the engine's attach.
    Attach = 2,
}

/// Starts containers.
#[derive(Debug)]
pub struct DockerLauncher {
    engine: config::Docker,
    /// The agent's binary, mounted into every sandbox.
    agent: PathBuf,
    /// In the directory of this namespace, as the notes are.
    sockets: Sockets,
    notes: Notes,
    /// The engine's API version, asked once.
    version: OnceLock<ClientVersion>,
    /// A [`Route`]; 0 while unknown.
    route: AtomicU8,
}

impl DockerLauncher {
    /// A launcher for the configured engine. Nothing is contacted yet.
    pub fn new(config: &Config) -> Self {
        let dir = config.run_dir.join(&config.docker.namespace);
        Self {
            engine: config.docker.clone(),
            agent: config.agent.clone(),
            notes: Notes::new(dir.clone()),
            sockets: Sockets::new(dir),
            version: OnceLock::new(),
            route: AtomicU8::new(0),
        }
    }

    /// `socket` or `attach`, once a sandbox has been started.
    pub fn route_name(&self) -> Option<&'static str> {
        self.route().map(|route| match route {
            Route::Socket => "socket",
            Route::Attach => "attach",
        })
    }

    fn route(&self) -> Option<Route> {
        match self.route.load(Ordering::Relaxed) {
            1 => Some(Route::Socket),
            2 => Some(Route::Attach),
            _ => None,
        }
    }

    /// The engine's name, version and known runtimes, for `belljar doctor`.
    pub async fn describe(&self) -> Result<(String, Vec<String>), LaunchError> {
        let engine = self.client().await?;
        let info = engine.info().await.map_err(|e| self.error("info", e))?;
        let version = info.server_version.unwrap_or_default();
        let mut runtimes: Vec<String> = info.runtimes.unwrap_or_default().into_keys().collect();
        runtimes.sort();
        Ok((version, runtimes))
    }

    /// Whether the engine has an image.
    pub async fn has_image(&self, image: &str) -> Result<bool, LaunchError> {
        match self.client().await?.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(EngineError::DockerResponseServerError {
                status_code: 404, ..
            }) => Ok(false),
            Err(error) => Err(self.error("inspect image", error)),
        }
    }

    /// gVisor processes of this machine whose container the engine does not know, as `pid`: a start
    /// that failed half-way leaks them, and each costs CPU for ever. For `belljar doctor`.
    pub async fn leaked(&self) -> Result<Vec<u32>, LaunchError> {
        let mut leaked = self.unknown_processes().await?;
        if !leaked.is_empty() {
            // A sandbox that is just being started or removed looks the same for a moment.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let still = self.unknown_processes().await?;
            leaked.retain(|pid| still.contains(pid));
        }
        Ok(leaked)
    }

    async fn unknown_processes(&self) -> Result<Vec<u32>, LaunchError> {
        let engine = self.client().await?;
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let known = engine.list_containers(Some(options)).await;
        let known = known.map_err(|e| self.error("list containers", e))?;
        let known: Vec<String> = known.into_iter().filter_map(|c| c.id).collect();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        Ok(processes
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                let command = std::fs::read(entry.path().join("cmdline")).ok()?;
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                let container = command
                    .starts_with("runsc-")
                    .then(|| container_id(&command))??;
                (!known.contains(&container)).then_some(pid)
            })
            .collect())
    }

    /// A client speaking the engine's API version. Cheap: connections are made by each call.
    async fn client(&self) -> Result<Docker, LaunchError> {
        let path = self.engine.socket.to_string_lossy();
        let connect = |version| {
            Docker::connect_with_unix(&path, CALL_DEADLINE, version)
                .map_err(|error| self.unreachable(&error))
        };
        if let Some(version) = self.version.get() {
            return connect(version);
        }
        let client = connect(API_DEFAULT_VERSION)?;
        let negotiated = client.negotiate_version().await;
        let client = negotiated.map_err(|error| self.error("ask for its version", error))?;
        let version = self.version.get_or_init(|| client.client_version());
        connect(version)
    }

    fn unreachable(&self, error: &EngineError) -> LaunchError {
        LaunchError::Unreachable {
            address: self.engine.socket.display().to_string(),
            cause: causes(error),
        }
    }

    fn error(&self, doing: &'static str, error: EngineError) -> LaunchError {
        match error {
            EngineError::DockerResponseServerError { message, .. } => {
                if message.contains("nknown runtime") || message.contains("invalid runtime") {
                    LaunchError::NoRuntime(self.engine.runtime.clone())
                } else {
                    LaunchError::Refused { doing, message }
                }
            }
            EngineError::RequestTimeoutError => LaunchError::Deadline(doing),
            other => self.unreachable(&other),
        }
    }

    fn container_name(&self, id: &SandboxId) -> String {
        format!("{}-{id}", self.engine.namespace)
    }

    fn container(&self, spec: &SandboxSpec, link: Route) -> ContainerCreateBody {
        let template = &spec.template;
        let mut binds = vec![format!("{}:{AGENT_INSIDE}:ro", self.agent.display())];
        let link_argument = match link {
            Route::Socket => {
                let dir = self.sockets.dir(&spec.id);
                binds.push(format!("{}:{LINK_INSIDE}:ro", dir.display()));
                format!("{LINK_INSIDE}/{SOCKET_NAME}")
            }
            Route::Attach => "stdio".into(),
        };
        let attach = Some(link == Route::Attach);
        let seconds = |d: Duration| d.as_secs().max(1).to_string();
        let command = [
            AGENT_INSIDE,
            "--sandbox",
            spec.id.as_str(),
            "--link",
            &link_argument,
            "--deadline",
            &seconds(spec.deadline),
            "--unlinked",
            &seconds(spec.unlinked),
        ];
        let env = template.env.iter().chain(&spec.env);
        let mut env: Vec<String> = env.map(|(name, value)| format!("{name}={value}")).collect();
        env.push(format!("HOME={}", template.home));
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        ContainerCreateBody {
            image: Some(template.image.clone()),
            entrypoint: Some(command.iter().map(|part| (*part).to_owned()).collect()),
            cmd: Some(Vec::new()),
            hostname: Some("belljar".into()),
            user: Some(template.user.clone()),
            working_dir: Some(template.home.clone()),
            env: Some(env),
            tty: Some(false),
            open_stdin: attach,
            stdin_once: attach,
            attach_stdin: attach,
            attach_stdout: attach,
            attach_stderr: Some(false),
            // Beside the network mode: it also spares the engine's network hook, a third of a
            // start.
            network_disabled: Some(true),
            stop_signal: Some(STOP_SIGNAL.into()),
            labels: Some(HashMap::from([
                label(LABEL_NAMESPACE, &self.engine.namespace),
                label(LABEL_SANDBOX, spec.id.as_str()),
                label(LABEL_SESSION, &spec.session),
                label(LABEL_TEMPLATE, &spec.template_name),
                label(LABEL_OWNER, &spec.owner),
                label(
                    LABEL_EXPIRES,
                    &humantime::format_rfc3339_seconds(spec.expires_at).to_string(),
                ),
            ])),
            host_config: Some(self.seal(template, binds)),
            ..Default::default()
        }
    }

    /// The limits and the seal of every sandbox.
    fn seal(&self, template: &Template, binds: Vec<String>) -> HostConfig {
        let (uid, gid) = template.ids();
        let home_size = template.home_size.as_u64();
        let tmp_size = template.tmp_size.as_u64();
        let memory = i64::try_from(template.memory.as_u64()).unwrap_or(i64::MAX);
        let ulimit = |name: &str, value: i64| ResourcesUlimits {
            name: Some(name.into()),
            soft: Some(value),
            hard: Some(value),
        };
        HostConfig {
            runtime: Some(self.engine.runtime.clone()),
            network_mode: Some("none".into()),
            readonly_rootfs: Some(true),
            binds: Some(binds),
            tmpfs: Some(HashMap::from([
                (
                    template.home.clone(),
                    format!("rw,exec,nosuid,nodev,size={home_size},uid={uid},gid={gid},mode=0755"),
                ),
                (
                    "/tmp".to_owned(),
                    format!("rw,noexec,nosuid,nodev,size={tmp_size},mode=1777"),
                ),
            ])),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges".into()]),
            memory: Some(memory),
            memory_swap: Some(memory),
            // Within i64: `cpus` is at most 256.
            #[expect(clippy::cast_possible_truncation)]
            nano_cpus: Some((template.cpus * 1e9) as i64),
            pids_limit: Some(HOST_THREADS),
            ulimits: Some(vec![
                // The agent gives its programs the template's share of it.
                ulimit("nproc", i64::from(template.pids + AGENT_THREADS)),
                ulimit("nofile", template.open_files.into()),
                ulimit("fsize", FILE_SIZE),
                ulimit("core", 0),
            ]),
            shm_size: Some(1 << 20),
            // The visitor's terminal is nobody's log.
            log_config: Some(HostConfigLogConfig {
                typ: Some("none".into()),
                config: None,
            }),
            ..Default::default()
        }
    }

    #[instrument(skip_all)]
    async fn create(
        &self,
        engine: &Docker,
        spec: &SandboxSpec,
        link: Route,
    ) -> Result<(), LaunchError> {
        let name = self.container_name(&spec.id);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let body = self.container(spec, link);
        match engine.create_container(Some(options), body).await {
            Ok(_) => Ok(()),
            Err(EngineError::DockerResponseServerError {
                status_code: 404, ..
            }) => Err(LaunchError::NoImage(spec.template.image.clone())),
            Err(error) => Err(self.error("create a container", error)),
        }
    }

    #[instrument(skip_all)]
    async fn start_container(&self, engine: &Docker, id: &SandboxId) -> Result<(), LaunchError> {
        let name = self.container_name(id);
        engine
            .start_container(&name, None::<StartContainerOptions>)
            .await
            .map_err(|e| self.error("start a container", e))
    }

    async fn start_by_socket(
        &self,
        engine: &Docker,
        spec: &SandboxSpec,
    ) -> Result<QuietSocket, LaunchError> {
        let listener = self.sockets.make(&spec.id)?;
        self.create(engine, spec, Route::Socket).await?;
        self.start_container(engine, &spec.id).await?;
        let name = self.container_name(&spec.id);
        let mut died = engine
            .wait_container(&name, None::<WaitContainerOptions>)
            .boxed();
        tokio::select! {
            dialled = dialled(listener) => dialled,
            // An error of the wait itself says nothing; the call decides.
            Some(status) = died.next() => Err(self.died_early(spec, status).await),
        }
    }

    /// An agent that could not start, or ended before it called.
    async fn died_early(
        &self,
        spec: &SandboxSpec,
        status: Result<bollard::models::ContainerWaitResponse, EngineError>,
    ) -> LaunchError {
        if self.post_mortem(&spec.id).await == Death::OutOfMemory {
            return LaunchError::Died("its memory limit is too small to start".into());
        }
        let code = match status {
            Ok(status) => status.status_code,
            Err(EngineError::DockerContainerWaitError { code, .. }) => code,
            Err(error) => return self.error("wait for a container", error),
        };
        LaunchError::Died(format!("the container ended with code {code}"))
    }

    async fn start_by_attach(
        &self,
        engine: &Docker,
        spec: &SandboxSpec,
    ) -> Result<Box<dyn Transport>, LaunchError> {
        self.create(engine, spec, Route::Attach).await?;
        let options = AttachContainerOptionsBuilder::default()
            .stdin(true)
            .stdout(true)
            .stream(true)
            .build();
        let name = self.container_name(&spec.id);
        let attached = engine.attach_container(&name, Some(options)).await;
        let attached = attached.map_err(|e| self.error("attach", e))?;
        self.start_container(engine, &spec.id).await?;
        // Without a TTY the engine frames standard output and standard error apart.
        let output = attached.output.map_err(io::Error::other);
        let output = output.try_filter_map(|chunk| async move {
            Ok(match chunk {
                LogOutput::StdOut { message } => Some(message),
                _ => None,
            })
        });
        let output = StreamReader::new(Box::pin(output));
        Ok(Box::new(tokio::io::join(output, attached.input)))
    }
}

#[async_trait]
impl Launcher for DockerLauncher {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn must_be_proved(&self) -> bool {
        true
    }

    async fn ping(&self) -> Result<(), LaunchError> {
        let engine = self.client().await?;
        let pong = engine.ping().await;
        pong.map(|_| ()).map_err(|e| self.error("ping", e))
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Transport>, LaunchError> {
        if let Err(cause) = std::fs::metadata(&self.agent) {
            return Err(LaunchError::NoAgent {
                path: self.agent.display().to_string(),
                cause: cause.to_string(),
            });
        }
        let engine = self.client().await?;
        match self.route() {
            Some(Route::Attach) => self.start_by_attach(&engine, spec).await,
            known => match self.start_by_socket(&engine, spec).await {
                Ok(stream) => {
                    self.route.store(Route::Socket as u8, Ordering::Relaxed);
                    Ok(Box::new(stream))
                }
                Err(LaunchError::NoLink(cause)) if known.is_none() => {
                    tracing::info!(
                        error = cause,
                        "no link over a socket (it needs runsc's --host-uds=open); trying attach"
                    );
                    self.remove(&spec.id).await?;
                    let transport = self.start_by_attach(&engine, spec).await?;
                    self.route.store(Route::Attach as u8, Ordering::Relaxed);
                    Ok(transport)
                }
                Err(error) => Err(error),
            },
        }
    }

    async fn keep(&self, id: &SandboxId, _: &str, note: &str) -> Result<bool, LaunchError> {
        // An agent on its container's standard input has no way to find another gateway.
        if self.route() != Some(Route::Socket) {
            return Ok(false);
        }
        let written = self.notes.write(id, note);
        written.map(|()| true).map_err(|cause| LaunchError::Host {
            doing: "keeping a note of a sandbox".into(),
            cause,
        })
    }

    async fn kept(&self) -> Result<Vec<(SandboxId, String)>, LaunchError> {
        let notes = self.notes.all().map_err(|cause| LaunchError::Host {
            doing: "reading the notes of an earlier gateway".into(),
            cause,
        })?;
        let readable = notes.into_iter().filter_map(|(id, note)| match note {
            Ok(note) => Some((id, note)),
            Err(error) => {
                tracing::warn!(sandbox = %id, %error, "the note of an earlier gateway cannot be read");
                None
            }
        });
        Ok(readable.collect())
    }

    async fn relink(&self, id: &SandboxId) -> Result<Box<dyn Transport>, LaunchError> {
        let socket = dialled(self.sockets.listen(id)?).await?;
        // As good a proof of this route as a start.
        self.route.store(Route::Socket as u8, Ordering::Relaxed);
        Ok(Box::new(socket))
    }

    fn redial(&self, id: &SandboxId) -> Option<Redial> {
        (self.route() == Some(Route::Socket)).then(|| self.sockets.redial(id))
    }

    async fn list(&self) -> Result<Vec<SandboxId>, LaunchError> {
        let engine = self.client().await?;
        let label = format!("{LABEL_NAMESPACE}={}", self.engine.namespace);
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&HashMap::from([("label", vec![label.as_str()])]))
            .build();
        let containers = engine.list_containers(Some(options)).await;
        let containers = containers.map_err(|e| self.error("list containers", e))?;
        let of_container = containers
            .into_iter()
            .filter_map(|c| SandboxId::parse(c.labels?.get(LABEL_SANDBOX)?));
        // A socket or a note whose container is gone is a leftover too.
        let of_file = std::fs::read_dir(self.sockets.root())
            .into_iter()
            .flatten()
            .filter_map(|entry| SandboxId::parse(entry.ok()?.path().file_stem()?.to_str()?));
        let mut found: Vec<SandboxId> = of_container.chain(of_file).collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), LaunchError> {
        // First, so that nobody takes back what is being removed. A note that stays is no reason for
        // the sandbox to stay, too.
        let note = self.notes.remove(id);
        let engine = self.client().await?;
        let name = self.container_name(id);
        // Not killed if that can be helped: a kill that is under way while the sandbox dies holds up
        // containerd's shim, which then counts gVisor's own processes out at one a second. A sandbox
        // that had run a hundred commands stayed in the list for over a minute.
        let stop = StopContainerOptionsBuilder::default()
            .t(STOP_SECONDS)
            .build();
        // What it does not do, the removal does or complains of.
        let _ = timeout(STOP_DEADLINE, engine.stop_container(&name, Some(stop))).await;
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        match engine.remove_container(&name, Some(options)).await {
            Ok(())
            // Not there, or another removal is under way.
            | Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(error) => return Err(self.error("remove a container", error)),
        }
        note.and(self.sockets.remove(id))
            .map_err(|cause| LaunchError::Host {
                doing: "removing a sandbox's note and socket".into(),
                cause,
            })
    }

    async fn build(&self, name: &str, dockerfile: &Dockerfile) -> Result<Built, LaunchError> {
        self.build_image(name, dockerfile).await
    }

    async fn built(&self) -> Result<Vec<Built>, LaunchError> {
        self.built_images().await
    }

    async fn unbuild(&self, name: &str) -> Result<bool, LaunchError> {
        self.remove_image(name).await
    }

    async fn post_mortem(&self, id: &SandboxId) -> Death {
        let Ok(engine) = self.client().await else {
            return Death::Unknown;
        };
        let name = self.container_name(id);
        // How it ended is all that matters, and that it has.
        let mut ended = engine
            .wait_container(&name, None::<WaitContainerOptions>)
            .boxed();
        let autopsy = async {
            let _ = ended.next().await;
            engine
                .inspect_container(&name, None::<InspectContainerOptions>)
                .await
        };
        let inspected = timeout(AUTOPSY_DEADLINE, autopsy).await;
        let state = inspected.ok().and_then(|i| i.ok()?.state);
        if state.is_some_and(|state| state.oom_killed == Some(true)) {
            Death::OutOfMemory
        } else {
            Death::Unknown
        }
    }
}

/// An error and its causes in one line: the engine's client says what happened only in the last.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some repeat their cause in their own text.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The container id in the command line of a gVisor process: its last word of 64 hexadecimal digits.
fn container_id(command: &str) -> Option<String> {
    let hex = |word: &&str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let mut words = command.split([' ', '/', '=']);
    words.rfind(hex).map(str::to_owned)
}
