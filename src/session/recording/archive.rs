//! The directory of recordings: which there are, how large they are, which have to go.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::config::Recordings;

/// Recordings kept at most, however small they are: each costs a directory entry and about 100
/// bytes of memory.
const MAX_FILES: usize = 10_000;

/// Room that every recording leaves below its bound, to say at its end that it reached it.
const LAST_WORDS: u64 = 256;

/// Why nothing more can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The recording is as large as one may be.
    Recording,
    /// So are all together, and none of the others is finished.
    Archive,
}

#[derive(Debug)]
struct Entry {
    /// Bytes that count.
    charged: u64,
    /// Bytes that are there: whole lines.
    written: u64,
    /// When it was finished, if it is.
    finished: Option<SystemTime>,
}

/// What is kept. Files are removed by whoever is told which ones.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    max_size: u64,
    max_total: u64,
    retention: Duration,
    /// By session.
    entries: Mutex<BTreeMap<String, Entry>>,
}

impl Archive {
    /// The archive as earlier gateways have left it. What cannot be read is logged, and will be
    /// noticed again by the first recording.
    pub fn open(config: &Recordings) -> Self {
        let archive = Self {
            dir: config.dir.clone(),
            max_size: config.max_size.as_u64(),
            max_total: config.max_total.as_u64(),
            retention: config.retention,
            entries: Mutex::default(),
        };
        match archive.scan() {
            Ok(entries) => *archive.entries() = entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(
                dir = %archive.dir.display(), %error,
                "the recordings of earlier gateways cannot be read"
            ),
        }
        archive
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // No code that could panic runs under the lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scan(&self) -> io::Result<BTreeMap<String, Entry>> {
        let mut entries = BTreeMap::new();
        for found in std::fs::read_dir(&self.dir)? {
            let path = found?.path();
            if path.extension().is_none_or(|extension| extension != "cast") {
                continue;
            }
            let Some(session) = path.file_stem().and_then(|stem| stem.to_str()) else {
                continue;
            };
            let metadata = std::fs::metadata(&path)?;
            let entry = Entry {
                charged: metadata.len(),
                written: metadata.len(),
                finished: Some(metadata.modified()?),
            };
            entries.insert(session.to_owned(), entry);
        }
        Ok(entries)
    }

