//! Embed tokens: what a site's back end allows one visitor of its pages.
//!
//! A JWT (RFC 7519), signed with the site's Ed25519 key (`EdDSA`, RFC 8037) of which the gateway has the
//! public half only: what is at rest here signs nothing. Its header names the key (`kid`); it is for
//! `belljar` (`aud`), lives for minutes (`iat`, `exp`) and opens one session, once (`jti`).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::{Deserialize, Deserializer};

use super::App;
use super::protocol::{Fault, FaultCode};

/// Whom tokens are for.
const AUDIENCE: &str = "belljar";

/// How far two clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(10);

/// How long a token may live. Long enough for a slow page to load, short enough that what leaks with an
/// address is soon worth nothing.
const LONGEST: Duration = Duration::from_secs(600);

/// Longest token, bytes. The head of a request has 16 KiB in all.
const MAX_TOKEN: usize = 4096;

/// Longest `jti` and `sub`, bytes.
const MAX_TEXT: usize = 128;

/// Bounds of the metadata, bytes in all.
const MAX_METADATA: usize = 2048;

/// Tokens that are remembered as used, each until it expires. More within ten minutes are refused.
const MAX_SEEN: usize = 100_000;

/// What a token says.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Claims {
    /// Who the visitor is to the site. Shown to nobody but the session's owner.
    #[serde(default)]
    pub(super) sub: Option<String>,
    iat: u64,
    exp: u64,
    jti: String,
    /// The template; the visitor's choice if absent.
    #[serde(default)]
    pub(super) template: Option<String>,
    /// The only origin whose pages may use it.
    #[serde(default)]
    pub(super) origin: Option<String>,
    /// Seconds that the session may take at most.
    #[serde(default, deserialize_with = "seconds")]
    pub(super) max_duration: Option<Duration>,
    /// What the site wants to find with the session.
    #[serde(default)]
    pub(super) metadata: BTreeMap<String, String>,
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let seconds = Option::<u64>::deserialize(deserializer)?;
    Ok(seconds.map(Duration::from_secs))
}

/// Tokens that have been used.
#[derive(Debug, Default)]
pub struct Seen(Mutex<HashMap<(String, String), SystemTime>>);

impl Seen {
    /// Remember a token until it expires; false if it is known, or there is no room.
    fn first_time(&self, key: &str, jti: &str, expires: SystemTime, now: SystemTime) -> bool {
        // No code that could panic runs under the lock.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_SEEN {
            seen.retain(|_, expires| *expires > now);
        }
        let known = (key.to_owned(), jti.to_owned());
        if seen.len() >= MAX_SEEN || seen.get(&known).is_some_and(|expires| *expires > now) {
            return false;
        }
        seen.insert(known, expires);
        true
    }
}

/// What a visitor's token allows, if there is one; and whether its page may open terminals here. Taken
/// at its word once.
pub(super) fn admit(
    app: &App,
    headers: &HeaderMap,
    token: Option<&str>,
) -> Result<Option<Claims>, Fault> {
    let Some(token) = token else {
        if app.config.get().api.embed_only {
            return Err(refuse(
                app,
                "Terminals are opened from the pages of their sites here.",
            ));
        }
        super::auth::check_origin(headers, app)?;
        return Ok(None);
    };
    let now = SystemTime::now();
    let (key, claims) = read(app, token, now).map_err(|why| {
        tracing::info!(error = why, "an embed token was refused");
        refuse(
            app,
            "This page's permission to open a terminal is not valid. Please reload it.",
        )
    })?;
    match &claims.origin {
        Some(origin) => {
            let asked = headers.get(header::ORIGIN).and_then(|o| o.to_str().ok());
            if asked != Some(origin.as_str()) {
                let message = "This page may not open terminals here.";
                app.metrics.refused(FaultCode::OriginRefused.name());
                return Err(Fault::new(FaultCode::OriginRefused, message));
            }
        }
        None => super::auth::check_origin(headers, app)?,
    }
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(claims.exp) + LEEWAY;
    if !app.seen.first_time(&key, &claims.jti, expires, now) {
        return Err(refuse(
            app,
            "This page's permission to open a terminal has been used. Please reload it.",
        ));
    }
    Ok(Some(claims))
}

fn refuse(app: &App, message: &'static str) -> Fault {
    app.metrics.refused(FaultCode::TokenRefused.name());
    Fault::new(FaultCode::TokenRefused, message)
}

