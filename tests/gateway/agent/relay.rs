//! Later gateways come by a relay, where the link is the agent's standard input and output.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use belljar_link::message::RELAY_KEY;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};

use super::*;

/// A process of the agent's binary on pipes, as an engine's attach and exec have it.
struct Piped {
    child: Child,
    sandbox: String,
}

impl Piped {
    fn run(arguments: &[&str]) -> Child {
        Command::new(agent())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts")
    }

    fn start(unlinked: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let sandbox = format!("relay-{}-{number}", std::process::id());
        let child = Self::run(&[
            "--sandbox",
            &sandbox,
            "--link",
            "stdio",
            "--deadline",
            "600",
            "--unlinked",
            unlinked,
        ]);
        Self { child, sandbox }
    }

    /// The first gateway, with the key that it leaves.
    async fn attach(&mut self, key: Option<String>) -> Link {
        establish(streams(&mut self.child), key).await
    }

    /// `belljar-agent relay` beside it.
    fn relay(&self) -> Child {
        Self::run(&["relay", "--sandbox", &self.sandbox])
    }

    /// A later gateway.
    async fn come(&self, key: &str) -> (Link, Child) {
        let mut relay = self.relay();
        let mut io = streams(&mut relay);
        io.write_all(key.as_bytes()).await.expect("it reads");
        (establish(io, Some(key.to_owned())).await, relay)
    }
}

fn streams(child: &mut Child) -> tokio::io::Join<ChildStdout, ChildStdin> {
    let input = child.stdin.take().expect("piped");
    tokio::io::join(child.stdout.take().expect("piped"), input)
}

async fn establish(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    key: Option<String>,
) -> Link {
    let link = timeout(PATIENCE, Link::establish(io, "test", key)).await;
    link.expect("in time").expect("it answers")
}

fn key(digit: char) -> String {
    digit.to_string().repeat(RELAY_KEY)
}

#[tokio::test]
async fn whoever_comes_last_has_the_sandbox_and_the_one_before_is_told() {
    let mut agent = Piped::start("600");
    let first = agent.attach(Some(key('a'))).await;
    let mut reader = Reader::open(&first, shell("echo one; read x; echo two $x; read y")).await;
    reader.until("one\r\n").await;
    let (terminal, seen) = (reader.terminal, reader.offset);

    let (second, _relay) = agent.come(&key('a')).await;
    timeout(PATIENCE, first.closed()).await.expect("it ends");
    assert!(first.taken_over().await, "it is told");
    assert_eq!(second.welcome().terminals.len(), 1);
    let mut again = Reader::attach(&second, terminal, Some(seen), Some(HISTORY_BYTES), 0).await;
    let mut input = second.input(terminal).await.expect("it listens");
    input.write(b"more\r").await.expect("it reads");
    again.until("two more\r\n").await;

    // And so on, as often as it takes.
    let (third, _relay) = agent.come(&key('a')).await;
    timeout(PATIENCE, second.closed()).await.expect("it ends");
    assert!(second.taken_over().await);
    third.ping().await.expect("it is there");
    assert!(!third.is_closed());
}

/// One that was started ahead waits without a word for as long as nobody comes, and is to bear less silence from
/// when somebody has.
#[tokio::test]
async fn a_sandbox_that_has_waited_in_silence_lives_on_when_it_is_taken() {
    /// Longer than an agent bears silence where it is told to live without a gateway for a second.
    const WAITED: Duration = Duration::from_secs(48);
    let mut agent = Piped::start("600");
    let link = agent.attach(Some(key('e'))).await;
    sleep(WAITED).await;
    let (long, second) = (Duration::from_secs(600), Duration::from_secs(1));
    link.set_life(long, second).await.expect("it hears");
    sleep(2 * second).await;
    link.ping().await.expect("it is there");
}

/// An attach that is lost leaves the standard input open, and nothing tells the agent.
#[tokio::test]
async fn a_gateway_that_is_lost_without_a_trace_is_succeeded() {
    let mut agent = Piped::start("600");
    let (mut from_agent, mut to_agent) = tokio::io::split(streams(&mut agent.child));
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (mut from_us, mut to_us) = tokio::io::split(theirs);
    let carrying = tokio::spawn(async move {
        // Ends with the gateway, and then the pipes are there and nobody reads them.
        tokio::select! {
            _ = tokio::io::copy(&mut from_agent, &mut to_us) => {}
            _ = tokio::io::copy(&mut from_us, &mut to_agent) => {}
        }
        std::future::pending::<()>().await;
        drop((from_agent, to_agent));
    });
    let first = establish(ours, Some(key('b'))).await;
    let flood = "i=0; while :; do i=$((i+1)); echo line $i; done";
    let mut reader = Reader::open(&first, shell(flood)).await;
    reader.until("line 10\r\n").await;
    let (terminal, seen) = (reader.terminal, reader.offset);
    // The pipes stay open, and nobody reads what the program floods them with.
    drop((reader, first));
    let (second, _relay) = agent.come(&key('b')).await;
    let mut again = Reader::attach(&second, terminal, Some(seen), Some(HISTORY_BYTES), 0).await;
    for _ in 0..20 {
        again.next().await;
    }
    carrying.abort();
}

#[tokio::test]
async fn nobody_comes_without_the_key() {
    let mut agent = Piped::start("600");
    let link = agent.attach(Some(key('c'))).await;
    for stranger in [key('d'), "short".to_owned()] {
        let mut relay = agent.relay();
        let mut io = streams(&mut relay);
        io.write_all(stranger.as_bytes()).await.expect("it reads");
        let mut heard = Vec::new();
        let read = timeout(PATIENCE, io.read_to_end(&mut heard)).await;
        read.expect("it is turned away in time").expect("the end");
        assert!(heard.is_empty(), "and nothing is said");
    }
    link.ping().await.expect("nobody was disturbed");

    let mut closed = Piped::start("600");
    let link = closed.attach(None).await;
    let ended = timeout(PATIENCE, closed.relay().wait()).await;
    let ended = ended.expect("in time").expect("it ends");
    assert_eq!(ended.code(), Some(1), "nobody listens");
    link.ping().await.expect("it is there");
}

/// The standard input of a container ends, in some engines, with whoever was attached.
#[tokio::test]
async fn the_end_of_the_input_is_not_the_end_of_the_sandbox() {
    let mut agent = Piped::start("600");
    let first = agent.attach(Some(key('e'))).await;
    let reader = Reader::open(&first, shell("echo here; read x")).await;
    let terminal = reader.terminal;
    drop((reader, first));
    let (second, _relay) = agent.come(&key('e')).await;
    let mut again = Reader::attach(&second, terminal, Some(0), None, 0).await;
    again.until("here\r\n").await;
}

#[tokio::test]
async fn the_agent_installs_itself() {
    let directory = std::env::temp_dir().join(format!("belljar-install-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("it can be made");
    let path = directory.to_str().expect("text");
    let mut installing = Piped::run(&["install", path]);
    let ended = timeout(PATIENCE, installing.wait()).await;
    assert!(ended.expect("in time").expect("it ends").success());
    let installed = directory.join("belljar-agent");
    let mode = std::fs::metadata(&installed)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
    let version = Command::new(&installed).arg("--version").output().await;
    assert!(version.expect("it runs").status.success());
    std::fs::remove_dir_all(directory).expect("it was made");
}
