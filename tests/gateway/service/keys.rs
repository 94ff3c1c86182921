//! `belljar key`.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use tokio::time::timeout;

use super::{BELLJAR, Place, Service};
use crate::harness::{PATIENCE, exchange};

async fn key(place: &Place, arguments: &[&str]) -> Output {
    let arguments: Vec<&str> = ["key"].iter().chain(arguments).copied().collect();
    let mut command = place.command(BELLJAR, &arguments);
    let output = timeout(PATIENCE, command.output()).await;
    output.expect("it ends in time").expect("it runs")
}

async fn status(service: &Service, key: &str) -> String {
    let headers = [("x-api-key", key)];
    let (head, _) = exchange(service.address, "GET", "/sandboxes", &headers, "").await;
    head.split(' ').nth(1).expect("a status").to_owned()
}

#[tokio::test]
async fn a_key_is_made_listed_used_and_revoked() {
    let place = Place::new("");
    let service = Service::start(&place).await;
    assert_eq!(status(&service, "").await, "200", "nobody needs one yet");
    let made = key(
        &place,
        &["new", "--name", "ci runner", "--expires", "30days"],
    )
    .await;
    assert!(made.status.success(), "{made:?}");
    let text = String::from_utf8(made.stdout)
        .expect("text")
        .trim()
        .to_owned();
    let parts: Vec<&str> = text.split('_').collect();
    let [prefix, id, secret] = parts[..] else {
        panic!("{text}")
    };
    assert_eq!((prefix, id.len(), secret.len()), ("blj", 12, 64));
    let file = place.file("keys.toml");
    assert!(!super::read(&file).contains(secret));
    let mode = std::fs::metadata(&file).expect("it is there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);

    assert_eq!(status(&service, "").await, "200", "until it is reloaded");
    let reloaded = place.belljar("reload").await;
    let said = String::from_utf8_lossy(&reloaded.stdout).into_owned();
    assert!(said.contains("applied          the API keys\n"), "{said}");
    assert_eq!(status(&service, "").await, "403");
    assert_eq!(status(&service, &text).await, "200");

    let listed = key(&place, &["list"]).await;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        listed.starts_with(id) && listed.contains("ci runner"),
        "{listed}"
    );
    assert!(
        listed.contains("expires ") && !listed.contains(secret),
        "{listed}"
    );

    let other = key(&place, &["new", "--name", "other", "--scope", "admin"]).await;
    assert!(other.status.success());
    let revoked = key(&place, &["revoke", id]).await;
    assert!(revoked.status.success(), "{revoked:?}");
    assert!(!key(&place, &["revoke", id]).await.status.success(), "once");
    assert!(!key(&place, &["revoke", "nonsense"]).await.status.success());
    place.belljar("reload").await;
    assert_eq!(status(&service, &text).await, "403");
    service.stop().await;
}

#[tokio::test]
async fn what_makes_no_key_says_so() {
    let place = Place::new("");
    for (arguments, said) in [
        (vec!["new", "--name", " "], "--name"),
        (
            vec!["new", "--name", "x", "--scope", "all"],
            "sandboxes, admin",
        ),
        (vec!["new", "--name", "x", "--expires", "soon"], "--expires"),
        (vec!["new"], "--name"),
    ] {
        let output = key(&place, &arguments).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && told.contains(said),
            "{arguments:?}: {told}"
        );
    }
    std::fs::write(place.file("keys.toml"), "keys = 1").expect("a file");
    let output = key(&place, &["new", "--name", "x"]).await;
    assert!(
        !output.status.success(),
        "a file that is not ours stays as it is"
    );
    assert_eq!(super::read(&place.file("keys.toml")), "keys = 1");
    let serve = place.belljar("serve").await;
    let told = String::from_utf8_lossy(&serve.stderr).into_owned();
    assert!(
        !serve.status.success() && told.contains("keys.toml: not a file of keys"),
        "{told}"
    );
}
