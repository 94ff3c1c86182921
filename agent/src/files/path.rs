//! Paths as they come from the gateway, and what the kernel says of them.

use std::io;
use std::path::{Path, PathBuf};

use belljar_link::message::files::{MAX_NAME, MAX_PATH};
use belljar_link::message::{Refusal, Reply, code};
use rustix::io::Errno;

use crate::environment;

/// The absolute path that is meant. Nothing is looked up: the kernel resolves it when it is used.
pub(crate) fn resolve(path: &str) -> Reply<PathBuf> {
    let bad = |message: &str| Err(Refusal::new(code::BAD_PATH, format!("path: {message}")));
    if path.is_empty() {
        return bad("must not be empty");
    }
    if path.contains('\0') {
        return bad("must not hold a NUL");
    }
    let path = match path {
        "~" => environment::home(),
        _ => environment::home().join(path.strip_prefix("~/").unwrap_or(path)),
    };
    if path.as_os_str().len() > MAX_PATH {
        return bad("must not be longer than 4096 bytes");
    }
    if path
        .components()
        .any(|part| part.as_os_str().len() > MAX_NAME)
    {
        return bad("no part of it must be longer than 255 bytes");
    }
    Ok(path)
}

/// What to say when the kernel has refused something about a path.
pub(crate) fn refusal(path: &Path, error: &io::Error) -> Refusal {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let code = match errno {
        Some(Errno::NOENT) => code::NOT_FOUND,
        Some(Errno::EXIST) => code::ALREADY_EXISTS,
        Some(Errno::NOTDIR) => code::NOT_A_DIRECTORY,
        Some(Errno::ISDIR) => code::IS_A_DIRECTORY,
        Some(Errno::NOTEMPTY) => code::NOT_EMPTY,
        Some(Errno::ACCESS | Errno::PERM) => code::PERMISSION_DENIED,
        Some(Errno::ROFS) => code::READ_ONLY,
        Some(Errno::NOSPC | Errno::DQUOT) => code::NO_SPACE,
        Some(Errno::FBIG) => code::TOO_LARGE,
        Some(Errno::NAMETOOLONG | Errno::LOOP) => code::BAD_PATH,
        // A pipe without a reader, a device without a driver.
        Some(Errno::NXIO | Errno::NODEV) => code::NOT_A_FILE,
        _ => code::IO,
    };
    Refusal::new(code, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_path() {
        let long = "a/".repeat(3000);
        let part = format!("/tmp/{}", "a".repeat(256));
        for bad in ["", "a\0b", &long, &part] {
            let refused = resolve(bad).expect_err("it is no path");
            assert_eq!(refused.code, code::BAD_PATH, "{bad:?}");
        }
    }

    #[test]
    fn relative_paths_are_against_the_home_directory() {
        let home = environment::home();
        assert_eq!(resolve("a/b"), Ok(home.join("a/b")));
        assert_eq!(resolve("~/a"), Ok(home.join("a")));
        assert_eq!(resolve("~"), Ok(home));
        assert_eq!(resolve("/a/../b"), Ok("/a/../b".into()));
    }
}
