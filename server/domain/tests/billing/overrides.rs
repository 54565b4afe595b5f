//! Overrides: who has which and when, what stands against another, and that no invoice hears of them.

use super::shop::{CARD, DAY, Shop};
use domain::overrides::{self, MOST, NewOverride, State};
use domain::usage::{self, MeterUsage};
use domain::{BillingManager, DomainError, Provider, cost, snapshot};
use model::access::{Environment, Interval, QuotaKind};
use model::overrides::{Change, Override};
use model::usage::{UsageBatch, UsageRecord};
use model::{ConsumerId, KeyId, OverrideId, RequestId, Time};

fn provider() -> Provider {
    Provider::console()
}

fn calls(units: u64) -> Change {
    Change::Quota {
        meter: "calls".to_owned(),
        units,
        kind: None,
    }
}

fn limit(name: &str, count: u32) -> Change {
    Change::Limit {
        name: name.to_owned(),
        count,
        burst: None,
    }
}

fn batch(on: bool) -> Change {
    Change::Feature {
        feature: "batch".to_owned(),
        on,
    }
}

fn new(change: Change, starts_at: Option<Time>, ends_at: Option<Time>) -> NewOverride {
    NewOverride {
        change,
        reason: "Asked by mail.".to_owned(),
        starts_at,
        ends_at,
    }
}

async fn add(
    shop: &Shop,
    who: &BillingManager,
    change: Change,
    from: Option<Time>,
    until: Option<Time>,
) -> domain::Result<OverrideId> {
    overrides::add(&shop.domain, &provider(), who.consumer(), new(change, from, until)).await
}

