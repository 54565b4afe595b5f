//! Quotas, caps and counters are exact, whatever runs at once and whatever changes meanwhile.

use crate::support::*;
use model::access::Environment;
use model::key::PlainKey;
use model::quota::QuotaGrace;
use model::{Period, Time};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Barrier;

/// How many of `count` requests at once were let through, and the slugs of the others.
async fn at_once(world: &World, path: &str, count: usize) -> (usize, Vec<String>) {
    let barrier = Arc::new(Barrier::new(count));
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let (barrier, addr) = (Arc::clone(&barrier), world.addr);
            let text = format!(
                "GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
                world.key.reveal()
            );
            tokio::spawn(async move {
                barrier.wait().await;
                Reply::parse(&raw(addr, text.as_bytes()).await)
            })
        })
        .collect();
    let mut passed = 0;
    let mut refused = Vec::new();
    for task in tasks {
        let reply = task.await.unwrap();
        if reply.status == 200 {
            passed += 1;
        } else {
            refused.push(reply.problem());
        }
    }
    (passed, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_units_are_given_exactly_once() {
    for _ in 0..3 {
        let world = World::with(|e| e.meters = vec![meter(1, 23, None)]).await;
        let (passed, refused) = at_once(&world, "/v1/ok", 200).await;
        assert_eq!(passed, 23);
        assert!(refused.len() == 177 && refused.iter().all(|s| s == "quota-exceeded"));
        let reply = world.get("/v1/ok").await;
        assert_eq!(reply.status, 429);
        let told = reply.header("ratelimit").unwrap();
        assert!(told.contains("\"quota\";r=0;t="), "{told}");
        let rows = world.shipped().await;
        assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), 23);
        assert_eq!(rows.len(), 201);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_spend_cap_is_never_passed() {
    // 10 units are included; each further one costs 3 cents; 50 cents buy 16 of them.
    let world = World::with(|e| {
        e.meters = vec![meter(1, 10, Some("3"))];
        e.spend_cap_minor = Some(50);
    })
    .await;
    let (passed, refused) = at_once(&world, "/v1/ok", 100).await;
    assert_eq!(passed, 26);
    assert!(refused.iter().all(|s| s == "spend-cap-reached"));
    let reply = world.get("/v1/ok").await;
    assert_eq!(reply.status, 402);
    assert!(String::from_utf8_lossy(&reply.body).contains("/budget"));
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.spend_cap_minor = Some(53));
    world.synced().await;
    assert_eq!(
        at_once(&world, "/v1/ok", 10).await.0,
        1,
        "3 cents more are one unit more"
    );
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.spend_cap_minor = None);
    world.synced().await;
    assert_eq!(at_once(&world, "/v1/ok", 10).await.0, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cap_over_two_meters_is_never_passed() {
    let world = World::with(|e| {
        e.meters = vec![meter(1, 0, Some("2")), meter(2, 0, Some("5"))];
        e.spend_cap_minor = Some(101);
    })
    .await;
    let ((one, _), (two, _)) = tokio::join!(at_once(&world, "/v1/ok", 60), at_once(&world, "/other", 60));
    let spent = one * 2 + two * 5;
    assert!(spent <= 101, "{one} and {two}");
    assert!(spent + 5 > 101, "what fits is let through: {one} and {two}");
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_and_statuses_decide_what_counts() {
    let world = World::with(|e| e.meters = vec![meter(1, 12, None)]).await;
    assert_eq!(world.get("/heavy").await.status, 200);
    for status in [500, 400, 304] {
        assert_eq!(world.get(&format!("/v1/status/{status}")).await.status, status);
    }
    assert_eq!(world.get("/v1/status/404").await.status, 404);
    assert_eq!(world.get("/heavy").await.status, 200);
    assert_eq!(
        world.get("/heavy").await.problem(),
        "quota-exceeded",
        "1 unit is left, 5 are needed"
    );
    let reply = world.get("/v1/ok").await;
    assert_eq!(reply.status, 200);
    assert!(reply.header("ratelimit").unwrap().contains("\"quota\";r=0;"));
    let units: Vec<_> = world.shipped().await.iter().map(|r| (r.status, r.units)).collect();
    assert_eq!(
        units,
        [
            (200, 5),
            (500, 0),
            (400, 0),
            (304, 0),
            (404, 1),
            (200, 5),
            (429, 0),
            (200, 1)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_plan_keeps_what_is_used() {
    let world = World::with(|e| e.meters = vec![meter(1, 3, None)]).await;
    assert_eq!(at_once(&world, "/v1/ok", 5).await.0, 3);
    world.plane.edit_entitlement(world.consumer, |e| {
        e.plan = "scale".to_owned();
        e.meters = vec![meter(1, 5, None), meter(2, 1, None)];
    });
    world.synced().await;
    assert_eq!(at_once(&world, "/v1/ok", 5).await.0, 2);
    assert_eq!(at_once(&world, "/other", 5).await.0, 1);
    assert!(world.upstream.last().contains("x-plan: scale"));
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.meters = vec![meter(1, 4, None)]);
    world.synced().await;
    assert_eq!(
        at_once(&world, "/v1/ok", 3).await.0,
        0,
        "a smaller plan, more than it includes is used"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn periods_begin_anew() {
    let world = World::with(|e| e.meters = vec![meter(1, 2, None)]).await;
    let start = Time::from_unix_ms(START_MS);
    assert_eq!(at_once(&world, "/v1/ok", 4).await.0, 2);
    world.clock.advance(30 * DAY_MS);
    assert_eq!(
        at_once(&world, "/v1/ok", 4).await.0,
        2,
        "past the end it counts from zero"
    );
    // The control plane follows: the same period, by its own account with the rows shipped so far.
    world.shipped().await;
    let second = Period {
        start: start.plus_ms(30 * DAY_MS),
        end: start.plus_ms(61 * DAY_MS),
    };
    world.plane.edit_entitlement(world.consumer, |e| {
        e.period = second;
        e.meters = vec![meter(1, 3, None)];
    });
    world.synced().await;
    assert_eq!(at_once(&world, "/v1/ok", 4).await.0, 1);
    // A new agreement in the middle of the period: its own count, which starts with what it is told.
    world.plane.edit_entitlement(world.consumer, |e| {
        e.period.start = second.start.plus_ms(1_000);
        e.meters[0].used = 1;
    });
    world.synced().await;
    assert_eq!(at_once(&world, "/v1/ok", 4).await.0, 2);
    let starts: std::collections::BTreeSet<_> = world.shipped().await.iter().map(|r| r.period_start).collect();
    assert_eq!(
        starts.into_iter().collect::<Vec<_>>(),
        [start, second.start, second.start.plus_ms(1_000)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn test_keys_count_apart() {
    let world = World::with(|e| e.meters = vec![meter(1, 1, None)]).await;
    let test_key = PlainKey::generate("tp", Environment::Test, &*world.random);
    let mut e = entitlement(world.consumer);
    e.environment = Environment::Test;
    e.meters = vec![meter(1, 2, None)];
    world.plane.put_entitlement(e);
    world.plane.put_key(key_record(&test_key, world.consumer));
    world.synced().await;
    assert_eq!(at_once(&world, "/v1/ok", 3).await.0, 1);
    let head = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", test_key.reveal());
    let mut passed = 0;
    for _ in 0..4 {
        passed += usize::from(world.send(&head, "").await.status == 200);
    }
    assert_eq!(passed, 2);
    assert!(world.upstream.last().contains("x-environment: test"));
    let rows = world.shipped().await;
    assert_eq!(
        rows.iter()
            .filter(|r| r.environment == Environment::Test && r.units == 1)
            .count(),
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_grace_lets_so_many_through_and_no_more() {
    let world = World::with(|e| {
        e.meters = vec![meter(1, 40, None)];
        e.meters[0].terms.grace = Some(QuotaGrace {
            percent: Some(5),
            hours: None,
        });
    })
    .await;
    let (passed, refused) = at_once(&world, "/v1/ok", 39).await;
    assert_eq!((passed, refused.len()), (39, 0));
    let last = world.get("/v1/ok").await;
    assert_eq!(
        (last.status, last.header("turnpike-grace")),
        (200, None),
        "the last of the quota"
    );
    let end = (START_MS + 30 * DAY_MS) / 1_000;
    let first = world.get("/v1/ok").await;
    assert_eq!(first.header("turnpike-grace"), Some(&*format!("units=1, until=@{end}")));
    assert!(first.header("ratelimit").unwrap().contains("\"quota\";r=0;"));
    assert_eq!(at_once(&world, "/v1/ok", 20).await.0, 1);
    let refused = world.get("/v1/ok").await;
    assert_eq!(
        (refused.problem(), refused.header("turnpike-grace")),
        ("quota-exceeded".to_owned(), None)
    );
    assert!(String::from_utf8_lossy(&refused.body).contains("grace"));
    let rows = world.shipped().await;
    assert_eq!(
        rows.iter().map(|r| r.units).sum::<u32>(),
        42,
        "calls in grace are counted"
    );
    world.clock.advance(30 * DAY_MS);
    assert_eq!(
        at_once(&world, "/v1/ok", 50).await.0,
        42,
        "the next period has a grace of its own"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_of_hours_begins_when_the_quota_is_used_up() {
    const HOUR_MS: i64 = 3_600_000;
    let grace = |percent| {
        Some(QuotaGrace {
            percent,
            hours: Some(24),
        })
    };
    let mut world = World::with(|e| {
        e.meters = vec![meter(1, 2, None)];
        e.meters[0].terms.grace = grace(None);
    })
    .await;
    world.clock.advance(5 * DAY_MS);
    assert_eq!(at_once(&world, "/v1/ok", 2).await.0, 2);
    let end = (START_MS + 7 * DAY_MS) / 1_000;
    world.clock.advance(20 * HOUR_MS);
    let reply = world.get("/v1/ok").await;
    assert_eq!(reply.header("turnpike-grace"), Some(&*format!("until=@{end}")));
    assert_eq!(at_once(&world, "/v1/ok", 30).await.0, 30);
    // A change of anything else does not begin it anew.
    world.plane.edit_entitlement(world.consumer, |e| e.priority = 3);
    world.synced().await;
    world.clock.advance(4 * HOUR_MS - 1);
    assert_eq!(world.get("/v1/ok").await.status, 200);
    world.clock.advance(1);
    assert_eq!(world.get("/v1/ok").await.problem(), "quota-exceeded");
    world.stop().await;
    world.start();
    world.synced().await;
    assert_eq!(
        world.get("/v1/ok").await.problem(),
        "quota-exceeded",
        "nor does a restart"
    );
    // More quota ends it; when that is used up, it has a grace of its own, by units or by time.
    world.plane.edit_entitlement(world.consumer, |e| {
        e.meters[0].terms.included = 40;
        e.meters[0].terms.grace = grace(Some(5));
    });
    world.synced().await;
    assert_eq!(at_once(&world, "/v1/ok", 20).await.0, 40 + 2 - 34);
    // What the control plane knows of another gateway's count holds here.
    world.plane.edit_entitlement(world.consumer, |e| {
        e.meters[0].terms.included = 41;
        e.meters[0].terms.grace = grace(None);
        e.meters[0].used_up_at = Some(Time::from_unix_ms(START_MS));
    });
    world.synced().await;
    assert_eq!(world.get("/v1/ok").await.problem(), "quota-exceeded");
}

/// One call short of the quota of two that has a grace of a day.
async fn before_the_grace() -> World {
    let world = World::with(|e| {
        e.meters = vec![meter(1, 2, None)];
        e.meters[0].terms.grace = Some(QuotaGrace {
            percent: None,
            hours: Some(24),
        });
    })
    .await;
    assert_eq!(world.get("/v1/ok").await.status, 200);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_begins_no_grace() {
    let world = before_the_grace().await;
    assert_eq!(world.get("/v1/status/500").await.status, 500);
    assert_eq!(world.get("/down").await.status, 502);
    // One whose client goes away holds the last unit while others pass, and gives it back.
    let gone = format!(
        "GET /v1/hang HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        world.key.reveal()
    );
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    stream.write_all(gone.as_bytes()).await.unwrap();
    until(|| world.upstream.requests().last().is_some_and(|r| r.contains("/hang"))).await;
    drop(stream);
    until(|| world.plane.rows().iter().any(|r| r.status == 499)).await;
    world.clock.advance(3 * DAY_MS);
    let last = world.get("/v1/ok").await;
    assert_eq!((last.status, last.header("turnpike-grace")), (200, None));
    let end = (START_MS + 5 * DAY_MS) / 1_000;
    world.clock.advance(DAY_MS - 1);
    let reply = world.get("/v1/ok").await;
    assert_eq!(reply.header("turnpike-grace"), Some(&*format!("until=@{end}")));
    world.clock.advance(1);
    assert_eq!(world.get("/v1/ok").await.problem(), "quota-exceeded");
}

/// As after `kill -9`: the copy is from before the quota was used up, and nobody can be asked.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_remembers_when_the_grace_began() {
    let mut world = before_the_grace().await;
    world.stop().await;
    let copy = world.folder.0.join("snapshot");
    let old = std::fs::read(&copy).unwrap();
    world.start();
    world.synced().await;
    assert_eq!(world.get("/v1/ok").await.status, 200);
    let end = (START_MS + 2 * DAY_MS) / 1_000;
    world.stop().await;
    std::fs::write(&copy, old).unwrap();
    world.plane.away.store(true, Ordering::SeqCst);
    world.clock.advance(DAY_MS - 1);
    world.start();
    let reply = world.get("/v1/ok").await;
    assert_eq!(reply.header("turnpike-grace"), Some(&*format!("until=@{end}")));
    world.clock.advance(1);
    assert_eq!(world.get("/v1/ok").await.problem(), "quota-exceeded");
}
