//! What a session is created with, and why it was not.

use std::collections::BTreeMap;
use std::time::Duration;

use belljar_link::message::Size;

use crate::config::Template;
use crate::limit::{self, Client};
use crate::sandbox::AtCapacity;
use crate::telemetry::TraceParent;

/// What a session is created with.
#[derive(Debug, Clone)]
pub struct Create {
    /// Whom it counts for.
    pub client: Client,
    /// The template's name; the configured default if absent.
    pub template: Option<String>,
    /// The terminal's first size.
    pub size: Size,
    /// Added to the template's environment.
    pub env: BTreeMap<String, String>,
    /// Shell lines run after the template's own and before the visitor's shell.
    pub init: Vec<String>,
    /// Shorter than the template's maximum duration, if present.
    pub max_duration: Option<Duration>,
    /// Record it, whatever the template says.
    pub record: bool,
    /// The origin whose pages may come to it besides the configured ones: that of the site that has
    /// sent the visitor, if one has.
    pub origin: Option<String>,
    /// Who the visitor is to that site.
    pub subject: Option<String>,
    /// What that site wants to find with the session.
    pub metadata: BTreeMap<String, String>,
    /// The trace that it is a part of, if present.
    pub trace: Option<TraceParent>,
}

/// A creation that is in order.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) create: Create,
    pub(super) template_name: String,
    pub(super) template: Template,
    /// At most the template's.
    pub(super) max_duration: Duration,
}

/// Why a session was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The client is over a limit.
    #[error(transparent)]
    Limited(#[from] limit::Refusal),
    /// There is no place.
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    /// None came free within `limits.queue_timeout`.
    #[error("no place came free in time")]
    WaitedTooLong,
    /// There is no such template.
    #[error("there is no template {0:?}")]
    NoTemplate(String),
    /// A duration is out of range.
    #[error("timeout: must be from 1000 to {} ms", max.as_millis())]
    BadDuration {
        /// The longest allowed.
        max: Duration,
    },
    /// Recording on request is not allowed.
    #[error("record: sessions are not recorded on request here")]
    NotRecorded,
    /// The engine is not usable.
    #[error("the engine is not usable: {0}")]
    Unavailable(String),
    /// The gateway is going away.
    #[error("the gateway is going away")]
    ShuttingDown,
}
