//! The API's description, by the code itself: `OpenAPI` 3.1 at `/api/openapi.json`, and to read at `/docs`.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi, ToSchema};

use super::super::{App, assets};
use super::problem;

/// What the description says of the API as a whole. Its operations come with the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Belljar",
        description = "Sandboxes for programs: sealed in gVisor, without a network, gone in time.\n\n\
            The same routes, except those for operators, are at `/api` and `/`, for clients of other systems. Unknown fields of a body \
            are ignored. Errors are problem details (RFC 9457) with a stable code in `error`.\n\n\
            Not in the list: `/sandboxes/{id}/ports/{port}/{path}` takes any HTTP request and any WebSocket \
            to a server in the sandbox that listens on that port."
    ),
    servers((url = "/api/v1")),
    security((), ("bearer" = []), ("header" = []), ("query" = []), ("basic" = [])),
    modifiers(&Security),
    tags(
        (name = "sandboxes", description = "Made, found, moved in time, stopped, ended"),
        (name = "templates", description = "What sandboxes are made from"),
        (name = "commands", description = "Commands and code, waited for, streamed or left in the background"),
        (name = "processes", description = "What runs in a sandbox by a command, and what it has said"),
        (name = "files", description = "Files of a sandbox; paths are against its working directory"),
        (name = "terminals", description = "Programs on a screen, by WebSocket"),
        (name = "operators", description = "What goes on in the whole gateway; for keys with the scope `admin`"),
        (name = "other dialects", description = "What other systems' clients call by other names"),
    )
)]
pub(super) struct Description;

/// How a key is presented. Where none is configured, programs of the gateway's own machine need none.
struct Security;

impl Modify for Security {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let components = api.components.get_or_insert_default();
        let http = |scheme| SecurityScheme::Http(HttpBuilder::new().scheme(scheme).build());
        let key = |place: fn(ApiKeyValue) -> ApiKey, name| {
            SecurityScheme::ApiKey(place(ApiKeyValue::new(name)))
        };
        for (name, scheme) in [
            ("bearer", http(HttpAuthScheme::Bearer)),
            ("basic", http(HttpAuthScheme::Basic)),
            ("header", key(ApiKey::Header, "X-API-Key")),
            ("query", key(ApiKey::Query, "api_key")),
        ] {
            components.add_security_scheme(name, scheme);
        }
    }
}

/// What any operation may answer in place of what was asked for.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes")]
pub(in crate::web) enum Refusals {
    /// Something about the request is wrong; `field` says what, if it is one part of it.
    #[response(status = 400, content_type = "application/problem+json")]
    Bad(problem::Body),
    /// A key is needed.
    #[response(status = 401, content_type = "application/problem+json")]
    NoKey(problem::Body),
    /// The key is not valid, or not for this; or the sandbox's kernel does not permit it.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(problem::Body),
    /// There is no such thing, or it is somebody else's.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(problem::Body),
    /// The body did not come in time.
    #[response(status = 408, content_type = "application/problem+json")]
    Late(problem::Body),
    /// The body is too large, or there is no room for it.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(problem::Body),
    /// The body has another content type than it must have.
    #[response(status = 415, content_type = "application/problem+json")]
    OtherType(problem::Body),
    /// Too many: `retryAfter` says when to come back.
    #[response(status = 429, content_type = "application/problem+json")]
    Limited(problem::Body),
    /// Not now: `retryAfter` says when to come back.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(problem::Body),
}

/// What an operation inside a sandbox may answer beyond that.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes")]
pub(in crate::web) enum Troubles {
    /// The sandbox does not run; or what is there is in the way.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(problem::Body),
    /// The sandbox's kernel refused for a reason that has no other status.
    #[response(status = 422, content_type = "application/problem+json")]
    Io(problem::Body),
    /// The sandbox began with an older version, which cannot do this.
    #[response(status = 501, content_type = "application/problem+json")]
    Unsupported(problem::Body),
    /// The sandbox gave an answer that makes no sense: its own programs may have seen to that.
    #[response(status = 502, content_type = "application/problem+json")]
    Nonsense(problem::Body),
    /// The sandbox did not answer in time.
    #[response(status = 504, content_type = "application/problem+json")]
    Silent(problem::Body),
}

/// What an operation on a template may answer beyond [`Refusals`].
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes")]
pub(in crate::web) enum NotBuilt {
    /// It is one of the configuration, or sandboxes still run on it, or there are too many.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(problem::Body),
    /// The Dockerfile could not be built: the end of the builder's output.
    #[response(status = 422, content_type = "application/problem+json")]
    Failed(problem::Body),
}

/// The sandbox that a path names.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it describes")]
pub(in crate::web) struct Id {
    /// The sandbox's id.
    id: String,
}

/// One of the events of a stream.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(in crate::web) struct ServerSentEvent {
    /// Its name.
    event: String,
    /// JSON.
    data: String,
}

/// Bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "it describes")]
pub(in crate::web) struct Content(Vec<u8>);

/// The description as it is served, and as it lies in docs/openapi.json.
pub(super) fn written(api: &utoipa::openapi::OpenApi) -> String {
    let text = api.to_pretty_json();
    text.expect("text and numbers") + "\n"
}

/// The routes by which the description is read.
pub(super) fn routes(api: &utoipa::openapi::OpenApi) -> Router<App> {
    let text = Bytes::from(written(api));
    let serve = move || {
        let text = text.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], text).into_response() }
    };
    Router::new()
        .route("/api/openapi.json", get(serve.clone()))
        .route("/openapi.json", get(serve))
        .route("/docs", get(assets::docs))
}

/// A quantity in the description: a number, or text as this.
macro_rules! quantity {
    ($type:ty, $description:literal, $example:literal) => {
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
                OneOfBuilder::new()
                    .item(ObjectBuilder::new().schema_type(Type::Number))
                    .item(ObjectBuilder::new().schema_type(Type::String))
                    .description(Some($description))
                    .examples([serde_json::json!($example)])
                    .into()
            }
        }
        impl utoipa::ToSchema for $type {}
    };
}
pub(super) use quantity;

#[cfg(test)]
mod tests {
    /// The description is kept in the repository, so that a change of the API shows in a review.
    #[test]
    fn the_description_in_docs_is_the_codes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        let now = super::written(&super::super::description());
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::write(path, &now).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == now,
            "docs/openapi.json is not what the code says: run `UPDATE_OPENAPI=1 cargo test --lib openapi`, \
             look at the difference, and commit it"
        );
    }
}
