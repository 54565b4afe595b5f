//! When an upstream or a thread is busy, the higher plan goes first, consumers take turns, and waits have an end.

use crate::support::*;
use model::access::Environment;
use model::key::PlainKey;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A consumer of its own with this priority; its key.
async fn consumer(world: &World, number: u128, priority: u8) -> PlainKey {
    let key = PlainKey::generate("tp", Environment::Live, &*world.random);
    let id = model::ConsumerId::from_bits(number << 80);
    let mut e = entitlement(id);
    e.priority = priority;
    world.plane.put_entitlement(e);
    world.plane.put_key(key_record(&key, id));
    world.synced().await;
    key
}

/// One request at a time to the upstream `main`, and so long a wait.
pub(crate) async fn narrow(max_in_flight: u32, max_wait_ms: u32) -> World {
    let world = World::new().await;
    widen(&world, Some(max_in_flight), max_wait_ms).await;
    world
}

async fn widen(world: &World, max_in_flight: Option<u32>, max_wait_ms: u32) {
    let mut table = routing(world.upstream.addr);
    table.upstreams[0].policy.max_in_flight = max_in_flight;
    table.upstreams[0].policy.max_wait_ms = Some(max_wait_ms);
    // Here the other upstream is asked for answers.
    table.upstreams[2].first_byte_timeout_ms = 10_000;
    world.plane.put_routing(table);
    world.synced().await;
}

/// Holds a place until it is dropped.
pub(crate) async fn occupy(world: &World) -> TcpStream {
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    let text = format!(
        "GET /v1/sse HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        world.key.reveal()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'H');
    stream
}

fn gauge(world: &World, name: &str) -> usize {
    let metrics = world.gateway.as_ref().unwrap().metrics();
    let line = metrics
        .lines()
        .find(|l| l.starts_with(name))
        .unwrap_or_else(|| panic!("no {name} in {metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn waiting(world: &World) -> usize {
    gauge(world, "turnpike_gateway_upstream_waiting{upstream=\"main\"}")
}

/// Sends a request and waits until it stands in the queue.
async fn line_up(world: &World, key: &PlainKey, path: &str) -> JoinHandle<u16> {
    let before = waiting(world);
    let (addr, text) = (
        world.addr,
        format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
            key.reveal()
        ),
    );
    let task = tokio::spawn(async move { Reply::parse(&raw(addr, text.as_bytes()).await).status });
    until(|| waiting(world) > before).await;
    task
}

/// The paths the upstream was asked for, in order, after the first.
fn served(world: &World) -> Vec<String> {
    let paths = world.upstream.requests();
    let path = |r: &String| r.split(' ').nth(1).unwrap().to_owned();
    paths.iter().skip(1).map(path).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_higher_plan_goes_first_and_consumers_take_turns() {
    let world = narrow(1, 20_000).await;
    let (low, other) = (consumer(&world, 2, 1).await, consumer(&world, 3, 1).await);
    let high = consumer(&world, 4, 7).await;
    let holding = occupy(&world).await;
    let mut tasks = Vec::new();
    for (key, path) in [
        (&low, "/v1/low-1"),
        (&low, "/v1/low-2"),
        (&low, "/v1/low-3"),
        (&other, "/v1/other"),
        (&high, "/v1/high"),
    ] {
        tasks.push(line_up(&world, key, path).await);
    }
    drop(holding);
    for task in tasks {
        assert_eq!(task.await.unwrap(), 200);
    }
    assert_eq!(
        served(&world),
        ["/v1/high", "/v1/low-1", "/v1/other", "/v1/low-2", "/v1/low-3"]
    );
    until(|| gauge(&world, "turnpike_gateway_upstream_in_flight{upstream=\"main\"}") == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_has_an_end_that_costs_nothing() {
    let world = narrow(1, 30).await;
    let _holding = occupy(&world).await;
    let reply = world.get("/v1/ok").await;
    assert_eq!((reply.status, reply.problem().as_str()), (503, "overloaded"));
    assert_eq!(reply.header("retry-after"), Some("1"));
    let rows = world.shipped().await;
    let refused = rows.iter().find(|r| r.status == 503).unwrap();
    assert_eq!(
        (refused.units, refused.refusal),
        (0, gateway::Refusal::Overloaded.number())
    );
    assert_eq!(waiting(&world), 0);
    assert_eq!(
        world.get("/slow/ok").await.status,
        200,
        "another upstream is not held up"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_the_queue_is_not_waited_for() {
    let world = narrow(1, 20_000).await;
    let holding = occupy(&world).await;
    let mut gone = TcpStream::connect(world.addr).await.unwrap();
    let text = format!(
        "GET /v1/gone HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        world.key.reveal()
    );
    gone.write_all(text.as_bytes()).await.unwrap();
    until(|| waiting(&world) == 1).await;
    drop(gone);
    until(|| waiting(&world) == 0).await;
    let next = line_up(&world, &world.key, "/v1/next").await;
    drop(holding);
    assert_eq!(next.await.unwrap(), 200);
    assert_eq!(served(&world), ["/v1/next"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_bound_holds_at_once() {
    let world = narrow(1, 20_000).await;
    let _holding = occupy(&world).await;
    let first = line_up(&world, &world.key, "/v1/first").await;
    widen(&world, Some(2), 20_000).await;
    assert_eq!(first.await.unwrap(), 200, "a wider bound lets in who waits");
    let _second = occupy(&world).await;
    let third = line_up(&world, &world.key, "/v1/third").await;
    widen(&world, None, 20_000).await;
    assert_eq!(third.await.unwrap(), 200, "without a bound nobody waits");
    assert_eq!(world.get("/v1/ok").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_free_again_whatever_became_of_its_request() {
    let world = narrow(2, 0).await;
    for path in ["/v1/ok", "/v1/close", "/v1/half", "/v1/chunked", "/v1/raw/garbage"] {
        for _ in 0..3 {
            let text = format!(
                "GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
                world.key.reveal()
            );
            raw(world.addr, text.as_bytes()).await;
            // Whoever comes before that is refused: nobody waits here.
            until(|| gauge(&world, "turnpike_gateway_upstream_in_flight{upstream=\"main\"}") == 0).await;
        }
    }
    assert_eq!(
        gauge(&world, "turnpike_gateway_refusals_total{reason=\"overloaded\"}"),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_thread_serves_the_higher_plan_first() {
    let mut world = World::new().await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    (config.threads, config.limits.in_flight_per_thread) = (1, 1);
    config.limits.in_flight_wait = Duration::from_secs(20);
    world.start_with(config);
    world.synced().await;
    let (low, high) = (consumer(&world, 2, 0).await, consumer(&world, 3, 9).await);
    let holding = occupy(&world).await;
    let ask = |key: &PlainKey, path: &str| {
        let (addr, text) = (
            world.addr,
            format!(
                "GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
                key.reveal()
            ),
        );
        tokio::spawn(async move { Reply::parse(&raw(addr, text.as_bytes()).await).status })
    };
    let first = ask(&low, "/v1/low");
    until(|| gauge(&world, "turnpike_gateway_waiting ") == 1).await;
    let second = ask(&high, "/v1/high");
    until(|| gauge(&world, "turnpike_gateway_waiting ") == 2).await;
    drop(holding);
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
    assert_eq!(served(&world), ["/v1/high", "/v1/low"]);
}
