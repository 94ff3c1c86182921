//! Leaving and coming back: not one byte lost or repeated, and the clocks that end what nobody
//! comes back to.

use std::path::PathBuf;
use std::time::Duration;

use belljar::config::Config;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use crate::harness::{Client, Heard, TestGateway, process_config, visits};

visits! {
    on processes, cluster: {
        without_an_offset_everything_held_is_shown_again,
        who_stays_away_too_long_is_told_what_is_missing,
        what_is_under_way_at_a_cut_is_not_dropped_for_a_while,
        a_second_viewer_takes_over,
        an_exit_while_nobody_looks_is_shown_to_who_comes_back,
        who_comes_back_after_the_end_learns_why,
        a_ping_goes_to_the_agent_and_back,
        the_idle_are_warned_and_then_ended,
        to_say_i_am_still_here_is_enough,
        the_lost_are_waited_for_and_then_given_up,
        an_offset_from_the_future_is_brought_back,
        an_offset_names_a_byte,
        a_smaller_window_holds_the_program_earlier,
    }
}

/// How long a program is held for a lost visitor (`session::HOLD`), and a little.
const HOLD: Duration = Duration::from_millis(15_500);

/// A window smaller than the usual one, bytes.
const WINDOW: u64 = 8192;

/// A file of this test's own; removed on drop.
struct Prepared(PathBuf);

