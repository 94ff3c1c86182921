//! Sharing: guests who watch or type, and those who try more than they may.

use std::time::Duration;

use belljar::config::Config;
use serde_json::{Value, json};

use crate::harness::{Client, TestGateway, visits};

visits! {
    on processes, cluster: {
        a_guest_sees_everything_and_types_nothing,
        a_guest_may_type_if_the_owner_says_so,
        the_size_is_the_owners,
        a_revoked_share_closes_its_viewers_and_no_others,
        a_shares_token_is_no_sessions_token,
        shares_and_viewers_are_bounded,
        a_slow_guest_costs_only_itself,
        guests_neither_keep_an_idle_session_nor_end_it,
        guests_learn_how_the_shell_ended_and_owners_come_and_go,
        a_guest_who_types_too_fast_is_slowed_with_the_owner,
        viewers_are_counted,
    }
}

/// A share of the client's session: its id and its token.
pub async fn share(gateway: &TestGateway, owner: &Client, mode: &str) -> (String, String) {
    let (status, share) = shares(gateway, owner, "POST", json!({ "mode": mode })).await;
    assert_eq!(status, 201, "{share}");
    let text = |name: &str| share[name].as_str().expect("text").to_owned();
    assert_eq!(share["mode"], mode);
    assert_eq!(
        share["path"],
        format!("/#share={}&session={}", text("token"), owner.session)
    );
    (text("share"), text("token"))
}

async fn shares(gateway: &TestGateway, owner: &Client, method: &str, body: Value) -> (u16, Value) {
    let path = format!("/sessions/{}/shares", owner.session);
    let bearer = format!("Bearer {}", owner.token);
    gateway
        .json(method, &path, &[("authorization", &bearer)], body)
        .await
}

async fn revoke(gateway: &TestGateway, owner: &Client, share: &str) -> u16 {
    let path = format!("/sessions/{}/shares/{share}", owner.session);
    let bearer = format!("Bearer {}", owner.token);
    let headers = [("authorization", bearer.as_str())];
    gateway.json("DELETE", &path, &headers, Value::Null).await.0
}

/// A guest at the session, who has been told `ready`.
pub async fn guest(gateway: &TestGateway, owner: &Client, token: &str) -> (Client, Value) {
    let mut guest = gateway.resume(&owner.session, token, None).await;
    let ready = guest.ready().await;
    (guest, ready)
}

async fn told_viewers(owner: &mut Client, count: u64) {
    while owner.told("viewers").await["count"] != count {}
}

pub async fn a_guest_sees_everything_and_types_nothing(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut owner = gateway.visit().await;
    owner.run("echo before").await;
    let (_, token) = share(&gateway, &owner, "read").await;
    let (mut watcher, ready) = guest(&gateway, &owner, &token).await;
    assert_eq!(ready["readOnly"], true);
    assert_eq!(ready["token"], token.as_str(), "not the owner's");
    assert_eq!(ready["offset"], 0);
    watcher.until("before\r\n").await;
    told_viewers(&mut owner, 1).await;

    for keys in ["touch /tmp/never\r", "exit\r", "\x03"] {
        watcher.input(keys).await;
    }
    assert_eq!(watcher.told("notice").await["code"], "read_only");
    assert_eq!(owner.run("echo after").await, "after\n[0]");
    watcher.until("after\r\n").await;
    // The answer to this comes after those to the keys: there was one.
    watcher.send(json!({"type": "ping", "id": 1})).await;
    watcher.told("pong").await;
    assert!(watcher.told.is_empty(), "{:?}", watcher.told);

    drop(watcher);
    told_viewers(&mut owner, 0).await;
    owner.send(json!({"type": "close"})).await;
    owner.closed().await;
    gateway.assert_empty().await;
    gateway.stop().await;
}

