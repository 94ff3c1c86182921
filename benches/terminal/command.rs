//! The raw side as a person has it: the command `docker attach`, in a terminal.

use std::io::{Read, Write};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::cpu::Cost;
use crate::engine::Engine;
use crate::{BULK_READ, Terminal, read};

/// A terminal emulator's end of a PTY in which `docker attach` runs.
pub(crate) struct Command {
    id: String,
    input: Box<dyn Write>,
    output: Box<dyn Read>,
    buffer: Vec<u8>,
    child: Box<dyn Child>,
    /// Closed with it.
    _pty: Box<dyn MasterPty>,
}

impl Command {
    /// Start a container and attach to it; resolves at the prompt.
    pub(crate) fn open(engine: &Engine) -> Self {
        let id = engine.create();
        engine.start(&id);
        let size = PtySize {
            rows: 24,
            cols: 80,
            ..PtySize::default()
        };
        let pair = native_pty_system().openpty(size).expect("a PTY");
        let mut docker = CommandBuilder::new("docker");
        docker.args(["attach", &id]);
        let child = pair.slave.spawn_command(docker).expect("docker is there");
        let output = pair.master.try_clone_reader().expect("a descriptor");
        let input = pair.master.take_writer().expect("the only one");
        let mut command = Self {
            id,
            input,
            output,
            buffer: vec![0; BULK_READ],
            child,
            _pty: pair.master,
        };
        // The container's prompt came before anybody was attached: ask for another.
        command.send(b"\r");
        command.until(b"$ ");
        command
    }

    /// With the command itself, which stands where our gateway does.
    pub(crate) fn cost(&self) -> Cost {
        Cost {
            containers: vec![self.id.clone()],
            ..Cost::default()
        }
    }

    pub(crate) fn remove(mut self, engine: &Engine) {
        engine.remove(&self.id);
        self.child.wait().expect("it ends with its container");
    }
}

impl Terminal for Command {
    fn send(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).expect("it reads");
    }

    fn receive(&mut self, into: Option<&mut Vec<u8>>) -> usize {
        read(&mut self.output, &mut self.buffer, into)
    }
}
