//! Reload: SIGHUP and `belljar reload`.

use rustix::process::Signal;

use super::{Place, Service, read};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_reload_applies_to_the_next_session_and_ends_none() {
    let place = Place::new("[limits]\nmax_sandboxes = 1\nqueue_length = 0\n");
    let service = Service::start(&place).await;
    let mut first = service.visit().await;
    let mut refused = service.connect("/ws", &[]).await;
    assert_eq!(refused.closed().await, 4030, "there is one place");

    place.configure(
        "default_template = \"other\"\n[limits]\nmax_sandboxes = 2\nqueue_length = 0\nmax_connections = 99\n\
         [log]\nfilter = \"debug\"\nformat = \"json\"\n[templates.other]\n\
         command = [\"/bin/bash\", \"--noprofile\", \"--norc\"]\n\
         env = { PS1 = \"$ \", LESSON = \"three\" }\n",
    );
    let output = place.belljar("reload").await;
    assert_eq!(text(&output.stderr), "");
    assert!(output.status.success());
    let said = text(&output.stdout);
    for line in [
        "applied          default_template\n",
        "applied          limits.max_sandboxes\n",
        "applied          log.filter\n",
        "applied          templates.other.env.LESSON\n",
        "needs a restart  limits.max_connections\n",
        "needs a restart  log.format\n",
    ] {
        assert!(said.contains(line), "{line} is missing from:\n{said}");
    }
    assert!(!said.contains("three"), "values are nobody's business");

    let mut second = service.visit().await;
    assert_eq!(second.run("echo $LESSON").await, "three\n[0]");
    assert_eq!(first.run("echo \"<$LESSON>\"").await, "<>\n[0]");

    let output = place.belljar("reload").await;
    assert_eq!(
        text(&output.stdout),
        "needs a restart  limits.max_connections\nneeds a restart  log.format\n"
    );
    drop((first, second));
    service.stop().await;
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_every_error_is_told() {
    let place = Place::new("[limits]\nmax_sandboxes = 1\nqueue_length = 0\n");
    let mut service = Service::start(&place).await;
    place.configure(
        "nope = 1\n[limits]\nmax_sandboxes = 5\nidle_timeout = \"0s\"\n[log]\nfilter = \"a=b=c\"\n",
    );

    // By the signal: the gateway's own words.
    service.signal(Signal::HUP);
    let mut lines = Vec::new();
    for _ in 0..3 {
        lines.push(service.logs("nothing has changed").await);
    }
    let lines = lines.join("\n");
    let file = place.file("belljar.toml").display().to_string();
    for key in ["nope", "limits.idle_timeout", "log.filter"] {
        assert!(
            lines.contains(&format!("{key} ({file})")),
            "{key} is missing from:\n{lines}"
        );
    }

    // By the command: the same.
    let output = place.belljar("reload").await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    for key in ["nope", "limits.idle_timeout", "log.filter"] {
        assert!(
            said.contains(&format!("\n  {key} ({file}): ")),
            "{key} is missing from:\n{said}"
        );
    }

    let _visitor = service.visit().await;
    let mut refused = service.connect("/ws", &[]).await;
    assert_eq!(
        refused.closed().await,
        4030,
        "there is one place, as before"
    );
    service.stop().await;
}

#[tokio::test]
async fn what_only_the_gateway_finds_wrong_is_told_by_the_command_too() {
    let place = Place::new("");
    let mut command = place.command(super::BELLJAR, &["serve"]);
    let service = Service::spawn(command.env("BELLJAR_LIMITS__IDLE_TIMEOUT", "1m")).await;
    // Good for who reads it without that variable, bad with it.
    place.configure("[templates.other]\nidle_timeout = \"4m\"\n");
    let output = place.belljar("reload").await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("nothing has changed"), "{said}");
    assert!(
        said.contains("\n  templates.other.idle_timeout ("),
        "{said}"
    );
    service.stop().await;
}

#[tokio::test]
async fn only_a_gateway_is_told() {
    let place = Place::new("");
    let output = place.belljar("reload").await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("no gateway serves here"), "{said}");

    // A number that is somebody else's by now: this test's own.
    let pid_file = place.file("belljar.pid");
    std::fs::write(&pid_file, format!("{}\n", std::process::id())).expect("a file");
    let output = place.belljar("reload").await;
    assert_eq!(output.status.code(), Some(1));

    let service = Service::start(&place).await;
    let pid = service.pid().as_raw_nonzero().to_string();
    assert_eq!(read(&pid_file).trim(), pid);
    assert!(place.belljar("reload").await.status.success());
    service.stop().await;
    assert!(!pid_file.exists(), "it is gone with its gateway");
}
