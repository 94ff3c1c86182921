//! However a session ends, its container is gone soon; and whatever a dead gateway left behind, the
//! next one removes.

use std::time::{Duration, Instant};

use belljar::config::Template;
use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::serve::Served;
use super::{Namespace, Sealed, config, engine, place, say};
use crate::harness::WIDE;

/// Ways to end.
#[derive(Debug, Clone, Copy)]
enum End {
    Exit,
    Signal,
    Close,
    Delete,
    Idle,
    MaxDuration,
    Detached,
    OutOfMemory,
    /// The engine kills it.
    Killed,
    /// The engine removes it.
    Removed,
}

const ENDS: [End; 10] = [
    End::Exit,
    End::Signal,
    End::Close,
    End::Delete,
    End::Idle,
    End::MaxDuration,
    End::Detached,
    End::OutOfMemory,
    End::Killed,
    End::Removed,
];

/// End a session in this way; returns how long after the end its container was gone.
async fn end(gateway: &Sealed, how: End) -> Duration {
    let template = match how {
        End::Idle => "idle",
        End::MaxDuration => "short",
        _ => "base",
    };
    let mut client = gateway.visit_template(template).await;
    let session = client.session.clone();
    let begun = Instant::now();
    let (reason, code) = match how {
        End::Exit => {
            client.input("exit 7\r").await;
            ("exited", 1000)
        }
        End::Signal => {
            client.input("kill -9 $$\r").await;
            ("exited", 1000)
        }
        End::Close => {
            client.send(json!({"type": "close"})).await;
            ("closed", 1000)
        }
        End::Delete => {
            let bearer = format!("Bearer {}", client.token);
            let headers = [("authorization", bearer.as_str())];
            let path = format!("/sessions/{session}");
            let (status, body) = gateway.http("DELETE", &path, &headers, "").await;
            assert!(status < 300, "{status} {body}");
            ("closed", 1000)
        }
        End::Idle => ("idle_timeout", 4008),
        End::MaxDuration => ("max_duration", 4009),
        End::Detached => {
            drop(client);
            // Its end is not told to anyone; it is due this long after the client was lost.
            let gone = gateway.namespace.gone(&session).await;
            return gone.saturating_sub(gateway.app.config.get().limits.detach_timeout);
        }
        End::OutOfMemory => {
            client.input("tail /dev/zero\r").await;
            ("out_of_memory", 1011)
        }
        End::Killed | End::Removed => {
            let container = gateway.namespace.container_of(&session).await;
            let id = container["Id"].as_str().expect("an id");
            let (method, path) = match how {
                End::Killed => ("POST", format!("/containers/{id}/kill")),
                _ => ("DELETE", format!("/containers/{id}?force=1")),
            };
            let (status, body) = engine(method, &path, &Value::Null).await;
            assert!(status < 300, "{status} {body}");
            ("sandbox_lost", 1011)
        }
    };
    let exit = client.told("exit").await;
    assert_eq!(exit["reason"], reason, "{how:?}: {exit}");
    match how {
        End::Exit => assert_eq!(exit["code"], 7),
        End::Signal => assert_eq!(exit["signal"], "SIGKILL"),
        _ => assert_eq!(
            (&exit["code"], &exit["signal"]),
            (&Value::Null, &Value::Null)
        ),
    }
    assert_eq!(client.closed().await, code, "{how:?}");
    let told = begun.elapsed();
    let gone = gateway.namespace.gone(&session).await;
    assert!(told < crate::harness::PATIENCE);
    gone
}

