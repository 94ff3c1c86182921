//! What programs do in a real sandbox over HTTP: commands, files, code; and that it outlives the gateway.

use std::time::Instant;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::serve::Served;
use super::{Sealed, config, place, say};
use crate::api::hostile::watched;
use crate::api::http::{self, Answer};
use crate::harness::PATIENCE;
use crate::inside::until;

/// A sandbox of this order; the path of what is below it.
pub async fn made(address: std::net::SocketAddr, order: Value) -> String {
    let made = http::post(address, "/api/v1/sandboxes", &order).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    format!("/api/v1/sandboxes/{}", made["id"].as_str().expect("an id"))
}

/// Run this and wait; what it came to.
pub async fn ran(address: std::net::SocketAddr, below: &str, command: Value) -> Value {
    let ran = http::post(address, &format!("{below}/commands"), &command).await;
    assert_eq!(ran.status, 200, "{command}: {}", ran.text());
    ran.json()
}

/// What a shell line prints; it must succeed.
pub async fn shell(address: std::net::SocketAddr, below: &str, line: &str) -> String {
    let ran = ran(address, below, json!({"command": line})).await;
    assert_eq!(ran["exitCode"], 0, "{line}: {ran}");
    ran["stdout"].as_str().expect("text").to_owned()
}

/// Bytes that no compression shortens and everyone can make again.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, piece: &mut [u8]) {
        for eight in piece.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            eight.copy_from_slice(&self.0.to_le_bytes()[..eight.len()]);
        }
    }
}

#[tokio::test]
async fn a_hundred_megabytes_go_up_and_down_exactly_in_little_memory() {
    const LENGTH: usize = 100_000_000;
    const PIECE: usize = 100_000;
    const BOUND: u64 = 8 << 20;
    let Some(_place) = place().await else { return };
    let gateway = Served::start(&[
        ("BELLJAR_TEMPLATES__BASE__HOME_SIZE", "200MiB"),
        ("BELLJAR_TEMPLATES__BASE__MEMORY", "512MiB"),
        ("BELLJAR_TEMPLATES__BASE__CPUS", "2"),
    ])
    .await;
    let address = gateway.address;
    let below = made(address, json!({"timeout": 600})).await;
    let path = format!("{below}/files?path=large.bin");
    // What is set up once is not a file's.
    assert_eq!(
        http::send(address, "PUT", &path, &[], b"small")
            .await
            .status,
        204
    );
    assert_eq!(http::get(address, &path).await.body, b"small");
    gateway.forget_peak();
    let before = gateway.memory();

    let begun = Instant::now();
    let length = LENGTH.to_string();
    let mut stream = http::begin(address, "PUT", &path, &[("content-length", &length)]).await;
    let (mut noise, mut hash, mut piece) = (Noise(7), Sha256::new(), vec![0; PIECE]);
    for _ in 0..LENGTH / PIECE {
        noise.fill(&mut piece);
        hash.update(&piece);
        let written = timeout(PATIENCE, stream.write_all(&piece)).await;
        written.expect("it reads in time").expect("it reads");
    }
    assert_eq!(http::answer(stream).await.status, 204);
    let up = begun.elapsed();
    let expected: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        shell(address, &below, "sha256sum <large.bin").await,
        format!("{expected}  -\n")
    );

    let begun = Instant::now();
    let mut stream = http::begin(address, "GET", &path, &[]).await;
    let (status, head) = http::head(&mut stream).await;
    assert_eq!(status, 200, "{head}");
    assert!(
        head.contains(&format!("content-length: {LENGTH}\r\n")),
        "{head}"
    );
    let (mut noise, mut seen) = (Noise(7), vec![0; PIECE]);
    for at in 0..LENGTH / PIECE {
        let read = timeout(PATIENCE, stream.read_exact(&mut seen)).await;
        read.expect("it comes in time").expect("it comes");
        noise.fill(&mut piece);
        assert!(seen == piece, "piece {at} differs");
    }
    assert_eq!(
        stream.read(&mut seen).await.expect("it ends"),
        0,
        "and no more"
    );
    let down = begun.elapsed();

    let more = gateway.peak().saturating_sub(before);
    let rate = |took: std::time::Duration| LENGTH as f64 / 1e6 / took.as_secs_f64();
    say!(
        "100 MB by the API: up {:.0} MB/s, down {:.0} MB/s, gateway + {} KiB (unoptimised gateway)",
        rate(up),
        rate(down),
        more >> 10
    );
    assert!(more < BOUND, "the gateway took {more} bytes more");
    let removed = http::send(address, "DELETE", &below, &[], b"").await;
    assert_eq!(removed.status, 204);
    gateway.stop().await;
}

