//! Rate limits that all gateways share through Redis: one count while it answers, a part for each gateway while it does not.

use crate::calls::statuses;
use crate::metrics::metrics;
use crate::recorder::accept;
use crate::redis_server::RedisServer;
use crate::support::*;
use gateway::{Question, RedisConfig, StartError, Verdict};
use model::KeyId;
use model::access::Environment;
use model::catalogue::RateLimit;
use model::key::PlainKey;
use model::policy::RateRule;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Far longer than any answer takes, for tests that count exactly on a busy machine.
const PATIENT: Duration = Duration::from_secs(20);
/// As by default.
const BRISK: Duration = Duration::from_millis(30);

fn rule(text: &str) -> RateRule {
    let json = text.replace('\'', "\"");
    serde_json::from_str(&format!("{{{json}}}")).unwrap()
}

fn redis(url: &str) -> RedisConfig {
    RedisConfig {
        url: url.parse().unwrap(),
        ca_file: None,
    }
}

/// Begins this gateway again, sharing its limits there.
async fn share(world: &mut World, url: &str, wait: Duration) {
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.limits.segment_records = 64;
    config.limits.shared_limits_wait = wait;
    config.redis = Some(redis(url));
    world.start_with(config);
    world.synced().await;
}

fn circuit(world: &World) -> f64 {
    metrics(world).sum("shared_limits_circuit", &[])
}

fn gateways(world: &World) -> f64 {
    metrics(world).sum("shared_limits_gateways", &[])
}

fn questions(world: &World, outcome: &str) -> f64 {
    metrics(world).sum("shared_limits_questions_total", &[("outcome", outcome)])
}

/// Waits until every thread asks.
async fn until_shared(world: &World) {
    until(|| circuit(world) == 0.0).await;
}

