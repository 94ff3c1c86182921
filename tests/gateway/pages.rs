//! What pages of other sites may load, and which of them may frame what.

use crate::harness::{TestGateway, process_config};

const SITE: &str = "https://tutorials.example.com";
const OTHER: &str = "https://evil.example";

async fn gateway() -> TestGateway {
    let mut config = process_config();
    config.allowed_origins = vec![SITE.to_owned(), "http://localhost:8000".to_owned()];
    TestGateway::with(config).await
}

/// The values of a header of a head, joined as HTTP allows.
fn header(head: &str, name: &str) -> String {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let values = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name));
    values.map(|(_, v)| v.trim()).collect::<Vec<_>>().join(", ")
}

/// The status and the head of an answer to a page of `origin`.
async fn ask(gateway: &TestGateway, path: &str, headers: &[(&str, &str)]) -> (String, String) {
    let (head, _) = gateway.exchange("GET", path, headers, "").await;
    let status = head.split(' ').nth(1).expect("a status").to_owned();
    (status, head)
}

#[tokio::test]
async fn the_element_may_be_loaded_by_every_page_and_the_rest_may_not() {
    let gateway = gateway().await;
    let (_, script) = gateway.exchange("GET", "/embed.js", &[], "").await;
    let asset = script.split('"').find_map(|part| part.strip_prefix("./"));
    let asset = format!("/{}", asset.expect("it imports what it needs"));
    for origin in [SITE, OTHER] {
        for path in ["/embed.js", &asset] {
            let (status, head) = ask(&gateway, path, &[("origin", origin)]).await;
            assert_eq!(status, "200", "{path}");
            assert_eq!(header(&head, "access-control-allow-origin"), "*", "{path}");
            let policy = header(&head, "cross-origin-resource-policy");
            assert_eq!(policy, "cross-origin", "{path}");
            assert_eq!(header(&head, "content-type"), "text/javascript", "{path}");
        }
        for path in ["/", "/embed", "/docs", "/status", "/health"] {
            let (_, head) = ask(&gateway, path, &[("origin", origin)]).await;
            let allowed = header(&head, "access-control-allow-origin");
            assert_ne!(allowed, "*", "{path}");
            assert_eq!(header(&head, "cross-origin-resource-policy"), "", "{path}");
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn the_script_is_asked_for_anew_and_what_it_imports_is_kept() {
    let gateway = gateway().await;
    let (_, head) = ask(&gateway, "/embed.js", &[]).await;
    assert_eq!(header(&head, "cache-control"), "no-cache");
    let tag = header(&head, "etag");
    let (status, head) = ask(&gateway, "/embed.js", &[("if-none-match", &tag)]).await;
    assert_eq!(status, "304");
    assert_eq!(header(&head, "access-control-allow-origin"), "*");
    let (status, _) = ask(&gateway, "/embed.js", &[("if-none-match", "\"old\"")]).await;
    assert_eq!(status, "200");
    gateway.stop().await;
}

#[tokio::test]
async fn allowed_origins_may_frame_the_page_for_that_and_no_other() {
    let gateway = gateway().await;
    let ancestors = |head: &str| {
        let policy = header(head, "content-security-policy");
        let (_, ancestors) = policy.split_once("frame-ancestors ").expect("it says so");
        ancestors.to_owned()
    };
    let (status, head) = ask(&gateway, "/embed?theme=dark&nonsense=1", &[]).await;
    assert_eq!(status, "200");
    assert_eq!(
        ancestors(&head),
        "'self' https://tutorials.example.com http://localhost:8000"
    );
    // A page that a browser has kept is framed by whoever may frame it now.
    let tag = header(&head, "etag");
    let (status, head) = ask(&gateway, "/embed", &[("if-none-match", &tag)]).await;
    assert_eq!(status, "304");
    assert!(ancestors(&head).ends_with("http://localhost:8000"));
    for path in ["/", "/docs", "/nothing", "/assets/nothing.js"] {
        let (_, head) = ask(&gateway, path, &[("accept", "text/html")]).await;
        assert_eq!(ancestors(&head), "'self'", "{path}");
    }
    gateway.stop().await;
}
