//! Who asks, and whose a sandbox is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Api;
use crate::keys::{Key, KeyId, Scope};
use crate::limit::Allowance;

/// Whose a sandbox is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The holder of a key.
    Key(KeyId),
    /// A program of the gateway's own machine, where nobody needs a key.
    Local,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key {id}"),
            Self::Local => f.write_str("local"),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As an owner.
    pub owner: Owner,
    /// Whether everybody's sandboxes are this caller's business.
    pub admin: bool,
    /// Sandboxes at once, if it is not `api.sandboxes`.
    sandboxes: Option<u32>,
    /// Starts in any hour, if it is not `api.sandboxes_per_hour`.
    per_hour: Option<u32>,
}

impl Caller {
    /// A program of this machine.
    pub fn local() -> Self {
        Self {
            owner: Owner::Local,
            admin: true,
            sandboxes: None,
            per_hour: None,
        }
    }

    /// The holder of a key.
    pub fn of(key: &Key) -> Self {
        Self {
            owner: Owner::Key(key.id.clone()),
            admin: key.may(Scope::Admin),
            sandboxes: key.sandboxes,
            per_hour: key.sandboxes_per_hour,
        }
    }

    /// Whether this owner's sandboxes are there for the caller.
    pub fn sees(&self, owner: &Owner) -> bool {
        self.admin || self.owner == *owner
    }

    pub(super) fn allowance(&self, api: &Api) -> Allowance {
        Allowance {
            at_once: self.sandboxes.unwrap_or(api.sandboxes),
            per_hour: self.per_hour.unwrap_or(api.sandboxes_per_hour),
        }
    }
}
