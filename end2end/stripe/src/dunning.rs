//! What a paid or failed invoice does to its subscription: activation, grace, retries, the end of them.

use serde_json::{Value, json};

use crate::settings::AfterRetries;
use crate::state::{State, number, text};

/// Days between a failed attempt and the next one.
const RETRY_DAYS: [i64; 4] = [1, 3, 5, 7];

/// An invoice was paid.
pub(crate) fn paid(state: &mut State, invoice: &str) {
    let customer = text(state.get(invoice), "customer").to_owned();
    state.edit(&customer, |customer| customer["delinquent"] = json!(false));
    let subscription = crate::invoices::subscription(state.get(invoice)).to_owned();
    if subscription.is_empty() {
        return;
    }
    crate::pending::apply(state, &subscription, invoice);
    let open = state.of_kind("invoice").any(|other| {
        crate::invoices::subscription(other) == subscription
            && text(other, "status") == "open"
            && other["_applies"].is_null()
    });
    let latest = state.get(&subscription)["latest_invoice"] == *invoice;
    let status = text(state.get(&subscription), "status");
    let restored = matches!(status, "past_due" | "unpaid") && (!open || latest);
    if status == "incomplete" || restored {
        state.update(&subscription, "customer.subscription.updated", |subscription| {
            subscription["status"] = json!("active");
            subscription["_incomplete_until"] = Value::Null;
        });
    }
}

/// A payment failed, or wants the cardholder. `asked` attempts do not move the schedule of retries.
pub(crate) fn failed(state: &mut State, invoice: &str, action: bool, asked: bool) {
    let customer = text(state.get(invoice), "customer").to_owned();
    let first = text(state.get(invoice), "billing_reason") == "subscription_create";
    let subscription = crate::invoices::subscription(state.get(invoice)).to_owned();
    let attempts = usize::try_from(number(state.get(invoice), "attempt_count")).unwrap_or(0);
    let waits = !state.get(invoice)["_applies"].is_null() || first;
    let next = if waits {
        None
    } else {
        RETRY_DAYS.get(attempts.saturating_sub(1))
    };
    let (now, keep) = (state.now, asked && attempts > 1);
    let before = crate::views::view(state, invoice);
    state.edit(invoice, |invoice| {
        if !keep {
            invoice["next_payment_attempt"] = next.map_or(Value::Null, |days| json!(now + days * 86_400));
        }
    });
    state.announce(invoice, "invoice.updated", &before);
    state.emit("invoice.payment_failed", invoice);
    if action {
        state.emit("invoice.payment_action_required", invoice);
    }
    state.edit(&customer, |customer| customer["delinquent"] = json!(true));
    if waits || subscription.is_empty() {
        return;
    }
    if text(state.get(&subscription), "status") == "active" {
        state.update(&subscription, "customer.subscription.updated", |subscription| {
            subscription["status"] = json!("past_due");
        });
    }
    if next.is_none() && !keep {
        give_up(state, &subscription);
    }
}

fn give_up(state: &mut State, subscription: &str) {
    match state.settings.after_retries {
        AfterRetries::PastDue => {}
        AfterRetries::Unpaid => {
            state.update(subscription, "customer.subscription.updated", |subscription| {
                subscription["status"] = json!("unpaid");
            });
        }
        AfterRetries::Canceled => crate::cancel::finish(state, subscription, state.now, "payment_failed", Vec::new()),
    }
}

/// A first payment that never came: 23 hours later the subscription expires and its invoice is voided.
pub(crate) fn expire(state: &mut State, subscription: &str) {
    let invoice = text(state.get(subscription), "latest_invoice").to_owned();
    if text(state.get(&invoice), "status") == "open" {
        crate::invoices::close(state, &invoice, "void", "invoice.voided");
    }
    let now = state.now;
    state.update(subscription, "customer.subscription.updated", |subscription| {
        subscription["status"] = json!("incomplete_expired");
        subscription["ended_at"] = json!(now);
        subscription["canceled_at"] = json!(now);
        subscription["_incomplete_until"] = Value::Null;
    });
}
