//! Files that visitors bring and take, and those who try with what is not theirs.

use crate::api::http::{Answer, send};
use crate::harness::{TestGateway, process_config};

/// A directory of this machine, where plain processes have theirs.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("belljar-files-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("it is new");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn ask(
    gateway: &TestGateway,
    session: &str,
    token: &str,
    (method, query): (&str, &str),
    body: &[u8],
) -> Answer {
    let path = format!("/sessions/{session}/files{query}");
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    send(gateway.address, method, &path, &headers, body).await
}

#[tokio::test]
async fn a_file_goes_in_and_comes_out_as_it_was() {
    let directory = Directory::new("round");
    let gateway = TestGateway::with(process_config()).await;
    let visitor = gateway.visit().await;
    let (session, token) = (visitor.session.clone(), visitor.token.clone());
    let file = directory.0.join("a file");
    let query = format!("?path={}", file.display().to_string().replace(' ', "%20"));
    let byte = |i: u64| (i * i / 251).to_le_bytes()[0];
    let content: Vec<u8> = (0..3_000_000).map(byte).collect();
    let brought = ask(&gateway, &session, &token, ("PUT", &query), &content).await;
    assert_eq!(brought.status, 204);
    assert!(std::fs::read(&file).expect("it is there") == content);
    let taken = ask(&gateway, &session, &token, ("GET", &query), b"").await;
    assert_eq!(taken.status, 200);
    assert!(taken.body == content, "{} bytes", taken.body.len());
    let again = ask(&gateway, &session, &token, ("PUT", &query), b"anew").await;
    assert_eq!(again.status, 204);
    assert_eq!(std::fs::read(&file).expect("it is there"), b"anew");
    gateway.stop().await;
}

#[tokio::test]
async fn who_has_no_token_of_the_session_brings_and_takes_nothing() {
    let directory = Directory::new("strangers");
    let gateway = TestGateway::with(process_config()).await;
    let (owner, other) = (gateway.visit().await, gateway.visit().await);
    let (_, share) = crate::shares::share(&gateway, &owner, "write").await;
    let file = directory.0.join("theirs");
    let query = format!("?path={}", file.display());
    for token in ["", "x", &other.token, &share] {
        for method in ["PUT", "GET"] {
            let answer = ask(&gateway, &owner.session, token, (method, &query), b"mine").await;
            assert!([401, 403].contains(&answer.status), "{}", answer.status);
        }
    }
    assert!(!file.exists());
    for query in ["", "?path=", "?path=%00", "?path=%FF"] {
        let answer = ask(&gateway, &owner.session, &owner.token, ("PUT", query), b"x").await;
        assert_eq!(answer.status, 400, "{query}");
    }
    let query = format!("?path={}", directory.0.display());
    let answer = ask(
        &gateway,
        &owner.session,
        &owner.token,
        ("PUT", &query),
        b"x",
    )
    .await;
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    let (session, token) = (owner.session.clone(), owner.token.clone());
    let bearer = format!("Bearer {token}");
    let path = format!("/sessions/{session}");
    let headers = [("authorization", bearer.as_str())];
    let (status, _) = gateway.http("DELETE", &path, &headers, "").await;
    assert!(status < 300, "{status}");
    let answer = ask(&gateway, &session, &token, ("GET", &query), b"").await;
    assert_eq!(answer.status, 404);
    gateway.stop().await;
}
