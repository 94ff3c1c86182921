//! One recording on the disk, and how far it has come.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use belljar_link::message::Size;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::archive::{Archive, Full};
use super::cast;

/// Why nothing more is written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// A bound is reached.
    #[error("no room: {0:?}")]
    Full(Full),
    /// The disk does not take it.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// How far a recording has come. Kept beside it and written after it, so that a gateway that takes
/// the session over cuts off what it does not know of and goes on from `offset`: nothing twice, and
/// nothing lost that the terminal's history still holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    #[serde(with = "humantime_serde")]
    begun_at: SystemTime,
    /// Bytes of the file that are whole lines.
    length: u64,
    /// The terminal's output before this offset is in them.
    offset: u64,
    /// The newest event's time.
    elapsed_ms: u64,
    /// The size at that time.
    size: Size,
}

impl Progress {
    /// As text, always of the same length, so that each takes the whole place of the one before.
    fn note(&self) -> io::Result<Vec<u8>> {
        let text = serde_json::to_string(self)?;
        Ok(format!("{text:<256}").into_bytes())
    }
}

/// A recording that is being written.
#[derive(Debug)]
pub(super) struct Recording {
    archive: Arc<Archive>,
    session: String,
    file: Arc<File>,
    progress_file: Arc<File>,
    progress: Progress,
    /// What is `elapsed_ms` at `since`.
    base: Duration,
    since: Instant,
}

