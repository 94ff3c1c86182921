//! `belljar-agent`: PID 1 of every Belljar sandbox.
//!
//! It owns the sandbox's terminals and their history, reaps its processes, and ends it on time even
//! if no gateway is left. It is one static binary and runs in any image as any user.
//!
//! In reading order: [`agent`] answers the gateway's requests, [`terminal`] is a program on a
//! [`pty`] with its [`history`] and [`flow`] control, [`process`] one without a terminal, [`files`] are
//! the sandbox's files, [`port`] its ports, [`stats`] what it uses, [`reaper`] waits for processes, [`life`] decides when it is over, [`dial`] finds the gateway, [`relay`] lets a later one in, [`install`] puts the agent where a sandbox finds it, [`wire`] carries a link's bytes, [`inspect`]
//! looks around for `belljar doctor`. Everything that waits is a thread that blocks; [`tasks`] says
//! why, and runs what a link does. [`poller`] is the thread that waits for what is many, [`hands`]
//! are those that do what is slow.

mod agent;

mod terminal;

mod pty;

mod proc;

mod history;

mod flow;

mod process;

mod files;

mod port;

mod stats;

mod reaper;

mod life;

mod dial;

mod relay;

mod install;

mod wire;

mod tasks;

mod poller;

mod hands;

mod inspect;

mod environment;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustix::process::{Resource, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::agent::Agent;
use crate::life::Life;

const USAGE: &str = "usage: belljar-agent --sandbox ID --link PATH|stdio \
    --deadline SECONDS --unlinked SECONDS [--processes N] [--open-files N] [--file-size BYTES]
        [--core-size BYTES] [--keep-stderr]
       belljar-agent relay --sandbox ID
       belljar-agent install DIRECTORY

Started by the Belljar gateway as PID 1 of a sandbox; not for use by hand.
  --link      the gateway's Unix socket, or stdio
  --deadline  the sandbox ends after this long
  --unlinked  the sandbox ends after this long without a gateway
  --processes, --open-files, --file-size, --core-size
              limits, where the engine sets none
  --keep-stderr
              leave standard error open, for an engine that ends an attach without it
  relay       joins standard input and output to the agent of this sandbox
  install     copies this binary into a directory";

struct Arguments {
    sandbox: String,
    /// `None` is stdio.
    socket: Option<PathBuf>,
    deadline: Duration,
    unlinked: Duration,
    limits: Vec<(Resource, u64)>,
    keep_stderr: bool,
}

/// What this process is to be.
enum Part {
    Agent(Arguments),
    Relay { sandbox: String },
    Install { directory: PathBuf },
}

fn arguments() -> Result<Part, lexopt::Error> {
    use lexopt::prelude::*;
    let mut parser = lexopt::Parser::from_env();
    let (mut sandbox, mut link, mut deadline, mut unlinked) = (None, None, None, None);
    let mut limits = Vec::new();
    let mut keep_stderr = false;
    let (mut relay, mut directory) = (false, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("sandbox") => sandbox = Some(parser.value()?.string()?),
            Long("link") => link = Some(PathBuf::from(parser.value()?)),
            Long("deadline") => deadline = Some(parser.value()?.parse()?),
            Long("unlinked") => unlinked = Some(parser.value()?.parse()?),
            Long("keep-stderr") => keep_stderr = true,
            Long("processes") => limits.push((Resource::Nproc, parser.value()?.parse()?)),
            Long("open-files") => limits.push((Resource::Nofile, parser.value()?.parse()?)),
            Long("core-size") => limits.push((Resource::Core, parser.value()?.parse()?)),
            Long("file-size") => limits.push((Resource::Fsize, parser.value()?.parse()?)),
            Value(word) if word == "relay" && !relay => relay = true,
            Value(word) if word == "install" && directory.is_none() => {
                directory = Some(PathBuf::from(parser.value()?));
            }
            Long("version") => {
                println!("belljar-agent {}", env!("CARGO_PKG_VERSION"));
                std::process::exit(0);
            }
            other => return Err(other.unexpected()),
        }
    }
    if let Some(directory) = directory {
        return Ok(Part::Install { directory });
    }
    if relay {
        let sandbox = sandbox.ok_or("--sandbox is required")?;
        return Ok(Part::Relay { sandbox });
    }
    let missing = "--sandbox, --link, --deadline and --unlinked are required";
    Ok(Part::Agent(Arguments {
        sandbox: sandbox.ok_or(missing)?,
        socket: Some(link.ok_or(missing)?).filter(|link| link.as_os_str() != "stdio"),
        deadline: Duration::from_secs(deadline.ok_or(missing)?),
        unlinked: Duration::from_secs(unlinked.ok_or(missing)?),
        limits,
        keep_stderr,
    }))
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Part::Agent(arguments)) => arguments,
        Ok(Part::Relay { sandbox }) => {
            environment::prepare();
            return helped(relay::run(&sandbox));
        }
        Ok(Part::Install { directory }) => return helped(install::run(&directory)),
        Err(error) => {
            eprintln!("belljar-agent: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    environment::prepare();
    environment::limit(&arguments.limits);
    environment::leave_standard_streams(arguments.socket.is_none(), arguments.keep_stderr);
    // A thread that dies alone would leave a sandbox that half works; without its PID 1 it is gone.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("belljar-agent: {panic}");
        std::process::abort();
    }));
    let result = run(arguments);
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

fn helped(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("belljar-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Events that may wait for the main thread, which does nothing but take them.
const EVENTS: usize = 16;

/// What the main thread waits for.
enum Event {
    /// The sandbox must end, for this reason.
    Over(&'static str),
    /// A signal for the programs.
    Forward(Signal),
}

/// Serve until it is over; returns why.
fn run(arguments: Arguments) -> std::io::Result<&'static str> {
    let (events, happened) = mpsc::sync_channel(EVENTS);
    let life = Life::new(arguments.deadline, arguments.unlinked);
    let agent = Arc::new(Agent::new(
        arguments.sandbox,
        life,
        arguments.socket.clone(),
        events.clone(),
    )?);

    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2])?;
    let signalled = events.clone();
    tasks::thread("signals", move || {
        for number in signals.forever() {
            let _ = signalled.send(match number {
                SIGTERM => Event::Over("SIGTERM"),
                SIGINT => Event::Over("SIGINT"),
                SIGQUIT => Event::Over("SIGQUIT"),
                // The engine's own signals are for the programs, not for PID 1.
                SIGHUP => Event::Forward(Signal::HUP),
                SIGUSR1 => Event::Forward(Signal::USR1),
                _ => Event::Forward(Signal::USR2),
            });
        }
    })?;
    let living = agent.clone();
    tasks::thread("life", move || {
        let _ = events.send(Event::Over(living.life.over()));
    })?;
    let reaping = agent.clone();
    tasks::thread("reaper", move || reaping.reaper.run())?;
    let polling = agent.poller.clone();
    tasks::thread("poller", move || polling.run())?;
    let linking = agent.clone();
    // Where it ends there is no other way to be found, and the wait for a gateway runs out.
    tasks::thread("link", move || dial::links(&linking, arguments.socket))?;

    let reason = loop {
        match happened.recv() {
            Ok(Event::Over(reason)) => break reason,
            Ok(Event::Forward(signal)) => agent.forward(signal),
            // The agent holds a sender itself.
            Err(mpsc::RecvError) => break "nothing can happen any more",
        }
    };
    // Programs get a moment to put their affairs in order; the rest is killed.
    reaper::signal_all(Signal::HUP);
    reaper::signal_all(Signal::TERM);
    std::thread::sleep(Duration::from_millis(100));
    Ok(reason)
}
