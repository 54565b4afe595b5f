//! What one consumer has in place of its plan begins and ends by the clock, with nobody to ask.

use crate::support::*;
use gateway::Question;
use model::access::QuotaKind;
use model::overrides::{Change, Override};
use model::snapshot::Entitlement;
use model::{KeyId, OverrideId, Time};
use std::sync::atomic::Ordering;

/// So many days after the period began.
fn day(n: i64) -> Time {
    Time::from_unix_ms(START_MS + n * DAY_MS)
}

fn own(change: Change, from: i64, until: Option<i64>) -> Override {
    Override {
        id: OverrideId::from_bits(u128::from(from.unsigned_abs())),
        change,
        starts_at: day(from),
        ends_at: until.map(day),
    }
}

fn quota(units: u64, kind: Option<QuotaKind>) -> Change {
    Change::Quota {
        meter: "meter-1".to_owned(),
        units,
        kind,
    }
}

fn limit(name: &str, count: u32, burst: Option<u32>) -> Change {
    Change::Limit {
        name: name.to_owned(),
        count,
        burst,
    }
}

/// A world whose control plane went away right after it had told this.
async fn alone(change: impl FnOnce(&mut Entitlement)) -> World {
    let world = World::with(change).await;
    world.plane.away.store(true, Ordering::SeqCst);
    world
}

/// How many of `count` requests, one after another, are let through.
async fn passed(world: &World, count: usize) -> usize {
    let mut passed = 0;
    for _ in 0..count {
        passed += usize::from(world.get("/v1/ok").await.status == 200);
    }
    passed
}

