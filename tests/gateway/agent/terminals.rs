//! Terminals: programs, their ends, their readers, flow control.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use belljar_link::message::MAX_TERMINALS;

use super::*;

#[tokio::test]
async fn exit_codes_and_signals_are_told_after_the_last_output() {
    let agent = Agent::start();
    let link = agent.link().await;
    for (script, output, end) in [
        ("echo out; exit 0", "out\r\n", exited(0)),
        ("exit 7", "", exited(7)),
        ("exit 255", "", exited(255)),
    ] {
        let mut reader = Reader::open(&link, shell(script)).await;
        assert_eq!(reader.rest().await, (output.to_owned(), end), "{script}");
    }
    for signal in ["SIGKILL", "SIGTERM", "SIGHUP", "SIGUSR1"] {
        let name = signal.trim_start_matches("SIG");
        let script = format!("echo out; ulimit -c 0; kill -{name} $$; sleep 600");
        let mut reader = Reader::open(&link, shell(&script)).await;
        let (output, exit) = reader.rest().await;
        assert_eq!(output, "out\r\n");
        assert_eq!((exit.code, exit.signal.as_deref()), (None, Some(signal)));
    }
    // Much output just before the end is all there.
    let script = "head -c 200000 /dev/zero | tr '\\0' x; exit 3";
    let mut reader = Reader::open(&link, shell(script)).await;
    let (output, exit) = reader.rest().await;
    assert_eq!((output.len(), exit), (200_000, exited(3)));
    // One who comes later learns the same.
    let mut late = Reader::attach(&link, reader.terminal, Some(199_998), None, 0).await;
    assert_eq!(late.rest().await, ("xx".to_owned(), exited(3)));
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_with_a_reason() {
    let agent = Agent::start();
    let link = agent.link().await;
    for (command, code) in [
        (&["/nonexistent/program"][..], "spawn_failed"),
        (&["no-such-program-in-path"], "spawn_failed"),
        (&["/etc/passwd"], "spawn_failed"),
        (&["/"], "spawn_failed"),
        (&[""], "spawn_failed"),
        (&["a\0b"], "spawn_failed"),
        (&[], "bad_command"),
    ] {
        let refused = link.open_terminal(open(command)).await;
        let Err(LinkError::Refused(refusal)) = refused else {
            panic!("{command:?}: {refused:?}");
        };
        assert_eq!(refusal.code, code, "{command:?}: {refusal}");
    }
    let mut reader = Reader::open(&link, shell("echo alive")).await;
    assert_eq!(reader.rest().await.0, "alive\r\n");
    // A directory that is not there is no reason not to start.
    let elsewhere = OpenTerminal {
        cwd: Some("/nonexistent".into()),
        ..shell("pwd")
    };
    let mut reader = Reader::open(&link, elsewhere).await;
    assert_eq!(reader.rest().await.1, exited(0));
}

/// Programs that are not there, and a script without its interpreter, which is noticed only after the
/// fork.
#[tokio::test]
async fn a_program_that_cannot_begin_costs_nothing_while_others_end() {
    let agent = Agent::start();
    let link = agent.link().await;
    let broken = agent.file("broken");
    std::fs::write(&broken, "#!/nowhere/nothing\n").expect("it is written");
    std::fs::set_permissions(&broken, Permissions::from_mode(0o755)).expect("it is ours");
    let broken = broken.to_str().expect("text");
    // Orphans, which are the agent's to reap.
    let mut busy = Reader::open(&link, shell("echo on; while :; do (true &); done")).await;
    busy.until("on").await;
    for _ in 0..200 {
        let refused = link.open_terminal(open(&["/nowhere/nothing"])).await;
        let Err(LinkError::Refused(refusal)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(refusal.code, "spawn_failed", "{refusal}");
        match link.open_terminal(open(&[broken])).await {
            Err(LinkError::Refused(refusal)) => assert_eq!(refusal.code, "spawn_failed"),
            Ok(terminal) => {
                let mut reader = Reader::attach(&link, terminal, None, None, 0).await;
                assert_ne!(reader.rest().await.1.code, Some(0));
            }
            Err(error) => panic!("{error}"),
        }
    }
    link.close_terminal(busy.terminal)
        .await
        .expect("it is there");
    let mut reader = Reader::open(&link, shell("exit 4")).await;
    assert_eq!(reader.rest().await.1, exited(4));
}

/// A shell's `command &` starts it with SIGINT and SIGQUIT ignored, and whoever started the agent
/// may have done so. A program that inherits that cannot be interrupted.
#[tokio::test]
async fn programs_start_with_all_signals_at_their_defaults() {
    let agent = Agent::with("600", "600", |command| {
        let original = std::mem::replace(command, Command::new("/bin/sh"));
        let script = "trap '' INT QUIT TSTP TTIN TTOU PIPE HUP TERM USR1; exec \"$@\"";
        command.args(["-c", script, "sh"]);
        command.arg(original.as_std().get_program());
        command.args(original.as_std().get_args());
        command.kill_on_drop(true);
    });
    let link = agent.link().await;
    let mut reader = Reader::open(&link, shell("grep -E 'Sig(Ign|Blk)' /proc/self/status")).await;
    let (seen, _) = reader.rest().await;
    let masks = seen.lines().map(|line| {
        let mask = line.split('\t').nth(1).expect("a mask");
        // Without the real-time signals, which no shell ignores.
        u64::from_str_radix(mask, 16).expect("a mask") & 0x7fff_ffff
    });
    assert_eq!(masks.collect::<Vec<_>>(), [0, 0], "{seen}");
    let mut reader = Reader::open(&link, open(&["/bin/sh"])).await;
    reader.until("$ ").await;
    let mut typed = input(&link, reader.terminal, "sleep 600\r").await;
    reader.until("600\r\n").await;
    sleep(Duration::from_millis(300)).await;
    typed.write(b"\x03").await.expect("a link");
    reader.until("$ ").await;
    let mut reader = Reader::open(&link, shell("yes | head -1; exit 5")).await;
    assert_eq!(reader.rest().await, ("y\r\n".to_owned(), exited(5)));
}

#[tokio::test]
async fn orphans_are_reaped() {
    let agent = Agent::start();
    let link = agent.link().await;
    let script =
        "i=0; while [ $i -lt 200 ]; do (sleep 0.2 &); i=$((i+1)); done; echo done; sleep 600";
    let mut reader = Reader::open(&link, shell(script)).await;
    reader.until("done").await;
    let children = |state: Option<&str>| {
        let of_agent = |entry: &std::fs::DirEntry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (_, rest) = stat.rsplit_once(") ")?;
            let mut fields = rest.split(' ');
            let its = fields.next()?;
            let parent = fields.next()?;
            (parent == agent.pid().to_string() && state.is_none_or(|s| s == its)).then_some(())
        };
        let entries = std::fs::read_dir("/proc").expect("it is there").flatten();
        entries.filter_map(|entry| of_agent(&entry)).count()
    };
    assert!(children(None) > 1, "they were given to the agent");
    eventually("all reaped", || {
        children(None) == 1 && children(Some("Z")) == 0
    })
    .await;
    input(&link, reader.terminal, "\x03").await;
    reader.rest().await;
    eventually("the shell reaped", || children(None) == 0).await;
}

#[tokio::test]
async fn there_are_at_most_sixteen_terminals() {
    let agent = Agent::start();
    let link = agent.link().await;
    let mut readers = Vec::new();
    for _ in 0..MAX_TERMINALS {
        readers.push(Reader::open(&link, shell("echo here; exec sleep 600")).await);
    }
    assert_eq!(MAX_TERMINALS, 16);
    let refused = link.open_terminal(shell("true")).await;
    let Err(LinkError::Refused(refusal)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(refusal.code, "too_many_terminals");
    for reader in &mut readers {
        reader.until("here").await;
    }
    // One that has ended makes room, and only that one.
    let gone = readers.remove(5);
    let terminal = gone.terminal;
    input(&link, terminal, "\x03").await;
    let mut gone = gone;
    gone.rest().await;
    let mut new = Reader::open(&link, shell("echo new; exec sleep 600")).await;
    new.until("new").await;
    assert!(readers.iter().all(|reader| reader.terminal != new.terminal));
    let lost = link.input(terminal).await.expect_err("it is gone");
    assert!(matches!(lost, LinkError::Refused(refusal) if refusal.code == "no_terminal"));
    assert!(link.open_terminal(shell("true")).await.is_err());
}

#[tokio::test]
async fn readers_are_each_at_an_offset_of_their_own() {
    let agent = Agent::start();
    let link = agent.link().await;
    let mut first = Reader::open(&link, open(&["/bin/sh"])).await;
    first.until("$ ").await;
    input(&link, first.terminal, "echo on''e; echo tw''o\r").await;
    first.until("one\r\n").await;
    let at = first.offset - first.seen.len() as u64;
    first.until("two\r\n").await;
    let mut second = Reader::attach(&link, first.terminal, Some(at), None, 0).await;
    assert_eq!(second.until("two\r\n").await, "two\r\n");
    let mut third = Reader::attach(&link, first.terminal, None, None, 0).await;
    assert!(third.until("two\r\n").await.contains("one\r\n"));
    input(&link, first.terminal, "echo thr''ee\r").await;
    for reader in [&mut first, &mut second, &mut third] {
        reader.until("three\r\n").await;
        // And nothing more is to come.
        reader.until("$ ").await;
    }
    // From the future is from now on.
    let mut fourth = Reader::attach(&link, first.terminal, Some(u64::MAX), None, 0).await;
    assert_eq!(
        fourth.offset,
        first.offset.max(third.offset).max(second.offset)
    );
    input(&link, first.terminal, "echo fo''ur\r").await;
    assert!(!fourth.until("four\r\n").await.contains("three"));
}

/// Eight megabytes of numbered lines.
const LINES: &str = "seq -f '%015.0f' 1 500000; sleep 600";

#[tokio::test]
async fn a_watcher_that_does_not_read_slows_nobody_and_gets_a_gap() {
    let agent = Agent::start();
    let link = agent.link().await;
    let terminal = link
        .open_terminal(shell(&format!("read go; {LINES}")))
        .await
        .expect("it opens");
    let mut watcher = Reader::attach(&link, terminal, Some(0), None, 0).await;
    let mut controller = Reader::attach(&link, terminal, Some(0), Some(HISTORY_BYTES), 0).await;
    input(&link, terminal, "\r").await;
    // All of it, and none of it dropped.
    controller.until("000000000000001\r\n").await;
    let mut length = controller.seen.len();
    while length < 499_999 * 17 {
        match controller.next().await {
            Output::Bytes(bytes) => length += bytes.len(),
            Output::Event(event) => panic!("{event:?}"),
        }
    }
    assert_eq!(length, 499_999 * 17);
    // The watcher begins at the beginning, has a gap, and goes on at a byte that it can count on.
    let (mut gaps, mut last) = (0, Vec::new());
    while watcher.offset < controller.offset {
        match watcher.next().await {
            Output::Bytes(bytes) => last = [last, bytes.to_vec()].concat().split_off(0),
            Output::Event(TerminalEvent::Gap { from, to }) => {
                gaps += 1;
                assert!(to > from);
                last.clear();
            }
            Output::Event(event) => panic!("{event:?}"),
        }
    }
    assert!(gaps >= 1);
    assert_eq!(watcher.offset, controller.offset);
    assert!(last.ends_with(b"000000000500000\r\n"));
}

/// Take what comes within a moment.
async fn take_what_comes(reader: &mut Reader) -> u64 {
    let before = reader.offset;
    while let Ok(next) = timeout(Duration::from_millis(500), reader.output.next()).await {
        match next.expect("a link").expect("a frame") {
            Output::Bytes(bytes) => reader.offset += bytes.len() as u64,
            Output::Event(event) => panic!("{event:?}"),
        }
    }
    reader.offset - before
}

#[tokio::test]
async fn the_program_stops_at_the_window() {
    let agent = Agent::start();
    let link = agent.link().await;
    let done = agent.file("done");
    let script = format!(
        "head -c 1000000 /dev/zero | tr '\\0' x; echo >{}; sleep 600",
        done.display()
    );
    let terminal = link
        .open_terminal(shell(&format!("stty -echo; read go; {script}")))
        .await
        .expect("it opens");
    let window = 10_000;
    let mut reader = Reader::attach(&link, terminal, Some(0), Some(window), 0).await;
    reader.acknowledge = false;
    input(&link, terminal, "\r").await;
    assert_eq!(take_what_comes(&mut reader).await, u64::from(window));
    assert!(!done.exists(), "the program is stopped");
    // Acknowledging half of it lets half a window through; what was not sent does not count.
    let ack = |offset| TerminalCommand::Ack { offset };
    reader.control.send(ack(5_000)).await.expect("a link");
    assert_eq!(take_what_comes(&mut reader).await, 5_000);
    reader.control.send(ack(u64::MAX)).await.expect("a link");
    assert_eq!(take_what_comes(&mut reader).await, u64::from(window));
    reader.control.send(ack(3)).await.expect("a link");
    assert_eq!(take_what_comes(&mut reader).await, 0);
    // Stopped is the program, not the agent: commands are heard.
    reader
        .control
        .send(TerminalCommand::Ping { id: 7 })
        .await
        .expect("a link");
    assert_eq!(
        reader.next().await,
        Output::Event(TerminalEvent::Pong { id: 7 })
    );
    let mut other = Reader::open(&link, shell("echo alive")).await;
    assert_eq!(other.rest().await.0, "alive\r\n");
    // A window has a least and a largest size, whatever is asked for.
    for (asked, granted) in [(0, MIN_WINDOW), (u32::MAX, HISTORY_BYTES)] {
        let from = Some(reader.offset);
        reader = Reader::attach(&link, terminal, from, Some(asked), 600_000).await;
        reader.acknowledge = false;
        assert_eq!(
            take_what_comes(&mut reader).await,
            u64::from(granted),
            "{asked}"
        );
    }
    assert!(!done.exists());
    // All of it.
    reader
        .control
        .send(ack(reader.offset))
        .await
        .expect("a link");
    reader.acknowledge = true;
    while reader.offset < 1_000_000 {
        reader.next().await;
    }
    eventually("done", || done.exists()).await;
}

#[tokio::test]
async fn a_lost_controllers_program_is_held_for_a_while_and_then_runs_on() {
    let agent = Agent::start();
    let link = agent.link().await;
    let open = || async {
        let opened = link
            .open_terminal(shell(&format!("stty -echo; read go; {LINES}")))
            .await;
        let terminal = opened.expect("it opens");
        (terminal, agent.file(&terminal.to_string()))
    };
    // Held: nothing is lost.
    let (terminal, _) = open().await;
    let mut reader = Reader::attach(&link, terminal, Some(0), Some(HISTORY_BYTES), 600_000).await;
    reader.acknowledge = false;
    input(&link, terminal, "\r").await;
    // However slowly it comes on a busy machine.
    while reader.offset < u64::from(HISTORY_BYTES) {
        assert!(matches!(reader.next().await, Output::Bytes(_)));
    }
    assert_eq!(take_what_comes(&mut reader).await, 0);
    drop(reader);
    sleep(Duration::from_millis(500)).await;
    let mut again = Reader::attach(&link, terminal, Some(0), Some(HISTORY_BYTES), 600_000).await;
    again.until("000000000000001\r\n").await;
    while again.offset < 500_000 * 17 {
        assert!(matches!(again.next().await, Output::Bytes(_)));
    }
    // Not held any more: the program runs on, and whoever comes late gets a gap.
    let (terminal, _) = open().await;
    let mut reader = Reader::attach(&link, terminal, Some(0), Some(HISTORY_BYTES), 300).await;
    reader.acknowledge = false;
    input(&link, terminal, "\r").await;
    take_what_comes(&mut reader).await;
    drop(reader);
    let mut late = Reader::attach(&link, terminal, None, None, 0).await;
    while late.offset < 500_000 * 17 {
        late.next().await;
    }
    let mut late = Reader::attach(&link, terminal, Some(0), Some(HISTORY_BYTES), 0).await;
    let Output::Event(TerminalEvent::Gap { from: 0, to }) = late.next().await else {
        panic!("a gap comes first");
    };
    // All of the history is there; how much that is, is known but for a line's echo.
    let all = 500_000 * 17 - u64::from(HISTORY_BYTES);
    assert!((all..=all + 4).contains(&to), "{to}");
}

/// A paste into a program that does not read waits, and nothing else waits with it.
#[tokio::test]
async fn a_paste_that_nobody_reads_holds_up_nothing_else() {
    let agent = Agent::start();
    let link = agent.link().await;
    let script = "stty raw -echo; echo ready; sleep 3; head -c 1000000 | cksum; sleep 600";
    let mut reader = Reader::open(&link, shell(script)).await;
    reader.until("ready").await;
    let paste = "0123456789".repeat(100_000);
    let begun = Instant::now();
    let pasted = async {
        input(&link, reader.terminal, &paste).await;
        begun.elapsed()
    };
    let others = async {
        sleep(Duration::from_millis(500)).await;
        let mut other = Reader::open(&link, shell("echo alive")).await;
        assert_eq!(other.rest().await.0, "alive\r\n");
        begun.elapsed()
    };
    let (pasted, others) = tokio::join!(pasted, others);
    assert!(others < pasted, "{others:?} {pasted:?}");
    let sum = reader.until("1000000").await;
    let expected = Command::new("sh")
        .args([
            "-c",
            "yes 0123456789 | tr -d '\\n' | head -c 1000000 | cksum",
        ])
        .output()
        .await
        .expect("it runs");
    assert_eq!(sum.trim(), String::from_utf8_lossy(&expected.stdout).trim());
}

#[tokio::test]
async fn a_size_is_clamped_and_reaches_the_program() {
    let agent = Agent::start();
    let link = agent.link().await;
    let script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done";
    let mut reader = Reader::open(&link, shell(script)).await;
    reader.until("24 80\r\n").await;
    for (cols, rows, seen) in [
        (132, 43, "43 132"),
        (0, 0, "1 2"),
        (u16::MAX, u16::MAX, "500 1000"),
    ] {
        let resize = TerminalCommand::Resize(Size { cols, rows });
        reader.control.send(resize).await.expect("a link");
        reader.until(&format!("{seen}\r\n")).await;
    }
}
