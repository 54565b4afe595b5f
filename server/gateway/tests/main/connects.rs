//! Targets that neither take a connection nor refuse it are given up after `connect_timeout_ms`.

use crate::clients::with_config;
use crate::metrics::metrics;
use crate::stub::{Deed, Stub};
use crate::support::*;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// What the catalogue says.
const CONNECT: Duration = Duration::from_millis(300);
/// What the gateway would wait without that. `raw` waits for no answer as long.
const DEFAULT: Duration = Duration::from_secs(60);
/// An answer within this did not wait for [`DEFAULT`], however long the machine stood still.
const GIVEN_UP: Duration = Duration::from_secs(30);
/// Never leaves a target out, so that each request meets what is looked at here.
const NO_BREAKER: &str = r#""breaker": {"consecutive_failures": 0}"#;

/// An address that answers nothing to who connects: it listens with a full queue and accepts nobody.
struct Deaf {
    addr: SocketAddr,
    _held: (TcpListener, Vec<TcpStream>),
}

impl Deaf {
    async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        while let Ok(connected) = timeout(CONNECT, TcpStream::connect(addr)).await {
            queue.push(connected.unwrap());
            assert!(queue.len() < 100, "the queue is never full");
        }
        Self {
            addr,
            _held: (listener, queue),
        }
    }
}

/// A gateway that waits for connections as long as nobody minds.
async fn world() -> World {
    with_config(|config, _| config.limits.connect_timeout = DEFAULT).await
}

/// Status, problem where there is one, and how long it took.
async fn ask(world: &World, method: &str) -> (u16, Option<String>, Duration) {
    let head = format!(
        "{method} /v1/a HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nContent-Length: 4\r\n",
        world.key.reveal()
    );
    let began = Instant::now();
    let reply = world.send(&head, "body").await;
    let problem = (reply.status != 200).then(|| reply.problem());
    (reply.status, problem, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_is_given_up_in_time_and_another_target_is_tried() {
    let (world, deaf) = (world().await, Deaf::start().await);
    let well = Stub::start("well", Deed::Status(200)).await;
    let targets = format!(r#"[{{"url": "http://{}"}}, {{"url": "{}"}}]"#, deaf.addr, well.url());
    world
        .policy(&format!(
            r#"{{"targets": {targets}, "connect_timeout_ms": 300, {NO_BREAKER}}}"#
        ))
        .await;
    let (mut given_up, mut asked) = (0, 0);
    while given_up < 2 {
        let before = world.target("failures_total", 0);
        // Nothing of it was sent, so also what is not idempotent and has a body may go elsewhere.
        let (status, problem, took) = ask(&world, "POST").await;
        assert_eq!((status, problem), (200, None));
        if world.target("failures_total", 0) > before {
            assert!((CONNECT..GIVEN_UP).contains(&took), "{took:?}");
            given_up += 1;
        }
        asked += 1;
        assert!(asked < 60, "nothing went to the target that does not answer");
    }
    assert!(world.target("retries_total", 1) >= 2);
    let rows = world.shipped().await;
    assert!(rows.iter().all(|r| (r.status, r.units) == (200, 1)), "billed once each");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_another_target_the_fault_is_the_upstreams() {
    let (world, deaf) = (world().await, Deaf::start().await);
    for protocol in ["http1", "http2"] {
        let before = metrics(&world).sum("failures_total", &[("fault", "upstream")]);
        let target = format!(r#""targets": [{{"url": "http://{}"}}]"#, deaf.addr);
        let rest = r#""connect_timeout_ms": 300, "retries": {"attempts": 1}"#;
        world
            .policy(&format!(
                r#"{{{target}, {rest}, "protocol": "{protocol}", {NO_BREAKER}}}"#
            ))
            .await;
        let (status, problem, took) = ask(&world, "GET").await;
        assert_eq!(
            (status, problem.as_deref()),
            (502, Some("upstream-unreachable")),
            "{protocol}"
        );
        assert!((CONNECT..GIVEN_UP).contains(&took), "{protocol} {took:?}");
        let after = metrics(&world).sum("failures_total", &[("fault", "upstream")]);
        assert_eq!(after, before + 1.0, "{protocol}");
    }
    let rows = world.shipped().await;
    assert!(
        rows.len() == 2 && rows.iter().all(|r| r.units == 0),
        "nobody pays for it"
    );
}

/// All of the time for a request is the bound where that is shorter.
#[tokio::test(flavor = "multi_thread")]
async fn the_whole_time_bounds_the_connection_too() {
    let (world, deaf) = (world().await, Deaf::start().await);
    let target = format!(r#""targets": [{{"url": "http://{}"}}]"#, deaf.addr);
    let rest = r#""connect_timeout_ms": 60000, "total_timeout_ms": 300"#;
    world.policy(&format!(r#"{{{target}, {rest}, {NO_BREAKER}}}"#)).await;
    let (status, _, took) = ask(&world, "GET").await;
    assert!(matches!(status, 502 | 504), "{status}");
    assert!((CONNECT..GIVEN_UP).contains(&took), "{took:?}");
}
