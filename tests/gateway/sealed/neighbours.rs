//! What a visitor can do to others: to the agent, to the gateway behind its socket, to neighbours.

use std::time::{Duration, Instant};

use belljar::config::{Config, LauncherKind};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{Sealed, config, place, python, say, until_or_exit};
use crate::harness::{Client, TestGateway, visits};

visits! {
    on engine, cluster: {
        the_agent_cannot_be_read_traced_or_changed,
        signals_to_the_agent_end_at_worst_ones_own_session,
        a_stopped_agent_holds_up_nobody,
        killing_everything_kills_nobody_else,
        neighbours_do_not_see_each_other,
        a_session_id_without_its_token_opens_nothing,
    }
}

pub async fn the_agent_cannot_be_read_traced_or_changed(config: Config) {
    let is_pod = matches!(config.launcher, LauncherKind::Kubernetes);
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit_wide().await;
    let agent = client.run("tr '\\0' ' ' </proc/1/cmdline").await;
    let path = ["/.belljar/agent ", "/belljar/belljar-agent "][usize::from(is_pod)];
    assert!(agent.starts_with(path), "{agent}");

    let attempts = r#"
import ctypes, os, signal, struct, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def trace(pid):
    if libc.ptrace(16, pid, None, None) != 0: raise OSError("refused")
    os.waitpid(pid, 0)
    libc.ptrace(17, pid, None, None)
def vm_read(pid):
    local = ctypes.create_string_buffer(8)
    address = int(open("/proc/self/maps").readline().split("-")[0], 16)
    vector = lambda base: struct.pack("QQ", base, 8)
    mine, theirs = vector(ctypes.addressof(local)), vector(address)
    if libc.process_vm_readv(pid, mine, 1, theirs, 1, 0) < 0: raise OSError("refused")
def steal(pid):
    pidfd = libc.syscall(434, pid, 0)
    if pidfd < 0 or libc.syscall(438, pidfd, 0, 0) < 0: raise OSError("refused")
attempts = {
    "mem": lambda pid: os.open("/proc/%d/mem" % pid, os.O_RDWR),
    "cwd": lambda pid: os.listdir("/proc/%d/cwd" % pid),
    "root": lambda pid: os.listdir("/proc/%d/root" % pid),
    "exe": lambda pid: os.open("/proc/%d/exe" % pid, os.O_RDONLY),
    "trace": trace, "vm_read": vm_read, "steal": steal,
}
for name, attempt in attempts.items():
    try:
        attempt(1)
        print("BREACH", name)
    except OSError:
        pass
# The control: what is refused of the agent works with a process of one's own.
child = subprocess.Popen(["sleep", "60"])
for name in ["cwd", "root", "exe", "trace"]:
    attempts[name](child.pid)
child.kill()
print("end")
"#;
    let seen = python(&mut client, attempts).await;
    assert_eq!(seen, "end\n[0]");

    // gVisor lets more be seen and done than Linux would. The agent's streams: none leads to the
    // engine, which would read for ever whatever is poured in. Its environment: there is nothing in
    // it that is not in the shell's own. Its limits: the visitor's own loss.
    let streams = client
        .run("cd /proc/1/fd && readlink -f * | sort | uniq -c")
        .await;
    // A pod's link is its standard input and output.
    if !is_pod {
        assert!(!streams.contains("host:"), "{streams}");
    }
    say!("the agent's streams, as its visitor sees them: {streams:?}");
    let more = client
        .run("comm -23 <(tr '\\0' '\\n' 2>/dev/null </proc/1/environ | grep -v ^PATH= | sort) <(env | sort)")
        .await;
    assert_eq!(
        more, "[0]",
        "in the agent's environment only (the shell sets its own PATH)"
    );
    let seen = client.run("prlimit --pid 1 --nofile=3; echo alive").await;
    assert!(seen.contains("alive"), "{seen}");
    gateway.leave([client]).await;
    gateway.stop().await;
}

