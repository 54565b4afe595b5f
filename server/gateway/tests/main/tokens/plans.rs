//! A plan that a token names.

use super::*;
use model::OverrideId;
use model::overrides::{Change, Override};
use model::snapshot::Entitlement;

/// The plan `scale`: of other features, with a quota of six and a limit of its own.
fn scale(world: &World) -> Entitlement {
    let mut plan = entitlement(world.consumer);
    (plan.plan, plan.features) = ("scale".to_owned(), vec!["history".to_owned()]);
    plan.meters = vec![meter(1, 6, None)];
    plan.limits =
        vec![serde_json::from_str(r#"{"name": "writes", "methods": ["POST"], "requests": 2, "per": "hour"}"#).unwrap()];
    plan
}

async fn offering() -> World {
    offering_of(scale).await
}

async fn offering_of(scale: impl Fn(&World) -> Entitlement) -> World {
    offering_all(|world| vec![scale(world)]).await
}

async fn offering_all(plans: impl Fn(&World) -> Vec<Entitlement>) -> World {
    let world = World::new().await;
    let issuer = record(json!({
        "algorithms": ["EdDSA"], "public_key": ED_PUBLIC, "plan_claim": "tier", "plans": ["scale", "gone"],
    }));
    let plans = plans(&world);
    set_policy(&world, r#"{"accept": ["key", "jwt"]}"#, |routing| {
        routing.issuers = vec![issuer];
        routing.token_plans = plans;
    })
    .await;
    world
}

fn token(world: &World, tier: Value) -> String {
    let mut claims = claims(world);
    if tier != Value::Null {
        claims["tier"] = tier;
    }
    ed(ED).token(json!({}), &claims)
}

fn seen(world: &World, line: &str) -> bool {
    world.upstream.last().to_ascii_lowercase().contains(line)
}

/// Features, quota and limits are the named plan's; the units and who pays for them are the consumer's own.
#[tokio::test(flavor = "multi_thread")]
async fn the_plan_that_a_token_names_holds_for_the_request() {
    let world = offering().await;
    let (own, named) = (token(&world, Value::Null), token(&world, json!("scale")));
    assert_eq!(call(&world, &own).await.status, 200);
    assert!(seen(&world, "x-plan: pro\r\nx-features: search,bulk\r\n"));
    assert_eq!(call(&world, &named).await.status, 200);
    assert!(seen(&world, "x-plan: scale\r\nx-features: history\r\n"));
    world.get("/v1/ok").await;
    for _ in 0..3 {
        assert_eq!(call(&world, &named).await.status, 200);
    }
    assert_eq!(
        outcome(&world, &named).await,
        (429, "quota-exceeded".to_owned()),
        "six of six"
    );
    assert_eq!(call(&world, &own).await.status, 200, "its own plan has room");
    assert_eq!(world.get("/v1/ok").await.status, 200);
    let rows = world.shipped().await;
    assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), 8);
    assert!(
        rows.iter()
            .all(|r| r.consumer == world.consumer && r.subscription.is_some() && r.plan_version.is_some())
    );
}

/// What a consumer has in place of its own plan says nothing of another.
#[tokio::test(flavor = "multi_thread")]
async fn overrides_are_of_the_own_plan() {
    let world = offering().await;
    world.plane.edit_entitlement(world.consumer, |e| {
        e.overrides = vec![Override {
            id: OverrideId::from_bits(1),
            change: Change::Quota {
                meter: "meter-1".to_owned(),
                units: 0,
                kind: None,
            },
            starts_at: e.period.start,
            ends_at: None,
        }];
    });
    world.synced().await;
    let (own, named) = (token(&world, Value::Null), token(&world, json!("scale")));
    assert_eq!(call(&world, &own).await.status, 429);
    assert_eq!(call(&world, &named).await.status, 200);
}

