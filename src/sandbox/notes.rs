//! Notes that one gateway leaves for the next: a small file for each sandbox, in a directory that only
//! gateways can read. An engine's labels cannot be changed after the start, and an agent lives with
//! its visitor, so neither is the place for what a session is.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::SandboxId;

/// Largest note, bytes. A session's takes 0.4 KiB, each of its shares 0.2 more. A program's sandbox
/// has an environment and metadata that came in a request of 64 KiB at most; JSON may write one of
/// its characters as six.
const MAX_NOTE: u64 = 512 * 1024;

const SUFFIX: &str = ".note";

/// A note that is being written.
const UNFINISHED: &str = ".new";

/// A directory of notes.
#[derive(Debug)]
pub(super) struct Notes {
    dir: PathBuf,
}

impl Notes {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(format!("{id}{SUFFIX}"))
    }

    fn unfinished(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(format!("{id}{UNFINISHED}"))
    }

    /// Write a note in the place of the one before. Whoever dies meanwhile leaves the old or the
    /// new, never a half.
    pub(super) fn write(&self, id: &SandboxId, note: &str) -> io::Result<()> {
        if note.len() as u64 > MAX_NOTE {
            return Err(io::Error::other(format!("a note of {} bytes", note.len())));
        }
        fs::create_dir_all(&self.dir)?;
        fs::set_permissions(&self.dir, Permissions::from_mode(0o700))?;
        let new = self.unfinished(id);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&new)?.write_all(note.as_bytes())?;
        fs::rename(new, self.path(id))
    }

    pub(super) fn remove(&self, id: &SandboxId) -> io::Result<()> {
        for path in [self.path(id), self.unfinished(id)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Every sandbox with a note; one that cannot be read is told as an error.
    pub(super) fn all(&self) -> io::Result<Vec<(SandboxId, io::Result<String>)>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let ids = entries.filter_map(|entry| {
            let name = entry.ok()?.file_name();
            SandboxId::parse(name.to_str()?.strip_suffix(SUFFIX)?)
        });
        Ok(ids
            .map(|id| {
                let note = read(&self.path(&id));
                (id, note)
            })
            .collect())
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut note = String::new();
    File::open(path)?.take(MAX_NOTE).read_to_string(&mut note)?;
    Ok(note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_there_until_it_is_removed_and_only_for_gateways() {
        let dir = std::env::temp_dir().join(format!("belljar-notes-{}", std::process::id()));
        let notes = Notes::new(dir.clone());
        assert!(notes.all().unwrap().is_empty(), "no directory is no note");

        let (one, other) = (SandboxId::random(), SandboxId::random());
        notes.write(&one, "old").unwrap();
        notes.write(&one, "new").unwrap();
        notes.write(&other, "else").unwrap();
        assert!(notes.write(&other, &"x".repeat(600_000)).is_err());
        fs::write(dir.join("stranger.note"), "x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&notes.path(&one))), (0o700, 0o600));

        let mut all: Vec<_> = notes.all().unwrap().into_iter().collect();
        all.sort_by_key(|(id, _)| *id != one);
        let read: Vec<&str> = all.iter().map(|(_, n)| n.as_deref().unwrap()).collect();
        assert_eq!(read, ["new", "else"]);

        fs::write(notes.path(&other), [0xFF]).unwrap();
        let broken = notes
            .all()
            .unwrap()
            .into_iter()
            .find(|(id, _)| *id == other);
        assert!(broken.unwrap().1.is_err(), "not text");

        notes.remove(&one).unwrap();
        notes.remove(&one).unwrap();
        assert_eq!(notes.all().unwrap().len(), 1);
        fs::remove_dir_all(dir).unwrap();
    }
}
