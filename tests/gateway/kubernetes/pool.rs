//! The pool that gateways of an instance have together.

use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use tokio::time::sleep;

use super::{Instance, PLACES, place, places};
use crate::harness::{Client, Heard, TestGateway};
use crate::sealed::say;
use crate::sealed::serve::Served;

/// How long a pool may take to be full: a few seconds for each member, on a busy machine.
const FULL: Duration = Duration::from_secs(120);

/// How long another gateway may take to fill the pool once the one that did is gone: the lease's 15 s, a look
/// every 3 s, a start.
const INHERITED: Duration = Duration::from_secs(60);

/// Wait until a gateway knows of so many members that wait.
async fn full(gateway: &TestGateway, members: usize) {
    let begun = Instant::now();
    while gateway.app.sandboxes.in_pools() != members {
        let has = gateway.app.sandboxes.in_pools();
        assert!(begun.elapsed() < FULL, "{has} of {members} wait");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Sessions of a gateway that have begun with a sandbox that was started ahead.
async fn warm(gateway: &TestGateway) -> usize {
    let (_, metrics) = gateway.http("GET", "/metrics", &[], "").await;
    let line = "belljar_pool_claims_total{start=\"warm\"} ";
    let value = metrics.lines().find_map(|text| text.strip_prefix(line));
    value.map_or(0, |value| value.parse().expect("a number"))
}

async fn close(mut client: Client) {
    client.send(json!({"type": "close"})).await;
    assert_eq!(client.closed().await, 1000);
}

#[tokio::test]
async fn any_gateway_claims_what_one_of_them_has_started() {
    let Some(_place) = place().await else { return };
    let instance = Instance::new();
    let config = |replica: &str| {
        let mut config = instance.config(replica);
        let template = config.templates.get_mut("base").expect("a base");
        // Eight at once, beside another test's, on two processors.
        (template.pool, template.cpus) = (2, 0.1);
        config
    };
    let one = TestGateway::with(config("one")).await;
    full(&one, 2).await;
    let other = TestGateway::with(config("other")).await;
    // A fair share: one each.
    for replica in ["one", "other"] {
        holds_one(&instance, replica).await;
    }
    full(&other, 2).await;
    // Nobody has them yet: they take no place.
    assert_eq!(
        (one.app.sandboxes.count(), other.app.sandboxes.count()),
        (0, 0)
    );

    let begun = Instant::now();
    let mut first = other.visit().await;
    say!(
        "at the prompt of another gateway's making, and held, after {:.0?}",
        begun.elapsed()
    );
    let second = one.visit().await;
    assert_eq!((warm(&one).await, warm(&other).await), (1, 1));
    assert_eq!(first.run("x=42; echo $x").await, "42\n[0]");
    // It is a session like all others: any gateway may have it.
    let (session, token) = (first.session.clone(), first.token.clone());
    let mut back = one.resume(&session, &token, Some(first.offset)).await;
    back.ready().await;
    assert_eq!(first.closed().await, 4001);
    assert_eq!(back.run("echo $x").await, "42\n[0]");
    full(&other, 2).await;

    // Of another template now: what waits is not that, and whoever fills the pool replaces it.
    let mut changed = config("third");
    let template = changed.templates.get_mut("base").expect("a base");
    template.env.insert("COLOUR".into(), "blue".into());
    let third = TestGateway::with(changed).await;
    full(&third, 2).await;
    let mut blue = third.visit().await;
    assert_eq!(warm(&third).await, 0);
    assert_eq!(blue.run("echo $COLOUR").await, "blue\n[0]");
    for client in [back, second, blue] {
        close(client).await;
    }
    one.stop().await;
    other.stop().await;
    // The office is the third's, at last.
    let begun = Instant::now();
    let mut blue = loop {
        let client = third.visit().await;
        if warm(&third).await == 1 {
            break client;
        }
        close(client).await;
        assert!(begun.elapsed() < FULL, "nothing blue was started ahead");
    };
    assert_eq!(blue.run("echo $COLOUR").await, "blue\n[0]");
    close(blue).await;
    full(&third, 2).await;
    third.stop().await;
    instance.assert_gone().await;
}

#[tokio::test]
async fn whoever_fills_the_pool_may_be_killed() {
    let Some(_place) = place().await else { return };
    let instance = Instance::new();
    let settings = [("BELLJAR_TEMPLATES__BASE__POOL", "1")];
    let first = Served::start_in(instance.replica("first"), &settings).await;
    let mut config = instance.config("second");
    let template = config.templates.get_mut("base").expect("a base");
    (template.pool, template.cpus) = (1, 0.1);
    let begun = Instant::now();
    while instance
        .pods()
        .await
        .iter()
        .filter(|pod| waits(pod))
        .count()
        < 1
    {
        assert!(begun.elapsed() < FULL, "nothing is started ahead");
        sleep(Duration::from_millis(100)).await;
    }
    let second = TestGateway::with(config).await;
    let before = names(&instance).await;
    assert_eq!(before.len(), 1, "one of them fills the pool");
    drop(first.kill().await);
    let begun = Instant::now();
    // Its template is another, so what waits is replaced by whoever has the office next.
    loop {
        let now = names(&instance).await;
        if now.len() == 1 && now != before {
            break;
        }
        assert!(
            begun.elapsed() < INHERITED,
            "nobody else fills the pool: {now:?}"
        );
        sleep(Duration::from_millis(100)).await;
    }
    say!(
        "another gateway fills the pool {:.1?} after a kill",
        begun.elapsed()
    );
    second.stop().await;
    instance.assert_gone().await;
}

/// Wait until a gateway has a link to exactly one member that waits.
async fn holds_one(instance: &Instance, replica: &str) {
    let holder = format!("{replica}-");
    let holds = |pod: &&Pod| {
        let its = pod.annotations().get("belljar.dev/holder");
        waits(pod) && its.is_some_and(|its| its.starts_with(&holder))
    };
    let begun = Instant::now();
    loop {
        let pods = instance.pods().await;
        let held = pods.iter().filter(holds).count();
        if held == 1 {
            return;
        }
        assert!(begun.elapsed() < FULL, "{replica} holds {held}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn waits(pod: &Pod) -> bool {
    pod.annotations().contains_key("belljar.dev/terminal")
}

/// The members that wait.
async fn names(instance: &Instance) -> Vec<String> {
    let pods = instance.pods().await;
    pods.iter()
        .filter(|pod| waits(pod))
        .map(ResourceExt::name_any)
        .collect()
}

/// Visitors at once.
const CLIENTS: usize = 50;

/// Sandboxes that wait for them.
const POOL: usize = 5;

/// Sandboxes that each gateway may have: 50 of gVisor's pods are more than two processors start while anybody
/// waits, so the others stand in line.
const EACH: usize = 4;

/// What became of a visitor.
enum Fate {
    /// A shell; whether the sandbox had been somebody's before.
    Served(Box<Client>, bool),
    /// A place in line.
    Queued(Box<Client>),
}

/// Come, and see whether the sandbox is fresh.
async fn arrive(gateway: &TestGateway) -> Fate {
    let mut client = gateway.connect("/ws?cols=80&rows=24").await;
    loop {
        match client.hear().await {
            Heard::Told(told) if told["type"] == "ready" => {
                client.told.push(told);
                client.ready().await;
                break;
            }
            Heard::Told(told) if told["type"] == "queued" => return Fate::Queued(Box::new(client)),
            Heard::Told(told) => client.told.push(told),
            Heard::Output(_) => panic!("output before the terminal is ready"),
            Heard::Closed(code) => panic!("refused with {code}: {:?}", client.told),
        }
    }
    let fresh = mark(&mut client).await;
    Fate::Served(Box::new(client), fresh)
}

/// Claim the sandbox from inside: one of all who try it can.
async fn mark(client: &mut Client) -> bool {
    client.until("$ ").await;
    client.run("mkdir ~/mine").await == "[0]"
}

#[tokio::test]
async fn two_gateways_and_fifty_visitors_race_for_a_pool_of_five() {
    let Some(_places) = places(PLACES).await else {
        return;
    };
    let rounds = std::env::var("BELLJAR_TEST_RACE_ROUNDS");
    let rounds = rounds.map_or(2, |rounds| rounds.parse().expect("a number"));
    let instance = Instance::new();
    let start = |replica: &'static str| {
        let mut config = instance.config(replica);
        config.limits.max_sandboxes = EACH;
        let template = config.templates.get_mut("base").expect("a base");
        template.pool = POOL;
        template.cpus = 0.1;
        TestGateway::with(config)
    };
    let gateways = [start("one").await, start("other").await];
    let (mut served_in_all, mut warm_in_all, mut queued_in_all) = (0, 0, 0);
    for round in 1..=rounds {
        full(&gateways[0], POOL).await;
        full(&gateways[1], POOL).await;
        let before = warm(&gateways[0]).await + warm(&gateways[1]).await;
        let fates = (0..CLIENTS).map(|n| arrive(&gateways[n % 2]));
        let (mut served, mut queued) = (Vec::new(), Vec::new());
        for fate in join_all(fates).await {
            match fate {
                Fate::Served(client, fresh) => {
                    assert!(fresh, "round {round}: a sandbox was handed out twice");
                    served.push(client);
                }
                Fate::Queued(client) => queued.push(client),
            }
        }
        let claimed = warm(&gateways[0]).await + warm(&gateways[1]).await - before;
        assert_eq!(served.len() + queued.len(), CLIENTS);
        assert_eq!(
            served.len(),
            2 * EACH,
            "round {round}: every place is taken"
        );
        assert!(
            claimed >= POOL,
            "round {round}: {claimed} were claimed of {POOL}"
        );
        served_in_all += served.len();
        warm_in_all += claimed;
        queued_in_all += queued.len();
        // No other visitor took a sandbox over from any of these.
        for client in &mut served {
            assert_eq!(client.run("echo here").await, "here\n[0]");
        }
        if round == rounds {
            // Whoever waits is served, too.
            let closing = served.into_iter().map(|client| close(*client));
            let waiting = queued.into_iter().map(|mut client| async move {
                client.ready().await;
                assert!(mark(&mut client).await, "a sandbox was handed out twice");
                close(*client).await;
            });
            tokio::join!(join_all(closing), join_all(waiting));
        } else {
            drop(queued);
            join_all(served.into_iter().map(|client| close(*client))).await;
        }
    }
    say!(
        "{rounds} rounds: {served_in_all} served at once, {warm_in_all} of them from the pool, \
         {queued_in_all} in line; none handed out twice"
    );
    for gateway in gateways {
        gateway.assert_empty().await;
        gateway.stop().await;
    }
    instance.assert_gone().await;
}
