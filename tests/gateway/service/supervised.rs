//! Under a service manager: an inherited socket, and a socket for news.

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use rustix::process::Signal;

use super::{BELLJAR, Place, Service};
use crate::harness::PATIENCE;

/// Makes standard input descriptor 3, as a service manager does, and becomes the program.
const HAND_OVER: &str = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";

fn handed_over(place: &Place, socket: OwnedFd) -> tokio::process::Command {
    let mut command = place.command("/bin/sh", &["-c", HAND_OVER, "sh", BELLJAR, "serve"]);
    command.stdin(Stdio::from(socket));
    command
}

/// What a service manager hears, in order.
struct Manager(UnixDatagram);

impl Manager {
    fn at(place: &Place) -> Self {
        let socket = UnixDatagram::bind(place.file("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self(socket)
    }

    /// The next message that is no sign of life.
    fn hears(&self) -> String {
        loop {
            let message = self.hears_anything();
            if message != "WATCHDOG=1\n" {
                return message;
            }
        }
    }

    fn hears_anything(&self) -> String {
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message).expect("it is told in time");
        String::from_utf8_lossy(&message[..length]).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manager_is_told_how_it_is() {
    let place = Place::new("");
    let manager = Manager::at(&place);
    let mut command = place.command(BELLJAR, &["serve"]);
    command
        .env("NOTIFY_SOCKET", place.file("notify"))
        .env("WATCHDOG_USEC", "200000");
    let service = Service::spawn(&mut command).await;
    let ready = manager.hears();
    assert_eq!(
        ready,
        format!("READY=1\nSTATUS=serving (http://{})\n", service.address)
    );
    for _ in 0..3 {
        assert_eq!(manager.hears_anything(), "WATCHDOG=1\n");
    }

    // What it starts learns nothing of the manager.
    let mut visitor = service.visit().await;
    let inherited = visitor.run("env | grep -cE 'NOTIFY|WATCHDOG|LISTEN'").await;
    assert_eq!(inherited, "0\n[1]");
    drop(visitor);

    service.signal(Signal::HUP);
    let reloading = manager.hears();
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let since: u64 = since.and_then(|s| s.trim().parse().ok()).expect("a time");
    assert!(since > 0);
    assert_eq!(manager.hears(), ready);

    place.configure("nope = 1\n");
    service.signal(Signal::HUP);
    assert!(manager.hears().starts_with("RELOADING=1\n"));
    let refused = manager.hears();
    assert!(refused.starts_with("READY=1\n") && refused.contains("refused"));

    service.stop().await;
    assert!(manager.hears().starts_with("STOPPING=1\n"));
}

#[tokio::test]
async fn the_socket_that_was_handed_over_outlives_the_gateway() {
    let place = Place::new("");
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("a bound port");
    let link = format!("/proc/self/fd/{}", socket.as_raw_fd());
    let link = std::fs::read_link(link).expect("a descriptor");
    let inode: String = link.to_string_lossy().matches(char::is_numeric).collect();
    for _ in 0..2 {
        let own = socket.as_fd().try_clone_to_owned().expect("a descriptor");
        let service = Service::spawn(&mut handed_over(&place, own)).await;
        assert_eq!(service.address, address);
        let mut visitor = service.visit().await;
        // The gateway holds the socket. Neither the agent nor the shell does, or is told of it.
        let gateway = service.pid().as_raw_nonzero();
        let held = |by: &str| format!("ls -l {by} | grep -c 'socket:\\[{inode}\\]'");
        let seen = visitor.run(&held(&format!("/proc/{gateway}/fd"))).await;
        assert_eq!(seen, "1\n[0]");
        let seen = visitor.run(&held("/proc/$PPID/fd /proc/$$/fd")).await;
        assert_eq!(seen, "0\n[1]");
        let seen = visitor.run("env | grep -c LISTEN_").await;
        assert_eq!(seen, "0\n[1]");
        drop(visitor);
        service.stop().await;
        // Between two gateways visitors wait; nobody is refused.
        std::net::TcpStream::connect(address).expect("it listens still");
    }
}

#[tokio::test]
async fn who_can_reach_the_socket_decides_what_is_allowed() {
    let place = Place::new("");
    let socket = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let mut command = handed_over(&place, socket.into());
    let output = command
        .stderr(Stdio::piped())
        .output()
        .await
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("launcher: process has no isolation"),
        "{said}"
    );
}
