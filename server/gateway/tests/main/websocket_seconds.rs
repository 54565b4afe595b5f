//! A WebSocket that is counted by its time (T93): what is recorded while it is open and when it ends, and what ends it.

use crate::frames::{client_frame, read_frame};
use crate::streams::ENDS_WITHIN;
use crate::support::*;
use crate::websocket::{Server, closed_with, route_to, shake};
use model::policy::{WebSocketCount, WebSocketPolicy};
use model::snapshot::{Entitlement, KeyLimits};
use model::usage::UsageRecord;
use model::{RequestId, Time};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

async fn world(server: &Server, change: impl FnOnce(&mut Entitlement)) -> World {
    let world = World::with(change).await;
    let policy = WebSocketPolicy {
        count: WebSocketCount::Seconds,
        ..WebSocketPolicy::default()
    };
    route_to(&world, server, 600_000, policy).await;
    world
}

fn units(rows: &[UsageRecord]) -> u32 {
    rows.iter().map(|r| r.units).sum()
}

/// Checks that as many seconds are counted as have begun in a time of at least and at most these lengths: what is measured
/// around a WebSocket says no more, and on a machine that stands still the two are far apart.
fn check_begun(rows: &[UsageRecord], least: Duration, most: Duration) {
    let all = f64::from(units(rows));
    assert!(
        least.as_secs_f64() <= all && all - 1.0 <= most.as_secs_f64(),
        "{all} seconds have begun in {least:?} to {most:?}: {rows:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn seconds_are_recorded_while_it_is_open_and_rounded_up_at_its_end() {
    let server = Server::start().await;
    let world = world(&server, |_| {}).await;
    let began = Instant::now();
    let (reply, mut stream) = shake(&world, "/v1/a", b"").await;
    let open = Instant::now();
    assert_eq!(reply.status, 101);
    let rows = world.shipped().await;
    assert_eq!((rows[0].units, rows[0].continues), (1, false), "the first second");
    // The second slice begins at four seconds.
    assert!(rows.len() == 1 || began.elapsed() >= Duration::from_secs(4), "{rows:?}");
    let sent = client_frame(0x81, b"hello");
    stream.write_all(&sent).await.unwrap();
    assert_eq!(read_frame(&mut stream).await, Some((0x81, b"hello".to_vec())));

    until(|| world.plane.rows().len() >= 2).await;
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    let rows = world.plane.rows();
    let (first, slice) = (&rows[0], &rows[1]);
    assert!(slice.continues && slice.request == first.request, "{slice:?}");
    assert_eq!((slice.units, slice.status, slice.refusal), (3, 101, 0));
    assert_eq!(
        (slice.key, slice.route, slice.meter),
        (first.key, first.route, first.meter)
    );
    assert_eq!(slice.duration_us, 3_000_000);

    sleep(Duration::from_millis(5_200).saturating_sub(open.elapsed())).await;
    let least = open.elapsed();
    stream.write_all(&client_frame(0x81, b"bye")).await.unwrap();
    assert_eq!(read_frame(&mut stream).await, None, "the upstream ended it");
    drop(stream);
    until(|| world.target("in_flight", 0) == 0).await;
    let rows = world.shipped().await;
    check_begun(&rows, least, began.elapsed());
    assert!(rows.len() >= 3 && rows[1..].iter().all(|r| r.continues && r.units <= 3));
    let bytes = |r: &UsageRecord| (r.request_bytes, r.response_bytes);
    let bytes = rows.iter().map(bytes).fold((0, 0), |all, r| (all.0 + r.0, all.1 + r.1));
    assert_eq!(bytes, (11 + 9, 7), "with what passed: {rows:?}");
    let named: Vec<RequestId> = rows.iter().map(|r| r.request).collect();
    assert!(
        named
            .iter()
            .all(|id| id.to_string() == reply.header("x-request-id").unwrap())
    );
    sleep(Duration::from_millis(1_500)).await;
    let later = world.shipped().await.len();
    assert_eq!(later, rows.len(), "nothing is counted of what is closed");
    assert_eq!(server.ended.load(std::sync::atomic::Ordering::SeqCst), 1);
}

/// Who closed it as the protocol has it, and lost the network before the connection's end, pays for no second more.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_counted_behind_the_close_frames() {
    const ATTEMPTS: usize = 20;
    let server = Server::start().await;
    let world = world(&server, |_| {}).await;
    for _ in 0..ATTEMPTS {
        let began = Instant::now();
        let (reply, mut stream) = shake(&world, "/v1/a", b"").await;
        stream.write_all(&client_frame(0x88, &[3, 232])).await.unwrap();
        assert_eq!(read_frame(&mut stream).await, Some((0x88, vec![3, 232])));
        // Where this machine stood still a second more has begun before that.
        if began.elapsed() > Duration::from_millis(900) {
            continue;
        }
        sleep(Duration::from_millis(4_500)).await;
        let mut rows = world.shipped().await;
        rows.retain(|r| r.request.to_string() == reply.header("x-request-id").unwrap());
        assert_eq!((rows.len(), units(&rows)), (1, 1), "{rows:?}");
        return;
    }
    panic!("this machine stands still all the time");
}

