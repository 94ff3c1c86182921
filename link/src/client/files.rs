//! Files of the sandbox, as the gateway sees them.
//!
//! Content goes through in frames of at most 64 KiB: what is held of a file of any size is yamux's
//! window for one stream.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt, stream};
use serde::de::DeserializeOwned;

use super::{Link, LinkError, call_pages, call_within, deadline};
use crate::frame::{Frame, MAX_DATA};
use crate::message::files::{
    FileInfo, MAX_ENTRIES, MAX_UNSIZED, Unpacked, UploadCommand, WatchEvent, WriteOptions,
};
use crate::message::{Done, Reply, Request};
use crate::mux::FrameStream;

/// How long anything about files may take, and each step of a transfer: removing a hundred thousand
/// files takes seconds inside gVisor. A reader of the gateway that is slow itself does not count.
pub(super) const FILE_DEADLINE: Duration = Duration::from_secs(60);

/// What was found, in the order of the directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// At most as many as were asked for.
    pub entries: Vec<FileInfo>,
    /// Whether there are more.
    pub truncated: bool,
}

impl Link {
    /// What a path is; `follow` says whether a symbolic link counts as what it leads to.
    pub async fn stat(&self, path: &str, follow: bool) -> Result<FileInfo, LinkError> {
        let path = path.into();
        self.file_call(&Request::Stat { path, follow }).await
    }

    /// What a directory holds; `depth` 1 is the directory itself, 2 those in it too. At most `limit`
    /// entries, and never more than [`MAX_ENTRIES`].
    pub async fn list(&self, path: &str, depth: u32, limit: u32) -> Result<Listing, LinkError> {
        let request = Request::List {
            path: path.into(),
            depth,
            limit: limit.min(MAX_ENTRIES),
        };
        self.listing(&request, limit).await
    }

    /// What matches a pattern below a directory: `*`, `?`, `[…]`, and `**` for any directories.
    pub async fn glob(&self, root: &str, pattern: &str, limit: u32) -> Result<Listing, LinkError> {
        let request = Request::Glob {
            root: root.into(),
            pattern: pattern.into(),
            limit: limit.min(MAX_ENTRIES),
        };
        self.listing(&request, limit).await
    }

    /// Read a file from `offset` on, at most `length` bytes. A file that does not say how long it is
    /// (`/proc`) is read up to [`MAX_UNSIZED`].
    pub async fn read_file(
        &self,
        path: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<(FileInfo, FileReader), LinkError> {
        let request = Request::ReadFile {
            path: path.into(),
            offset,
            length,
        };
        let (info, stream) = call_within::<FileInfo>(&self.mux, &request, FILE_DEADLINE).await?;
        let there = match info.size.saturating_sub(offset) {
            0 => MAX_UNSIZED,
            size => size,
        };
        let left = length.map_or(there, |length| length.min(there));
        Ok((info, FileReader { stream, left }))
    }

    /// Write a file. It is there, whole, once [`FileWriter::finish`] has answered; before that,
    /// nothing is.
    pub async fn write_file(
        &self,
        path: &str,
        options: WriteOptions,
    ) -> Result<FileWriter, LinkError> {
        let path = path.into();
        let upload = self.upload(&Request::WriteFile { path, options }).await?;
        Ok(FileWriter(upload))
    }

    /// Make a directory; with `parents` those above it too, and it may exist.
    pub async fn make_dir(
        &self,
        path: &str,
        parents: bool,
        mode: Option<u32>,
    ) -> Result<(), LinkError> {
        let request = Request::MakeDir {
            path: path.into(),
            parents,
            mode,
        };
        self.file_call::<Done>(&request).await.map(|_| ())
    }

    /// Remove a file or a directory; `recursive` with what it holds.
    pub async fn remove(&self, path: &str, recursive: bool) -> Result<(), LinkError> {
        let path = path.into();
        let request = Request::Remove { path, recursive };
        self.file_call::<Done>(&request).await.map(|_| ())
    }

    /// Give a file or directory another path. A file that is there is replaced.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), LinkError> {
        let (from, to) = (from.into(), to.into());
        let request = Request::Rename { from, to };
        self.file_call::<Done>(&request).await.map(|_| ())
    }

    /// Be told of changes of a file, of a directory, or of all below it.
    pub async fn watch(&self, path: &str, recursive: bool) -> Result<FileWatch, LinkError> {
        let path = path.into();
        let request = Request::Watch { path, recursive };
        let (_, stream) = call_within::<Done>(&self.mux, &request, FILE_DEADLINE).await?;
        Ok(FileWatch(stream))
    }

    /// Read a file or directory as a tar archive. How long it is, nobody knows before its end.
    pub async fn tar_down(&self, path: &str) -> Result<FileReader, LinkError> {
        let path = path.into();
        let request = Request::TarDown { path };
        let (_, stream) = call_within::<Done>(&self.mux, &request, FILE_DEADLINE).await?;
        let left = u64::MAX;
        Ok(FileReader { stream, left })
    }

