//! Payments that a cardholder contests at the bank.

use super::shop::{DAY, HOUR, Shop};
use domain::settings::DisputePolicy;
use domain::{BillingManager, Provider, subscriptions};
use model::access::Suspension;

/// The charge behind the newest invoice.
async fn charge(shop: &Shop, buyer: &BillingManager) -> String {
    let invoice = shop.latest_invoice(buyer).await;
    let payments = shop
        .dashboard("GET", &format!("invoice_payments?invoice={invoice}"), "")
        .await;
    let intent = payments["data"][0]["payment"]["payment_intent"].as_str().unwrap();
    let intent = shop.dashboard("GET", &format!("payment_intents/{intent}"), "").await;
    intent["latest_charge"].as_str().unwrap().to_owned()
}

/// Disputes the charge, and lets us hear of it.
async fn dispute(shop: &Shop, charge: &str, inquiry: bool) -> String {
    let id = shop.stripe.dispute(charge, "fraudulent", inquiry).unwrap();
    shop.work().await;
    id
}

async fn listed(shop: &Shop, buyer: &BillingManager) -> Vec<(String, i64, bool)> {
    let provider = Provider::console();
    let all = subscriptions::disputes(&shop.domain, &provider, buyer.consumer()).await;
    let all = all.unwrap().into_iter();
    all.map(|d| (d.status, d.amount.minor, d.closed_at.is_some())).collect()
}

#[tokio::test]
async fn keys_are_refused_while_a_dispute_is_open_and_work_again_when_it_is_won() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let contested = charge(&shop, &buyer).await;
    let id = dispute(&shop, &contested, false).await;
    let live = shop.live(&buyer).await;
    assert_eq!(
        (live.plan.as_str(), live.suspended),
        ("pro", Some(Suspension::Provider))
    );
    assert_eq!(
        listed(&shop, &buyer).await,
        [("needs_response".to_owned(), 2_900, false)]
    );
    // The same once more: one line, one entry in the history.
    for event in shop.stripe.events() {
        shop.stripe.resend(event["id"].as_str().unwrap());
    }
    shop.work().await;
    let history = "SELECT count(*) FROM audit_log WHERE action = 'payment.dispute.needs_response'";
    assert_eq!(shop.count(history).await, 1);
    assert!(shop.stripe.close_dispute(&id, "won"));
    shop.work().await;
    let live = shop.live(&buyer).await;
    assert_eq!((live.plan.as_str(), live.suspended), ("pro", None));
    assert_eq!(listed(&shop, &buyer).await, [("won".to_owned(), 2_900, true)]);
    let dead = "SELECT count(*) FROM stripe_events WHERE type LIKE 'charge.dispute.%' AND state <> 'done' AND state <> 'ignored'";
    assert_eq!(shop.count(dead).await, 0);
}

#[tokio::test]
async fn a_lost_dispute_ends_the_plan_that_the_payment_was_for() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let subscription = shop.stripe_id(&buyer).await;
    let contested = charge(&shop, &buyer).await;
    // Banks take their time: another month was paid for meanwhile.
    shop.pass(31 * DAY).await;
    let id = dispute(&shop, &contested, false).await;
    shop.pass(HOUR).await;
    assert!(shop.stripe.close_dispute(&id, "lost"));
    shop.work().await;
    let live = shop.live(&buyer).await;
    assert_eq!((live.plan.as_str(), live.suspended), ("free", None));
    assert_eq!(shop.stripe.object(&subscription)["status"], "canceled");
    assert_eq!(listed(&shop, &buyer).await, [("lost".to_owned(), 2_900, true)]);
}

#[tokio::test]
async fn an_inquiry_is_shown_and_stops_nothing() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let contested = charge(&shop, &buyer).await;
    let id = dispute(&shop, &contested, true).await;
    assert_eq!(shop.live(&buyer).await.suspended, None);
    assert_eq!(
        listed(&shop, &buyer).await,
        [("warning_needs_response".to_owned(), 2_900, false)]
    );
    assert!(shop.stripe.close_dispute(&id, "warning_closed"));
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "pro");
}

#[tokio::test]
async fn an_operator_may_choose_to_be_told_only() {
    let shop = Shop::with_settings(|s| s.dispute_policy = DisputePolicy::Flag).await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let contested = charge(&shop, &buyer).await;
    dispute(&shop, &contested, false).await;
    assert_eq!(shop.live(&buyer).await.suspended, None);
    assert_eq!(listed(&shop, &buyer).await.len(), 1);
}

#[tokio::test]
async fn an_endpoint_from_before_disputes_were_handled_is_asked_to_send_them() {
    let shop = Shop::open().await;
    let endpoint = "SELECT stripe_id FROM stripe_endpoints";
    let endpoint: String = sqlx::query_scalar(endpoint)
        .fetch_one(shop.database.pool())
        .await
        .unwrap();
    let form = "enabled_events[0]=invoice.paid&enabled_events[1]=checkout.session.completed";
    shop.dashboard("POST", &format!("webhook_endpoints/{endpoint}"), form)
        .await;
    shop.pass(7 * HOUR).await;
    let types = shop.stripe.object(&endpoint)["enabled_events"].clone();
    let types: Vec<&str> = types.as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(types, domain::stripe_inbox::HANDLED);
    assert_eq!(shop.count("SELECT count(*) FROM stripe_endpoints").await, 1);
}
