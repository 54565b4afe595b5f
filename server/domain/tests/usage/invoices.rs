//! The running cost, Stripe's preview and the final invoice agree to the cent.

use super::paid::Paid;
use domain::jobs::Job;
use domain::meter_events::{SendMeterEvents, flush};
use domain::subscriptions::{self, Done, Effect, Target};
use domain::{BillingManager, DomainError, Provider, cost, invoices};
use model::access::{Environment, Interval, Role};
use stripe_emulator::Fault;
use testkit::SeededRandom;

/// What our rating and Stripe say of the usage on each final invoice, the oldest first.
pub(super) async fn compared(paid: &Paid) -> Vec<(i64, i64)> {
    sqlx::query_as(
        "SELECT rated_usage_minor, billed_usage_minor FROM invoices WHERE rated_usage_minor IS NOT NULL ORDER BY created_at, id",
    )
    .fetch_all(&paid.domain.pool)
    .await
    .unwrap()
}

/// Mirrors every invoice that Stripe has for the consumer.
pub(super) async fn mirror(paid: &Paid) {
    let customer: String = sqlx::query_scalar("SELECT stripe_customer FROM consumers WHERE id = $1")
        .bind(paid.consumer)
        .fetch_one(&paid.domain.pool)
        .await
        .unwrap();
    for invoice in paid.domain.payments.invoices_of(&customer).await.unwrap() {
        invoices::sync(&paid.domain, &invoice.id).await.unwrap();
    }
}

/// Lets the period end: Stripe drafts, we flush, the draft becomes final. Gives what the running cost had said.
pub(super) async fn end_period(paid: &Paid) -> i64 {
    let subscription = paid.subscription().await;
    let stripe = subscription.stripe_subscription.unwrap();
    flush(&paid.domain, &stripe).await.unwrap();
    paid.stripe.settle().await;
    let next = cost::running(&paid.domain, &paid.viewer())
        .await
        .unwrap()
        .unwrap()
        .next_invoice
        .unwrap();
    let preview = paid.domain.payments.preview_next(&stripe).await.unwrap();
    assert_eq!(next.total, preview.total, "the running cost and Stripe's preview");
    paid.advance_to(subscription.period.end.plus_s(60)).await;
    flush(&paid.domain, &stripe).await.unwrap();
    paid.advance_to(subscription.period.end.plus_s(3 * 3_600)).await;
    paid.sync().await;
    mirror(paid).await;
    let list = invoices::list(&paid.domain, &paid.viewer()).await.unwrap();
    assert_eq!(
        (list[0].status.as_str(), list[0].total),
        ("paid", next.total),
        "the running cost and the final invoice"
    );
    let (_, lines) = invoices::detail(&paid.domain, &paid.viewer(), list[0].id)
        .await
        .unwrap();
    assert_eq!(lines.iter().map(|l| l.amount.minor).sum::<i64>(), next.total.minor);
    next.usage.minor
}

async fn every_period_agrees(plan: &str, usages: &[u32]) {
    let (paid, random) = (Paid::new(plan).await, SeededRandom::new(21));
    for usage in usages {
        // In pieces, over the whole period.
        let period = paid.subscription().await.period;
        let mut left = *usage;
        while left > 0 {
            let piece = left.min(1 + u32::try_from(random.below(u64::from(*usage))).unwrap());
            let room = u64::try_from(paid.domain.clock.now().ms_until(period.end) / 2_000).unwrap();
            paid.uses(piece).await;
            left -= piece;
            let pause = i64::try_from(random.below(room)).unwrap();
            paid.advance_to(paid.domain.clock.now().plus_s(pause)).await;
            SendMeterEvents {}.run(&paid.domain).await.unwrap();
        }
        let cost = end_period(&paid).await;
        let last = compared(&paid).await.pop().unwrap();
        assert_eq!(last, (cost, cost), "{plan} with {usage}");
    }
    assert_eq!(
        paid.world
            .count("SELECT count(*) FROM invoices WHERE rated_usage_minor <> billed_usage_minor")
            .await,
        0
    );
}

#[tokio::test]
async fn graduated_usage_agrees_to_the_cent() {
    every_period_agrees("small", &[0, 1_000, 1_001, 4_999, 5_003, 20_001, 33_333]).await;
}

#[tokio::test]
async fn volume_usage_agrees_to_the_cent() {
    every_period_agrees("large", &[2_000, 2_001, 9_999, 10_000, 10_001, 54_321]).await;
}

/// What the gateway holds a spend cap against is the running cost of the whole period.
async fn the_gateway_is_told_what_is_settled(paid: &Paid, units: u64, minor: i64) {
    let told = domain::snapshot::changes_since(&paid.domain, "a", 0)
        .await
        .unwrap()
        .entitlements;
    let live = |e: &&model::snapshot::Entitlement| e.consumer == paid.consumer && e.environment == Environment::Live;
    let told = told.iter().find(live).unwrap();
    let meter = &told.meters[0];
    assert_eq!((meter.settled_units, told.settled_minor), (units, minor));
    let since = model::price::cost(&meter.terms, meter.used - meter.settled_units, told.currency).unwrap();
    let running = cost::running(&paid.domain, &paid.viewer()).await.unwrap().unwrap();
    assert_eq!(told.settled_minor + since.minor, running.usage.minor);
}

pub(super) fn owner(paid: &Paid) -> BillingManager {
    let viewer = Provider::console().viewer(paid.consumer);
    viewer.billing_manager(Role::Owner).unwrap()
}

