//! What a sandbox is as a pod.

use std::collections::BTreeMap;
use std::time::Duration;

use belljar_link::message::AGENT_THREADS;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, Pod, PodDNSConfig, PodSecurityContext,
    PodSpec, ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use super::super::{POOL, SandboxId, SandboxSpec};
use crate::config;
use crate::secret::hex;

/// The container that the visitor is in.
pub(super) const CONTAINER: &str = "sandbox";

/// Where the agent is inside. Its directory holds nothing else and is mounted read-only.
const AGENT_DIR: &str = "/belljar";
pub(super) const AGENT: &str = "/belljar/belljar-agent";

/// Where the agent is in its own image.
const AGENT_IN_IMAGE: &str = "/belljar-agent";

/// Room for the agent's binary.
const AGENT_ROOM: &str = "16Mi";

/// Largest file a visitor can write, bytes: an outer wall beyond every tmpfs.
const FILE_SIZE: u64 = 1 << 30;

/// How much later than the agent the cluster ends a pod, which first has to be scheduled, to pull
/// images and to start.
const SLACK: Duration = Duration::from_secs(120);

pub(super) const LABEL_INSTANCE: &str = "belljar.dev/instance";
pub(super) const LABEL_SANDBOX: &str = "belljar.dev/sandbox";
pub(super) const LABEL_SESSION: &str = "belljar.dev/session";
pub(super) const LABEL_REPLICA: &str = "belljar.dev/replica";
pub(super) const LABEL_BOOT: &str = "belljar.dev/boot";
pub(super) const LABEL_TEMPLATE: &str = "belljar.dev/template";
/// The owner as one word, to select by.
pub(super) const LABEL_OWNER: &str = "belljar.dev/owner";
/// Of a member of the pool that nobody has claimed: [`MAKING`], then the stamp of what it was started from.
pub(super) const LABEL_POOL: &str = "belljar.dev/pool";
pub(super) const ANNOTATION_OWNER: &str = "belljar.dev/owner";
pub(super) const ANNOTATION_EXPIRES: &str = "belljar.dev/expires";
/// The main terminal of a member that waits.
pub(super) const ANNOTATION_TERMINAL: &str = "belljar.dev/terminal";
/// The gateway that has a link to a member.
pub(super) const ANNOTATION_HOLDER: &str = "belljar.dev/holder";
pub(super) const ANNOTATION_NOTE: &str = "belljar.dev/note";

/// The pool's label of a member that is not at its prompt yet.
pub(super) const MAKING: &str = "making";

/// A sandbox's pod.
pub(super) fn pod_name(id: &SandboxId) -> String {
    format!("belljar-{id}")
}

/// As a label's value: at most 63 letters, digits, `-`, `_` and `.`, the first and the last of them a
/// letter or a digit.
pub(super) fn label_value(text: &str) -> String {
    let fit = |c: char| {
        let fits = c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if fits { c } else { '-' }
    };
    let value: String = text.chars().map(fit).take(63).collect();
    let edge = |c: char| !c.is_ascii_alphanumeric();
    value.trim_matches(edge).to_owned()
}

/// An owner as a label's value: a hash, since some have other characters than labels may.
pub(super) fn owner_label(owner: &str) -> String {
    hex(&Sha256::digest(format!("belljar owner {owner}").as_bytes())[..16])
}

/// The pod, sealed. `longest` is how far its end may be moved.
pub(super) fn pod(
    cluster: &config::Kubernetes,
    spec: &SandboxSpec,
    longest: Duration,
    replica: &str,
    boot: &str,
) -> Pod {
    let template = &spec.template;
    let (uid, gid) = template.ids();
    let map = |pairs: &[(&str, String)]| -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs.map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
    };
    let expires = humantime::format_rfc3339_seconds(spec.expires_at).to_string();
    // The agent's own clock is exact; this is the wall behind it, and cannot be moved later on.
    let wall = (spec.deadline + longest + SLACK).as_secs();
    let memory = Some("Memory");
    let mut labels = map(&[
        (LABEL_INSTANCE, cluster.instance.clone()),
        (LABEL_SANDBOX, spec.id.to_string()),
        (LABEL_SESSION, label_value(&spec.session)),
        (LABEL_TEMPLATE, label_value(&spec.template_name)),
        (LABEL_OWNER, owner_label(&spec.owner)),
        (LABEL_REPLICA, replica.to_owned()),
        (LABEL_BOOT, boot.to_owned()),
    ]);
    // A pool is the cluster's where gateways can take over from each other.
    if spec.session == POOL && cluster.token_key_file.is_some() {
        labels.insert(LABEL_POOL.to_owned(), MAKING.to_owned());
    }
    Pod {
        metadata: ObjectMeta {
            name: Some(pod_name(&spec.id)),
            labels: Some(labels),
            annotations: Some(map(&[
                (ANNOTATION_OWNER, spec.owner.clone()),
                (ANNOTATION_EXPIRES, expires),
            ])),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            runtime_class_name: Some(cluster.runtime_class.clone()),
            restart_policy: Some("Never".into()),
            active_deadline_seconds: Some(i64::try_from(wall).unwrap_or(i64::MAX)),
            termination_grace_period_seconds: Some(1),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            hostname: Some("belljar".into()),
            // It has no network, and what the cluster's is called is none of its business.
            dns_policy: Some("None".into()),
            dns_config: Some(PodDNSConfig {
                nameservers: Some(vec!["127.0.0.1".into()]),
                ..PodDNSConfig::default()
            }),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(uid.into()),
                run_as_group: Some(gid.into()),
                fs_group: Some(gid.into()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".into(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            init_containers: Some(vec![installer(cluster, spec)]),
            containers: vec![container(spec)],
            volumes: Some(vec![
                volume("agent", None, AGENT_ROOM.to_owned()),
                volume("home", memory, template.home_size.as_u64().to_string()),
                volume("tmp", memory, template.tmp_size.as_u64().to_string()),
            ]),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn volume(name: &str, medium: Option<&str>, size: String) -> Volume {
    Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: Some(Quantity(size)),
        }),
        ..Volume::default()
    }
}