#[tokio::test]
async fn the_container_is_gone_soon_after_every_kind_of_end() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    config.limits.detach_timeout = Duration::from_secs(2);
    let base = config.templates["base"].clone();
    let with = |change: fn(&mut Template)| {
        let mut template = base.clone();
        change(&mut template);
        template
    };
    let idle = with(|t| t.idle_timeout = Some(Duration::from_secs(2)));
    let short = with(|t| t.max_duration = Some(Duration::from_secs(4)));
    config.templates.insert("idle".into(), idle);
    config.templates.insert("short".into(), short);
    let gateway = Sealed::with(config).await;

    let twice = ENDS.iter().chain(&ENDS);
    let ended: Vec<(End, Duration)> = stream::iter(twice)
        .map(|how| {
            let gateway = &gateway;
            async move { (*how, end(gateway, *how).await) }
        })
        .buffer_unordered(3)
        .collect()
        .await;
    let worst = ended.iter().max_by_key(|(_, gone)| *gone).expect("some");
    say!(
        "containers gone after {} ends of {} kinds: worst {:.0?} ({:?})",
        ended.len(),
        ENDS.len(),
        worst.1,
        worst.0
    );
    gateway.assert_empty().await;
    gateway.namespace.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_sandbox_that_cannot_run_its_shell_is_removed_and_the_visitor_told() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    let mut broken = config.templates["base"].clone();
    broken.command = vec!["/nonexistent/shell".into()];
    config.templates.insert("broken".into(), broken);
    let gateway = Sealed::with(config).await;
    let mut client = gateway.connect("/ws?template=broken").await;
    assert_eq!(client.told("error").await["code"], "start_failed");
    assert_eq!(client.closed().await, 1011);
    gateway.assert_empty().await;
    gateway.namespace.assert_empty().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_that_goes_away_takes_its_sandboxes_with_it() {
    let Some(_place) = place().await else { return };
    let gateway = Served::start(&[]).await;
    let (mut one, mut other) = tokio::join!(gateway.visit(), gateway.visit());
    // One that is only just being started.
    let begun = Instant::now();
    let (address, namespace) = (gateway.address, gateway.namespace.name.clone());
    let protocol = ("sec-websocket-protocol", "belljar.v1");
    let starting = crate::harness::connect_to(address, "/ws", &[protocol]).await;
    let mut starting = starting.expect("the upgrade is accepted");
    let ((), (), (), _) = tokio::join!(
        gateway.stop(),
        async {
            assert_eq!(one.told("exit").await["reason"], "shutdown");
            assert_eq!(one.closed().await, 1001);
        },
        async {
            assert_eq!(other.told("exit").await["reason"], "shutdown");
            assert_eq!(other.closed().await, 1001);
        },
        starting.closed(),
    );
    say!(
        "{namespace}: gone with 3 sessions after {:.1?}",
        begun.elapsed()
    );
}

/// Make a container by hand; returns its id.
async fn container(namespace: &str, sandbox: &str, started: bool) -> String {
    let body = json!({
        "Image": "belljar-test-busybox",
        "Cmd": ["/bin/sleep", "600"],
        "NetworkDisabled": true,
        "Labels": {"belljar.namespace": namespace, "belljar.sandbox": sandbox},
        "HostConfig": {"Runtime": "runsc", "NetworkMode": "none", "LogConfig": {"Type": "none"}},
    });
    let path = format!("/containers/create?name={namespace}-{sandbox}");
    let (status, made) = engine("POST", &path, &body).await;
    assert_eq!(status, 201, "{made}");
    let id = made["Id"].as_str().expect("an id").to_owned();
    if started {
        let (status, said) = engine("POST", &format!("/containers/{id}/start"), &Value::Null).await;
        assert_eq!(status, 204, "{said}");
    }
    id
}

#[tokio::test]
async fn a_new_gateway_removes_what_a_dead_one_left_behind_and_nothing_else() {
    let Some(_place) = place().await else { return };
    // A gateway that is killed with a session under way, of which nobody has kept a note…
    let dead = Served::start(&[]).await;
    let client = dead.visit().await;
    let session = client.session.clone();
    let namespace = dead.kill().await;
    assert_eq!(namespace.containers().await.len(), 1, "it is left behind");
    let kept = namespace.socket_directories();
    let mut notes = kept.iter().filter(|path| path.extension().is_some());
    std::fs::remove_file(notes.next().expect("a note")).expect("it can be removed");
    // …a sandbox that was made and not started, one that runs, a socket without a container, and
    // something with a label that no gateway wrote…
    container(&namespace.name, &"a".repeat(32), false).await;
    container(&namespace.name, &"b".repeat(32), true).await;
    std::fs::create_dir_all(namespace.sockets.join("c".repeat(32))).expect("it can be made");
    let strange = container(&namespace.name, "not-an-id", false).await;
    // …and a neighbour's.
    let neighbour = Namespace::of(&config());
    container(&neighbour.name, &"d".repeat(32), false).await;

    let mut config = config();
    config.docker.namespace = namespace.name.clone();
    let begun = Instant::now();
    let gateway = Sealed::with(config).await;
    namespace.gone(&session).await;
    while namespace.containers().await.len() > 1 || !namespace.socket_directories().is_empty() {
        assert!(begun.elapsed() < crate::harness::PATIENCE);
        sleep(Duration::from_millis(50)).await;
    }
    say!(
        "three orphans and a socket gone {:.1?} after the new gateway began",
        begun.elapsed()
    );
    assert_eq!(namespace.containers().await[0]["Id"], strange.as_str());
    assert_eq!(neighbour.containers().await.len(), 1);
    // A visitor who was cut off learns that the session is not known any more.
    let mut late = gateway.resume(&session, &client.token, None).await;
    assert_eq!(late.closed().await, 4004);
    let (status, _) = engine(
        "DELETE",
        &format!("/containers/{strange}?force=1"),
        &Value::Null,
    )
    .await;
    assert_eq!(status, 204);
    gateway.stop().await;
}

