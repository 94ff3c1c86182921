//! Whole-gateway tests: a real gateway on a port of its own, a real WebSocket client, real
//! launchers. What needs Docker and gVisor is in `sealed`, what needs a cluster in `kubernetes`; the rest
//! runs agents as plain processes.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![allow(
    clippy::cast_precision_loss,
    clippy::format_collect,
    clippy::large_stack_arrays,
    clippy::similar_names,
    reason = "small numbers, few bytes, short tests"
)]
#![allow(dead_code, reason = "the harness is there for tests to come")]

mod harness;

mod raw;

mod terminal;

mod agent;

mod sealed;

mod kubernetes;

mod service;

mod layers;

mod hostile;

mod pages;

mod limits;

mod queue;

mod resume;

mod shares;

mod files;

mod recordings;

mod toolkata;

mod api;
mod inside;