fn large() -> Target {
    Target {
        plan: "large".to_owned(),
        interval: Interval::Month,
    }
}

/// A webhook is the first to see a change that was previewed at `at`, after calls went on and were sent.
async fn a_webhook_sees_the_change(paid: &Paid, seen: impl AsyncFnOnce()) {
    paid.uses(4_321).await;
    SendMeterEvents {}.run(&paid.domain).await.unwrap();
    paid.advance_to(paid.domain.clock.now().plus_s(600)).await;
    seen().await;
    paid.sync().await;
    assert_eq!(paid.subscription().await.terms.slug, "large");
    // All of it at Large's 0.00217: Stripe lets its prices begin at the previewed instant.
    let cost = end_period(paid).await;
    assert_eq!(cost, 938);
    let all = compared(paid).await;
    assert!(all.iter().all(|(rated, billed)| rated == billed), "{all:?}");
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_begins_at_the_previewed_instant() {
    let paid = Paid::new("small").await;
    let at = paid.domain.clock.now().plus_s(9 * 86_400);
    paid.advance_to(at.plus_s(300)).await;
    // The subscription is read, the change is made, and nobody hears of it.
    for (kind, status, count) in [("slow", 0, 1), ("drop_after_commit", 0, 1), ("status", 500, 2)] {
        let (kind, delay_ms) = (kind.to_owned(), 0);
        paid.stripe.fault(Fault {
            kind,
            status,
            count,
            delay_ms,
        });
    }
    let lost = subscriptions::apply(&paid.domain, &owner(&paid), &large(), at).await;
    assert!(matches!(lost, Err(DomainError::PaymentsUnavailable(_))), "{lost:?}");
    a_webhook_sees_the_change(&paid, async || {}).await;
}

#[tokio::test]
async fn a_change_that_is_paid_later_begins_at_the_previewed_instant() {
    let paid = Paid::new("small").await;
    let at = paid.domain.clock.now().plus_s(9 * 86_400);
    paid.advance_to(at.plus_s(300)).await;
    paid.stripe.fail_next_charge("card_declined");
    let done = subscriptions::apply(&paid.domain, &owner(&paid), &large(), at).await;
    assert!(matches!(done, Ok(Done::Pending { .. })), "{done:?}");
    // Looked at meanwhile, it waits on.
    paid.advance_to(at.plus_s(4 * 3_600)).await;
    paid.sync().await;
    a_webhook_sees_the_change(&paid, async || {
        let id = paid.subscription().await.stripe_subscription.unwrap();
        let object = paid.stripe.object(&id);
        let page = format!(
            "{}i/{}",
            paid.stripe.base_url,
            object["latest_invoice"].as_str().unwrap()
        );
        let card = "number=4242424242424242&expiry=12%2F34&cvc=123&name=Ada&email=ada%40example.com";
        assert_eq!(paid.stripe.post(&page, card.to_owned()).await, 303);
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_in_mid_period_bills_each_side_at_its_prices() {
    let paid = Paid::new("small").await;
    let before = paid.under().await;
    let start = paid.domain.clock.now();
    paid.uses(4_321).await;
    paid.advance_to(start.plus_s(9 * 86_400 + 77)).await;
    paid.uses(1_234).await;
    SendMeterEvents {}.run(&paid.domain).await.unwrap();
    paid.advance_to(start.plus_s(9 * 86_400 + 137)).await;
    let (manager, target) = (owner(&paid), large());
    let preview = subscriptions::preview(&paid.domain, &manager, &target).await.unwrap();
    let Effect::Now(at) = preview.effect else {
        panic!("an upgrade takes effect now")
    };
    // Somebody thinks for a while; calls go on and are sent meanwhile.
    paid.advance_to(start.plus_s(9 * 86_400 + 300)).await;
    paid.uses(222).await;
    SendMeterEvents {}.run(&paid.domain).await.unwrap();
    subscriptions::apply(&paid.domain, &manager, &target, at).await.unwrap();
    paid.sync().await;
    // A gateway that has not heard of it yet.
    paid.ship(before, paid.domain.clock.now(), 111).await;
    paid.advance_to(start.plus_s(20 * 86_400)).await;
    paid.uses(9_876).await;
    the_gateway_is_told_what_is_settled(&paid, 5_555, 1_400 + 185).await;
    let cost = end_period(&paid).await;
    let all = compared(&paid).await;
    assert!(all.iter().all(|(rated, billed)| rated == billed), "{all:?}");
    let usage: Vec<i64> = all.iter().map(|(_, billed)| *billed).filter(|b| *b > 0).collect();
    // 5,555 calls of Small: 4,000 at 0.0035 and 555 at 0.00333. 10,209 of Large, all at 0.00143.
    assert_eq!(usage, [1_400 + 185, 1_460]);
    assert_eq!(cost, 1_460);
}

#[tokio::test]
async fn an_invoice_of_another_is_not_there() {
    let paid = Paid::new("small").await;
    mirror(&paid).await;
    let id = invoices::list(&paid.domain, &paid.viewer()).await.unwrap()[0].id;
    let stranger = super::consumer(&paid.world, "bob").await;
    let viewer = Provider::console().viewer(stranger);
    assert!(matches!(
        invoices::detail(&paid.domain, &viewer, id).await,
        Err(domain::DomainError::NotFound)
    ));
    assert!(invoices::list(&paid.domain, &viewer).await.unwrap().is_empty());
}
