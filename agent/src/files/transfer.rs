//! A file's content, piece by piece: each is a job of its own.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use belljar_link::frame::MAX_DATA;
use belljar_link::message::files::{FileInfo, MAX_UNSIZED, WriteOptions};
use belljar_link::message::{Refusal, Reply, code};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{path, walk};

/// What is written and not there yet begins with this.
pub(super) const HIDDEN: &str = ".belljar-";

/// A file that is being read.
pub(super) struct Source {
    path: PathBuf,
    file: File,
    offset: u64,
    left: u64,
    /// It does not say how long it is.
    unsized_: bool,
}

/// Open without ever waiting: a pipe without a writer would, for ever.
fn open(options: &mut OpenOptions, path: &Path) -> Reply<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let opened = options.custom_flags(flags).open(path);
    opened.map_err(|e| path::refusal(path, &e))
}

/// Refuse what has no content: a directory, a pipe, a device.
fn regular(path: &Path) -> Reply<()> {
    let found = fs::metadata(path).map_err(|e| path::refusal(path, &e))?;
    if found.is_dir() {
        let message = format!("{}: is a directory", path.display());
        return Err(Refusal::new(code::IS_A_DIRECTORY, message));
    }
    if !found.is_file() {
        let message = format!("{}: is a pipe, a device or a socket", path.display());
        return Err(Refusal::new(code::NOT_A_FILE, message));
    }
    Ok(())
}

impl Source {
    pub(super) fn open(asked: &str, offset: u64, length: Option<u64>) -> Reply<(FileInfo, Self)> {
        let path = path::resolve(asked)?;
        regular(&path)?;
        let file = open(OpenOptions::new().read(true), &path)?;
        let found = file.metadata().map_err(|e| path::refusal(&path, &e))?;
        // It may be another since it was looked at.
        if !found.is_file() {
            let message = format!("{}: is a pipe, a device or a socket", path.display());
            return Err(Refusal::new(code::NOT_A_FILE, message));
        }
        let info = walk::info(&path, &found);
        let unsized_ = info.size == 0;
        // A file that grows while it is read is read as it was.
        let there = if unsized_ {
            MAX_UNSIZED
        } else {
            info.size.saturating_sub(offset)
        };
        let source = Self {
            path,
            file,
            offset,
            left: length.unwrap_or(u64::MAX).min(there),
            unsized_,
        };
        Ok((info, source))
    }

    /// The next piece; empty at the end.
    pub(super) fn next(&mut self) -> Reply<Vec<u8>> {
        let size = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(MAX_DATA);
        let mut piece = vec![0; size];
        let mut filled = 0;
        while filled < size {
            match self.file.read_at(&mut piece[filled..], self.offset) {
                Ok(0) => break,
                Ok(read) => {
                    filled += read;
                    self.offset += read as u64;
                    self.left -= read as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(path::refusal(&self.path, &e)),
            }
        }
        piece.truncate(filled);
        if self.unsized_ && size > 0 && self.left == 0 && self.offset >= MAX_UNSIZED {
            let message = format!("{}: has no end", self.path.display());
            return Err(Refusal::new(code::TOO_LARGE, message));
        }
        Ok(piece)
    }
}

/// A file that is being written: a hidden one beside it until it is whole.
pub(super) struct Target {
    path: PathBuf,
    hidden: Hidden,
    file: File,
    options: WriteOptions,
}

/// Removes what was not finished.
pub(super) struct Hidden(pub(super) PathBuf);

impl Hidden {
    /// A name that nobody else uses, in this directory.
    pub(super) fn new(directory: &Path) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let time = std::time::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_nanos();
        Self(directory.join(format!("{HIDDEN}{time:x}-{count}")))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // It is gone when it has been renamed, which is as well.
        let _ = if self.0.is_dir() {
            fs::remove_dir_all(&self.0)
        } else {
            fs::remove_file(&self.0)
        };
    }
}

