//! Out of an archive.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use belljar_link::message::files::{MAX_ARCHIVE_ENTRIES, MAX_NAME, MAX_PATH};
use belljar_link::message::{Refusal, Reply, code};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fstat, linkat, mkdirat, openat, renameat, statat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;
use tar::{Archive, EntryType, PaxExtensions};

use super::In;
use crate::files::path;
use crate::files::transfer::Hidden;

/// Deepest directory. Each level is an open descriptor for a moment.
const MAX_DEPTH: usize = 128;

/// Largest header that comes before another, bytes: a path and some attributes.
const MAX_EXTENSION: u64 = 64 * 1024;

/// Open a directory, and never through a link. gVisor follows one whatever `O_NOFOLLOW` says as soon as
/// only a directory will do (`O_DIRECTORY`), so whether it is one is asked afterwards.
fn directory<P: rustix::path::Arg>(at: impl AsFd, name: P) -> Result<OwnedFd, Errno> {
    // Nothing that is opened here by mistake makes this wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = openat(at, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&opened)?.st_mode) {
        FileType::Directory => Ok(opened),
        _ => Err(Errno::NOTDIR),
    }
}

/// A directory into which an archive is unpacked.
pub(super) struct Unpacking {
    path: PathBuf,
    target: OwnedFd,
    stage: OwnedFd,
    /// Removes the stage, whatever happens.
    _hidden: Hidden,
}

/// What the headers before an entry say of it.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

fn bad(code: &str, name: &[u8], what: &str) -> Refusal {
    let mut name = String::from_utf8_lossy(name).into_owned();
    name.truncate(
        (0..=name.len().min(200))
            .rev()
            .find(|at| name.is_char_boundary(*at))
            .unwrap_or(0),
    );
    Refusal::new(code, format!("archive: {name:?} {what}"))
}

impl Unpacking {
    pub(super) fn begin(asked: &str) -> Reply<Self> {
        let path = path::resolve(asked)?;
        let begin = || -> io::Result<_> {
            fs::create_dir_all(&path)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let target = rustix::fs::open(&path, flags, Mode::empty())?;
            let hidden = Hidden::new(&path);
            fs::create_dir(&hidden.0)?;
            let stage = directory(rustix::fs::CWD, &hidden.0)?;
            Ok((target, stage, hidden))
        };
        let (target, stage, hidden) = begin().map_err(|e| path::refusal(&path, &e))?;
        Ok(Self {
            path,
            target,
            stage,
            _hidden: hidden,
        })
    }

    /// Unpack all of it, or nothing; returns how many entries.
    pub(super) fn unpack(self, input: &mut In) -> Reply<u64> {
        let mut count = 0;
        let mut extension = Extension::default();
        let broken = |e: io::Error| Refusal::new(code::BAD_ARCHIVE, format!("archive: {e}"));
        {
            let mut archive = Archive::new(&mut *input);
            // Without the crate's own reading of extensions, which has no bound.
            for entry in archive.entries().map_err(broken)?.raw(true) {
                let mut entry = entry.map_err(broken)?;
                let kind = entry.header().entry_type();
                if kind.is_pax_global_extensions() {
                    continue;
                }
                let extends = kind.is_gnu_longname()
                    || kind.is_gnu_longlink()
                    || kind.is_pax_local_extensions();
                if extends {
                    extension.read(kind, &mut entry).map_err(broken)?;
                    continue;
                }
                count += 1;
                if count > MAX_ARCHIVE_ENTRIES {
                    let message = format!("archive: more than {MAX_ARCHIVE_ENTRIES} files");
                    return Err(Refusal::new(code::TOO_LARGE, message));
                }
                self.entry(&mut entry, &std::mem::take(&mut extension))?;
            }
        }
        // Padding behind the end.
        io::copy(input, &mut io::sink()).map_err(broken)?;
        if input.count == 0 {
            return Err(Refusal::new(code::BAD_ARCHIVE, "archive: is empty"));
        }
        for dry in [true, false] {
            self.merge(self.stage.as_fd(), self.target.as_fd(), dry, MAX_DEPTH + 1)?;
        }
        Ok(count)
    }

