//! Directories as tar archives.
//!
//! An archive goes through in one piece of code, so it has a thread of its own, and there are few.
//! What is unpacked is put together in a hidden directory beside its place and moved there when it is
//! whole. No link is ever followed on the way, neither one that was there nor one that the archive
//! brought: each directory is opened from the one above it.

mod pack;

mod unpack;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use belljar_link::frame::{Frame, FrameError, MAX_DATA};
use belljar_link::message::files::{Unpacked, UploadCommand};
use belljar_link::message::{Done, Refusal, Reply, code};
use belljar_link::mux::FrameStream;
use bytes::{Buf, Bytes};
use futures::{SinkExt, StreamExt};
use tokio::sync::{mpsc, oneshot};

use crate::agent::reply;
use crate::tasks;

/// Archives under way at once. Each has a thread, for which the sandbox makes room
/// ([`belljar_link::message::AGENT_THREADS`]).
const MAX_ARCHIVES: usize = 4;

/// Pieces between an archive's thread and its stream.
const PIECES: usize = 2;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Archives(Arc<AtomicUsize>);

/// A place for one archive.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Archives {
    fn place(&self) -> Reply<Place> {
        let more = |count| (count < MAX_ARCHIVES).then_some(count + 1);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        let busy = |_| {
            let message = format!("{MAX_ARCHIVES} archives are under way");
            Refusal::new(code::BUSY, message)
        };
        taken.map_err(busy).map(|_| Place(self.0.clone()))
    }

    fn thread(&self, body: impl FnOnce() + Send + 'static) -> Reply<()> {
        let place = self.place()?;
        let body = move || {
            body();
            drop(place);
        };
        tasks::thread("archive", body)
            .map_err(|e| Refusal::new(code::BUSY, format!("no thread: {e}")))
    }

    pub(super) async fn down(
        &self,
        path: String,
        mut stream: FrameStream,
    ) -> Result<(), FrameError> {
        let (send, mut pieces) = mpsc::channel(PIECES);
        let started = self.thread(move || {
            let mut out = Out {
                pieces: send,
                piece: Vec::new(),
            };
            let packed = pack::pack(&path, &mut out);
            let end = packed.and_then(|()| {
                out.flush()
                    .map_err(|e| Refusal::new(code::IO, e.to_string()))
            });
            let _ = out.pieces.blocking_send(Piece::End(end));
        });
        if let Err(refusal) = started {
            return reply::<()>(&mut stream, Err(refusal)).await;
        }
        let mut begun = false;
        while let Some(piece) = pieces.recv().await {
            if let (Piece::Bytes(_) | Piece::End(Ok(())), false) = (&piece, begun) {
                reply(&mut stream, Ok(Done {})).await?;
                begun = true;
            }
            match piece {
                Piece::Bytes(bytes) => stream.send(Frame::Data(bytes.into())).await?,
                Piece::End(end) => return reply(&mut stream, end.map(|()| Done {})).await,
            }
        }
        Ok(())
    }

    pub(super) async fn up(&self, path: String, mut stream: FrameStream) -> Result<(), FrameError> {
        let (send, pieces) = mpsc::channel(PIECES);
        let (tell, told) = oneshot::channel();
        let (end, mut ended) = oneshot::channel();
        let started = self.thread(move || {
            let mut input = In {
                pieces,
                piece: Bytes::new(),
                finished: false,
                count: 0,
            };
            let unpacked = unpack::Unpacking::begin(&path);
            let failed = unpacked.as_ref().err().cloned();
            let _ = tell.send(failed.map_or(Ok(Done {}), Err));
            tasks::run();
            if let Ok(unpacking) = unpacked {
                let entries = unpacking.unpack(&mut input);
                let _ = end.send(entries.map(|entries| Unpacked { entries }));
            }
        });
        let begun = match started {
            Ok(()) => told.await.unwrap_or_else(|_| Err(lost())),
            Err(refusal) => Err(refusal),
        };
        let refused = begun.is_err();
        reply(&mut stream, begun).await?;
        if refused {
            return Ok(());
        }
        while let Some(frame) = stream.next().await {
            let piece = match frame? {
                Frame::Data(bytes) => Some(bytes),
                message @ Frame::Message(_) => match message.parse() {
                    Ok(UploadCommand::Finish) => None,
                    _ => continue,
                },
            };
            let finished = piece.is_none();
            // Nobody takes it if the archive was refused meanwhile.
            if send.send(piece).await.is_err() || finished {
                let end = (&mut ended).await.unwrap_or_else(|_| Err(lost()));
                return reply(&mut stream, end).await;
            }
        }
        Ok(())
    }
}

fn lost() -> Refusal {
    Refusal::new(code::IO, "the archive's thread has ended")
}

enum Piece {
    Bytes(Vec<u8>),
    End(Reply<()>),
}

/// What an archive's thread writes to.
struct Out {
    pieces: mpsc::Sender<Piece>,
    piece: Vec<u8>,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == MAX_DATA {
            self.flush()?;
        }
        let now = bytes.len().min(MAX_DATA - self.piece.len());
        self.piece.extend_from_slice(&bytes[..now]);
        Ok(now)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        let sent = self.pieces.blocking_send(Piece::Bytes(piece));
        tasks::run();
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// What an archive's thread reads from.
struct In {
    /// `None` is the end; a channel that is closed without it was given up.
    pieces: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    finished: bool,
    /// Bytes so far.
    count: u64,
}

impl Read for In {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.finished {
            let next = self.pieces.blocking_recv();
            // There is room for the next.
            tasks::run();
            match next {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.finished = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let now = self.piece.len().min(buffer.len());
        buffer[..now].copy_from_slice(&self.piece[..now]);
        self.piece.advance(now);
        self.count += now as u64;
        Ok(now)
    }
}
