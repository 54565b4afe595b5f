//! What Stripe refuses, the emulator refuses.

use stripe_emulator::Fault;

use crate::support::{World, at, card, id};

#[tokio::test]
async fn wrong_requests_are_named() {
    let world = World::at("2026-01-10T12:00:00Z").await;
    let cases = [
        ("customers", "nmae=Ada", 400, "parameter_unknown", "nmae"),
        ("customers", "email=ada", 400, "email_invalid", "email"),
        (
            "prices",
            "currency=usd&product_data[name]=x&recurring[interval]=month&recurring[usage_type]=metered&unit_amount=1",
            400,
            "parameter_missing",
            "recurring[meter]",
        ),
        (
            "prices",
            "currency=usd&product=prod_none&unit_amount=1",
            400,
            "resource_missing",
            "product",
        ),
        (
            "prices",
            "currency=usd&product_data[name]=x&unit_amount=1.5",
            400,
            "parameter_invalid_integer",
            "unit_amount",
        ),
        (
            "subscriptions",
            "customer=cus_none&items[0][price]=p",
            400,
            "resource_missing",
            "customer",
        ),
        (
            "checkout/sessions",
            "mode=subscription&payment_method_types[0]=card",
            400,
            "parameter_unknown",
            "payment_method_types",
        ),
        ("subscriptions/sub_none", "metadata[a]=b", 404, "resource_missing", "id"),
        ("invoices/upcoming/lines", "", 404, "", ""),
        (
            "webhook_endpoints",
            "url=http://x&enabled_events[]=*&api_version=2020-08-27",
            400,
            "",
            "api_version",
        ),
    ];
    for (path, form, status, code, param) in cases {
        let (got, answer) = world.try_post(path, form).await;
        let error = &answer["error"];
        assert_eq!(
            (got, id(error, "code").as_str(), id(error, "param").as_str()),
            (status, code, param),
            "{path} {form}: {answer}"
        );
        assert!(!id(error, "message").is_empty());
    }
}

#[tokio::test]
async fn a_key_and_a_version_are_needed() {
    let world = World::at("2026-01-10T12:00:00Z").await;
    let http = reqwest::Client::builder().build().unwrap();
    let url = format!("{}v1/customers", world.emulator.base_url);
    assert_eq!(http.get(&url).send().await.unwrap().status().as_u16(), 401);
    let old = http
        .get(&url)
        .header("Authorization", "Bearer sk_test_x")
        .header("Stripe-Version", "2023-10-16")
        .send()
        .await
        .unwrap();
    assert_eq!(old.status().as_u16(), 400);
    assert!(old.headers().contains_key("request-id"));
}

#[tokio::test]
async fn an_idempotency_key_gives_one_effect_and_refuses_another_request() {
    let world = World::at("2026-01-10T12:00:00Z").await;
    let first = world.post_with_key("customers", "name=Ada", "k").await;
    assert_eq!(world.post_with_key("customers", "name=Ada", "k").await, first);
    let (status, answer) = world.post_with_key("customers", "name=Bob", "k").await;
    assert_eq!(
        (status, id(&answer["error"], "type").as_str()),
        (400, "idempotency_error")
    );
    assert_eq!(world.get("customers").await["data"].as_array().unwrap().len(), 1);
    world.emulator.advance(86_400).await;
    assert_eq!(world.post_with_key("customers", "name=Bob", "k").await.0, 200);
}