impl Prepared {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("belljar-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).expect("room for a file");
        Self(path)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Bytes without a pattern (xorshift), the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Show `bytes` through a visitor whose connection breaks `cuts` times; they arrive as they are.
async fn survives_cuts(name: &str, bytes: &[u8], cuts: usize) {
    let file = Prepared::new(name, bytes);
    let gateway = TestGateway::process().await;
    let mut client = gateway.visit().await;
    let path = file.0.display();
    client
        .input(format!("stty raw -echo; printf 'be''gin'; cat {path}\r"))
        .await;
    client.until("begin").await;
    let mut digest = Sha256::new();
    let mut rest = bytes.len();
    let mut take = |client: &mut Client, rest: &mut usize| {
        let output = std::mem::take(&mut client.output);
        let length = output.len().min(*rest);
        digest.update(&output[..length]);
        *rest -= length;
    };
    take(&mut client, &mut rest);
    for cut in 1..=cuts + 1 {
        let goal = bytes.len() - bytes.len() / (cuts + 1) * cut;
        while rest > 0 && (rest > goal || cut > cuts) {
            match client.hear().await {
                Heard::Output(output) => {
                    client.output.extend(output);
                    take(&mut client, &mut rest);
                }
                other => panic!("{other:?} with {rest} bytes to come"),
            }
        }
        if cut <= cuts {
            // In the middle of a flood, with much under way and unacknowledged.
            let (session, token, offset) = client.cut();
            client = gateway.resume(&session, &token, Some(offset)).await;
            let ready = client.ready().await;
            assert_eq!(ready["offset"].as_u64(), Some(offset), "cut {cut}");
        }
    }
    let expected = Sha256::digest(bytes);
    assert_eq!(digest.finalize()[..], expected[..]);
    gateway.stop().await;
}

#[tokio::test]
async fn fifty_megabytes_of_noise_survive_twenty_cuts() {
    survives_cuts("noise", &noise(50_000_000), 20).await;
}

#[tokio::test]
async fn four_byte_characters_survive_twenty_cuts() {
    let text: String = "🫙𝄞🧪🐚".chars().cycle().take(3_000_000).collect();
    survives_cuts("text", text.as_bytes(), 20).await;
}

pub async fn without_an_offset_everything_held_is_shown_again(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    client.run("x=42; echo before").await;
    let (session, token, _) = client.cut();
    let mut client = gateway.resume(&session, &token, None).await;
    assert_eq!(client.ready().await["offset"], 0);
    client.until("before\r\n").await;
    client.until("$ ").await;
    assert_eq!(client.run("echo $x").await, "42\n[0]", "the same shell");
    gateway.stop().await;
}

pub async fn who_stays_away_too_long_is_told_what_is_missing(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    client.acknowledge = false;
    client.input("seq 1 200000; echo do''ne\r").await;
    let early = client.until("\r\n1000\r\n").await;
    assert!(early.contains("\r\n999\r\n"));
    let (session, token, offset) = client.cut();
    // The program is held for a while, then runs on and outgrows the history.
    sleep(HOLD).await;
    let mut client = gateway.resume(&session, &token, Some(offset)).await;
    client.ready().await;
    let gap = client.told("gap").await;
    assert_eq!(gap["from"].as_u64(), Some(offset));
    let to = gap["to"].as_u64().expect("a number");
    assert!(to > offset);
    let rest = client.until("done\r\n").await;
    // What is left is the end, without a break.
    let numbers: Vec<u32> = rest.lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(numbers.last(), Some(&200_000));
    let whole = numbers
        .windows(2)
        .skip(1)
        .all(|pair| pair[1] == pair[0] + 1);
    assert!(whole, "the numbers after the gap have no other gap");
    gateway.stop().await;
}

pub async fn what_is_under_way_at_a_cut_is_not_dropped_for_a_while(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    client.input("seq 1 200000; echo do''ne\r").await;
    client.until("\r\n1000\r\n").await;
    let (session, token, offset) = client.cut();
    sleep(Duration::from_secs(2)).await;
    let mut client = gateway.resume(&session, &token, Some(offset)).await;
    assert_eq!(client.ready().await["offset"].as_u64(), Some(offset));
    client.until("done\r\n").await;
    assert!(client.told.iter().all(|told| told["type"] != "gap"));
    gateway.stop().await;
}

pub async fn a_second_viewer_takes_over(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut first = gateway.visit().await;
    first.run("x=42").await;
    let (session, token) = (first.session.clone(), first.token.clone());
    let mut second = gateway.resume(&session, &token, None).await;
    second.ready().await;
    assert_eq!(first.told("notice").await["code"], "taken_over");
    assert_eq!(first.closed().await, 4001);
    second.until("x=42").await;
    second.until("$ ").await;
    assert_eq!(second.run("echo $x").await, "42\n[0]");
    gateway.stop().await;
}

pub async fn an_exit_while_nobody_looks_is_shown_to_who_comes_back(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    client.input("sleep 0.3; echo last words; exit 5\r").await;
    let (session, token, offset) = client.cut();
    sleep(Duration::from_millis(600)).await;
    let mut client = gateway.resume(&session, &token, Some(offset)).await;
    client.ready().await;
    client.until("last words\r\n").await;
    assert_eq!(client.told("exit").await["code"], 5);
    assert_eq!(client.closed().await, 1000);
    gateway.stop().await;
}

pub async fn who_comes_back_after_the_end_learns_why(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    client.send(json!({"type": "close"})).await;
    assert_eq!(client.told("exit").await["reason"], "closed");
    let (session, token, _) = client.cut();
    let mut client = gateway.resume(&session, &token, None).await;
    assert_eq!(client.told("exit").await["reason"], "closed");
    assert_eq!(client.closed().await, 1000);
    gateway.stop().await;
}

pub async fn a_ping_goes_to_the_agent_and_back(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    for id in [1, 7, u64::MAX] {
        client.send(json!({"type": "ping", "id": id})).await;
        assert_eq!(client.told("pong").await["id"].as_u64(), Some(id));
    }
    gateway.stop().await;
}

async fn with_limits(change: impl FnOnce(&mut Config)) -> TestGateway {
    let mut config = process_config();
    change(&mut config);
    TestGateway::with(config).await
}

pub async fn the_idle_are_warned_and_then_ended(mut config: Config) {
    config.limits.idle_timeout = Duration::from_secs(2);
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    let warning = client.told("notice").await;
    assert_eq!(warning["code"], "idle_warning");
    let left = warning["remainingMs"].as_u64().expect("a number");
    assert!((1..=500).contains(&left), "{left}");
    assert_eq!(client.told("exit").await["reason"], "idle_timeout");
    assert_eq!(client.closed().await, 4008);
    gateway.assert_empty().await;
    gateway.stop().await;
}

pub async fn to_say_i_am_still_here_is_enough(mut config: Config) {
    config.limits.idle_timeout = Duration::from_secs(2);
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    // Three periods long, by nothing but `extend`; then by typing.
    for _ in 0..3 {
        assert_eq!(client.told("notice").await["code"], "idle_warning");
        client.send(json!({"type": "extend"})).await;
    }
    assert_eq!(client.told("notice").await["code"], "idle_warning");
    assert_eq!(client.run("echo here").await, "here\n[0]");
    assert_eq!(client.told("notice").await["code"], "idle_warning");
    gateway.stop().await;
}

#[tokio::test]
async fn nothing_prolongs_the_longest_time() {
    let gateway = with_limits(|c| c.limits.max_duration = Duration::from_secs(2)).await;
    let mut client = gateway.visit().await;
    client.send(json!({"type": "extend"})).await;
    assert_eq!(client.told("notice").await["code"], "expiry_warning");
    client.send(json!({"type": "extend"})).await;
    assert_eq!(client.told("exit").await["reason"], "max_duration");
    assert_eq!(client.closed().await, 4009);
    gateway.assert_empty().await;
    gateway.stop().await;
}

pub async fn the_lost_are_waited_for_and_then_given_up(mut config: Config) {
    config.limits.detach_timeout = Duration::from_secs(1);
    let gateway = TestGateway::with(config).await;
    let client = gateway.visit().await;
    let (session, token, offset) = client.cut();
    gateway.assert_empty().await;
    let mut client = gateway.resume(&session, &token, Some(offset)).await;
    assert_eq!(client.told("exit").await["reason"], "detach_timeout");
    assert_eq!(client.closed().await, 4008);
    gateway.stop().await;
}

pub async fn an_offset_from_the_future_is_brought_back(config: Config) {
    let gateway = TestGateway::with(config).await;
    let client = gateway.visit().await;
    let (session, token, offset) = client.cut();
    let mut client = gateway
        .resume(&session, &token, Some(offset + 1_000_000))
        .await;
    assert_eq!(client.ready().await["offset"].as_u64(), Some(offset));
    assert_eq!(client.run("echo fine").await, "fine\n[0]");
    gateway.stop().await;
}

pub async fn an_offset_names_a_byte(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    client
        .input("stty -echo; printf '%s' STA''RT abcdefghij EN''D\r")
        .await;
    client.until("START").await;
    let from = client.offset - client.output.len() as u64;
    client.until("END").await;
    let (session, token, _) = client.cut();
    for skip in [0, 3, 9] {
        let from = from + skip;
        let path = format!("/sessions/{session}/ws?token={token}&from={from}");
        let mut client = gateway.connect(&path).await;
        assert_eq!(client.ready().await["offset"].as_u64(), Some(from));
        let seen = client.until("END").await;
        assert_eq!(
            seen,
            format!("{}END", &"abcdefghij"[usize::try_from(skip).unwrap()..])
        );
    }
    gateway.stop().await;
}

pub async fn a_smaller_window_holds_the_program_earlier(config: Config) {
    let gateway = TestGateway::with(config).await;
    let client = gateway.visit().await;
    let (session, token, offset) = client.cut();
    let mut client = gateway.connect(&format!("/sessions/{session}/ws")).await;
    client.acknowledge = false;
    client
        .send(json!({"type": "attach", "token": token, "from": offset, "window": WINDOW}))
        .await;
    client.ready().await;
    client.input("yes\r").await;
    while client.offset < offset + WINDOW {
        client.hear().await;
    }
    // A pong that has been to the agent comes behind everything that was let out.
    client.send(json!({"type": "ping", "id": 1})).await;
    client.told("pong").await;
    assert_eq!(client.offset, offset + WINDOW);
    client
        .send(json!({"type": "ack", "offset": offset + 1000}))
        .await;
    while client.offset < offset + WINDOW + 1000 {
        client.hear().await;
    }
    assert_eq!(client.offset, offset + WINDOW + 1000);
    gateway.stop().await;
}