    /// Unpack a tar archive into a directory. What would lead out of it is refused with `bad_path`,
    /// and then nothing is unpacked.
    pub async fn tar_up(&self, directory: &str) -> Result<TarWriter, LinkError> {
        let path = directory.into();
        Ok(TarWriter(self.upload(&Request::TarUp { path }).await?))
    }

    async fn file_call<T: DeserializeOwned>(&self, request: &Request) -> Result<T, LinkError> {
        Ok(call_within(&self.mux, request, FILE_DEADLINE).await?.0)
    }

    async fn listing(&self, request: &Request, limit: u32) -> Result<Listing, LinkError> {
        let most = usize::try_from(limit.min(MAX_ENTRIES)).unwrap_or(usize::MAX);
        let (entries, truncated) = call_pages(&self.mux, request, most).await?;
        Ok(Listing { entries, truncated })
    }

    async fn upload(&self, request: &Request) -> Result<Upload, LinkError> {
        let (_, stream) = call_within::<Done>(&self.mux, request, FILE_DEADLINE).await?;
        Ok(Upload(stream))
    }
}

/// The content of a file, or an archive.
#[derive(Debug)]
pub struct FileReader {
    stream: FrameStream,
    /// Most bytes that may still come.
    left: u64,
}

impl FileReader {
    /// The next bytes, never none; `None` at the end. An end that comes too early is an error.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Bytes, LinkError>> {
        self.read().await.transpose()
    }

    /// As a stream; it ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, LinkError>> + Send {
        stream::unfold(Some(self), |reader| async move {
            let mut reader = reader?;
            let next = reader.next().await?;
            let on = next.is_ok().then_some(reader);
            Some((next, on))
        })
    }

    async fn read(&mut self) -> Result<Option<Bytes>, LinkError> {
        loop {
            let next = async {
                self.stream
                    .next()
                    .await
                    .ok_or(LinkError::Closed)?
                    .map_err(LinkError::from)
            };
            match deadline(FILE_DEADLINE, next).await? {
                Frame::Data(bytes) if bytes.is_empty() => {}
                Frame::Data(bytes) => {
                    let left = self.left.checked_sub(bytes.len() as u64);
                    self.left = left.ok_or(LinkError::Garbled("more of a file than there is"))?;
                    return Ok(Some(bytes));
                }
                message @ Frame::Message(_) => {
                    message.parse::<Reply<Done>>()??;
                    return Ok(None);
                }
            }
        }
    }
}

/// Content on its way into the sandbox.
#[derive(Debug)]
struct Upload(FrameStream);

impl Upload {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), LinkError> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(MAX_DATA));
            self.send(Frame::Data(piece)).await?;
        }
        Ok(())
    }

    async fn send(&mut self, frame: Frame) -> Result<(), LinkError> {
        let send = async { Ok(self.0.send(frame).await?) };
        match deadline(FILE_DEADLINE, send).await {
            // The agent has let go; it has said why before that.
            Err(LinkError::Frame(error)) => match self.reply::<Done>().await {
                Err(refused @ LinkError::Refused(_)) => Err(refused),
                _ => Err(error.into()),
            },
            done => done,
        }
    }

    async fn finish<T: DeserializeOwned>(mut self) -> Result<T, LinkError> {
        self.send(Frame::message(&UploadCommand::Finish)?).await?;
        self.reply().await
    }

    async fn reply<T: DeserializeOwned>(&mut self) -> Result<T, LinkError> {
        let reply = async {
            let frame = self.0.next().await.ok_or(LinkError::Closed)??;
            Ok(frame.parse::<Reply<T>>()??)
        };
        deadline(FILE_DEADLINE, reply).await
    }
}

/// Writes a file. Dropped unfinished, nothing is written.
#[derive(Debug)]
pub struct FileWriter(Upload);

impl FileWriter {
    /// Write these bytes; waits while the sandbox is behind. Not cancel-safe.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), LinkError> {
        self.0.write(bytes).await
    }

    /// That was all: the file is there when this answers.
    pub async fn finish(self) -> Result<FileInfo, LinkError> {
        self.0.finish().await
    }
}

/// Unpacks an archive. Dropped unfinished, nothing is unpacked.
#[derive(Debug)]
pub struct TarWriter(Upload);

impl TarWriter {
    /// Write these bytes of the archive; waits while the sandbox is behind. Not cancel-safe.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), LinkError> {
        self.0.write(bytes).await
    }

    /// That was all; returns how many files, directories and links are there now.
    pub async fn finish(self) -> Result<u64, LinkError> {
        Ok(self.0.finish::<Unpacked>().await?.entries)
    }
}

/// Changes of files. Dropped, the watch ends.
#[derive(Debug)]
pub struct FileWatch(FrameStream);

impl FileWatch {
    /// The next change; `None` when what was watched is gone, or the link has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, LinkError>> {
        let frame = self.0.next().await?;
        Some(
            frame
                .and_then(|frame| frame.parse())
                .map_err(LinkError::from),
        )
    }
}