impl Target {
    pub(super) fn open(asked: &str, options: WriteOptions) -> Reply<Self> {
        let mut path = path::resolve(asked)?;
        if asked.ends_with('/') {
            let message = "path: names a directory";
            return Err(Refusal::new(code::IS_A_DIRECTORY, message));
        }
        match fs::symlink_metadata(&path) {
            Ok(_) if options.exclusive => {
                return Err(path::refusal(&path, &Errno::EXIST.into()));
            }
            Ok(found) => {
                // The file that a link leads to is written, not the link.
                if found.is_symlink() {
                    path = fs::canonicalize(&path).map_err(|e| path::refusal(&path, &e))?;
                }
                regular(&path)?;
                let writable = rustix::fs::access(&path, rustix::fs::Access::WRITE_OK);
                writable.map_err(|e| path::refusal(&path, &e.into()))?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(path::refusal(&path, &e)),
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        if options.make_dirs {
            fs::create_dir_all(directory).map_err(|e| path::refusal(directory, &e))?;
        }
        let hidden = Hidden::new(directory);
        let created = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o666)
            .open(&hidden.0);
        // Whoever asked knows nothing of the hidden one.
        let file = created.map_err(|e| path::refusal(&path, &e))?;
        Ok(Self {
            path,
            hidden,
            file,
            options,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Reply<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|e| path::refusal(&self.path, &e))
    }

    /// It is whole: it takes its place.
    pub(super) fn finish(mut self) -> Reply<FileInfo> {
        let finished = if self.options.append && self.path.exists() {
            self.append()
        } else {
            self.replace()
        };
        finished.map_err(|e| path::refusal(&self.path, &e))?;
        let found = fs::metadata(&self.path).map_err(|e| path::refusal(&self.path, &e))?;
        Ok(walk::info(&self.path, &found))
    }

    fn replace(&mut self) -> io::Result<()> {
        let mode = match self.options.mode {
            Some(mode) => Some(mode & 0o7777),
            None => fs::metadata(&self.path)
                .ok()
                .map(|old| old.permissions().mode()),
        };
        if let Some(mode) = mode {
            self.file.set_permissions(Permissions::from_mode(mode))?;
        }
        if self.options.exclusive {
            let (from, to) = (&self.hidden.0, &self.path);
            return match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
                // A file system that cannot: a second name, which is never one that exists.
                Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(from, to),
                renamed => Ok(renamed?),
            };
        }
        fs::rename(&self.hidden.0, &self.path)
    }

    /// All of it, or nothing.
    fn append(&mut self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options
            .append(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let mut old = options.open(&self.path)?;
        if let Some(mode) = self.options.mode {
            old.set_permissions(Permissions::from_mode(mode & 0o7777))?;
        }
        let before = old.metadata()?.len();
        self.file.seek(SeekFrom::Start(0))?;
        let mut piece = vec![0; MAX_DATA];
        loop {
            let read = self.file.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            if let Err(error) = old.write_all(&piece[..read]) {
                let _ = old.set_len(before);
                return Err(error);
            }
        }
    }
}

pub(super) fn make_dir(asked: &str, parents: bool, mode: Option<u32>) -> Reply<()> {
    let path = path::resolve(asked)?;
    let result = if parents {
        fs::create_dir_all(&path)
    } else {
        fs::create_dir(&path)
    };
    result
        .and_then(|()| match mode {
            Some(mode) => fs::set_permissions(&path, Permissions::from_mode(mode & 0o7777)),
            None => Ok(()),
        })
        .map_err(|e| path::refusal(&path, &e))
}

pub(super) fn remove(asked: &str, recursive: bool) -> Reply<()> {
    let path = path::resolve(asked)?;
    let remove = || {
        if !fs::symlink_metadata(&path)?.is_dir() {
            fs::remove_file(&path)
        } else if recursive {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_dir(&path)
        }
    };
    remove().map_err(|e| path::refusal(&path, &e))
}

pub(super) fn rename(from: &str, to: &str) -> Reply<()> {
    let (from, to) = (path::resolve(from)?, path::resolve(to)?);
    fs::rename(&from, &to).map_err(|e| path::refusal(&from, &e))
}
