//! `belljar doctor`: checks this machine, and proves the seal by looking inside a probe sandbox.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use crate::config::{Config, LauncherKind, Live, Template};
use crate::limit::Limiter;
use crate::sandbox::docker::DockerLauncher;
use crate::sandbox::kubernetes::KubernetesLauncher;
use crate::sandbox::process::ProcessLauncher;
use crate::sandbox::{LaunchError, Launcher, proof};

/// `println!`, but a reader that has gone away (`| head`) is no reason to panic.
macro_rules! say {
    ($($text:tt)*) => {
        let _ = writeln!(std::io::stdout(), $($text)*);
    };
}

/// One line for each check, and advice under those that fail.
#[derive(Debug, Default)]
struct Report {
    failed: u32,
}

impl Report {
    fn line(&mut self, ok: bool, subject: &str, seen: &str, remedy: &str) {
        if ok {
            say!("  ok    {subject:<18} {seen}");
        } else {
            self.failed += 1;
            say!("  FAIL  {subject:<18} {seen}");
            say!("        {:<18} → {remedy}", "");
        }
    }

    fn result<T>(&mut self, subject: &str, result: Result<T, LaunchError>) -> Option<T> {
        result
            .inspect_err(|error| self.line(false, subject, &error.to_string(), error.remedy()))
            .ok()
    }

    fn end(self) -> ExitCode {
        if self.failed == 0 {
            say!("Everything is as it should be.");
            ExitCode::SUCCESS
        } else {
            say!(
                "{} of the checks failed; each says what to do.",
                self.failed
            );
            ExitCode::FAILURE
        }
    }
}

/// Check everything, in the order in which one thing needs another.
pub(super) async fn run(config: &Config) -> ExitCode {
    let mut report = Report::default();
    match config.launcher {
        LauncherKind::Docker => docker(config, &mut report).await,
        LauncherKind::Kubernetes => kubernetes(config, &mut report).await,
        LauncherKind::Process => {
            let launcher = ProcessLauncher::new(config);
            if report.result("agent", launcher.ping().await).is_some() {
                let agent = config.agent.display().to_string();
                report.line(true, "agent", &agent, "");
            }
            say!("  note  the launcher `process` has no isolation: for development only");
        }
    }
    store(config, &mut report).await;
    report.end()
}

/// Where gateways count together.
async fn store(config: &Config, report: &mut Report) {
    let limiter = Limiter::new(Arc::new(Live::new(config.clone())));
    let Some(answer) = limiter.look_for_store().await else {
        return;
    };
    let away = config.limits.store.when_away.name();
    let seen = match &answer {
        Ok(()) => format!("answers; when it is away: {away}"),
        Err(error) => format!("{error}; when it is away: {away}"),
    };
    let remedy = "start it, or correct limits.store.url";
    report.line(answer.is_ok(), "limit store", &seen, remedy);
}

async fn kubernetes(config: &Config, report: &mut Report) {
    let launcher = KubernetesLauncher::new(config);
    let Some(version) = report.result("API server", launcher.describe().await) else {
        return;
    };
    report.line(true, "API server", &version, "");
    if report.result("pods", launcher.ping().await).is_none() {
        return;
    }
    let namespace = &config.kubernetes.namespace;
    report.line(true, "pods", &format!("watched in {namespace}"), "");
    let shared = launcher.shares_sessions().await;
    if let Some(shared) = report.result("token key", shared) {
        let seen = if shared {
            "sessions outlive their gateway"
        } else {
            "none: a session ends with its gateway"
        };
        report.line(shared, "token key", seen, "set kubernetes.token_key_file");
    }
    say!("Looking inside a probe sandbox:");
    probe(&launcher, config, report).await;
}

/// Look inside a sandbox; false if there was none.
async fn probe(launcher: &dyn Launcher, config: &Config, report: &mut Report) -> bool {
    let Some(inspection) = report.result("probe", proof::probe(launcher, config).await) else {
        return false;
    };
    let template = config
        .template(&config.default_template)
        .cloned()
        .unwrap_or_default();
    for finding in proof::judge(&inspection, &template, config.launcher) {
        report.line(finding.ok, finding.subject, &finding.seen, finding.remedy);
    }
    true
}

async fn docker(config: &Config, report: &mut Report) {
    let agent = config.agent.display().to_string();
    let found = config.agent.is_file();
    let remedy = "build it with `make build`, or set `agent`";
    report.line(found, "agent", &agent, remedy);

    let launcher = DockerLauncher::new(config);
    let Some((version, runtimes)) = report.result("engine", launcher.describe().await) else {
        return;
    };
    let socket = config.docker.socket.display();
    report.line(true, "engine", &format!("{version} at {socket}"), "");
    let runtime = &config.docker.runtime;
    let registered = runtimes.contains(runtime);
    report.line(
        registered,
        "runtime",
        &format!("{runtime} (registered: {})", runtimes.join(", ")),
        "install gVisor and register it: deploy/setup.sh does both",
    );
    let mut images_there = true;
    for (name, Template { image, .. }) in &config.templates {
        if let Some(there) = report.result("image", launcher.has_image(image).await) {
            images_there &= there;
            let seen = format!("{image} (template {name})");
            let remedy = "build it with docker/build.sh, or pull it";
            report.line(there, "image", &seen, remedy);
        }
    }
    if let Some(leaked) = report.result("leftovers", launcher.leaked().await) {
        let seen = match leaked.len() {
            0 => "none".to_owned(),
            n => format!("{n} gVisor processes without a container: {leaked:?}"),
        };
        let remedy = "a start failed half-way and the engine has forgotten them: end them by pid";
        report.line(leaked.is_empty(), "leftovers", &seen, remedy);
    }
    if !(found && registered && images_there) {
        say!("  –     the seal was not tried: mend the above first");
        return;
    }

    say!("Looking inside a probe sandbox:");
    if !probe(&launcher, config, report).await {
        return;
    }
    let link = launcher.route_name().unwrap_or("unknown");
    let advice = if link == "socket" {
        "over a Unix socket"
    } else {
        "over attach; slower: register the runtime with --host-uds=open for a socket"
    };
    report.line(true, "link", advice, "");
}
