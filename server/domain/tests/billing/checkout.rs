//! Buying, from the first click to the plan in force, and what can come in between.

use super::shop::{CARD, DAY, HOUR, Shop};
use domain::subscriptions::{self, Opened, Return};
use domain::{DomainError, Provider};
use model::access::{Environment, Interval, Settlement};

#[tokio::test]
async fn paying_makes_one_customer_one_subscription_and_new_limits() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let (url, session) = shop.checkout(&buyer, "pro", Interval::Month).await;
    assert_eq!(shop.live(&buyer).await.plan, "free");
    // Nobody comes back from Stripe: the tab was closed. The webhook alone provisions.
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    shop.work().await;
    let live = shop.live(&buyer).await;
    assert_eq!(
        (live.plan.as_str(), live.rate_limit.per_second, live.suspended),
        ("pro", 50, None)
    );
    assert_eq!(live.features, ["batch"]);
    let current = shop.current(&buyer).await;
    assert_eq!(
        (current.settlement, current.interval),
        (Settlement::Stripe, Interval::Month)
    );
    assert_eq!(current.period.start, shop.domain.clock.now());
    assert_eq!(
        shop.count("SELECT count(*) FROM subscriptions WHERE ended_at IS NULL")
            .await,
        1
    );
    // The page says so when it is opened after all, and again.
    for _ in 0..2 {
        let seen = subscriptions::returned(&shop.domain, &buyer, &session).await.unwrap();
        assert_eq!(seen, Return::Active);
    }
    let customers = shop
        .stripe
        .events()
        .iter()
        .filter(|e| e["type"] == "customer.created")
        .count();
    assert_eq!(customers, 1);
    // Test keys stay as they were.
    assert_eq!(shop.entitlement(&buyer, Environment::Test).await.plan, "free");
}

#[tokio::test]
async fn the_return_page_does_not_wait_for_a_webhook_that_is_late() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let (url, session) = shop.checkout(&buyer, "pro", Interval::Month).await;
    let seen = subscriptions::returned(&shop.domain, &buyer, &session).await.unwrap();
    assert!(matches!(seen, Return::Open(_)));
    shop.stripe.set(|s| s.webhooks.drop = true);
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    let seen = subscriptions::returned(&shop.domain, &buyer, &session).await.unwrap();
    assert_eq!(seen, Return::Active);
    assert_eq!(shop.live(&buyer).await.plan, "pro");
}

#[tokio::test]
async fn a_session_is_shown_to_the_account_that_opened_it_only() {
    let shop = Shop::open().await;
    let (buyer, other) = (shop.account("buyer").await, shop.account("other").await);
    let (_, session) = shop.checkout(&buyer, "pro", Interval::Month).await;
    for id in [session.as_str(), "cs_test_nothing"] {
        let seen = subscriptions::returned(&shop.domain, &other, id).await;
        assert!(matches!(seen, Err(DomainError::NotFound)));
    }
}

#[tokio::test]
async fn clicking_twice_at_once_is_one_session() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let open = || subscriptions::open(&shop.domain, &buyer, "pro", Interval::Month);
    let (a, b, c) = tokio::join!(open(), open(), open());
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert!(a == b && b == c);
    assert_eq!(shop.count("SELECT count(*) FROM checkouts").await, 1);
    let customers = shop
        .stripe
        .events()
        .iter()
        .filter(|e| e["type"] == "customer.created")
        .count();
    assert_eq!(customers, 1);
}

#[tokio::test]
async fn a_crowd_of_clicks_does_not_run_out_of_connections() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let open = || subscriptions::open(&shop.domain, &buyer, "pro", Interval::Month);
    let all = futures::future::join_all((0..40).map(|_| open())).await;
    let first = all[0].as_ref().unwrap();
    assert!(all.iter().all(|o| o.as_ref().unwrap() == first));
}

#[tokio::test]
async fn choosing_another_plan_closes_the_first_page() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let (_, first) = shop.checkout(&buyer, "pro", Interval::Month).await;
    let (url, second) = shop.checkout(&buyer, "scale", Interval::Month).await;
    assert_ne!(first, second);
    assert_eq!(shop.stripe.object(&first)["status"], "expired");
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    shop.work().await;
    assert_eq!(shop.plan(&buyer).await, "scale");
}

#[tokio::test]
async fn an_open_session_that_was_paid_meanwhile_is_not_opened_again() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let (url, session) = shop.checkout(&buyer, "pro", Interval::Month).await;
    shop.stripe.set(|s| s.webhooks.drop = true);
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    let again = subscriptions::open(&shop.domain, &buyer, "scale", Interval::Month)
        .await
        .unwrap();
    assert_eq!(again, Opened::Paid { session });
    assert_eq!(shop.plan(&buyer).await, "pro");
    let refused = subscriptions::open(&shop.domain, &buyer, "scale", Interval::Month).await;
    assert!(matches!(refused, Err(DomainError::Conflict(_))));
}

