//! The end of a subscription.

use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::invoices::{Draft, draft, finalize_now};
use crate::state::{State, each, flag, merge_metadata, text};
use crate::views::view;

/// `DELETE /v1/subscriptions/{id}`: ends at once. Usage is billed only with `invoice_now`.
pub(crate) fn now(state: &mut State, id: &str, params: &Value) -> Answer {
    let found = state.find("subscription", id, "id")?.clone();
    if crate::views::ended(&found) {
        return Err(ApiError::missing("subscription", id, "id"));
    }
    state.enter(text(&found, "customer"));
    let at = state.now;
    if flag(params, "prorate") && text(&found, "status") != "trialing" {
        for item in each(&found, "_items") {
            crate::proration::credit(state, &found, item, at);
        }
    }
    let mut stretches = Vec::new();
    if flag(params, "invoice_now") && text(&found, "status") != "trialing" {
        for item in each(&found, "_items") {
            stretches.extend(crate::billing::stretches(&found, item, at));
        }
    }
    if let Some(details) = params.get("cancellation_details") {
        state.edit(id, |sub| {
            crate::state::assign(&mut sub["cancellation_details"], details, &["comment", "feedback"]);
            merge_metadata(sub, params);
        });
    }
    let invoice = flag(params, "invoice_now") && (!stretches.is_empty() || crate::invoice_items::waiting(state, id));
    if invoice {
        let made = bill(state, &found, "subscription_update", stretches);
        finalize_now(state, &made);
        if text(state.get(&made), "status") == "open" && text(&found, "collection_method") == "charge_automatically" {
            // The refusal is told by events; the cancellation stands.
            let _refused = crate::payments::collect(state, &made, None, false, false);
        }
    }
    finish(state, id, at, "cancellation_requested", Vec::new());
    Ok(view(state, id))
}

fn bill(state: &mut State, sub: &Value, reason: &str, stretches: Vec<Value>) -> String {
    let start = stretches
        .iter()
        .map(|stretch| crate::state::number(stretch, "from"))
        .min();
    let period = (start.unwrap_or(state.now), state.now);
    let (customer, subscription) = (text(sub, "customer"), text(sub, "id"));
    let made = draft(
        state,
        Draft {
            customer,
            subscription: Some(subscription),
            reason,
            lines: Vec::new(),
            stretches,
            period,
        },
    );
    state.edit(subscription, |sub| sub["latest_invoice"] = json!(made));
    made
}

/// Ends a subscription at its period's end: the last usage is on a final invoice, drafted for an hour as ever.
pub(crate) fn at_end(state: &mut State, id: &str, at: i64) {
    let sub = state.get(id).clone();
    let billed = each(&sub, "_items")
        .iter()
        .flat_map(|item| crate::billing::stretches(&sub, item, at));
    let stretches = if text(&sub, "status") == "trialing" {
        Vec::new()
    } else {
        billed.collect()
    };
    finish(state, id, at, "cancellation_requested", stretches);
}

/// Ends a subscription now, with a final invoice for `stretches` and pending items if there are any.
pub(crate) fn finish(state: &mut State, id: &str, at: i64, reason: &str, stretches: Vec<Value>) {
    let sub = state.get(id).clone();
    let held = text(&sub, "status") == "unpaid";
    if !stretches.is_empty()
        || (reason == "cancellation_requested"
            && crate::invoice_items::waiting(state, id)
            && flag(&sub, "cancel_at_period_end"))
    {
        let invoice = bill(state, &sub, "subscription_cycle", stretches);
        if held {
            state.edit(&invoice, |invoice| invoice["auto_advance"] = json!(false));
        }
    }
    for open in state.ids("invoice", |invoice| {
        crate::invoices::subscription(invoice) == id && text(invoice, "status") == "open"
    }) {
        state.update(&open, "invoice.updated", |invoice| {
            invoice["auto_advance"] = json!(false);
            invoice["next_payment_attempt"] = Value::Null;
        });
    }
    let schedule = text(&sub, "schedule").to_owned();
    state.edit(id, |sub| {
        sub["status"] = json!("canceled");
        sub["ended_at"] = json!(at);
        if sub["canceled_at"].is_null() {
            sub["canceled_at"] = json!(at);
        }
        sub["cancellation_details"]["reason"] = json!(reason);
        sub["pending_update"] = Value::Null;
        sub["schedule"] = Value::Null;
    });
    if !schedule.is_empty() {
        state.update(&schedule, "subscription_schedule.canceled", |schedule| {
            schedule["status"] = json!("canceled");
            schedule["canceled_at"] = json!(at);
            schedule["current_phase"] = Value::Null;
        });
    }
    state.emit("customer.subscription.deleted", id);
}
