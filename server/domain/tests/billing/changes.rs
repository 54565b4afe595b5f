//! Changing, cancelling, resuming.

use super::shop::{CARD, DAY, HOUR, Shop};
use domain::DomainError;
use domain::subscriptions::{self, Done, Effect, Target};
use model::access::Interval;
use std::time::{Duration, Instant};

fn target(plan: &str, interval: Interval) -> Target {
    Target {
        plan: plan.to_owned(),
        interval,
    }
}

fn scale() -> Target {
    target("scale", Interval::Month)
}

#[tokio::test]
async fn an_upgrade_costs_what_the_preview_said_and_holds_at_once() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    shop.pass(10 * DAY).await;
    let preview = subscriptions::preview(&shop.domain, &buyer, &scale()).await.unwrap();
    let Effect::Now(at) = preview.effect else {
        panic!("an upgrade is at once")
    };
    // 29 dollars of credit at most are taken off 299.
    assert!((18_000..20_500).contains(&preview.due_now.minor), "{}", preview.due_now);
    assert_eq!(preview.next.0.minor, 29_900);
    let sum: i64 = preview.lines.iter().map(|(_, amount)| amount.minor).sum();
    assert_eq!(sum, preview.due_now.minor);
    let said: Vec<&str> = preview.lines.iter().map(|(words, _)| words.as_str()).collect();
    let credit = said.iter().any(|words| words.starts_with("Credit for Pro from "));
    let charge = said
        .iter()
        .any(|words| words.starts_with("Scale for the rest of the period, "));
    assert!(credit && charge && said.len() == 2, "{said:?}");
    // Thought about for half an hour: the sum is still the one that was shown.
    shop.pass(HOUR / 2).await;
    let before = shop.current(&buyer).await;
    let done = subscriptions::apply(&shop.domain, &buyer, &scale(), at).await.unwrap();
    assert_eq!(done, Done::Changed);
    let live = shop.live(&buyer).await;
    assert_eq!((live.plan.as_str(), live.rate_limit.per_second), ("scale", 500));
    shop.work().await;
    let invoice = shop.stripe.object(&shop.latest_invoice(&buyer).await);
    assert_eq!(invoice["amount_paid"], preview.due_now.minor);
    let after = shop.current(&buyer).await;
    assert_eq!(
        (after.id, after.period.end),
        (before.id, before.period.end),
        "the same agreement, the same anchor"
    );
    assert_eq!(shop.live(&buyer).await.plan, "scale");
}

#[tokio::test]
async fn a_slow_stripe_does_not_lose_a_change() {
    let shop = Shop::impatient().await;
    shop.publish().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    shop.pass(10 * DAY).await;
    // The buyer's turn is kept until the change waits for it: Stripe is slow when that has it, and not before.
    let mut kept = shop.database.pool().begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(7770004, hashtext($1))")
        .bind(buyer.consumer().to_string())
        .execute(&mut *kept)
        .await
        .unwrap();
    let slowed = async {
        let waits = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
                     WHERE l.locktype = 'advisory' AND l.classid = 7770004 AND NOT l.granted";
        let begun = Instant::now();
        while shop.count(waits).await == 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "the change takes no turn");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shop.slow_once();
        kept.rollback().await.unwrap();
    };
    let (now, scale) = (shop.domain.clock.now(), scale());
    let changed = subscriptions::apply(&shop.domain, &buyer, &scale, now);
    let (done, ()) = tokio::join!(changed, slowed);
    assert_eq!(done.unwrap(), Done::Changed);
    let mut was_slow = false;
    shop.stripe.set(|s| was_slow = s.faults.is_empty());
    assert!(was_slow, "Stripe was not asked in the buyer's turn");
    assert_eq!(shop.live(&buyer).await.plan, "scale");
    let noted = "SELECT count(*) FROM audit_log WHERE action = 'subscription.change'";
    assert_eq!(shop.count(noted).await, 1);
}

