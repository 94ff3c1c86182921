//! Recordings of sessions, as asciicasts. A recorder watches the terminal like any other watcher, so
//! a slow disk costs the recording a gap and the visitor nothing.

use std::sync::Arc;
use std::time::Duration;

use belljar_link::client::{LinkError, Output, TerminalHandle, TerminalOutput};
use belljar_link::message::{Size, TerminalEvent};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::Session;
use crate::telemetry::Metrics;

mod archive;

mod cast;

mod file;

pub use archive::Archive;
use archive::Full;
use file::{Recording, WriteError};

/// Events wait this long for others to be written with, and so many bytes of them: a write for each
/// key would be two switches of threads for each.
const FLUSH: (Duration, usize) = (Duration::from_millis(250), 64 * 1024);

/// After a shell's exit, how long output that is still under way is waited for, and how long the
/// next piece of it.
const DRAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(100));

/// How long the last writes may take before the session's end no longer waits for them.
const FINISH_DEADLINE: Duration = Duration::from_secs(5);

/// Whether a session is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It never was.
    No,
    /// It is.
    Running,
    /// It was, until the recording had to stop.
    Stopped,
}

/// Why a recording stopped before its session ended.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Stopped {
    /// The stable name in the metrics and the log.
    fn reason(&self) -> &'static str {
        match self {
            Self::Write(WriteError::Full(Full::Recording)) => "max_size",
            Self::Write(WriteError::Full(Full::Archive)) => "max_total",
            Self::Write(WriteError::Disk(_)) => "disk",
            Self::Link(_) => "link",
        }
    }
}

/// A session's recorder. Dropped without [`Recorder::finish`], it leaves a recording that can go on.
#[derive(Debug)]
pub(super) struct Recorder {
    /// Takes for how long output under way is waited for.
    stop: oneshot::Sender<Duration>,
    task: AbortOnDropHandle<()>,
}

impl Recorder {
    /// Begin to record, or go on with what an earlier gateway has begun.
    pub(super) fn start(
        session: Arc<Session>,
        terminal: TerminalHandle,
        archive: Arc<Archive>,
        metrics: Arc<Metrics>,
        tasks: &TaskTracker,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = Task {
            size: session.size(),
            session,
            terminal,
            archive,
            stop: stopped,
        };
        Self {
            stop,
            task: AbortOnDropHandle::new(tasks.spawn(task.run(metrics))),
        }
    }

    /// The session is over: write what is not written yet. If its shell has exited there is an end
    /// to its output, which is waited for.
    pub(super) async fn finish(self, exited: bool) {
        let drain = if exited { DRAIN.0 } else { Duration::ZERO };
        // A task that has stopped before needs no word.
        let _ = self.stop.send(drain);
        let _ = timeout(DRAIN.0 + FINISH_DEADLINE, self.task).await;
    }
}

/// The task of a recorder.
struct Task {
    session: Arc<Session>,
    terminal: TerminalHandle,
    archive: Arc<Archive>,
    size: watch::Receiver<Size>,
    stop: oneshot::Receiver<Duration>,
}

impl Task {
    async fn run(mut self, metrics: Arc<Metrics>) {
        metrics.recordings().inc();
        let recorded = self.record().await;
        metrics.recordings().dec();
        if let Err(stopped) = recorded {
            let reason = stopped.reason();
            tracing::warn!(session = %self.session.id, reason, error = %stopped, "a recording stopped");
            metrics.recording_stopped(reason);
            self.session.recorded.send_replace(Recorded::Stopped);
            // Not waited for: a session that ends waits for this task.
            self.session.keep_soon();
        }
    }

