//! What files are there: one, those of a directory, those that match.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use belljar_link::message::files::{FileInfo, FileKind, MAX_ENTRIES};
use belljar_link::message::{Refusal, Reply, code};
use glob::{MatchOptions, Pattern};

use super::path;

/// Entries looked at in one search. A file system of a sandbox has fewer; one that somebody fills on
/// purpose occupies a hand for a few seconds.
const MAX_VISITED: usize = 200_000;

/// As a shell matches: `*` stays within a directory, and a leading dot must be asked for.
const AS_A_SHELL: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Longest pattern, bytes. Matching is backtracking, whose cost grows with it.
const MAX_PATTERN: usize = 1024;

/// Most `*` in a pattern, for the same reason.
const MAX_STARS: usize = 16;

/// One file.
pub(super) fn stat(asked: &str, follow: bool) -> Reply<FileInfo> {
    let path = path::resolve(asked)?;
    let found = if follow {
        fs::metadata(&path)
    } else {
        fs::symlink_metadata(&path)
    };
    Ok(info(&path, &found.map_err(|e| path::refusal(&path, &e))?))
}

pub(super) fn info(path: &Path, found: &Metadata) -> FileInfo {
    let kind = found.file_type();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    FileInfo {
        name: path
            .file_name()
            .map_or_else(|| text(path), |name| text(name.as_ref())),
        path: text(path),
        kind: if kind.is_file() {
            FileKind::File
        } else if kind.is_dir() {
            FileKind::Directory
        } else if kind.is_symlink() {
            FileKind::Symlink
        } else {
            debug_assert!(
                kind.is_fifo()
                    || kind.is_socket()
                    || kind.is_char_device()
                    || kind.is_block_device()
            );
            FileKind::Other
        },
        size: found.size(),
        mode: found.mode() & 0o7777,
        modified_ms: found
            .mtime()
            .saturating_mul(1000)
            .saturating_add(found.mtime_nsec() / 1_000_000),
        target: kind
            .is_symlink()
            .then(|| fs::read_link(path).ok())
            .flatten()
            .map(|target| text(&target)),
    }
}

/// What a directory holds, and those below it down to `depth`; says whether there is more.
pub(super) fn list(asked: &str, depth: u32, limit: u32) -> Reply<(Vec<FileInfo>, bool)> {
    let root = path::resolve(asked)?;
    walk(&root, depth.max(1), limit, |_| true)
}

/// What matches a pattern below a directory; says whether there is more.
pub(super) fn glob(asked: &str, pattern: &str, limit: u32) -> Reply<(Vec<FileInfo>, bool)> {
    let root = path::resolve(asked)?;
    let bad = |message: String| Refusal::new(code::BAD_PATTERN, format!("pattern: {message}"));
    if pattern.is_empty() || pattern.len() > MAX_PATTERN || pattern.contains('\0') {
        return Err(bad(format!(
            "must have 1 to {MAX_PATTERN} bytes, and no NUL"
        )));
    }
    if pattern.matches('*').count() > MAX_STARS {
        return Err(bad(format!("must not have more than {MAX_STARS} *")));
    }
    // What is absolute is meant from the root on, what is not below the directory.
    let (root, pattern) = match pattern.strip_prefix('/') {
        Some(rest) => (PathBuf::from("/"), rest),
        None => (root, pattern.strip_prefix("./").unwrap_or(pattern)),
    };
    let pattern = Pattern::new(pattern).map_err(|e| bad(e.to_string()))?;
    let depth = if pattern.as_str().contains("**") {
        u32::MAX
    } else {
        u32::try_from(pattern.as_str().split('/').count()).unwrap_or(u32::MAX)
    };
    walk(&root, depth, limit, |below| {
        pattern.matches_path_with(below, AS_A_SHELL)
    })
}

fn walk(
    root: &Path,
    depth: u32,
    limit: u32,
    wanted: impl Fn(&Path) -> bool,
) -> Reply<(Vec<FileInfo>, bool)> {
    let most = usize::try_from(limit.min(MAX_ENTRIES)).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    let mut visited = 0;
    let first = sorted(root).map_err(|e| path::refusal(root, &e))?;
    let mut open = vec![first.into_iter()];
    while let Some(directory) = open.last_mut() {
        let Some(path) = directory.next() else {
            open.pop();
            continue;
        };
        visited += 1;
        if visited > MAX_VISITED {
            return Ok((found, true));
        }
        // What is gone meanwhile is not there.
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if path.strip_prefix(root).is_ok_and(&wanted) {
            if found.len() == most {
                return Ok((found, true));
            }
            found.push(info(&path, &metadata));
        }
        // What may not be read shows nothing.
        let deeper = u32::try_from(open.len()).is_ok_and(|level| level < depth);
        if deeper && metadata.is_dir() && path.as_os_str().len() < super::DEEPEST {
            open.push(sorted(&path).unwrap_or_default().into_iter());
        }
    }
    Ok((found, false))
}

fn sorted(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)?.take(MAX_VISITED) {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}
