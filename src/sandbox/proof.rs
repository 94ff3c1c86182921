//! Looks inside a sandbox for evidence that it is sealed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use belljar_link::message::Inspection;
use tokio::time::timeout;

use super::{LaunchError, Launcher, SandboxId, SandboxSpec, launch};
use crate::config::{Config, LauncherKind, Template};

/// How long the whole probe may take.
const DEADLINE: Duration = Duration::from_secs(40);

/// A probe that its gateway forgets ends by itself after this.
const LIFETIME: Duration = Duration::from_secs(60);

/// The first line of gVisor's kernel log.
const GVISOR: &str = "Starting gVisor";

/// Start a sandbox from the default template, have its agent look around, remove it.
pub async fn probe(launcher: &dyn Launcher, config: &Config) -> Result<Inspection, LaunchError> {
    let name = &config.default_template;
    let template = config.template(name).cloned().unwrap_or_default();
    let spec = SandboxSpec {
        id: SandboxId::random(),
        template_name: name.clone(),
        template,
        env: BTreeMap::new(),
        session: "probe".into(),
        owner: "belljar".into(),
        expires_at: SystemTime::now() + LIFETIME,
        deadline: LIFETIME,
        unlinked: LIFETIME,
    };
    let inspected = timeout(DEADLINE, async {
        let link = launch(launcher, &spec).await?;
        Ok(link.inspect().await?)
    })
    .await
    .unwrap_or(Err(LaunchError::Deadline("the probe")));
    // Whatever is left behind, the next sweep finds.
    if let Err(error) = launcher.remove(&spec.id).await {
        tracing::warn!(%error, "a probe could not be removed");
    }
    inspected
}

/// Whether the kernel is gVisor's.
pub fn is_gvisor(inspection: &Inspection) -> bool {
    inspection.kernel_log.starts_with(GVISOR)
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was seen.
    pub seen: String,
    /// What to do if it is not.
    pub remedy: &'static str,
}

/// What a `RuntimeClass` may add to a pod's memory for gVisor itself, bytes. Its limit is the pod's.
const OVERHEAD: u64 = 128 << 20;

/// Compare what an agent saw with what the template promises. A cluster does not give memory-backed
/// directories a size on every version: it ends a pod that outgrows them, whose memory bounds them too.
pub fn judge(seen: &Inspection, template: &Template, launcher: LauncherKind) -> Vec<Finding> {
    let (overhead, sized) = match launcher {
        LauncherKind::Kubernetes => (OVERHEAD, false),
        LauncherKind::Docker | LauncherKind::Process => (0, true),
    };
    let finding = |subject, ok, seen: String, remedy| Finding {
        subject,
        ok,
        seen: printable(&seen),
        remedy,
    };
    let number = |limit: Option<u64>| limit.map_or("unlimited".into(), |n| n.to_string());
    let mib = |bytes: u64| format!("{} MiB", bytes / (1024 * 1024));
    let (uid, _) = template.ids();
    let others: Vec<&String> = seen.interfaces.iter().filter(|i| *i != "lo").collect();
    vec![
        finding(
            "kernel",
            is_gvisor(seen),
            format!("{:?}", seen.kernel_log),
            "docker.runtime must be gVisor's runsc: run deploy/setup.sh",
        ),
        finding(
            "network",
            others.is_empty() && !seen.network_reachable,
            if seen.network_reachable {
                "there is a route out".into()
            } else {
                format!("none; interfaces: {}", seen.interfaces.join(", "))
            },
            "register the runtime with --network=none",
        ),
        finding(
            "root file system",
            !seen.root_writable,
            if seen.root_writable {
                "writable".into()
            } else {
                "read-only".into()
            },
            "the engine ignores ReadonlyRootfs: update it",
        ),
        finding(
            "user",
            seen.uid == uid && uid != 0,
            format!("uid {}", seen.uid),
            "set the template's user to the image's unprivileged user",
        ),
        finding(
            "capabilities",
            seen.capabilities.bytes().all(|b| b == b'0') && !seen.capabilities.is_empty(),
            seen.capabilities.clone(),
            "the engine ignores CapDrop: update it",
        ),
        finding(
            "no new privileges",
            seen.no_new_privs,
            seen.no_new_privs.to_string(),
            "the engine ignores no-new-privileges: update it",
        ),
        finding(
            "memory",
            seen.memory > 0 && seen.memory <= template.memory.as_u64() + overhead,
            mib(seen.memory),
            "the kernel has no memory cgroup: boot with cgroup_enable=memory",
        ),
        finding(
            "processes",
            seen.process_limit == Some(template.pids.into()),
            number(seen.process_limit),
            "the engine ignores ulimits: update it",
        ),
        finding(
            "open files",
            seen.file_limit == Some(template.open_files.into()),
            number(seen.file_limit),
            "the engine ignores ulimits: update it",
        ),
        finding(
            "home directory",
            seen.home_bytes > 0 && (!sized || seen.home_bytes <= template.home_size.as_u64()),
            mib(seen.home_bytes),
            "the image's HOME must be the template's home",
        ),
        finding(
            "/tmp",
            seen.tmp_bytes > 0 && (!sized || seen.tmp_bytes <= template.tmp_size.as_u64()),
            mib(seen.tmp_bytes),
            "the engine ignores tmpfs sizes: update it",
        ),
    ]
}

