//! Programs without a terminal, as the gateway sees them.

use bytes::{Buf, Bytes};
use futures::{SinkExt, StreamExt};

use super::{CALL_DEADLINE, Link, LinkError, call, call_pages, deadline, open};
use crate::frame::{Frame, MAX_DATA};
use crate::message::process::{
    Following, InputCommand, MAX_ENDED, MAX_PROCESSES, ProcessExit, ProcessInfo, ProcessMessage,
    ProcessStarted, STDERR, STDOUT, StartProcess,
};
use crate::message::{Done, Reply, Request};
use crate::mux::FrameStream;

impl Link {
    /// Start a background process, whatever `start` says of that; returns its number.
    pub async fn start_process(&self, start: StartProcess) -> Result<u32, LinkError> {
        let request = Request::StartProcess(StartProcess {
            background: true,
            ..start
        });
        let (started, _) = call::<ProcessStarted>(&self.mux, &request).await?;
        Ok(started.process)
    }

    /// Start a process and follow it from its first byte on, in one round trip. A foreground
    /// process waits while its output is not read, and is killed when that is dropped.
    pub async fn exec(
        &self,
        start: StartProcess,
    ) -> Result<(u32, ProcessOutput, Option<ProcessInput>), LinkError> {
        let with_input = start.stdin;
        let (started, stream) = call::<ProcessStarted>(&self.mux, &Request::Exec(start)).await?;
        let process = started.process;
        let input = if with_input {
            // Its reply is read when the input is closed: nobody waits for a second round trip.
            let request = Request::ProcessInput { process };
            let stream = deadline(CALL_DEADLINE, open(&self.mux, &request)).await?;
            Some(ProcessInput {
                stream,
                ready: false,
            })
        } else {
            None
        };
        Ok((process, ProcessOutput { stream, offset: 0 }, input))
    }

    /// Every process that runs, and the background processes that have ended and are still known.
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>, LinkError> {
        let most = MAX_PROCESSES + MAX_ENDED;
        Ok(call_pages(&self.mux, &Request::Processes, most).await?.0)
    }

    /// One process.
    pub async fn process(&self, process: u32) -> Result<ProcessInfo, LinkError> {
        Ok(call(&self.mux, &Request::Process { process }).await?.0)
    }

    /// Send a signal to a process and all of its group. One that has ended is `no_process`.
    pub async fn signal_process(&self, process: u32, signal: i32) -> Result<(), LinkError> {
        let request = Request::SignalProcess { process, signal };
        call::<Done>(&self.mux, &request).await?;
        Ok(())
    }

    /// Read a process's output from an offset on (absent: everything still held).
    pub async fn follow_process(
        &self,
        process: u32,
        from: Option<u64>,
    ) -> Result<ProcessOutput, LinkError> {
        let request = Request::FollowProcess { process, from };
        let (following, stream) = call::<Following>(&self.mux, &request).await?;
        let offset = following.offset;
        Ok(ProcessOutput { stream, offset })
    }

    /// Open a process's standard input.
    pub async fn process_input(&self, process: u32) -> Result<ProcessInput, LinkError> {
        let request = Request::ProcessInput { process };
        let (_, stream) = call::<Done>(&self.mux, &request).await?;
        Ok(ProcessInput {
            stream,
            ready: true,
        })
    }
}

/// What comes out of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    /// The next bytes of standard output.
    Stdout(Bytes),
    /// The next bytes of standard error.
    Stderr(Bytes),
    /// The bytes from `from` up to `to` are no longer held.
    Gap {
        /// First missing offset.
        from: u64,
        /// Offset the output goes on with.
        to: u64,
    },
    /// The program ended, and this is the last event.
    Exit(ProcessExit),
}

/// A process's output.
#[derive(Debug)]
pub struct ProcessOutput {
    stream: FrameStream,
    offset: u64,
}

impl ProcessOutput {
    /// The next event; `None` after the exit, or when the link has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<ProcessEvent, LinkError>> {
        let frame = match self.stream.next().await? {
            Ok(frame) => frame,
            Err(error) => return Some(Err(error.into())),
        };
        Some(self.event(frame))
    }

    /// Offset after the last byte that came.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn event(&mut self, frame: Frame) -> Result<ProcessEvent, LinkError> {
        let Frame::Data(mut bytes) = frame else {
            return Ok(match frame.parse()? {
                ProcessMessage::Gap { from, to } => {
                    self.offset = to;
                    ProcessEvent::Gap { from, to }
                }
                ProcessMessage::Exit(exit) => ProcessEvent::Exit(exit),
            });
        };
        let stream = bytes.first().copied();
        bytes.advance(bytes.len().min(1));
        // It is the agent's word, so it may be anything.
        self.offset = self.offset.saturating_add(bytes.len() as u64);
        match stream {
            Some(STDOUT) => Ok(ProcessEvent::Stdout(bytes)),
            Some(STDERR) => Ok(ProcessEvent::Stderr(bytes)),
            _ => Err(LinkError::Garbled("output of no stream")),
        }
    }
}

/// A process's standard input. Dropped without [`ProcessInput::close`] it stays open for another.
#[derive(Debug)]
pub struct ProcessInput {
    stream: FrameStream,
    /// Whether the reply to the request has been read.
    ready: bool,
}

impl ProcessInput {
    /// Write these bytes. Waits while the program does not read and 256 KiB are under way, which may
    /// be for ever. Not cancel-safe: a part of them may have been written.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), LinkError> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(MAX_DATA));
            self.stream.send(Frame::Data(piece)).await?;
        }
        Ok(())
    }

    /// Let the program read the end, once it has read what was written; waits until then. A program
    /// that has ended meanwhile is no error.
    pub async fn close(mut self) -> Result<(), LinkError> {
        let close = Frame::message(&InputCommand::Close)?;
        if self.stream.send(close).await.is_err() {
            // Nobody reads it any more. A refusal may say why.
            return self.refused().await;
        }
        if !self.ready {
            self.reply().await?;
        }
        self.reply().await
    }

    async fn refused(&mut self) -> Result<(), LinkError> {
        if self.ready {
            return Ok(());
        }
        deadline(CALL_DEADLINE, self.reply()).await
    }

    async fn reply(&mut self) -> Result<(), LinkError> {
        match self.stream.next().await {
            Some(frame) => frame?
                .parse::<Reply<Done>>()?
                .map(|_| ())
                .map_err(LinkError::from),
            None => Ok(()),
        }
    }
}