/// Calls until the server has let so many more through.
async fn until_asked_again(world: &World, wanted: f64) {
    let (before, begun) = (questions(world, "passes"), Instant::now());
    while questions(world, "passes") < before + wanted {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is asked again");
        passed(world, "/v1/ok", 8).await;
        // Late answers on a busy machine open the circuit anew: it is left alone for a while then.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Two gateways that share limits of a plan there.
async fn two(rules: &[&str], url: &str, wait: Duration) -> (World, World) {
    let mut first = World::with(|e| e.limits = rules.iter().map(|r| rule(r)).collect()).await;
    let mut second = first.beside().await;
    for world in [&mut first, &mut second] {
        share(world, url, wait).await;
    }
    (first, second)
}

async fn two_sharing(rules: &[&str], server: &RedisServer) -> (World, World) {
    let (first, second) = two(rules, &server.url(), PATIENT).await;
    until_shared(&first).await;
    until_shared(&second).await;
    (first, second)
}

/// Waits until each of two gateways knows that the other is at work: one that is only told how far the other's ledger is
/// cannot know whether that grows.
async fn until_acquainted(first: &World, second: &World) {
    for _ in 0..200 {
        for world in [first, second] {
            assert_eq!(world.get("/heavy").await.status, 200);
        }
        if gateways(first) == 2.0 && gateways(second) == 2.0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} and {} gateways", gateways(first), gateways(second));
}

async fn ask(world: &World, method: &str, path: &str, key: &PlainKey) -> Reply {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", key.reveal());
    world.send(&head, "").await
}

/// How many of `count` calls, eight at once, are let through; every other one is refused by a rate limit.
async fn passed(world: &World, path: &str, count: usize) -> usize {
    passed_with(world.addr, path, &world.key, count).await
}

async fn passed_with(addr: SocketAddr, path: &str, key: &PlainKey, count: usize) -> usize {
    let all = statuses(addr, path, key, count).await;
    assert!(all.iter().all(|status| [200, 429].contains(status)), "{all:?}");
    all.iter().filter(|status| **status == 200).count()
}

async fn passed_at_both(first: &World, second: &World, count: usize) -> usize {
    let (one, other) = tokio::join!(passed(first, "/v1/ok", count), passed(second, "/v1/ok", count));
    one + other
}

fn put_key(world: &World) -> PlainKey {
    let key = PlainKey::generate("tp", Environment::Live, &*world.random);
    world.plane.put_key(key_record(&key, world.consumer));
    key
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_gateways_are_one_to_a_limit() {
    let server = RedisServer::start();
    let rules = [
        "'name': 'key', 'by': ['key'], 'requests': 31, 'per': 'day'",
        "'name': 'all', 'requests': 40, 'per': 'day'",
    ];
    let (first, second) = two_sharing(&rules, &server).await;
    let other = put_key(&first);
    first.synced().await;
    second.synced().await;
    // Whose clock says what does not matter.
    second.clock.advance(600_000);
    assert_eq!(passed_at_both(&first, &second, 100).await, 31);
    let (one, rest) = tokio::join!(
        passed_with(first.addr, "/v1/ok", &other, 20),
        passed_with(second.addr, "/v1/ok", &other, 20)
    );
    assert_eq!(one + rest, 9, "what the first key was refused did not count for all");
    let reply = ask(&second, "GET", "/v1/ok", &first.key).await;
    let json: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(json["violated-policies"], serde_json::json!(["key", "all"]));
    assert!(reply.header("retry-after").is_some());
    second.shipped().await;
    assert_eq!(first.shipped().await.iter().map(|r| r.units).sum::<u32>(), 40);
    let asked = ["passes", "refuses"].map(|o| questions(&first, o) + questions(&second, o));
    assert_eq!(asked[0], 40.0);
    assert!(asked[1] > 0.0);
}

/// What is left is told from the shared count, and what one limit refuses uses up no other, at whichever gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_say_what_all_gateways_have_left() {
    let server = RedisServer::start();
    let rules = [
        "'name': 'day', 'requests': 100, 'per': 'day'",
        "'name': 'few', 'routes': ['heavy'], 'requests': 2, 'per': 'day'",
    ];
    let (first, second) = two_sharing(&rules, &server).await;
    assert_eq!(passed(&first, "/heavy", 1).await, 1);
    let reply = second.get("/heavy").await;
    let told = reply.header("ratelimit").unwrap();
    assert!(
        told.starts_with("\"few\";r=0;t=86") && told.contains("\"day\";r=98;"),
        "{told}"
    );
    let policy = reply.header("ratelimit-policy").unwrap();
    assert!(policy.contains("\"few\";q=2;"), "{policy}");
    for world in [&first, &second, &first, &second] {
        let reply = world.get("/heavy").await;
        assert_eq!((reply.status, reply.problem().as_str()), (429, "rate-limited"));
        let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((43_000..=43_200).contains(&wait), "{wait}");
    }
    let reply = first.get("/v1/ok").await;
    let told = reply.header("ratelimit").unwrap();
    assert!(
        told.contains("\"day\";r=97;") && told.contains("\"quota\";r="),
        "{told}"
    );
    first.shipped().await;
    let rows = second.shipped().await;
    let refused = rows.iter().filter(|r| r.status == 429);
    assert!(
        refused.clone().count() == 4 && refused.clone().all(|r| r.units == 0),
        "units were given back"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn subjects_are_the_same_at_every_gateway() {
    let server = RedisServer::start();
    for (by, other_key_passes, other_route_passes, post_passes) in [
        ("['consumer']", 0, 0, 0),
        ("['key']", 1, 0, 0),
        ("['route']", 0, 1, 0),
        ("['method']", 0, 0, 1),
        ("['address']", 0, 0, 0),
        ("['key', 'route']", 1, 1, 0),
    ] {
        let rules = [format!("'name': 'x', 'requests': 3, 'per': 'day', 'by': {by}")];
        let (first, second) = two_sharing(&[&rules[0]], &server).await;
        let other = put_key(&first);
        first.synced().await;
        second.synced().await;
        assert_eq!(passed(&first, "/v1/ok", 2).await, 2, "{by}");
        assert_eq!(passed(&second, "/v1/ok", 3).await, 1, "{by}");
        assert_eq!(
            passed_with(second.addr, "/v1/ok", &other, 1).await,
            other_key_passes,
            "{by}"
        );
        assert_eq!(passed(&second, "/heavy", 1).await, other_route_passes, "{by}");
        let post = ask(&first, "POST", "/v1/ok", &first.key).await.status;
        assert_eq!(usize::from(post != 429), post_passes, "{by}");
        server.forget();
    }
}

/// A limit of a route, the plan's overall one, and quotes, which take of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn routes_and_quotes_are_shared_too() {
    let server = RedisServer::start();
    let (first, second) = two_sharing(&[], &server).await;
    let mut table = routing(first.upstream.addr);
    table.routes[0].policy.limits = vec![rule("'name': 'x', 'by': ['route'], 'requests': 3, 'per': 'day'")];
    first.plane.put_routing(table);
    let change = |e: &mut model::snapshot::Entitlement| e.rate_limit.burst = 10;
    first.plane.edit_entitlement(first.consumer, change);
    first.synced().await;
    second.synced().await;
    let begun = Instant::now();
    assert_eq!(passed_at_both(&first, &second, 4).await, 3);
    let quote = |world: &World| {
        let key = world.key.reveal().to_owned();
        let text = format!(
            "GET /heavy HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nTurnpike-Quote: ?1\r\nConnection: close\r\n\r\n"
        );
        let addr = world.addr;
        async move { Reply::parse(&raw(addr, text.as_bytes()).await) }
    };
    let mut quotes = 0;
    for n in 0..40 {
        quotes += usize::from(quote(if n % 2 == 0 { &first } else { &second }).await.status == 200);
    }
    // A hundred a second come back, so only that there is a bound can be told, and that it is one.
    let most = 10 + 100 * (usize::try_from(begun.elapsed().as_millis()).unwrap() / 1_000 + 1);
    assert!(quotes >= 7 && quotes <= most, "{quotes} of {most}");
    assert!(questions(&first, "passes") + questions(&second, "passes") >= 10.0);
}

/// F06, death: what fails is told at once, each gateway holds its part, and when the server is back all share again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_dies_leaves_each_gateway_its_part() {
    let mut server = RedisServer::start();
    let rules = ["'name': 'x', 'routes': ['all'], 'requests': 100, 'per': 'day'"];
    let (first, second) = two_sharing(&rules, &server).await;
    until_acquainted(&first, &second).await;
    server.kill();
    until(|| circuit(&first) == 2.0 && circuit(&second) == 2.0).await;
    // 100 / 2 x 1.2, less what was used before.
    for world in [&first, &second] {
        let passed = passed(world, "/v1/ok", 100).await;
        assert!((55..=60).contains(&passed), "{passed}");
    }
    assert!(questions(&first, "nobody") >= 55.0 && questions(&first, "late") == 0.0);
    server.run_again();
    until_shared(&first).await;
    until_shared(&second).await;
    assert_eq!(
        passed_at_both(&first, &second, 150).await,
        100,
        "the server has forgotten, and there is one count again"
    );
}

/// F06, silence: a few requests wait for 30 ms, the others for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_is_silent_is_not_asked_for_long() {
    let server = RedisServer::start();
    let rules = ["'name': 'x', 'routes': ['all'], 'requests': 100, 'per': 'day'"];
    let (first, second) = two(&rules, &server.url(), BRISK).await;
    until_acquainted(&first, &second).await;
    until_shared(&first).await;
    let before = questions(&first, "late") + questions(&first, "failed");
    server.freeze();
    let passed_apart = passed(&first, "/v1/ok", 100).await;
    assert!((50..=60).contains(&passed_apart), "{passed_apart}");
    // Eight callers have one question each when the fifth failure comes.
    let failed = questions(&first, "late") + questions(&first, "failed") - before;
    assert!((5.0..=16.0).contains(&failed), "{failed}");
    assert!(questions(&first, "nobody") >= 35.0);
    server.thaw();
    until_asked_again(&first, 10.0).await;
}

/// What each of so many requests on one connection takes, from the shortest.
async fn times(world: &World, count: usize) -> Vec<Duration> {
    let text = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        world.key.reveal()
    );
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut times = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut out = Vec::new();
        while !out.ends_with(b"ok") {
            let read = stream.read_buf(&mut out).await.unwrap();
            assert!(
                read > 0 && out.starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(&out)
            );
        }
        times.push(begun.elapsed());
    }
    times.sort();
    times
}