#[tokio::test]
async fn a_hundred_commands_at_once_over_http() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    let base = config.templates.get_mut("base").expect("a base");
    base.pids = 512;
    base.cpus = 2.0;
    let gateway = Sealed::with(config).await;
    let address = gateway.address;
    let below = made(address, json!({})).await;
    let begun = Instant::now();
    let one = async |number: usize| {
        let line = format!(
            "echo {number}; sleep 1; echo {number} >&2; exit {}",
            number % 7
        );
        let ran = ran(address, &below, json!({"command": line})).await;
        let said = json!(format!("{number}\n"));
        assert_eq!((&ran["stdout"], &ran["stderr"]), (&said, &said), "{ran}");
        assert_eq!(ran["exitCode"], number % 7, "{ran}");
    };
    futures::future::join_all((0..100).map(one)).await;
    say!(
        "100 commands at once over HTTP: {:.1?}, a second of it asleep",
        begun.elapsed()
    );
    let ended = http::send(address, "DELETE", &below, &[], b"").await;
    assert_eq!(ended.status, 204);
    gateway.assert_empty().await;
    gateway.stop().await;
}

/// It fails in the child, after the fork: who started it waits for it, and so would the one who reaps
/// what ends.
#[tokio::test]
async fn a_terminal_that_cannot_begin_costs_nothing_while_others_end() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let address = gateway.address;
    let below = made(address, json!({})).await;
    shell(address, &below, "mkdir closed && chmod 0 closed").await;
    let busy = json!({"command": "while :; do (true &); done", "mode": "background"});
    let busy = http::post(address, &format!("{below}/commands"), &busy).await;
    assert_eq!(busy.status, 202, "{}", busy.text());
    let terminal = json!({"cols": 80, "rows": 24, "cwd": "/home/sandbox/closed"});
    for round in 0..200 {
        let refused = http::post(address, &format!("{below}/pty"), &terminal).await;
        let text = refused.text();
        assert_eq!(
            refused.refusal(),
            (400, "spawn_failed".into()),
            "{round}: {text}"
        );
    }
    let end = format!("{below}/processes/{}", busy.json()["process"]);
    assert_eq!(
        http::send(address, "DELETE", &end, &[], b"").await.status,
        204
    );
    assert_eq!(shell(address, &below, "echo alive").await, "alive\n");
    gateway.stop().await;
}

