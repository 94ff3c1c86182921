//! What a sandbox looks like from inside: the evidence for `belljar doctor`.

use std::fs;
use std::net::UdpSocket;

use belljar_link::message::Inspection;
use rustix::process::{Resource, getrlimit};

use crate::environment;

/// `SYSLOG_ACTION_READ_ALL` of syslog(2).
const READ_ALL: libc::c_int = 3;

/// An address that belongs to nobody (TEST-NET-1, RFC 5737).
const NOWHERE: &str = "192.0.2.1:9";

/// Look around.
pub(crate) fn inspect() -> Inspection {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.trim_start_matches(':').trim().to_owned())
            .unwrap_or_default()
    };
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/".into());
    Inspection {
        kernel_log: kernel_log(),
        kernel_version: read_line("/proc/version"),
        uid: rustix::process::geteuid().as_raw(),
        capabilities: field("CapEff"),
        // Asked of the kernel, because gVisor leaves it out of `/proc/self/status`.
        no_new_privs: rustix::thread::no_new_privs().unwrap_or(false),
        interfaces: interfaces(),
        network_reachable: network_reachable(),
        root_writable: root_writable(),
        process_limit: environment::process_limit(),
        file_limit: getrlimit(Resource::Nofile).current,
        memory: memory(),
        home_bytes: size_of(home.as_ref()),
        tmp_bytes: size_of("/tmp".as_ref()),
    }
}

fn kernel_log() -> String {
    let mut buffer = vec![0_u8; 4096];
    let length = libc::c_int::try_from(buffer.len()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the pointer and the length are those of `buffer`, which outlives the call.
    let read = unsafe { libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), length) };
    let read = usize::try_from(read).unwrap_or(0).min(buffer.len());
    let text = String::from_utf8_lossy(&buffer[..read]);
    // "<6>[    0.000000] Starting gVisor...": only the message is wanted.
    let line = text.lines().next().unwrap_or_default();
    let message = line.rsplit_once("] ").map_or(line, |(_, message)| message);
    message.trim().to_owned()
}

fn read_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn interfaces() -> Vec<String> {
    // One line for each interface after two of heading: `  lo:  1234 …`.
    let table = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names = table.lines().skip(2).filter_map(|l| l.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

/// Whether there is a route out. Connecting a UDP socket asks for the route and sends nothing.
fn network_reachable() -> bool {
    UdpSocket::bind("0.0.0.0:0").is_ok_and(|socket| socket.connect(NOWHERE).is_ok())
}

fn root_writable() -> bool {
    let probe = "/.belljar-probe";
    let made = fs::File::create_new(probe).is_ok();
    if made {
        let _ = fs::remove_file(probe);
    }
    made
}

fn memory() -> u64 {
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = table.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn size_of(path: &std::path::Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |fs| fs.f_blocks.saturating_mul(fs.f_frsize))
}