/// DESIGN §6, as the engine understood it.
#[tokio::test]
async fn the_engine_was_told_everything_that_seals() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let client = gateway.visit().await;
    let seen = gateway.namespace.container_of(&client.session).await;
    let host = &seen["HostConfig"];
    let expected = json!({
        "Runtime": "runsc",
        "NetworkMode": "none",
        "ReadonlyRootfs": true,
        "CapDrop": ["ALL"],
        "CapAdd": null,
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": false,
        "Memory": 128 << 20,
        "MemorySwap": 128 << 20,
        "NanoCpus": 500_000_000,
        "PidsLimit": 512,
        "ShmSize": 1 << 20,
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "", "MaximumRetryCount": 0},
        "PidMode": "",
        "UsernsMode": "",
        "Devices": null,
        "PortBindings": null,
        "VolumesFrom": null,
        "Links": null,
        "Tmpfs": {
            "/home/sandbox": "rw,exec,nosuid,nodev,size=52428800,uid=1000,gid=1000,mode=0755",
            "/tmp": "rw,noexec,nosuid,nodev,size=10485760,mode=1777",
        },
    });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&host[key], value, "HostConfig.{key}");
    }
    let mut ulimits: Vec<(String, i64, i64)> = host["Ulimits"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|limit| {
            let number = |key: &str| limit[key].as_i64().expect("a number");
            let name = limit["Name"].as_str().expect("a name").to_owned();
            (name, number("Soft"), number("Hard"))
        })
        .collect();
    ulimits.sort();
    let limit = |name: &str, n: i64| (name.to_owned(), n, n);
    let expected = [
        limit("core", 0),
        limit("fsize", 1 << 30),
        limit("nofile", 1024),
        // 64 for the visitor, 72 for the agent.
        limit("nproc", 136),
    ];
    assert_eq!(ulimits, expected);

    // Two things of the host are mounted, both read-only: the agent, and a directory that holds
    // nothing but this sandbox's socket.
    let mut binds: Vec<&str> = host["Binds"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|bind| bind.as_str().expect("text"))
        .collect();
    binds.sort_unstable_by_key(|bind| bind.len());
    let labels = &seen["Config"]["Labels"];
    let sandbox = labels["belljar.sandbox"].as_str().expect("an id");
    let sockets = gateway.namespace.sockets.join(sandbox);
    let agent = format!("{}:/.belljar/agent:ro", crate::harness::agent().display());
    let link = format!("{}:/.belljar/link:ro", sockets.display());
    assert_eq!(binds, [agent, link]);

    assert_eq!(seen["Config"]["User"], "1000:1000");
    assert_eq!(seen["Config"]["NetworkDisabled"], true);
    assert_eq!(seen["Config"]["Tty"], false);
    assert_eq!(seen["Config"]["OpenStdin"], false);
    assert_eq!(labels["belljar.namespace"], gateway.namespace.name.as_str());
    assert_eq!(labels["belljar.session"], client.session.as_str());
    assert_eq!(labels["belljar.template"], "base");
    assert_eq!(labels["belljar.owner"], "127.0.0.1");
    let expires = labels["belljar.expires"].as_str().expect("a time");
    let expires = humantime::parse_rfc3339(expires).expect("a time");
    let left = expires
        .duration_since(std::time::SystemTime::now())
        .expect("in the future");
    let most = gateway.app.config.get().limits.max_duration;
    assert!(
        left <= most && left + 2 * crate::harness::PATIENCE > most,
        "{left:?}"
    );
    // The token is nowhere: who may ask the engine may not enter the session by that.
    assert!(!seen.to_string().contains(&client.token));
    gateway.end([client]).await;
    gateway.stop().await;
}

/// A place is free once the engine has removed what was there: there is never more than the one.
#[tokio::test]
async fn those_in_line_get_the_one_place_one_after_the_other() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    config.limits.max_sandboxes = 1;
    let gateway = Sealed::with(config).await;
    let mut inside = gateway.visit().await;
    for _ in 0..2 {
        let mut next = gateway.connect(&format!("/ws?{WIDE}")).await;
        assert_eq!(next.told("queued").await["position"], 1);
        next.input("echo wai''ted\r").await;
        inside.send(json!({"type": "close"})).await;
        assert_eq!(inside.closed().await, 1000);
        next.ready().await;
        assert_eq!(gateway.namespace.containers().await.len(), 1);
        next.until("waited\r\n").await;
        next.until("$ ").await;
        inside = next;
    }
    gateway.end([inside]).await;
    gateway.stop().await;
}
