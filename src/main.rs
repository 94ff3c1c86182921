//! `belljar`: see the library's documentation.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use belljar::cli::{self, Cli};
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(Cli::parse()).await
}
