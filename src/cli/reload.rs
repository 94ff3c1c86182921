//! `belljar reload`: lets the running gateway read its configuration anew, and says what came of it.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use rustix::process::{Signal, kill_process};
use tokio::time::{sleep, timeout};

use super::Settings;
use super::control::{Answer, Control};

/// How long the gateway may take. It takes milliseconds, once it serves; until then it waits for the
/// engine.
const DEADLINE: Duration = Duration::from_secs(30);

/// How often the answer is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Reload; the exit code says whether the new configuration is in force.
pub(super) async fn run(settings: &Settings) -> ExitCode {
    match reload(settings).await {
        Ok(answer) if answer.problems.is_empty() => {
            // A reader that has gone away (`| head`) is no reason to panic.
            let _ = report(&answer);
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            let problems = answer.problems.join("\n  ");
            eprintln!(
                "belljar: nothing has changed: the configuration is not valid:\n  {problems}"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("belljar: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn reload(settings: &Settings) -> Result<Answer, String> {
    // Needed to find the gateway; the gateway reads it again by itself, with its own variables.
    let config = settings
        .load()
        .map_err(|error| format!("nothing has changed: {error}"))?;
    let control = Control::of(&config);
    let pid = control.gateway().ok_or_else(|| {
        format!(
            "no gateway serves here: {} names none. Give the flags and variables that it was \
             started with; a run_dir that was changed needs a restart",
            control.pid_file().display()
        )
    })?;
    let asked = SystemTime::now();
    kill_process(pid, Signal::HUP)
        .map_err(|error| format!("process {} cannot be told: {error}", pid.as_raw_nonzero()))?;
    let answered = async {
        loop {
            if let Some(answer) = control.answer_since(asked) {
                return answer;
            }
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(DEADLINE, answered).await.map_err(|_| {
        format!(
            "process {} has not answered within {} s: look at its log",
            pid.as_raw_nonzero(),
            DEADLINE.as_secs()
        )
    })
}

/// One line for each key that has changed.
fn report(answer: &Answer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for key in &answer.applied {
        writeln!(out, "applied          {key}")?;
    }
    for key in &answer.needs_restart {
        writeln!(out, "needs a restart  {key}")?;
    }
    if answer.applied.is_empty() && answer.needs_restart.is_empty() {
        writeln!(out, "nothing has changed")?;
    }
    Ok(())
}