/// F06: of many requests so few wait for a silent server that the 99th percentile does not know of it. The times are for
/// whoever reads them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn few_requests_notice_a_silent_server() {
    const COUNT: usize = 2_000;
    let server = RedisServer::start();
    let mut world = World::with(|e| e.rate_limit.per_second = 100_000).await;
    let said = |what: &str, times: &[Duration]| {
        let at = |part: usize| times[(times.len() - 1) * part / 1_000];
        println!("{what}: p50 {:?}, p99 {:?}, p99.9 {:?}", at(500), at(990), at(999));
    };
    said("alone", &times(&world, COUNT).await);
    share(&mut world, &server.url(), BRISK).await;
    until_shared(&world).await;
    said("shared", &times(&world, COUNT).await);
    let waited = || questions(&world, "late") + questions(&world, "failed");
    until_shared(&world).await;
    let before = waited();
    server.freeze();
    let silent = times(&world, COUNT).await;
    said("silent", &silent);
    assert!(
        waited() - before >= 5.0 && waited() - before <= COUNT as f64 / 100.0,
        "{}",
        waited() - before
    );
    server.thaw();
    until_shared(&world).await;
    said("shared again", &times(&world, COUNT).await);
}

const PASSES: u8 = 0;
const SLOW: u8 = 1;
const CUTS: u8 = 2;
const SWALLOWS_FIRST: u8 = 3;

