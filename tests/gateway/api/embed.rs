//! Embed tokens: a site's pages, and nobody else's.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use belljar::keys::{Key, NewKey, Scope, edit};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::auth::Ring;
use crate::harness::{TestGateway, process_config};

const V1: (&str, &str) = ("sec-websocket-protocol", "belljar.v1");

const SITE: &str = "https://tutorials.example.com";

/// RFC 8037, appendix A.1 and A.2: a seed and its public key.
const SEED: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
const PUBLIC: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

/// A token of the site's back end, whose key has this id.
fn token(kid: &str, jti: &str, more: &Value) -> String {
    // PKCS #8 around the seed.
    let mut der = vec![
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    der.extend(BASE64_URL_SAFE_NO_PAD.decode(SEED).expect("base64"));
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let mut claims = json!({"aud": "belljar", "iat": now, "exp": now + 60, "jti": jti});
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    let header = Header {
        kid: Some(kid.into()),
        ..Header::new(Algorithm::EdDSA)
    };
    encode(&header, &claims, &EncodingKey::from_ed_der(&der)).expect("it is signed")
}

#[tokio::test]
async fn a_site_opens_terminals_for_its_own_visitors_and_nobody_else_does() {
    let ring = Ring::new("embed");
    let (key, _) = Key::new(NewKey {
        name: "tutorials".into(),
        scopes: [Scope::Embed].into(),
        expires: None,
        public_key: Some(PUBLIC.into()),
        sandboxes: None,
        sandboxes_per_hour: None,
    });
    let kid = key.id.to_string();
    edit(&ring.path, |keys| keys.push(key)).expect("it is written");
    let mut config = process_config();
    config.api.keys_file.clone_from(&ring.path);
    config.api.embed_only = true;
    let gateway = TestGateway::with(config).await;
    let open = async |token: &str, origin| {
        let path = format!("/ws?embed={token}");
        gateway.connect_with(&path, &[V1, ("origin", origin)]).await
    };
    let refused = async |token: &str, origin| {
        let mut client = open(token, origin).await.expect("a browser is told so");
        let error = client.told("error").await;
        (error["code"].clone(), client.closed().await)
    };

    let claims = json!({"origin": SITE, "sub": "reader-7", "metadata": {"lesson": "3"}});
    let one = token(&kid, "1", &claims);
    let other_page = refused(&one, "https://evil.example").await;
    assert_eq!(other_page, (json!("origin_refused"), 4003));
    // The page that was refused has not used it up.
    let mut client = open(&one, SITE).await.expect("it may");
    let ready = client.ready().await;
    let again = refused(&one, SITE).await;
    assert_eq!(again, (json!("token_refused"), 4003));
    for bad in ["", "x", &token("0123456789ab", "2", &claims)] {
        assert_eq!(refused(bad, SITE).await, (json!("token_refused"), 4003));
    }
    let without = gateway.connect_with("/ws", &[V1, ("origin", SITE)]).await;
    let mut without = without.expect("a browser is told so");
    assert_eq!(without.told("error").await["code"], "token_refused");
    let (status, body) = gateway.json("POST", "/sessions", &[], json!({})).await;
    assert_eq!((status, &body["error"]), (403, &json!("token_refused")));

    // What the site has said of its visitor stands with the session.
    let (session, token) = (&ready["session"], ready["token"].as_str().expect("text"));
    let path = format!("/sessions/{}", session.as_str().expect("text"));
    let bearer = format!("Bearer {token}");
    let (_, shown) = gateway
        .json("GET", &path, &[("authorization", &bearer)], json!(null))
        .await;
    assert_eq!(shown["subject"], "reader-7");
    assert_eq!(shown["metadata"], json!({"lesson": "3"}));

    // A page that has lost its socket comes back to its session: from the same site only.
    drop(client);
    let path = format!("{path}/ws?token={token}");
    let elsewhere = [V1, ("origin", "https://evil.example")];
    let mut elsewhere = gateway.connect_with(&path, &elsewhere).await.expect("told");
    assert_eq!(elsewhere.told("error").await["code"], "origin_refused");
    let mut back = gateway
        .connect_with(&path, &[V1, ("origin", SITE)])
        .await
        .expect("it may");
    back.ready().await;
    gateway.stop().await;
}
