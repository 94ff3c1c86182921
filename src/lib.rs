//! Belljar: throw-away Linux terminals, sealed in gVisor, over a WebSocket.
//!
//! Modules in reading order. A visitor's bytes pass `web` ⇄ `session` ⇄ `sandbox` ⇄ link ⇄ agent;
//! each layer knows only those after it (see ARCHITECTURE.md for the invariants).

#![forbid(unsafe_code)]

pub mod gateway;

pub mod config;

pub mod web;

pub mod session;

pub mod fleet;

pub mod sandbox;

pub mod limit;

mod store;

pub mod secret;

pub mod keys;

pub mod telemetry;

pub mod cli;