/// To the last moment before a day begins, and asks; then to the day itself, and asks.
async fn around(world: &World, n: i64, count: usize) -> (usize, usize) {
    world.clock.advance(world.clock_until(day(n)) - 1);
    let before = passed(world, count).await;
    world.clock.advance(1);
    (before, passed(world, count).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_begins_and_ends_in_its_moment_and_what_was_used_stays_counted() {
    let mut world = alone(|e| {
        e.meters = vec![meter(1, 3, None)];
        e.overrides = vec![
            own(quota(5, None), 2, Some(3)),
            own(quota(1, None), 3, Some(4)),
            own(quota(9, None), 4, None),
        ];
    })
    .await;
    assert_eq!(passed(&world, 4).await, 3, "the plan's");
    assert_eq!(around(&world, 2, 3).await, (0, 2), "raised, it admits at once");
    let refused = world.get("/v1/ok").await;
    assert_eq!(refused.problem(), "quota-exceeded");
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(text.contains("5 units") && !text.contains("larger plan"), "{text}");
    assert_eq!(around(&world, 3, 1).await, (0, 0));
    // A new start knows nothing but its copy on the disk, and goes on.
    let saved = || std::fs::metadata(world.folder.0.join("snapshot")).is_ok();
    until(saved).await;
    world.stop().await;
    world.start();
    until(|| world.gateway.as_ref().unwrap().snapshot_version() > 0).await;
    assert_eq!(around(&world, 4, 9).await, (0, 4), "9 less the 5 that were used");
    // In the next period the override goes on, and its count begins anew.
    assert_eq!(around(&world, 30, 12).await, (0, 9));
    world.plane.away.store(false, Ordering::SeqCst);
    let rows = world.shipped().await;
    assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), 3 + 2 + 4 + 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_quota_refuses_at_once_and_the_plans_comes_back_by_itself() {
    let world = alone(|e| {
        e.meters = vec![meter(1, 10, None)];
        e.overrides = vec![own(quota(4, None), 2, Some(30))];
    })
    .await;
    let of = |reply: &Reply| reply.header("ratelimit-policy").unwrap().to_owned();
    assert!(of(&world.get("/v1/ok").await).contains("\"quota\";q=10;"));
    assert_eq!(passed(&world, 3).await, 3);
    assert_eq!(around(&world, 2, 1).await, (1, 0), "5 are used of 4");
    assert!(of(&world.get("/v1/ok").await).contains("\"quota\";q=4;"));
    // It ends in the moment in which the period does.
    assert_eq!(around(&world, 30, 11).await, (0, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_begin_and_end_in_their_moment() {
    let rule = r#"{"name": "gets", "methods": ["GET"], "requests": 2, "per": "day"}"#;
    let world = alone(|e| {
        e.limits = vec![serde_json::from_str(rule).unwrap()];
        e.overrides = vec![
            own(limit("gets", 6, None), 3, Some(4)),
            own(limit("rate", 1, Some(1)), 5, None),
            // The plan has none of that name: nothing comes of it.
            own(limit("puts", 1, None), 1, None),
        ];
    })
    .await;
    assert_eq!(passed(&world, 3).await, 2);
    world.clock.advance(world.clock_until(day(3)) - 1);
    assert_eq!(passed(&world, 2).await, 2, "both places are there again");
    assert_eq!(world.get("/v1/ok").await.header("retry-after"), Some("43200"));
    world.clock.advance(1);
    let reply = world.get("/v1/ok").await;
    let told = (reply.status, reply.header("retry-after"));
    assert_eq!(
        told,
        (429, Some("14400")),
        "what was just taken is not given again; the wait is the wider limit's"
    );
    world.clock.advance(DAY_MS / 2);
    assert_eq!(passed(&world, 9).await, 3, "half of six have come back");
    world.clock.advance(world.clock_until(day(5)) - 1);
    assert_eq!(passed(&world, 3).await, 2, "the plan's");
    world.clock.advance(2 * DAY_MS);
    let reply = world.get("/v1/ok").await;
    assert!(
        reply.header("ratelimit-policy").unwrap().contains("\"rate\";q=1;"),
        "{reply:?}"
    );
    assert_eq!(world.get("/v1/ok").await.problem(), "rate-limited", "one a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_stay_the_plans_whatever_the_quota() {
    let world = alone(|e| {
        e.meters = vec![meter(1, 2, Some("3"))];
        e.overrides = vec![
            own(quota(4, Some(QuotaKind::Hard)), 1, Some(2)),
            own(quota(100, None), 2, Some(3)),
        ];
    })
    .await;
    let cost = |reply: &Reply| reply.header("turnpike-cost").map(str::to_owned);
    let mut costs = Vec::new();
    for _ in 0..4 {
        costs.push(cost(&world.get("/v1/ok").await).unwrap());
    }
    let free = "\"0.00\";currency=usd";
    let dear = "\"0.03\";currency=usd";
    assert_eq!(costs, [free, free, dear, dear], "the allowance is the plan's");
    assert_eq!(
        world.get("/v1/ok").await.problem(),
        "quota-exceeded",
        "a hard quota on what has a price"
    );
    world.clock.advance(world.clock_until(day(2)));
    let reply = world.get("/v1/ok").await;
    assert_eq!(
        (reply.status, cost(&reply)),
        (200, Some(dear.to_owned())),
        "a soft quota gives nothing away"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_tells_what_is_left_under_both_the_allowance_and_the_quota() {
    let world = alone(|e| {
        e.meters = vec![meter(1, 2, Some("3"))];
        e.overrides = vec![
            own(quota(1, Some(QuotaKind::Hard)), 1, Some(2)),
            own(quota(9, Some(QuotaKind::Hard)), 2, Some(3)),
        ];
    })
    .await;
    let asked = async || {
        let key = world.key.reveal();
        let head = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nTurnpike-Quote: ?1\r\n");
        let said: serde_json::Value = serde_json::from_slice(&world.send(&head, "").await.body).unwrap();
        (
            said["included_left"].as_u64(),
            said["would_be_refused"]["status"].as_u64(),
        )
    };
    assert_eq!(asked().await, (Some(1), None));
    assert_eq!(passed(&world, 2).await, 1);
    assert_eq!(asked().await, (Some(0), Some(429)));
    world.clock.advance(world.clock_until(day(2)));
    assert_eq!(asked().await, (Some(1), None), "one of the two that the plan includes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_quota_where_the_plan_has_no_price_lets_all_through_for_nothing() {
    let world = alone(|e| {
        e.meters = vec![meter(1, 2, None)];
        e.overrides = vec![own(quota(3, Some(QuotaKind::Soft)), 1, Some(2))];
    })
    .await;
    assert_eq!(passed(&world, 7).await, 7);
    let reply = world.get("/v1/ok").await;
    assert_eq!((reply.status, reply.header("turnpike-cost")), (200, None));
    world.clock.advance(world.clock_until(day(2)));
    assert_eq!(passed(&world, 1).await, 0, "8 are used of 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_back_it_is_gone_with_the_next_snapshot() {
    let world = World::with(|e| {
        e.meters = vec![meter(1, 2, None)];
        e.overrides = vec![own(quota(4, None), 0, None)];
    })
    .await;
    assert_eq!(passed(&world, 3).await, 3);
    world.plane.edit_entitlement(world.consumer, |e| e.overrides.clear());
    world.synced().await;
    assert_eq!(passed(&world, 2).await, 0, "3 are used of 2");
    let longer = own(quota(4, None), 0, None);
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.overrides.push(longer));
    world.synced().await;
    assert_eq!(passed(&world, 2).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_names_the_override_and_its_end() {
    let world = alone(|e| {
        e.limits = vec![serde_json::from_str(r#"{"name": "all", "requests": 9, "per": "day"}"#).unwrap()];
        e.meters = vec![meter(1, 10, None)];
        e.overrides = vec![
            own(quota(4, None), 1, Some(3)),
            own(limit("all", 7, None), 0, None),
            own(
                Change::Feature {
                    feature: "search".to_owned(),
                    on: true,
                },
                1,
                Some(2),
            ),
        ];
    })
    .await;
    let said = |about: &str| {
        let question = Question {
            method: "GET".to_owned(),
            url: "/search/1".to_owned(),
            headers: Vec::new(),
            key: Some(KeyId::from_bits(u128::from(world.key.lookup().0))),
            client: None,
        };
        let said = world.gateway.as_ref().unwrap().explain(&question).unwrap();
        let all = said.decisions.into_iter().filter(|d| d.about == about);
        all.map(|d| d.detail).collect::<Vec<_>>().join("|")
    };
    for (about, wanted) in [
        ("quota and spend cap", "0 units taken of a hard quota of 4"),
        (
            "quota",
            "The override ovr_000000000000000000000001 (until 2026-11-04T00:00:00Z); the plan says 10 (hard).",
        ),
        ("rate limit all", "At most 7 requests a day; 6 left"),
        (
            "rate limit all",
            "|The override ovr_000000000000000000000000 (without an end); the plan says 9 requests a day.",
        ),
        (
            "feature",
            "The override ovr_000000000000000000000001 (until 2026-11-03T00:00:00Z) switches it",
        ),
    ] {
        assert!(said(about).contains(wanted), "{about}: {}", said(about));
    }
    assert!(!said("rate limit rate").contains("override"));
    world.clock.advance(world.clock_until(day(3)));
    assert!(said("quota and spend cap").contains("a hard quota of 10"));
    assert_eq!(
        (said("quota").as_str(), said("feature").contains("override")),
        ("", false)
    );
}
