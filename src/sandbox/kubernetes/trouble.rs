//! What the cluster says when it does not work, as one sentence for an operator with what to do.

use super::super::LaunchError;

/// What the API server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Version,
    Create,
    Get,
    List,
    Patch,
    Delete,
    Channel,
    Lease,
}

impl Doing {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Version => "ask the API server for its version",
            Self::Create => "create a pod",
            Self::Get => "get a pod",
            Self::List => "list pods",
            Self::Patch => "patch a pod",
            Self::Delete => "delete a pod",
            Self::Channel => "open a stream to a pod",
            Self::Lease => "hold the lease of the pool",
        }
    }
}

/// What an error of the API server means.
pub(super) fn trouble(doing: Doing, error: kube::Error) -> LaunchError {
    let what = doing.name();
    match error {
        kube::Error::Api(status) => answer(doing, status.code, &status.message),
        other => LaunchError::Cluster {
            problem: format!(
                "the API server cannot be reached ({what}): {}",
                causes(&other)
            ),
            remedy: "look whether the API server runs and whether kubernetes.kubeconfig names it",
        },
    }
}

/// What an answer of the API server means.
pub(super) fn answer(doing: Doing, code: u16, message: &str) -> LaunchError {
    let what = doing.name();
    let message = message.trim();
    let remedy = if message.contains("RuntimeClass") {
        "apply the RuntimeClass of deploy/kubernetes, or set kubernetes.runtime_class"
    } else if message.contains("exceeded quota") {
        "raise the namespace's ResourceQuota, or lower limits.max_sandboxes to what it allows"
    } else if message.contains("namespaces") && code == 404 {
        "make the namespace (deploy/kubernetes), or set kubernetes.namespace"
    } else if matches!(code, 401 | 403) {
        "give the gateway's account the rights of deploy/kubernetes: see `kubectl auth can-i --list`"
    } else {
        "look at the API server's log"
    };
    LaunchError::Cluster {
        problem: format!("the API server refused to {what} ({code}): {message}"),
        remedy,
    }
}

/// Why a pod will not run as things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stuck {
    Unschedulable(String),
    Image { image: String, cause: String },
    Container(String),
}

impl Stuck {
    /// What a container that waits, waits for in vain.
    pub(super) fn waiting(reason: &str, message: &str, image: &str) -> Option<Self> {
        let cause = if message.is_empty() { reason } else { message }.to_owned();
        match reason {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable" => Some(Self::Image {
                image: image.to_owned(),
                cause,
            }),
            "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "CrashLoopBackOff" => Some(Self::Container(cause)),
            _ => None,
        }
    }

    /// As an error, of a sandbox with this image.
    pub(super) fn explain(&self, own: &str) -> LaunchError {
        match self {
            Self::Unschedulable(cause) => LaunchError::Cluster {
                problem: format!("no node has room for the sandbox: {cause}"),
                remedy: "add nodes, or lower limits.max_sandboxes or the template's memory and cpus",
            },
            Self::Image { image, cause } => {
                let image = if image.is_empty() { own } else { image };
                LaunchError::Cluster {
                    problem: format!("the image {image} cannot be pulled: {cause}"),
                    remedy: "push it to a registry that the nodes reach, or correct its name: the \
                             template's image or kubernetes.agent_image",
                }
            }
            Self::Container(cause) => LaunchError::Cluster {
                problem: format!("the sandbox's container cannot be started: {cause}"),
                remedy: "look at `kubectl describe pod`; the template's home must be a directory that \
                         can be mounted over",
            },
        }
    }
}

/// An error and its causes in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trouble_says_what_to_do() {
        let remedies = [
            (
                403,
                "pod rejected: RuntimeClass \"x\" not found",
                "RuntimeClass",
            ),
            (
                403,
                "pods \"x\" is forbidden: exceeded quota: q",
                "ResourceQuota",
            ),
            (404, "namespaces \"x\" not found", "namespace"),
            (403, "User \"x\" cannot create resource \"pods\"", "can-i"),
            (500, "etcdserver: no leader", "log"),
        ];
        for (code, message, remedy) in remedies {
            let error = answer(Doing::Create, code, message);
            assert!(error.remedy().contains(remedy), "{}", error.remedy());
            assert!(error.to_string().contains(message), "{error}");
        }
    }

    #[test]
    fn the_image_that_is_missing_is_named() {
        let stuck = Stuck::waiting("ErrImagePull", "not found", "nope:1").unwrap();
        assert!(stuck.explain("own").to_string().contains("nope:1"));
        assert_eq!(Stuck::waiting("ContainerCreating", "", ""), None);
        assert_eq!(Stuck::waiting("PodInitializing", "", ""), None);
    }
}