#[tokio::test]
async fn faults_come_as_ordered() {
    let world = World::at("2026-01-10T12:00:00Z").await;
    world.emulator.fault(Fault {
        kind: "status".to_owned(),
        status: 429,
        count: 1,
        delay_ms: 0,
    });
    assert_eq!(world.post_with_key("customers", "name=Ada", "a").await.0, 429);
    assert_eq!(world.post_with_key("customers", "name=Ada", "a").await.0, 200);
    world.emulator.fault(Fault {
        kind: "status".to_owned(),
        status: 500,
        count: 1,
        delay_ms: 0,
    });
    assert_eq!(world.post_with_key("customers", "name=Bob", "b").await.0, 500);
    // Stripe keeps a 500 for its key.
    assert_eq!(world.post_with_key("customers", "name=Bob", "b").await.0, 500);
    world.emulator.fault(Fault {
        kind: "drop_after_commit".to_owned(),
        status: 0,
        count: 1,
        delay_ms: 0,
    });
    let lost = stripe_core::customer::CreateCustomer::new()
        .name("Cy")
        .send(&world.client)
        .await;
    assert!(lost.is_err());
    assert_eq!(world.get("customers").await["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn meter_events_are_remembered_for_a_day_and_bound_in_time() {
    let world = World::at("2026-01-10T12:00:00Z").await;
    let customer = world.customer("pm_card_visa").await;
    let meter = world.meter().await;
    let now = at("2026-01-10T12:00:00Z");
    let event = |name: &str, at: i64, value: &str| {
        format!(
            "event_name=calls&identifier={name}&timestamp={at}&payload[stripe_customer_id]={customer}&payload[value]={value}"
        )
    };
    world.post("billing/meter_events", &event("a", now, "5")).await;
    assert_eq!(
        world.try_post("billing/meter_events", &event("a", now, "5")).await.0,
        400
    );
    for (form, code) in [
        (event("b", now - 36 * 86_400, "1"), "timestamp_too_far_in_past"),
        (event("c", now + 301, "1"), "timestamp_in_future"),
        (event("d", now, "1.5"), "meter_event_invalid_value"),
        (
            "event_name=nothing&payload[stripe_customer_id]=x&payload[value]=1".to_owned(),
            "no_meter",
        ),
        (
            "event_name=calls&payload[value]=1".to_owned(),
            "meter_event_no_customer_defined",
        ),
    ] {
        assert_eq!(
            id(&world.try_post("billing/meter_events", &form).await.1["error"], "code"),
            code
        );
    }
    let sum = format!(
        "billing/meters/{meter}/event_summaries?customer={customer}&start_time={}&end_time={}",
        now - 86_400,
        now + 86_400
    );
    let before = world.get(&sum).await;
    assert_eq!(before["data"][0]["aggregated_value"], 0.0, "not counted yet");
    world.emulator.settle().await;
    assert_eq!(world.get(&sum).await["data"][0]["aggregated_value"], 5.0);
    world.emulator.advance(86_400).await;
    world.post("billing/meter_events", &event("a", now, "5")).await;
    world.emulator.settle().await;
    assert_eq!(
        world.get(&sum).await["data"][0]["aggregated_value"],
        10.0,
        "a day later an identifier counts again"
    );
}

#[tokio::test]
async fn summaries_are_aligned_to_minutes() {
    let world = World::at("2026-01-10T12:00:00Z").await;
    let (customer, meter) = (world.customer("pm_card_visa").await, world.meter().await);
    let now = at("2026-01-10T12:00:00Z");
    let crooked = format!(
        "v1/billing/meters/{meter}/event_summaries?customer={customer}&start_time={}&end_time={}",
        now + 1,
        now + 61
    );
    let answer = world.try_get(&crooked).await;
    assert_eq!(
        (answer.0, id(&answer.1["error"], "param").as_str()),
        (400, "start_time")
    );
}

#[tokio::test]
async fn two_events_at_once_for_a_customer_and_meter_lock() {
    let world = World::at("2026-01-10T12:00:00Z").await;
    let customer = world.customer("pm_card_visa").await;
    world.meter().await;
    let form = format!("event_name=calls&payload[stripe_customer_id]={customer}&payload[value]=1");
    let calls = futures::future::join_all((0..8).map(|_| world.try_post("billing/meter_events", &form))).await;
    let refused: Vec<_> = calls.iter().filter(|(status, _)| *status == 429).collect();
    assert!(calls.iter().any(|(status, _)| *status == 200));
    assert!(
        refused
            .iter()
            .all(|(_, answer)| answer["error"]["code"] == "lock_timeout")
    );
    assert!(!refused.is_empty());
}

#[tokio::test]
async fn a_declined_card_stays_on_the_page_and_another_one_pays() {
    let world = World::at("2026-01-10T12:00:00Z").await;
    let price = world.monthly(2000).await;
    let form = format!(
        "mode=subscription&line_items[0][price]={price}&line_items[0][quantity]=1&success_url=http://a/&cancel_url=http://b/"
    );
    let session = world.post("checkout/sessions", &form).await;
    let url = id(&session, "url");
    let (status, _, html) = world.page(&url, Some(&card("4000000000000002"))).await;
    assert!(status == 402 && html.contains("Your card was declined."));
    assert_eq!(world.page(&url, Some(&card("4242424242424241"))).await.0, 402);
    assert!(world.get("subscriptions").await["data"].as_array().unwrap().is_empty());
    let (status, bank, _) = world.page(&url, Some(&card("4000002500003155"))).await;
    assert_eq!(status, 303);
    assert_eq!(world.page(&bank, Some("result=fail")).await.0, 402);
    world.page(&url, Some(&card("4000002500003155"))).await;
    let (status, location, _) = world.page(&bank, Some("result=complete")).await;
    assert_eq!((status, location.as_str()), (303, "http://a/"));
    assert_eq!(world.get("subscriptions").await["data"][0]["status"], "active");
    // The card was authenticated, so the renewal pays alone.
    world.emulator.advance_to(at("2026-02-10T14:00:00Z")).await;
    assert_eq!(world.get("invoices").await["data"][0]["status"], "paid");
}

#[tokio::test]
async fn sessions_expire() {
    let world = World::at("2026-01-10T12:00:00Z").await;
    let price = world.monthly(2000).await;
    let form =
        format!("mode=subscription&line_items[0][price]={price}&line_items[0][quantity]=1&success_url=http://a/");
    let session = world.post("checkout/sessions", &form).await;
    world.emulator.advance(86_400).await;
    assert_eq!(
        world.get(&format!("checkout/sessions/{}", id(&session, "id"))).await["status"],
        "expired"
    );
    assert_eq!(
        world
            .page(&id(&session, "url"), Some(&card("4242424242424242")))
            .await
            .0,
        410
    );
    assert!(world.events().contains(&"checkout.session.expired".to_owned()));
}