/// Stands before a server: passes bytes on, passes them on five seconds later, cuts connections, or drops what comes on
/// the first one.
struct Proxy {
    addr: SocketAddr,
    mood: Arc<AtomicU8>,
}

impl Proxy {
    async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mood = Arc::new(AtomicU8::new(PASSES));
        let told = Arc::clone(&mood);
        tokio::spawn(async move {
            let mut number = 0;
            loop {
                let client = accept(&listener).await;
                number += 1;
                let is_first = number == 1;
                let (mood, mood_back) = (Arc::clone(&told), Arc::clone(&told));
                tokio::spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::select! {
                        () = pass(from_client, to_server, mood, is_first) => {}
                        () = pass(from_server, to_client, mood_back, is_first) => {}
                    }
                });
            }
        });
        Self { addr, mood }
    }

    fn set(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mood: Arc<AtomicU8>,
    is_first: bool,
) {
    let mut bytes = [0u8; 4096];
    loop {
        let read = tokio::time::timeout(Duration::from_millis(20), from.read(&mut bytes)).await;
        match (read, mood.load(Ordering::SeqCst)) {
            (Ok(Ok(0) | Err(_)), _) | (_, CUTS) => return,
            (Err(_), _) => {}
            (_, SWALLOWS_FIRST) if is_first => {}
            (Ok(Ok(count)), mood) => {
                if mood == SLOW {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
                if to.write_all(&bytes[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// F06: a server that answers after five seconds, and one that comes and goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_server_and_one_that_comes_and_goes_cost_little() {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.addr()).await;
    let rules = ["'name': 'x', 'routes': ['all'], 'requests': 10000000, 'per': 'day'"];
    let (first, _second) = two(&rules, &format!("redis://{}", proxy.addr), BRISK).await;
    // As many as a quick machine can make.
    let plenty = RateLimit {
        per_second: 1_000_000,
        burst: 1_000_000,
    };
    first.plane.edit_entitlement(first.consumer, |e| e.rate_limit = plenty);
    first.synced().await;
    until_shared(&first).await;
    proxy.set(SLOW);
    assert_eq!(passed(&first, "/v1/ok", 200).await, 200);
    assert_eq!(circuit(&first), 2.0);
    let waited = |world: &World| questions(world, "late") + questions(world, "failed");
    assert!(waited(&first) <= 24.0, "{}", waited(&first));
    let mut changes = 1.0;
    let mut asked = 200.0;
    for mood in [PASSES, CUTS, PASSES, SLOW, PASSES, CUTS, PASSES, SLOW, PASSES] {
        proxy.set(mood);
        changes += 1.0;
        let until = Instant::now() + Duration::from_millis(400);
        while Instant::now() < until {
            assert_eq!(passed(&first, "/v1/ok", 16).await, 16);
            asked += 16.0;
        }
    }
    // At every change at most those wait that are on their way then, and five.
    assert!(waited(&first) <= 24.0 * changes, "{} of {asked}", waited(&first));
    until_asked_again(&first, 50.0).await;
}

/// One connection of several that nothing comes through any more is given up by itself, though others are answered on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_that_is_swallowed_is_made_anew() {
    const COUNT: usize = 200;
    let server = RedisServer::start();
    let proxy = Proxy::before(server.addr()).await;
    let mut world = World::with(|e| e.rate_limit.burst = 100_000).await;
    // Long enough for a busy machine, and no more than the calls that meet it are worth.
    share(
        &mut world,
        &format!("redis://{}", proxy.addr),
        Duration::from_millis(500),
    )
    .await;
    until_shared(&world).await;
    proxy.set(SWALLOWS_FIRST);
    for _ in 0..COUNT {
        assert_eq!(world.get("/v1/ok").await.status, 200);
    }
    let late = questions(&world, "late");
    assert!((5.0..=20.0).contains(&late), "{late} of {COUNT}");
    until_shared(&world).await;
}

/// A wrong password, and nobody there: said, and requests are served.
#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_share_serves_all_the_same() {
    let closed = RedisServer::with(&["--requirepass", "s3cret"]);
    for url in [
        format!("redis://:wrong@{}", closed.addr()),
        "redis://127.0.0.1:1".to_owned(),
    ] {
        assert!(redis(&url).check().await.is_err());
        let mut world = World::with(|e| e.limits = vec![rule("'name': 'x', 'requests': 7, 'per': 'day'")]).await;
        share(&mut world, &url, BRISK).await;
        assert_eq!(circuit(&world), 2.0);
        assert_eq!(passed(&world, "/v1/ok", 20).await, 7, "alone, its part is all of it");
        assert_eq!(
            questions(&world, "nobody"),
            7.0,
            "what it refuses by itself is not asked about"
        );
    }
    redis(&format!("redis://:s3cret@{}", closed.addr()))
        .check()
        .await
        .unwrap();
    let mut world = World::new().await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.redis = Some(RedisConfig {
        ca_file: Some(PathBuf::from("/nowhere/ca.pem")),
        ..redis("rediss://127.0.0.1:1")
    });
    let Err(StartError::Redis(why)) = world.try_start_with(config) else {
        panic!("it started")
    };
    assert!(why.contains("/nowhere/ca.pem"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_explained_takes_nothing_and_says_what_is_shared() {
    let mut server = RedisServer::start();
    let (first, second) = two_sharing(&["'name': 'x', 'requests': 3, 'per': 'day'"], &server).await;
    let question = Question {
        method: "GET".to_owned(),
        url: "/v1/ok".to_owned(),
        headers: Vec::new(),
        key: Some(KeyId::from_bits(u128::from(first.key.lookup().0))),
        client: None,
    };
    let explained = |world: &World| {
        let explanation = world.gateway.as_ref().unwrap().explain(&question).unwrap();
        let shared = explanation
            .decisions
            .into_iter()
            .find(|d| d.about == "shared rate limits")
            .unwrap();
        assert_eq!(shared.verdict, Verdict::Says);
        shared.detail
    };
    for _ in 0..5 {
        let detail = explained(&first);
        assert!(
            detail.starts_with("rate, x: counted for all gateways in redis://127.0.0.1:"),
            "{detail}"
        );
    }
    assert_eq!(passed_at_both(&first, &second, 5).await, 3);
    server.kill();
    until(|| circuit(&first) == 2.0).await;
    let detail = explained(&first);
    assert!(
        detail.contains("does not answer") && detail.contains("by itself"),
        "{detail}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_nothing_is_said_of_one() {
    let world = World::new().await;
    let text = world.gateway.as_ref().unwrap().metrics();
    assert!(!text.contains("shared_limits"), "{text}");
}