fn field<T: std::fmt::Debug>(outcome: domain::Result<T>) -> &'static str {
    match outcome {
        Err(DomainError::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

fn words<T: std::fmt::Debug>(outcome: domain::Result<T>) -> String {
    match outcome {
        Err(DomainError::Conflict(problem) | DomainError::Invalid { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

async fn states(shop: &Shop, who: &BillingManager) -> Vec<&'static str> {
    let lines = overrides::list(&shop.domain, &provider(), who.consumer())
        .await
        .unwrap();
    let now = shop.domain.clock.now();
    lines.iter().map(|line| line.state(now).word()).collect()
}

async fn meter(shop: &Shop, who: &BillingManager) -> MeterUsage {
    let period = usage::period(&shop.domain, who, Environment::Live).await.unwrap();
    period.unwrap().meters.remove(0)
}

#[tokio::test]
async fn gateways_are_told_it_with_its_times_and_nobody_has_to_end_it() {
    let shop = Shop::open().await;
    let ada = shop.account("ada").await;
    let now = shop.domain.clock.now();
    let before = snapshot::changes_since(&shop.domain, "gateway", 0).await.unwrap();
    let (from, until) = (now.plus_s(DAY), now.plus_s(3 * DAY));
    let id = add(&shop, &ada, calls(5_000), Some(from), Some(until)).await.unwrap();
    add(&shop, &ada, batch(true), None, Some(until)).await.unwrap();
    let told = snapshot::changes_since(&shop.domain, "gateway", before.version)
        .await
        .unwrap();
    assert_eq!(told.entitlements.len(), 2, "live and test");
    let live = shop.live(&ada).await;
    let wanted = Override {
        id,
        change: calls(5_000),
        starts_at: from,
        ends_at: Some(until),
    };
    assert!(live.overrides.contains(&wanted), "{:?}", live.overrides);
    assert_eq!(live.meters[0].terms.included, 1_000, "what the plan says stays");
    assert_eq!(
        (live.features.len(), live.feature_life.later.last().unwrap().from),
        (1, until)
    );
    let test = shop.entitlement(&ada, Environment::Test).await;
    assert_eq!((test.overrides.len(), test.features.len()), (1, 1), "the feature alone");

    assert_eq!(states(&shop, &ada).await, ["coming", "active"]);
    assert_eq!(meter(&shop, &ada).await.quota.units, 1_000);
    let version = snapshot::changes_since(&shop.domain, "gateway", 0)
        .await
        .unwrap()
        .version;
    shop.stripe.advance(DAY).await;
    assert_eq!(states(&shop, &ada).await, ["active", "active"]);
    let meter_now = meter(&shop, &ada).await;
    assert_eq!((meter_now.quota.units, meter_now.own), (5_000, Some(wanted)));
    shop.stripe.advance(2 * DAY).await;
    assert_eq!(states(&shop, &ada).await, ["ended", "ended"]);
    assert_eq!(
        (meter(&shop, &ada).await.quota.units, meter(&shop, &ada).await.own),
        (1_000, None)
    );
    let after = snapshot::changes_since(&shop.domain, "gateway", version).await.unwrap();
    assert!(after.entitlements.is_empty(), "it ended, and nothing was told");
    let again = overrides::end(&shop.domain, &provider(), ada.consumer(), id).await;
    assert!(words(again).starts_with("It ended on "));
}

#[tokio::test]
async fn ended_early_it_is_gone_and_only_from_whose_it_is() {
    let shop = Shop::open().await;
    let (ada, bob) = (shop.account("ada").await, shop.account("bob").await);
    let id = add(&shop, &ada, limit("rate", 50), None, None).await.unwrap();
    assert_eq!(
        overrides::owner(&shop.domain, &provider(), id).await.unwrap(),
        ada.consumer()
    );
    let foreign = overrides::end(&shop.domain, &provider(), bob.consumer(), id).await;
    assert!(matches!(foreign, Err(DomainError::NotFound)), "{foreign:?}");
    let in_force = overrides::in_force(&shop.domain, &ada).await.unwrap();
    assert_eq!(in_force.len(), 1);
    assert!(overrides::in_force(&shop.domain, &bob).await.unwrap().is_empty());
    overrides::end(&shop.domain, &provider(), ada.consumer(), id)
        .await
        .unwrap();
    assert!(shop.live(&ada).await.overrides.is_empty());
    let lines = overrides::list(&shop.domain, &provider(), ada.consumer())
        .await
        .unwrap();
    let now = shop.domain.clock.now();
    assert_eq!((lines.len(), lines[0].state(now)), (1, State::Ended(now)));
    assert_eq!(
        (lines[0].created_by.as_str(), lines[0].reason.as_str()),
        ("console", "Asked by mail.")
    );
    let said: Vec<(String, String, String)> =
        sqlx::query_as("SELECT actor, action, target FROM audit_log WHERE action LIKE 'override.%' ORDER BY id")
            .fetch_all(shop.database.pool())
            .await
            .unwrap();
    let wanted = [
        ("override.add", format!("{id} limit rate=50: Asked by mail.")),
        ("override.end", format!("{id} limit rate=50")),
    ];
    let wanted = wanted.map(|(action, target)| ("console".to_owned(), action.to_owned(), target));
    assert_eq!(said, wanted);
    let nobody = ConsumerId::from_bits(1);
    let given = overrides::add(&shop.domain, &provider(), nobody, new(calls(1), None, None)).await;
    assert!(matches!(given, Err(DomainError::NotFound)), "{given:?}");
}

#[tokio::test]
async fn what_cannot_be_is_said_with_what_can() {
    let shop = Shop::open().await;
    let ada = shop.account("ada").await;
    let now = shop.domain.clock.now();
    let tomorrow = now.plus_s(DAY);
    let quota = |meter: &str| Change::Quota {
        meter: meter.to_owned(),
        units: 1,
        kind: None,
    };
    for (change, wanted) in [
        (quota("bytes"), "The plan Free has no meter \"bytes\"; it has calls."),
        (
            limit("writes", 5),
            "The plan Free has no limit \"writes\"; it has rate, lookups.",
        ),
        (batch(false), "The plan Free has no feature \"batch\"; it has none."),
        (
            Change::Feature {
                feature: "none".to_owned(),
                on: true,
            },
            "\"none\" is none of the features batch.",
        ),
    ] {
        assert_eq!(words(add(&shop, &ada, change, None, None).await), wanted);
    }
    for (change, from, until, wanted) in [
        (calls(u64::MAX), None, None, "amount"),
        (limit("lookups", 0), None, None, "amount"),
        (calls(1), Some(now.plus_s(-1)), None, "from"),
        (calls(1), Some(now.plus_s(367 * DAY)), None, "from"),
        (calls(1), None, Some(now), "until"),
        (calls(1), Some(tomorrow), Some(tomorrow), "until"),
        (calls(1), None, Some(now.plus_s(3_661 * DAY)), "until"),
    ] {
        let outcome = add(&shop, &ada, change.clone(), from, until).await;
        assert_eq!(field(outcome), wanted, "{change:?} {from:?} {until:?}");
    }
    for reason in ["", "  ", "two\nlines", &"x".repeat(301)] {
        let new = NewOverride {
            reason: reason.to_owned(),
            ..new(calls(1), None, None)
        };
        let outcome = overrides::add(&shop.domain, &provider(), ada.consumer(), new).await;
        assert_eq!(field(outcome), "reason", "{reason:?}");
    }
    assert!(shop.live(&ada).await.overrides.is_empty());
    assert_eq!(shop.count("SELECT count(*) FROM overrides").await, 0);
}

#[tokio::test]
async fn two_of_one_target_never_hold_at_once() {
    let shop = Shop::open().await;
    let ada = shop.account("ada").await;
    let day = |n: i64| Some(shop.domain.clock.now().plus_s(n * DAY));
    let first = add(&shop, &ada, calls(1), day(5), day(10)).await.unwrap();
    for (from, until) in [(None, None), (None, day(6)), (day(6), day(7)), (day(9), None)] {
        let refused = words(add(&shop, &ada, calls(2), from, until).await);
        assert!(
            refused.contains(&first.to_string()) && refused.contains("quota calls"),
            "{refused}"
        );
    }
    // Before it, after it, and of another target at the same time.
    add(&shop, &ada, calls(2), None, day(5)).await.unwrap();
    add(&shop, &ada, calls(3), day(10), None).await.unwrap();
    add(&shop, &ada, limit("lookups", 9), day(5), day(10)).await.unwrap();
    overrides::end(&shop.domain, &provider(), ada.consumer(), first)
        .await
        .unwrap();
    add(&shop, &ada, calls(4), day(6), day(7)).await.unwrap();
    for n in 0.. {
        let from = day(20 + n);
        match add(&shop, &ada, limit("rate", 9), from, from.map(|f| f.plus_s(DAY))).await {
            Ok(_) => assert!(states(&shop, &ada).await.len() <= MOST + 1),
            refused => {
                assert!(words(refused).contains("End one first"));
                assert_eq!(shop.live(&ada).await.overrides.len(), MOST);
                break;
            }
        }
    }
}

#[tokio::test]
async fn after_a_change_of_plan_it_stays_and_holds_where_it_applies() {
    let shop = Shop::open().await;
    let ada = shop.account("ada").await;
    add(&shop, &ada, limit("lookups", 9), None, None).await.unwrap();
    add(&shop, &ada, calls(2_000), None, None).await.unwrap();
    let (url, _) = shop.checkout(&ada, "pro", Interval::Month).await;
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    shop.work().await;
    assert_eq!(shop.plan(&ada).await, "pro");
    let lines = overrides::list(&shop.domain, &provider(), ada.consumer())
        .await
        .unwrap();
    let misfits: Vec<_> = lines
        .iter()
        .map(|l| (l.change.target().1, l.misfit.as_deref()))
        .collect();
    let misfit = "The plan Pro has no limit \"lookups\"; it has rate.";
    assert!(misfits.contains(&("lookups", Some(misfit))), "{misfits:?}");
    assert!(misfits.contains(&("calls", None)), "{misfits:?}");
    let live = shop.live(&ada).await;
    assert_eq!(live.overrides.len(), 1);
    // The kind is the plan's: who pays for more is not refused more.
    let (quota, own) = live.quota_at(&live.meters[0], shop.domain.clock.now());
    assert_eq!((quota.units, quota.kind, own.is_some()), (2_000, QuotaKind::Soft, true));

    // What the plan gives can be taken away, whatever else gives it.
    add(&shop, &ada, batch(false), None, None).await.unwrap();
    domain::features::grant(&shop.domain, &provider(), ada.consumer(), "batch", None)
        .await
        .unwrap();
    assert!(shop.live(&ada).await.features.is_empty());
}

#[tokio::test]
async fn no_invoice_hears_of_it() {
    let shop = Shop::open().await;
    let bob = shop.subscriber("bob", "pro").await;
    let live = shop.live(&bob).await;
    let record = UsageRecord {
        seq: 1,
        request: RequestId::from_bits(1),
        continues: false,
        at: shop.domain.clock.now(),
        consumer: bob.consumer(),
        environment: Environment::Live,
        subscription: live.subscription,
        plan_version: live.plan_version,
        period_start: live.period.start,
        key: KeyId::from_bits(1),
        route: 1,
        meter: 1,
        units: 60_000,
        status: 200,
        refusal: 0,
        variants: 0,
        request_bytes: 0,
        response_bytes: 0,
        duration_us: 1,
    };
    let shipped = UsageBatch {
        ledger: "one".to_owned(),
        records: vec![record],
    };
    usage::ship(&shop.domain, &shipped).await.unwrap();
    let cost = async || cost::running(&shop.domain, &bob).await.unwrap().unwrap().usage.minor;
    assert_eq!(cost().await, 600, "10,000 calls beyond the 50,000 that are included");
    let hard = Change::Quota {
        meter: "calls".to_owned(),
        units: 70_000,
        kind: Some(QuotaKind::Hard),
    };
    let id = add(&shop, &bob, hard, None, None).await.unwrap();
    assert_eq!(cost().await, 600);
    overrides::end(&shop.domain, &provider(), bob.consumer(), id)
        .await
        .unwrap();
    add(&shop, &bob, calls(1_000_000), None, None).await.unwrap();
    assert_eq!(cost().await, 600, "a soft quota gives nothing away");
    let told = meter(&shop, &bob).await;
    assert_eq!(
        (told.terms.included, told.quota.units, told.over()),
        (50_000, 1_000_000, 0)
    );
    shop.work().await;
    shop.pass(31 * DAY).await;
    let invoice = shop.latest_invoice(&bob).await;
    assert_eq!(shop.stripe.object(&invoice)["total"], 2_900 + 600);
}
