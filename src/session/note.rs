//! What a gateway writes down of a session, so that the next one can take it back.

use std::time::SystemTime;

use belljar_link::message::Size;
use serde::{Deserialize, Serialize};

use super::{Identity, Recorded, Session, ShareRecord};

/// Raised when an older gateway could misunderstand a newer note.
const VERSION: u32 = 1;

/// A session at rest. Everything else of it lives in its sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Note {
    version: u32,
    #[serde(flatten)]
    pub(super) identity: Identity,
    /// The main terminal.
    pub(super) terminal: u32,
    /// Its size.
    pub(super) size: Size,
    /// Whether the next gateway is to go on recording.
    pub(super) recorded: bool,
    pub(super) shares: Vec<ShareRecord>,
}

/// Why a session is not taken back.
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
    /// The note of a live session.
    pub(super) fn of(session: &Session, terminal: u32) -> Self {
        let shares = session.shares.list();
        Self {
            version: VERSION,
            identity: session.identity.clone(),
            terminal,
            size: *session.size.borrow(),
            recorded: *session.recorded.borrow() == Recorded::Running,
            shares: shares.into_iter().map(|(record, _)| record).collect(),
        }
    }

    pub(super) fn write(&self) -> String {
        serde_json::to_string(self).expect("text and numbers")
    }

    /// A session that may live on.
    pub(super) fn read(note: &str, now: SystemTime) -> Result<Self, NoteError> {
        let note: Self = serde_json::from_str(note)?;
        if note.version != VERSION {
            return Err(NoteError::Version(note.version));
        }
        if note.identity.expires_at <= now {
            return Err(NoteError::Expired);
        }
        Ok(note)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::super::SessionId;
    use super::*;
    use crate::limit::Client;
    use crate::secret::Token;

    fn note(token: &Token) -> Note {
        let now = SystemTime::now();
        let identity = Identity {
            id: SessionId::random(),
            template: "base".into(),
            client: Client::of(Ipv4Addr::LOCALHOST.into()),
            created_at: now,
            expires_at: now + Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
            origin: None,
            subject: None,
            metadata: std::collections::BTreeMap::default(),
            token: token.hash(),
        };
        Note {
            version: VERSION,
            identity,
            terminal: 7,
            size: Size::default(),
            recorded: true,
            shares: Vec::new(),
        }
    }

    #[test]
    fn a_session_comes_back_whole_and_without_its_token() {
        let token = Token::random();
        let text = note(&token).write();
        assert!(!text.contains(token.reveal()));
        let back = Note::read(&text, SystemTime::now()).unwrap();
        assert!(back.identity.token.matches(token.reveal()));
        assert_eq!(back.terminal, 7);
        assert_eq!(back.write(), text);
    }

    #[test]
    fn what_cannot_live_on_does_not() {
        let text = note(&Token::random()).write();
        let later = SystemTime::now() + Duration::from_secs(61);
        assert!(matches!(Note::read(&text, later), Err(NoteError::Expired)));
        let newer = text.replace("\"version\":1", "\"version\":2");
        let now = SystemTime::now();
        assert!(matches!(
            Note::read(&newer, now),
            Err(NoteError::Version(2))
        ));
        for garbled in ["", "{}", "[]", &text[..text.len() / 2]] {
            assert!(matches!(
                Note::read(garbled, now),
                Err(NoteError::Garbled(_))
            ));
        }
    }
}
