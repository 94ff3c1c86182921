//! The link: the typed protocol between the Belljar gateway and the agent in a sandbox.
//!
//! A link is one byte stream (a Unix socket, an engine's attach, a pair of pipes) multiplexed by
//! [yamux] into streams. Only the gateway opens streams. Each begins with one [`message::Request`]
//! and one reply; what follows depends on the request. Everything here is data and codecs: no
//! policy, no clock but for deadlines, no knowledge of sessions or browsers.
//!
//! In reading order: [`message`] says what is said, [`frame`] how it is laid out in bytes, [`mux`]
//! how streams share a connection, [`socket`] is the connection, [`client`] is the gateway's side. The agent's side is the
//! `belljar-agent` crate.
//!
//! The peer is never trusted: lengths are checked before memory is taken for them, the number of
//! streams and the window of each are bounded, and every call of the client has a deadline.

#![forbid(unsafe_code)]

pub mod message;

pub mod frame;

pub mod mux;

pub mod socket;

pub mod client;
