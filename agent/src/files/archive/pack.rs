//! Into an archive.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use belljar_link::message::files::MAX_ARCHIVE_ENTRIES;
use belljar_link::message::{Refusal, Reply, code};
use tar::{Builder, Header};

use crate::files::{DEEPEST, path};

/// Pack a file, or what a directory holds, by names relative to it. Pipes, devices and sockets are
/// left out.
pub(super) fn pack(asked: &str, out: &mut impl Write) -> Reply<()> {
    let root = path::resolve(asked)?;
    let found = fs::metadata(&root).map_err(|e| path::refusal(&root, &e))?;
    let mut builder = Builder::new(out);
    if found.is_dir() {
        directory(&mut builder, &root)?;
    } else {
        let name = PathBuf::from(root.file_name().unwrap_or_default());
        if !found.is_file() {
            let message = format!("{}: is a pipe, a device or a socket", root.display());
            return Err(Refusal::new(code::NOT_A_FILE, message));
        }
        add(&mut builder, &root, &name, &found).map_err(|e| path::refusal(&root, &e))?;
    }
    builder.finish().map_err(|e| path::refusal(&root, &e))
}

fn directory(builder: &mut Builder<impl Write>, root: &Path) -> Reply<()> {
    let mut waiting = vec![root.to_owned()];
    let mut count = 0;
    while let Some(directory) = waiting.pop() {
        let entries = fs::read_dir(&directory).map_err(|e| path::refusal(&directory, &e))?;
        for entry in entries {
            let path = entry.map_err(|e| path::refusal(&directory, &e))?.path();
            count += 1;
            if count > MAX_ARCHIVE_ENTRIES {
                let message = format!("{}: more than {MAX_ARCHIVE_ENTRIES} files", root.display());
                return Err(Refusal::new(code::TOO_LARGE, message));
            }
            let Ok(name) = path.strip_prefix(root) else {
                continue;
            };
            let added = match fs::symlink_metadata(&path) {
                Ok(found) => {
                    if found.is_dir() && path.as_os_str().len() < DEEPEST {
                        waiting.push(path.clone());
                    }
                    add(builder, &path, name, &found)
                }
                Err(e) => Err(e),
            };
            match added {
                // What is gone meanwhile is not there.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                added => added.map_err(|e| path::refusal(&path, &e))?,
            }
        }
    }
    Ok(())
}

fn add(
    builder: &mut Builder<impl Write>,
    path: &Path,
    name: &Path,
    found: &Metadata,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_metadata(found);
    if found.is_dir() {
        header.set_size(0);
        return builder.append_data(&mut header, name, io::empty());
    }
    if found.is_symlink() {
        header.set_size(0);
        return builder.append_link(&mut header, name, fs::read_link(path)?);
    }
    if !found.is_file() {
        return Ok(());
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let left = found.len();
    builder.append_data(&mut header, name, Exactly { file, left })
}

/// A file as long as its header says, whatever becomes of it meanwhile.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let mut read = self.file.read(&mut buffer[..most])?;
        if read == 0 {
            buffer[..most].fill(0);
            read = most;
        }
        self.left -= read as u64;
        Ok(read)
    }
}
