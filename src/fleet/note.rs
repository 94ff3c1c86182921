//! What a gateway writes down of a held sandbox, so that the next one can take it back.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Held, Identity};

/// Raised when an older gateway could misunderstand a newer note.
const VERSION: u32 = 1;

/// What tells these notes from those of sessions, which have no such field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Held,
}

#[derive(Debug, Deserialize)]
struct Tagged {
    #[serde(rename = "kind")]
    _kind: Kind,
}

/// A held sandbox at rest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Note {
    kind: Kind,
    version: u32,
    pub(super) identity: Identity,
    /// When it ends.
    #[serde(with = "humantime_serde")]
    pub(super) expires_at: SystemTime,
    /// Whether there is nothing but this note.
    pub(super) stopped: bool,
}

/// Why a sandbox is not taken back.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoteError {
    #[error("its note is not valid: {0}")]
    Garbled(#[from] serde_json::Error),
    #[error("its note is of version {0}, this gateway reads {VERSION}")]
    Version(u32),
    #[error("its time is over")]
    Expired,
}

impl Note {
    /// Whether this is such a note.
    pub(super) fn is(note: &str) -> bool {
        serde_json::from_str::<Tagged>(note).is_ok()
    }

    pub(super) fn of(held: &Held, stopped: bool) -> Self {
        let identity: &Identity = held;
        Self {
            kind: Kind::Held,
            version: VERSION,
            identity: identity.clone(),
            expires_at: held.expires_at(),
            stopped,
        }
    }

    pub(super) fn write(&self) -> String {
        serde_json::to_string(self).expect("text and numbers")
    }

    /// A sandbox that may live on.
    pub(super) fn read(note: &str, now: SystemTime) -> Result<Self, NoteError> {
        let note: Self = serde_json::from_str(note)?;
        if note.version != VERSION {
            return Err(NoteError::Version(note.version));
        }
        if note.expires_at <= now {
            return Err(NoteError::Expired);
        }
        Ok(note)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Caller, Order, State, order::Plan};
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_sandbox_comes_back_whole() {
        let config = Config::defaults();
        let mut order = Order::new(Caller::local());
        order.memory = Some(200 << 20);
        order.env.insert("A".into(), "b\"\n".into());
        let plan = Plan::of(order, None, &config).unwrap();
        let template = plan.recipe.template(&config).unwrap();
        let (identity, ttl) = plan.identity(&template);
        let now = SystemTime::now();
        let (held, _handle) = Held::new(identity, now + ttl, State::Running);
        let text = Note::of(&held, false).write();
        assert!(Note::is(&text));
        let back = Note::read(&text, now).unwrap();
        assert_eq!(back.write(), text);
        assert_eq!(back.identity.recipe, held.recipe);
        let later = now + ttl + Duration::from_secs(1);
        assert!(matches!(Note::read(&text, later), Err(NoteError::Expired)));
        let newer = text.replace("\"version\":1", "\"version\":2");
        assert!(matches!(
            Note::read(&newer, now),
            Err(NoteError::Version(2))
        ));
        for other in ["", "{}", "{\"version\":1}", "{\"kind\":\"other\"}", "[]"] {
            assert!(!Note::is(other), "{other}");
            assert!(matches!(Note::read(other, now), Err(NoteError::Garbled(_))));
        }
    }
}