#[tokio::test]
async fn a_process_in_the_background_is_fed_followed_and_signalled() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let address = gateway.address;
    let below = made(address, json!({})).await;
    let line = "trap 'echo caught; exit 5' USR1; while read line; do echo \"got $line\"; done; \
                echo end; while :; do sleep 0.05; done";
    let order = json!({"command": line, "mode": "background", "stdin": true});
    let started = http::post(address, &format!("{below}/commands"), &order).await;
    assert_eq!(started.status, 202, "{}", started.text());
    let process = format!("{below}/processes/{}", started.json()["process"]);
    let output = async || {
        http::get(address, &format!("{process}/output"))
            .await
            .json()
    };
    for (text, query) in [("one\ntw", ""), ("o\n", "?eof=true")] {
        let path = format!("{process}/stdin{query}");
        let typed = http::send(address, "POST", &path, &[], text.as_bytes()).await;
        assert_eq!(typed.status, 204, "{}", typed.text());
    }
    until("it has read everything", async || {
        output().await["stdout"]
            .as_str()
            .is_some_and(|said| said.ends_with("end\n"))
    })
    .await;
    let seen = output().await;
    assert_eq!(seen["stdout"], "got one\ngot two\nend\n");
    assert_eq!(seen["running"], true);
    // One who follows from here on sees the end, and nothing twice.
    let path = format!("{process}/output?follow=true&from={}", seen["offset"]);
    let following = http::begin(address, "GET", &path, &[]).await;
    let signal = http::post(
        address,
        &format!("{process}/signal"),
        &json!({"signal": "USR1"}),
    )
    .await;
    assert_eq!(signal.status, 204, "{}", signal.text());
    let followed = http::answer(following).await.text();
    assert!(
        followed.contains("caught") && !followed.contains("got one"),
        "{followed}"
    );
    assert!(
        followed.contains("event: exit") && followed.contains("\"exitCode\":5"),
        "{followed}"
    );
    let shown = http::get(address, &process).await.json();
    assert_eq!(
        (&shown["running"], &shown["exitCode"]),
        (&json!(false), &json!(5)),
        "{shown}"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn code_runs_in_the_languages_of_the_image() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    let base = config.templates.get_mut("base").expect("a base");
    base.memory = bytesize::ByteSize::mib(256);
    let gateway = Sealed::with(config).await;
    let address = gateway.address;
    let below = made(address, json!({})).await;
    let run = async |body: Value| http::post(address, &format!("{below}/code"), &body).await;
    for (language, code) in [
        ("python", "import sys\nprint(6 * 7)\nsys.exit(3)"),
        ("bash", "a=(40 2); echo $((a[0] + a[1])); exit 3"),
        ("sh", "echo 42; exit 3"),
    ] {
        let ran = run(json!({"language": language, "code": code}))
            .await
            .json();
        assert_eq!(
            (&ran["stdout"], &ran["exitCode"]),
            (&json!("42\n"), &json!(3)),
            "{ran}"
        );
    }
    // Whether there is a node is the image's business; what is said without one is ours.
    let node = run(json!({"language": "node", "code": "console.log(6 * 7)"})).await;
    let has = ran(address, &below, json!({"command": "command -v node"})).await["exitCode"] == 0;
    if has {
        assert_eq!(node.json()["stdout"], "42\n", "{}", node.text());
    } else {
        say!("the image has no node");
        assert_eq!(
            node.refusal(),
            (400, "spawn_failed".into()),
            "{}",
            node.text()
        );
    }
    let unknown = run(json!({"language": "cobol", "code": "x"})).await;
    assert_eq!(
        (unknown.status, unknown.json()["field"].clone()),
        (400, json!("language"))
    );
    gateway.stop().await;
}

/// Told to go, or killed: what was written is there, and commands run.
#[tokio::test]
async fn commands_and_files_outlive_the_gateway() {
    let Some(_place) = place().await else { return };
    let mut gateway = Served::start(&[]).await;
    let below = made(gateway.address, json!({"timeout": 600})).await;
    let path = format!("{below}/files?path=kept");
    let put = http::send(gateway.address, "PUT", &path, &[], b"before").await;
    assert_eq!(put.status, 204, "{}", put.text());
    let background = json!({"command": "echo on; exec sleep 600", "mode": "background"});
    let started = http::post(gateway.address, &format!("{below}/commands"), &background).await;
    let process = format!("{below}/processes/{}", started.json()["process"]);
    for hand_over in [true, false] {
        let namespace = if hand_over {
            gateway.hand_over().await
        } else {
            gateway.kill().await
        };
        gateway = Served::start_in(namespace, &[]).await;
        let address = gateway.address;
        assert_eq!(http::get(address, &path).await.body, b"before");
        assert_eq!(shell(address, &below, "cat kept").await, "before");
        let shown = http::get(address, &process).await.json();
        assert_eq!(shown["running"], true, "{shown}");
        let output = http::get(address, &format!("{process}/output"))
            .await
            .json();
        assert_eq!(output["stdout"], "on\n", "{output}");
    }
    let ended = http::send(gateway.address, "DELETE", &below, &[], b"").await;
    assert_eq!(ended.status, 204);
    gateway.stop().await;
}