#[tokio::test]
async fn an_upgrade_that_is_not_paid_leaves_the_old_plan() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    shop.pass(10 * DAY).await;
    shop.stripe.fail_next_charge("card_declined");
    let done = subscriptions::apply(&shop.domain, &buyer, &scale(), shop.domain.clock.now()).await;
    match done {
        Ok(Done::Pending { until }) => {
            assert!(until <= shop.domain.clock.now().plus_s(23 * HOUR + 60));
            assert_eq!(shop.current(&buyer).await.pending_until, Some(until));
        }
        Err(DomainError::Conflict(_)) => {}
        other => panic!("{other:?}"),
    }
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "pro");
    shop.pass(26 * HOUR).await;
    let current = shop.current(&buyer).await;
    assert_eq!((current.terms.slug.as_str(), current.pending_until), ("pro", None));
    assert_eq!(shop.live(&buyer).await.suspended, None);
}

#[tokio::test]
async fn an_upgrade_paid_later_holds_from_then_on() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    shop.pass(10 * DAY).await;
    shop.stripe.fail_next_charge("card_declined");
    let done = subscriptions::apply(&shop.domain, &buyer, &scale(), shop.domain.clock.now()).await;
    let Ok(Done::Pending { .. }) = done else { return };
    shop.work().await;
    shop.pay_invoice(&shop.latest_invoice(&buyer).await).await;
    let current = shop.current(&buyer).await;
    assert_eq!((current.terms.slug.as_str(), current.pending_until), ("scale", None));
    assert_eq!(shop.live(&buyer).await.plan, "scale");
}

#[tokio::test]
async fn a_downgrade_waits_for_the_period_and_can_be_taken_back() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "scale").await;
    shop.pass(10 * DAY).await;
    let pro = target("pro", Interval::Month);
    let preview = subscriptions::preview(&shop.domain, &buyer, &pro).await.unwrap();
    let end = shop.current(&buyer).await.period.end;
    assert_eq!((preview.effect, preview.due_now.minor), (Effect::AtPeriodEnd(end), 0));
    let at = shop.domain.clock.now();
    assert_eq!(
        subscriptions::apply(&shop.domain, &buyer, &pro, at).await.unwrap(),
        Done::Scheduled(end)
    );
    let current = shop.current(&buyer).await;
    assert_eq!(current.terms.slug, "scale");
    assert_eq!(current.scheduled.unwrap().terms.slug, "pro");
    subscriptions::keep_plan(&shop.domain, &buyer).await.unwrap();
    assert_eq!(shop.current(&buyer).await.scheduled, None);
    // And again, this time for good.
    shop.pass(HOUR).await;
    let at = shop.domain.clock.now();
    subscriptions::apply(&shop.domain, &buyer, &pro, at).await.unwrap();
    shop.pass(15 * DAY).await;
    assert_eq!(shop.live(&buyer).await.plan, "scale");
    shop.pass(8 * DAY).await;
    let current = shop.current(&buyer).await;
    assert_eq!((current.terms.slug.as_str(), current.scheduled), ("pro", None));
    assert_eq!(current.period.start, end);
    assert_eq!(shop.live(&buyer).await.plan, "pro");
}

#[tokio::test]
async fn an_upgrade_after_a_scheduled_downgrade_wins() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let (url, _) = shop.checkout(&buyer, "pro", Interval::Year).await;
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    shop.work().await;
    shop.pass(10 * DAY).await;
    let at = shop.domain.clock.now();
    let down = target("pro", Interval::Month);
    assert!(matches!(
        subscriptions::apply(&shop.domain, &buyer, &down, at).await.unwrap(),
        Done::Scheduled(_)
    ));
    let at = shop.domain.clock.now();
    assert_eq!(
        subscriptions::apply(&shop.domain, &buyer, &scale(), at).await.unwrap(),
        Done::Changed
    );
    shop.work().await;
    let current = shop.current(&buyer).await;
    assert_eq!(
        (current.terms.slug.as_str(), current.interval),
        ("scale", Interval::Month)
    );
    assert_eq!((current.scheduled, current.stripe_schedule), (None, None));
    assert_eq!(
        shop.count("SELECT count(*) FROM subscriptions WHERE ended_at IS NULL")
            .await,
        1
    );
}

