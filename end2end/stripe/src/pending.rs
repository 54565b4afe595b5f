//! An update that waits for its payment: `payment_behavior` and `pending_update`.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::{State, number, text};

/// A pending update waits for its payment so long.
const WAIT_SECONDS: i64 = 23 * 3600;

/// Collects the invoice of an update. `earlier` is the subscription before it; an error means that nothing is to change.
pub(crate) fn collect(
    state: &mut State,
    id: &str,
    invoice: &str,
    earlier: &Value,
    behavior: &str,
) -> Result<(), ApiError> {
    if behavior == "default_incomplete" {
        state.edit(id, |sub| {
            if sub["status"] == "active" {
                sub["status"] = json!("past_due");
            }
        });
        return Ok(());
    }
    let until = state.now + WAIT_SECONDS;
    if behavior == "pending_if_incomplete" {
        let changed = state.get(id).clone();
        let items = crate::views::view(state, id)["items"]["data"].clone();
        state.edit(invoice, |invoice| invoice["_applies"] = changed);
        let mut waiting = earlier.clone();
        waiting["latest_invoice"] = json!(invoice);
        waiting["pending_update"] = json!({
            "billing_cycle_anchor": null, "cancel_at_period_end": null, "discount": null, "discounts": null, "expires_at": until,
            "metadata": null, "subscription_items": items, "trial_end": null, "trial_from_plan": null,
        });
        state.put(waiting);
    }
    match crate::payments::collect(state, invoice, None, false, false) {
        Err(refusal) if behavior == "error_if_incomplete" => Err(refusal),
        Err(_) if behavior == "pending_if_incomplete" => {
            state.edit(invoice, |invoice| invoice["_waited"] = json!(true));
            Ok(())
        }
        // Told by events, and by the subscription's status or pending update.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Applies the update that waited for this invoice.
pub(crate) fn apply(state: &mut State, id: &str, invoice: &str) {
    let changed = state.get(invoice)["_applies"].clone();
    if changed.is_null() {
        return;
    }
    state.edit(invoice, |invoice| invoice["_applies"] = Value::Null);
    let before = crate::views::view(state, id);
    let had = state.get(invoice)["_waited"] == true;
    state.edit(id, |sub| {
        for key in ["_items", "billing_cycle_anchor", "trial_end", "status"] {
            sub[key] = changed[key].clone();
        }
        sub["pending_update"] = Value::Null;
    });
    if had {
        state.announce(id, "customer.subscription.updated", &before);
        state.emit("customer.subscription.pending_update_applied", id);
    }
}

/// Drops a pending update that nobody paid for in time, and voids its invoice.
pub(crate) fn expire(state: &mut State, id: &str) {
    let waiting = state.ids("invoice", |invoice| {
        crate::invoices::subscription(invoice) == id
            && !invoice["_applies"].is_null()
            && text(invoice, "status") == "open"
    });
    for invoice in waiting {
        state.edit(&invoice, |invoice| invoice["_applies"] = Value::Null);
        crate::invoices::close(state, &invoice, "void", "invoice.voided");
    }
    let before = crate::views::view(state, id);
    state.edit(id, |sub| sub["pending_update"] = Value::Null);
    state.announce(id, "customer.subscription.updated", &before);
    state.emit("customer.subscription.pending_update_expired", id);
}

/// When a pending update expires, or never.
pub(crate) fn expiry(sub: &Value) -> Option<i64> {
    sub["pending_update"]
        .is_object()
        .then(|| number(&sub["pending_update"], "expires_at"))
}
