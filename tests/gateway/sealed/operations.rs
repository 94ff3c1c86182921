//! What a gateway does in a real sandbox beside its terminals: commands, files, ports, watches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use belljar::config::{Config, Template};
use belljar::sandbox::docker::DockerLauncher;
use belljar::sandbox::{Launcher, SandboxId, SandboxSpec};
use belljar_link::client::process::ProcessEvent;
use belljar_link::client::{Link, LinkError};
use belljar_link::message::files::{WatchEvent, WriteOptions};
use belljar_link::message::process::{ProcessExit, StartProcess};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::{Namespace, config, docker, place, say};
use crate::harness::PATIENCE;

/// A sandbox and its link; nothing else.
struct Sandbox {
    launcher: DockerLauncher,
    id: SandboxId,
    link: Link,
    namespace: Namespace,
}

impl Sandbox {
    async fn start(config: &Config, template: &Template) -> Self {
        let launcher = DockerLauncher::new(config);
        let hour = Duration::from_secs(3600);
        let spec = SandboxSpec {
            id: SandboxId::random(),
            template_name: "base".into(),
            template: template.clone(),
            env: BTreeMap::new(),
            session: "none".into(),
            owner: "none".into(),
            expires_at: SystemTime::now() + hour,
            deadline: hour,
            unlinked: hour,
        };
        let io = launcher.start(&spec).await.expect("it starts");
        let link = Link::establish(io, "test", None).await.expect("it answers");
        Self {
            launcher,
            id: spec.id,
            link,
            namespace: Namespace::of(config),
        }
    }

    async fn remove(self) {
        let begun = Instant::now();
        // An engine that is busy may not be done in time; it is asked again, as the reaper does.
        while let Err(error) = self.launcher.remove(&self.id).await {
            assert!(begun.elapsed() < 4 * PATIENCE, "{error}");
            sleep(Duration::from_secs(1)).await;
        }
        self.namespace.assert_empty().await;
    }

    async fn run(&self, start: StartProcess) -> Result<(Vec<u8>, ProcessExit), LinkError> {
        let (_, mut output, _) = self.link.exec(start).await?;
        let mut seen = Vec::new();
        loop {
            let next = timeout(PATIENCE, output.next()).await.expect("in time");
            match next.expect("a link")? {
                ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes) => seen.extend(bytes),
                ProcessEvent::Exit(exit) => return Ok((seen, exit)),
                gap @ ProcessEvent::Gap { .. } => panic!("{gap:?}"),
            }
        }
    }

    async fn shell(&self, script: &str) -> String {
        let (seen, exit) = self
            .run(command(&["/bin/sh", "-c", script]))
            .await
            .expect("it runs");
        assert_eq!(exit.code, Some(0), "{}", String::from_utf8_lossy(&seen));
        String::from_utf8(seen).expect("text")
    }
}

