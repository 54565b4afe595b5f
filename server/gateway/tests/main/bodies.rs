//! Request bodies that are read whole before they go on: what they take in memory has a bound, for all and for each
//! consumer, and none is waited for without an end.

use crate::scripted::*;
use crate::support::*;
use model::ConsumerId;
use model::access::Environment;
use model::key::PlainKey;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const POLICY: &str = r#"{"idempotency": {}}"#;
const GATED: &str = r#"{"gates": [{"feature": "history", "request_fields": ["history"]}]}"#;
/// Length that the bodies below say they have, and how much of it comes at once.
const LENGTH: usize = 10 << 10;
const SENT: usize = 8 << 10;
/// Room for all of them.
const ROOM: usize = 64 << 10;

struct Bodies {
    world: World,
    other: PlainKey,
    _upstream: Scripted,
}

async fn bodies(change: impl FnOnce(&mut gateway::Config)) -> Bodies {
    let upstream = Scripted::start(|_| whole("201 Created", "", "done")).await;
    let mut world = upstream
        .world(&[("once", "/once", POLICY), ("gated", "/gated", GATED)])
        .await;
    let id = ConsumerId::from_bits(3 << 80);
    let other = PlainKey::generate("tp", Environment::Live, &*world.random);
    world.plane.put_entitlement(entitlement(id));
    world.plane.put_key(key_record(&other, id));
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.limits.whole_bodies_bytes = ROOM;
    change(&mut config);
    world.start_with(config);
    world.synced().await;
    Bodies {
        world,
        other,
        _upstream: upstream,
    }
}

fn head(path: &str, key: &PlainKey, number: usize, length: usize) -> String {
    let key = key.reveal();
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nIdempotency-Key: {path}-{number}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n"
    )
}

impl Bodies {
    /// Begins a body and does not end it.
    async fn begin(&self, path: &str, number: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.world.addr).await.unwrap();
        let text = head(path, &self.world.key, number, LENGTH);
        let body = " ".repeat(SENT);
        stream.write_all(format!("{text}\r\n{body}").as_bytes()).await.unwrap();
        stream
    }

    async fn post(&self, path: &str, key: &PlainKey, number: usize) -> Reply {
        let body = format!("{{}}{}", " ".repeat(SENT - 2));
        self.world.send(&head(path, key, number, SENT), &body).await
    }

    fn held(&self) -> usize {
        let metrics = self.world.gateway.as_ref().unwrap().metrics();
        let name = "turnpike_gateway_whole_bodies_bytes ";
        let line = metrics.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_consumer_does_not_take_all_the_room() {
    let bodies = bodies(|_| {}).await;
    for path in ["/once", "/gated"] {
        let mut slow = Vec::new();
        for number in 0..10 {
            slow.push(bodies.begin(path, number).await);
        }
        // There is room for some of them. The others are refused, and those alone are answered early.
        let mut early = [0; 4096];
        let mut refusals = Vec::new();
        until(|| {
            slow.retain(|stream| match stream.try_read(&mut early) {
                Ok(count) => {
                    refusals.push(Reply::parse(&early[..count]).status);
                    false
                }
                Err(_) => true,
            });
            slow.len() <= ROOM / 2 / LENGTH
        })
        .await;
        assert!(refusals.iter().all(|status| *status == 503), "{path}: {refusals:?}");
        assert_eq!(bodies.held(), ROOM / 2 / LENGTH * LENGTH);
        let refused = bodies.post(path, &bodies.world.key, 10).await;
        assert_eq!(
            (refused.status, refused.problem().as_str()),
            (503, "overloaded"),
            "{path}"
        );
        assert_eq!(refused.header("retry-after"), Some("1"), "{path}");
        assert_eq!(
            bodies.post(path, &bodies.other, 0).await.status,
            201,
            "{path}: another's"
        );
        assert_eq!(slow.len(), ROOM / 2 / LENGTH, "{path}");
        for mut stream in slow {
            stream.write_all(" ".repeat(LENGTH - SENT).as_bytes()).await.unwrap();
            let count = stream.read(&mut early).await.unwrap();
            assert_eq!(Reply::parse(&early[..count]).status, 201, "{path}");
        }
        until(|| bodies.held() == 0).await;
        assert_eq!(bodies.post(path, &bodies.world.key, 11).await.status, 201, "{path}");
    }
}

/// A byte now and then breaks every silence, and is still not enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_read_whole_is_waited_for_so_long() {
    let bodies = bodies(|c| c.limits.whole_body_time = Duration::from_millis(700)).await;
    for path in ["/once", "/gated"] {
        let begun = Instant::now();
        let (mut read, mut write) = bodies.begin(path, 0).await.into_split();
        let dripping = tokio::spawn(async move {
            while write.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut out = vec![0; 4096];
        let came = tokio::time::timeout(Duration::from_secs(10), read.read(&mut out)).await;
        let Ok(Ok(count)) = came else {
            panic!("{path}: no answer")
        };
        let reply = Reply::parse(&out[..count]);
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (408, "body-timeout"),
            "{path}"
        );
        assert!(begun.elapsed() >= Duration::from_millis(700), "{path}");
        dripping.abort();
        until(|| bodies.held() == 0).await;
    }
    assert!(bodies.world.shipped().await.iter().all(|r| r.units == 0));
}
