//! What must hold for whatever bytes come from outside: one module for each reader of such bytes,
//! each with a function `hold` that panics where it does not.
//!
//! Run twice: by `cargo test` for a moment, on random changes of `seeds/`; by `make fuzz` for as long
//! as you like, guided by coverage, with nightly Rust.

#![forbid(unsafe_code)]

pub mod frames;

pub mod messages;

pub mod v1;

pub mod toolkata;

pub mod config;

mod pieces;

#[cfg(test)]
mod tests;
