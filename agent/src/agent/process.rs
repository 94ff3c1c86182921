//! What the gateway asks for about processes.

use std::sync::Arc;

use belljar_link::frame::{Frame, FrameError};
use belljar_link::message::code::NO_PROCESS;
use belljar_link::message::process::{
    Following, InputCommand, ProcessMessage, ProcessStarted, StartProcess,
};
use belljar_link::message::{Done, Refusal, Reply};
use belljar_link::mux::FrameStream;
use futures::{SinkExt, StreamExt};

use super::{Agent, CHUNK, reply};
use crate::process::{Process, Processes, Read};

impl Agent {
    pub(super) async fn start_process(&self, start: StartProcess) -> Reply<ProcessStarted> {
        let start = StartProcess {
            background: true,
            ..start
        };
        Ok(started(&*self.processes.start(start).await?))
    }

    pub(super) async fn exec(
        &self,
        start: StartProcess,
        mut stream: FrameStream,
    ) -> Result<(), FrameError> {
        let process = match self.processes.start(start).await {
            Ok(process) => process,
            Err(refusal) => return reply::<()>(&mut stream, Err(refusal)).await,
        };
        let foreground = !process.background;
        // The process ends with this stream, whichever way that comes about.
        let _leash = foreground.then(|| Leash {
            processes: self.processes.clone(),
            process: process.clone(),
        });
        reply(&mut stream, Ok(started(&process))).await?;
        follow(&process, 0, stream, foreground).await
    }

    pub(super) async fn follow_process(
        &self,
        number: u32,
        from: Option<u64>,
        mut stream: FrameStream,
    ) -> Result<(), FrameError> {
        let process = match self.processes.get(number) {
            Ok(process) => process,
            Err(refusal) => return reply::<()>(&mut stream, Err(refusal)).await,
        };
        let info = process.info();
        // An offset from the future is a client's mistake; it gets what comes next.
        let offset = from.unwrap_or(info.start).min(info.end);
        let following = Following {
            offset,
            end: info.end,
        };
        reply(&mut stream, Ok(following)).await?;
        follow(&process, offset, stream, false).await
    }

    pub(super) fn signal_process(&self, number: u32, signal: i32) -> Reply<Done> {
        self.processes.get(number)?.signal(signal)?;
        Ok(Done {})
    }

    pub(super) async fn process_input(
        &self,
        number: u32,
        mut stream: FrameStream,
    ) -> Result<(), FrameError> {
        let process = match self.processes.get(number) {
            Ok(process) if process.has_input().await => process,
            Ok(_) => {
                let message = format!("process {number} has no input, or it was closed");
                let refusal = Refusal::new(NO_PROCESS, message);
                return reply::<()>(&mut stream, Err(refusal)).await;
            }
            Err(refusal) => return reply::<()>(&mut stream, Err(refusal)).await,
        };
        reply(&mut stream, Ok(Done {})).await?;
        while let Some(frame) = stream.next().await {
            match frame? {
                Frame::Data(bytes) => {
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let Ok(written) = process.write(rest).await else {
                            // It reads no more, and whoever writes learns it as of a pipe.
                            return Ok(());
                        };
                        rest = &rest[written..];
                    }
                }
                message @ Frame::Message(_) => {
                    if let Ok(InputCommand::Close) = message.parse() {
                        process.close_input().await;
                        return reply(&mut stream, Ok(Done {})).await;
                    }
                }
            }
        }
        Ok(())
    }
}

fn started(process: &Process) -> ProcessStarted {
    ProcessStarted {
        process: process.number,
        pid: process.pid.as_raw_nonzero().get().cast_unsigned(),
    }
}

/// Send what a process writes until it has ended, or nobody listens.
async fn follow(
    process: &Arc<Process>,
    mut offset: u64,
    stream: FrameStream,
    takes: bool,
) -> Result<(), FrameError> {
    let (mut sink, mut source) = stream.split();
    let send = async {
        loop {
            let changed = process.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (read, exit) = process.read(offset, CHUNK);
            match read {
                Read::Bytes(framed) => {
                    offset += framed.len() as u64 - 1;
                    sink.send(Frame::Data(framed.into())).await?;
                    if takes {
                        process.take(offset);
                    }
                }
                Read::Expired { start } => {
                    let gap = ProcessMessage::Gap {
                        from: offset,
                        to: start,
                    };
                    offset = start;
                    sink.send(Frame::message(&gap)?).await?;
                }
                Read::UpToDate => match exit {
                    Some(exit) => {
                        let exit = Frame::message(&ProcessMessage::Exit(exit))?;
                        return sink.send(exit).await;
                    }
                    None => changed.await,
                },
            }
        }
    };
    // Nothing is said on this stream, so whatever comes is its end.
    let receive = async {
        source.next().await;
        Ok(())
    };
    tokio::select! {
        result = send => result,
        result = receive => result,
    }
}

/// Ends a foreground process with its reader.
struct Leash {
    processes: Arc<Processes>,
    process: Arc<Process>,
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.processes.abandon(&self.process);
    }
}