#[tokio::test]
async fn two_hundred_watches_at_once() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    config.limits.connections_per_client = 1000;
    let gateway = Sealed::with(config).await;
    let address = gateway.address;
    let below = made(address, json!({})).await;
    for name in ["one", "two"] {
        let make = async || {
            shell(address, &below, &format!("touch {name}")).await;
        };
        let told = watched(address, &below, "/home/sandbox", name, make).await;
        assert_eq!(told, 200);
    }
    gateway.stop().await;
}

/// One below the home, or in `/tmp`; a sandbox that was started ahead has no shell of its own then.
#[tokio::test]
async fn a_working_directory_is_made_and_an_idle_shell_closed() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    config.templates.get_mut("base").expect("a base").pool = 1;
    let gateway = Sealed::with(config).await;
    let address = gateway.address;
    for (cwd, whole) in [
        ("a/b", "/home/sandbox/a/b\n"),
        ("/tmp/work", "/tmp/work\n"),
        ("", "/home/sandbox\n"),
    ] {
        until("one is started ahead", async || {
            gateway.app.sandboxes.in_pools() == 1
        })
        .await;
        let below = made(address, json!({"cwd": cwd})).await;
        assert_eq!(shell(address, &below, "touch file && pwd").await, whole);
        until("the idle shell is gone", async || {
            let names = shell(address, &below, "cat /proc/[0-9]*/comm").await;
            !names.lines().any(|name| name == "bash")
        })
        .await;
        assert_eq!(
            http::send(address, "DELETE", &below, &[], b"").await.status,
            204
        );
    }
    let (_, metrics) = gateway.http("GET", "/metrics", &[], "").await;
    assert!(
        metrics.contains("belljar_fleet_starts_total{start=\"warm\"} 3"),
        "{metrics}"
    );
    // Anew, it is made anew.
    let below = made(address, json!({"cwd": "a/b"})).await;
    let restart = json!({"action": "restart"});
    let restarted = http::post(address, &format!("{below}/actions"), &restart).await;
    assert_eq!(restarted.status, 200, "{}", restarted.text());
    assert_eq!(shell(address, &below, "pwd").await, "/home/sandbox/a/b\n");
    gateway.stop().await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one sandbox for a list of attempts")]
