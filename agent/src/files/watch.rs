//! Changes of files, by inotify.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use belljar_link::frame::{Frame, FrameError};
use belljar_link::message::files::{MAX_WATCHED, WatchEvent};
use belljar_link::message::{Done, Refusal, Reply, UNSUPPORTED, code};
use belljar_link::mux::FrameStream;
use futures::{SinkExt, StreamExt};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::path;
use super::transfer::HIDDEN;
use crate::agent::reply;
use crate::hands::Hands;
use crate::poller::{Poller, Watched};

/// Events taken in one turn. The kernel keeps more, and says when it could not.
const TURN: usize = 256;

/// Bytes read at once: a few events of the longest names.
const READ: usize = 8 * 1024;

const WANTED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// Watch until nobody listens, or what is watched is gone.
pub(super) async fn serve(
    hands: &Arc<Hands>,
    poller: &Arc<Poller>,
    path: String,
    recursive: bool,
    mut stream: FrameStream,
) -> Result<(), FrameError> {
    let opened = hands.run(move || Watch::open(&path, recursive)).await;
    let (mut watch, fd) = match opened {
        Ok(opened) => opened,
        Err(refusal) => return reply::<()>(&mut stream, Err(refusal)).await,
    };
    reply(&mut stream, Ok(Done {})).await?;
    let fd = Watched::new(poller, fd);
    let (mut sink, mut source) = stream.split();
    let send = async {
        loop {
            fd.readable().await?;
            let turn = move || {
                let events = watch.turn();
                (watch, events)
            };
            let events;
            (watch, events) = hands.run(turn).await;
            for event in events {
                sink.send(Frame::message(&event)?).await?;
            }
            if watch.directories.is_empty() {
                return Ok(());
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

struct Watch {
    fd: OwnedFd,
    recursive: bool,
    /// What each watch is of.
    directories: HashMap<i32, PathBuf>,
}

impl Watch {
    fn open(asked: &str, recursive: bool) -> Reply<(Self, OwnedFd)> {
        let root = path::resolve(asked)?;
        fs::metadata(&root).map_err(|e| path::refusal(&root, &e))?;
        let refused = |e: Errno| match e {
            Errno::MFILE | Errno::NFILE => {
                let message = "as much is watched as can be at once";
                Refusal::new(code::BUSY, message)
            }
            e => {
                let message = format!("the sandbox's kernel watches nothing: {e}");
                Refusal::new(UNSUPPORTED, message)
            }
        };
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(refused)?;
        let duplicate = fd.try_clone().map_err(|e| path::refusal(&root, &e))?;
        let mut watch = Self {
            fd,
            recursive,
            directories: HashMap::new(),
        };
        match watch.add(&root, &mut Vec::new(), false) {
            Ok(true) => Ok((watch, duplicate)),
            Ok(false) => {
                let message = format!("{}: more than {MAX_WATCHED} directories", root.display());
                Err(Refusal::new(code::TOO_LARGE, message))
            }
            Err(e) => Err(path::refusal(&root, &e)),
        }
    }

    /// Watch this, and if wanted what is below it. What is already in a directory that is `new` is
    /// told as if it were made now. False if that is too much.
    fn add(&mut self, path: &Path, told: &mut Vec<WatchEvent>, new: bool) -> io::Result<bool> {
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            if self.directories.len() >= MAX_WATCHED {
                return Ok(false);
            }
            let number = match inotify::add_watch(&self.fd, &path, WANTED) {
                Ok(number) => number,
                // What is gone meanwhile, or may not be read, shows nothing; but the first must.
                Err(_) if !self.directories.is_empty() => continue,
                Err(e) => return Err(e.into()),
            };
            self.directories.insert(number, path.clone());
            if !self.recursive {
                return Ok(true);
            }
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let path = entry.path();
                if new && told.len() < TURN {
                    told.push(WatchEvent::Created {
                        path: text(&path),
                        directory,
                    });
                }
                if directory {
                    if waiting.len() >= MAX_WATCHED {
                        return Ok(false);
                    }
                    waiting.push(path);
                }
            }
        }
        Ok(true)
    }

    /// What has happened.
    fn turn(&mut self) -> Vec<WatchEvent> {
        let mut seen = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); READ];
        {
            let mut reader = Reader::new(&self.fd, &mut buffer);
            while seen.len() < TURN || !reader.is_buffer_empty() {
                let Ok(event) = reader.next() else { break };
                let name = event
                    .file_name()
                    .map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
                seen.push((event.wd(), event.events(), event.cookie(), name));
            }
        }
        let mut told: Vec<WatchEvent> = Vec::new();
        // A name that was left, until the one that was taken instead comes, which is at once or never.
        let mut left: Option<(u32, String, bool)> = None;
        for (number, events, cookie, name) in seen {
            let directory = events.contains(ReadFlags::ISDIR);
            if let Some((old, from, directory)) = left.take() {
                if events.contains(ReadFlags::MOVED_TO) && cookie == old {
                    left = Some((old, from, directory));
                } else {
                    told.push(WatchEvent::Removed {
                        path: from,
                        directory,
                    });
                }
            }
            if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                told.push(WatchEvent::Overflow);
                continue;
            }
            let Some(watched) = self.directories.get(&number).cloned() else {
                continue;
            };
            if events.contains(ReadFlags::IGNORED) {
                self.directories.remove(&number);
                continue;
            }
            if events.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
                if self
                    .directories
                    .values()
                    .all(|other| other.starts_with(&watched))
                {
                    told.push(WatchEvent::Removed {
                        path: text(&watched),
                        directory: watched.is_dir(),
                    });
                    self.directories.clear();
                }
                continue;
            }
            // An upload on its way is nothing yet.
            if name
                .as_ref()
                .is_some_and(|name| name.as_bytes().starts_with(HIDDEN.as_bytes()))
            {
                continue;
            }
            let whole = name.map_or_else(|| watched.clone(), |name| watched.join(name));
            let path = text(&whole);
            if events.contains(ReadFlags::MOVED_FROM) {
                self.forget(&whole);
                left = Some((cookie, path, directory));
                continue;
            }
            let event = match left.take() {
                Some((_, from, directory)) => WatchEvent::Renamed {
                    from,
                    path,
                    directory,
                },
                None if events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) => {
                    WatchEvent::Created { path, directory }
                }
                None if events.contains(ReadFlags::DELETE) => {
                    WatchEvent::Removed { path, directory }
                }
                None => WatchEvent::Modified { path, directory },
            };
            let entered = directory && events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
            // A program that writes in small pieces has changed it once.
            if told.last() != Some(&event) {
                told.push(event);
            }
            let new = events.contains(ReadFlags::CREATE);
            if self.recursive && entered && !self.add(&whole, &mut told, new).unwrap_or(true) {
                told.push(WatchEvent::Overflow);
            }
        }
        if let Some((_, path, directory)) = left {
            told.push(WatchEvent::Removed { path, directory });
        }
        told
    }

    /// What is no longer below what is watched, is no longer watched.
    fn forget(&mut self, gone: &Path) {
        let fd = &self.fd;
        self.directories.retain(|number, path| {
            let below = path.starts_with(gone);
            if below {
                let _ = inotify::remove_watch(fd, *number);
            }
            !below
        });
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
