//! Deliveries that are doubled, shuffled, lost, forged, old, or of things we do not know.

use super::shop::{CARD, DAY, HOUR, Shop};
use domain::stripe_inbox::{self, Filter, Received};
use domain::{DomainError, Provider, subscriptions};
use model::access::Interval;
use serde_json::{Value, json};

/// Signs as Stripe does.
fn sign(body: &[u8], secret: &str, at_s: i64) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{at_s}.").as_bytes());
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    format!("t={at_s},v1={hex}")
}

impl Shop {
    async fn secret(&self) -> String {
        sqlx::query_scalar("SELECT secret FROM stripe_endpoints ORDER BY created_at DESC, stripe_id LIMIT 1")
            .fetch_one(self.database.pool())
            .await
            .unwrap()
    }

    /// Delivers an event, well signed.
    async fn deliver(&self, event: &Value) -> Result<Received, DomainError> {
        let body = serde_json::to_vec(event).unwrap();
        let signature = sign(&body, &self.secret().await, self.stripe.now());
        stripe_inbox::receive(&self.domain, &body, &signature).await
    }
}

#[tokio::test]
async fn forged_old_and_foreign_signatures_are_refused_and_leave_nothing() {
    let shop = Shop::open().await;
    let secret = shop.secret().await;
    let body = br#"{"id":"evt_forged","type":"invoice.paid","livemode":false,"data":{"object":{"id":"in_1"}}}"#;
    let now = shop.stripe.now();
    let good = sign(body, &secret, now);
    for (what, body, header) in [
        ("none", &body[..], String::new()),
        ("another secret", &body[..], sign(body, "whsec_guess", now)),
        ("301 s old", &body[..], sign(body, &secret, now - 301)),
        ("301 s ahead", &body[..], sign(body, &secret, now + 301)),
        ("another body", &b"{}"[..], good.clone()),
        (
            "another time",
            &body[..],
            good.replace(&format!("t={now}"), &format!("t={}", now - 1)),
        ),
    ] {
        let refused = stripe_inbox::receive(&shop.domain, body, &header).await;
        assert!(matches!(refused, Err(DomainError::Invalid { .. })), "{what}");
    }
    assert_eq!(
        shop.count("SELECT count(*) FROM stripe_events WHERE id = 'evt_forged'")
            .await,
        0
    );
    assert_eq!(
        stripe_inbox::receive(&shop.domain, body, &good).await.unwrap(),
        Received::Stored
    );
    assert_eq!(
        stripe_inbox::receive(&shop.domain, body, &good).await.unwrap(),
        Received::Duplicate
    );
}

#[tokio::test]
async fn a_replaced_endpoints_secret_is_good_for_a_day() {
    let shop = Shop::open().await;
    let (old, first) = (
        shop.secret().await,
        shop.count("SELECT count(*) FROM stripe_endpoints").await,
    );
    let id: String = sqlx::query_scalar("SELECT stripe_id FROM stripe_endpoints")
        .fetch_one(shop.database.pool())
        .await
        .unwrap();
    shop.pass(HOUR).await;
    shop.dashboard("DELETE", &format!("webhook_endpoints/{id}"), "").await;
    shop.pass(6 * HOUR).await;
    assert_eq!(shop.count("SELECT count(*) FROM stripe_endpoints").await, first + 1);
    let body = br#"{"id":"evt_late","type":"unknown.thing","livemode":false,"data":{"object":{}}}"#;
    let signed_by_old = || sign(body, &old, shop.stripe.now());
    assert_eq!(
        stripe_inbox::receive(&shop.domain, body, &signed_by_old())
            .await
            .unwrap(),
        Received::Ignored
    );
    shop.pass(25 * HOUR).await;
    assert!(
        stripe_inbox::receive(&shop.domain, body, &signed_by_old())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn unknown_types_and_shapes_are_kept_and_acknowledged() {
    let shop = Shop::open().await;
    let odd = json!({"id": "evt_odd", "type": "v9.dream.started", "livemode": false, "api_version": "2031-01-01", "dream": 1});
    assert_eq!(shop.deliver(&odd).await.unwrap(), Received::Ignored);
    let live = json!({"id": "evt_live", "type": "customer.subscription.deleted", "livemode": true, "data": {"object": {"id": "sub_x"}}});
    assert_eq!(
        shop.deliver(&live).await.unwrap(),
        Received::Ignored,
        "real money means nothing to a test key"
    );
    // Of a kind that we handle, about something that Stripe does not have, in another version's shape.
    let gone = json!({"id": "evt_gone", "type": "customer.subscription.updated", "livemode": false, "data": {"object": {"id": "sub_gone", "status": 7}}});
    assert_eq!(shop.deliver(&gone).await.unwrap(), Received::Stored);
    shop.work().await;
    let none = Filter {
        state: Some("ignored".to_owned()),
        before: None,
    };
    let ignored = stripe_inbox::list(&shop.domain, &Provider::console(), &none)
        .await
        .unwrap();
    assert!(ignored.iter().any(|e| e.id == "evt_odd") && ignored.iter().any(|e| e.id == "evt_live"));
    let (entry, raw) = stripe_inbox::detail(&shop.domain, &Provider::console(), "evt_gone")
        .await
        .unwrap();
    assert_eq!((entry.state.as_str(), &raw), ("done", &gone));
}

#[tokio::test]
async fn a_payload_is_never_believed() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    let id = shop.stripe_id(&buyer).await;
    let lie = json!({"id": "evt_lie", "type": "customer.subscription.deleted", "livemode": false,
        "data": {"object": {"id": id, "object": "subscription", "status": "canceled", "ended_at": 1}}});
    assert_eq!(shop.deliver(&lie).await.unwrap(), Received::Stored);
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "pro");
}