#[tokio::test]
async fn from_month_to_year_a_new_year_begins_today() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    shop.pass(10 * DAY).await;
    let year = target("pro", Interval::Year);
    let preview = subscriptions::preview(&shop.domain, &buyer, &year).await.unwrap();
    let Effect::Now(at) = preview.effect else {
        panic!("dearer in one sum is at once")
    };
    assert_eq!(
        subscriptions::apply(&shop.domain, &buyer, &year, at).await.unwrap(),
        Done::Changed
    );
    shop.work().await;
    let current = shop.current(&buyer).await;
    assert_eq!(current.interval, Interval::Year);
    assert_eq!(current.period, model::Period::nth(at, Interval::Year, 0));
    let invoice = shop.stripe.object(&shop.latest_invoice(&buyer).await);
    assert_eq!(invoice["amount_paid"], preview.due_now.minor);
    assert_eq!(shop.live(&buyer).await.meters[0].terms.included, 600_000);
}

#[tokio::test]
async fn a_preview_is_good_for_an_hour_and_for_its_past_only() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    for at in [
        shop.domain.clock.now().plus_s(-2 * HOUR),
        shop.domain.clock.now().plus_s(60),
    ] {
        let refused = subscriptions::apply(&shop.domain, &buyer, &scale(), at).await;
        assert!(matches!(refused, Err(DomainError::Conflict(_))));
    }
    let same = subscriptions::preview(&shop.domain, &buyer, &target("pro", Interval::Month)).await;
    assert!(matches!(same, Err(DomainError::Conflict(_))));
    let free = subscriptions::preview(&shop.domain, &buyer, &target("free", Interval::Month)).await;
    assert!(matches!(free, Err(DomainError::Conflict(_))));
    let nobody = shop.account("nobody").await;
    let unpaid = subscriptions::preview(&shop.domain, &nobody, &scale()).await;
    assert!(matches!(unpaid, Err(DomainError::Conflict(_))));
}

#[tokio::test]
async fn cancelled_goes_on_until_the_period_ends_and_then_is_free() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let end = shop.current(&buyer).await.period.end;
    subscriptions::cancel(&shop.domain, &buyer).await.unwrap();
    assert!(shop.current(&buyer).await.cancel_at_period_end);
    shop.pass(20 * DAY).await;
    assert_eq!(shop.live(&buyer).await.plan, "pro", "what is paid for stays");
    shop.pass(12 * DAY).await;
    assert!(shop.domain.clock.now() > end);
    let live = shop.live(&buyer).await;
    assert_eq!((live.plan.as_str(), live.suspended), ("free", None));
    assert_eq!(
        shop.count("SELECT count(*) FROM subscriptions WHERE ended_at IS NULL")
            .await,
        1
    );
}

#[tokio::test]
async fn resumed_before_the_end_nothing_has_happened() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let before = shop.current(&buyer).await;
    let invoice = shop.latest_invoice(&buyer).await;
    shop.pass(5 * DAY).await;
    subscriptions::cancel(&shop.domain, &buyer).await.unwrap();
    shop.pass(5 * DAY).await;
    subscriptions::resume(&shop.domain, &buyer).await.unwrap();
    shop.work().await;
    let after = shop.current(&buyer).await;
    assert_eq!((after.period, after.cancel_at_period_end), (before.period, false));
    assert_eq!(shop.latest_invoice(&buyer).await, invoice, "nothing is charged");
    shop.pass(25 * DAY).await;
    assert_eq!(shop.current(&buyer).await.period.start, before.period.end);
}

#[tokio::test]
async fn cancelled_at_once_in_the_dashboard_is_free_at_once() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let id = shop.stripe_id(&buyer).await;
    shop.dashboard("DELETE", &format!("subscriptions/{id}"), "invoice_now=true")
        .await;
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "free");
}

#[tokio::test]
async fn an_item_of_unknown_price_changes_nothing() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let id = shop.stripe_id(&buyer).await;
    let price = "currency=usd&unit_amount=500&recurring[interval]=month&product_data[name]=Support";
    let price = shop.dashboard("POST", "prices", price).await;
    let item = format!("subscription={id}&price={}&quantity=1", price["id"].as_str().unwrap());
    shop.dashboard("POST", "subscription_items", &item).await;
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "pro");
    // Even when nothing that we know is left, the plan stays.
    let object = shop.stripe.object(&id);
    for known in object["items"]["data"].as_array().unwrap() {
        if known["price"]["id"] != price["id"] {
            shop.dashboard(
                "DELETE",
                &format!("subscription_items/{}", known["id"].as_str().unwrap()),
                "",
            )
            .await;
        }
    }
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "pro");
}
