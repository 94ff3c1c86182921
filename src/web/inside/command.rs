//! What a program wants to have run, in every spelling that clients have for it.

use std::collections::BTreeMap;
use std::time::Duration;

use belljar_link::message::process::StartProcess;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Trouble;
use crate::fleet::Held;

/// How long a command may take if nothing is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long one may take at most. A sandbox may live longer; what runs for so long belongs in the
/// background.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Variables and arguments of a command, and bytes of each, so that the request to the agent (128 KiB)
/// holds them.
const MAX_ENV: usize = 64;
const MAX_ARGUMENTS: usize = 1024;
const MAX_TEXT: usize = 48 * 1024;

/// One line for the shell, or a program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = CommandLine)]
pub(in crate::web) enum Line {
    /// For `/bin/sh -c`.
    Shell(String),
    /// As it is.
    Program(Vec<String>),
}

/// What a program reads.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged)]
pub(in crate::web) enum Stdin {
    /// This, and then the end.
    Text(String),
    /// What will be written to it, if true; for a program in the background.
    Open(bool),
}

/// How the answer comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::web) enum Mode {
    /// Once, when it has ended.
    #[default]
    Wait,
    /// As it comes, as server-sent events.
    Stream,
    /// At once: it runs on by itself.
    Background,
}

/// A request to run something.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names that the API has")]
pub(in crate::web) struct Command {
    /// What to run; `cmd` is the same.
    #[serde(alias = "cmd")]
    pub(in crate::web) command: Option<Line>,
    /// Arguments; the command is then a program and not a line.
    #[serde(default)]
    pub(in crate::web) args: Vec<String>,
    /// Added to the sandbox's environment; `envs` is the same.
    #[serde(alias = "envs")]
    pub(in crate::web) env: Option<BTreeMap<String, String>>,
    /// Working directory; the sandbox's own if absent.
    pub(in crate::web) cwd: Option<String>,
    /// Who runs it; only the sandbox's own user can.
    pub(in crate::web) user: Option<String>,
    /// Its standard input; nothing if absent.
    pub(in crate::web) stdin: Option<Stdin>,
    /// Seconds, at most a day; 60 if absent, unless it runs in the background.
    pub(in crate::web) timeout: Option<f64>,
    /// How the answer comes.
    #[serde(default)]
    pub(in crate::web) mode: Mode,
}

impl Command {
    /// Checked, as the agent is to start it. A background process runs for as long as it likes, unless
    /// a time is given.
    pub(in crate::web) fn start(&self, held: &Held) -> Result<StartProcess, Trouble> {
        let timeout = match self.timeout {
            None if self.mode == Mode::Background => None,
            timeout => Some(check_timeout(timeout)?),
        };
        if self.stdin == Some(Stdin::Open(true)) && self.mode != Mode::Background {
            return Err(Trouble::bad(
                "stdin",
                "must be text, unless the mode is background",
            ));
        }
        let start = StartProcess {
            command: self.argv()?,
            env: self.env.clone().unwrap_or_default(),
            cwd: Some(directory(held, self.cwd.as_deref())),
            user: self.user.clone(),
            stdin: self
                .stdin
                .as_ref()
                .is_some_and(|s| *s != Stdin::Open(false)),
            timeout_ms: timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            background: self.mode == Mode::Background,
        };
        if start.env.len() > MAX_ENV {
            return Err(Trouble::bad(
                "env",
                format!("must have at most {MAX_ENV} variables"),
            ));
        }
        let named = |name: &String| !name.is_empty() && !name.contains(['=', '\0']);
        if !start.env.keys().all(named) {
            return Err(Trouble::bad("env", "must have names without '=' and NUL"));
        }
        let variables = start.env.iter().flat_map(|(name, value)| [name, value]);
        let text: usize = start.command.iter().chain(variables).map(String::len).sum();
        if text > MAX_TEXT {
            return Err(Trouble::bad(
                "command",
                format!("must be, with env, at most {MAX_TEXT} bytes"),
            ));
        }
        Ok(start)
    }

    fn argv(&self) -> Result<Vec<String>, Trouble> {
        let argv = match &self.command {
            None => return Err(Trouble::bad("command", "must be given")),
            Some(Line::Shell(line)) if self.args.is_empty() => {
                if line.trim().is_empty() {
                    return Err(Trouble::bad("command", "must not be empty"));
                }
                vec!["/bin/sh".into(), "-c".into(), line.clone()]
            }
            Some(Line::Shell(program)) => std::iter::once(program)
                .chain(&self.args)
                .cloned()
                .collect(),
            Some(Line::Program(argv)) => argv.iter().chain(&self.args).cloned().collect(),
        };
        if argv.first().is_none_or(String::is_empty) {
            return Err(Trouble::bad("command", "must not be empty"));
        }
        if argv.len() > MAX_ARGUMENTS {
            return Err(Trouble::bad(
                "command",
                format!("must have at most {MAX_ARGUMENTS} arguments"),
            ));
        }
        if argv.iter().any(|part| part.contains('\0')) {
            return Err(Trouble::bad("command", "must not contain NUL"));
        }
        Ok(argv)
    }
}

/// A path of a request against the sandbox's working directory.
pub(in crate::web) fn directory(held: &Held, path: Option<&str>) -> String {
    match path {
        None | Some("") => held.cwd.clone(),
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(path) => format!("{}/{path}", held.cwd.trim_end_matches('/')),
    }
}

fn check_timeout(seconds: Option<f64>) -> Result<Duration, Trouble> {
    let Some(seconds) = seconds else {
        return Ok(DEFAULT_TIMEOUT);
    };
    let timeout = Duration::try_from_secs_f64(seconds).ok();
    let within = |t: &Duration| (Duration::from_millis(1)..=MAX_TIMEOUT).contains(t);
    timeout.filter(within).ok_or_else(|| {
        let message = format!(
            "must be more than 0 and at most {} s",
            MAX_TIMEOUT.as_secs()
        );
        Trouble::bad("timeout", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(json: &str) -> Result<Vec<String>, String> {
        let command: Command = serde_json::from_str(json).unwrap();
        command.argv().map_err(|trouble| trouble.to_string())
    }

    #[test]
    fn every_spelling_is_understood() {
        let shell = ["/bin/sh", "-c", "a b"].map(String::from);
        assert_eq!(argv(r#"{"cmd": "a b"}"#).unwrap(), shell);
        assert_eq!(argv(r#"{"command": "a b", "x": 1}"#).unwrap(), shell);
        let program = ["a", "b c"].map(String::from);
        assert_eq!(argv(r#"{"cmd": "a", "args": ["b c"]}"#).unwrap(), program);
        assert_eq!(argv(r#"{"command": ["a", "b c"]}"#).unwrap(), program);
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        for (json, said) in [
            ("{}", "must be given"),
            (r#"{"cmd": " "}"#, "must not be empty"),
            (r#"{"cmd": []}"#, "must not be empty"),
            (r#"{"cmd": ["", "a"]}"#, "must not be empty"),
            (r#"{"cmd": "a\u0000b"}"#, "NUL"),
        ] {
            assert!(argv(json).unwrap_err().contains(said), "{json}");
        }
    }

    #[test]
    fn times_are_bounded() {
        assert_eq!(check_timeout(None).unwrap(), DEFAULT_TIMEOUT);
        assert_eq!(check_timeout(Some(0.5)).unwrap().as_millis(), 500);
        for bad in [0.0, -1.0, 1e-9, f64::NAN, f64::INFINITY, 86_401.0] {
            assert!(check_timeout(Some(bad)).is_err(), "{bad}");
        }
    }
}
