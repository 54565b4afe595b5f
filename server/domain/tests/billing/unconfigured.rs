//! Before there is a Stripe key: free and given plans work, nothing is tried in vain, and a key is all that is missing.

use super::shop::{CATALOGUE, Shop};
use domain::catalogue::{current, parse, publish};
use domain::subscriptions::{self, grant_complimentary};
use domain::{DomainError, Provider};
use model::access::Interval;

async fn on_sale(shop: &Shop) -> Vec<String> {
    let catalogue = current(&shop.domain).await.unwrap().unwrap();
    catalogue.plans.into_iter().map(|p| p.terms.slug).collect()
}

#[tokio::test]
async fn without_a_key_nothing_is_tried_and_nothing_fails() {
    let shop = Shop::without_key().await;
    let file = parse(CATALOGUE).unwrap();
    publish(&shop.domain, &Provider::console(), &file).await.unwrap();
    shop.work().await;
    shop.pass(2 * super::shop::DAY).await;
    assert_eq!(shop.count("SELECT count(*) FROM jobs WHERE attempts > 0").await, 0);
    let asking = "SELECT count(*) FROM jobs WHERE kind LIKE 'stripe_inbox.%' OR kind LIKE 'meter_events.%'";
    assert_eq!(shop.count(asking).await, 0);
    assert!(shop.stripe.events().is_empty());
    assert_eq!(on_sale(&shop).await, ["free"]);

    let buyer = shop.account("buyer").await;
    assert_eq!(shop.live(&buyer).await.plan, "free");
    let refused = subscriptions::open(&shop.domain, &buyer, "pro", Interval::Month).await;
    assert!(matches!(refused, Err(DomainError::Conflict(text)) if text.contains("payments")));
    let provider = Provider::console();
    grant_complimentary(&shop.domain, &provider, buyer.consumer(), "pro", Interval::Month)
        .await
        .unwrap();
    assert_eq!(shop.live(&buyer).await.plan, "pro");
}

#[tokio::test]
async fn a_later_start_with_a_key_publishes_what_waited_and_registers_the_address() {
    let mut shop = Shop::without_key().await;
    let file = parse(CATALOGUE).unwrap();
    publish(&shop.domain, &Provider::console(), &file).await.unwrap();
    shop.work().await;
    shop.give_key().await;
    assert_eq!(on_sale(&shop).await, ["free", "pro", "scale"]);
    assert_eq!(shop.count("SELECT count(*) FROM stripe_endpoints").await, 1);
    shop.subscriber("buyer", "pro").await;
}
