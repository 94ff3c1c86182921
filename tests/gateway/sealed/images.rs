//! The agent in any image, as any user; and on its own, when its gateway is gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use belljar::config::{Config, Template};
use belljar::sandbox::docker::DockerLauncher;
use belljar::sandbox::{Launcher, SandboxId, SandboxSpec};
use belljar_link::client::Link;
use belljar_link::message::{OpenTerminal, Size};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{NO_SOCKETS, Namespace, Sealed, config, engine, place, say};
use crate::harness::{Client, PATIENCE, TestGateway, visits};

visits! {
    on engine, cluster: {
        a_shell_of_busybox_and_nothing_else,
        a_program_in_an_image_without_a_shell,
    }
}

/// Templates of images that promise nothing, each as a user with a name and as one without.
fn images(mut config: Config) -> Config {
    let base = config.templates["base"].clone();
    for (image, command) in [("busybox", "/bin/sh"), ("empty", "/app/hello")] {
        for (user, ids) in [("named", "1000:1000"), ("nameless", "4711:4712")] {
            let template = Template {
                image: format!("belljar-test-{image}:latest"),
                command: vec![command.into()],
                user: ids.into(),
                ..base.clone()
            };
            config.templates.insert(format!("{image}-{user}"), template);
        }
    }
    config
}

/// A visitor at busybox's prompt, `/ $ ` or `~ $ `.
async fn busybox(gateway: &TestGateway, user: &str) -> Client {
    gateway.visit_template(&format!("busybox-{user}")).await
}

pub async fn a_shell_of_busybox_and_nothing_else(config: Config) {
    let gateway = TestGateway::with(images(config)).await;
    for (user, ids) in [("named", "1000 1000"), ("nameless", "4711 4712")] {
        let mut client = busybox(&gateway, user).await;
        assert_eq!(
            client.run("echo $(id -u) $(id -g)").await,
            format!("{ids}\n[0]")
        );
        let home = client
            .run("cd && pwd && echo hi >file && cat file; echo $PATH")
            .await;
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        assert_eq!(home, format!("/home/sandbox\nhi\n{path}\n[0]"), "{user}");
        assert_eq!(client.run("stty size").await, "50 1000\n[0]");
        assert!(
            client
                .run("dmesg | head -n 1")
                .await
                .contains("Starting gVisor")
        );
        let seen = client.run("touch /x").await;
        assert!(seen.ends_with("[1]"), "{seen}");

        // Orphans of orphans are PID 1's to reap.
        let orphans = "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.1 &); done; sleep 1";
        client.run(orphans).await;
        let zombies = "grep -l 'State:.*Z' /proc/[0-9]*/status | wc -l";
        assert_eq!(client.run(zombies).await, "0\n[0]");
        // One's own child that one does not wait for is one's own zombie; the control.
        let one = "sh -c 'sleep 0.1 & exec sleep 1' & sleep 0.5; ";
        assert!(
            client
                .run(&format!("{one}{zombies}"))
                .await
                .contains("1\n[0]")
        );

        // A program in the foreground can be interrupted, and stopped, although nobody set it up.
        client.input("sleep 600\r").await;
        client.until("sleep 600\r\n").await;
        sleep(Duration::from_millis(300)).await;
        client.input("\x03").await;
        client.until("$ ").await;
        client.input("exit 7\r").await;
        let exit = client.told("exit").await;
        assert_eq!((&exit["code"], &exit["signal"]), (&json!(7), &Value::Null));
        client.closed().await;
    }
    let mut client = busybox(&gateway, "named").await;
    client.input("kill -USR2 $$\r").await;
    let exit = client.told("exit").await;
    assert_eq!(
        (&exit["code"], &exit["signal"]),
        (&Value::Null, &json!("SIGUSR2"))
    );
    client.closed().await;
    gateway.leave([]).await;
    gateway.stop().await;
}

#[tokio::test]
async fn what_the_engine_signals_the_program_gets() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(images(config())).await;
    let mut client = busybox(&gateway, "named").await;
    client.run("trap 'echo got it' USR1").await;
    let container = gateway.namespace.container_of(&client.session).await;
    let id = container["Id"].as_str().expect("an id");
    let kill = format!("/containers/{id}/kill?signal=USR1");
    assert_eq!(engine("POST", &kill, &Value::Null).await.0, 204);
    client.input("\r").await;
    client.until("got it").await;
    client.until("$ ").await;
    gateway.end([client]).await;
    gateway.stop().await;
}

