//! What a refund in Stripe does to the plan.

use super::shop::{DAY, Shop};
use domain::BillingManager;

/// The payment behind the newest invoice.
async fn payment(shop: &Shop, buyer: &BillingManager) -> String {
    let invoice = shop.latest_invoice(buyer).await;
    let payments = shop
        .dashboard("GET", &format!("invoice_payments?invoice={invoice}"), "")
        .await;
    payments["data"][0]["payment"]["payment_intent"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn paid_back_in_full_the_plan_ends() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let intent = payment(&shop, &buyer).await;
    shop.dashboard("POST", "refunds", &format!("payment_intent={intent}"))
        .await;
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "free");
    assert_eq!(
        shop.count("SELECT count(*) FROM audit_log WHERE action = 'payment.refunded'")
            .await,
        1
    );
}

#[tokio::test]
async fn paid_back_in_part_nothing_changes() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let intent = payment(&shop, &buyer).await;
    shop.dashboard("POST", "refunds", &format!("payment_intent={intent}&amount=500"))
        .await;
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "pro");
}

#[tokio::test]
async fn an_old_payment_that_comes_back_says_nothing_about_today() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let intent = payment(&shop, &buyer).await;
    shop.pass(32 * DAY).await;
    shop.dashboard("POST", "refunds", &format!("payment_intent={intent}"))
        .await;
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "pro");
}
