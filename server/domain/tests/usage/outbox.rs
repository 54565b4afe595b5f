//! Every unit reaches Stripe once, through lost answers, refusals and outages longer than Stripe's memory.

use super::paid::Paid;
use domain::jobs::Job;
use domain::meter_events::{SendMeterEvents, flush};
use domain::{DomainError, Provider, metrics};
use stripe_emulator::Fault;

fn fault(kind: &str, status: u16, count: u32) -> Fault {
    Fault {
        kind: kind.to_owned(),
        status,
        count,
        delay_ms: 0,
    }
}

/// A call is tried so often before it is given up for the moment.
const TRIES: u32 = 3;

/// The next call is carried out, and nobody hears of it.
fn lose_the_answer(paid: &Paid) {
    paid.stripe.fault(fault("drop_after_commit", 0, 1));
    paid.stripe.fault(fault("status", 500, TRIES - 1));
}

/// One run of the job, `seconds` after the last.
async fn run_after(paid: &Paid, seconds: i64) {
    paid.advance_to(paid.domain.clock.now().plus_s(seconds)).await;
    SendMeterEvents {}.run(&paid.domain).await.unwrap();
}

#[tokio::test]
async fn usage_arrives_in_its_period_and_only_once() {
    let paid = Paid::new("small").await;
    for units in [3, 4, 5] {
        paid.uses(units).await;
        run_after(&paid, 30).await;
    }
    run_after(&paid, 30).await;
    assert_eq!(paid.states().await, ["acknowledged"; 3]);
    assert_eq!(paid.at_stripe().await, 12);
    assert_eq!(paid.world.count("SELECT count(*) FROM unbilled_units").await, 0);
}