/// Whatever a visitor sends the agent ends at worst the visitor's own session, in time and with a
/// word; the gateway and its other visitors go on.
pub async fn signals_to_the_agent_end_at_worst_ones_own_session(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut neighbour = gateway.visit_wide().await;
    let mut ends = Vec::new();
    for signal in [
        "KILL", "STOP", "SEGV", "TERM", "INT", "HUP", "USR1", "ABRT", "CHLD", "34",
    ] {
        let mut client = gateway.visit_wide().await;
        client
            .input(format!("kill -{signal} 1; echo si''gnalled\r"))
            .await;
        // Either the session goes on, or it ends and says so.
        let reason = tokio::select! {
            exit = client.told("exit") => exit["reason"].as_str().expect("a reason").to_owned(),
            () = sleep(Duration::from_secs(3)) => "none".to_owned(),
        };
        if reason == "none" {
            let shown = until_or_exit(&mut client, "signalled\r\n");
            let goes_on = timeout(Duration::from_secs(3), shown).await.is_ok();
            ends.push(format!(
                "{signal}: {}",
                if goes_on { "nothing" } else { "silence" }
            ));
            // Through the engine, not the agent: it works even on an agent that is stopped.
            let path = format!("/sessions/{}", client.session);
            let bearer = format!("Bearer {}", client.token);
            let headers = [("authorization", bearer.as_str())];
            let (status, body) = gateway.http("DELETE", &path, &headers, "").await;
            assert!(status < 300, "{status} {body}");
            assert_eq!(client.told("exit").await["reason"], "closed");
        } else {
            ends.push(format!("{signal}: {reason}"));
        }
        client.closed().await;
        gateway.left(1).await;
        assert_eq!(neighbour.run("echo $((6*7))").await, "42\n[0]");
    }
    say!("signals to PID 1: {}", ends.join(", "));
    gateway.leave([neighbour]).await;
    gateway.stop().await;
}

/// An agent that its visitor has stopped answers nothing any more, and its link is full. Whoever
/// asks something of it waits for a while, and no longer; its session can be ended as any other.
pub async fn a_stopped_agent_holds_up_nobody(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut neighbour = gateway.visit_wide().await;
    let mut client = gateway.visit_wide().await;
    client.input("kill -STOP 1\r").await;
    sleep(Duration::from_millis(500)).await;
    // More than fits anywhere on the way: in the end the gateway does not read it any more.
    let paste = async {
        for _ in 0..200 {
            client.input(vec![b'x'; 50_000]).await;
        }
    };
    assert!(
        timeout(Duration::from_secs(3), paste).await.is_err(),
        "nothing buffers without bound"
    );
    let (session, token, offset) = client.cut();
    let begun = Instant::now();
    let mut again = gateway.resume(&session, &token, Some(offset)).await;
    let code = again.closed().await;
    say!(
        "attaching to a stopped agent: closed with {code} after {:.1?}",
        begun.elapsed()
    );
    assert_eq!(neighbour.run("echo alive").await, "alive\n[0]");
    let begun = Instant::now();
    let headers = [("authorization", &*format!("Bearer {token}"))];
    let path = format!("/sessions/{session}");
    let (status, body) = gateway.http("DELETE", &path, &headers, "").await;
    assert!(status < 300, "{status} {body}");
    gateway.left(1).await;
    say!("ending it: gone after {:.1?}", begun.elapsed());
    gateway.leave([neighbour]).await;
    gateway.stop().await;
}

pub async fn killing_everything_kills_nobody_else(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut neighbour = gateway.visit_wide().await;
    let mut client = gateway.visit_wide().await;
    // Everything but the caller and PID 1.
    client.run("(sleep 600 & sleep 600 & sleep 600 &)").await;
    // Waits in the shell itself: gVisor may lock itself up if processes end at the moment when the
    // shell hands its terminal over (docs/security.md).
    client.run("kill -9 -1; read -t 1").await;
    let left = client
        .run("cat /proc/[0-9]*/comm | sort | uniq -c | tr -s ' '")
        .await;
    assert!(!left.contains("sleep") && left.contains("agent"), "{left}");
    assert_eq!(neighbour.run("echo $((6*7))").await, "42\n[0]");
    gateway.leave([client, neighbour]).await;
    gateway.stop().await;
}

/// The one thing of the host that a sandbox sees is the directory with its gateway's socket, and
/// nobody listens there once the agent has called.
#[tokio::test]
async fn dialling_the_gateways_socket_harms_nothing() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let mut neighbour = gateway.visit().await;
    let mut client = gateway.visit().await;
    assert_eq!(
        client.run("ls -1A /.belljar /.belljar/link").await,
        "/.belljar:\nagent\nlink\n\n/.belljar/link:\nlink.sock\n[0]"
    );
    let dial = r#"
