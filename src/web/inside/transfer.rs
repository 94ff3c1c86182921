//! Content on its way through: never more of it in the gateway than a few frames.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use belljar_link::client::files::FileReader;
use belljar_link::client::{Link, LinkError};
use belljar_link::message::files::{FileInfo, WriteOptions};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Trouble;
use super::outcome::hand_over;
use super::patience::Patience;
use crate::web::App;

/// Most bytes of one upload: as much as a file in a sandbox can hold (`RLIMIT_FSIZE`).
pub(in crate::web) const MAX_UPLOAD: u64 = 1 << 30;

/// How long the next bytes of an upload may take to come.
pub(in crate::web) const NEXT_BYTES: Duration = Duration::from_secs(30);

/// Frames of a download that wait for a slow reader: with yamux's window, 384 KiB.
const WAITING: usize = 2;

/// Refuse what announces that it is too large, before any of it comes.
pub(in crate::web) fn check_length(headers: &HeaderMap) -> Result<(), Trouble> {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_UPLOAD) {
        return Err(Trouble::TooLarge(MAX_UPLOAD));
    }
    Ok(())
}

/// A body as it comes, bounded in size and in patience.
#[derive(Debug)]
pub(in crate::web) struct Incoming {
    body: BodyDataStream,
    most: u64,
    left: u64,
}

impl Incoming {
    pub(in crate::web) fn new(body: Body, most: u64) -> Self {
        Self {
            body: body.into_data_stream(),
            most,
            left: most,
        }
    }

    /// The next bytes; `None` at the end.
    pub(in crate::web) async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        match timeout(NEXT_BYTES, self.body.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(bytes))) => {
                let left = self.left.checked_sub(bytes.len() as u64);
                self.left = left.ok_or(Trouble::TooLarge(self.most))?;
                Ok(Some(bytes))
            }
            Ok(Some(Err(_))) | Err(_) => Err(Trouble::BrokenBody),
        }
    }
}

/// Write a body into a file. If it breaks off, nothing is written.
pub(in crate::web) async fn upload(
    link: &Link,
    path: &str,
    options: WriteOptions,
    body: Body,
) -> Result<FileInfo, Trouble> {
    let mut writer = link.write_file(path, options).await?;
    let mut body = Incoming::new(body, MAX_UPLOAD);
    while let Some(bytes) = body.next().await? {
        writer.write(bytes).await?;
    }
    Ok(writer.finish().await?)
}

/// A file's content as a body. A reader that does not read is given up after a while; an error on the
/// way breaks the answer off, so that nobody takes a part for the whole.
pub(in crate::web) fn download(app: &App, patience: &Patience, mut reader: FileReader) -> Body {
    let (pieces, body) = mpsc::channel::<Result<Bytes, LinkError>>(WAITING);
    let holding = patience.hold();
    app.tasks.spawn(async move {
        let _holding = holding;
        loop {
            let next = tokio::select! {
                next = reader.next() => next,
                () = pieces.closed() => return,
            };
            let Some(next) = next else { return };
            let last = next.is_err();
            if !hand_over(&pieces, next).await || last {
                return;
            }
        }
    });
    Body::from_stream(futures::stream::unfold(body, |mut body| async move {
        body.recv().await.map(|piece| (piece, body))
    }))
}
