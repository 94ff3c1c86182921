//! API keys: who a program is, and what it may do. Only their hashes are kept.
//!
//! A key is `blj_`, its id, `_` and its secret. The id finds it, the secret proves it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::secret::{Token, TokenHash, random_hex};

mod file;

pub use file::{KeysError, MAX_KEYS, edit, read};

/// What every key begins with, so that people and scanners know one when they see it.
const PREFIX: &str = "blj_";

/// A key's public part: 12 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyId(String);

impl KeyId {
    fn random() -> Self {
        Self(random_hex::<6>())
    }
}

impl TryFrom<String> for KeyId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
        if digits && text.len() == 12 {
            Ok(Self(text))
        } else {
            Err("a key's id has 12 hexadecimal digits")
        }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Sandboxes of its own.
    Sandboxes,
    /// Everybody's sandboxes, and templates.
    Admin,
    /// Sessions of visitors whom a site sends, with tokens that it signs itself.
    Embed,
}

impl Scope {
    /// The name in the keys file and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sandboxes => "sandboxes",
            Self::Admin => "admin",
            Self::Embed => "embed",
        }
    }
}

impl FromStr for Scope {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sandboxes" => Ok(Self::Sandboxes),
            "admin" => Ok(Self::Admin),
            "embed" => Ok(Self::Embed),
            _ => Err("a scope is one of: sandboxes, admin, embed"),
        }
    }
}

/// A key, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Its public part.
    pub id: KeyId,
    /// What people call it.
    pub name: String,
    hash: TokenHash,
    /// What it may be used for.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    #[serde(with = "humantime_serde")]
    pub created: SystemTime,
    /// When it stops to open anything.
    #[serde(
        with = "humantime_serde",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<SystemTime>,
    /// The public half of the key by which a site signs its visitors' tokens: Ed25519, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Sandboxes at once; `api.sandboxes` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandboxes: Option<u32>,
    /// Starts in any hour; `api.sandboxes_per_hour` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandboxes_per_hour: Option<u32>,
}

/// What a new key is to be.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What people call it.
    pub name: String,
    /// What it may be used for.
    pub scopes: BTreeSet<Scope>,
    /// When it stops to open anything.
    pub expires: Option<SystemTime>,
    /// The public half of the key by which a site signs its visitors' tokens.
    pub public_key: Option<String>,
    /// Sandboxes at once.
    pub sandboxes: Option<u32>,
    /// Starts in any hour.
    pub sandboxes_per_hour: Option<u32>,
}

impl Key {
    /// A new key, and its text in the clear, which nobody can tell again.
    pub fn new(new: NewKey) -> (Self, String) {
        let (id, token) = (KeyId::random(), Token::random());
        let text = format!("{PREFIX}{id}_{}", token.reveal());
        let key = Self {
            id,
            name: new.name,
            hash: token.hash(),
            scopes: new.scopes,
            created: SystemTime::now(),
            expires: new.expires,
            public_key: new.public_key,
            sandboxes: new.sandboxes,
            sandboxes_per_hour: new.sandboxes_per_hour,
        };
        (key, text)
    }

    /// Whether it may be used for this. Who may do everything may do this, too.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

/// Why a key opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no key, it was revoked, or its secret is wrong: which of these is nobody's business.
    #[error("this key is not valid")]
    Unknown,
    /// Its time is over.
    #[error("this key has expired")]
    Expired,
}

/// The keys in force, replaced by a reload.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    ring: ArcSwap<Ring>,
}

#[derive(Debug)]
enum Ring {
    Keys(BTreeMap<KeyId, Arc<Key>>),
    /// The file is there and cannot be read: nobody is let in, rather than everybody of this
    /// machine.
    Unreadable,
}

impl Keys {
    /// The keys of this file. One that is not there has none; one that cannot be read lets nobody
    /// in, and is a line in the log.
    pub fn open(path: &Path) -> Self {
        let ring = load(path).unwrap_or_else(|error| {
            tracing::error!(%error, "the API lets nobody in: mend the file and reload");
            Ring::Unreadable
        });
        Self {
            path: path.to_owned(),
            ring: ArcSwap::from_pointee(ring),
        }
    }

    /// Read the file anew. If it cannot be read, nothing changes. Whether anything has changed.
    pub fn reload(&self) -> Result<bool, KeysError> {
        let ring = load(&self.path)?;
        let ids = |ring: &Ring| match ring {
            Ring::Keys(keys) => {
                let written: Vec<_> = keys.values().map(|key| format!("{key:?}")).collect();
                Some(written)
            }
            Ring::Unreadable => None,
        };
        let changed = ids(&self.ring.load()) != ids(&ring);
        self.ring.store(Arc::new(ring));
        Ok(changed)
    }

