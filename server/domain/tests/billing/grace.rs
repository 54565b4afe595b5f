//! Failed renewals: grace, suspension, and the way back.

use super::shop::{DAY, HOUR, Shop};
use model::access::{SubscriptionStatus, Suspension};

/// Past the renewal of a subscription bought at the start, with its draft's hour.
const RENEWAL: i64 = 30 * DAY + 2 * HOUR;

#[tokio::test]
async fn a_failed_renewal_leaves_access_until_the_deadline_and_paying_restores() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    shop.stripe.fail_next_charge("card_declined");
    shop.pass(RENEWAL).await;
    let current = shop.current(&buyer).await;
    assert_eq!(current.status, SubscriptionStatus::PastDue);
    let until = current.grace_until.unwrap();
    let left = shop.domain.clock.now().ms_until(until) / 1000;
    assert!((2 * DAY..=3 * DAY).contains(&left), "{left}");
    assert_eq!(shop.live(&buyer).await.suspended, None);
    assert_eq!(
        shop.count("SELECT count(*) FROM mails WHERE subject LIKE '%payment%'")
            .await,
        1
    );
    shop.pay_invoice(&shop.latest_invoice(&buyer).await).await;
    let current = shop.current(&buyer).await;
    assert_eq!(
        (current.status, current.grace_until),
        (SubscriptionStatus::Active, None)
    );
    // The deadline comes and finds nothing to do.
    shop.pass(4 * DAY).await;
    assert_eq!(shop.live(&buyer).await.suspended, None);
}

#[tokio::test]
async fn when_grace_runs_out_keys_are_refused_and_paying_opens_the_same_ones() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let before = shop.current(&buyer).await.id;
    shop.stripe.fail_next_charge("card_declined");
    shop.pass(RENEWAL).await;
    // No retry gets through before the deadline.
    let until = shop.current(&buyer).await.grace_until.unwrap();
    while shop.domain.clock.now() < until {
        shop.stripe.fail_next_charge("card_declined");
        shop.pass(6 * HOUR).await;
    }
    shop.work().await;
    let live = shop.live(&buyer).await;
    assert_eq!((live.plan.as_str(), live.suspended), ("pro", Some(Suspension::Payment)));
    assert_eq!(shop.current(&buyer).await.status, SubscriptionStatus::Suspended);
    assert_eq!(
        shop.count("SELECT count(*) FROM mails WHERE subject LIKE '%payment%'")
            .await,
        1,
        "told once"
    );
    shop.stripe.set(|s| s.fail_next_charge = None);
    shop.pay_invoice(&shop.latest_invoice(&buyer).await).await;
    let live = shop.live(&buyer).await;
    assert_eq!(
        (live.plan.as_str(), live.suspended, live.subscription),
        ("pro", None, Some(before))
    );
}

#[tokio::test]
async fn a_second_failure_has_a_deadline_of_its_own() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    shop.stripe.fail_next_charge("card_declined");
    shop.pass(RENEWAL).await;
    let first = shop.current(&buyer).await.grace_until.unwrap();
    shop.pay_invoice(&shop.latest_invoice(&buyer).await).await;
    shop.stripe.fail_next_charge("card_declined");
    shop.pass(31 * DAY).await;
    let second = shop.current(&buyer).await;
    if second.status == SubscriptionStatus::PastDue {
        assert!(second.grace_until.unwrap() > first.plus_s(20 * DAY));
        assert_eq!(shop.live(&buyer).await.suspended, None);
    } else {
        panic!("{:?}", second.status);
    }
}

#[tokio::test]
async fn when_stripe_gives_up_and_cancels_the_account_is_free() {
    let shop = Shop::open().await;
    shop.stripe
        .set(|s| s.after_retries = stripe_emulator::AfterRetries::Canceled);
    let buyer = shop.subscriber("buyer", "pro").await;
    for _ in 0..100 {
        shop.stripe.fail_next_charge("card_declined");
        shop.pass(12 * HOUR).await;
    }
    let live = shop.live(&buyer).await;
    assert_eq!((live.plan.as_str(), live.suspended), ("free", None));
}

#[tokio::test]
async fn a_renewal_that_wants_the_cardholder_says_so_and_confirming_restores() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let before = shop.current(&buyer).await;
    assert_eq!(before.open_invoice, None);
    shop.stripe.fail_next_charge("authentication_required");
    shop.pass(RENEWAL).await;
    let current = shop.current(&buyer).await;
    assert_eq!(current.status, SubscriptionStatus::PastDue);
    let left = shop.domain.clock.now().ms_until(current.grace_until.unwrap()) / 1000;
    assert!((2 * DAY..=3 * DAY).contains(&left), "{left}");
    let open = current.open_invoice.unwrap();
    assert!(open.needs_confirmation);
    assert_eq!(open.due.minor, 2_900);
    let invoice = shop.latest_invoice(&buyer).await;
    assert!(open.hosted_url.unwrap().contains(&invoice));
    let letters = "SELECT count(*) FROM mails WHERE subject LIKE '%confirmation%'";
    assert_eq!(shop.count(letters).await, 1);
    let live = shop.live(&buyer).await;
    assert_eq!((live.plan.as_str(), live.suspended), ("pro", None), "grace runs");
    shop.pay_invoice(&invoice).await;
    let after = shop.current(&buyer).await;
    assert_eq!(
        (after.status, after.grace_until, after.open_invoice),
        (SubscriptionStatus::Active, None, None)
    );
    assert_eq!(
        (after.id, after.period.start),
        (before.id, before.period.end),
        "nothing is lost"
    );
    assert_eq!(shop.live(&buyer).await.suspended, None);
}

#[tokio::test]
async fn a_declined_card_is_not_taken_for_a_missing_confirmation() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    shop.stripe.fail_next_charge("card_declined");
    shop.pass(RENEWAL).await;
    let open = shop.current(&buyer).await.open_invoice.unwrap();
    assert!(!open.needs_confirmation && open.hosted_url.is_some());
}
