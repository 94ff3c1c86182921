//! A request's body: a JSON object, whose mistakes are told with the field they are in.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::super::App;
use super::super::object::Object;
use super::problem::Problem;

/// A JSON object. No body at all is an empty one.
#[derive(Debug)]
pub(in crate::web) struct Body<T>(pub(in crate::web) T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let headers = request.headers().clone();
        let bytes = Bytes::from_request(request, app).await;
        let bytes =
            bytes.map_err(|_| Problem::bad_request("The request's body cannot be read."))?;
        parse(&headers, &bytes).map(Self)
    }
}

/// Read a body.
pub(in crate::web) fn parse<T: DeserializeOwned>(
    headers: &HeaderMap,
    bytes: &[u8],
) -> Result<T, Problem> {
    let bytes = if bytes.trim_ascii().is_empty() {
        b"{}"
    } else {
        // Also for safety: a page of another site cannot send this type without being asked first.
        check_type(headers)?;
        bytes
    };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let parsed: Result<Object<T>, _> = serde::Deserialize::deserialize(tracked);
    match parsed {
        Ok(Object(body)) => match json.end() {
            Ok(()) => Ok(body),
            Err(error) => Err(not_json(&error)),
        },
        Err(error) if error.is_data() => {
            let path = track.path().to_string();
            let message = error.to_string();
            // Where it stands in the text is no help to whoever has not written the text.
            let message = message.split(" at line ").next().unwrap_or_default();
            Err(match path.as_str() {
                "" | "." => Problem::bad_request(format!("The body: {message}.")),
                field => Problem::bad_field(field, message),
            })
        }
        Err(error) => Err(not_json(&error)),
    }
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::bad_request(format!("The body is not JSON: {error}."))
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    let json = essence
        .strip_prefix("application/")
        .is_some_and(|kind| kind == "json" || kind.ends_with("+json"));
    if json {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "The body must be JSON, with Content-Type: application/json.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use serde::Deserialize;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Cat {
        lives: u8,
    }

    fn read(kind: &'static str, body: &str) -> Result<Cat, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        parse(&headers, body.as_bytes()).map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn mistakes_name_their_field() {
        let json = "application/json; charset=utf-8";
        assert_eq!(read(json, "{\"lives\": 9, \"mice\": 1}").unwrap().lives, 9);
        assert_eq!(read("text/plain", " ").unwrap().lives, 0);
        assert!(
            read(json, "{\"lives\": \"x\"}")
                .unwrap_err()
                .contains("lives: invalid type")
        );
        for (body, said) in [
            ("[9]", "The body: "),
            ("{\"lives\": 9", "not JSON"),
            ("{} {}", "not JSON"),
            ("\u{0}", "not JSON"),
        ] {
            let told = read(json, body).unwrap_err();
            assert!(told.contains(said) && told.contains("400"), "{told}");
        }
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "",
            "application/jsonp",
        ] {
            assert!(read(kind, "{}").unwrap_err().contains("415"), "{kind}");
        }
    }
}
