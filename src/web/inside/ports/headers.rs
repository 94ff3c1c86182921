//! What of a request reaches the sandbox, and what of an answer the visitor.
//!
//! A request's credentials are the gateway's business: the sandbox never sees them. An answer comes
//! from whoever runs in the sandbox, and a browser takes it for the gateway's: a page is shut into an
//! origin of its own, and nothing speaks for the gateway's origin as a whole.

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::Target;
use crate::web::api::auth::OFFERED;

/// What a page from a sandbox may do: everything that does not make it one of the gateway's. In place
/// of whatever policy it has itself, which could only be wider.
const SANDBOXED: &str =
    "sandbox allow-scripts allow-forms allow-modals allow-popups allow-downloads";

/// Names in a query that the gateway takes credentials from.
const SECRET_NAMES: [&str; 2] = ["api_key", "token"];

/// Headers that are about one connection, not about what it carries.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Of a request: credentials, what says where the visitor comes from (an address may hold a
/// credential), and what is made anew.
const KEPT_FROM_SERVER: [&str; 15] = [
    "authorization",
    "cf-connecting-ip",
    "content-length",
    "cookie",
    "cookie2",
    "expect",
    "fly-client-ip",
    "forwarded",
    "host",
    "idempotency-key",
    "origin",
    "referer",
    "true-client-ip",
    "x-api-key",
    "x-real-ip",
];

/// Of an answer: what a browser, or a proxy in front of the gateway, takes for the word of the whole
/// origin.
const KEPT_FROM_VISITOR: [&str; 22] = [
    "accept-ch",
    "activate-storage-access",
    "alt-svc",
    "clear-site-data",
    "content-security-policy",
    "content-security-policy-report-only",
    "critical-ch",
    "expect-ct",
    "nel",
    "origin-trial",
    "public-key-pins",
    "public-key-pins-report-only",
    "referrer-policy",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "set-cookie",
    "set-cookie2",
    "set-login",
    "speculation-rules",
    "strict-transport-security",
    "www-authenticate",
];

/// The same, by how they begin.
const KEPT_FROM_VISITOR_PREFIXES: [&str; 4] = [
    "access-control-",
    "attribution-reporting-",
    "x-accel-",
    "x-sendfile",
];

/// The query without the caller's credentials; and whether there were any.
pub(super) fn without_credentials(query: Option<&str>) -> (Option<String>, bool) {
    let Some(query) = query else {
        return (None, false);
    };
    let secret = |pair: &&str| {
        let mut pairs = form_urlencoded::parse(pair.as_bytes());
        pairs.any(|(name, _)| SECRET_NAMES.contains(&&*name))
    };
    let all = || query.split('&');
    let rest: Vec<&str> = all().filter(|pair| !secret(pair)).collect();
    let found = rest.len() < all().count();
    let rest = (!found || !rest.is_empty()).then(|| rest.join("&"));
    (rest, found)
}

/// Whether a browser asks for a document, which would know its own address.
pub(super) fn navigates(headers: &HeaderMap) -> bool {
    let mode = headers.get("sec-fetch-mode");
    mode.is_some_and(|mode| mode == "navigate" || mode == "nested-navigate")
}

/// Whether the head asks for WebSocket, or grants it.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let lists = |name, token: &str| {
        let values = headers.get_all(name).iter();
        let mut tokens = values
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','));
        tokens.any(|found| found.trim().eq_ignore_ascii_case(token))
    };
    lists(header::CONNECTION, "upgrade") && lists(header::UPGRADE, "websocket")
}

