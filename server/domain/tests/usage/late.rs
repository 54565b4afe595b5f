//! Usage that comes after its invoice is final: none of it is lost, and the three numbers agree all the same.

use super::invoices::{compared, end_period, mirror, owner};
use super::paid::Paid;
use domain::jobs::Job;
use domain::meter_events::SendMeterEvents;
use domain::subscriptions::{self, Done, Target};
use domain::{Provider, cost, metrics};
use model::access::Interval;
use stripe_emulator::Fault;

const HOUR: i64 = 3_600;

async fn send(paid: &Paid) {
    SendMeterEvents {}.run(&paid.domain).await.unwrap();
}

/// Units of the running period with those that an earlier one left behind.
async fn counted(paid: &Paid) -> Vec<(u64, u64)> {
    let running = cost::running(&paid.domain, &paid.viewer()).await.unwrap().unwrap();
    running.meters.iter().map(|m| (m.units, m.late)).collect()
}

/// 2,500 calls are of a period that ends with its invoice paid; they come to 1,500 at 0.0035 above the allowance.
async fn are_billed_in_the_running_period(paid: &Paid) {
    assert_eq!(counted(paid).await, [(2_500, 2_500)]);
    assert!(paid.states().await.iter().all(|s| s == "acknowledged"));
    assert_eq!(end_period(paid).await, 525);
    let all = compared(paid).await;
    assert!(all.iter().all(|(rated, billed)| rated == billed), "{all:?}");
    assert_eq!(all.iter().map(|(_, billed)| billed).sum::<i64>(), 525);
}

#[tokio::test]
async fn what_reaches_us_after_the_invoice_is_billed_in_the_running_period() {
    let paid = Paid::new("small").await;
    let (before, end) = (paid.under().await, paid.subscription().await.period.end);
    assert_eq!(end_period(&paid).await, 0);
    // A gateway that was cut off.
    paid.ship(before, end.plus_s(-60), 2_500).await;
    let told = || domain::snapshot::changes_since(&paid.domain, "a", 0);
    let version = told().await.unwrap().version;
    send(&paid).await;
    assert!(told().await.unwrap().version > version, "gateways hear of it");
    are_billed_in_the_running_period(&paid).await;
}

#[tokio::test]
async fn what_reaches_us_while_the_draft_is_open_is_on_it() {
    let paid = Paid::new("small").await;
    let (before, end) = (paid.under().await, paid.subscription().await.period.end);
    paid.advance_to(end.plus_s(HOUR / 2)).await;
    paid.sync().await;
    paid.ship(before, end.plus_s(-60), 2_500).await;
    send(&paid).await;
    assert_eq!(paid.states().await, ["acknowledged"]);
    assert_eq!(counted(&paid).await, []);
    paid.advance_to(end.plus_s(3 * HOUR)).await;
    mirror(&paid).await;
    assert_eq!(compared(&paid).await.pop(), Some((525, 525)));
}

#[tokio::test]
async fn a_renewal_that_no_webhook_told_of_is_asked_for_before_late_usage_is_sent() {
    let paid = Paid::new("small").await;
    let (before, end) = (paid.under().await, paid.subscription().await.period.end);
    paid.advance_to(end.plus_s(3 * HOUR)).await;
    paid.ship(before, end.plus_s(-60), 2_500).await;
    send(&paid).await;
    mirror(&paid).await;
    are_billed_in_the_running_period(&paid).await;
}

/// Stripe fails from before the end of a period until its invoice is final.
async fn stripe_is_away(status: u16) {
    let paid = Paid::new("small").await;
    let end = paid.subscription().await.period.end;
    paid.advance_to(end.plus_s(-HOUR)).await;
    paid.uses(2_500).await;
    paid.stripe.fault(Fault {
        kind: "status".to_owned(),
        status,
        count: u32::MAX,
        delay_ms: 0,
    });
    for _ in 0..5 {
        send(&paid).await;
        paid.advance_to(paid.domain.clock.now().plus_s(HOUR)).await;
    }
    paid.stripe.set(|settings| settings.faults.clear());
    for _ in 0..5 {
        send(&paid).await;
        paid.advance_to(paid.domain.clock.now().plus_s(HOUR / 2)).await;
    }
    mirror(&paid).await;
    paid.uses(7).await;
    send(&paid).await;
    let after = counted(&paid).await;
    assert_eq!(after, [(2_507, 2_500)]);
    // Seven calls more are 2.45 cents more: with the others 527.45.
    assert_eq!(end_period(&paid).await, 527);
    let all = compared(&paid).await;
    assert!(all.iter().all(|(rated, billed)| rated == billed), "{all:?}");
    assert_eq!(paid.at_stripe().await, 2_507);
}

#[tokio::test]
async fn what_stripe_certainly_did_not_get_in_time_is_billed_in_the_running_period() {
    stripe_is_away(429).await;
}

#[tokio::test]
async fn what_stripe_perhaps_got_in_time_is_asked_for_and_then_billed() {
    stripe_is_away(500).await;
}

#[tokio::test]
async fn what_is_not_sent_when_a_smaller_plan_begins_is_billed_on_the_plan_it_was_used_under() {
    let paid = Paid::new("large").await;
    let end = paid.subscription().await.period.end;
    let small = Target {
        plan: "small".to_owned(),
        interval: Interval::Month,
    };
    let now = paid.domain.clock.now();
    let done = subscriptions::apply(&paid.domain, &owner(&paid), &small, now).await;
    assert_eq!(done.unwrap(), Done::Scheduled(end));
    paid.advance_to(end.plus_s(-60)).await;
    paid.uses(5_000).await;
    paid.advance_to(end.plus_s(60)).await;
    paid.sync().await;
    let subscription = paid.subscription().await;
    assert_eq!(
        (subscription.terms.slug.as_str(), subscription.period.start),
        ("small", end)
    );
    assert_eq!(counted(&paid).await, []);
    send(&paid).await;
    paid.advance_to(end.plus_s(3 * HOUR)).await;
    mirror(&paid).await;
    // Each at 0.00217; on the smaller plan it would be 14.00.
    assert_eq!(compared(&paid).await.pop(), Some((1_085, 1_085)));
}

#[tokio::test]
async fn what_comes_after_the_last_invoice_is_listed_as_not_billed() {
    let paid = Paid::new("small").await;
    let (before, now) = (paid.under().await, paid.domain.clock.now());
    let id = paid.subscription().await.stripe_subscription.unwrap();
    paid.advance_to(now.plus_s(HOUR)).await;
    paid.stripe
        .dashboard("DELETE", &format!("subscriptions/{id}"), "invoice_now=true")
        .await;
    paid.sync().await;
    mirror(&paid).await;
    paid.ship(before, now.plus_s(60), 9).await;
    send(&paid).await;
    assert_eq!(paid.states().await, ["refused"]);
    assert_eq!(paid.at_stripe().await, 0);
    let overview = metrics::overview(&paid.domain, &Provider::console()).await.unwrap();
    assert_eq!((overview.refused_events, overview.unsent), (1, 0));
}
