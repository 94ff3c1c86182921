//! The files of the sandbox: what the gateway asks for about them.
//!
//! Whatever asks the kernel is a job of the [`hands`](crate::hands); what is here goes on from one
//! to the next and never blocks.

mod archive;

pub(crate) mod path;

mod transfer;

mod walk;

mod watch;

use std::sync::Arc;

use belljar_link::frame::{Frame, FrameError};
use belljar_link::message::files::{UploadCommand, WriteOptions};
use belljar_link::message::{Done, Refusal, Reply, Request, UNSUPPORTED};
use belljar_link::mux::FrameStream;
use futures::SinkExt;
use futures::StreamExt;

use self::archive::Archives;
use self::transfer::{Source, Target};
use crate::agent::{pages, reply};
use crate::hands::Hands;
use crate::poller::Poller;

/// Longest path that is gone below, bytes: a name more would not be a path.
const DEEPEST: usize = 4096 - 256;

/// The files of the sandbox.
pub(crate) struct Files {
    hands: Arc<Hands>,
    poller: Arc<Poller>,
    archives: Archives,
}

impl Files {
    pub(crate) fn new(hands: Arc<Hands>, poller: Arc<Poller>) -> Self {
        Self {
            hands,
            poller,
            archives: Archives::default(),
        }
    }

    /// Answer a request about files.
    pub(crate) async fn serve(
        &self,
        request: Request,
        mut stream: FrameStream,
    ) -> Result<(), FrameError> {
        let done = |reply: Reply<()>| reply.map(|()| Done {});
        match request {
            Request::Stat { path, follow } => {
                let found = self.hands.run(move || walk::stat(&path, follow)).await;
                reply(&mut stream, found).await
            }
            Request::List { path, depth, limit } => {
                let list = move || walk::list(&path, depth, limit);
                listing(&mut stream, self.hands.run(list).await).await
            }
            Request::Glob {
                root,
                pattern,
                limit,
            } => {
                let glob = move || walk::glob(&root, &pattern, limit);
                listing(&mut stream, self.hands.run(glob).await).await
            }
            Request::ReadFile {
                path,
                offset,
                length,
            } => self.read(path, offset, length, stream).await,
            Request::WriteFile { path, options } => self.write(path, options, stream).await,
            Request::MakeDir {
                path,
                parents,
                mode,
            } => {
                let make = move || transfer::make_dir(&path, parents, mode);
                reply(&mut stream, done(self.hands.run(make).await)).await
            }
            Request::Remove { path, recursive } => {
                let remove = move || transfer::remove(&path, recursive);
                reply(&mut stream, done(self.hands.run(remove).await)).await
            }
            Request::Rename { from, to } => {
                let rename = move || transfer::rename(&from, &to);
                reply(&mut stream, done(self.hands.run(rename).await)).await
            }
            Request::Watch { path, recursive } => {
                watch::serve(&self.hands, &self.poller, path, recursive, stream).await
            }
            Request::TarDown { path } => self.archives.down(path, stream).await,
            Request::TarUp { path } => self.archives.up(path, stream).await,
            _ => {
                let refusal = Refusal::new(UNSUPPORTED, "this is not about files");
                reply::<()>(&mut stream, Err(refusal)).await
            }
        }
    }

    async fn read(
        &self,
        path: String,
        offset: u64,
        length: Option<u64>,
        mut stream: FrameStream,
    ) -> Result<(), FrameError> {
        let open = move || {
            let (info, mut source) = Source::open(&path, offset, length)?;
            let first = source.next()?;
            Ok((info, source, first))
        };
        let (info, mut source, mut piece) = match self.hands.run(open).await {
            Ok(opened) => opened,
            Err(refusal) => return reply::<()>(&mut stream, Err(refusal)).await,
        };
        reply(&mut stream, Ok(info)).await?;
        while !piece.is_empty() {
            stream.send(Frame::Data(piece.into())).await?;
            let next = move || {
                let piece = source.next();
                (source, piece)
            };
            let read;
            (source, read) = self.hands.run(next).await;
            piece = match read {
                Ok(piece) => piece,
                Err(refusal) => return reply::<()>(&mut stream, Err(refusal)).await,
            };
        }
        reply(&mut stream, Ok(Done {})).await
    }

    async fn write(
        &self,
        path: String,
        options: WriteOptions,
        mut stream: FrameStream,
    ) -> Result<(), FrameError> {
        let opened = self.hands.run(move || Target::open(&path, options)).await;
        let mut target = match opened {
            Ok(target) => target,
            Err(refusal) => return reply::<()>(&mut stream, Err(refusal)).await,
        };
        reply(&mut stream, Ok(Done {})).await?;
        while let Some(frame) = stream.next().await {
            match frame? {
                Frame::Data(bytes) => {
                    let write = move || {
                        let written = target.write(&bytes);
                        written.map(|()| target)
                    };
                    target = match self.hands.run(write).await {
                        Ok(target) => target,
                        Err(refusal) => return reply::<()>(&mut stream, Err(refusal)).await,
                    };
                }
                message @ Frame::Message(_) => {
                    if let Ok(UploadCommand::Finish) = message.parse() {
                        let finished = self.hands.run(move || target.finish()).await;
                        return reply(&mut stream, finished).await;
                    }
                }
            }
        }
        Ok(())
    }
}

async fn listing(
    stream: &mut FrameStream,
    found: Reply<(Vec<belljar_link::message::files::FileInfo>, bool)>,
) -> Result<(), FrameError> {
    match found {
        Ok((entries, truncated)) => pages(stream, entries, truncated).await,
        Err(refusal) => reply::<()>(stream, Err(refusal)).await,
    }
}
