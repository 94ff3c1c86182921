//! A file as a form sends it: `file` and `path`, in either order.

use axum::Json;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::StatusCode;
use belljar_link::client::{Link, LinkError};
use belljar_link::message::code;
use belljar_link::message::files::{FileInfo, WriteOptions};
use futures::StreamExt;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::secret::random_hex;
use crate::web::App;
use crate::web::api::openapi::{Id, Refusals, Troubles};
use crate::web::api::problem::Problem;
use crate::web::inside::command::directory;
use crate::web::inside::patience::Patience;
use crate::web::inside::transfer::{MAX_UPLOAD, NEXT_BYTES, check_length};
use crate::web::inside::{Running, Trouble};

/// Fields of a form that are looked at.
const MAX_FIELDS: usize = 8;

/// Longest path, bytes.
const MAX_PATH: usize = 4096;

/// A form with a file.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
#[schema(as = FileForm)]
struct Form {
    /// Where to.
    path: String,
    /// The content.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// What was uploaded.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Uploaded {
    message: &'static str,
    path: String,
    /// Bytes.
    size: u64,
}

/// Upload a file, as a form
#[utoipa::path(
    post, path = "/files", tag = "other dialects", operation_id = "uploadFile",
    params(Id),
    request_body(content = Form, content_type = "multipart/form-data"),
    responses((status = 200, description = "It was written", body = Uploaded), Refusals, Troubles)
)]
pub(super) async fn upload(
    State(app): State<App>,
    patience: Patience,
    running: Running,
    request: Request,
) -> Result<Json<Uploaded>, Trouble> {
    check_length(request.headers())?;
    let form = Multipart::from_request(request, &app).await;
    let mut form = form.map_err(|rejection| {
        Trouble::Asking(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            rejection.body_text(),
        ))
    })?;
    let _holding = patience.hold();
    let mut parts = Parts::default();
    let written = async {
        parts.receive(&running, &mut form).await?;
        parts.place(&running.link).await
    };
    let written = written.await;
    if let (Err(_), Some(parked)) = (&written, &parts.parked) {
        let _ = running.link.remove(parked, false).await;
    }
    written.map(Json)
}

/// What has come of a form.
#[derive(Debug, Default)]
struct Parts {
    path: Option<String>,
    file: Option<FileInfo>,
    /// Where the file is that came before its path.
    parked: Option<String>,
}

impl Parts {
    /// Take what there is; fields of other names are left out.
    async fn receive(&mut self, running: &Running, form: &mut Multipart) -> Result<(), Trouble> {
        for _ in 0..MAX_FIELDS {
            let field = timeout(NEXT_BYTES, form.next_field()).await;
            let field = field.map_err(|_| Trouble::BrokenBody)?;
            let Some(mut field) = field.map_err(|error| bad_form(&error))? else {
                break;
            };
            match field.name() {
                Some("path") => {
                    let path = text(&mut field).await?;
                    self.path = Some(directory(&running.held, Some(&path)));
                }
                Some("file") if self.file.is_none() => {
                    // A path that is still to come: the file waits beside, in the sandbox.
                    let to = self.path.clone().unwrap_or_else(|| {
                        let parked = format!(".upload-{}", random_hex::<8>());
                        directory(&running.held, Some(&parked))
                    });
                    self.file = Some(write(&running.link, &to, &mut field).await?);
                    self.parked = self.path.is_none().then_some(to);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Give the file its path, if it has not got it yet.
    async fn place(&self, link: &Link) -> Result<Uploaded, Trouble> {
        let missing = |field| Trouble::bad(field, "must be given");
        let file = self.file.as_ref().ok_or_else(|| missing("file"))?;
        let path = self.path.clone().ok_or_else(|| missing("path"))?;
        if let Some(parked) = &self.parked {
            place(link, parked, &path).await?;
        }
        Ok(Uploaded {
            message: "file uploaded",
            path,
            size: file.size,
        })
    }
}

/// Write a field into a file. If it breaks off, nothing is written.
async fn write(link: &Link, to: &str, field: &mut Field<'_>) -> Result<FileInfo, Trouble> {
    let options = WriteOptions {
        make_dirs: true,
        ..WriteOptions::default()
    };
    let mut writer = link.write_file(to, options).await?;
    let mut left = MAX_UPLOAD;
    loop {
        let next = timeout(NEXT_BYTES, field.next()).await;
        let Some(bytes) = next.map_err(|_| Trouble::BrokenBody)? else {
            return Ok(writer.finish().await?);
        };
        let bytes = bytes.map_err(|error| bad_form(&error))?;
        let more = left.checked_sub(bytes.len() as u64);
        left = more.ok_or(Trouble::TooLarge(MAX_UPLOAD))?;
        writer.write(bytes).await?;
    }
}

/// Give a file the path that it is for.
async fn place(link: &Link, from: &str, to: &str) -> Result<(), Trouble> {
    let above = to.rsplit_once('/').map_or("", |(above, _)| above);
    if !above.is_empty() {
        link.make_dir(above, true, None).await?;
    }
    match link.rename(from, to).await {
        Err(LinkError::Refused(refusal)) if refusal.code == code::IO => copy(link, from, to).await,
        done => Ok(done?),
    }
}

/// Another file system: a rename does not lead there.
async fn copy(link: &Link, from: &str, to: &str) -> Result<(), Trouble> {
    let (_, mut reader) = link.read_file(from, 0, None).await?;
    let mut writer = link.write_file(to, WriteOptions::default()).await?;
    while let Some(bytes) = reader.next().await {
        writer.write(bytes?).await?;
    }
    writer.finish().await?;
    Ok(link.remove(from, false).await?)
}

async fn text(field: &mut Field<'_>) -> Result<String, Trouble> {
    let mut bytes = Vec::new();
    loop {
        let next = timeout(NEXT_BYTES, field.next()).await;
        let Some(more) = next.map_err(|_| Trouble::BrokenBody)? else {
            break;
        };
        bytes.extend_from_slice(&more.map_err(|e| bad_form(&e))?);
        if bytes.len() > MAX_PATH {
            return Err(Trouble::bad(
                "path",
                format!("must be at most {MAX_PATH} bytes"),
            ));
        }
    }
    let text = String::from_utf8(bytes)
        .ok()
        .filter(|path| !path.is_empty());
    text.ok_or_else(|| Trouble::bad("path", "must be text, and not empty"))
}

fn bad_form(error: &MultipartError) -> Trouble {
    Trouble::bad("form", error.body_text().trim_end_matches('.'))
}
