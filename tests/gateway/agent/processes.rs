//! Programs without a terminal: commands that are waited for, and those that run on.

use belljar_link::client::process::{ProcessEvent, ProcessInput, ProcessOutput};
use belljar_link::message::process::{
    MAX_ENDED, MAX_PROCESSES, OUTPUT_BYTES, ProcessExit, ProcessInfo, StartProcess,
};

use super::*;

fn start(script: &str) -> StartProcess {
    StartProcess {
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        ..StartProcess::default()
    }
}

async fn event(output: &mut ProcessOutput) -> ProcessEvent {
    let next = timeout(PATIENCE, output.next()).await.expect("in time");
    next.expect("a link").expect("an event")
}

/// All that comes out, and the end.
async fn rest(output: &mut ProcessOutput) -> (Vec<u8>, Vec<u8>, ProcessExit) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match event(output).await {
            ProcessEvent::Stdout(bytes) => stdout.extend(bytes),
            ProcessEvent::Stderr(bytes) => stderr.extend(bytes),
            ProcessEvent::Exit(exit) => {
                let after = timeout(PATIENCE, output.next()).await.expect("in time");
                assert!(after.is_none(), "{after:?} after the end");
                return (stdout, stderr, exit);
            }
            gap @ ProcessEvent::Gap { .. } => panic!("{gap:?}"),
        }
    }
}

async fn run(link: &Link, start: StartProcess) -> (String, String, ProcessExit) {
    let (_, mut output, _input) = link.exec(start).await.expect("it starts");
    let (stdout, stderr, exit) = rest(&mut output).await;
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(stdout), text(stderr), exit)
}

fn code(code: i32) -> ProcessExit {
    ProcessExit {
        code: Some(code),
        signal: None,
        timed_out: false,
    }
}