pub async fn a_guest_may_type_if_the_owner_says_so(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut owner = gateway.visit().await;
    let (_, token) = share(&gateway, &owner, "write").await;
    let (mut typist, ready) = guest(&gateway, &owner, &token).await;
    assert_eq!(ready["readOnly"], false);
    typist.until("$ ").await;
    assert_eq!(typist.run("echo from $((40 + 2))").await, "from 42\n[0]");
    owner.until("from 42\r\n").await;
    // But the session is not the guest's.
    typist.send(json!({"type": "close"})).await;
    assert_eq!(typist.told("notice").await["code"], "owner_only");
    assert_eq!(typist.run("echo on").await, "on\n[0]");
    gateway.stop().await;
}

pub async fn the_size_is_the_owners(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut owner = gateway.visit().await;
    let (_, token) = share(&gateway, &owner, "write").await;
    let (mut typist, ready) = guest(&gateway, &owner, &token).await;
    assert_eq!((&ready["cols"], &ready["rows"]), (&json!(80), &json!(24)));
    typist
        .send(json!({"type": "resize", "cols": 30, "rows": 5}))
        .await;
    typist.until("$ ").await;
    assert_eq!(typist.run("stty size").await, "24 80\n[0]");
    owner
        .send(json!({"type": "resize", "cols": 100, "rows": 30}))
        .await;
    let size = typist.told("size").await;
    assert_eq!((&size["cols"], &size["rows"]), (&json!(100), &json!(30)));
    assert_eq!(typist.run("stty size").await, "30 100\n[0]");
    gateway.stop().await;
}

