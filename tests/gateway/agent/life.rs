//! When it is over: the dead-man's switch, and signals.

use super::*;

/// A shell in a terminal that tells its pid and waits; the pid.
async fn program(link: &Link) -> Pid {
    let mut reader = Reader::open(link, shell("echo pid $$; exec sleep 600")).await;
    reader.until("pid ").await;
    let pid = reader.until("\r\n").await.trim().parse().expect("a pid");
    Pid::from_raw(pid).expect("a pid")
}

#[tokio::test]
async fn the_agent_ends_by_itself_at_its_deadline() {
    let begun = Instant::now();
    let mut agent = Agent::with("2", "600", |_| ());
    let link = agent.link().await;
    let pid = program(&link).await;
    assert!(agent.ended().await.success());
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert!(!alive(pid), "its programs end with it");
    timeout(PATIENCE, link.closed())
        .await
        .expect("the link ends too");
}

#[tokio::test]
async fn a_gateway_moves_the_deadline_both_ways() {
    let mut agent = Agent::with("1", "600", |_| ());
    let link = agent.link().await;
    assert!(link.welcome().deadline_ms <= 1000);
    link.set_deadline(Duration::from_secs(600))
        .await
        .expect("a link");
    sleep(Duration::from_millis(1500)).await;
    let pid = program(&link).await;
    link.set_deadline(Duration::ZERO).await.expect("a link");
    assert!(agent.ended().await.success());
    assert!(!alive(pid));
}

#[tokio::test]
async fn the_agent_ends_by_itself_when_there_is_no_gateway() {
    // None ever.
    let mut agent = Agent::with("600", "1", |_| ());
    agent.hang_up();
    assert!(agent.ended().await.success());

    // None any more. Coming back in time is enough; then it counts anew.
    let mut agent = Agent::with("600", "2", |_| ());
    let link = agent.link().await;
    let pid = program(&link).await;
    sleep(Duration::from_millis(2500)).await;
    drop(link);
    let link = agent.link().await;
    sleep(Duration::from_millis(2500)).await;
    assert!(alive(pid));
    agent.hang_up();
    let begun = Instant::now();
    drop(link);
    assert!(agent.ended().await.success());
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert!(!alive(pid));
}

/// A gateway that hangs still accepts connections (its kernel does), and one that is broken may
/// close them: neither is a gateway.
#[tokio::test]
async fn a_gateway_that_says_nothing_is_none() {
    let mut silent = Agent::with("600", "1", |_| ());
    let _held = silent.call().await;
    let mut broken = Agent::with("600", "1", |_| ());
    let hangs_up = async {
        loop {
            drop(
                broken
                    .listener
                    .as_ref()
                    .expect("it is there")
                    .accept()
                    .await,
            );
        }
    };
    tokio::select! {
        never = hangs_up => never,
        ended = timeout(PATIENCE, silent.child.wait()) => {
            assert!(ended.expect("in time").expect("it ends").success());
        }
    }
    assert!(broken.ended().await.success());
}

#[tokio::test]
async fn a_gateway_that_comes_back_finds_everything_as_it_was() {
    let mut agent = Agent::start();
    let link = agent.link().await;
    let mut reader = Reader::open(&link, open(&["/bin/sh"])).await;
    let typed = input(&link, reader.terminal, "echo be''fore; stty size\r").await;
    reader.until("before\r\n").await;
    let (terminal, offset) = (reader.terminal, reader.offset);
    agent.hang_up();
    drop((reader, typed, link));
    sleep(Duration::from_millis(300)).await;
    agent.listen();

    let link = agent.link().await;
    assert_eq!(link.welcome().sandbox, "test");
    assert_eq!(link.welcome().version, VERSION);
    let [info] = &link.welcome().terminals[..] else {
        panic!("{:?}", link.welcome());
    };
    assert_eq!(
        (info.terminal, info.start, &info.exit),
        (terminal, 0, &None)
    );
    assert!(info.end >= offset);
    let mut again = Reader::attach(&link, terminal, Some(offset), Some(HISTORY_BYTES), 0).await;
    input(&link, terminal, "echo af''ter\r").await;
    let seen = again.until("after\r\n").await;
    assert!(!seen.contains("before"), "{seen}");
    let mut whole = Reader::attach(&link, terminal, None, None, 0).await;
    let seen = whole.until("after\r\n").await;
    assert!(seen.contains("before") && seen.contains("24 80"), "{seen}");
}

#[tokio::test]
async fn signals_for_the_programs_are_passed_on_and_those_for_the_agent_end_it() {
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
        let agent = Agent::start();
        let link = agent.link().await;
        let script = "trap 'echo got it' HUP USR1 USR2; echo ready; while :; do sleep 0.05; done";
        let mut reader = Reader::open(&link, shell(script)).await;
        reader.until("ready").await;
        agent.signal(signal);
        reader.until("got it").await;
    }
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut agent = Agent::start();
        let link = agent.link().await;
        let file = agent.file("farewell");
        let script = format!(
            "trap 'echo bye >{}; exit' TERM; trap '' HUP; echo ready; while :; do sleep 0.05; done",
            file.display()
        );
        let mut reader = Reader::open(&link, shell(&script)).await;
        reader.until("ready").await;
        agent.signal(signal);
        let ended = agent.ended().await;
        assert!(ended.success(), "{signal:?}: {ended} {:?}", ended.signal());
        assert_eq!(std::fs::read_to_string(file).expect("it had time"), "bye\n");
    }
}

/// Nothing survives the agent, however it hides: background, another session, deaf to signals.
#[tokio::test]
async fn nothing_survives_the_end() {
    let mut agent = Agent::start();
    let link = agent.link().await;
    let script = "trap '' HUP TERM INT
        sleep 601 & echo pid $!.
        setsid sleep 602 & echo pid $!.
        (setsid sh -c 'echo pid $$.; trap \"\" TERM HUP; while :; do sleep 1; done' &)
        sleep 600";
    let mut reader = Reader::open(&link, shell(script)).await;
    let mut pids = Vec::new();
    while pids.len() < 3 {
        reader.until("pid ").await;
        let pid = reader.until(".").await.trim_end_matches('.').parse();
        pids.push(Pid::from_raw(pid.expect("a number")).expect("a pid"));
    }
    link.terminate().await.expect("a link");
    assert!(agent.ended().await.success());
    let left: Vec<_> = pids.into_iter().filter(|pid| alive(*pid)).collect();
    assert!(left.is_empty(), "{left:?}");
}
