//! The file of the keys: TOML, for people to read, written by `belljar key`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::Key;

/// Keys that a file may hold, each of about 250 bytes.
pub const MAX_KEYS: usize = 10_000;

/// Largest file that is read, bytes.
const MAX_FILE: u64 = 8 * 1024 * 1024;

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", .path.display())]
pub struct KeysError {
    path: PathBuf,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a file of keys: {0}")]
    Garbled(Box<toml::de::Error>),
    #[error("it holds more than {MAX_KEYS} keys")]
    TooMany,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Content {
    keys: Vec<Key>,
}

/// The keys of a file; none if it is not there.
pub fn read(path: &Path) -> Result<Vec<Key>, KeysError> {
    read_file(path).map_err(|cause| KeysError {
        path: path.to_owned(),
        cause,
    })
}

fn read_file(path: &Path) -> Result<Vec<Key>, Cause> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    let content: Content = toml::from_str(&text).map_err(|e| Cause::Garbled(Box::new(e)))?;
    if content.keys.len() > MAX_KEYS {
        return Err(Cause::TooMany);
    }
    Ok(content.keys)
}

/// Change the keys of a file, which is made if it is not there, for its owner only, and for the group
/// of its directory if that is another. Whoever dies
/// meanwhile leaves the old or the new, never a half; two at once take turns.
pub fn edit<T>(path: &Path, change: impl FnOnce(&mut Vec<Key>) -> T) -> Result<T, KeysError> {
    edit_file(path, change).map_err(|cause| KeysError {
        path: path.to_owned(),
        cause,
    })
}

fn edit_file<T>(path: &Path, change: impl FnOnce(&mut Vec<Key>) -> T) -> Result<T, Cause> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    // The directory, and not a file that is replaced, is what all of them know.
    let turn = File::open(dir)?;
    flock(&turn, FlockOperation::LockExclusive).map_err(io::Error::from)?;
    let mut content = Content {
        keys: read_file(path)?,
    };
    let changed = change(&mut content.keys);
    if content.keys.len() > MAX_KEYS {
        return Err(Cause::TooMany);
    }
    let text = toml::to_string(&content).map_err(io::Error::other)?;
    let mut file = options.open(&new)?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())?;
    let group = turn.metadata()?.gid();
    if file.metadata()?.gid() != group {
        // A directory of the gateway's group is how root, who writes, lets the gateway read.
        std::os::unix::fs::fchown(&file, None, Some(group))?;
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
    }
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::super::{NewKey, Scope};
    use super::*;

    #[test]
    fn keys_are_written_whole_and_for_their_owner_only() {
        let dir = std::env::temp_dir().join(format!("belljar-keys-file-{}", std::process::id()));
        let path = dir.join("inner/keys.toml");
        assert!(read(&path).unwrap().is_empty());
        let mut texts = Vec::new();
        for name in ["one", "other \"quoted\""] {
            let (key, text) = Key::new(NewKey {
                name: name.into(),
                scopes: [Scope::Admin].into(),
                expires: None,
                public_key: None,
                sandboxes: Some(3),
                sandboxes_per_hour: None,
            });
            edit(&path, |keys| keys.push(key)).unwrap();
            texts.push(text);
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        for key in &texts {
            assert!(!text.contains(key.rsplit('_').next().unwrap()), "a secret");
        }
        let names: Vec<String> = read(&path).unwrap().into_iter().map(|k| k.name).collect();
        assert_eq!(names, ["one", "other \"quoted\""]);
        fs::remove_dir_all(dir).unwrap();
    }
}
