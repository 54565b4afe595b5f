//! Which function answers which endpoint of `params.txt`.

use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::state::{State, text};
use crate::views::view;
use crate::{
    checkout, clock, customers, events, invoice_items, invoices, meters, payments, portal, preview, prices, products,
    schedules, subscriptions, webhooks,
};

/// Answers a request whose parameters were checked.
pub(crate) fn answer(state: &mut State, endpoint: &str, id: &str, path: &str, params: &Value) -> Answer {
    match endpoint.split_once(' ') {
        Some(("GET", pattern)) => read(state, pattern, id, path, params),
        Some(("DELETE", pattern)) => delete(state, pattern, id, params),
        Some((_, pattern)) => write(state, pattern, id, params),
        None => Err(unknown(endpoint, path)),
    }
}

/// Stripe's answer to an address that it does not have.
pub(crate) fn unknown(method: &str, path: &str) -> ApiError {
    let message = format!("Unrecognized request URL ({method}: {path}). The emulator does not have it.");
    ApiError {
        status: 404,
        ..ApiError::invalid(&message)
    }
}

fn delete(state: &mut State, pattern: &str, id: &str, params: &Value) -> Answer {
    match pattern {
        "/v1/customers/{id}" => customers::delete(state, id),
        "/v1/products/{id}" => products::delete(state, id),
        "/v1/subscriptions/{id}" => crate::cancel::now(state, id, params),
        "/v1/subscription_items/{id}" => subscriptions::change_item(state, Some(id), params, true),
        "/v1/invoices/{id}" => invoices::delete(state, id),
        "/v1/invoiceitems/{id}" => invoice_items::delete(state, id),
        "/v1/webhook_endpoints/{id}" => webhooks::delete(state, id),
        "/v1/test_helpers/test_clocks/{id}" => clock::delete(state, id),
        _ => Err(unknown("DELETE", pattern)),
    }
}

/// The endpoints that retrieve one object, and the object's kind.
const RETRIEVED: [(&str, &str); 21] = [
    ("/v1/payment_methods/{id}", "payment_method"),
    ("/v1/products/{id}", "product"),
    ("/v1/prices/{id}", "price"),
    ("/v1/billing/meters/{id}", "billing.meter"),
    ("/v1/checkout/sessions/{id}", "checkout.session"),
    ("/v1/subscriptions/{id}", "subscription"),
    ("/v1/subscription_schedules/{id}", "subscription_schedule"),
    ("/v1/invoices/{id}", "invoice"),
    ("/v1/invoiceitems/{id}", "invoiceitem"),
    ("/v1/invoice_payments/{id}", "invoice_payment"),
    ("/v1/payment_intents/{id}", "payment_intent"),
    ("/v1/setup_intents/{id}", "setup_intent"),
    ("/v1/charges/{id}", "charge"),
    ("/v1/refunds/{id}", "refund"),
    ("/v1/disputes/{id}", "dispute"),
    ("/v1/billing_portal/configurations/{id}", "billing_portal.configuration"),
    ("/v1/webhook_endpoints/{id}", "webhook_endpoint"),
    ("/v1/events/{id}", "event"),
    ("/v1/test_helpers/test_clocks/{id}", "test_helpers.test_clock"),
    ("/v1/customers/{id}", "customer"),
    ("/v1/billing_portal/sessions/{id}", "billing_portal.session"),
];

/// The endpoints that list a kind, filtered by equal fields only.
const LISTED: [(&str, &str, &[&str]); 13] = [
    ("/v1/customers", "customer", &["email", "test_clock"]),
    ("/v1/billing/meters", "billing.meter", &["status"]),
    ("/v1/subscription_schedules", "subscription_schedule", &["customer"]),
    ("/v1/invoice_payments", "invoice_payment", &["invoice", "status"]),
    ("/v1/payment_intents", "payment_intent", &["customer"]),
    ("/v1/setup_intents", "setup_intent", &["customer"]),
    ("/v1/charges", "charge", &["customer", "payment_intent"]),
    ("/v1/refunds", "refund", &["charge", "payment_intent"]),
    ("/v1/disputes", "dispute", &["charge", "payment_intent"]),
    (
        "/v1/billing_portal/configurations",
        "billing_portal.configuration",
        &["active", "is_default"],
    ),
    ("/v1/webhook_endpoints", "webhook_endpoint", &[]),
    ("/v1/test_helpers/test_clocks", "test_helpers.test_clock", &[]),
    ("/v1/billing_portal/sessions", "billing_portal.session", &[]),
];