import errno, socket
seen = set()
held = []
for kind in [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]:
    for attempt in range(200):
        s = socket.socket(socket.AF_UNIX, kind)
        s.setblocking(False)
        try:
            s.connect("/.belljar/link/link.sock")
            held.append(s)
            s.send(b"\0" * 65536)
            seen.add("connected")
        except OSError as e:
            seen.add(errno.errorcode[e.errno])
print(sorted(seen))
"#;
    let seen = python(&mut client, dial).await;
    say!("dialling the gateway's socket: {seen}");
    assert!(!seen.contains("connected"), "{seen}");
    // A socket of one's own in its place: the directory is read-only.
    let seen = python(
        &mut client,
        "import socket\ntry: socket.socket(socket.AF_UNIX).bind('/.belljar/link/new.sock')\nexcept OSError as e: print('refused')",
    )
    .await;
    assert_eq!(seen, "refused\n[0]");
    assert_eq!(client.run("echo alive").await, "alive\n[0]");
    assert_eq!(neighbour.run("echo alive").await, "alive\n[0]");
    gateway.end([client, neighbour]).await;
    gateway.stop().await;
}

pub async fn neighbours_do_not_see_each_other(config: Config) {
    let name = match config.launcher {
        LauncherKind::Kubernetes => config.kubernetes.instance.clone(),
        _ => config.docker.namespace.clone(),
    };
    let gateway = TestGateway::with(config).await;
    let mut alice = gateway.visit_wide().await;
    let mut mallory = gateway.visit_wide().await;
    let serve = "import socket, time, os
held = []
for where in ['\\0secret', '/tmp/secret.sock']:
    s = socket.socket(socket.AF_UNIX); s.bind(where); s.listen(); held.append(s)
s = socket.socket(); s.bind(('127.0.0.1', 4444)); s.listen(); held.append(s)
f = open('/dev/shm/secret', 'w'); f.write('secret'); f.flush()
print('ser' + 'ving', flush=True)
time.sleep(600)";
    assert_eq!(
        alice
            .run("echo secret >/tmp/secret; echo secret >~/secret")
            .await,
        "[0]"
    );
    super::write_file(&mut alice, "/tmp/serve.py", serve).await;
    alice.input("python3 /tmp/serve.py &\r").await;
    alice.until("serving\r\n").await;
    alice.input("\r").await;
    alice.until("$ ").await;

    let look = |mine: bool| {
        format!(
            r#"
import glob, os, socket
def there(name, function):
    try: function()
    except OSError: print(name, "no")
    else: print(name, "yes")
for where in ["\0secret", "/tmp/secret.sock"]:
    there(repr(where), lambda: socket.socket(socket.AF_UNIX).connect(where))
there("tcp", lambda: socket.create_connection(("127.0.0.1", 4444), 5))
for path in ["/tmp/secret", "/dev/shm/secret", "/home/sandbox/secret"]:
    there(path, lambda: open(path))
processes = [open(p).read().replace("\0", " ") for p in glob.glob("/proc/[0-9]*/cmdline")]
print("process", "yes" if any("serve.py" in p for p in processes) else "no", {mine})
"#,
            mine = if mine { "'mine'" } else { "'theirs'" }
        )
    };
    let own = python(&mut alice, &look(true)).await;
    assert_eq!(own.matches(" yes").count(), 7, "the control: {own}");
    let others = python(&mut mallory, &look(false)).await;
    assert_eq!(others.matches(" no").count(), 7, "{others}");
    // Neither does the environment or the command line tell of the host or of others.
    let environment = mallory
        .run("env; tr '\\0' '\\n' </proc/1/cmdline; hostname; cat /proc/mounts")
        .await;
    for secret in [
        name.as_str(),
        &gateway.address.to_string(),
        &mallory.session,
        &mallory.token,
        "belljar-test-run",
    ] {
        assert!(!environment.contains(secret), "{secret} in {environment}");
    }
    gateway.leave([alice, mallory]).await;
    gateway.stop().await;
}

/// A visitor who knows another's session but not its token gets nothing, dead or alive.
pub async fn a_session_id_without_its_token_opens_nothing(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut alice = gateway.visit_wide().await;
    let mut mallory: Client = gateway
        .connect(&format!("/sessions/{}/ws", alice.session))
        .await;
    mallory
        .send(json!({"type": "attach", "token": "0".repeat(64)}))
        .await;
    assert_eq!(mallory.closed().await, 4003);
    assert_eq!(alice.run("echo alive").await, "alive\n[0]");
    gateway.leave([alice]).await;
    gateway.stop().await;
}