#[tokio::test]
async fn doubled_and_backwards_deliveries_have_one_effect() {
    let shop = Shop::open().await;
    shop.stripe.set(|s| {
        s.webhooks.duplicate = true;
        s.webhooks.reorder = true;
    });
    let buyer = shop.subscriber("buyer", "pro").await;
    assert_eq!(
        shop.count("SELECT count(*) FROM subscriptions WHERE settlement = 'stripe'")
            .await,
        1
    );
    subscriptions::cancel(&shop.domain, &buyer).await.unwrap();
    shop.pass(32 * DAY).await;
    assert_eq!(shop.live(&buyer).await.plan, "free");
    assert_eq!(
        shop.count("SELECT count(*) FROM stripe_events WHERE state IN ('received', 'dead')")
            .await,
        0
    );
}

#[tokio::test]
async fn hours_without_a_portal_are_swept_up() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let (url, _) = shop.checkout(&buyer, "pro", Interval::Month).await;
    shop.stripe.set(|s| s.webhooks.drop = true);
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    shop.work().await;
    assert_eq!(shop.live(&buyer).await.plan, "free");
    // The next sweep asks for what was not delivered.
    shop.pass(HOUR).await;
    assert_eq!(shop.live(&buyer).await.plan, "pro");
    assert_eq!(
        shop.count("SELECT count(*) FROM stripe_events WHERE state = 'received'")
            .await,
        0
    );
}

#[tokio::test]
async fn the_nightly_look_finds_what_no_event_said() {
    let shop = Shop::open().await;
    let buyer = shop.subscriber("buyer", "pro").await;
    sqlx::query("UPDATE subscriptions SET cancel_at_period_end = true WHERE settlement = 'stripe'")
        .execute(shop.database.pool())
        .await
        .unwrap();
    shop.pass(25 * HOUR).await;
    assert!(!shop.current(&buyer).await.cancel_at_period_end);
}

#[tokio::test]
async fn an_event_that_failed_is_shown_and_can_be_handled_again() {
    let shop = Shop::open().await;
    let buyer = shop.account("buyer").await;
    let (url, _) = shop.checkout(&buyer, "pro", Interval::Month).await;
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    let stored = shop.stripe.events();
    let event = stored
        .iter()
        .rev()
        .find(|e| e["type"] == "checkout.session.completed")
        .unwrap();
    let id = event["id"].as_str().unwrap();
    shop.work().await;
    sqlx::query("UPDATE stripe_events SET state = 'dead', last_error = 'x', attempts = 20 WHERE id = $1")
        .bind(id)
        .execute(shop.database.pool())
        .await
        .unwrap();
    stripe_inbox::replay(&shop.domain, &Provider::console(), id)
        .await
        .unwrap();
    shop.work().await;
    let (entry, _) = stripe_inbox::detail(&shop.domain, &Provider::console(), id)
        .await
        .unwrap();
    assert_eq!(
        (entry.state.as_str(), entry.attempts, entry.last_error),
        ("done", 0, None)
    );
    let missing = stripe_inbox::replay(&shop.domain, &Provider::console(), "evt_none").await;
    assert!(matches!(missing, Err(DomainError::NotFound)));
}

/// Whatever the order, however often, whatever is lost on the way: after a sweep the end is the same.
#[tokio::test]
async fn any_order_with_doubles_and_losses_comes_to_the_same() {
    let shop = Shop::open().await;
    shop.stripe.set(|s| s.webhooks.drop = true);
    let buyer = shop.account("buyer").await;
    let (url, _) = shop.checkout(&buyer, "pro", Interval::Month).await;
    assert_eq!(shop.type_card(&url, CARD).await, 303);
    let events = shop.stripe.events();
    for round in 0..12 {
        sqlx::raw_sql("DELETE FROM stripe_events; DELETE FROM jobs WHERE kind = 'stripe_inbox.handle'")
            .execute(shop.database.pool())
            .await
            .unwrap();
        let mut order: Vec<&Value> = events.iter().chain(events.iter()).collect();
        for i in (1..order.len()).rev() {
            let j = shop.random.below(u64::try_from(i).unwrap() + 1);
            order.swap(i, usize::try_from(j).unwrap());
        }
        for event in order {
            if shop.random.below(4) > 0 {
                shop.deliver(event).await.unwrap();
            }
            if shop.random.below(3) == 0 {
                shop.work().await;
            }
        }
        shop.pass(11 * 60).await;
        assert_eq!(shop.live(&buyer).await.plan, "pro", "round {round}");
        let open = "SELECT count(*) FROM subscriptions WHERE ended_at IS NULL";
        assert_eq!(shop.count(open).await, 1, "round {round}");
        let paid = "SELECT count(*) FROM subscriptions WHERE settlement = 'stripe'";
        assert_eq!(shop.count(paid).await, 1, "round {round}");
        assert_eq!(
            shop.count("SELECT count(*) FROM stripe_events WHERE state <> 'done' AND state <> 'ignored'")
                .await,
            0
        );
    }
}