fn read(state: &State, pattern: &str, id: &str, path: &str, params: &Value) -> Answer {
    if let Some((_, kind)) = RETRIEVED.iter().find(|(known, _)| *known == pattern) {
        state.find(kind, id, "id")?;
        return Ok(view(state, id));
    }
    if let Some((_, kind, keys)) = LISTED.iter().find(|(known, ..)| *known == pattern) {
        let intent = &params["payment"]["payment_intent"];
        return state.page(path, params, kind, |object| {
            object.get("deleted").is_none()
                && keys
                    .iter()
                    .all(|key| params.get(*key).is_none_or(|wanted| object[*key] == *wanted))
                && (intent.is_null() || object["payment"]["payment_intent"] == *intent)
        });
    }
    match pattern {
        "/v1/customers/{id}/payment_methods" => customers::methods(state, path, id, params),
        "/v1/payment_methods" => customers::methods(state, path, text(params, "customer"), params),
        "/v1/products" => products::page(state, params),
        "/v1/prices" => prices::page(state, params),
        "/v1/billing/meters/{id}/event_summaries" => meters::summaries(state, id, params),
        "/v1/checkout/sessions" => checkout::page(state, params),
        "/v1/checkout/sessions/{id}/line_items" => {
            Ok(checkout::line_items(state, state.find("checkout.session", id, "id")?))
        }
        "/v1/subscriptions" => subscriptions::page(state, params),
        "/v1/subscription_items" => subscriptions::items(state, params),
        "/v1/subscription_items/{id}" => Ok(crate::views::compose(state, subscriptions::item(state, id)?.1)),
        "/v1/invoices" => invoices::page(state, params),
        "/v1/invoices/{id}/lines" => invoices::lines(state, id, params),
        "/v1/invoiceitems" => invoice_items::page(state, params),
        "/v1/events" => events::page(state, params),
        "/v1/account" => Ok(json!({
            "id": "acct_emulator", "object": "account", "business_type": "company", "charges_enabled": true, "country": "US", "created": 0,
            "default_currency": "usd", "details_submitted": true, "email": "emulator@example.com", "payouts_enabled": true, "type": "standard",
        })),
        _ => Err(unknown("GET", pattern)),
    }
}

fn write(state: &mut State, pattern: &str, id: &str, params: &Value) -> Answer {
    match pattern {
        "/v1/customers" => customers::create(state, params),
        "/v1/customers/{id}" => customers::update(state, id, params),
        "/v1/payment_methods" => customers::create_method(state, params),
        "/v1/payment_methods/{id}" => customers::update_method(state, id, params),
        "/v1/payment_methods/{id}/attach" => customers::attach(state, id, params),
        "/v1/payment_methods/{id}/detach" => customers::detach(state, id),
        "/v1/products" => products::create(state, params),
        "/v1/products/{id}" => products::update(state, id, params),
        "/v1/prices" => prices::create(state, params),
        "/v1/prices/{id}" => prices::update(state, id, params),
        "/v1/billing/meters" => meters::create(state, params),
        "/v1/billing/meters/{id}" => meters::update(state, id, params),
        "/v1/billing/meters/{id}/deactivate" => meters::switch(state, id, false),
        "/v1/billing/meters/{id}/reactivate" => meters::switch(state, id, true),
        "/v1/billing/meter_events" => meters::accept(state, params),
        "/v1/billing/meter_event_adjustments" => meters::adjust(state, params),
        "/v1/checkout/sessions" => checkout::create(state, params),
        "/v1/checkout/sessions/{id}" => checkout::update(state, id, params),
        "/v1/checkout/sessions/{id}/expire" => checkout::expire(state, id),
        "/v1/billing_portal/sessions" => portal::create(state, params),
        "/v1/billing_portal/configurations" => portal::configure(state, params),
        "/v1/billing_portal/configurations/{id}" => portal::reconfigure(state, id, params),
        "/v1/webhook_endpoints" => webhooks::create(state, params),
        "/v1/webhook_endpoints/{id}" => webhooks::update(state, id, params),
        "/v1/test_helpers/test_clocks" => clock::create(state, params),
        "/v1/test_helpers/test_clocks/{id}/advance" => clock::advance(state, id, params),
        _ => write_billing(state, pattern, id, params),
    }
}

fn write_billing(state: &mut State, pattern: &str, id: &str, params: &Value) -> Answer {
    match pattern {
        "/v1/subscriptions" => subscriptions::create(state, params),
        "/v1/subscriptions/{id}" => subscriptions::update(state, id, params),
        "/v1/subscription_items" => subscriptions::change_item(state, None, params, false),
        "/v1/subscription_items/{id}" => subscriptions::change_item(state, Some(id), params, false),
        "/v1/subscription_schedules" => schedules::create(state, params),
        "/v1/subscription_schedules/{id}" => schedules::update(state, id, params),
        "/v1/subscription_schedules/{id}/release" => schedules::release(state, id),
        "/v1/subscription_schedules/{id}/cancel" => schedules::cancel(state, id, params),
        "/v1/invoices" => invoices::create(state, params),
        "/v1/invoices/{id}" => invoices::update(state, id, params),
        "/v1/invoices/create_preview" => preview::create(state, params),
        "/v1/invoices/{id}/finalize" => invoices::finalize(state, id, params),
        "/v1/invoices/{id}/pay" => invoices::pay(state, id, params),
        "/v1/invoices/{id}/void" => invoices::act(state, id, "void"),
        "/v1/invoices/{id}/send" => invoices::act(state, id, "send"),
        "/v1/invoices/{id}/mark_uncollectible" => invoices::act(state, id, "mark_uncollectible"),
        "/v1/invoiceitems" => invoice_items::create(state, params),
        "/v1/invoiceitems/{id}" => invoice_items::update(state, id, params),
        "/v1/refunds" => payments::refund(state, params),
        "/v1/refunds/{id}" => {
            state.find("refund", id, "id")?;
            state.update(id, "refund.updated", |refund| {
                crate::state::merge_metadata(refund, params);
            });
            Ok(view(state, id))
        }
        _ => Err(unknown("POST", pattern)),
    }
}
