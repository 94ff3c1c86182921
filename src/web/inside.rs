//! What goes on inside a program's sandbox: commands, processes, files, terminals, ports. Everything
//! goes over the link to its agent.
//!
//! In reading order: [`running`] is the sandbox that a request names, [`trouble`] what is answered when
//! the agent refuses, [`patience`] how an answer may take longer than others, [`pty`] is
//! terminals, [`commands_ws`] a command on a WebSocket, [`ports`] a server in the sandbox.

use axum::routing::{any, get, post};
use utoipa_axum::router::OpenApiRouter;

use super::App;

pub(super) mod patience;

mod running;

mod trouble;

pub(super) mod command;

pub(super) mod commands;

pub(super) mod text;

pub(super) mod outcome;

mod processes;

pub(super) mod transfer;

pub(super) mod files;

mod watch;

mod stats;

mod ports;

pub(super) mod pty;

mod commands_ws;

pub(super) use running::Running;
pub(super) use trouble::Trouble;

/// Routes below `/sandboxes/{id}` whose requests are small and come whole.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .route("/commands", post(commands::create))
        .route("/code", post(commands::code))
        .route("/processes", get(processes::list))
        .route(
            "/processes/{process}",
            get(processes::show).delete(processes::end),
        )
        .route("/processes/{process}/output", get(processes::output))
        .route("/processes/{process}/signal", post(processes::signal))
        .route("/processes/{process}/stdin", post(processes::stdin))
        .route("/logs", get(processes::logs))
        .route("/stats", get(stats::show))
        .route("/files/list", get(files::list))
        .route("/files/glob", get(files::glob))
        .route("/files/stat", get(files::stat))
        .route("/files/mkdir", post(files::make_dir))
        .route("/files/move", post(files::rename))
        .route("/files/watch", get(watch::watch))
        .route("/commands/ws", any(commands_ws::start))
        .merge(pty::routes())
}

/// Routes below `/sandboxes/{id}` whose requests may be as large as a file.
pub(super) fn streams() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .route(
            "/files",
            get(files::read).put(files::write).delete(files::remove),
        )
        .route("/files/archive", get(files::pack).put(files::unpack))
        .merge(ports::routes())
}
