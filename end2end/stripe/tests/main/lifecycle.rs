//! Failing payments, cancellation, schedules, trials.

use stripe_emulator::AfterRetries;

use crate::support::{World, at, card, id};

const DAY: i64 = 86_400;

async fn start(world: &World, method: &str, extra: &str) -> (String, String) {
    let price = world.monthly(2000).await;
    let customer = world.customer(method).await;
    let sub = world
        .post(
            "subscriptions",
            &format!("customer={customer}&items[0][price]={price}{extra}"),
        )
        .await;
    (customer, id(&sub, "id"))
}

async fn status(world: &World, sub: &str) -> String {
    id(&world.get(&format!("subscriptions/{sub}")).await, "status")
}

#[tokio::test]
async fn a_failed_renewal_is_retried_and_ends_as_set() {
    for (after, wanted) in [
        (AfterRetries::Unpaid, "unpaid"),
        (AfterRetries::Canceled, "canceled"),
        (AfterRetries::PastDue, "past_due"),
    ] {
        let world = World::at("2026-04-01T00:00:00Z").await;
        world.emulator.set(|settings| settings.after_retries = after);
        let (_, sub) = start(&world, "pm_card_chargeCustomerFail", "&trial_period_days=10").await;
        world.emulator.advance_to(at("2026-04-11T00:30:00Z")).await;
        assert_eq!(status(&world, &sub).await, "active");
        world.emulator.advance_to(at("2026-04-11T02:00:00Z")).await;
        assert_eq!(status(&world, &sub).await, "past_due");
        world.emulator.advance(20 * DAY).await;
        assert_eq!(status(&world, &sub).await, wanted);
        let invoice = world.get(&format!("invoices?subscription={sub}&status=open")).await;
        assert_eq!(invoice["data"][0]["attempt_count"], 5);
    }
}

#[tokio::test]
async fn paying_the_open_invoice_restores() {
    let world = World::at("2026-04-01T00:00:00Z").await;
    let (_, sub) = start(&world, "pm_card_visa", "").await;
    world.emulator.fail_next_charge("insufficient_funds");
    world.emulator.advance_to(at("2026-05-01T02:00:00Z")).await;
    assert_eq!(status(&world, &sub).await, "past_due");
    let open = world.get(&format!("invoices?subscription={sub}&status=open")).await;
    let invoice = id(&open["data"][0], "id");
    let (code, _, html) = world.page(&format!("i/{invoice}"), None).await;
    assert!(code == 200 && html.contains("$20.00"));
    assert_eq!(
        world
            .page(&format!("i/{invoice}"), Some(&card("4000000000000002")))
            .await
            .0,
        402
    );
    assert_eq!(world.page(&format!("i/{invoice}"), Some("saved=yes")).await.0, 303);
    assert_eq!(status(&world, &sub).await, "active");
    assert!(world.events().contains(&"invoice.payment_failed".to_owned()));
}

