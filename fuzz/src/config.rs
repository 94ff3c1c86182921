//! The configuration: a file, and variables over it.

use std::path::PathBuf;

use belljar::config::Config;

/// Stands between the file and the variables, and between these. Never part of UTF-8.
const BETWEEN: u8 = 0xff;

/// Whatever the layers hold, they become a configuration, which written out is understood as the
/// same one; or a list of problems, each of which names its key.
pub fn hold(bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == BETWEEN);
    let mut part = || parts.next().map(|part| String::from_utf8_lossy(part));
    let file = part().unwrap_or_default();
    let mut variables = Vec::new();
    while let Some(variable) = part() {
        let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
        variables.push((name.to_owned(), value.to_owned()));
    }
    match load(&file, variables) {
        Ok(config) => {
            let written = toml::to_string(&config).expect("a configuration can be written");
            let again = load(&written, Vec::new());
            let again = again.unwrap_or_else(|error| panic!("{error}\n{written}"));
            assert_eq!(toml::to_string(&again).as_ref(), Ok(&written));
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            let told = error.to_string();
            for problem in error.problems {
                assert!(!problem.message.is_empty(), "{told}");
                assert!(told.contains(&problem.key), "{told}");
                assert!(
                    !problem.key.is_empty() || problem.source.is_some(),
                    "{told}"
                );
            }
        }
    }
}

fn load(
    file: &str,
    variables: Vec<(String, String)>,
) -> Result<Config, belljar::config::ConfigError> {
    let path = path();
    std::fs::write(&path, file).expect("a file in the temporary directory");
    Config::load(Some(&path), variables, &[])
}

/// A file of this thread's own.
fn path() -> PathBuf {
    let thread = std::thread::current().id();
    let name = format!("belljar-fuzz-{}-{thread:?}.toml", std::process::id());
    std::env::temp_dir().join(name)
}
