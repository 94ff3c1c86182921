//! Where a sandbox's working directory may be. Pure.

/// Longest path, bytes.
const MAX: usize = 255;

/// Directories that a home must not hide, with everything below them: an image's programs, and what
/// the kernel and the agent keep there.
const SYSTEM: [&str; 13] = [
    "/.belljar",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
];

/// The same, except for what lies below.
const ROOTS: [&str; 4] = ["/", "/home", "/usr", "/var"];

/// `/usr` holds programs too; here images keep their applications.
const APPLICATIONS: &str = "/usr/src/";

/// Whether `path` is `dir`, or below it.
pub(super) fn within(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// An absolute path in its shortest form; relative ones are below `home`. An error says what is
/// allowed.
pub(super) fn absolute(path: &str, home: &str) -> Result<String, String> {
    let refuse = |what: &str| Err(what.to_owned());
    if path.len() > MAX {
        return Err(format!("must be at most {MAX} bytes long"));
    }
    // ':' and ',' mean something to the engine.
    if path.contains(['\0', ':', ',']) || path.chars().any(char::is_control) {
        return refuse("must not hold ':', ',' or control characters");
    }
    let whole = match path.strip_prefix('~').unwrap_or(path) {
        absolute if absolute.len() == path.len() && path.starts_with('/') => path.to_owned(),
        relative => format!("{home}/{relative}"),
    };
    let mut parts = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => return refuse("must not hold '..'"),
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Whether a home directory may be there.
pub(super) fn may_be_home(path: &str) -> Result<(), String> {
    let hides = SYSTEM.iter().any(|dir| within(path, dir))
        || ROOTS.contains(&path)
        || (within(path, "/usr") && !path.starts_with(APPLICATIONS));
    if hides {
        return Err(format!(
            "must not be {path}, which belongs to the system; /workspace or a directory below /home, \
             for instance, will do"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_out_absolute_and_plain() {
        for (path, whole) in [
            ("/workspace", "/workspace"),
            ("//a/./b/", "/a/b"),
            ("project", "/home/sandbox/project"),
            ("~", "/home/sandbox"),
            ("~/x", "/home/sandbox/x"),
            ("", "/home/sandbox"),
            ("/", "/"),
        ] {
            assert_eq!(absolute(path, "/home/sandbox").unwrap(), whole, "{path}");
        }
        for path in [
            "/a/../b",
            "..",
            "/a\0b",
            "/a:b",
            "/a,b",
            "/a\nb",
            &"x".repeat(256),
        ] {
            absolute(path, "/home/sandbox").unwrap_err();
        }
    }

    #[test]
    fn a_home_hides_nothing_that_is_needed() {
        for home in [
            "/workspace",
            "/home/user",
            "/app",
            "/usr/src/app",
            "/root",
            "/var/task",
        ] {
            may_be_home(home).unwrap();
        }
        for system in [
            "/",
            "/proc",
            "/proc/self",
            "/etc",
            "/.belljar",
            "/.belljar/link",
            "/usr",
            "/usr/bin",
            "/usr/srcs",
            "/home",
            "/dev/shm",
            "/lib64/x",
        ] {
            may_be_home(system).unwrap_err();
        }
        assert!(within("/tmp/a", "/tmp") && !within("/tmpa", "/tmp"));
    }
}
