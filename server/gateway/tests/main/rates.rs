//! Rate limits by whatever the catalogue says: all hold, none takes what another refuses, and the wait is told exactly.

use crate::support::*;
use model::access::Environment;
use model::key::PlainKey;
use model::policy::RateRule;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

fn rule(text: &str) -> RateRule {
    let json = text.replace('\'', "\"");
    serde_json::from_str(&format!("{{{json}}}")).unwrap()
}

async fn with_limits(rules: &[&str]) -> World {
    World::with(|e| e.limits = rules.iter().map(|r| rule(r)).collect()).await
}

/// A request with this key.
async fn ask(world: &World, method: &str, path: &str, key: &PlainKey) -> Reply {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", key.reveal());
    world.send(&head, "").await
}

/// How many of `count` requests, one after another, are let through.
async fn passed(world: &World, method: &str, path: &str, key: &PlainKey, count: usize) -> usize {
    let mut passed = 0;
    for _ in 0..count {
        passed += usize::from(ask(world, method, path, key).await.status != 429);
    }
    passed
}

/// The names of the limits that refused.
fn violated(reply: &Reply) -> Vec<String> {
    assert_eq!((reply.status, reply.problem().as_str()), (429, "rate-limited"));
    let json: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    serde_json::from_value(json["violated-policies"].clone()).unwrap()
}