/// What ends it: the plan's quota, the consumer's spend cap, and what the key's owner allows it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_up_ends_it_and_no_second_more_is_counted() {
    let server = Server::start().await;
    for (what, slug, most) in [
        ("quota", "quota-exceeded", 3),
        ("cap", "spend-cap-reached", 2),
        ("key quota", "key-quota-reached", 2),
        ("key budget", "key-budget-reached", 2),
    ] {
        let world = world(&server, |e| match what {
            "quota" => e.meters[0] = meter(1, 3, None),
            "cap" => {
                e.meters[0] = meter(1, 0, Some("1"));
                e.spend_cap_minor = Some(2);
            }
            _ => e.meters[0] = meter(1, 0, Some("1")),
        })
        .await;
        if what.starts_with("key") {
            let limits = KeyLimits {
                root: None,
                quota: (what == "key quota").then_some(2),
                budget_minor: (what == "key budget").then_some(2),
                period_start: Time::from_unix_ms(START_MS),
                used: Vec::new(),
            };
            world.plane.edit_key(world.key.lookup().0, |k| k.limits = Some(limits));
            world.synced().await;
        }
        let began = Instant::now();
        let (reply, mut stream) = shake(&world, "/v1/a", b"").await;
        assert_eq!(reply.status, 101, "{what}");
        let (code, reason) = timeout(ENDS_WITHIN, closed_with(&mut stream))
            .await
            .expect("it stayed open");
        assert!(code == 1008 && reason.starts_with(slug), "{what}: {code} {reason}");
        assert!(
            began.elapsed() >= Duration::from_secs(u64::from(most)),
            "{what}: what was given was there to be used"
        );
        let rows = world.shipped().await;
        assert_eq!(units(&rows), most, "{what}: {rows:?}");
        assert_eq!(world.get("/v1/a").await.problem(), slug, "{what}");
    }
}

/// Several at once, and requests beside them, never pass a hard quota together; what was not begun is given back.
#[tokio::test(flavor = "multi_thread")]
async fn one_quota_is_shared_to_the_unit() {
    let server = Server::start().await;
    let world = world(&server, |e| e.meters[0] = meter(1, 11, None)).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let (reply, stream) = shake(&world, "/v1/a", b"").await;
        // On a machine that stands still the first may use it up before the last begins.
        if reply.status == 101 {
            open.push(stream);
        } else {
            assert_eq!(reply.problem(), "quota-exceeded");
        }
    }
    let ends = open.iter_mut().map(closed_with);
    for end in ends.collect::<Vec<_>>() {
        assert_eq!(timeout(ENDS_WITHIN, end).await.expect("it stayed open").0, 1008);
    }
    assert_eq!(units(&world.shipped().await), 11);
    const MORE: u32 = 1_000;
    world.plane.edit_entitlement(world.consumer, |e| {
        e.meters[0] = meter(1, u64::from(11 + MORE), None);
    });
    world.synced().await;
    let began = Instant::now();
    let (reply, stream) = shake(&world, "/v1/a", b"").await;
    let opened = Instant::now();
    assert_eq!(reply.status, 101);
    sleep(Duration::from_millis(1_300)).await;
    let least = opened.elapsed();
    drop(stream);
    until(|| world.target("in_flight", 0) == 0).await;
    let lasted = began.elapsed();
    let id = reply.header("x-request-id").unwrap();
    let mut rows = world.shipped().await;
    rows.retain(|r| r.request.to_string() == id);
    check_begun(&rows, least, lasted);
    let (reply, _stream) = shake(&world, "/v1/a", b"").await;
    let said = reply.header("ratelimit").unwrap().to_owned();
    let left = MORE - units(&rows) - 1;
    assert!(
        said.split([',', ';']).any(|part| part == format!("r={left}")),
        "what is left of its slice was given back, so that there are {left}: {said}"
    );
}

/// Another gateway, or another way to call, uses up what is left: within five seconds it is over.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_use_up_ends_it_soon() {
    let server = Server::start().await;
    let world = world(&server, |e| e.meters[0] = meter(1, 1_000, None)).await;
    let (_, mut stream) = shake(&world, "/v1/a", b"").await;
    sleep(Duration::from_millis(1_200)).await;
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.meters[0].used = 5_000);
    world.synced().await;
    let (code, reason) = timeout(ENDS_WITHIN, closed_with(&mut stream))
        .await
        .expect("it stayed open");
    assert!(code == 1008 && reason.starts_with("quota-exceeded"), "{code} {reason}");
}

/// What was not recorded when the process ends is: the drain's end drops what is open.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_when_the_gateway_stops_is_recorded() {
    let server = Server::start().await;
    let mut world = world(&server, |_| {}).await;
    let began = Instant::now();
    let (_, _stream) = shake(&world, "/v1/a", b"").await;
    let open = Instant::now();
    sleep(Duration::from_millis(1_300)).await;
    let least = open.elapsed();
    world.gateway.take().unwrap().shutdown(Duration::from_millis(100)).await;
    let rows = world.plane.rows();
    assert!(rows.len() >= 2, "{rows:?}");
    check_begun(&rows, least, began.elapsed());
}