async fn paths_lead_nowhere_that_the_sandbox_may_not() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let address = gateway.address;
    let below = made(address, json!({})).await;
    let prepare = "mkdir d && ln -s /etc/passwd passwd && ln -s /etc etc && ln -s loop loop && \
                   mkfifo fifo && ln -s fifo pipe && echo x >file && ln -s /proc/self/mem mem";
    shell(address, &below, prepare).await;
    let seen = async || {
        shell(
            address,
            &below,
            "ls -lA --time-style=+ . d /tmp; md5sum /etc/passwd",
        )
        .await
    };
    let before = seen().await;
    let name = "n".repeat(300);
    let long = "d/".repeat(2500);
    let get = async |path: &str| http::get(address, &format!("{below}/files?path={path}")).await;
    let put = async |path: &str| {
        let path = format!("{below}/files?path={path}");
        http::send(address, "PUT", &path, &[], b"hostile").await
    };
    let refused = |what: &str, answer: &Answer, expected: &[&str]| {
        let (status, code) = answer.refusal();
        assert!(
            (400..500).contains(&status),
            "{what}: {status} {}",
            answer.text()
        );
        assert!(
            expected.contains(&code.as_str()),
            "{what}: {status} {}",
            answer.text()
        );
    };
    let denied = &["permission_denied", "read_only"][..];
    let bad = &["bad_path"][..];
    let invalid = &["invalid_request"][..];
    for (path, write, read) in [
        ("../../etc/passwd", denied, &[][..]),
        ("/home/sandbox/../../etc/new", denied, &["not_found"]),
        ("passwd", denied, &[]),
        ("etc/new", denied, &["not_found"]),
        ("/new", denied, &["not_found"]),
        (
            "/proc/self/mem",
            &["permission_denied", "io", "not_a_file", "read_only"],
            &["io", "permission_denied"],
        ),
        (
            "mem",
            &["permission_denied", "io", "not_a_file", "read_only"],
            &["io", "permission_denied"],
        ),
        (
            "/proc/1/root/etc/new",
            &["permission_denied", "read_only", "not_found"],
            &["not_found", "permission_denied"],
        ),
        ("/dev/zero", &["not_a_file"], &["not_a_file"]),
        ("/dev/full", &["not_a_file"], &["not_a_file"]),
        ("fifo", &["not_a_file"], &["not_a_file"]),
        ("pipe", &["not_a_file"], &["not_a_file"]),
        ("d", &["is_a_directory"], &["is_a_directory"]),
        (
            "file/x",
            &["not_a_directory", "already_exists"],
            &["not_a_directory"],
        ),
        (
            "loop",
            &["io", "bad_path", "not_found"],
            &["io", "bad_path", "not_found"],
        ),
        (&name, bad, bad),
        (&long, bad, bad),
        ("a%00b", bad, bad),
        ("a%ff", invalid, invalid),
        ("%c0%ae%c0%ae/x", invalid, invalid),
        ("", invalid, invalid),
    ] {
        refused(&format!("write {path}"), &put(path).await, write);
        if !read.is_empty() {
            refused(&format!("read {path}"), &get(path).await, read);
        }
    }
    for (method, path, body, expected) in [
        (
            "POST",
            "mkdir?path=../../etc/d".to_owned(),
            Value::Null,
            denied,
        ),
        ("POST", format!("mkdir?path={name}"), Value::Null, bad),
        (
            "POST",
            "move".to_owned(),
            json!({"from": "file", "to": "/etc/file"}),
            &["permission_denied", "read_only", "io"],
        ),
        (
            "POST",
            "move".to_owned(),
            json!({"from": "file", "to": "a\u{0}b"}),
            bad,
        ),
        (
            "POST",
            "move".to_owned(),
            json!({"from": "/etc/passwd", "to": "mine"}),
            &["permission_denied", "read_only", "io"],
        ),
        ("GET", format!("list?path={long}"), Value::Null, bad),
        ("GET", "stat?path=a%00b".to_owned(), Value::Null, bad),
    ] {
        let path = format!("{below}/files/{path}");
        let json = [("content-type", "application/json")];
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = http::send(address, method, &path, &json, body.as_bytes()).await;
        refused(&path, &answer, expected);
    }
    for path in ["/etc/passwd", "/", "etc/passwd", "/proc/1"] {
        let path = format!("{below}/files?path={path}");
        refused(
            &path,
            &http::send(address, "DELETE", &path, &[], b"").await,
            &["permission_denied", "read_only", "io", "not_empty", "busy"],
        );
    }
    assert_eq!(seen().await, before, "nothing was written");
    gateway.stop().await;
}