    fn entry(&self, entry: &mut tar::Entry<'_, &mut In>, extension: &Extension) -> Reply<()> {
        let header = entry.header();
        let name = extension
            .path
            .clone()
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extension.link.clone();
        let link = link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let parts = parts(&name)?;
        let mode = header.mode().unwrap_or(0o644) & 0o7777;
        let modified = header.mtime().unwrap_or(0);
        let kind = header.entry_type();
        let Some((last, above)) = parts.split_last() else {
            // The directory itself.
            return Ok(());
        };
        let failed = |e: Errno| match e {
            Errno::LOOP | Errno::NOTDIR => {
                bad(code::BAD_PATH, &name, "leads through a link or a file")
            }
            e => path::refusal(&self.path.join(OsStr::from_bytes(&name)), &e.into()),
        };
        let directory = self.descend(above).map_err(failed)?;
        let fresh = || match unlinkat(&directory, last, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(failed(e)),
        };
        match kind {
            EntryType::Directory => {
                let itself = self.descend(&parts).map_err(failed)?;
                let itself = File::from(itself);
                // Whoever unpacks must be able to write into it and to remove it.
                itself
                    .set_permissions(Permissions::from_mode(mode | 0o700))
                    .map_err(|e| path::refusal(&self.path, &e))
            }
            EntryType::Regular | EntryType::Continuous => {
                fresh()?;
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file =
                    openat(&directory, last, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
                self.content(entry, File::from(file), mode, modified)
            }
            EntryType::Symlink => {
                let to = link.unwrap_or_default();
                if !stays(above.len(), &to) {
                    return Err(bad(code::BAD_PATH, &name, "is a link that leads out"));
                }
                fresh()?;
                symlinkat(OsStr::from_bytes(&to), &directory, last).map_err(failed)
            }
            EntryType::Link => {
                let to = self::parts(&link.unwrap_or_default())?;
                let Some((to_last, to_above)) = to.split_last() else {
                    return Err(bad(code::BAD_PATH, &name, "is a link to nothing"));
                };
                let from = self.descend(to_above).map_err(failed)?;
                if parts == to {
                    return Ok(());
                }
                fresh()?;
                linkat(&from, to_last, &directory, last, AtFlags::empty()).map_err(failed)
            }
            _ => Err(bad(
                code::BAD_ARCHIVE,
                &name,
                "is no file, directory or link",
            )),
        }
    }

    fn content(
        &self,
        entry: &mut tar::Entry<'_, &mut In>,
        mut file: File,
        mode: u32,
        modified: u64,
    ) -> Reply<()> {
        let mut left = entry.header().entry_size().unwrap_or(0);
        let mut piece = vec![0; 64 * 1024];
        while left > 0 {
            let read = match entry.read(&mut piece) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                read => read,
            };
            let read =
                read.map_err(|e| Refusal::new(code::BAD_ARCHIVE, format!("archive: {e}")))?;
            io::Write::write_all(&mut file, &piece[..read])
                .map_err(|e| path::refusal(&self.path, &e))?;
            left = left.saturating_sub(read as u64);
        }
        file.set_permissions(Permissions::from_mode(mode))
            .map_err(|e| path::refusal(&self.path, &e))?;
        // Best effort: the time is not what the archive is about.
        if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(modified)) {
            let _ = file.set_modified(time);
        }
        Ok(())
    }

    /// A directory of the stage, made where it is missing. No link is followed.
    fn descend(&self, parts: &[OsString]) -> Result<OwnedFd, Errno> {
        let mut at = rustix::io::fcntl_dupfd_cloexec(&self.stage, 0)?;
        for part in parts {
            at = match directory(&at, part) {
                Err(Errno::NOENT) => {
                    mkdirat(&at, part, Mode::from_raw_mode(0o777))?;
                    directory(&at, part)?
                }
                opened => opened?,
            };
        }
        Ok(at)
    }

    /// Move what is in one directory into another; `dry` only says whether it can be.
    fn merge(&self, from: impl AsFd, to: impl AsFd, dry: bool, depth: usize) -> Reply<()> {
        let failed = |name: &CStr, e: Errno| {
            path::refusal(
                &self.path.join(OsStr::from_bytes(name.to_bytes())),
                &e.into(),
            )
        };
        let entries = Dir::read_from(&from).map_err(|e| failed(c"", e))?;
        for entry in entries {
            let entry = entry.map_err(|e| failed(c"", e))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = |directory: &dyn Fn() -> Result<rustix::fs::Stat, Errno>| {
                directory().map(|found| FileType::from_raw_mode(found.st_mode))
            };
            let new = kind(&|| statat(&from, name, AtFlags::SYMLINK_NOFOLLOW))
                .map_err(|e| failed(name, e))?;
            let old = match kind(&|| statat(&to, name, AtFlags::SYMLINK_NOFOLLOW)) {
                Ok(old) => Some(old),
                Err(Errno::NOENT) => None,
                Err(e) => return Err(failed(name, e)),
            };
            match (new, old) {
                (FileType::Directory, Some(FileType::Directory)) => {
                    if depth == 0 {
                        return Err(failed(name, Errno::NAMETOOLONG));
                    }
                    let from = directory(&from, name).map_err(|e| failed(name, e))?;
                    let to = directory(&to, name).map_err(|e| failed(name, e))?;
                    self.merge(from, to, dry, depth - 1)?;
                }
                (FileType::Directory, Some(_)) => return Err(failed(name, Errno::NOTDIR)),
                (_, Some(FileType::Directory)) => return Err(failed(name, Errno::ISDIR)),
                _ if dry => {}
                _ => renameat(&from, name, &to, name).map_err(|e| failed(name, e))?,
            }
        }
        Ok(())
    }
}