pub async fn a_revoked_share_closes_its_viewers_and_no_others(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut owner = gateway.visit().await;
    let (first, first_token) = share(&gateway, &owner, "read").await;
    let (_, second_token) = share(&gateway, &owner, "write").await;
    let (one, _) = guest(&gateway, &owner, &first_token).await;
    let (two, _) = guest(&gateway, &owner, &first_token).await;
    let (mut three, _) = guest(&gateway, &owner, &second_token).await;
    let (status, list) = shares(&gateway, &owner, "GET", Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!(list["shares"][0]["viewers"], 2);
    assert_eq!(list["shares"][1]["viewers"], 1);
    assert!(!list.to_string().contains(&first_token));
    let path = format!("/sessions/{}?token={}", owner.session, owner.token);
    let (_, session) = gateway.json("GET", &path, &[], Value::Null).await;
    assert_eq!(session["viewers"], 3);

    // One of them is being sent more than it reads.
    owner
        .input("head -c 3000000 /dev/zero | tr '\\0' x\r")
        .await;
    assert_eq!(revoke(&gateway, &owner, &first).await, 200);
    for mut watcher in [one, two] {
        assert_eq!(watcher.closed().await, 4003);
        let error = watcher.told.pop().expect("a reason");
        assert_eq!(error["code"], "share_revoked");
        assert_eq!(error["message"], "This terminal is not shared any more.");
    }
    owner.until("$ ").await;
    three.until("$ ").await;
    assert_eq!(three.run("echo still").await, "still\n[0]");
    told_viewers(&mut owner, 1).await;

    assert_eq!(revoke(&gateway, &owner, &first).await, 404);
    let mut late = gateway.resume(&owner.session, &first_token, None).await;
    assert_eq!(late.told("error").await["code"], "token_refused");
    assert_eq!(late.closed().await, 4003);
    gateway.stop().await;
}

pub async fn a_shares_token_is_no_sessions_token(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut owner = gateway.visit().await;
    let other = gateway.visit().await;
    let (id, token) = share(&gateway, &owner, "write").await;
    let session = format!("/sessions/{}", owner.session);
    let bearer = format!("Bearer {token}");
    for (method, path) in [
        ("GET", session.clone()),
        ("DELETE", session.clone()),
        ("POST", format!("{session}/destroy")),
        ("GET", format!("{session}/recording")),
        ("GET", format!("{session}/shares")),
        ("POST", format!("{session}/shares")),
        ("DELETE", format!("{session}/shares/{id}")),
    ] {
        let creation = path.ends_with("/shares") && method == "POST";
        let body = if creation {
            json!({"mode": "read"})
        } else {
            Value::Null
        };
        let headers = [("authorization", bearer.as_str())];
        let (status, answer) = gateway.json(method, &path, &headers, body.clone()).await;
        assert_eq!(status, 403, "{method} {path}");
        assert_eq!(answer["error"], "token_refused");
        let (status, _) = gateway.json(method, &path, &[], body).await;
        assert_eq!(status, 401, "{method} {path} without a token");
    }
    // Nor one of another session, nor is another session's a key to this one's shares.
    let mut stranger = gateway.resume(&other.session, &token, None).await;
    assert_eq!(stranger.told("error").await["code"], "token_refused");
    assert_eq!(stranger.closed().await, 4003);
    let path = format!("{session}/shares?token={}", other.token);
    assert_eq!(gateway.json("GET", &path, &[], Value::Null).await.0, 403);
    assert_eq!(owner.run("echo mine").await, "mine\n[0]");
    gateway.stop().await;
}

pub async fn shares_and_viewers_are_bounded(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut owner = gateway.visit().await;
    let (first, token) = share(&gateway, &owner, "read").await;
    for _ in 1..belljar::session::MAX_SHARES {
        share(&gateway, &owner, "read").await;
    }
    let (status, answer) = shares(&gateway, &owner, "POST", json!({"mode": "read"})).await;
    assert_eq!(status, 429);
    assert_eq!(answer["error"], "too_many_shares");
    for body in [
        json!({}),
        json!({"mode": "admin"}),
        json!(["read"]),
        json!({"mode": 1}),
    ] {
        let (status, answer) = shares(&gateway, &owner, "POST", body).await;
        assert!(matches!(status, 400 | 422), "{status} {answer}");
        let message = answer["message"].as_str().expect("text");
        assert!(message.starts_with("mode takes read or write"), "{message}");
    }

    let mut guests = Vec::new();
    for _ in 0..belljar::session::MAX_VIEWERS {
        guests.push(guest(&gateway, &owner, &token).await.0);
    }
    let mut late = gateway.resume(&owner.session, &token, None).await;
    assert_eq!(late.told("error").await["code"], "too_many_viewers");
    assert_eq!(late.closed().await, 4030);
    assert_eq!(owner.run("echo busy").await, "busy\n[0]");
    for guest in &mut guests {
        guest.until("busy\r\n").await;
    }
    guests.pop();
    told_viewers(&mut owner, belljar::session::MAX_VIEWERS as u64 - 1).await;
    guest(&gateway, &owner, &token).await;
    assert_eq!(revoke(&gateway, &owner, &first).await, 200);
    share(&gateway, &owner, "read").await;
    gateway.stop().await;
}

pub async fn a_slow_guest_costs_only_itself(config: Config) {
    const FLOOD: usize = 4_000_000;
    let gateway = TestGateway::with(config).await;
    let mut owner = gateway.visit().await;
    let (_, token) = share(&gateway, &owner, "read").await;
    // One acknowledges nothing, the other does not even read its socket.
    let (mut silent, _) = guest(&gateway, &owner, &token).await;
    silent.acknowledge = false;
    let (deaf, _) = guest(&gateway, &owner, &token).await;
    let seen = owner
        .run(&format!("head -c {FLOOD} /dev/zero | tr '\\0' x"))
        .await;
    assert_eq!(seen.len(), FLOOD + "[0]".len());
    assert!(seen.starts_with('x'), "{}", &seen[..9]);

    // It is given a window of output and no more, until it says that it has processed that.
    while silent.offset < 262_144 {
        silent.hear().await;
    }
    silent.acknowledge = true;
    silent
        .send(json!({"type": "ack", "offset": silent.offset}))
        .await;
    let gap = silent.told("gap").await;
    let (from, to) = (gap["from"].as_u64(), gap["to"].as_u64());
    assert!(from < to, "{gap}");
    assert_eq!(owner.run("echo the end").await, "the end\n[0]");
    silent.until("the end\r\n").await;
    // The prompt may come in a piece of its own.
    while silent.offset < owner.offset {
        silent.hear().await;
    }
    assert_eq!(silent.offset, owner.offset);
    drop(deaf);
    gateway.stop().await;
}

pub async fn guests_neither_keep_an_idle_session_nor_end_it(mut config: Config) {
    config.limits.idle_timeout = Duration::from_secs(2);
    let gateway = TestGateway::with(config).await;
    let mut owner = gateway.visit().await;
    let (_, read) = share(&gateway, &owner, "read").await;
    let (_, write) = share(&gateway, &owner, "write").await;
    let (mut watcher, _) = guest(&gateway, &owner, &read).await;
    let (mut typist, _) = guest(&gateway, &owner, &write).await;
    // Typing counts, whoever types.
    for _ in 0..2 {
        assert_eq!(owner.told("notice").await["code"], "idle_warning");
        typist.input("#").await;
    }
    // Guests who go do not detach the owner; guests who stay do not keep the session.
    drop(typist);
    told_viewers(&mut owner, 1).await;
    watcher.send(json!({"type": "extend"})).await;
    watcher.input("x").await;
    assert_eq!(owner.told("notice").await["code"], "idle_warning");
    watcher.send(json!({"type": "extend"})).await;
    watcher.input("x").await;
    for mut client in [owner, watcher] {
        assert_eq!(client.told("exit").await["reason"], "idle_timeout");
        assert_eq!(client.closed().await, 4008);
    }
    gateway.assert_empty().await;
    gateway.stop().await;
}

pub async fn guests_learn_how_the_shell_ended_and_owners_come_and_go(config: Config) {
    let gateway = TestGateway::with(config).await;
    let owner = gateway.visit().await;
    let (_, token) = share(&gateway, &owner, "write").await;
    let (mut typist, _) = guest(&gateway, &owner, &token).await;
    typist.until("$ ").await;
    // The owner is lost for a while; the guest goes on.
    let (session, own_token, offset) = owner.cut();
    assert_eq!(typist.run("echo alone").await, "alone\n[0]");
    let mut owner = gateway.resume(&session, &own_token, Some(offset)).await;
    owner.ready().await;
    owner.until("alone\r\n").await;
    assert_eq!(owner.told("viewers").await["count"], 1);
    typist.input("exit 7\r").await;
    for mut client in [owner, typist] {
        let exit = client.told("exit").await;
        assert_eq!(
            (&exit["reason"], &exit["code"]),
            (&json!("exited"), &json!(7))
        );
        assert_eq!(client.closed().await, 1000);
    }
    gateway.assert_empty().await;
    // Whoever comes later is told, too; and nothing new is shared of what is over.
    let mut late = gateway.resume(&session, &token, None).await;
    assert_eq!(late.told("exit").await["reason"], "exited");
    let path = format!("/sessions/{session}/shares?token={own_token}");
    let (status, _) = gateway
        .json("POST", &path, &[], json!({"mode": "read"}))
        .await;
    assert_eq!(status, 404);
    gateway.stop().await;
}

pub async fn a_guest_who_types_too_fast_is_slowed_with_the_owner(mut config: Config) {
    config.limits.commands_per_minute = 2;
    let gateway = TestGateway::with(config).await;
    let owner = gateway.visit().await;
    let (_, token) = share(&gateway, &owner, "write").await;
    let (mut typist, _) = guest(&gateway, &owner, &token).await;
    for _ in 0..3 {
        typist.input(":\r").await;
    }
    assert_eq!(typist.told("notice").await["code"], "input_slowed");
    gateway.stop().await;
}

pub async fn viewers_are_counted(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut owner = gateway.visit().await;
    let (_, token) = share(&gateway, &owner, "read").await;
    let (watcher, _) = guest(&gateway, &owner, &token).await;
    let (_, metrics) = gateway.http("GET", "/metrics", &[], "").await;
    assert!(
        metrics.contains("belljar_viewers{mode=\"read\"} 1"),
        "{metrics}"
    );
    drop(watcher);
    told_viewers(&mut owner, 1).await;
    told_viewers(&mut owner, 0).await;
    let (_, metrics) = gateway.http("GET", "/metrics", &[], "").await;
    assert!(metrics.contains("belljar_viewers{mode=\"read\"} 0"));
    gateway.stop().await;
}