/// One entry of an archive: type, name, link, content.
fn entry(kind: u8, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    let raw = header.as_mut_bytes();
    // By hand: the builder refuses what this is about.
    raw[..name.len()].copy_from_slice(name.as_bytes());
    raw[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut entry = header.as_bytes().to_vec();
    entry.extend(content);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

#[tokio::test]
async fn no_archive_leads_out_over_http() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let address = gateway.address;
    let below = made(address, json!({})).await;
    shell(
        address,
        &below,
        "mkdir in out && ln -s ../out in/old && echo o >out/o",
    )
    .await;
    let seen = async || shell(address, &below, "ls -lAR --time-style=+ . /tmp; cat out/o").await;
    let before = seen().await;
    let path = format!("{below}/files/archive?path=in");
    for (what, entries) in [
        (
            "absolute",
            vec![entry(b'0', "/home/sandbox/out/x", "", b"x")],
        ),
        ("..", vec![entry(b'0', "../out/x", "", b"x")]),
        (
            "link then file",
            vec![
                entry(b'2', "l", "../out", b""),
                entry(b'0', "l/x", "", b"x"),
            ],
        ),
        (
            "link within, then file",
            vec![
                entry(b'5', "d", "", b""),
                entry(b'2', "l", "d", b""),
                entry(b'0', "l/x", "", b"x"),
            ],
        ),
        (
            "links, each within by its name",
            vec![
                entry(b'5', "s", "", b""),
                entry(b'5', "a", "", b""),
                entry(b'5', "a/b", "", b""),
                entry(b'2', "a/b/l", "../../s", b""),
                entry(b'2', "a/b/l/x", "../../../out", b""),
                entry(b'0', "s/x/out", "", b"x"),
            ],
        ),
        ("through an old link", vec![entry(b'0', "old/x", "", b"x")]),
        ("hard link out", vec![entry(b'1', "h", "../out/o", b"")]),
        (
            "absolute hard link",
            vec![entry(b'1', "h", "/etc/passwd", b"")],
        ),
        ("device", vec![entry(b'3', "zero", "", b"")]),
        ("pipe", vec![entry(b'6', "pipe", "", b"")]),
        ("no archive", vec![b"PK\x03\x04".repeat(300)]),
    ] {
        let mut archive = [vec![entry(b'0', "good", "", b"good")], entries]
            .concat()
            .concat();
        archive.resize(archive.len() + 1024, 0);
        let answer = http::send(
            address,
            "PUT",
            &path,
            &[("content-type", "application/x-tar")],
            &archive,
        )
        .await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        assert_eq!(seen().await, before, "{what}: nothing was written");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_too_large_or_breaks_off_leaves_nothing() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let address = gateway.address;
    let below = made(address, json!({})).await;
    let seen = async || {
        shell(
            address,
            &below,
            "ls -A; df --output=used /home/sandbox | tail -1",
        )
        .await
    };
    let before = seen().await;
    let path = format!("{below}/files?path=large");

    // Announced: refused before a byte of it has come.
    let announced = [("content-length", "10000000000")];
    for path in [path.clone(), format!("{below}/files/archive?path=x")] {
        let refused = http::answer(http::begin(address, "PUT", &path, &announced).await).await;
        assert_eq!(
            refused.refusal(),
            (413, "too_large".into()),
            "{path}: {}",
            refused.text()
        );
    }

    // Unannounced: until the disk is full.
    let chunked = [("transfer-encoding", "chunked")];
    let mut stream = http::begin(address, "PUT", &path, &chunked).await;
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..200 {
        let chunk = [b"100000\r\n".as_slice(), &piece, b"\r\n"].concat();
        let written = timeout(PATIENCE, stream.write_all(&chunk)).await;
        // It has answered meanwhile.
        if written.expect("it reads, or hangs up").is_err() {
            break;
        }
    }
    let full = http::answer(stream).await;
    assert_eq!(full.refusal(), (413, "no_space".into()), "{}", full.text());
    until("nothing is left of it", async || seen().await == before).await;

    // Broken off in the middle.
    for headers in [[("content-length", "20000000")], chunked] {
        let mut stream = http::begin(address, "PUT", &path, &headers).await;
        let part = [b"100000\r\n".as_slice(), &piece, b"\r\n"].concat();
        stream.write_all(&part).await.expect("it reads");
        until("some of it is there", async || seen().await != before).await;
        drop(stream);
        until("nothing is left of it", async || seen().await == before).await;
    }
    gateway.stop().await;
}