impl Extension {
    fn read(&mut self, kind: EntryType, entry: &mut impl Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        entry.take(MAX_EXTENSION + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_EXTENSION {
            return Err(io::Error::other("a header is too long"));
        }
        if kind.is_pax_local_extensions() {
            for record in PaxExtensions::new(&bytes) {
                let record = record?;
                match record.key_bytes() {
                    b"path" => self.path = Some(record.value_bytes().to_vec()),
                    b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                    b"size" => return Err(io::Error::other("a file of more than 8 GiB")),
                    key if key.starts_with(b"GNU.sparse") => {
                        return Err(io::Error::other("a file with holes"));
                    }
                    _ => {}
                }
            }
            return Ok(());
        }
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        if kind.is_gnu_longname() {
            self.path = Some(bytes);
        } else {
            self.link = Some(bytes);
        }
        Ok(())
    }
}

/// The parts of a path that stays where it is.
fn parts(name: &[u8]) -> Reply<Vec<OsString>> {
    let refuse = |what| Err(bad(code::BAD_PATH, name, what));
    if name.is_empty() || name.contains(&0) || name.len() > MAX_PATH {
        return refuse("is no path");
    }
    let mut parts = Vec::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) if part.len() <= MAX_NAME => {
                parts.push(OsString::from_vec(part.as_bytes().to_vec()));
            }
            Component::Normal(_) => return refuse("is too long"),
            _ => return refuse("leads out of the directory"),
        }
    }
    if parts.len() > MAX_DEPTH {
        return refuse("is too deep");
    }
    Ok(parts)
}

/// Whether a symbolic link in a directory this deep leads nowhere above the top.
fn stays(mut depth: usize, to: &[u8]) -> bool {
    if to.is_empty() || to.contains(&0) || to.len() > MAX_PATH {
        return false;
    }
    Path::new(OsStr::from_bytes(to))
        .components()
        .all(|part| match part {
            Component::CurDir => true,
            Component::Normal(_) => {
                depth += 1;
                true
            }
            Component::ParentDir => {
                let inside = depth > 0;
                depth = depth.saturating_sub(1);
                inside
            }
            Component::RootDir | Component::Prefix(_) => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a name is, what is left of it leads nowhere but down.
        #[test]
        fn a_name_leads_down_or_is_refused(name in proptest::collection::vec(
            prop_oneof![Just(b'/'), Just(b'.'), Just(b'a'), any::<u8>()], 0..40,
        )) {
            if let Ok(parts) = parts(&name) {
                for part in parts {
                    let part = part.as_bytes();
                    prop_assert!(!part.is_empty() && part != b"." && part != b"..");
                    prop_assert!(!part.contains(&b'/') && !part.contains(&0));
                }
            }
        }
    }

    #[test]
    fn links_that_lead_out_are_seen() {
        for (depth, to, inside) in [
            (0, "a", true),
            (0, "a/../b", true),
            (0, "../a", false),
            (1, "../a", true),
            (1, "../../a", false),
            (2, "x/../../../a", true),
            (0, "/etc/passwd", false),
            (0, "", false),
        ] {
            assert_eq!(stays(depth, to.as_bytes()), inside, "{depth} {to}");
        }
    }
}
