//! How a command ended, in every spelling that clients have for it.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use belljar_link::client::LinkError;
use belljar_link::client::process::{ProcessEvent, ProcessInput, ProcessOutput};
use belljar_link::message::process::ProcessExit;
use bytes::Bytes;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::Trouble;

/// Most of each stream that a waiting client is given, bytes. Who wants more has it streamed.
pub(in crate::web) const MAX_OUTPUT: usize = 1 << 20;

/// The code of a command whose time was up, as of `timeout(1)`.
const TIMED_OUT: i32 = 124;

/// How a process ended.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names that the API has")]
pub(in crate::web) struct Exit {
    /// Its code; 128 and the number for a signal, 124 if its time was up.
    pub(in crate::web) exit_code: i32,
    /// The same.
    #[serde(rename = "exit_code")]
    pub(in crate::web) exit_code_snake: i32,
    /// The signal that ended it.
    pub(in crate::web) signal: Option<String>,
    /// Whether its time was up.
    pub(in crate::web) timed_out: bool,
}

impl From<&ProcessExit> for Exit {
    fn from(exit: &ProcessExit) -> Self {
        let code = match (exit.timed_out, exit.code, exit.signal.as_deref()) {
            (true, ..) => TIMED_OUT,
            (_, Some(code), _) => code,
            (_, None, signal) => 128 + signal.and_then(signal_number).unwrap_or(0),
        };
        Self {
            exit_code: code,
            exit_code_snake: code,
            signal: exit.signal.clone(),
            timed_out: exit.timed_out,
        }
    }
}

/// How a process ended, if it has: what [`Exit`] has, with nothing that is always there.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
#[schema(rename_all = "camelCase")]
pub(in crate::web) struct Ended {
    /// Its code; 128 and the number for a signal, 124 if its time was up.
    #[schema(nullable = false)]
    exit_code: Option<i32>,
    /// The same.
    #[schema(rename = "exit_code", nullable = false)]
    exit_code_snake: Option<i32>,
    /// The signal that ended it.
    signal: Option<String>,
    /// Whether its time was up.
    #[schema(nullable = false)]
    timed_out: Option<bool>,
}

/// What a command came to.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::web) struct Outcome {
    /// How it ended.
    #[serde(flatten)]
    pub(in crate::web) exit: Exit,
    /// Its standard output, as text.
    pub(in crate::web) stdout: String,
    /// Its standard error, as text.
    pub(in crate::web) stderr: String,
    /// Whether one of them was longer than 1 MiB; the rest is lost.
    pub(in crate::web) truncated: bool,
}

/// Give a command its input and wait for its end.
pub(in crate::web) async fn wait(
    mut output: ProcessOutput,
    input: Option<(ProcessInput, String)>,
) -> Result<Outcome, Trouble> {
    let collect = async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut truncated = false;
        loop {
            match output.next().await {
                Some(Ok(ProcessEvent::Stdout(bytes))) => truncated |= push(&mut stdout, &bytes),
                Some(Ok(ProcessEvent::Stderr(bytes))) => truncated |= push(&mut stderr, &bytes),
                Some(Ok(ProcessEvent::Gap { .. })) => truncated = true,
                Some(Ok(ProcessEvent::Exit(exit))) => {
                    return Ok(Outcome {
                        exit: Exit::from(&exit),
                        stdout: text(stdout),
                        stderr: text(stderr),
                        truncated,
                    });
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Err(LinkError::Closed.into()),
            }
        }
    };
    // Neither waits for the other: a program may write before it has read everything.
    tokio::select! {
        outcome = collect => outcome,
        never = feed_on(input) => match never {},
    }
}

/// Write a command's input and close it. A command that ends without having read it is no error.
pub(in crate::web) async fn feed(mut input: ProcessInput, text: String) {
    if input.write(Bytes::from(text)).await.is_ok() {
        let _ = input.close().await;
    }
}

/// The same beside what ends with the command's output: never resolves.
pub(in crate::web) async fn feed_on(input: Option<(ProcessInput, String)>) -> Infallible {
    if let Some((input, text)) = input {
        feed(input, text).await;
    }
    pending().await
}

/// Keep so much of it as may be kept; true if that is not all.
fn push(kept: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let now = bytes.len().min(MAX_OUTPUT - kept.len());
    kept.extend_from_slice(&bytes[..now]);
    now < bytes.len()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Names of signals that are sent to programs, with their numbers on Linux.
const SIGNALS: [(&str, i32); 19] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGILL", 4),
    ("SIGTRAP", 5),
    ("SIGABRT", 6),
    ("SIGBUS", 7),
    ("SIGFPE", 8),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGSEGV", 11),
    ("SIGUSR2", 12),
    ("SIGPIPE", 13),
    ("SIGALRM", 14),
    ("SIGTERM", 15),
    ("SIGCONT", 18),
    ("SIGSTOP", 19),
    ("SIGTSTP", 20),
    ("SIGWINCH", 28),
];

/// The number of a signal, by its name with or without `SIG`, or by the number itself.
pub(in crate::web) fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.trim_start_matches("SIG").parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.trim_start_matches("SIG");
    let found = SIGNALS.iter().find(|(known, _)| &known[3..] == bare);
    found.map(|(_, number)| *number)
}

/// How long a piece of an answer may wait for its reader before that is given up.
const READER_DEADLINE: Duration = Duration::from_secs(60);

/// Hand a piece of an answer to its reader; false if that has gone, or does not read.
pub(in crate::web) async fn hand_over<T>(reader: &tokio::sync::mpsc::Sender<T>, piece: T) -> bool {
    matches!(
        timeout(READER_DEADLINE, reader.send(piece)).await,
        Ok(Ok(()))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: Option<i32>, signal: Option<&str>, timed_out: bool) -> i32 {
        let signal = signal.map(str::to_owned);
        Exit::from(&ProcessExit {
            code,
            signal,
            timed_out,
        })
        .exit_code
    }

    #[test]
    fn every_end_has_a_code() {
        assert_eq!(exit(Some(3), None, false), 3);
        assert_eq!(exit(None, Some("SIGKILL"), false), 137);
        assert_eq!(exit(None, Some("SIG35"), false), 163);
        assert_eq!(exit(None, Some("SIGTERM"), true), 124);
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for name in ["SIGINT", "INT", "int", "2", "SIG2"] {
            assert_eq!(signal_number(name), Some(2), "{name}");
        }
        for name in ["", "SIG", "0", "65", "-1", "SIGFLY"] {
            assert_eq!(signal_number(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_too_much_is_left_out() {
        let mut kept = vec![0; MAX_OUTPUT - 1];
        assert!(!push(&mut kept, b"a"));
        assert!(push(&mut kept, b"b"));
        assert_eq!(kept.len(), MAX_OUTPUT);
    }
}
