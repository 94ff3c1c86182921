//! `belljar`: see the library's documentation.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::thread::available_parallelism;

use belljar::cli::{self, Cli};
use clap::Parser;
use listenfd::ListenFd;
use tokio::runtime::Builder;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // While there is one thread: it takes the variables away.
    let sockets = ListenFd::from_env();
    // The sandboxes need the processors more. On two of them a second worker, which is woken to look
    // for work that there is not, costs every key 6 %.
    let workers = available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(cli::run(cli, sockets)),
        Err(error) => {
            eprintln!("belljar: no threads to run on: {error}");
            ExitCode::FAILURE
        }
    }
}