/// What passes either way: not what is about the connection, be it by the connection's own word.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let connection = headers.get_all(header::CONNECTION).iter();
    let named: Vec<&str> = connection
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let passes = |name: &HeaderName| {
        let name = name.as_str();
        !HOP_BY_HOP.contains(&name) && !named.iter().any(|n| n.eq_ignore_ascii_case(name))
    };
    let passing = headers.iter().filter(|(name, _)| passes(name));
    passing
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The subprotocols that a client offers, without one that is a key of the gateway's.
fn without_offered_keys(headers: &mut HeaderMap) {
    let name = header::SEC_WEBSOCKET_PROTOCOL;
    let offers = headers.get_all(&name).iter();
    let offers = offers
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|offer| !offer.starts_with(OFFERED));
    let offers = offers.collect::<Vec<_>>().join(", ");
    headers.remove(&name);
    if let Some(offers) = HeaderValue::from_str(&offers)
        .ok()
        .filter(|o| !o.is_empty())
    {
        headers.insert(name, offers);
    }
}

fn ask_for_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// The head of the request as the server sees it.
pub(super) fn for_server(headers: &HeaderMap, target: &Target<'_>, upgrade: bool) -> HeaderMap {
    let mut passed = end_to_end(headers);
    let forwarded = |name: &HeaderName| name.as_str().starts_with("x-forwarded-");
    without_offered_keys(&mut passed);
    let unwanted: Vec<HeaderName> = passed.keys().filter(|n| forwarded(n)).cloned().collect();
    for name in unwanted {
        passed.remove(name);
    }
    for name in KEPT_FROM_SERVER {
        passed.remove(name);
    }
    let own = |text: String| HeaderValue::from_str(&text).ok();
    passed.extend(
        [
            (header::HOST, own(format!("127.0.0.1:{}", target.port))),
            (
                HeaderName::from_static("x-forwarded-prefix"),
                own(target.prefix.to_owned()),
            ),
            // Who asks from the right page here asks from the right one there.
            (
                header::ORIGIN,
                headers
                    .contains_key(header::ORIGIN)
                    .then(|| own(format!("http://127.0.0.1:{}", target.port)))
                    .flatten(),
            ),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?))),
    );
    if upgrade {
        ask_for_websocket(&mut passed);
    }
    passed
}