    /// Whether nobody needs a key.
    pub fn is_empty(&self) -> bool {
        let opens = |key: &Arc<Key>| key.may(Scope::Sandboxes);
        matches!(&**self.ring.load(), Ring::Keys(keys) if !keys.values().any(opens))
    }

    /// The public half of the key by which a site signs its visitors' tokens, if `id` is one that is in
    /// force.
    pub fn embed_key(&self, id: &str, now: SystemTime) -> Option<String> {
        let ring = self.ring.load();
        let Ring::Keys(keys) = &**ring else {
            return None;
        };
        let key = keys.get(&KeyId::try_from(id.to_owned()).ok()?)?;
        let in_force = key.expires.is_none_or(|expires| expires > now);
        let embed = key.scopes.contains(&Scope::Embed) && in_force;
        key.public_key.clone().filter(|_| embed)
    }

    /// The key that somebody presents, in the clear.
    pub fn find(&self, presented: &str, now: SystemTime) -> Result<Arc<Key>, Refusal> {
        let ring = self.ring.load();
        let Ring::Keys(keys) = &**ring else {
            return Err(Refusal::Unknown);
        };
        let parts = presented
            .strip_prefix(PREFIX)
            .and_then(|p| p.split_once('_'));
        let (id, secret) = parts.ok_or(Refusal::Unknown)?;
        let id = KeyId::try_from(id.to_owned()).map_err(|_| Refusal::Unknown)?;
        let key = keys.get(&id).filter(|key| key.hash.matches(secret));
        let key = key.ok_or(Refusal::Unknown)?;
        if key.expires.is_some_and(|expires| expires <= now) {
            return Err(Refusal::Expired);
        }
        Ok(key.clone())
    }
}

fn load(path: &Path) -> Result<Ring, KeysError> {
    let keys = read(path)?.into_iter();
    let by_id = keys.map(|key| (key.id.clone(), Arc::new(key)));
    Ok(Ring::Keys(by_id.collect()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn new(expires: Option<SystemTime>) -> NewKey {
        NewKey {
            name: "ci".into(),
            scopes: BTreeSet::from([Scope::Sandboxes]),
            expires,
            public_key: None,
            sandboxes: None,
            sandboxes_per_hour: None,
        }
    }

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("belljar-keys-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn only_the_whole_key_opens_and_only_in_its_time() {
        let path = dir("open").join("keys.toml");
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let (one, text) = Key::new(new(Some(now + hour)));
        let (other, _) = Key::new(new(None));
        edit(&path, |keys| keys.extend([one.clone(), other.clone()])).unwrap();
        let keys = Keys::open(&path);
        assert!(!keys.is_empty());
        let found = keys.find(&text, now).unwrap();
        assert_eq!((&found.id, found.may(Scope::Admin)), (&one.id, false));
        assert_eq!(keys.find(&text, now + hour).unwrap_err(), Refusal::Expired);
        let secret = text.rsplit('_').next().unwrap();
        for wrong in [
            String::new(),
            secret.to_owned(),
            format!("{PREFIX}{}_{secret}", other.id),
            format!("{PREFIX}{}_", one.id),
            text[..text.len() - 1].to_owned(),
            format!("{text}0"),
        ] {
            assert_eq!(
                keys.find(&wrong, now).unwrap_err(),
                Refusal::Unknown,
                "{wrong}"
            );
        }
        edit(&path, |keys| keys.retain(|key| key.id != one.id)).unwrap();
        assert!(keys.find(&text, now).is_ok(), "until it is reloaded");
        assert!(keys.reload().unwrap());
        assert!(!keys.reload().unwrap(), "nothing has changed");
        assert_eq!(keys.find(&text, now).unwrap_err(), Refusal::Unknown);
    }

    #[test]
    fn a_file_that_cannot_be_read_lets_nobody_in() {
        let path = dir("broken").join("keys.toml");
        assert!(Keys::open(&path).is_empty(), "none is not a mistake");
        let (key, text) = Key::new(new(None));
        edit(&path, |keys| keys.push(key)).unwrap();
        let keys = Keys::open(&path);
        std::fs::write(&path, "[[keys]]\nid = 7\n").unwrap();
        keys.reload().unwrap_err();
        assert!(keys.find(&text, SystemTime::now()).is_ok(), "the old ones");
        let broken = Keys::open(&path);
        assert!(!broken.is_empty());
        broken.find(&text, SystemTime::now()).unwrap_err();
        edit(&path, Vec::clear).unwrap_err();
    }
}