fn command(parts: &[&str]) -> StartProcess {
    StartProcess {
        command: parts.iter().map(|part| (*part).to_owned()).collect(),
        ..StartProcess::default()
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, LinkError>) -> String {
    match result {
        Err(LinkError::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_command_is_quick() {
    let Some(_place) = place().await else { return };
    let config = config();
    let sandbox = Sandbox::start(&config, &config.templates["base"]).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let container = sandbox.namespace.containers().await[0]["Id"]
        .as_str()
        .expect("an id")
        .to_owned();
    for cwd in [None, Some("/tmp".to_owned())] {
        for round in 0..25 {
            let begun = Instant::now();
            let order = StartProcess {
                cwd: cwd.clone(),
                ..command(&["true"])
            };
            let (_, exit) = sandbox.run(order).await.expect("it runs");
            assert_eq!(exit.code, Some(0));
            if round >= 5 {
                ours.push(begun.elapsed());
            }
        }
    }
    for _ in 0..7 {
        let begun = Instant::now();
        docker(&["exec", &container, "true"]).expect("it runs");
        theirs.push(begun.elapsed());
    }
    ours.sort();
    theirs.sort();
    say!(
        "exec of true: median {:.1?} (worst {:.1?}), docker exec {:.1?} (unoptimised gateway)",
        ours[ours.len() / 2],
        ours[ours.len() - 1],
        theirs[theirs.len() / 2]
    );
    sandbox.remove().await;
}

#[tokio::test]
async fn a_hundred_commands_at_once() {
    let Some(_place) = place().await else { return };
    let config = config();
    let large = Template {
        pids: 512,
        // A hundred starts take a second and a half of it.
        cpus: 2.0,
        ..config.templates["base"].clone()
    };
    let sandbox = Sandbox::start(&config, &large).await;
    let begun = Instant::now();
    let one = async |number: usize| {
        let script = format!("echo {number}; sleep 1; echo {number} >&2");
        let (seen, exit) = sandbox
            .run(command(&["/bin/sh", "-c", &script]))
            .await
            .expect("it runs");
        assert_eq!(
            String::from_utf8_lossy(&seen),
            format!("{number}\n{number}\n")
        );
        assert_eq!(exit.code, Some(0));
    };
    futures::future::join_all((0..100).map(one)).await;
    say!(
        "100 commands at once: {:.1?}, a second of it asleep",
        begun.elapsed()
    );
    sandbox.remove().await;

    // With the usual limit some are refused, clearly, and those that are not work.
    let sandbox = Sandbox::start(&config, &config.templates["base"]).await;
    let one = async |_| match sandbox.run(command(&["sleep", "15"])).await {
        Ok((_, exit)) => {
            assert_eq!(exit.code, Some(0));
            true
        }
        refused => {
            assert_eq!(refusal(refused), "too_many_processes");
            false
        }
    };
    let ends = futures::future::join_all((0..100).map(one)).await;
    let done = ends.iter().filter(|done| **done).count();
    assert!((32..100).contains(&done), "{done}");
    assert_eq!(sandbox.shell("echo alive").await, "alive\n");
    sandbox.remove().await;
}

#[tokio::test]
async fn files_watches_and_archives_inside() {
    const LENGTH: usize = 30 << 20;
    let Some(_place) = place().await else { return };
    let config = config();
    let sandbox = Sandbox::start(&config, &config.templates["base"]).await;
    let link = &sandbox.link;
    let content: Vec<u8> = (0..LENGTH)
        .map(|i| u8::try_from(i * 7 % 251).expect("small"))
        .collect();
    let begun = Instant::now();
    let mut writer = link
        .write_file("up", WriteOptions::default())
        .await
        .expect("it may");
    for piece in content.chunks(1 << 20) {
        writer
            .write(Bytes::copy_from_slice(piece))
            .await
            .expect("it is taken");
    }
    assert_eq!(
        writer.finish().await.expect("it is whole").size,
        LENGTH as u64
    );
    let up = begun.elapsed();
    let sum: String = Sha256::digest(&content)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert!(sandbox.shell("sha256sum ~/up").await.starts_with(&sum));
    let begun = Instant::now();
    let (_, mut reader) = link.read_file("up", 0, None).await.expect("it is there");
    let mut whole = Vec::new();
    while let Some(bytes) = reader.next().await {
        whole.extend(bytes.expect("it goes on"));
    }
    assert!(whole == content);
    say!(
        "30 MiB up in {up:.1?}, down in {:.1?} (unoptimised)",
        begun.elapsed()
    );

    // Until the disk is full.
    let stats = link.stats().await.expect("it looks");
    say!("{stats:?}");
    assert!(
        stats.home_used >= LENGTH as u64 && stats.home_size > stats.home_used,
        "{stats:?}"
    );
    let free = stats.home_size - stats.home_used;
    let mut writer = link
        .write_file("full", WriteOptions::default())
        .await
        .expect("it may");
    let mut written = 0_u64;
    let refused = loop {
        if let Err(refused) = writer.write(Bytes::from(vec![1; 1 << 20])).await {
            break refusal::<()>(Err(refused));
        }
        written += 1 << 20;
        assert!(written < free + (8 << 20), "there is no end to it");
    };
    assert_eq!(refused, "no_space");
    drop(writer);
    let begun = Instant::now();
    while sandbox.shell("ls -A ~ | grep -c belljar- || true").await != "0\n" {
        assert!(begun.elapsed() < PATIENCE);
    }
    let after = link.stats().await.expect("it looks");
    assert!(after.home_used <= stats.home_used + (1 << 20), "{after:?}");
    link.remove("up", false).await.expect("it may");
    assert_eq!(
        refusal(link.write_file("/etc/x", WriteOptions::default()).await),
        "permission_denied"
    );

    link.make_dir("w", false, None).await.expect("it may");
    let mut watch = link.watch("w", true).await.expect("gVisor watches");
    sandbox.shell("echo x > ~/w/file").await;
    let event = timeout(PATIENCE, watch.next()).await.expect("in time");
    let WatchEvent::Created { path, .. } = event.expect("a link").expect("an event") else {
        panic!("something else");
    };
    assert!(path.ends_with("/w/file"), "{path}");
    let mut archive = link.tar_down("w").await.expect("it is there");
    let mut writer = link.tar_up("copy").await.expect("it may");
    while let Some(bytes) = archive.next().await {
        writer
            .write(bytes.expect("it goes on"))
            .await
            .expect("it is taken");
    }
    assert_eq!(writer.finish().await.expect("it is one"), 1);
    assert_eq!(sandbox.shell("cat ~/copy/file").await, "x\n");
    sandbox.remove().await;
}

#[tokio::test]
async fn a_server_without_a_network_is_reached() {
    let Some(_place) = place().await else { return };
    let config = config();
    let sandbox = Sandbox::start(&config, &config.templates["base"]).await;
    let link = &sandbox.link;
    assert_eq!(refusal(link.connect_port(8000).await), "connection_refused");
    sandbox
        .shell("mkdir ~/site; echo hello from inside > ~/site/index.html")
        .await;
    let serve = StartProcess {
        cwd: Some("site".into()),
        ..command(&[
            "python3",
            "-m",
            "http.server",
            "8000",
            "--bind",
            "127.0.0.1",
        ])
    };
    let server = link.start_process(serve).await.expect("it starts");
    let begun = Instant::now();
    let mut stream = loop {
        match link.connect_port(8000).await {
            Ok(stream) => break stream,
            Err(_) => assert!(begun.elapsed() < PATIENCE),
        }
    };
    stream
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .await
        .expect("it is read");
    let mut answer = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.expect("in time").expect("the end");
    assert!(
        answer.contains("200 OK") && answer.ends_with("hello from inside\n"),
        "{answer}"
    );
    link.signal_process(server, 9).await.expect("it runs");
    sandbox.remove().await;
}
