//! What a visitor finds when looking for a way out.

use belljar::config::Config;

use super::{Sealed, config, place, python};
use crate::harness::{Client, TestGateway, visits};

visits! {
    on engine, cluster: {
        the_kernel_is_gvisors_and_the_user_is_nobody_special,
        there_is_no_network,
        what_is_not_the_visitors_cannot_be_written,
        no_system_call_changes_the_sandbox,
    }
}

/// Python: `attempt(name, function)` prints a line only if the function succeeds, which none may.
const ATTEMPTS: &str = r#"
import ctypes, errno, fcntl, os, signal, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
tried = 0
def attempt(name, function):
    global tried
    tried += 1
    try:
        print("BREACH", name, function())
    except (OSError, ValueError, OverflowError):
        pass
def syscall(number, *arguments):
    ctypes.set_errno(0)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return "ok"
"#;

/// Run attempts in a sandbox; panics unless each of them failed.
async fn all_fail(client: &mut Client, attempts: &str, count: usize) {
    let program = format!("{ATTEMPTS}{attempts}\nprint(\"tried\", tried)");
    let seen = python(client, &program).await;
    assert_eq!(seen, format!("tried {count}\n[0]"));
}

pub async fn the_kernel_is_gvisors_and_the_user_is_nobody_special(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit_wide().await;

    let log = client.run("dmesg | head -1").await;
    assert!(log.contains("Starting gVisor..."), "{log}");
    assert_eq!(
        client.run("id -u; id -g; id -G").await,
        "1000\n1000\n1000\n[0]"
    );

    let capabilities = client.run("grep ^Cap /proc/self/status").await;
    for line in capabilities.lines().filter(|l| l.starts_with("Cap")) {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    // Inherited, permitted, effective and the bounding set; gVisor knows no ambient ones.
    assert_eq!(capabilities.matches("Cap").count(), 4, "{capabilities}");
    // PR_GET_NO_NEW_PRIVS
    let program = "import ctypes; print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))";
    assert_eq!(python(&mut client, program).await, "1\n[0]");

    // Nothing in the image gives another identity, and nothing made here does.
    assert_eq!(
        client
            .run("find / -xdev -perm /6000 -type f 2>/dev/null")
            .await,
        "[1]",
        "nothing but directories that find may not read"
    );
    assert_eq!(
        client
            .run("cp /usr/bin/id ~/id && chmod 6755 ~/id && ~/id -u")
            .await,
        "1000\n[0]"
    );
    let seen = client.run("echo root | su -c id; sudo id; echo end").await;
    assert!(!seen.contains("uid=0"), "{seen}");
    all_fail(
        &mut client,
        r#"
attempt("setuid", lambda: os.setuid(0))
attempt("setgid", lambda: os.setgid(0))
attempt("setresuid", lambda: os.setresuid(0, 0, 0))
attempt("setgroups", lambda: os.setgroups([0]))
attempt("chown", lambda: os.chown("/tmp", 1000, 1000))
attempt("capset", lambda: syscall(126, struct.pack("IIIIIIII", 0x20080522, 0, *[0xffffffff] * 6)[:8], struct.pack("IIIIII", *[0xffffffff] * 6)))
attempt("ambient", lambda: syscall(157, 47, 2, 21, 0, 0))
"#,
        7,
    )
    .await;
    gateway.leave([client]).await;
    gateway.stop().await;
}

pub async fn there_is_no_network(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit_wide().await;

    let interfaces = client.run("ip -brief link").await;
    assert!(interfaces.starts_with("lo "), "{interfaces}");
    assert_eq!(interfaces.lines().count(), 2, "{interfaces}");
    let seen = client
        .run("(echo >/dev/tcp/192.0.2.1/80) && echo out")
        .await;
    assert!(
        seen.contains("unreachable") || seen.contains("No route"),
        "{seen}"
    );

    // Nowhere: nobody's address, the cloud's metadata, Docker's bridge, the neighbourhood, a public
    // resolver, and the very gateway that serves this terminal.
    let attempts = format!(
        r#"
gateway = {}
def connect(family, kind, address):
    with socket.socket(family, kind) as s:
        s.settimeout(5)
        s.connect(address)
        return address
for host in ["192.0.2.1", "169.254.169.254", "172.17.0.1", "10.0.0.1", "192.168.0.1", "8.8.8.8"]:
    attempt("tcp " + host, lambda: connect(socket.AF_INET, socket.SOCK_STREAM, (host, 80)))
    attempt("udp " + host, lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, (host, 53)))
for host in ["2001:db8::1", "fe80::1", "::ffff:8.8.8.8"]:
    attempt("tcp " + host, lambda: connect(socket.AF_INET6, socket.SOCK_STREAM, (host, 80)))
attempt("gateway", lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", gateway)))
attempt("vsock", lambda: connect(socket.AF_VSOCK, socket.SOCK_STREAM, (2, 1024)))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("ping", lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("8.8.8.8", 0)))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
attempt("resolve", lambda: socket.getaddrinfo("example.com", 80))
tun = os.open("/dev/net/tun", os.O_RDWR) if os.path.exists("/dev/net/tun") else -1
attempt("tun", lambda: fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH22x", b"tun0", 1)))
"#,
        gateway.address.port()
    );
    all_fail(&mut client, &attempts, 22).await;
    gateway.leave([client]).await;
    gateway.stop().await;
}

pub async fn what_is_not_the_visitors_cannot_be_written(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit_wide().await;

    let seen = client.run("touch /x").await;
    assert!(
        seen.contains("Read-only file system") || seen.contains("Permission denied"),
        "{seen}"
    );
    assert!(seen.ends_with("[1]"), "{seen}");
    // Every place where a visitor may make files.
    let found = client
        .run("find / -path /proc -prune -o -type d -writable -print 2>/dev/null | sort")
        .await;
    assert_eq!(found, "/dev/shm\n/home/sandbox\n/tmp\n[0]");
    all_fail(
        &mut client,
        r#"
def write(path):
    with open(path, "wb") as f:
        f.write(b"x" * (64 << 20))
for path in ["/x", "/etc/x", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/etc/passwd", "/usr/bin/x",
        "/bin/bash", "/root/x", "/var/tmp/x", "/run/x", "/home/x", "/dev/x", "/proc/x", "/sys/x",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger", "/.belljar/x", "/.belljar/agent", "/.belljar/link/x", "/.belljar/link/link.sock"]:
    attempt("write " + path, lambda: write(path))
for path in ["/etc/passwd", "/.belljar/agent", "/.belljar/link/link.sock", "/.dockerenv", "/usr/bin/id"]:
    attempt("unlink " + path, lambda: os.unlink(path))
    attempt("rename " + path, lambda: os.rename(path, path + "-"))
    attempt("chmod " + path, lambda: os.chmod(path, 0o777))
    attempt("link " + path, lambda: os.link(path, "/home/sandbox/hard"))
for path in ["/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/kvm", "/proc/kcore"]:
    attempt("open " + path, lambda: os.open(path, os.O_RDONLY))
# A device file of one's own reaches no device: memory, disks, and block devices of any kind.
for kind, number in [(0o20600, (1, 1)), (0o20600, (1, 2)), (0o20600, (10, 232)), (0o60600, (8, 0)), (0o60600, (252, 0))]:
    path = "/tmp/device%o-%d-%d" % (kind, *number)
    attempt("device " + path, lambda: (os.mknod(path, kind, os.makedev(*number)), os.open(path, os.O_RDWR)))
"#,
        55,
    )
    .await;
    gateway.leave([client]).await;
    gateway.stop().await;
}

pub async fn no_system_call_changes_the_sandbox(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit_wide().await;
    all_fail(
        &mut client,
        r#"
zero = b"\0" * 64
attempt("mount", lambda: syscall(165, b"none", b"/tmp", b"tmpfs", 0, None))
attempt("remount", lambda: syscall(165, b"none", b"/", None, 32, None))
attempt("umount", lambda: syscall(166, b"/tmp", 0))
attempt("pivot_root", lambda: syscall(155, b"/", b"/tmp"))
attempt("chroot", lambda: syscall(161, b"/tmp"))
for name, flag in [("mnt", 0x20000), ("uts", 0x4000000), ("ipc", 0x8000000), ("pid", 0x20000000), ("net", 0x40000000)]:
    attempt("unshare " + name, lambda: syscall(272, flag))
attempt("setns", lambda: syscall(308, os.open("/proc/self/ns/net", 0), 0))
attempt("bpf", lambda: syscall(321, 5, zero, 64))
attempt("perf_event_open", lambda: syscall(298, zero, 0, -1, -1, 0))
attempt("init_module", lambda: syscall(175, zero, 64, b""))
attempt("kexec_load", lambda: syscall(246, 0, 0, None, 0))
attempt("reboot", lambda: syscall(169, 0xfee1dead, 672274793, 0x4321fedc, None))
attempt("swapon", lambda: syscall(167, b"/home/sandbox", 0))
attempt("sethostname", lambda: syscall(170, b"x", 1))
attempt("settimeofday", lambda: syscall(164, zero, None))
attempt("iopl", lambda: syscall(172, 3))
attempt("ioperm", lambda: syscall(173, 0, 8, 1))
attempt("open_by_handle_at", lambda: syscall(304, -100, zero, 0))
attempt("userfaultfd", lambda: syscall(323, 0))
attempt("io_uring", lambda: syscall(425, 1, zero))
attempt("nproc", lambda: syscall(302, 0, 6, struct.pack("QQ", 1000, 1000), None))
attempt("nofile", lambda: syscall(302, 0, 7, struct.pack("QQ", 1000000, 1000000), None))
attempt("fsize", lambda: syscall(302, 0, 1, struct.pack("Qq", 2 << 30, -1), None))
"#,
        27,
    )
    .await;
    gateway.leave([client]).await;
    gateway.stop().await;
}

/// Any program may dial the socket that the agent dials: what does is not listened to, and costs the visitor
/// no more than the connection's own way for its terminal.
#[tokio::test]
async fn nothing_but_the_agent_is_let_in_at_the_links_socket() {
    const DIAL: &str = r#"
import os, socket, time
print("dialling", flush=True)
os.fork() and os._exit(0)
held, dialled = [], 0
for i in range(10**6):
    s = socket.socket(socket.AF_UNIX)
    s.setblocking(False)
    try:
        s.connect("/.belljar/link/link.sock")
        s.send(b"0" * 32 if i % 2 else b"")
        held = held[-20:] + [s]
        dialled += 1
        open("/tmp/dialled", "w").write(str(dialled))
    except OSError:
        time.sleep(0.0005)
"#;
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let mut client = gateway.visit().await;
    let seen = python(&mut client, DIAL).await;
    assert_eq!(seen, "dialling\n[0]");
    for turn in 0..3 {
        let (session, token, offset) = client.cut();
        client = gateway.resume(&session, &token, Some(offset)).await;
        client.ready().await;
        assert_eq!(
            client.run(&format!("echo {turn}")).await,
            format!("{turn}\n[0]")
        );
    }
    gateway.stop().await;
}
