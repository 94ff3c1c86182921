//! `belljar-agent`: PID 1 of every Belljar sandbox.
//!
//! It owns the sandbox's terminals and their history, reaps its processes, and ends it on time even
//! if no gateway is left. It is one static binary and one thread, and runs in any image as any user.
//!
//! In reading order: [`agent`] answers the gateway's requests, [`terminal`] is a PTY with its
//! [`history`] and [`flow`] control, [`reaper`] waits for processes, [`life`] decides when it is
//! over, [`dial`] finds the gateway, [`inspect`] looks around for `belljar doctor`.

mod agent;

mod terminal;

mod literal;

mod history;

mod flow;

mod reaper;

mod life;

mod dial;

mod inspect;

mod environment;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::agent::Agent;
use crate::life::Life;

const USAGE: &str = "usage: belljar-agent --sandbox ID --link PATH|stdio \
    --deadline SECONDS --unlinked SECONDS

Started by the Belljar gateway as PID 1 of a sandbox; not for use by hand.
  --link      the gateway's Unix socket, or stdio
  --deadline  the sandbox ends after this long
  --unlinked  the sandbox ends after this long without a gateway";

struct Arguments {
    sandbox: String,
    /// `None` is stdio.
    socket: Option<PathBuf>,
    deadline: Duration,
    unlinked: Duration,
}

fn arguments() -> Result<Arguments, lexopt::Error> {
    use lexopt::prelude::*;
    let mut parser = lexopt::Parser::from_env();
    let (mut sandbox, mut link, mut deadline, mut unlinked) = (None, None, None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("sandbox") => sandbox = Some(parser.value()?.string()?),
            Long("link") => link = Some(PathBuf::from(parser.value()?)),
            Long("deadline") => deadline = Some(parser.value()?.parse()?),
            Long("unlinked") => unlinked = Some(parser.value()?.parse()?),
            Long("version") => {
                println!("belljar-agent {}", env!("CARGO_PKG_VERSION"));
                std::process::exit(0);
            }
            other => return Err(other.unexpected()),
        }
    }
    let missing = "--sandbox, --link, --deadline and --unlinked are required";
    Ok(Arguments {
        sandbox: sandbox.ok_or(missing)?,
        socket: Some(link.ok_or(missing)?).filter(|link| link.as_os_str() != "stdio"),
        deadline: Duration::from_secs(deadline.ok_or(missing)?),
        unlinked: Duration::from_secs(unlinked.ok_or(missing)?),
    })
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("belljar-agent: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    environment::prepare();
    environment::leave_standard_streams(arguments.socket.is_none());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("belljar-agent: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = LocalSet::new().block_on(&runtime, run(arguments));
    reaper::kill_all();
    match result {
        Ok(reason) => {
            eprintln!("belljar-agent: {reason}");
            std::process::exit(0)
        }
        Err(error) => {
            eprintln!("belljar-agent: {error}");
            std::process::exit(1)
        }
    }
}

/// Serve until it is over; returns why.
async fn run(arguments: Arguments) -> std::io::Result<&'static str> {
    let life = Life::new(arguments.deadline, arguments.unlinked);
    let agent = Rc::new(Agent::new(arguments.sandbox, life));
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut user1 = signal(SignalKind::user_defined1())?;
    let mut user2 = signal(SignalKind::user_defined2())?;

    let reaper = tokio::task::spawn_local(agent.reaper.clone().run());
    let links = dial::links(agent.clone(), arguments.socket);
    tokio::pin!(links, reaper);
    let mut linkable = true;
    let reason = loop {
        tokio::select! {
            reason = agent.life.over() => break reason,
            () = agent.terminate.notified() => break "the gateway has ended the sandbox",
            _ = terminated.recv() => break "SIGTERM",
            _ = interrupted.recv() => break "SIGINT",
            _ = quit.recv() => break "SIGQUIT",
            // The engine's own signals are for the programs, not for PID 1.
            _ = hung_up.recv() => agent.forward(Signal::HUP),
            _ = user1.recv() => agent.forward(Signal::USR1),
            _ = user2.recv() => agent.forward(Signal::USR2),
            // Without another way to be found, the wait for a gateway runs out by itself.
            () = &mut links, if linkable => linkable = false,
            result = &mut reaper => {
                result.map_err(std::io::Error::other)??;
            }
        }
    };
    // Programs get a moment to put their affairs in order; the rest is killed.
    reaper::signal_all(Signal::HUP);
    reaper::signal_all(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(reason)
}
