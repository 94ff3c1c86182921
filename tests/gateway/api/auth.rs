//! Who may: with a key, or on this machine where there is none.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use belljar::keys::{Key, NewKey, Scope, edit};
use serde_json::{Value, json};

use crate::harness::{TestGateway, process_config};

/// A file of keys of a test's own.
pub(super) struct Ring {
    pub(super) path: PathBuf,
}

impl Ring {
    pub(super) fn new(name: &str) -> Self {
        let name = format!("belljar-test-{name}-{}.toml", std::process::id());
        Self {
            path: std::env::temp_dir().join(name),
        }
    }

    pub(super) fn add(&self, scope: Scope, expires: Option<SystemTime>) -> String {
        let (key, text) = Key::new(NewKey {
            name: "test".into(),
            scopes: [scope].into(),
            expires,
            public_key: None,
            sandboxes: Some(1),
            sandboxes_per_hour: None,
        });
        edit(&self.path, |keys| keys.push(key)).expect("it is written");
        text
    }

    async fn gateway(&self) -> TestGateway {
        let mut config = process_config();
        config.api.keys_file.clone_from(&self.path);
        TestGateway::with(config).await
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn ask(gateway: &TestGateway, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    gateway.json("GET", path, headers, json!(null)).await
}

#[tokio::test]
async fn only_a_valid_key_opens() {
    let ring = Ring::new("valid");
    let key = ring.add(Scope::Sandboxes, None);
    let now = SystemTime::now();
    let expired = ring.add(Scope::Sandboxes, Some(now - Duration::from_secs(1)));
    let gateway = ring.gateway().await;
    let (head, told) = gateway.exchange("GET", "/sandboxes", &[], "").await;
    assert!(head.starts_with("HTTP/1.1 401"), "{head}");
    assert!(head.contains("www-authenticate: Bearer") && told.contains("key_missing"));
    let bearer = format!("Bearer {key}");
    let path = format!("/api/sandboxes?api_key={key}");
    for (path, headers) in [
        ("/sandboxes", vec![("authorization", bearer.as_str())]),
        ("/api/v1/sandboxes", vec![("x-api-key", key.as_str())]),
        (path.as_str(), vec![]),
    ] {
        assert_eq!(
            ask(&gateway, path, &headers).await,
            (200, json!([])),
            "{path}"
        );
    }
    let wrong = format!("{}0", &key[..key.len() - 1]);
    let wrong = if wrong == key {
        key.replace("blj_", "blj_f")
    } else {
        wrong
    };
    for (key, code) in [
        (wrong.as_str(), "key_refused"),
        ("", "key_refused"),
        (expired.as_str(), "key_expired"),
    ] {
        let (status, told) = ask(&gateway, "/sandboxes", &[("x-api-key", key)]).await;
        assert_eq!((status, &told["error"]), (403, &json!(code)), "{told}");
    }
    // A page of another site, although it has a key.
    let headers = [
        ("x-api-key", key.as_str()),
        ("origin", "https://evil.example"),
    ];
    let (status, told) = ask(&gateway, "/sandboxes", &headers).await;
    assert_eq!(
        (status, &told["error"]),
        (403, &json!("origin_refused")),
        "{told}"
    );

    // Revoked, and not valid any more once the gateway has read it.
    edit(&ring.path, Vec::clear).expect("it is written");
    let other = ring.add(Scope::Sandboxes, None);
    assert!(gateway.app.keys.reload().expect("it is read"));
    let (status, _) = ask(&gateway, "/sandboxes", &[("x-api-key", &key)]).await;
    assert_eq!(status, 403);
    let (status, _) = ask(&gateway, "/sandboxes", &[("x-api-key", &other)]).await;
    assert_eq!(status, 200);
    gateway.stop().await;
}

#[tokio::test]
async fn a_sandbox_is_its_owners_and_the_admins() {
    let ring = Ring::new("owners");
    let (one, other) = (
        ring.add(Scope::Sandboxes, None),
        ring.add(Scope::Sandboxes, None),
    );
    let admin = ring.add(Scope::Admin, None);
    let gateway = ring.gateway().await;
    let create = |key: String| {
        let gateway = &gateway;
        async move {
            let key = [("x-api-key", key.as_str())];
            gateway.json("POST", "/sandboxes", &key, json!({})).await
        }
    };
    let (status, made) = create(one.clone()).await;
    assert_eq!(status, 201, "{made}");
    let (status, told) = create(one.clone()).await;
    assert_eq!(
        (status, &told["error"]),
        (429, &json!("rate_limited")),
        "the key's own limit"
    );
    assert_eq!(create(other.clone()).await.0, 201, "others are free");
    let path = format!("/sandboxes/{}", made["id"].as_str().expect("an id"));
    for (key, status, count) in [(&one, 200, 1), (&other, 404, 1), (&admin, 200, 2)] {
        let key = [("x-api-key", key.as_str())];
        assert_eq!(ask(&gateway, &path, &key).await.0, status);
        let (_, list) = ask(&gateway, "/sandboxes", &key).await;
        assert_eq!(list.as_array().map(Vec::len), Some(count), "{list}");
    }
    for path in [
        path.clone(),
        format!("{path}/actions"),
        format!("{path}/timeout"),
    ] {
        let method = if path.matches('/').count() == 2 {
            "DELETE"
        } else {
            "POST"
        };
        let body = json!({"action": "kill", "timeout": 1});
        let (status, told) = gateway
            .json(method, &path, &[("x-api-key", &other)], body)
            .await;
        assert_eq!(
            (status, &told["error"]),
            (404, &json!("sandbox_not_found")),
            "{path}"
        );
    }
    assert_eq!(
        ask(&gateway, &path, &[("x-api-key", &one)]).await.1["status"],
        "running"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn without_a_key_only_programs_of_this_machine() {
    let gateway = TestGateway::process().await;
    assert_eq!(ask(&gateway, "/sandboxes", &[]).await.0, 200);
    // Many clients send one whether or not it is needed.
    assert_eq!(
        ask(&gateway, "/sandboxes", &[("x-api-key", "test")])
            .await
            .0,
        200
    );
    let address = gateway.address.to_string();
    let own = format!("http://{address}");
    assert_eq!(
        ask(&gateway, "/sandboxes", &[("origin", &own)]).await.0,
        200
    );
    for headers in [
        vec![("x-forwarded-for", "192.0.2.1")],
        vec![("forwarded", "for=192.0.2.1")],
        vec![("x-real-ip", "192.0.2.1")],
        vec![("host", "evil.example")],
        vec![("host", "evil.example"), ("origin", "http://evil.example")],
        vec![("origin", "http://evil.example")],
        vec![("origin", "null")],
        vec![("sec-fetch-site", "cross-site")],
        vec![("sec-fetch-site", "same-site")],
    ] {
        let (status, told) = ask(&gateway, "/sandboxes", &headers).await;
        assert_eq!(status, 403, "{headers:?}: {told}");
    }
    // What a page may send without being asked first.
    let (status, _) = gateway
        .http(
            "POST",
            "/sandboxes",
            &[("content-type", "text/plain")],
            "{}",
        )
        .await;
    assert_eq!(status, 415);
    gateway.assert_empty().await;
    gateway.stop().await;
}

/// The file is there and nobody can read it: that is no reason to let everyone in.
#[tokio::test]
async fn a_broken_file_of_keys_lets_nobody_in() {
    let ring = Ring::new("broken");
    std::fs::write(&ring.path, "[[keys]]\nname = ").expect("it is written");
    let gateway = ring.gateway().await;
    assert_eq!(ask(&gateway, "/sandboxes", &[]).await.0, 401);
    let key = [("x-api-key", "blj_0123456789ab_00")];
    assert_eq!(ask(&gateway, "/sandboxes", &key).await.0, 403);
    gateway.stop().await;
}

#[tokio::test]
async fn whoever_guesses_is_told_to_wait_and_a_right_key_is_not() {
    let ring = Ring::new("guesses");
    let key = ring.add(Scope::Sandboxes, None);
    let gateway = ring.gateway().await;
    let mut refused = 0;
    loop {
        let (status, told) = ask(&gateway, "/sandboxes", &[("x-api-key", "blj_x_y")]).await;
        if status == 429 {
            assert!(told["retryAfter"].as_u64().is_some(), "{told}");
            break;
        }
        assert_eq!(status, 403, "{told}");
        refused += 1;
        assert!(refused < 1000, "nobody is told to wait");
    }
    assert_eq!(
        ask(&gateway, "/sandboxes", &[("x-api-key", &key)]).await.0,
        200
    );
    gateway.stop().await;
}