    async fn record(&mut self) -> Result<(), Stopped> {
        let size = *self.size.borrow_and_update();
        let session = self.session.id.to_string();
        let recording = Recording::open(self.archive.clone(), session, size).await?;
        let from = Some(recording.offset());
        let watched = self.terminal.watch(from).await;
        let mut pending = Pending::new(recording);
        let written = match watched {
            Ok((attached, mut output, _control)) => {
                pending.begin(attached.offset, size);
                self.write(&mut pending, &mut output).await
            }
            Err(error) => Err(error.into()),
        };
        if let Err(stopped) = &written {
            let label = format!("the recording stopped: {}", stopped.reason());
            pending.recording.last_words(&label).await;
        }
        pending.recording.finish().await;
        written
    }

    /// Write until there is no more, and until the session says so: a link that ends by itself may be
    /// a gateway's going away, after which the next one goes on.
    async fn write(
        &mut self,
        pending: &mut Pending,
        output: &mut TerminalOutput,
    ) -> Result<(), Stopped> {
        let mut more = true;
        let mut over = None;
        while more && over.is_none() {
            let flush_at = pending.flush_at;
            tokio::select! {
                next = output.next() => more = match next {
                    Some(Ok(next)) => pending.output(next),
                    Some(Err(_)) | None => false,
                },
                Ok(()) = self.size.changed() => pending.resize(*self.size.borrow_and_update()),
                () = async {
                    match flush_at {
                        Some(at) => sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => pending.flush().await?,
                drain = &mut self.stop => over = drain.ok(),
            }
            if pending.lines.len() >= FLUSH.1 {
                pending.flush().await?;
            }
        }
        pending.flush().await?;
        let drain = match over {
            Some(drain) => drain,
            None => (&mut self.stop).await.unwrap_or_default(),
        };
        let deadline = Instant::now() + drain;
        while more
            && Instant::now() < deadline
            && let Ok(Ok(Some(Ok(next)))) =
                timeout_at(deadline, timeout(DRAIN.1, output.next())).await
        {
            more = pending.output(next);
            if pending.lines.len() >= FLUSH.1 {
                pending.flush().await?;
            }
        }
        pending.end();
        Ok(pending.flush().await?)
    }
}

/// Events that are not written yet.
struct Pending {
    recording: Recording,
    encoder: cast::Encoder,
    lines: Vec<u8>,
    /// Offset of the next byte of output.
    offset: u64,
    size: Size,
    /// When the first of the lines has waited long enough.
    flush_at: Option<Instant>,
}

impl Pending {
    fn new(recording: Recording) -> Self {
        Self {
            encoder: cast::Encoder::default(),
            lines: Vec::new(),
            offset: recording.offset(),
            size: recording.size(),
            recording,
            flush_at: None,
        }
    }

    /// The terminal's output begins at `offset`, on a terminal of this size.
    fn begin(&mut self, offset: u64, size: Size) {
        self.offset = offset;
        self.resize(size);
    }

    /// False if there is no more to come.
    fn output(&mut self, output: Output) -> bool {
        let at = self.recording.elapsed();
        match output {
            Output::Bytes(bytes) => {
                self.encoder.output(at, &bytes, &mut self.lines);
                // The offset is the agent's word, which may be anything.
                self.offset = self.offset.saturating_add(bytes.len() as u64);
            }
            Output::Event(TerminalEvent::Gap { from, to }) => {
                self.encoder.gap(at, from, to, &mut self.lines);
                self.offset = to;
            }
            Output::Event(TerminalEvent::Exit(_)) => return false,
            Output::Event(_) => {}
        }
        self.wait();
        true
    }

    fn resize(&mut self, size: Size) {
        if size != self.size {
            self.size = size;
            cast::resize(self.recording.elapsed(), size, &mut self.lines);
            self.wait();
        }
    }

    fn end(&mut self) {
        self.encoder.end(self.recording.elapsed(), &mut self.lines);
    }

    fn wait(&mut self) {
        self.flush_at
            .get_or_insert_with(|| Instant::now() + FLUSH.0);
    }

    async fn flush(&mut self) -> Result<(), WriteError> {
        self.flush_at = None;
        if self.lines.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.lines);
        let offset = self.offset.saturating_sub(self.encoder.held());
        self.recording.append(lines, offset, self.size).await
    }
}