#[tokio::test]
async fn a_first_payment_that_never_comes_expires() {
    let world = World::at("2026-04-01T00:00:00Z").await;
    let (_, sub) = start(&world, "pm_card_authenticationRequired", "").await;
    assert_eq!(status(&world, &sub).await, "incomplete");
    assert!(world.events().contains(&"invoice.payment_action_required".to_owned()));
    world.emulator.advance(23 * 3600).await;
    assert_eq!(status(&world, &sub).await, "incomplete_expired");
    assert_eq!(world.get("invoices").await["data"][0]["status"], "void");
    let world = World::at("2026-04-01T00:00:00Z").await;
    let (price, customer) = (
        world.monthly(2000).await,
        world.customer("pm_card_chargeCustomerFail").await,
    );
    let form = format!("customer={customer}&items[0][price]={price}&payment_behavior=error_if_incomplete");
    assert_eq!(world.try_post("subscriptions", &form).await.0, 402);
    assert!(
        world.get("subscriptions?status=all").await["data"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn an_upgrade_that_is_not_paid_waits_and_expires_or_applies() {
    let world = World::at("2026-04-01T00:00:00Z").await;
    let (_, sub) = start(&world, "pm_card_visa", "").await;
    let large = world.monthly(9000).await;
    let of = id(
        &world.get(&format!("subscriptions/{sub}")).await["items"]["data"][0],
        "id",
    );
    world.emulator.advance(DAY).await;
    let change = format!(
        "items[0][id]={of}&items[0][price]={large}&payment_behavior=pending_if_incomplete&proration_behavior=always_invoice"
    );
    world.emulator.fail_next_charge("card_declined");
    let waiting = world.post(&format!("subscriptions/{sub}"), &change).await;
    assert!(waiting["pending_update"].is_object());
    assert_eq!(
        (&waiting["status"], &waiting["items"]["data"][0]["price"]["unit_amount"]),
        (&"active".into(), &2000.into())
    );
    world.emulator.advance(23 * 3600).await;
    assert!(world.get(&format!("subscriptions/{sub}")).await["pending_update"].is_null());
    world.emulator.fail_next_charge("card_declined");
    let waiting = world.post(&format!("subscriptions/{sub}"), &change).await;
    world
        .post(&format!("invoices/{}/pay", id(&waiting, "latest_invoice")), "")
        .await;
    let applied = world.get(&format!("subscriptions/{sub}")).await;
    assert_eq!(applied["items"]["data"][0]["price"]["unit_amount"], 9000);
    assert!(
        world
            .events()
            .contains(&"customer.subscription.pending_update_applied".to_owned())
    );
    let world = World::at("2026-04-01T00:00:00Z").await;
    let (_, sub) = start(&world, "pm_card_visa", "").await;
    let large = world.monthly(9000).await;
    let of = id(
        &world.get(&format!("subscriptions/{sub}")).await["items"]["data"][0],
        "id",
    );
    let change = format!(
        "items[0][id]={of}&items[0][price]={large}&payment_behavior=pending_if_incomplete&proration_behavior=always_invoice"
    );
    let paid = world.post(&format!("subscriptions/{sub}"), &change).await;
    assert!(paid["pending_update"].is_null());
    assert_eq!(paid["items"]["data"][0]["price"]["unit_amount"], 9000);
}

#[tokio::test]
async fn a_downgrade_is_scheduled_and_can_be_released() {
    let world = World::at("2026-04-01T00:00:00Z").await;
    let (_, sub) = start(&world, "pm_card_visa", "").await;
    let small = world.monthly(500).await;
    let current = id(
        &world.get(&format!("subscriptions/{sub}")).await["items"]["data"][0]["price"],
        "id",
    );
    let schedule = id(
        &world
            .post("subscription_schedules", &format!("from_subscription={sub}"))
            .await,
        "id",
    );
    let (begin, end) = (at("2026-04-01T00:00:00Z"), at("2026-05-01T00:00:00Z"));
    let phases = format!(
        "end_behavior=release&phases[0][start_date]={begin}&phases[0][end_date]={end}&phases[0][items][0][price]={current}\
         &phases[0][items][0][quantity]=1&phases[1][items][0][price]={small}&phases[1][items][0][quantity]=1&phases[1][proration_behavior]=none\
         &phases[1][duration][interval]=month&phases[1][duration][interval_count]=1"
    );
    world.post(&format!("subscription_schedules/{schedule}"), &phases).await;
    assert_eq!(
        world
            .post("invoices/create_preview", &format!("subscription={sub}"))
            .await["total"],
        500
    );
    world.emulator.advance_to(end + 2 * 3600).await;
    assert_eq!(world.get("invoices").await["data"][0]["total"], 500);
    world.emulator.advance_to(at("2026-06-01T02:00:00Z")).await;
    assert!(world.get(&format!("subscriptions/{sub}")).await["schedule"].is_null());
    assert!(world.events().contains(&"subscription_schedule.released".to_owned()));
    let again = id(
        &world
            .post("subscription_schedules", &format!("from_subscription={sub}"))
            .await,
        "id",
    );
    assert_eq!(
        world.post(&format!("subscription_schedules/{again}/release"), "").await["status"],
        "released"
    );
}

#[tokio::test]
async fn cancellation_now_and_at_the_period_end() {
    let world = World::at("2026-04-01T00:00:00Z").await;
    let meter = world.meter().await;
    let price = world.metered(&meter, "unit_amount=100").await;
    let customer = world.customer("pm_card_visa").await;
    let form = format!("customer={customer}&items[0][price]={price}");
    let sub = id(&world.post("subscriptions", &form).await, "id");
    world.report(&customer, 7, at("2026-04-01T00:00:00Z")).await;
    world
        .post(&format!("subscriptions/{sub}"), "cancel_at_period_end=true")
        .await;
    assert_eq!(
        world.get(&format!("subscriptions/{sub}")).await["cancel_at"],
        at("2026-05-01T00:00:00Z")
    );
    world
        .post(&format!("subscriptions/{sub}"), "cancel_at_period_end=false")
        .await;
    world
        .post(&format!("subscriptions/{sub}"), "cancel_at_period_end=true")
        .await;
    world.emulator.advance_to(at("2026-05-01T02:00:00Z")).await;
    assert_eq!(status(&world, &sub).await, "canceled");
    let last = &world.get("invoices").await["data"][0];
    assert_eq!((&last["total"], &last["status"]), (&700.into(), &"paid".into()));
    let sub = id(&world.post("subscriptions", &form).await, "id");
    world.report(&customer, 3, world.emulator.now()).await;
    world.emulator.advance(DAY).await;
    world.delete(&format!("subscriptions/{sub}"), "invoice_now=true").await;
    assert_eq!(world.get("invoices").await["data"][0]["total"], 300);
}

#[tokio::test]
async fn a_test_clock_carries_its_customers_alone() {
    let world = World::at("2026-04-01T00:00:00Z").await;
    let clock = id(
        &world
            .post(
                "test_helpers/test_clocks",
                &format!("frozen_time={}", at("2025-01-31T00:00:00Z")),
            )
            .await,
        "id",
    );
    let customer = id(&world.post("customers", &format!("test_clock={clock}")).await, "id");
    let method = id(
        &world
            .post("payment_methods/pm_card_visa/attach", &format!("customer={customer}"))
            .await,
        "id",
    );
    let price = world.monthly(800).await;
    let form = format!("customer={customer}&items[0][price]={price}&default_payment_method={method}");
    let sub = world.post("subscriptions", &form).await;
    assert_eq!(sub["created"], at("2025-01-31T00:00:00Z"));
    let (_, other) = start(&world, "pm_card_visa", "").await;
    let too_far = format!("frozen_time={}", at("2025-06-01T00:00:00Z"));
    assert_eq!(
        world
            .try_post(&format!("test_helpers/test_clocks/{clock}/advance"), &too_far)
            .await
            .0,
        400
    );
    world
        .post(
            &format!("test_helpers/test_clocks/{clock}/advance"),
            &format!("frozen_time={}", at("2025-03-02T00:00:00Z")),
        )
        .await;
    let invoices = world.get(&format!("invoices?customer={customer}")).await;
    assert_eq!(invoices["data"].as_array().unwrap().len(), 2);
    assert_eq!(invoices["data"][0]["status"], "paid");
    assert_eq!(
        world.get(&format!("invoices?subscription={other}")).await["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}
