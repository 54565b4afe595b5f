//! Jobs that repeat go on, whatever fails in one run of them.

use super::shop::{DAY, HOUR, Shop};
use crate::world::World;
use domain::jobs::{self, Job, MAX_ATTEMPTS, Registry};
use domain::{Domain, DomainError, subscriptions};
use serde::{Deserialize, Serialize};
use stripe_emulator::Fault;

/// Repeats, and fails each time.
#[derive(Serialize, Deserialize)]
struct Failing {}

#[async_trait::async_trait]
impl Job for Failing {
    const KIND: &'static str = "test.failing";
    const EVERY_S: Option<i64> = Some(DAY);

    fn dedup_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(&self, _: &Domain) -> domain::Result<()> {
        Err(DomainError::internal("as ever"))
    }
}

/// Stripe refuses so many calls.
fn refuse(shop: &Shop, count: u32) {
    shop.stripe.fault(Fault {
        kind: "status".to_owned(),
        status: 400,
        count,
        delay_ms: 0,
    });
}

/// Kinds of jobs that wait for their time, and are not dead.
async fn waiting(shop: &Shop) -> Vec<String> {
    sqlx::query_scalar("SELECT DISTINCT kind FROM jobs WHERE dead_at IS NULL AND dedup_key = '' ORDER BY kind")
        .fetch_all(shop.database.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_job_that_repeats_has_no_last_try() {
    let world = World::new().await;
    let registry = Registry::default().with::<Failing>();
    let mut connection = world.domain.pool.acquire().await.unwrap();
    let now = world.domain.clock.now();
    jobs::enqueue(&world.domain, &mut connection, &Failing {}, now)
        .await
        .unwrap();
    let all = "SELECT count(*) FROM jobs";
    let next = "SELECT count(*) FROM jobs WHERE dead_at IS NULL AND dedup_key = '' AND attempts = 0 AND last_error LIKE '%as ever%'";
    for try_number in 0..MAX_ATTEMPTS + 5 {
        assert!(registry.run_one(&world.domain).await.unwrap(), "try {try_number}");
        assert_eq!((world.count(all).await, world.count(next).await), (1, 1));
        assert!(!registry.run_one(&world.domain).await.unwrap(), "it waits");
        world.clock.advance_s(60);
    }
    // The worker died in what was the last try of a version before, and left nothing else.
    sqlx::query("UPDATE jobs SET dedup_key = NULL, attempts = $1")
        .bind(MAX_ATTEMPTS)
        .execute(world.database.pool())
        .await
        .unwrap();
    assert!(registry.run_one(&world.domain).await.unwrap());
    assert_eq!((world.count(all).await, world.count(next).await), (1, 1));
}

#[tokio::test]
async fn two_days_without_stripe_end_no_series() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let before = waiting(&shop).await;
    assert!(before.len() >= 8, "{before:?}");
    refuse(&shop, u32::MAX);
    for _ in 0..48 {
        shop.pass(HOUR).await;
    }
    assert_eq!(waiting(&shop).await, before);
    assert_eq!(
        shop.count("SELECT count(*) FROM jobs WHERE dedup_key IS NULL AND dead_at IS NULL AND attempts > 19")
            .await,
        0
    );
    // What was lost meanwhile is fetched once Stripe is back.
    shop.stripe.set(|settings| {
        settings.faults.clear();
        settings.webhooks.drop = true;
    });
    let id = shop.stripe_id(&buyer).await;
    shop.dashboard("POST", &format!("subscriptions/{id}"), "cancel_at_period_end=true")
        .await;
    shop.pass(2 * HOUR).await;
    assert!(shop.current(&buyer).await.cancel_at_period_end);
}

#[tokio::test]
async fn a_subscription_that_cannot_be_compared_keeps_no_other_from_it() {
    let shop = Shop::open().await;
    let (first, second) = (shop.subscriber("a", "pro").await, shop.subscriber("b", "pro").await);
    // Nothing reaches us, and the sweep finds nothing to take in.
    shop.stripe.set(|settings| settings.webhooks.drop = true);
    for buyer in [&first, &second] {
        let id = shop.stripe_id(buyer).await;
        shop.dashboard("POST", &format!("subscriptions/{id}"), "cancel_at_period_end=true")
            .await;
    }
    refuse(&shop, 1);
    let night = subscriptions::Reconcile { after: None };
    domain::jobs::Job::run(&night, &shop.domain).await.unwrap();
    let known = "SELECT count(*) FROM subscriptions WHERE cancel_at_period_end";
    assert_eq!(shop.count(known).await, 1, "the other one");
    shop.stripe.set(|settings| settings.webhooks.drop = false);
    // The next night finds it.
    sqlx::query("DELETE FROM jobs WHERE kind = 'stripe_inbox.sweep'")
        .execute(shop.database.pool())
        .await
        .unwrap();
    shop.pass(DAY + HOUR).await;
    assert_eq!(shop.count(known).await, 2);
}

#[tokio::test]
async fn an_account_that_cannot_be_compiled_keeps_no_other_from_its_next_period() {
    let shop = Shop::open().await;
    let (odd, ada) = (shop.account("odd").await, shop.account("ada").await);
    let before = shop.current(&ada).await.period;
    // Terms that no program can read, and the first in line.
    let own = "UPDATE subscriptions SET plan_version_id = (SELECT id FROM plan_versions WHERE terms = '{}'),
                                        period_end = period_end - interval '1 day' WHERE consumer_id = $1";
    sqlx::raw_sql(
        "INSERT INTO plan_versions (id, plan_id, number, terms, published_at)
         SELECT 'pv_00000000000000000000000000', plan_id, 99, '{}', published_at FROM plan_versions LIMIT 1",
    )
    .execute(shop.database.pool())
    .await
    .unwrap();
    sqlx::query(own)
        .bind(odd.consumer().to_string())
        .execute(shop.database.pool())
        .await
        .unwrap();
    shop.pass(32 * DAY).await;
    assert_eq!(shop.current(&ada).await.period.start, before.end);
    let behind = "SELECT count(*) FROM subscriptions WHERE period_start < (SELECT max(period_start) FROM subscriptions)
                  AND ended_at IS NULL";
    assert_eq!(shop.count(behind).await, 1);
}