#[tokio::test]
async fn a_second_subscription_is_cancelled_and_paid_back() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let first = shop.stripe_id(&buyer).await;
    // Somebody bought it again behind our back: the same customer, another session.
    let customer = shop.stripe.object(&first)["customer"].as_str().unwrap().to_owned();
    let price: String =
        sqlx::query_scalar("SELECT stripe_price FROM plan_prices WHERE part = '' ORDER BY stripe_price LIMIT 1")
            .fetch_one(shop.database.pool())
            .await
            .unwrap();
    let form = format!(
        "mode=subscription&customer={customer}&client_reference_id={}&success_url=https://x.example&line_items[0][price]={price}&line_items[0][quantity]=1",
        buyer.consumer()
    );
    let session = shop.dashboard("POST", "checkout/sessions", &form).await;
    assert_eq!(shop.type_card(session["url"].as_str().unwrap(), CARD).await, 303);
    shop.work().await;
    assert_eq!(shop.stripe_id(&buyer).await, first);
    assert_eq!(shop.stripe.object(&first)["status"], "active");
    let done = shop.stripe.object(session["id"].as_str().unwrap());
    let second = done["subscription"].as_str().unwrap();
    assert_eq!(shop.stripe.object(second)["status"], "canceled");
    let refunds = shop.dashboard("GET", "refunds", "").await;
    assert_eq!(refunds["data"].as_array().unwrap().len(), 1);
    let told = "SELECT count(*) FROM audit_log WHERE action = 'subscription.duplicate_refunded'";
    assert_eq!(shop.count(told).await, 1);
}

#[tokio::test]
async fn an_abandoned_session_grants_nothing_and_frees_the_way() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let (_, session) = shop.checkout(&buyer, "pro", Interval::Month).await;
    shop.pass(25 * HOUR).await;
    assert_eq!(shop.live(&buyer).await.plan, "free");
    let seen = subscriptions::returned(&shop.domain, &buyer, &session).await.unwrap();
    assert_eq!(seen, Return::Expired);
    let (_, next) = shop.checkout(&buyer, "pro", Interval::Month).await;
    assert_ne!(next, session);
}

#[tokio::test]
async fn a_declined_card_stays_on_the_page_and_another_one_pays() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let (url, _) = shop.checkout(&buyer, "pro", Interval::Month).await;
    assert_eq!(shop.type_card(&url, "4000000000000002").await, 402);
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "free");
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "pro");
}

#[tokio::test]
async fn a_first_payment_without_its_confirmation_grants_nothing() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let (url, session) = shop.checkout(&buyer, "pro", Interval::Month).await;
    assert_eq!(shop.type_card(&url, "4000002500003155").await, 303);
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "free");
    let seen = subscriptions::returned(&shop.domain, &buyer, &session).await.unwrap();
    assert!(matches!(seen, Return::Open(_) | Return::Waiting), "{seen:?}");
    let bank = format!("{url}/authenticate");
    assert_eq!(shop.post(&bank, "result=complete".to_owned()).await, 303);
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "pro");
}

#[tokio::test]
async fn who_was_gone_comes_back_as_the_same_customer_with_the_same_account() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let first = shop.stripe_id(&buyer).await;
    let customer = shop.stripe.object(&first)["customer"].clone();
    subscriptions::cancel(&shop.domain, &buyer).await.unwrap();
    shop.pass(32 * DAY).await;
    assert_eq!(shop.plan(&buyer).await, "free");
    let (url, _) = shop.checkout(&buyer, "pro", Interval::Month).await;
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    shop.work().await;
    let second = shop.stripe_id(&buyer).await;
    assert_ne!(first, second);
    assert_eq!(shop.stripe.object(&second)["customer"], customer);
}

#[tokio::test]
async fn a_deleted_customer_falls_back_to_free_and_can_buy_again() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let id = shop.stripe_id(&buyer).await;
    let customer = shop.stripe.object(&id)["customer"].as_str().unwrap().to_owned();
    shop.dashboard("DELETE", &format!("customers/{customer}"), "").await;
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "free");
    let (url, _) = shop.checkout(&buyer, "pro", Interval::Month).await;
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    shop.work().await;
    let second = shop.stripe_id(&buyer).await;
    assert_ne!(shop.stripe.object(&second)["customer"], customer.as_str());
}

#[tokio::test]
async fn what_cannot_be_bought_is_refused_in_words() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let open = |plan: &'static str, interval| subscriptions::open(&shop.domain, &buyer, plan, interval);
    assert!(matches!(
        open("gold", Interval::Month).await,
        Err(DomainError::Invalid { field: "plan", .. })
    ));
    assert!(matches!(
        open("scale", Interval::Year).await,
        Err(DomainError::Invalid { field: "interval", .. })
    ));
    assert!(matches!(
        open("free", Interval::Month).await,
        Err(DomainError::Conflict(_))
    ));
}

#[tokio::test]
async fn a_gift_is_metered_and_never_billed_and_gives_way_to_paying() {
    let shop = Shop::open().await;
    let friend = shop.account("friend").await;
    let (domain, console) = (&shop.domain, Provider::console());
    subscriptions::grant_complimentary(domain, &console, friend.consumer(), "scale", Interval::Month)
        .await
        .unwrap();
    assert_eq!(shop.live(&friend).await.plan, "scale");
    assert_eq!(shop.current(&friend).await.settlement, Settlement::Complimentary);
    let (url, _) = shop.checkout(&friend, "pro", Interval::Month).await;
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    shop.work().await;
    assert_eq!(shop.plan(&friend).await, "pro");
    let refused =
        subscriptions::grant_complimentary(domain, &console, friend.consumer(), "scale", Interval::Month).await;
    assert!(
        matches!(refused, Err(DomainError::Conflict(_))),
        "what is paid for is not replaced"
    );
}