async fn refused<T: std::fmt::Debug>(call: impl Future<Output = Result<T, LinkError>>) -> String {
    match timeout(PATIENCE, call).await.expect("in time") {
        Err(LinkError::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_command_has_streams_a_directory_an_environment_and_an_end() {
    let agent = Agent::start();
    let link = agent.link().await;
    let mut order = start("echo $GREETING in $PWD; echo oh >&2; cat; exit 3");
    order.env.insert("GREETING".into(), "hello".into());
    order.cwd = Some("/tmp".into());
    let (stdout, stderr, exit) = run(&link, order).await;
    assert_eq!(
        (stdout.as_str(), stderr.as_str()),
        ("hello in /tmp\n", "oh\n")
    );
    assert_eq!(exit, code(3));
    let (_, _, exit) = run(&link, start("kill -9 $$")).await;
    assert_eq!(exit.signal.as_deref(), Some("SIGKILL"));
    // By its name, in a PATH of its own, which is the program's name for itself too.
    let named = StartProcess {
        command: vec!["sh".into(), "-c".into(), "echo $0".into()],
        env: [("PATH".to_owned(), "/nowhere:/bin".to_owned())].into(),
        ..StartProcess::default()
    };
    assert_eq!(run(&link, named).await.0, "sh\n");
    assert!(
        link.processes().await.expect("a list").is_empty(),
        "forgotten"
    );
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_clearly() {
    let agent = Agent::start();
    let link = agent.link().await;
    let program = |name: &str| StartProcess {
        command: vec![name.to_owned()],
        ..StartProcess::default()
    };
    let with = |change: fn(&mut StartProcess)| {
        let mut order = program("true");
        change(&mut order);
        order
    };
    for (order, code) in [
        (StartProcess::default(), "bad_command"),
        (program(""), "bad_command"),
        (program("a\0b"), "bad_command"),
        (
            with(|s| drop(s.env.insert("A=B".into(), String::new()))),
            "bad_command",
        ),
        (
            with(|s| drop(s.env.insert("A".into(), "\0".into()))),
            "bad_command",
        ),
        (program("no-such-program"), "spawn_failed"),
        (program("/no/such/program"), "spawn_failed"),
        (program("/etc"), "spawn_failed"),
        (with(|s| s.cwd = Some("/no/such".into())), "not_found"),
        (
            with(|s| s.cwd = Some("/etc/passwd".into())),
            "not_a_directory",
        ),
        (with(|s| s.cwd = Some(String::new())), "bad_path"),
        (
            with(|s| s.user = Some("somebody-else".into())),
            "bad_command",
        ),
    ] {
        let shown = format!("{order:?}");
        assert_eq!(refused(link.exec(order.clone())).await, code, "{shown}");
        assert_eq!(refused(link.start_process(order)).await, code, "{shown}");
    }
    let own = rustix::process::getuid().as_raw().to_string();
    let mut order = start("echo as myself");
    order.user = Some(own);
    assert_eq!(run(&link, order).await.0, "as myself\n");
}

async fn write(input: &mut ProcessInput, text: &[u8]) {
    let written = timeout(PATIENCE, input.write(Bytes::copy_from_slice(text))).await;
    written.expect("in time").expect("it is read");
}

#[tokio::test]
async fn input_goes_in_while_output_comes_out() {
    const LENGTH: usize = 5 << 20;
    let agent = Agent::start();
    let link = agent.link().await;
    let mut order = start("cat; echo end >&2");
    order.stdin = true;
    let (_, mut output, input) = link.exec(order).await.expect("it starts");
    let mut input = input.expect("it was asked for");
    let sent: Vec<u8> = (0..LENGTH)
        .map(|i| u8::try_from(i % 251).expect("small"))
        .collect();
    let writing = async {
        write(&mut input, &sent).await;
        timeout(PATIENCE, input.close())
            .await
            .expect("in time")
            .expect("it is read");
    };
    let ((), (stdout, stderr, exit)) = tokio::join!(writing, rest(&mut output));
    assert!(stdout == sent, "as it was sent");
    assert_eq!((stderr.as_slice(), exit), (&b"end\n"[..], code(0)));
}

#[tokio::test]
async fn input_survives_its_writer_and_not_its_reader() {
    let agent = Agent::start();
    let link = agent.link().await;
    let mut order = start("read a; read b; echo $a$b; read c; echo end");
    order.stdin = true;
    let process = link.start_process(order).await.expect("it starts");
    for text in ["one\n", "two\n"] {
        let mut input = link.process_input(process).await.expect("it has one");
        write(&mut input, text.as_bytes()).await;
        // Dropped, not closed.
    }
    let mut output = link
        .follow_process(process, None)
        .await
        .expect("it is there");
    assert_eq!(
        event(&mut output).await,
        ProcessEvent::Stdout("onetwo\n".into())
    );
    link.process_input(process)
        .await
        .expect("still")
        .close()
        .await
        .expect("it reads the end");
    assert_eq!(refused(link.process_input(process)).await, "no_process");
    assert_eq!(rest(&mut output).await.0, b"end\n");
    // To a program that does not read, and then ends.
    let mut order = start("exec sleep 600");
    order.stdin = true;
    let (process, mut output, input) = link.exec(order).await.expect("it starts");
    let mut input = input.expect("it was asked for");
    let flood = async {
        loop {
            if input.write(Bytes::from_static(&[0; 50_000])).await.is_err() {
                return;
            }
        }
    };
    let kill = async {
        sleep(Duration::from_millis(100)).await;
        link.signal_process(process, 15).await.expect("it runs");
    };
    timeout(PATIENCE, async { tokio::join!(flood, kill) })
        .await
        .expect("it ends");
    assert_eq!(rest(&mut output).await.2.signal.as_deref(), Some("SIGTERM"));
}

#[tokio::test]
async fn a_slow_reader_holds_a_foreground_command_and_loses_nothing() {
    const LENGTH: usize = 3 << 20;
    let agent = Agent::start();
    let link = agent.link().await;
    let progress = agent.file("progress");
    let script = format!(
        "head -c {LENGTH} /dev/zero; echo err >&2; echo done > {}",
        progress.display()
    );
    let (process, mut output, _) = link.exec(start(&script)).await.expect("it starts");
    // The window, the agent's ring and the pipe are filled, and there it stands.
    let mut before = 0;
    loop {
        sleep(Duration::from_millis(200)).await;
        let end = link.process(process).await.expect("it runs").end;
        if end == before && end > 0 {
            break;
        }
        before = end;
    }
    assert!(
        !progress.exists() && before < (2 << 20),
        "it is held at {before}"
    );
    let (stdout, stderr, exit) = rest(&mut output).await;
    assert_eq!((stdout.len(), stderr.as_slice()), (LENGTH, &b"err\n"[..]));
    assert_eq!((exit, output.offset()), (code(0), LENGTH as u64 + 4));
}

#[tokio::test]
async fn a_foreground_command_ends_with_its_reader() {
    let agent = Agent::start();
    let link = agent.link().await;
    let script = "sleep 600 & echo $$ $!; wait";
    let (_, mut output, _) = link.exec(start(script)).await.expect("it starts");
    let ProcessEvent::Stdout(bytes) = event(&mut output).await else {
        panic!("no output");
    };
    let pids: Vec<Pid> = String::from_utf8_lossy(&bytes)
        .split_whitespace()
        .map(|pid| Pid::from_raw(pid.parse().expect("a number")).expect("a pid"))
        .collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| alive(*pid)));
    drop(output);
    eventually("killed", || !pids.iter().any(|pid| alive(*pid))).await;
    // What a command has left running when it ended is not the command.
    let (stdout, _, exit) = run(&link, start("sleep 600 & echo $!")).await;
    assert_eq!(exit, code(0));
    let left = Pid::from_raw(stdout.trim().parse().expect("a number")).expect("a pid");
    assert_eq!(run(&link, start("true")).await.2, code(0));
    assert!(alive(left), "it may be a server");
}

#[tokio::test]
async fn a_background_process_outlives_readers_and_links() {
    let mut agent = Agent::start();
    let link = agent.link().await;
    let script = "echo one; read line; echo two >&2; yes | head -c 600000; echo; read more; exit 7";
    let mut order = start(script);
    order.stdin = true;
    let process = link.start_process(order).await.expect("it starts");
    let mut output = link
        .follow_process(process, Some(0))
        .await
        .expect("it runs");
    assert_eq!(
        event(&mut output).await,
        ProcessEvent::Stdout("one\n".into())
    );
    drop(output);
    agent.hang_up();
    drop(link);
    agent.listen();
    let link = agent.link().await;
    let mut input = link.process_input(process).await.expect("it runs");
    write(&mut input, b"\n").await;
    // Nobody reads, and it runs on.
    let begun = Instant::now();
    let info = loop {
        let info = link.process(process).await.expect("it runs");
        if info.end == 600_009 {
            break info;
        }
        assert!(begun.elapsed() < PATIENCE, "{info:?}");
        sleep(Duration::from_millis(10)).await;
    };
    assert!(
        info.background && info.exit.is_none() && info.command.starts_with("/bin/sh -c echo one")
    );
    assert!(
        info.end - info.start >= OUTPUT_BYTES as u64 && info.start > 0,
        "{info:?}"
    );
    // Whoever comes late learns what is missing; others go on where they were.
    let mut late = link
        .follow_process(process, Some(4))
        .await
        .expect("it runs");
    let gap = ProcessEvent::Gap {
        from: 4,
        to: info.start,
    };
    assert_eq!(event(&mut late).await, gap);
    let mut on = link
        .follow_process(process, Some(info.end - 3))
        .await
        .expect("it runs");
    assert_eq!(event(&mut on).await, ProcessEvent::Stdout("y\n\n".into()));
    write(&mut input, b"\n").await;
    assert_eq!(rest(&mut on).await.2, code(7));
    assert_eq!(rest(&mut late).await.0.len() as u64, info.end - info.start);
    let ended = link.process(process).await.expect("it is kept");
    assert_eq!(ended.exit, Some(code(7)));
    assert_eq!(refused(link.signal_process(process, 9)).await, "no_process");
    assert_eq!(refused(link.signal_process(99, 9)).await, "no_process");
    assert_eq!(refused(link.follow_process(99, None)).await, "no_process");
    let known = link.processes().await.expect("a list");
    assert_eq!(
        known,
        [ProcessInfo {
            started_ms_ago: known[0].started_ms_ago,
            ..ended
        }]
    );
}

#[tokio::test]
async fn time_that_is_up_ends_a_process_and_what_it_has_started() {
    let agent = Agent::start();
    let link = agent.link().await;
    let timed = |script: &str| StartProcess {
        timeout_ms: Some(200),
        ..start(script)
    };
    let (_, _, exit) = run(&link, timed("exec sleep 600")).await;
    assert_eq!(
        (exit.signal.as_deref(), exit.timed_out),
        (Some("SIGTERM"), true)
    );
    let (stdout, _, exit) = run(
        &link,
        timed("trap 'echo bye; exit 5' TERM; while :; do sleep 0.01; done"),
    )
    .await;
    assert_eq!(
        (stdout.as_str(), exit.code, exit.timed_out),
        ("bye\n", Some(5), true)
    );
    // Those who will not hear.
    let stubborn =
        "trap '' TERM; (trap '' TERM; echo $$; exec sleep 600) & while :; do sleep 0.1; done";
    let (_, _, exit) = run(&link, timed(stubborn)).await;
    assert_eq!(
        (exit.signal.as_deref(), exit.timed_out),
        (Some("SIGKILL"), true)
    );
    let (_, _, exit) = run(&link, timed("exit 4")).await;
    assert_eq!(exit, code(4));
}

#[tokio::test]
async fn a_hundred_at_once_and_no_more_than_may_be() {
    let agent = Agent::start();
    let link = agent.link().await;
    let one = |number: usize| {
        let link = &link;
        async move {
            run(
                link,
                start(&format!("echo {number}; sleep 0.2; echo {number} >&2")),
            )
            .await
        }
    };
    let ends = futures::future::join_all((0..100).map(one)).await;
    for (number, (stdout, stderr, exit)) in ends.into_iter().enumerate() {
        let line = format!("{number}\n");
        assert_eq!((stdout, stderr, exit), (line.clone(), line, code(0)));
    }
    for _ in 0..MAX_PROCESSES {
        link.start_process(start("exec sleep 600"))
            .await
            .expect("there is room");
    }
    assert_eq!(
        refused(link.exec(start("true"))).await,
        "too_many_processes"
    );
    assert_eq!(link.processes().await.expect("a list").len(), MAX_PROCESSES);
    for info in link.processes().await.expect("a list") {
        link.signal_process(info.process, 9).await.expect("it runs");
    }
    // Each place is free again, and of the ended ones the newest are kept.
    let begun = Instant::now();
    while link.processes().await.expect("a list").len() > MAX_ENDED {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(run(&link, start("echo again")).await.0, "again\n");
    assert_eq!(refused(link.signal_process(1, 999)).await, "no_process");
}

#[tokio::test]
async fn a_program_finds_nothing_of_the_agents() {
    let agent = Agent::start();
    let link = agent.link().await;
    let process = link
        .start_process(start("exec sleep 600"))
        .await
        .expect("it starts");
    let script =
        "ls -l /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; ps -o pgid= -p $$; echo $$";
    let (stdout, _, exit) = run(&link, start(script)).await;
    assert_eq!(exit, code(0));
    for of_the_agent in ["socket:", "anon_inode:", "0 -> pipe:"] {
        assert!(!stdout.contains(of_the_agent), "{stdout}");
    }
    let lines: Vec<&str> = stdout.lines().map(str::trim).collect();
    let [.., blocked, ignored, group, own] = lines[..] else {
        panic!("{stdout}");
    };
    assert!(blocked.ends_with(":\t0000000000000000"), "{stdout}");
    // But for the two, 32 and 33, that the C library keeps for itself.
    let ignored = ignored.rsplit('\t').next().expect("a mask");
    let ignored = u64::from_str_radix(ignored, 16).expect("hexadecimal");
    assert_eq!(ignored & !(3 << 31), 0, "{stdout}");
    assert_eq!(group, own, "a group of its own");
    link.signal_process(process, 9).await.expect("it runs");
}

/// Something that the program left running holds its output; the end is told nevertheless.
#[tokio::test]
async fn what_is_left_running_does_not_hide_the_end() {
    let agent = Agent::start();
    let link = agent.link().await;
    for left in [
        "sleep 600 &",
        "yes &",
        "(while :; do echo x; sleep 0.01; done) &",
    ] {
        let (_, mut output, _) = link
            .exec(start(&format!("echo out; {left} exit 6")))
            .await
            .expect("it starts");
        let (stdout, _, exit) = rest(&mut output).await;
        assert!(stdout.starts_with(b"out\n") || left != "sleep 600 &");
        assert_eq!(exit, code(6), "{left}");
    }
}
