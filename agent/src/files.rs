//! The files of the sandbox.

pub(crate) mod path;