    /// Make sure that there is a directory, and that it is nobody else's business.
    pub(super) fn prepare(&self) -> io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        let mode = std::fs::metadata(&self.dir)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(io::Error::other(format!(
                "others may enter the directory of recordings (mode {mode:o}): chmod 700 it"
            )));
        }
        Ok(())
    }

    /// Where a session's recording is.
    pub(super) fn path(&self, session: &str) -> PathBuf {
        self.dir.join(format!("{session}.cast"))
    }

    /// Where it is noted how far an unfinished one has come.
    pub(super) fn progress_path(&self, session: &str) -> PathBuf {
        self.dir.join(format!("{session}.progress"))
    }

    /// A recording is being written, from `length` on.
    pub(super) fn begin(&self, session: &str, length: u64) {
        let entry = Entry {
            charged: length,
            written: length,
            finished: None,
        };
        self.entries().insert(session.to_owned(), entry);
    }

    /// Count `bytes` more for a recording, or say why not. Older ones make room.
    pub(super) fn charge(&self, session: &str, bytes: u64) -> Result<(), Full> {
        self.charge_up_to(session, bytes, self.max_size - LAST_WORDS)
    }

    /// The same, for what is said at the very end.
    pub(super) fn charge_last_words(&self, session: &str, bytes: u64) -> Result<(), Full> {
        self.charge_up_to(session, bytes, self.max_size)
    }

    fn charge_up_to(&self, session: &str, bytes: u64, most: u64) -> Result<(), Full> {
        let mut entries = self.entries();
        let charged = entries.get(session).map_or(0, |entry| entry.charged);
        if charged + bytes > most {
            return Err(Full::Recording);
        }
        let mut total: u64 = entries.values().map(|entry| entry.charged).sum();
        while total + bytes > self.max_total || entries.len() > MAX_FILES {
            let finished = entries.iter().filter_map(|(name, entry)| {
                let at = entry.finished?;
                Some((at, name.clone()))
            });
            let (_, oldest) = finished.min().ok_or(Full::Archive)?;
            total -= self.forget(&mut entries, &oldest);
        }
        if let Some(entry) = entries.get_mut(session) {
            entry.charged += bytes;
        }
        Ok(())
    }

    /// What was charged is there.
    pub(super) fn wrote(&self, session: &str, length: u64) {
        if let Some(entry) = self.entries().get_mut(session) {
            entry.written = length;
        }
    }

    /// A recording has come to its end, at `length`.
    pub(super) fn finish(&self, session: &str, length: u64) {
        if let Some(entry) = self.entries().get_mut(session) {
            *entry = Entry {
                charged: length,
                written: length,
                finished: Some(SystemTime::now()),
            };
        }
    }

    /// Where a session's recording is, and how much of it there is: whole lines. `None` if there is
    /// none, or not any more.
    pub fn find(&self, session: &str) -> Option<(PathBuf, u64)> {
        let written = self.entries().get(session)?.written;
        (written > 0).then(|| (self.path(session), written))
    }

    /// Remove what was kept long enough. Call now and then, where it may block.
    pub fn prune(&self, now: SystemTime) {
        let mut entries = self.entries();
        let old = |entry: &Entry| {
            let finished = entry.finished?;
            let age = now.duration_since(finished).ok()?;
            (age >= self.retention).then_some(())
        };
        let expired = entries
            .iter()
            .filter_map(|(name, entry)| old(entry).map(|()| name.clone()));
        for name in expired.collect::<Vec<_>>() {
            self.forget(&mut entries, &name);
        }
    }

    /// Remove a recording; returns how much room that makes. Under the lock, so that nobody is
    /// given the room before it is there; an unlink takes microseconds.
    fn forget(&self, entries: &mut BTreeMap<String, Entry>, session: &str) -> u64 {
        let remove = |path: &Path| {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "an old recording cannot be removed");
            }
        };
        remove(&self.path(session));
        remove(&self.progress_path(session));
        entries.remove(session).map_or(0, |entry| entry.charged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytesize::ByteSize;

    /// An archive in a directory of its own, for recordings of 1000 bytes, 3000 together.
    fn archive(name: &str) -> Archive {
        let dir = std::env::temp_dir().join(format!("belljar-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let archive = Archive::open(&Recordings {
            dir,
            max_size: ByteSize::b(1000 + LAST_WORDS),
            max_total: ByteSize::b(3000),
            retention: Duration::from_secs(3600),
            ..Recordings::default()
        });
        archive.prepare().unwrap();
        archive
    }

    fn write(archive: &Archive, session: &str, bytes: u64) -> Result<(), Full> {
        archive.begin(session, 0);
        archive.charge(session, bytes)?;
        let text = vec![b'x'; usize::try_from(bytes).unwrap()];
        std::fs::write(archive.path(session), text).unwrap();
        archive.wrote(session, bytes);
        Ok(())
    }

    #[test]
    fn the_oldest_finished_one_makes_room_and_a_live_one_never() {
        let archive = archive("rooms");
        for name in ["a", "b", "c"] {
            write(&archive, name, 1000).unwrap();
        }
        archive.begin("d", 0);
        assert_eq!(archive.charge("d", 1), Err(Full::Archive));
        archive.finish("b", 1000);
        archive.finish("a", 1000);
        archive.charge("d", 1).unwrap();
        assert!(archive.find("b").is_none() && !archive.path("b").exists());
        assert_eq!(archive.find("a").unwrap().1, 1000);
        assert!(archive.path("c").exists(), "it is being written");
    }

    #[test]
    fn a_recording_has_a_bound_and_room_to_say_so() {
        let archive = archive("bound");
        write(&archive, "a", 1000).unwrap();
        assert_eq!(archive.charge("a", 1), Err(Full::Recording));
        archive.charge_last_words("a", LAST_WORDS).unwrap();
    }

    #[test]
    fn an_archive_knows_what_earlier_gateways_have_left_and_when_it_is_old() {
        let before = archive("old");
        write(&before, "a", 700).unwrap();
        std::fs::write(before.progress_path("a"), "{}").unwrap();
        std::fs::write(before.dir.join("notes.txt"), "not ours").unwrap();
        let archive = Archive::open(&Recordings {
            dir: before.dir.clone(),
            retention: Duration::from_secs(3600),
            ..Recordings::default()
        });
        assert_eq!(archive.find("a").unwrap().1, 700);
        let now = SystemTime::now();
        archive.prune(now + Duration::from_secs(3000));
        assert!(archive.find("a").is_some());
        archive.prune(now + Duration::from_secs(4000));
        assert!(archive.find("a").is_none());
        let left: Vec<_> = std::fs::read_dir(&archive.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["notes.txt"]);
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let archive = archive("open");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&archive.dir, open).unwrap();
        archive.prepare().unwrap_err();
    }
}
