//! What goes on inside a program's sandbox: commands, processes, files, terminals, ports. Everything
//! goes over the link to its agent.
//!
//! In reading order: [`running`] is the sandbox that a request names, [`trouble`] what is answered when
//! the agent refuses, [`patience`] how an answer may take longer than others, [`ports`] a server in
//! the sandbox.

use axum::Router;

use super::App;

pub(super) mod patience;

mod running;

mod trouble;

mod ports;

use patience::Patience;
pub(super) use running::Running;
pub(super) use trouble::Trouble;

/// Routes below `/sandboxes/{id}` whose requests are small and come whole.
pub(super) fn routes() -> Router<App> {
    Router::new()
}

/// Routes below `/sandboxes/{id}` whose requests may be as large as a file.
pub(super) fn streams() -> Router<App> {
    Router::new().merge(ports::routes())
}
