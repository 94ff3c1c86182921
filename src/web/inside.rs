//! What goes on inside a program's sandbox: commands, processes, files, terminals, ports. Everything
//! goes over the link to its agent.
//!
//! In reading order: [`running`] is the sandbox that a request names, [`trouble`] what is answered when
//! the agent refuses, [`patience`] how an answer may take longer than others, [`pty`] is
//! terminals, [`commands_ws`] a command on a WebSocket, [`ports`] a server in the sandbox.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

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
        .routes(routes!(commands::create))
        .routes(routes!(commands_ws::start))
        .routes(routes!(commands::code))
        .routes(routes!(processes::list))
        .routes(routes!(processes::show, processes::end))
        .routes(routes!(processes::output))
        .routes(routes!(processes::signal))
        .routes(routes!(processes::stdin))
        .routes(routes!(processes::logs))
        .routes(routes!(stats::show))
        .routes(routes!(files::list))
        .routes(routes!(files::glob))
        .routes(routes!(files::stat))
        .routes(routes!(files::make_dir))
        .routes(routes!(files::rename))
        .routes(routes!(watch::watch))
        .merge(pty::routes())
}

/// Routes below `/sandboxes/{id}` whose requests may be as large as a file.
pub(super) fn streams() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(files::read, files::write, files::remove))
        .routes(routes!(files::pack, files::unpack))
        .merge(ports::routes())
}