impl Recording {
    /// Begin a session's recording, or go on with the one that an earlier gateway has begun.
    pub(super) async fn open(
        archive: Arc<Archive>,
        session: String,
        size: Size,
    ) -> Result<Self, WriteError> {
        let opened = spawn_blocking(move || match Self::resume(&archive, &session) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::create(&archive, session, size)
            }
            resumed => Ok(resumed?),
        });
        opened.await.map_err(io::Error::other)?
    }

    fn create(archive: &Arc<Archive>, session: String, size: Size) -> Result<Self, WriteError> {
        archive.prepare()?;
        let create = |path| {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600).open(path)
        };
        let file = create(archive.path(&session))?;
        let progress_file = create(archive.progress_path(&session))?;
        archive.begin(&session, 0);
        let mut recording = Self {
            archive: archive.clone(),
            session,
            file: Arc::new(file),
            progress_file: Arc::new(progress_file),
            progress: Progress {
                begun_at: SystemTime::now(),
                length: 0,
                offset: 0,
                elapsed_ms: 0,
                size,
            },
            base: Duration::ZERO,
            since: Instant::now(),
        };
        let header = cast::header(size, recording.progress.begun_at);
        let charge = recording
            .archive
            .charge(&recording.session, header.len() as u64);
        charge.map_err(WriteError::Full)?;
        recording.file.write_all_at(&header, 0)?;
        recording.progress.length = header.len() as u64;
        let note = recording.progress.note()?;
        recording.progress_file.write_all_at(&note, 0)?;
        let (name, length) = (&recording.session, recording.progress.length);
        recording.archive.wrote(name, length);
        Ok(recording)
    }

    fn resume(archive: &Arc<Archive>, session: &str) -> io::Result<Self> {
        let text = std::fs::read(archive.progress_path(session))?;
        let progress: Progress = serde_json::from_slice(&text)?;
        let open = |path| OpenOptions::new().write(true).open(path);
        let file = open(archive.path(session))?;
        let progress_file = open(archive.progress_path(session))?;
        // Lines that were written, but of which nobody knows to which offset they reach.
        file.set_len(progress.length)?;
        archive.begin(session, progress.length);
        // The clock of the wall may have been turned back meanwhile.
        let elapsed = SystemTime::now().duration_since(progress.begun_at);
        let newest = Duration::from_millis(progress.elapsed_ms);
        Ok(Self {
            archive: archive.clone(),
            session: session.to_owned(),
            file: Arc::new(file),
            progress_file: Arc::new(progress_file),
            base: elapsed.unwrap_or_default().max(newest),
            since: Instant::now(),
            progress,
        })
    }

    /// The terminal's output is recorded up to this offset.
    pub(super) fn offset(&self) -> u64 {
        self.progress.offset
    }

    /// The size at its newest event.
    pub(super) fn size(&self) -> Size {
        self.progress.size
    }

    /// Time since its beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.base + self.since.elapsed()
    }

    /// Write whole lines, which bring the recording up to `offset` and to `size`.
    pub(super) async fn append(
        &mut self,
        lines: Vec<u8>,
        offset: u64,
        size: Size,
    ) -> Result<(), WriteError> {
        let charge = self.archive.charge(&self.session, lines.len() as u64);
        charge.map_err(WriteError::Full)?;
        self.write(lines, offset, size).await
    }

    async fn write(&mut self, lines: Vec<u8>, offset: u64, size: Size) -> Result<(), WriteError> {
        let progress = Progress {
            length: self.progress.length + lines.len() as u64,
            offset,
            elapsed_ms: u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX),
            size,
            ..self.progress.clone()
        };
        let (file, at) = (self.file.clone(), self.progress.length);
        let (progress_file, note) = (self.progress_file.clone(), progress.note()?);
        let written = spawn_blocking(move || {
            file.write_all_at(&lines, at)?;
            progress_file.write_all_at(&note, 0)
        });
        written.await.map_err(io::Error::other)??;
        self.progress = progress;
        self.archive.wrote(&self.session, self.progress.length);
        Ok(())
    }

    /// It will not go on, for this reason.
    pub(super) async fn last_words(&mut self, label: &str) {
        let mut lines = Vec::new();
        cast::marker(self.elapsed(), label, &mut lines);
        let length = lines.len() as u64;
        if self
            .archive
            .charge_last_words(&self.session, length)
            .is_ok()
        {
            let (offset, size) = (self.progress.offset, self.progress.size);
            // On a disk that is full it ends without.
            let _ = self.write(lines, offset, size).await;
        }
    }

    /// It is complete.
    pub(super) async fn finish(self) {
        let length = self.progress.length;
        let (file, path) = (self.file, self.archive.progress_path(&self.session));
        let finished = spawn_blocking(move || {
            // A write that failed half-way has left half a line.
            file.set_len(length)?;
            std::fs::remove_file(path)
        });
        if let Ok(Err(error)) = finished.await {
            tracing::warn!(session = %self.session, %error, "a recording was not finished cleanly");
        }
        self.archive.finish(&self.session, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Recordings;

    const SIZE: Size = Size { cols: 80, rows: 24 };

    fn archive(name: &str) -> Arc<Archive> {
        let dir = std::env::temp_dir().join(format!("belljar-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Arc::new(Archive::open(&Recordings {
            dir,
            ..Recordings::default()
        }))
    }

    /// The lines of a session's recording, as its owner would be given them.
    fn lines(archive: &Archive, session: &str) -> Vec<String> {
        let (path, length) = archive.find(session).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let whole = &text[..usize::try_from(length).unwrap()];
        assert!(whole.ends_with('\n'));
        whole.lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_recording_goes_on_after_its_gateway_was_killed() {
        let before = archive("resume");
        let open = Recording::open(before.clone(), "sess_1".into(), SIZE);
        let mut recording = open.await.unwrap();
        recording
            .append(b"[1.0,\"o\",\"one\"]\n".to_vec(), 3, SIZE)
            .await
            .unwrap();
        let path = before.path("sess_1");
        drop(recording);
        // Lines that its progress does not know of yet, and half of one.
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"[1.1,\"o\",\"two\"]\n[1.2,\"o");
        std::fs::write(&path, text).unwrap();

        let archive = Arc::new(Archive::open(&Recordings {
            dir: path.parent().unwrap().into(),
            ..Recordings::default()
        }));
        let open = Recording::open(archive.clone(), "sess_1".into(), SIZE);
        let mut recording = open.await.unwrap();
        assert_eq!(recording.offset(), 3);
        assert_eq!(recording.size(), SIZE);
        recording
            .append(b"[1.1,\"o\",\"two\"]\n".to_vec(), 6, SIZE)
            .await
            .unwrap();
        recording.finish().await;
        assert_eq!(
            lines(&archive, "sess_1")[1..],
            ["[1.0,\"o\",\"one\"]", "[1.1,\"o\",\"two\"]"]
        );
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(names.count(), 1, "no progress is left");
    }

    #[tokio::test]
    async fn a_write_that_fails_leaves_whole_lines() {
        let archive = archive("full");
        let open = Recording::open(archive.clone(), "sess_1".into(), SIZE);
        let mut recording = open.await.unwrap();
        let good = recording.file.clone();
        recording.file = Arc::new(File::options().write(true).open("/dev/full").unwrap());
        let line = b"[1.0,\"o\",\"lost\"]\n".to_vec();
        let failed = recording.append(line, 4, SIZE).await;
        assert!(matches!(failed, Err(WriteError::Disk(_))), "{failed:?}");
        assert_eq!(recording.offset(), 0, "it is not there");
        recording.file = good;
        recording.finish().await;
        assert_eq!(lines(&archive, "sess_1").len(), 1, "the header");
    }
}
