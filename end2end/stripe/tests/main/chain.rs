//! From a product to a paid invoice with the typed client: every answer must parse in it.

use std::collections::HashMap;

use stripe_billing::billing_meter::*;
use stripe_billing::billing_meter_event::CreateBillingMeterEvent;
use stripe_billing::billing_meter_event_summary::ListIdBillingMeterEventSummary;
use stripe_billing::billing_portal_session::CreateBillingPortalSession;
use stripe_billing::invoice::{CreatePreviewInvoice, ListInvoice, RetrieveInvoice};
use stripe_billing::invoice_item::CreateInvoiceItem;
use stripe_billing::subscription::{ListSubscription, RetrieveSubscription};
use stripe_billing::subscription_item::ListSubscriptionItem;
use stripe_billing::subscription_schedule::CreateSubscriptionSchedule;
use stripe_billing::test_helpers_test_clock::{AdvanceTestHelpersTestClock, CreateTestHelpersTestClock};
use stripe_checkout::checkout_session::*;
use stripe_core::customer::{CreateCustomer, DeleteCustomer, RetrieveCustomer, UpdateCustomer};
use stripe_core::event::ListEvent;
use stripe_core::refund::CreateRefund;
use stripe_misc::webhook_endpoint::*;
use stripe_product::price::*;
use stripe_product::product::CreateProduct;
use stripe_shared::{InvoiceStatus, SubscriptionStatus};
use stripe_types::Currency;

use crate::support::{World, at, card};

const DAY: i64 = 86_400;

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn a_subscription_is_bought_used_and_billed() {
    let world = World::at("2026-01-10T12:00:00Z").await;
    let client = &world.client;
    CreateWebhookEndpoint::new(vec![CreateWebhookEndpointEnabledEvents::All], "http://127.0.0.1:9/hook")
        .send(client)
        .await
        .unwrap();
    let product = CreateProduct::new("Atlas")
        .metadata([("plan".to_owned(), "pro".to_owned())])
        .send(client)
        .await
        .unwrap();
    let aggregation = CreateBillingMeterDefaultAggregation::new(CreateBillingMeterDefaultAggregationFormula::Sum);
    let meter = CreateBillingMeter::new(aggregation, "Calls", "calls")
        .send(client)
        .await
        .unwrap();
    let licensed = CreatePrice::new(Currency::USD)
        .product(product.id.to_string())
        .unit_amount(2000)
        .recurring(CreatePriceRecurring::new(CreatePriceRecurringInterval::Month))
        .send(client)
        .await
        .unwrap();
    let mut metered = CreatePriceRecurring::new(CreatePriceRecurringInterval::Month);
    metered.usage_type = Some(CreatePriceRecurringUsageType::Metered);
    metered.meter = Some(meter.id.to_string());
    let mut free = CreatePriceTiers::new(CreatePriceTiersUpTo::I64(1000));
    free.unit_amount_decimal = Some("0".to_owned());
    let mut rest = CreatePriceTiers::new(CreatePriceTiersUpTo::Inf);
    rest.unit_amount_decimal = Some("0.35".to_owned());
    let usage = CreatePrice::new(Currency::USD)
        .product(product.id.to_string())
        .billing_scheme(stripe_shared::PriceBillingScheme::Tiered)
        .tiers_mode(stripe_shared::PriceTiersMode::Graduated)
        .tiers(vec![free, rest])
        .recurring(metered)
        .expand(vec!["tiers".to_owned()])
        .send(client)
        .await
        .unwrap();
    assert_eq!(usage.tiers.unwrap().len(), 2);
    let customer = CreateCustomer::new()
        .email("ada@example.com")
        .name("Ada")
        .send(client)
        .await
        .unwrap();

    let line = |price: &str, quantity| {
        let mut line = CreateCheckoutSessionLineItems::new();
        line.price = Some(price.to_owned());
        line.quantity = quantity;
        line
    };
    let session = CreateCheckoutSession::new()
        .mode(stripe_shared::CheckoutSessionMode::Subscription)
        .customer(customer.id.to_string())
        .client_reference_id("consumer_1")
        .line_items(vec![line(licensed.id.as_str(), Some(1)), line(usage.id.as_str(), None)])
        .success_url("http://127.0.0.1:1/welcome?session={CHECKOUT_SESSION_ID}")
        .cancel_url("http://127.0.0.1:1/plans")
        .send(client)
        .await
        .unwrap();
    assert_eq!(session.amount_total, Some(2000));
    let url = session.url.unwrap();
    let (status, _, html) = world.page(&url, None).await;
    assert!(status == 200 && html.contains("$20.00") && html.contains("ada@example.com"));

    world.emulator.set(|settings| settings.webhooks.drop = true);
    let (status, location, _) = world.page(&url, Some(&card("4242424242424242"))).await;
    assert_eq!(
        (status, location.as_str()),
        (
            303,
            format!("http://127.0.0.1:1/welcome?session={}", session.id).as_str()
        )
    );
    let (status, again, _) = world.page(&url, Some(&card("4242424242424242"))).await;
    assert_eq!((status, &again), (303, &location));

    let session = RetrieveCheckoutSession::new(session.id).send(client).await.unwrap();
    let subscription = session.subscription.unwrap();
    let subscription = RetrieveSubscription::new(subscription.id().as_str())
        .send(client)
        .await
        .unwrap();
    assert_eq!(subscription.status, SubscriptionStatus::Active);
    let all = ListSubscription::new()
        .customer(customer.id.as_str())
        .send(client)
        .await
        .unwrap();
    assert_eq!(all.data.len(), 1);
    assert_eq!(
        ListSubscriptionItem::new(subscription.id.as_str())
            .send(client)
            .await
            .unwrap()
            .data
            .len(),
        2
    );
    let events = ListEvent::new().limit(100).send(client).await.unwrap();
    assert!(
        events
            .data
            .iter()
            .any(|event| event.type_.as_str() == "checkout.session.completed")
    );

    let now = at("2026-01-10T12:00:00Z");
    world.emulator.advance_to(now + 5 * DAY).await;
    let payload = |value: &str| {
        HashMap::from([
            ("stripe_customer_id".to_owned(), customer.id.to_string()),
            ("value".to_owned(), value.to_owned()),
        ])
    };
    CreateBillingMeterEvent::new("calls", payload("1200"))
        .identifier("a")
        .timestamp(now + DAY)
        .send(client)
        .await
        .unwrap();
    CreateBillingMeterEvent::new("calls", payload("2"))
        .identifier("b")
        .timestamp(now + 2 * DAY)
        .send(client)
        .await
        .unwrap();
    world.emulator.settle().await;
    let (from, to) = (now - now % 60, now - now % 60 + 10 * DAY);
    let sums = ListIdBillingMeterEventSummary::new(meter.id.as_str(), customer.id.as_str(), to, from)
        .send(client)
        .await
        .unwrap();
    assert!((sums.data[0].aggregated_value - 1202.0).abs() < f64::EPSILON);

    let preview = CreatePreviewInvoice::new()
        .subscription(subscription.id.as_str())
        .send(client)
        .await
        .unwrap();
    world.emulator.advance_to(at("2026-02-10T12:30:00Z")).await;
    let drafts = ListInvoice::new()
        .customer(customer.id.as_str())
        .status(InvoiceStatus::Draft)
        .send(client)
        .await
        .unwrap();
    let draft = &drafts.data[0];
    assert_eq!(draft.total, preview.total);
    world.emulator.advance_to(at("2026-02-10T14:00:00Z")).await;
    let id = draft.id.clone().unwrap();
    let invoice = RetrieveInvoice::new(id)
        .expand(vec!["payments".to_owned()])
        .send(client)
        .await
        .unwrap();
    // 202 units over the allowance at 0.35 cents: 70.7 cents, 71 after rounding.
    assert_eq!((invoice.total, invoice.status), (2071, Some(InvoiceStatus::Paid)));
    let payment = &invoice.payments.unwrap().data[0];
    let intent = payment.payment.payment_intent.as_ref().unwrap().id().to_string();
    let refund = CreateRefund::new()
        .payment_intent(intent)
        .amount(71)
        .send(client)
        .await
        .unwrap();
    assert_eq!(refund.amount, 71);
}

