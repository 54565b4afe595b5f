//! What a call costs and what is left of the budget, on its answer; and the price of a call before it is made.

use crate::support::*;
use model::catalogue::RateLimit;
use model::price::{OverageTier, TierModel};
use model::snapshot::MeterEntitlement;
use rust_decimal::Decimal;

/// Two units are included, the next two cost 3 cents each, all further ones 0.06 cents.
fn tiered() -> MeterEntitlement {
    let mut meter = meter(1, 2, Some("3"));
    let overage = meter.terms.overage.as_mut().unwrap();
    overage.model = TierModel::Graduated;
    overage.tiers[0].up_to = Some(4);
    overage.tiers.push(OverageTier {
        up_to: None,
        unit_minor: "0.06".parse().unwrap(),
    });
    meter
}

fn told(reply: &Reply) -> (Option<&str>, Option<&str>) {
    (reply.header("turnpike-cost"), reply.header("turnpike-budget-remaining"))
}

fn usd(amount: &str) -> String {
    format!("\"{amount}\";currency=usd")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_what_the_call_cost_and_what_is_left() {
    let world = World::with(|e| {
        e.meters = vec![tiered()];
        e.spend_cap_minor = Some(6);
    })
    .await;
    for (cost, left) in [("0.00", "0.06"), ("0.00", "0.06"), ("0.03", "0.03"), ("0.03", "0.00")] {
        let reply = world.get("/v1/ok").await;
        assert_eq!(reply.status, 200);
        assert_eq!(told(&reply), (Some(&*usd(cost)), Some(&*usd(left))));
    }
    let uncounted = world.get("/v1/status/500").await;
    assert_eq!(
        told(&uncounted),
        (Some(&*usd("0.00")), Some(&*usd("0.00"))),
        "a 500 costs nothing"
    );
    // 0.06 cents are rounded to nothing on the invoice, eight of them are not.
    for _ in 0..8 {
        let reply = world.get("/v1/ok").await;
        assert_eq!(reply.header("turnpike-cost"), Some(&*usd("0.0006")));
    }
    let refused = world.get("/v1/ok").await;
    assert_eq!(refused.problem(), "spend-cap-reached");
    assert_eq!(told(&refused), (Some(&*usd("0.00")), Some(&*usd("0.00"))));
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.spend_cap_minor = None);
    world.synced().await;
    let uncapped = world.get("/heavy").await;
    assert_eq!(told(&uncapped), (Some(&*usd("0.003")), None), "five units, and no cap");
    let failed = world.get("/v1/close").await;
    assert_eq!((failed.status, told(&failed)), (502, (Some(&*usd("0.00")), None)));
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.meters = vec![meter(1, 100, None)]);
    world.synced().await;
    assert_eq!(told(&world.get("/v1/ok").await), (None, None), "nothing is for sale");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_calls_at_once_are_told_adds_up() {
    let world = World::with(|e| e.meters = vec![tiered()]).await;
    let key = world.key.reveal();
    let text = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n");
    let call = |_| {
        let (addr, text) = (world.addr, text.clone());
        tokio::spawn(async move { Reply::parse(&raw(addr, text.as_bytes()).await) })
    };
    let calls: Vec<_> = (0..60).map(call).collect();
    let mut replies = Vec::new();
    for call in calls {
        replies.push(call.await.unwrap());
    }
    let cost = |r: &Reply| -> Decimal {
        let value = r.header("turnpike-cost").unwrap();
        value.split('"').nth(1).unwrap().parse().unwrap()
    };
    let sum: Decimal = replies.iter().map(cost).sum();
    assert_eq!(sum, "0.0936".parse::<Decimal>().unwrap(), "2 x 0.03 + 56 x 0.0006");
}

