//! `POST /v1/invoices/create_preview`: the invoice to come, made by the very code that will make it, on a copy.

use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::state::{State, each, flag, number, text};
use crate::views::view;

/// The invoice that would come.
pub(crate) fn create(state: &State, params: &Value) -> Answer {
    let mut copy = state.clone();
    if let Some(schedule) = params["schedule"].as_str() {
        let of = text(
            state.find("subscription_schedule", schedule, "schedule")?,
            "subscription",
        )
        .to_owned();
        return show(&mut copy, &of, params);
    }
    match params["subscription"].as_str() {
        Some(id) => show(&mut copy, id, params),
        None => new_subscription(&mut copy, params),
    }
}

fn new_subscription(copy: &mut State, params: &Value) -> Answer {
    let details = &params["subscription_details"];
    let customer = match params["customer"].as_str() {
        Some(customer) => customer.to_owned(),
        None => text(&crate::customers::create(copy, &json!({}))?, "id").to_owned(),
    };
    let mut wanted = json!({"customer": customer, "items": details["items"], "payment_behavior": "default_incomplete"});
    for key in ["trial_end", "proration_behavior", "billing_cycle_anchor"] {
        if let Some(value) = details.get(key) {
            wanted[key] = value.clone();
        }
    }
    if let Some(start) = details.get("start_date") {
        wanted["backdate_start_date"] = start.clone();
    }
    let sub = crate::subscriptions::create(copy, &wanted)?;
    finish(copy, text(&sub, "latest_invoice"))
}

fn show(copy: &mut State, id: &str, params: &Value) -> Answer {
    let sub = copy.find("subscription", id, "subscription")?.clone();
    if params["customer"]
        .as_str()
        .is_some_and(|customer| customer != text(&sub, "customer"))
    {
        return Err(ApiError::param(
            "customer",
            "The subscription belongs to another customer.",
        ));
    }
    if crate::views::ended(&sub) {
        return Err(
            ApiError::invalid("The subscription is canceled, it has no upcoming invoice.")
                .with("code", "invoice_upcoming_none"),
        );
    }
    copy.enter(text(&sub, "customer"));
    let details = &params["subscription_details"];
    if flag(details, "cancel_now") {
        crate::cancel::now(
            copy,
            id,
            &json!({"invoice_now": true, "prorate": text(details, "proration_behavior") != "none"}),
        )?;
        return latest(copy, id, &sub);
    }
    let mut update = json!({});
    for key in [
        "items",
        "billing_cycle_anchor",
        "proration_behavior",
        "proration_date",
        "trial_end",
        "cancel_at",
        "cancel_at_period_end",
    ] {
        if let Some(value) = details.get(key) {
            update[key] = value.clone();
        }
    }
    if update.as_object().is_some_and(|update| !update.is_empty()) {
        // Nothing is charged in a preview, whatever the card.
        update["payment_behavior"] = json!("default_incomplete");
        crate::subscriptions::update(copy, id, &update)?;
        if copy.get(id)["latest_invoice"] != sub["latest_invoice"] {
            return latest(copy, id, &sub);
        }
    }
    renewal(copy, id, &sub)
}

/// The invoice of the next renewal.
fn renewal(copy: &mut State, id: &str, earlier: &Value) -> Answer {
    let ends = each(copy.get(id), "_items")
        .iter()
        .map(|item| number(item, "current_period_end"));
    let at = ends.min().unwrap_or(copy.now);
    let stops = copy.get(id)["cancel_at"].as_i64().is_some_and(|end| end <= at);
    copy.now = at;
    crate::schedules::advance_for(copy, id, at);
    if stops {
        crate::cancel::at_end(copy, id, at);
    } else {
        crate::billing::renew(copy, id, at);
    }
    latest(copy, id, earlier)
}

fn latest(copy: &mut State, id: &str, earlier: &Value) -> Answer {
    let invoice = text(copy.get(id), "latest_invoice").to_owned();
    if invoice == text(earlier, "latest_invoice") {
        return Err(
            ApiError::invalid("No upcoming invoices for this subscription.").with("code", "invoice_upcoming_none")
        );
    }
    finish(copy, &invoice)
}

fn finish(copy: &mut State, invoice: &str) -> Answer {
    let mut shown = view(copy, invoice);
    shown["id"] = json!(invoice.replacen("in_", "upcoming_in_", 1));
    shown["status"] = json!("draft");
    for key in [
        "number",
        "hosted_invoice_url",
        "invoice_pdf",
        "effective_at",
        "ending_balance",
    ] {
        shown[key] = Value::Null;
    }
    let due = (number(&shown, "total") + number(&shown, "starting_balance")).max(0);
    shown["amount_paid"] = json!(0);
    shown["amount_due"] = json!(due);
    shown["amount_remaining"] = json!(due);
    Ok(shown)
}