/// Brings the agent, in any image.
fn installer(cluster: &config::Kubernetes, spec: &SandboxSpec) -> Container {
    Container {
        name: "agent".into(),
        image: Some(cluster.agent_image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: Some(vec![
            AGENT_IN_IMAGE.into(),
            "install".into(),
            AGENT_DIR.into(),
        ]),
        resources: Some(resources(spec)),
        security_context: Some(sealed()),
        volume_mounts: Some(vec![mount("agent", AGENT_DIR, false)]),
        ..Container::default()
    }
}

fn container(spec: &SandboxSpec) -> Container {
    let template = &spec.template;
    let seconds = |d: Duration| d.as_secs().max(1).to_string();
    let command = [
        AGENT,
        "--sandbox",
        spec.id.as_str(),
        "--link",
        "stdio",
        // containerd ends an attach when any of the three streams ends.
        "--keep-stderr",
        "--deadline",
        &seconds(spec.deadline),
        "--unlinked",
        &seconds(spec.unlinked),
        // A pod has no limits of this kind, so the agent sets its own, which nobody below it can lift.
        "--processes",
        &(template.pids + AGENT_THREADS).to_string(),
        "--open-files",
        &template.open_files.to_string(),
        "--file-size",
        &FILE_SIZE.to_string(),
        "--core-size",
        "0",
    ];
    let env = template.env.iter().chain(&spec.env);
    let variable = |(name, value): (&String, &String)| EnvVar {
        name: name.clone(),
        // A `$(NAME)` would be replaced.
        value: Some(value.replace("$(", "$$(")),
        ..EnvVar::default()
    };
    let mut env: Vec<EnvVar> = env.map(variable).collect();
    env.push(variable((&"HOME".to_owned(), &template.home)));
    Container {
        name: CONTAINER.into(),
        image: Some(template.image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: Some(command.iter().map(|part| (*part).to_owned()).collect()),
        args: Some(Vec::new()),
        env: Some(env),
        working_dir: Some(template.home.clone()),
        stdin: Some(true),
        // A gateway that is lost must not take the agent's standard input with it.
        stdin_once: Some(false),
        tty: Some(false),
        resources: Some(resources(spec)),
        security_context: Some(sealed()),
        volume_mounts: Some(vec![
            mount("agent", AGENT_DIR, true),
            mount("home", &template.home, false),
            mount("tmp", "/tmp", false),
        ]),
        ..Container::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    }
}

/// What is asked for is what there is: no sandbox lives on what another has not used.
fn resources(spec: &SandboxSpec) -> ResourceRequirements {
    let template = &spec.template;
    let cpu = format!("{:.0}m", template.cpus * 1000.0);
    let memory = template.memory.as_u64().to_string();
    let both = BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpu)),
        ("memory".to_owned(), Quantity(memory)),
    ]);
    ResourceRequirements {
        requests: Some(both.clone()),
        limits: Some(both),
        ..ResourceRequirements::default()
    }
}

fn sealed() -> SecurityContext {
    SecurityContext {
        read_only_root_filesystem: Some(true),
        allow_privilege_escalation: Some(false),
        privileged: Some(false),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".into()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::config::Template;

    fn made() -> serde_json::Value {
        let spec = SandboxSpec {
            id: SandboxId::random(),
            template_name: "base".into(),
            template: Template::default(),
            env: BTreeMap::from([("A".to_owned(), "$(B)".to_owned())]),
            session: "sess_0".into(),
            owner: "2001:db8::/64".into(),
            expires_at: SystemTime::now(),
            deadline: Duration::from_secs(60),
            unlinked: Duration::from_secs(60),
        };
        let cluster = config::Kubernetes::default();
        let pod = pod(&cluster, &spec, Duration::from_secs(1800), "one", "0");
        serde_json::to_value(pod).unwrap()
    }

    #[test]
    fn a_pod_is_sealed() {
        let pod = made();
        let spec = &pod["spec"];
        assert_eq!(spec["runtimeClassName"], "gvisor");
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!(spec["enableServiceLinks"], false);
        assert_eq!(spec["activeDeadlineSeconds"], 60 + 1800 + 120);
        assert_eq!(spec["securityContext"]["runAsUser"], 1000);
        assert_eq!(
            spec["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        for container in [&spec["containers"][0], &spec["initContainers"][0]] {
            let security = &container["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["capabilities"]["drop"][0], "ALL");
            let resources = &container["resources"];
            assert_eq!(resources["requests"], resources["limits"]);
            assert_eq!(resources["limits"]["cpu"], "500m");
        }
        let mounts = spec["containers"][0]["volumeMounts"].as_array().unwrap();
        let agent = mounts
            .iter()
            .find(|mount| mount["name"] == "agent")
            .unwrap();
        assert_eq!(
            agent["readOnly"], true,
            "a visitor cannot replace the agent"
        );
        for volume in &spec["volumes"].as_array().unwrap()[1..] {
            assert_eq!(volume["emptyDir"]["medium"], "Memory");
        }
        assert_eq!(spec["containers"][0]["env"][0]["value"], "$$(B)");
    }

    #[test]
    fn any_text_becomes_a_label() {
        assert_eq!(label_value("2001:db8::/64"), "2001-db8---64");
        assert_eq!(label_value("-a_b.c/"), "a_b.c");
        assert_eq!(label_value(&"x".repeat(100)).len(), 63);
        assert_eq!(label_value("::"), "");
    }
}