async fn quote(world: &World, path: &str) -> (Reply, serde_json::Value) {
    let key = world.key.reveal();
    let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nTurnpike-Quote: ?1\r\n");
    let reply = world.send(&head, "").await;
    let json = serde_json::from_slice(&reply.body).unwrap();
    (reply, json)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_says_the_price_and_makes_no_call() {
    let world = World::with(|e| {
        e.meters = vec![tiered()];
        e.spend_cap_minor = Some(3);
    })
    .await;
    let (reply, json) = quote(&world, "/heavy").await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!((&json["meter"], &json["units"]), (&"meter-1".into(), &5.into()));
    assert_eq!((&json["cost"], &json["currency"]), (&"0.0606".into(), &"usd".into()));
    assert_eq!(
        (&json["included_left"], &json["budget_remaining"]),
        (&2.into(), &"0.03".into())
    );
    let refused = &json["would_be_refused"];
    assert_eq!(refused["type"], format!("{PORTAL}/problems/spend-cap-reached"));
    assert!(refused["detail"].is_string() && refused["status"] == 402);
    for (cost, included) in [("0.00", 2), ("0.00", 1), ("0.03", 0)] {
        let (_, json) = quote(&world, "/v1/ok").await;
        assert_eq!(
            (&json["cost"], &json["included_left"]),
            (&cost.into(), &included.into())
        );
        assert!(json["would_be_refused"].is_null(), "{json}");
        assert_eq!(
            world.get("/v1/ok").await.header("turnpike-cost"),
            Some(&*usd(cost)),
            "and so it is"
        );
    }
    let (_, json) = quote(&world, "/v1/ok").await;
    assert_eq!(json["would_be_refused"]["status"], 402);
    let (_, json) = quote(&world, "/export").await;
    assert_eq!(
        json["would_be_refused"]["type"],
        format!("{PORTAL}/problems/feature-missing")
    );
    let (_, json) = quote(&world, "/other").await;
    assert_eq!((&json["meter"], &json["cost"]), (&"meter-2".into(), &"0.00".into()));
    assert!(json["included_left"].is_null());
    assert_eq!(world.upstream.requests().len(), 3, "no quote reaches the upstream");
    let rows = world.shipped().await;
    assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), 3, "no quote is counted");
    assert_eq!(rows.len(), 10, "but all are written down");
}

#[tokio::test(flavor = "multi_thread")]
async fn quotes_have_a_bound_and_need_a_key() {
    let world = World::with(|e| {
        e.meters = vec![tiered(), meter(2, 10, None)];
        e.rate_limit = RateLimit {
            per_second: 1,
            burst: 3,
        };
        e.limits = serde_json::from_str(r#"[{"name": "few", "requests": 1, "per": "hour"}]"#).unwrap();
    })
    .await;
    for _ in 0..2 {
        assert!(quote(&world, "/v1/ok").await.1["would_be_refused"].is_null());
    }
    assert_eq!(
        world.get("/v1/ok").await.status,
        200,
        "quotes took no place of the limit few"
    );
    let (reply, _) = quote(&world, "/v1/ok").await;
    assert_eq!((reply.status, reply.problem()), (429, "rate-limited".to_owned()));
    world.clock.advance(1_000);
    let (_, json) = quote(&world, "/v1/ok").await;
    assert_eq!(
        json["would_be_refused"]["violated-policies"],
        serde_json::json!(["few"])
    );
    let wrong = world
        .send(
            "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: nonsense\r\nTurnpike-Quote: 1\r\n",
            "",
        )
        .await;
    assert_eq!(wrong.problem(), "key-unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_quote_is_no_call() {
    let world = World::with(|_| ()).await;
    let key = world.key.reveal();
    let ask = async |value: &str| {
        let head = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nTurnpike-Quote: {value}\r\n");
        world.send(&head, "").await
    };
    assert_eq!(ask("yes").await.problem(), "bad-request");
    assert!(world.upstream.requests().is_empty());
    assert_eq!(ask("?0").await.status, 200);
    assert!(!world.upstream.last().to_ascii_lowercase().contains("turnpike-quote"));
    let posted =
        format!("POST /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nTurnpike-Quote: ?1\r\nContent-Length: 4\r\n");
    assert_eq!(world.send(&posted, "body").await.status, 200);
    assert_eq!(world.upstream.requests().len(), 1);
}