/// Another key of the same consumer.
async fn other_key(world: &World) -> PlainKey {
    let key = PlainKey::generate("tp", Environment::Live, &*world.random);
    world.plane.put_key(key_record(&key, world.consumer));
    world.synced().await;
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_has_its_limit() {
    let world = with_limits(&[
        "'name': 'reads', 'methods': ['GET'], 'requests': 5, 'per': 'minute'",
        "'name': 'writes', 'methods': ['POST', 'PUT'], 'requests': 2, 'per': 'minute'",
    ])
    .await;
    let key = &world.key;
    assert_eq!(passed(&world, "POST", "/v1/ok", key, 3).await, 2);
    assert_eq!(passed(&world, "GET", "/v1/ok", key, 3).await, 3);
    assert_eq!(passed(&world, "HEAD", "/v1/ok", key, 3).await, 2, "HEAD is GET");
    assert_eq!(ask(&world, "PUT", "/v1/ok", key).await.status, 429);
    assert_eq!(ask(&world, "DELETE", "/v1/ok", key).await.status, 200);
    let reply = ask(&world, "GET", "/v1/ok", key).await;
    assert_eq!(violated(&reply), ["reads"]);
    assert!(String::from_utf8_lossy(&reply.body).contains("At most 5 requests a minute for GET."));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_is_told_to_the_second() {
    let world = with_limits(&[
        "'name': 'minute', 'requests': 7, 'per': 'minute', 'burst': 3",
        "'name': 'hour', 'requests': 5, 'per': 'hour'",
    ])
    .await;
    for _ in 0..12 {
        let mut reply = world.get("/v1/ok").await;
        if reply.status == 200 {
            continue;
        }
        let wait: i64 = reply.header("retry-after").unwrap().parse().unwrap();
        world.clock.advance((wait - 1) * 1_000);
        reply = world.get("/v1/ok").await;
        assert_eq!(reply.status, 429, "a second less than {wait} is not enough");
        assert_eq!(reply.header("retry-after"), Some("1"));
        world.clock.advance(1_000);
        assert_eq!(world.get("/v1/ok").await.status, 200, "{wait} seconds are enough");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_limit_refuses_uses_up_no_other() {
    let world = with_limits(&[
        "'name': 'day', 'requests': 100, 'per': 'day'",
        "'name': 'second', 'requests': 1, 'per': 'second', 'burst': 2",
        "'name': 'keys', 'requests': 90, 'per': 'day', 'by': ['key']",
    ])
    .await;
    assert_eq!(passed(&world, "GET", "/v1/ok", &world.key, 40).await, 2);
    let reply = world.get("/v1/ok").await;
    assert_eq!(violated(&reply), ["second"]);
    let told = reply.header("ratelimit").unwrap();
    assert!(
        told.starts_with("\"second\";r=0;t=1, "),
        "the most restrictive first: {told}"
    );
    for left in [
        "\"day\";r=98;",
        "\"keys\";r=88;",
        "\"rate\";r=9998;",
        "\"quota\";r=999998;",
    ] {
        assert!(told.contains(left), "{left} is not in {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_limit_is_listed_by_its_name() {
    let world =
        with_limits(&["'name': 'reads', 'methods': ['GET'], 'requests': 500, 'per': 'minute', 'burst': 50"]).await;
    let reply = world.get("/v1/ok").await;
    assert_eq!(
        reply.header("ratelimit-policy"),
        Some("\"rate\";q=10000;w=100, \"quota\";q=1000000;w=2592000, \"reads\";q=50;w=6")
    );
    let told = reply.header("ratelimit").unwrap();
    assert!(
        told.starts_with("\"reads\";r=49;t=1, \"rate\";r=9999;t=1, \"quota\";r=999999;t="),
        "{told}"
    );
    let reply = ask(&world, "DELETE", "/v1/ok", &world.key).await;
    let policy = reply.header("ratelimit-policy").unwrap();
    assert!(!policy.contains("reads"), "it does not hold for DELETE: {policy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_refuse_are_named_and_the_longest_wait_is_told() {
    let world = with_limits(&[
        "'name': 'a', 'requests': 1, 'per': 'minute'",
        "'name': 'b', 'requests': 1, 'per': 'hour'",
        "'name': 'c', 'requests': 9, 'per': 'hour'",
    ])
    .await;
    assert_eq!(world.get("/v1/ok").await.status, 200);
    let reply = world.get("/v1/ok").await;
    assert_eq!(violated(&reply), ["a", "b"]);
    assert_eq!(reply.header("retry-after"), Some("3600"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_routes_and_consumers_are_counted_as_said() {
    for (by, same_key, other_key_passes, other_route_passes) in [
        ("['consumer']", 0, 0, 0),
        ("['key']", 0, 1, 0),
        ("['route']", 0, 0, 1),
        ("['key', 'route']", 0, 1, 1),
        ("['method']", 0, 0, 0),
    ] {
        let world = with_limits(&[&format!("'name': 'x', 'requests': 2, 'per': 'day', 'by': {by}")]).await;
        let other = other_key(&world).await;
        assert_eq!(passed(&world, "GET", "/v1/ok", &world.key, 2).await, 2, "{by}");
        assert_eq!(passed(&world, "GET", "/v1/ok", &world.key, 1).await, same_key, "{by}");
        assert_eq!(
            passed(&world, "GET", "/v1/ok", &other, 1).await,
            other_key_passes,
            "{by}"
        );
        assert_eq!(
            passed(&world, "GET", "/heavy", &world.key, 1).await,
            other_route_passes,
            "{by}"
        );
        let posts = passed(&world, "POST", "/v1/ok", &world.key, 1).await;
        assert_eq!(posts, usize::from(by.contains("method")), "{by}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_for_some_routes_leaves_the_others_alone() {
    let world = with_limits(&["'name': 'x', 'routes': ['heavy'], 'requests': 1, 'per': 'day'"]).await;
    assert_eq!(passed(&world, "GET", "/v1/ok", &world.key, 3).await, 3);
    assert_eq!(passed(&world, "GET", "/heavy", &world.key, 3).await, 1);
}

/// A world whose first route has these limits, with a second consumer on another plan and its key.
async fn with_route_limits(rules: &[&str]) -> (World, PlainKey) {
    let world = World::new().await;
    let mut table = routing(world.upstream.addr);
    table.routes[0].policy.limits = rules.iter().map(|r| rule(r)).collect();
    world.plane.put_routing(table);
    let other = PlainKey::generate("tp", Environment::Live, &*world.random);
    let consumer = model::ConsumerId::from_bits(2 << 80);
    let mut e = entitlement(consumer);
    e.plan = "scale".to_owned();
    world.plane.put_entitlement(e);
    world.plane.put_key(key_record(&other, consumer));
    world.synced().await;
    (world, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routes_limit_holds_for_every_plan() {
    let (world, other) = with_route_limits(&["'name': 'x', 'requests': 2, 'per': 'day'"]).await;
    assert_eq!(passed(&world, "GET", "/v1/ok", &world.key, 3).await, 2);
    assert_eq!(
        passed(&world, "GET", "/v1/ok", &other, 3).await,
        2,
        "each consumer by itself"
    );
    assert_eq!(passed(&world, "GET", "/heavy", &other, 3).await, 3);
    let (world, other) = with_route_limits(&["'name': 'x', 'by': ['route'], 'requests': 3, 'per': 'day'"]).await;
    assert_eq!(passed(&world, "GET", "/v1/ok", &world.key, 2).await, 2);
    let reply = ask(&world, "GET", "/v1/ok", &other).await;
    assert!(
        reply.header("ratelimit").unwrap().starts_with("\"x\";r=0;"),
        "all together"
    );
    assert_eq!(violated(&ask(&world, "GET", "/v1/ok", &world.key).await), ["x"]);
}

/// A request from this address of the machine.
async fn from(address: &str, world: &World, key: &PlainKey) -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    let mut stream = socket.connect(world.addr).await.unwrap();
    let head = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
        key.reveal()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut out = Vec::new();
    stream.read_to_end(&mut out).await.unwrap();
    Reply::parse(&out).status
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_counted_apart() {
    let (world, other) = with_route_limits(&["'name': 'x', 'by': ['address'], 'requests': 1, 'per': 'day'"]).await;
    assert_eq!(from("127.0.0.1", &world, &world.key).await, 200);
    assert_eq!(from("127.0.0.1", &world, &other).await, 429, "whoever asks");
    assert_eq!(from("127.0.0.2", &world, &other).await, 200);
    assert_eq!(from("127.0.0.2", &world, &world.key).await, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_outlive_a_change_of_terms() {
    for by in ["['consumer']", "['key']"] {
        let world = with_limits(&[&format!("'name': 'x', 'by': {by}, 'requests': 4, 'per': 'day'")]).await;
        assert_eq!(passed(&world, "GET", "/v1/ok", &world.key, 3).await, 3);
        let change = |plan: &str, name: &str, requests: u32| {
            let rules = [
                "'name': 'y', 'requests': 90, 'per': 'day'".to_owned(),
                format!("'name': '{name}', 'by': {by}, 'requests': {requests}, 'per': 'day'"),
            ];
            world.plane.edit_entitlement(world.consumer, |e| {
                e.plan = plan.to_owned();
                e.limits = rules.iter().map(|r| rule(r)).collect();
            });
        };
        // Three of four are used, which is six of eight.
        change("scale", "x", 8);
        world.synced().await;
        assert_eq!(passed(&world, "GET", "/v1/ok", &world.key, 5).await, 2, "{by}");
        change("scale", "z", 8);
        world.synced().await;
        assert_eq!(
            passed(&world, "GET", "/v1/ok", &world.key, 5).await,
            5,
            "another name is another limit"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrower_window_is_not_waited_for_longer_than_it_is() {
    let world = with_limits(&["'name': 'x', 'requests': 2, 'per': 'day'"]).await;
    assert_eq!(passed(&world, "GET", "/v1/ok", &world.key, 3).await, 2);
    world.plane.edit_entitlement(world.consumer, |e| {
        e.limits = vec![rule("'name': 'x', 'requests': 60, 'per': 'minute'")];
    });
    world.synced().await;
    let wait: i64 = world
        .get("/v1/ok")
        .await
        .header("retry-after")
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(
        wait, 1,
        "a day was used up; of the minute that is all, and a second gives one back"
    );
    world.clock.advance(1_000);
    assert_eq!(world.get("/v1/ok").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_outlive_a_start_without_the_control_plane() {
    let mut world = with_limits(&["'name': 'x', 'requests': 2, 'per': 'day'"]).await;
    world.stop().await;
    world.plane.away.store(true, std::sync::atomic::Ordering::SeqCst);
    world.start();
    assert_eq!(passed(&world, "GET", "/v1/ok", &world.key, 4).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn at_once_exactly_the_burst_passes_each_of_several_limits() {
    let world = with_limits(&[
        "'name': 'key', 'by': ['key'], 'requests': 31, 'per': 'day'",
        "'name': 'all', 'requests': 40, 'per': 'day'",
    ])
    .await;
    let other = other_key(&world).await;
    let send = |key: &PlainKey| {
        let (addr, text) = (
            world.addr,
            format!(
                "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
                key.reveal()
            ),
        );
        tokio::spawn(async move { Reply::parse(&raw(addr, text.as_bytes()).await).status == 200 })
    };
    let count = async |key: &PlainKey| {
        let mut passed = 0;
        for task in (0..100).map(|_| send(key)).collect::<Vec<_>>() {
            passed += usize::from(task.await.unwrap());
        }
        passed
    };
    assert_eq!(count(&world.key).await, 31);
    assert_eq!(
        count(&other).await,
        9,
        "what the first key was refused did not count for all"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn live_and_test_are_counted_apart() {
    let rules = vec![rule("'name': 'x', 'by': ['method'], 'requests': 1, 'per': 'day'")];
    let world = World::with(|e| e.limits.clone_from(&rules)).await;
    let test_key = PlainKey::generate("tp", Environment::Test, &*world.random);
    let mut e = entitlement(world.consumer);
    (e.environment, e.limits) = (Environment::Test, rules);
    world.plane.put_entitlement(e);
    world.plane.put_key(key_record(&test_key, world.consumer));
    world.synced().await;
    for key in [&world.key, &test_key] {
        assert_eq!(passed(&world, "GET", "/v1/ok", key, 3).await, 1);
    }
}