/// Everything from a sandbox is hostile, even to an operator's terminal.
fn printable(text: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(200).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Inspection {
        Inspection {
            kernel_log: "Starting gVisor...".into(),
            kernel_version: "Linux version 4.4.0".into(),
            uid: 1000,
            capabilities: "0000000000000000".into(),
            no_new_privs: true,
            interfaces: vec!["lo".into()],
            network_reachable: false,
            root_writable: false,
            process_limit: Some(64),
            file_limit: Some(1024),
            memory: 128 << 20,
            home_bytes: 50 << 20,
            tmp_bytes: 10 << 20,
        }
    }

    fn faults(change: impl FnOnce(&mut Inspection)) -> Vec<&'static str> {
        let mut seen = sealed();
        change(&mut seen);
        let findings = judge(&seen, &Template::default(), LauncherKind::Docker);
        let faults = findings.iter().filter(|f| !f.ok).map(|f| f.subject);
        faults.collect()
    }

    #[test]
    fn each_broken_seal_is_found() {
        assert!(faults(|_| ()).is_empty());
        assert_eq!(faults(|s| s.kernel_log = "Linux".into()), ["kernel"]);
        assert_eq!(faults(|s| s.interfaces.push("eth0".into())), ["network"]);
        assert_eq!(faults(|s| s.network_reachable = true), ["network"]);
        assert_eq!(faults(|s| s.root_writable = true), ["root file system"]);
        assert_eq!(faults(|s| s.uid = 0), ["user"]);
        assert_eq!(
            faults(|s| s.capabilities = "a80425fb".into()),
            ["capabilities"]
        );
        assert_eq!(faults(|s| s.capabilities.clear()), ["capabilities"]);
        assert_eq!(faults(|s| s.no_new_privs = false), ["no new privileges"]);
        assert_eq!(faults(|s| s.memory = 24 << 30), ["memory"]);
        assert_eq!(faults(|s| s.process_limit = None), ["processes"]);
        assert_eq!(faults(|s| s.file_limit = Some(1 << 20)), ["open files"]);
        assert_eq!(faults(|s| s.home_bytes = 1 << 40), ["home directory"]);
        assert_eq!(faults(|s| s.tmp_bytes = 0), ["/tmp"]);
    }

    #[test]
    fn what_a_sandbox_says_cannot_command_a_terminal() {
        let seen = Inspection {
            capabilities: "\x1b]0;owned\x07".into(),
            ..sealed()
        };
        let findings = judge(&seen, &Template::default(), LauncherKind::Docker);
        assert!(findings.iter().all(|f| !f.seen.contains('\x1b')));
    }
}