/// The key that has signed a token, and what it says; or why it counts for nothing.
fn read(app: &App, token: &str, now: SystemTime) -> Result<(String, Claims), &'static str> {
    if token.len() > MAX_TOKEN {
        return Err("it is too long");
    }
    let head = decode_header(token).map_err(|_| "it is no JWT")?;
    let kid = head.kid.ok_or("it names no key (kid)")?;
    let public = app
        .keys
        .embed_key(&kid, now)
        .ok_or("its key is not known, or has expired")?;
    verify(token, &public, now).map(|claims| (kid, claims))
}

/// What a token says that this key has signed.
fn verify(token: &str, public: &str, now: SystemTime) -> Result<Claims, &'static str> {
    let key = DecodingKey::from_ed_components(public).map_err(|_| "its key is no Ed25519 key")?;
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.set_audience(&[AUDIENCE]);
    rules.set_required_spec_claims(&["exp", "aud"]);
    rules.leeway = LEEWAY.as_secs();
    let claims = decode::<Claims>(token, &key, &rules)
        .map_err(|_| "it is not signed by its key, or its time is over, or a claim is missing")?
        .claims;
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    if claims.iat > (now + LEEWAY).as_secs() {
        return Err("it was made in the future (iat)");
    }
    if claims.exp.saturating_sub(claims.iat) > LONGEST.as_secs() {
        return Err("it lives for more than ten minutes (exp, iat)");
    }
    let text = |text: &str| (1..=MAX_TEXT).contains(&text.len());
    if !text(&claims.jti) || !claims.sub.as_deref().is_none_or(text) {
        return Err("jti and sub must be 1 to 128 bytes");
    }
    let metadata = claims.metadata.iter().map(|(k, v)| k.len() + v.len());
    if metadata.sum::<usize>() > MAX_METADATA {
        return Err("its metadata is over 2048 bytes");
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::*;

    /// RFC 8037, appendix A.1 and A.2: a seed and its public key.
    const SEED: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    const PUBLIC: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn sign(algorithm: Algorithm, claims: &Value) -> String {
        // PKCS #8 around the seed.
        let mut der = vec![
            0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
        ];
        der.extend(BASE64_URL_SAFE_NO_PAD.decode(SEED).unwrap());
        let key = match algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_der(&der),
            _ => EncodingKey::from_secret(PUBLIC.as_bytes()),
        };
        encode(&Header::new(algorithm), claims, &key).unwrap()
    }

    fn now() -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap().as_secs()
    }

    fn claims() -> Value {
        json!({"aud": "belljar", "iat": now(), "exp": now() + 60, "jti": "1", "sub": "ada",
               "template": "python", "max_duration": 90, "metadata": {"lesson": "3"}})
    }

    #[test]
    fn what_its_key_has_signed_counts() {
        let token = sign(Algorithm::EdDSA, &claims());
        let read = verify(&token, PUBLIC, SystemTime::now()).unwrap();
        assert_eq!(read.sub.as_deref(), Some("ada"));
        assert_eq!(read.max_duration, Some(Duration::from_secs(90)));
        assert_eq!(read.metadata["lesson"], "3");
    }

    #[test]
    fn nothing_else_does() {
        let changed = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            sign(Algorithm::EdDSA, &claims)
        };
        let without = |name: &str| {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(name);
            sign(Algorithm::EdDSA, &claims)
        };
        let good = sign(Algorithm::EdDSA, &claims());
        let (text, signature) = good.rsplit_once('.').unwrap();
        // The public key as an HMAC's secret, the oldest trick there is.
        let confused = sign(Algorithm::HS256, &claims());
        let none = format!(
            "{}.{}.",
            BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
            text.split_once('.').unwrap().1
        );
        for bad in [
            confused,
            none,
            format!("{text}.{}", "A".repeat(signature.len())),
            format!("{text}."),
            changed("aud", json!("other")),
            changed("exp", json!(now() - 60)),
            changed("exp", json!(now() + 3600)),
            changed("iat", json!(now() + 60)),
            changed("jti", json!("")),
            changed("sub", json!("s".repeat(200))),
            changed("metadata", json!({"a": "b".repeat(4000)})),
            without("aud"),
            without("exp"),
            without("iat"),
            without("jti"),
            String::new(),
        ] {
            assert!(verify(&bad, PUBLIC, SystemTime::now()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_counts_once_and_is_forgotten_when_it_has_expired() {
        let seen = Seen::default();
        let now = SystemTime::now();
        let soon = now + Duration::from_secs(60);
        assert!(seen.first_time("key", "1", soon, now));
        assert!(!seen.first_time("key", "1", soon, now));
        assert!(seen.first_time("other", "1", soon, now));
        assert!(seen.first_time("key", "1", soon + LEEWAY, soon));
    }
}