#[tokio::test]
async fn an_answer_lost_within_a_call_is_no_matter() {
    let paid = Paid::new("small").await;
    paid.uses(7).await;
    paid.stripe.fault(fault("drop_after_commit", 0, 1));
    run_after(&paid, 1).await;
    assert_eq!(
        paid.states().await,
        ["acknowledged"],
        "Stripe says that it has the identifier"
    );
    assert_eq!(paid.at_stripe().await, 7);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_under_the_same_identifier() {
    let paid = Paid::new("small").await;
    paid.uses(7).await;
    lose_the_answer(&paid);
    run_after(&paid, 1).await;
    assert_eq!(paid.states().await, ["sending"]);
    run_after(&paid, 120).await;
    assert_eq!(paid.states().await, ["acknowledged"]);
    assert_eq!(paid.at_stripe().await, 7);
}

#[tokio::test]
async fn failures_and_too_many_requests_are_tried_again() {
    let paid = Paid::new("small").await;
    paid.uses(7).await;
    paid.stripe.fault(fault("status", 429, TRIES));
    run_after(&paid, 1).await;
    assert_eq!(paid.states().await, ["pending"], "certainly not sent, so no clock runs");
    paid.stripe.fault(fault("status", 500, TRIES));
    run_after(&paid, 120).await;
    assert_eq!(paid.states().await, ["sending"]);
    paid.uses(8).await;
    run_after(&paid, 1).await;
    assert_eq!(
        paid.states().await,
        ["sending", "pending"],
        "one in flight for each customer and meter"
    );
    run_after(&paid, 1_000).await;
    assert_eq!(paid.states().await, ["acknowledged"; 2]);
    assert_eq!(paid.at_stripe().await, 15);
}

/// Stripe takes the event or not, then is away for longer than it remembers identifiers.
async fn away_for_thirty_hours(arrived: bool) {
    let paid = Paid::new("small").await;
    paid.uses(40).await;
    if arrived {
        lose_the_answer(&paid);
        run_after(&paid, 1).await;
    }
    paid.stripe.fault(fault("status", 500, u32::MAX));
    for _ in 0..6 {
        run_after(&paid, 5 * 3_600).await;
    }
    paid.uses(2).await;
    run_after(&paid, 1).await;
    assert_eq!(paid.states().await, ["ambiguous", "pending"]);
    paid.stripe.set(|settings| settings.faults.clear());
    for _ in 0..3 {
        run_after(&paid, 3_600).await;
    }
    assert_eq!(paid.states().await, ["acknowledged"; 2]);
    assert_eq!(paid.at_stripe().await, 42);
}

#[tokio::test]
async fn what_had_arrived_before_a_long_outage_is_not_sent_again() {
    away_for_thirty_hours(true).await;
}

#[tokio::test]
async fn what_had_not_arrived_before_a_long_outage_is_sent() {
    away_for_thirty_hours(false).await;
}

#[tokio::test]
async fn what_is_too_old_is_listed_and_alarmed_not_sent() {
    let paid = Paid::new("small").await;
    let (under, now) = (paid.under().await, paid.domain.clock.now());
    // The period is a year.
    sqlx::query("UPDATE subscriptions SET period_end = period_end + interval '11 months'")
        .execute(&paid.domain.pool)
        .await
        .unwrap();
    paid.ship(under, now, 9).await;
    paid.advance_to(now.plus_s(36 * 86_400)).await;
    SendMeterEvents {}.run(&paid.domain).await.unwrap();
    assert_eq!(paid.states().await, ["refused"]);
    assert_eq!(paid.at_stripe().await, 0);
    let overview = metrics::overview(&paid.domain, &Provider::console()).await.unwrap();
    assert_eq!((overview.refused_events, overview.unsent), (1, 0));
}

#[tokio::test]
async fn a_flush_tells_when_something_is_left() {
    let paid = Paid::new("small").await;
    let id = paid.subscription().await.stripe_subscription.unwrap();
    flush(&paid.domain, &id).await.unwrap();
    paid.uses(5).await;
    paid.stripe.fault(fault("status", 500, TRIES));
    assert!(matches!(
        flush(&paid.domain, &id).await,
        Err(DomainError::PaymentsUnavailable(_))
    ));
    paid.advance_to(paid.domain.clock.now().plus_s(120)).await;
    flush(&paid.domain, &id).await.unwrap();
    assert_eq!(paid.at_stripe().await, 5);
}

#[tokio::test]
async fn many_senders_at_once_send_each_row_once() {
    let paid = Paid::new("small").await;
    let id = paid.subscription().await.stripe_subscription.unwrap();
    let start = paid.domain.clock.now();
    for hour in 0..12 {
        paid.ship(paid.under().await, start.plus_s(hour * 3_600), 10).await;
    }
    paid.advance_to(start.plus_s(12 * 3_600)).await;
    let senders: Vec<_> = (0..6)
        .map(|_| {
            let (domain, id) = (paid.domain.clone(), id.clone());
            tokio::spawn(async move {
                // Some find rows in other hands; that is told, and is no failure.
                drop(flush(&domain, &id).await);
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    flush(&paid.domain, &id).await.unwrap();
    assert_eq!(paid.states().await, ["acknowledged"; 12]);
    assert_eq!(paid.at_stripe().await, 120);
}

/// F11: what a clock says that is far off would be billed in another period.
#[tokio::test]
async fn nothing_is_sent_while_the_clock_is_far_off() {
    let paid = Paid::new("small").await;
    paid.uses(9).await;
    for skew_ms in [300_000, -300_000] {
        paid.world.clock.set_skew_ms(skew_ms);
        run_after(&paid, 30).await;
        assert_eq!(paid.states().await, ["pending"]);
        let subscription = paid.subscription().await.stripe_subscription.unwrap();
        let flushed = flush(&paid.domain, &subscription).await;
        assert!(
            matches!(flushed, Err(DomainError::PaymentsUnavailable(_))),
            "{flushed:?}"
        );
    }
    assert_eq!(paid.at_stripe().await, 0);
    paid.world.clock.set_skew_ms(200_000);
    run_after(&paid, 30).await;
    assert_eq!(paid.states().await, ["acknowledged"], "less is no matter");
    assert_eq!(paid.at_stripe().await, 9);
}

#[tokio::test]
async fn the_clock_is_measured_against_the_databases() {
    let world = crate::world::World::new().await;
    let theirs: model::Time = sqlx::query_scalar("SELECT clock_timestamp()")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    world.clock.set(theirs.plus_s(600));
    let skew_ms = domain::skew::measure(&world.domain).await.unwrap();
    assert!((500_000..=600_000).contains(&skew_ms), "{skew_ms}");
    world.clock.set(theirs.plus_s(-600));
    let skew_ms = domain::skew::measure(&world.domain).await.unwrap();
    assert!((-700_000..=-600_000).contains(&skew_ms), "{skew_ms}");
}
