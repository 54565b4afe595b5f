//! Members hear once when a mark is reached, and gateways when a grace began.

use super::{Under, batch, manager, record};
use crate::billing::shop::{CATALOGUE, DAY, Shop};
use domain::catalogue::{parse, publish};
use domain::overrides::{self, NewOverride};
use domain::subscriptions::{self, Done, Target};
use domain::usage::{report, ship};
use domain::{BillingManager, Provider, budget, keys, snapshot};
use model::access::{Environment, Interval};
use model::overrides::Change;
use model::usage::UsageRecord;

/// Ships the units as one request, and does the work that follows.
async fn uses(shop: &Shop, who: &BillingManager, seq: u64, units: u32) {
    let record = counted(shop, who, seq, units).await;
    ship(&shop.domain, &batch(&who.consumer().to_string(), vec![record]))
        .await
        .unwrap();
    shop.pass(10).await;
}

async fn counted(shop: &Shop, who: &BillingManager, seq: u64, units: u32) -> UsageRecord {
    let known = keys::list(&shop.domain, who).await.unwrap();
    let key = match known.first() {
        Some(key) => key.id,
        None => {
            let new = super::live("k");
            keys::create(&shop.domain, &manager(who.consumer()), new)
                .await
                .unwrap()
                .id
        }
    };
    let live = shop.live(who).await;
    let under = Under {
        consumer: who.consumer(),
        key,
        subscription: live.subscription,
        version: live.plan_version,
        period_start: live.period.start,
    };
    record(under, seq, shop.domain.clock.now(), units)
}