pub async fn a_program_in_an_image_without_a_shell(config: Config) {
    let gateway = TestGateway::with(images(config)).await;
    for user in ["named", "nameless"] {
        let mut client = gateway.begin(&format!("empty-{user}")).await;
        client.until("hello from an empty image\r\n").await;
        client.input("echo\r").await;
        client.until("echo\r\necho\r\n").await;
        client.input("\x04").await;
        let exit = client.told("exit").await;
        assert_eq!(
            (&exit["code"], &exit["reason"]),
            (&json!(7), &json!("exited"))
        );
        assert_eq!(client.closed().await, 1000);
        let mut client = gateway.begin(&format!("empty-{user}")).await;
        client.until("hello from an empty image\r\n").await;
        client.input("\x1c").await;
        let exit = client.told("exit").await;
        assert_eq!(
            (&exit["code"], &exit["signal"]),
            (&Value::Null, &json!("SIGQUIT"))
        );
        client.closed().await;
    }
    gateway.leave([]).await;
    gateway.stop().await;
}

/// A sandbox that no gateway looks after.
async fn launch(
    launcher: &DockerLauncher,
    template: &Template,
    deadline: Duration,
    unlinked: Duration,
) -> (SandboxId, Link) {
    let spec = SandboxSpec {
        id: SandboxId::random(),
        template_name: "base".into(),
        template: template.clone(),
        env: BTreeMap::new(),
        session: "none".into(),
        owner: "none".into(),
        expires_at: SystemTime::now() + deadline,
        deadline,
        unlinked,
    };
    let io = launcher.start(&spec).await.expect("it starts");
    let link = Link::establish(io, "test", None).await.expect("it answers");
    (spec.id, link)
}

/// Wait until the one container has ended by itself; how.
async fn ended(namespace: &Namespace) -> Value {
    let begun = Instant::now();
    loop {
        let containers = namespace.containers().await;
        assert_eq!(containers.len(), 1);
        if containers[0]["State"] == "exited" {
            let id = containers[0]["Id"].as_str().expect("an id");
            let (_, seen) = engine("GET", &format!("/containers/{id}/json"), &Value::Null).await;
            return seen["State"].clone();
        }
        assert!(begun.elapsed() < PATIENCE, "{:?}", containers[0]["Status"]);
        sleep(Duration::from_millis(50)).await;
    }
}

/// A gateway that is not there any more cannot remove anything: the sandbox ends all the same.
#[tokio::test]
async fn a_sandbox_ends_by_itself() {
    let Some(_place) = place().await else { return };
    let (short, long) = (Duration::from_secs(3), Duration::from_secs(600));
    for runtime in ["runsc", NO_SOCKETS] {
        let mut config = config();
        config.docker.runtime = runtime.into();
        let namespace = Namespace::of(&config);
        let launcher = DockerLauncher::new(&config);
        let template = &config.templates["base"];
        let remove = async |id| launcher.remove(&id).await.expect("it is removed");
        let launch = |deadline, unlinked| launch(&launcher, template, deadline, unlinked);
        // The first finds out the way to reach it, which may take longer than the others live.
        let (id, _link) = launch(long, long).await;
        remove(id).await;

        // At its deadline, though it is linked and busy.
        let (id, link) = launch(short, long).await;
        let begun = Instant::now();
        let busy = OpenTerminal {
            command: ["/bin/bash", "-c", "trap '' TERM HUP; while :; do :; done"]
                .map(String::from)
                .into(),
            env: BTreeMap::new(),
            cwd: None,
            size: Size::default(),
        };
        link.open_terminal(busy).await.expect("it opens");
        let state = ended(&namespace).await;
        assert_eq!(
            (&state["ExitCode"], &state["OOMKilled"]),
            (&json!(0), &json!(false))
        );
        say!(
            "{runtime}: ended {:.1?} after it was started with a deadline of 3 s",
            begun.elapsed()
        );
        remove(id).await;

        // Without a gateway.
        let (id, link) = launch(long, short).await;
        sleep(short + Duration::from_secs(1)).await;
        assert_eq!(namespace.containers().await[0]["State"], "running");
        let begun = Instant::now();
        drop(link);
        let state = ended(&namespace).await;
        assert_eq!(state["ExitCode"], 0);
        say!(
            "{runtime}: ended {:.1?} after its gateway was lost, with 3 s to find another",
            begun.elapsed()
        );
        remove(id).await;
        namespace.assert_empty().await;
    }
}