#[tokio::test]
async fn the_other_objects_parse_too() {
    let world = World::at("2026-01-10T12:00:00Z").await;
    let client = &world.client;
    let id = world.customer("pm_card_visa").await;
    UpdateCustomer::new(id.as_str())
        .description("x")
        .send(client)
        .await
        .unwrap();
    let price = world.monthly(1500).await;
    let subscription = world
        .post("subscriptions", &format!("customer={id}&items[0][price]={price}"))
        .await;
    let subscription = subscription["id"].as_str().unwrap();
    CreateInvoiceItem::new()
        .customer(id.as_str())
        .amount(300)
        .currency(Currency::USD)
        .description("Rated")
        .send(client)
        .await
        .unwrap();
    CreateSubscriptionSchedule::new()
        .from_subscription(subscription)
        .send(client)
        .await
        .unwrap();
    let portal = CreateBillingPortalSession::new()
        .customer(id.as_str())
        .return_url("http://127.0.0.1:1/")
        .send(client)
        .await
        .unwrap();
    let (status, _, html) = world.page(&portal.url, None).await;
    assert!(status == 200 && html.contains("4242"));
    assert_eq!(world.page(&portal.url, Some(&card("4000000000000002"))).await.0, 402);
    assert_eq!(world.page(&portal.url, Some(&card("5555555555554444"))).await.0, 303);
    assert!(world.page(&portal.url, None).await.2.contains("mastercard"));
    let clock = CreateTestHelpersTestClock::new(at("2026-03-01T00:00:00Z"))
        .send(client)
        .await
        .unwrap();
    let advanced = AdvanceTestHelpersTestClock::new(clock.id, at("2026-03-02T00:00:00Z"))
        .send(client)
        .await
        .unwrap();
    assert_eq!(advanced.frozen_time, at("2026-03-02T00:00:00Z"));
    let fetched =
        RetrieveSubscription::new(subscription).expand(vec!["latest_invoice".to_owned(), "customer".to_owned()]);
    assert!(fetched.send(client).await.unwrap().latest_invoice.unwrap().is_object());
    let invoices = ListInvoice::new()
        .subscription(subscription)
        .send(client)
        .await
        .unwrap();
    let invoice = invoices.data[0].id.clone().unwrap();
    let (status, _, pdf) = world.page(&format!("i/{invoice}/pdf"), None).await;
    assert!(status == 200 && pdf.starts_with("%PDF-1.4") && pdf.contains("Plan 1500"));
    DeleteCustomer::new(id.as_str()).send(client).await.unwrap();
    let gone = RetrieveCustomer::new(id.as_str()).send(client).await.unwrap();
    assert!(matches!(
        gone,
        stripe_core::customer::RetrieveCustomerReturned::DeletedCustomer(_)
    ));
    assert!(world.events().contains(&"customer.subscription.deleted".to_owned()));
}