/// A limit that only the named plan has is one for all tokens of the consumer, and goes on when terms change.
#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_named_plan_are_one_count() {
    let world = offering().await;
    let post = async |token: &str| {
        let line = format!("POST /v1/ok HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n");
        world.send(&line, "").await.status
    };
    let mut claims = claims(&world);
    claims["tier"] = json!("scale");
    for (jti, status) in [(1, 200), (2, 200), (3, 429)] {
        claims["jti"] = json!(jti);
        assert_eq!(post(&ed(ED).token(json!({}), &claims)).await, status, "{jti}");
    }
    world.plane.edit_entitlement(world.consumer, |e| e.priority = 3);
    world.synced().await;
    assert_eq!(post(&token(&world, json!("scale"))).await, 429);
    assert_eq!(post(&token(&world, Value::Null)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_may_not_be_named_is_refused() {
    let world = offering().await;
    let refused = (403, "token-plan-refused".to_owned());
    for tier in ["enterprise", "pro", "gone"] {
        for _again in 0..2 {
            assert_eq!(outcome(&world, &token(&world, json!(tier))).await, refused, "{tier}");
        }
    }
    for tier in [json!(["scale"]), json!(""), json!(7)] {
        let outcome = outcome(&world, &token(&world, tier.clone())).await;
        assert_eq!(outcome, (401, "token-invalid".to_owned()), "{tier}");
    }
    let rows = world.shipped().await;
    assert_eq!(rows.len(), 6, "whose token it was is known, and written down");
    assert!(rows.iter().all(|r| (r.refusal, r.units) == (80, 0)));
    assert!(world.upstream.requests().is_empty());
}

/// Who has no plan has nothing that usage could be counted by, whatever a token says; suspension holds as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_named_plan_opens_no_closed_account() {
    use model::access::Suspension;
    let world = offering().await;
    let named = token(&world, json!("scale"));
    assert_eq!(call(&world, &named).await.status, 200);
    for (why, problem) in [(Suspension::NoPlan, "no-plan"), (Suspension::Provider, "suspended")] {
        world
            .plane
            .edit_entitlement(world.consumer, |e| e.suspended = Some(why));
        world.synced().await;
        assert_eq!(outcome(&world, &named).await.1, problem);
    }
}

/// The spend cap is reckoned by the consumer's own prices, whatever plan is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_named_plan_spends_by_the_consumers_own_prices() {
    let world = offering().await;
    world.plane.edit_entitlement(world.consumer, |e| {
        e.meters = vec![meter(1, 1, Some("100"))];
        e.spend_cap_minor = Some(200);
    });
    world.synced().await;
    let named = token(&world, json!("scale"));
    for status in [200, 200, 200, 402] {
        assert_eq!(call(&world, &named).await.status, status);
    }
}

/// Where the consumer's own plan has no price, the named plan's price would be paid by nobody: it lifts no quota.
#[tokio::test(flavor = "multi_thread")]
async fn a_named_plans_price_lifts_no_quota_that_the_own_plan_has_no_price_for() {
    let world = offering_of(|world| Entitlement {
        meters: vec![meter(1, 6, Some("100"))],
        ..scale(world)
    })
    .await;
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.meters = vec![meter(1, 2, None)]);
    world.synced().await;
    let named = token(&world, json!("scale"));
    for status in [200, 200, 429] {
        assert_eq!(call(&world, &named).await.status, status);
    }
    // Nor is a meter free without end that the own plan does not mention.
    world.plane.edit_entitlement(world.consumer, |e| e.meters = Vec::new());
    world.synced().await;
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(call(&world, &named).await.status);
    }
    let passed = statuses.iter().take_while(|s| **s == 200).count();
    assert!((4..=6).contains(&passed), "six, or what is left of them: {statuses:?}");
    assert!(statuses[passed..].iter().all(|s| *s == 429), "{statuses:?}");
}

/// The plans `scale` and `gone`, which have a meter that the consumer's own plan lacks.
fn with_another_meter(world: &World) -> Vec<Entitlement> {
    let mut plans = vec![scale(world), scale(world)];
    plans[0].meters.push(meter(2, 4, None));
    plans[1].meters.push(meter(2, 3, None));
    plans[1].plan = "gone".to_owned();
    plans
}

/// The statuses of calls with tokens that name a plan, on the meter that the own plan lacks.
async fn call_beyond(world: &World, tier: &str, statuses: &[u16]) {
    for (n, status) in statuses.iter().enumerate() {
        let reply = call_at(world, "/other", &token(world, json!(tier))).await;
        assert_eq!(reply.status, *status, "{tier} {n}");
    }
}

/// What several plans of tokens count of a meter is one count, and it goes on after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_tokens_use_is_counted_over_a_restart() {
    let mut world = offering_all(with_another_meter).await;
    let copy = world.folder.0.join("snapshot");
    call_beyond(&world, "scale", &[200]).await;
    assert_eq!(
        world.get("/other").await.status,
        200,
        "by its own plan, which counts none"
    );
    world.stop().await;
    let old = std::fs::read(&copy).unwrap();
    world.plane.away.store(true, Ordering::SeqCst);
    world.start();
    call_beyond(&world, "scale", &[200, 200]).await;
    call_beyond(&world, "gone", &[429]).await;
    // As after `kill -9`: the ledger completes an older copy.
    world.stop().await;
    std::fs::write(&copy, old).unwrap();
    world.start();
    call_beyond(&world, "gone", &[429]).await;
    call_beyond(&world, "scale", &[200, 429]).await;
    // Without a copy there is what the ledger still holds.
    world.stop().await;
    for name in ["snapshot", "snapshot.previous"] {
        let _ = std::fs::remove_file(world.folder.0.join(name));
    }
    world.plane.away.store(false, Ordering::SeqCst);
    world.start();
    until(|| world.gateway.as_ref().unwrap().informed()).await;
    call_beyond(&world, "scale", &[429]).await;
    let rows = world.shipped().await;
    assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), 5);
    // A period that begins is empty, also for a gateway that starts in it.
    world.clock.advance(30 * DAY_MS);
    call_beyond(&world, "gone", &[200]).await;
    world.stop().await;
    world.start();
    until(|| world.gateway.as_ref().unwrap().informed()).await;
    call_beyond(&world, "gone", &[200, 200, 429]).await;
}