/// Subjects of the mails to somebody about usage, in order.
async fn heard(shop: &Shop, name: &str) -> Vec<String> {
    let sql = "SELECT subject FROM mails WHERE recipient = $1 AND subject LIKE '% used' ORDER BY id";
    sqlx::query_scalar(sql)
        .bind(format!("{name}@example.com"))
        .fetch_all(shop.database.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn each_mark_is_told_once_a_period() {
    let shop = Shop::open().await;
    let ada = shop.account("ada").await;
    uses(&shop, &ada, 1, 499).await;
    assert!(heard(&shop, "ada").await.is_empty());
    uses(&shop, &ada, 2, 1).await;
    assert_eq!(heard(&shop, "ada").await, ["50 % of API calls used"]);
    let text: String = sqlx::query_scalar("SELECT body_text FROM mails WHERE subject LIKE '% used'")
        .fetch_one(shop.database.pool())
        .await
        .unwrap();
    for words in ["500 of 1,000 calls", "are refused", "/usage"] {
        assert!(text.contains(words), "{text}");
    }
    uses(&shop, &ada, 3, 1).await;
    uses(&shop, &ada, 4, 500).await;
    uses(&shop, &ada, 5, 1).await;
    assert_eq!(
        heard(&shop, "ada").await,
        ["50 % of API calls used", "100 % of API calls used"],
        "80 and 100 came together"
    );
    // Looked at again without anything new, also by two at once.
    sqlx::query("INSERT INTO usage_touched SELECT id, now() FROM consumers")
        .execute(shop.database.pool())
        .await
        .unwrap();
    shop.pass(10).await;
    assert_eq!(heard(&shop, "ada").await.len(), 2);
    shop.pass(32 * DAY).await;
    uses(&shop, &ada, 6, 800).await;
    assert_eq!(
        heard(&shop, "ada").await[2..],
        ["80 % of API calls used"],
        "a new period"
    );
}

#[tokio::test]
async fn an_account_that_cannot_be_read_keeps_no_other_from_its_mail() {
    let shop = Shop::open().await;
    let (odd, ada) = (shop.account("odd").await, shop.account("ada").await);
    for sql in [
        "UPDATE entitlements SET record = '{}' WHERE consumer_id = $1",
        "INSERT INTO usage_touched (consumer_id, touched_at) VALUES ($1, now())",
    ] {
        sqlx::query(sql)
            .bind(odd.consumer().to_string())
            .execute(shop.database.pool())
            .await
            .unwrap();
    }
    uses(&shop, &ada, 1, 500).await;
    assert_eq!(heard(&shop, "ada").await, ["50 % of API calls used"]);
    assert_eq!(shop.count("SELECT count(*) FROM usage_touched").await, 0);
}

#[tokio::test]
async fn the_spend_cap_has_marks_of_its_own() {
    let shop = Shop::open().await;
    let bob = shop.subscriber("bob", "pro").await;
    budget::set(&shop.domain, &bob, Some(1_000)).await.unwrap();
    // 50,000 are included, 10,000 more cost 6 dollars.
    uses(&shop, &bob, 1, 60_000).await;
    assert_eq!(
        heard(&shop, "bob").await,
        ["100 % of API calls used", "50 % of the spend cap used"]
    );
    uses(&shop, &bob, 2, 4_000).await;
    assert_eq!(heard(&shop, "bob").await[2..], ["80 % of the spend cap used"]);
    budget::set(&shop.domain, &bob, Some(2_000)).await.unwrap();
    uses(&shop, &bob, 3, 4_000).await;
    assert_eq!(
        heard(&shop, "bob").await[3..],
        ["50 % of the spend cap used"],
        "of the new cap"
    );
}

#[tokio::test]
async fn after_an_upgrade_the_new_allowance_counts_from_its_beginning() {
    let shop = Shop::open().await;
    let bob = shop.subscriber("bob", "pro").await;
    uses(&shop, &bob, 1, 60_000).await;
    assert_eq!(heard(&shop, "bob").await, ["100 % of API calls used"]);
    let scale = Target {
        plan: "scale".to_owned(),
        interval: Interval::Month,
    };
    let done = subscriptions::apply(&shop.domain, &bob, &scale, shop.domain.clock.now()).await;
    assert_eq!(done.unwrap(), Done::Changed);
    shop.work().await;
    uses(&shop, &bob, 2, 499_999).await;
    assert_eq!(heard(&shop, "bob").await.len(), 1, "half of a million is not used yet");
    let report = report::period(&shop.domain, &bob, Environment::Live)
        .await
        .unwrap()
        .unwrap();
    let meter = &report.meters[0];
    assert_eq!(
        (meter.used, meter.counted, meter.left(), meter.over()),
        (559_999, 499_999, 500_001, 0)
    );
    uses(&shop, &bob, 3, 1).await;
    assert_eq!(heard(&shop, "bob").await[1..], ["50 % of API calls used"]);
}

#[tokio::test]
async fn a_plan_says_which_marks_and_a_gateway_hears_when_the_grace_began() {
    let shop = Shop::open().await;
    let free = "{ meter = \"calls\", included = 1000 }";
    let text = CATALOGUE.replace(
        free,
        "{ meter = \"calls\", included = 1000, marks = [90], grace = { hours = 24 } }",
    );
    assert_ne!(text, CATALOGUE);
    publish(&shop.domain, &Provider::console(), &parse(&text).unwrap())
        .await
        .unwrap();
    shop.work().await;
    let ada = shop.account("ada").await;
    uses(&shop, &ada, 1, 800).await;
    assert!(heard(&shop, "ada").await.is_empty());
    uses(&shop, &ada, 2, 100).await;
    assert_eq!(heard(&shop, "ada").await, ["90 % of API calls used"]);
    let before = snapshot::changes_since(&shop.domain, "gateway", 0).await.unwrap();
    uses(&shop, &ada, 3, 100).await;
    assert_eq!(heard(&shop, "ada").await.len(), 1, "100 is no mark of this plan");
    let changes = snapshot::changes_since(&shop.domain, "gateway", before.version)
        .await
        .unwrap();
    let told = changes.entitlements.iter().find(|e| e.subscription.is_some()).unwrap();
    let now = shop.domain.clock.now();
    let began = told.meters[0].used_up_at.unwrap();
    assert!((0..=20).contains(&(now.unix_s() - began.unix_s())), "{began} at {now}");
}

/// People are told by the quota they really have, once for each amount.
#[tokio::test]
async fn marks_follow_an_override() {
    let shop = Shop::open().await;
    let ada = shop.account("ada").await;
    uses(&shop, &ada, 1, 60).await;
    let new = NewOverride {
        change: Change::Quota {
            meter: "calls".to_owned(),
            units: 100,
            kind: None,
        },
        reason: "Too many calls.".to_owned(),
        starts_at: None,
        ends_at: None,
    };
    overrides::add(&shop.domain, &Provider::console(), ada.consumer(), new)
        .await
        .unwrap();
    uses(&shop, &ada, 2, 1).await;
    assert_eq!(heard(&shop, "ada").await, ["50 % of API calls used"]);
    uses(&shop, &ada, 3, 39).await;
    let text: String = sqlx::query_scalar("SELECT body_text FROM mails WHERE subject LIKE '100 % %'")
        .fetch_one(shop.database.pool())
        .await
        .unwrap();
    assert!(
        text.contains("100 of 100 calls") && !text.contains("larger plan"),
        "{text}"
    );
}