/// The head of an answer as the visitor sees it.
pub(super) fn for_visitor(headers: &HeaderMap, target: &Target<'_>) -> HeaderMap {
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let mut passed = end_to_end(headers);
    let unwanted = |name: &HeaderName| {
        let name = name.as_str();
        KEPT_FROM_VISITOR.contains(&name)
            || KEPT_FROM_VISITOR_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
    };
    let unwanted: Vec<HeaderName> = passed.keys().filter(|n| unwanted(n)).cloned().collect();
    for name in unwanted {
        passed.remove(name);
    }
    if chunked {
        // A length beside it is a lie.
        passed.remove(header::CONTENT_LENGTH);
    }
    if let Some(location) = passed.get(header::LOCATION)
        && let Some(here) = below(location, target)
    {
        passed.insert(header::LOCATION, here);
    }
    let mut own = |name, value| passed.insert(name, HeaderValue::from_static(value));
    own(header::CONTENT_SECURITY_POLICY, SANDBOXED);
    own(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    own(header::REFERRER_POLICY, "no-referrer");
    passed
}

/// The head of a granted upgrade.
pub(super) fn of_upgrade(headers: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::new();
    for name in [
        header::SEC_WEBSOCKET_ACCEPT,
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_PROTOCOL,
    ] {
        if let Some(value) = headers.get(&name) {
            passed.insert(name, value.clone());
        }
    }
    ask_for_websocket(&mut passed);
    passed
}

/// Where a redirection leads that stays on the server, as an address of the gateway.
fn below(location: &HeaderValue, target: &Target<'_>) -> Option<HeaderValue> {
    let location = location.to_str().ok()?;
    let own = ["127.0.0.1", "localhost", "[::1]"]
        .into_iter()
        .find_map(|host| {
            let authority = format!("http://{host}:{}", target.port);
            location.strip_prefix(&authority)
        })
        .unwrap_or(location);
    let path = own.starts_with('/') && !own.starts_with("//") && !own.starts_with("/\\");
    if !path && !own.is_empty() {
        return None;
    }
    HeaderValue::from_str(&format!("{}{own}", target.prefix)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target<'_> = Target {
        prefix: "/sandboxes/ab/ports/8000",
        port: 8000,
        rest: "/",
    };

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn credentials_do_not_reach_the_sandbox() {
        let request = headers(&[
            ("authorization", "Bearer secret"),
            ("x-api-key", "secret"),
            ("cookie", "a=secret"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "belljar.example"),
            ("forwarded", "for=192.0.2.1"),
            ("referer", "https://belljar.example/?api_key=secret"),
            ("origin", "https://belljar.example"),
            ("host", "belljar.example"),
            ("connection", "close, X-Secret"),
            ("x-secret", "secret"),
            ("proxy-authorization", "secret"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("sec-websocket-protocol", "chat, belljar.key.secret"),
            ("sec-websocket-protocol", "belljar.key.secret"),
            ("accept", "text/html"),
            ("accept", "text/plain"),
        ]);
        let passed = for_server(&request, &TARGET, false);
        let expected = headers(&[
            ("accept", "text/html"),
            ("accept", "text/plain"),
            ("sec-websocket-protocol", "chat"),
            ("host", "127.0.0.1:8000"),
            ("x-forwarded-prefix", "/sandboxes/ab/ports/8000"),
            ("origin", "http://127.0.0.1:8000"),
        ]);
        assert_eq!(passed, expected);
        for (query, rest) in [
            ("api_key=secret", None),
            ("a=1&api_key=secret&b=%20", Some("a=1&b=%20")),
            ("api%5Fkey=secret&token=secret&x", Some("x")),
        ] {
            assert_eq!(
                without_credentials(Some(query)),
                (rest.map(str::to_owned), true)
            );
        }
        for query in ["", "a=1&&b", "apikey=1", "x=api_key"] {
            assert_eq!(
                without_credentials(Some(query)),
                (Some(query.to_owned()), false)
            );
        }
    }

    #[test]
    fn an_answer_says_nothing_for_the_gateways_origin() {
        let answer = headers(&[
            ("content-type", "text/html"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("connection", "keep-alive"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("content-security-policy", "default-src *"),
            ("service-worker-allowed", "/"),
            ("clear-site-data", "\"*\""),
            ("strict-transport-security", "max-age=1"),
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("alt-svc", "h3=\":443\""),
            ("x-accel-redirect", "/etc/passwd"),
            ("www-authenticate", "Basic"),
            ("x-content-type-options", "sniff"),
            ("vary", "accept"),
            ("vary", "origin"),
        ]);
        let expected = headers(&[
            ("content-type", "text/html"),
            ("vary", "accept"),
            ("vary", "origin"),
            ("content-security-policy", SANDBOXED),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ]);
        assert_eq!(for_visitor(&answer, &TARGET), expected);
    }

    #[test]
    fn a_redirection_stays_on_the_server() {
        for (location, led) in [
            ("/a/", "/sandboxes/ab/ports/8000/a/"),
            ("http://127.0.0.1:8000/a?b", "/sandboxes/ab/ports/8000/a?b"),
            ("http://localhost:8000", "/sandboxes/ab/ports/8000"),
            ("http://localhost:80000/a", "http://localhost:80000/a"),
            ("//other.example/", "//other.example/"),
            ("https://other.example/", "https://other.example/"),
            ("next", "next"),
        ] {
            let answer = headers(&[("location", location)]);
            let passed = for_visitor(&answer, &TARGET);
            assert_eq!(passed[header::LOCATION], led, "{location}");
        }
    }

    #[test]
    fn an_upgrade_is_asked_for_by_both_words() {
        assert!(is_websocket(&headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
        ])));
        assert!(!is_websocket(&headers(&[("upgrade", "websocket")])));
        assert!(!is_websocket(&headers(&[
            ("connection", "upgrade"),
            ("upgrade", "h2c"),
        ])));
    }
}
