//! Invoices: drafted, finalized an hour later, open, paid or void.

use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::money;
use crate::state::{State, assign, each, flag, list, merge_metadata, number, text};
use crate::views::view;

/// Stripe leaves a renewal's draft open for an hour, so that the last usage arrives.
pub(crate) const DRAFT_SECONDS: i64 = 3600;
/// The longest that an unanswered `invoice.created` holds a draft back.
pub(crate) const HELD_SECONDS: i64 = 72 * 3600;

/// What a new invoice bills.
pub(crate) struct Draft<'a> {
    pub(crate) customer: &'a str,
    pub(crate) subscription: Option<&'a str>,
    pub(crate) reason: &'a str,
    pub(crate) lines: Vec<Value>,
    /// Metered stretches, whose lines are made again until the invoice is finalized.
    pub(crate) stretches: Vec<Value>,
    pub(crate) period: (i64, i64),
}

/// Drafts an invoice, takes the pending items in, and announces it. Gives its id.
pub(crate) fn draft(state: &mut State, of: Draft<'_>) -> String {
    let id = state.new_id("in");
    let sub = of.subscription.map_or(Value::Null, |id| state.get(id).clone());
    let customer = state.get(of.customer).clone();
    let currency = match (
        sub["currency"].as_str(),
        of.lines.first(),
        customer["currency"].as_str(),
    ) {
        (Some(known), ..) | (None, _, Some(known)) => known.to_owned(),
        (None, Some(line), None) => text(line, "currency").to_owned(),
        _ => "usd".to_owned(),
    };
    let mut invoice = blank(state, &id, &customer, &currency);
    invoice["billing_reason"] = json!(of.reason);
    invoice["period_start"] = json!(of.period.0);
    invoice["period_end"] = json!(of.period.1);
    invoice["_metered"] = json!(of.stretches);
    if of.subscription.is_some() {
        invoice["parent"] = json!({
            "type": "subscription_details", "quote_details": null,
            "subscription_details": {"metadata": sub["metadata"], "subscription": sub["id"], "subscription_proration_date": null},
        });
        invoice["collection_method"] = sub["collection_method"].clone();
        invoice["default_payment_method"] = Value::Null;
        invoice["_days"] = sub["days_until_due"].clone();
        invoice["automatically_finalizes_at"] = json!(state.now + DRAFT_SECONDS);
        invoice["auto_advance"] = json!(true);
    }
    let lines = of.lines.into_iter().map(|mut line| {
        line["invoice"] = json!(id);
        line
    });
    invoice["lines"]["data"] = lines.collect();
    state.put(invoice);
    crate::invoice_items::take_in(state, &id, of.customer, of.subscription, of.reason);
    refresh_usage(state, &id);
    state.emit("invoice.created", &id);
    let event = state.of_kind("event").next_back().map(|event| event["id"].clone());
    state.edit(&id, |invoice| invoice["_created_event"] = event.unwrap_or_default());
    id
}

fn blank(state: &State, id: &str, customer: &Value, currency: &str) -> Value {
    json!({
        "id": id, "object": "invoice", "account_country": "US", "account_name": "Stripe emulator", "account_tax_ids": null,
        "amount_due": 0, "amount_overpaid": 0, "amount_paid": 0, "amount_remaining": 0, "amount_shipping": 0, "application": null,
        "attempt_count": 0, "attempted": false, "auto_advance": false,
        "automatic_tax": {"disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null},
        "automatically_finalizes_at": null, "billing_reason": "manual", "collection_method": "charge_automatically",
        "created": state.now, "currency": currency, "custom_fields": null, "customer": customer["id"],
        "customer_address": customer["address"], "customer_email": customer["email"], "customer_name": customer["name"],
        "customer_phone": customer["phone"], "customer_shipping": null, "customer_tax_exempt": customer["tax_exempt"],
        "customer_tax_ids": [], "default_payment_method": null, "default_source": null, "default_tax_rates": [], "description": null,
        "discounts": [], "due_date": null, "effective_at": null, "ending_balance": null,
        "footer": customer["invoice_settings"]["footer"], "from_invoice": null, "hosted_invoice_url": null, "invoice_pdf": null,
        "issuer": {"type": "self"}, "last_finalization_error": null, "latest_revision": null,
        "lines": list(&format!("/v1/invoices/{id}/lines"), Vec::new(), false), "livemode": false, "metadata": {},
        "next_payment_attempt": null, "number": null, "on_behalf_of": null, "parent": null,
        "payment_settings": {"default_mandate": null, "payment_method_options": null, "payment_method_types": null},
        "period_start": state.now, "period_end": state.now, "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0, "receipt_number": null, "rendering": null, "shipping_cost": null,
        "shipping_details": null, "starting_balance": 0, "statement_descriptor": null, "status": "draft",
        "status_transitions": {"finalized_at": null, "marked_uncollectible_at": null, "paid_at": null, "voided_at": null},
        "subtotal": 0, "subtotal_excluding_tax": 0, "test_clock": customer["test_clock"], "total": 0, "total_discount_amounts": [],
        "total_excluding_tax": 0, "total_pretax_credit_amounts": [], "total_taxes": [], "webhooks_delivered_at": null,
    })
}

/// Adds the lines up. A draft counts the customer's balance as it is now.
pub(crate) fn retotal(state: &mut State, id: &str) {
    let customer = text(state.get(id), "customer").to_owned();
    let balance = number(state.get(&customer), "balance");
    state.edit(id, |invoice| {
        let total: i64 = each(&invoice["lines"], "data")
            .iter()
            .map(|line| number(line, "amount"))
            .sum();
        for key in ["subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax"] {
            invoice[key] = json!(total);
        }
        let due = (total + balance).max(0);
        invoice["starting_balance"] = json!(balance);
        invoice["amount_due"] = json!(due);
        invoice["amount_remaining"] = json!(due);
        invoice["lines"]["total_count"] = json!(each(&invoice["lines"], "data").len());
    });
}

/// Makes the lines of the metered stretches again at the usage known now.
pub(crate) fn refresh_usage(state: &mut State, id: &str) {
    let invoice = state.get(id);
    let customer = text(invoice, "customer").to_owned();
    let stretches = each(invoice, "_metered").to_vec();
    let mut lines: Vec<Value> = each(&invoice["lines"], "data")
        .iter()
        .filter(|line| !flag(line, "_usage"))
        .cloned()
        .collect();
    for stretch in &stretches {
        lines.extend(crate::billing::usage_lines(state, &customer, stretch));
    }
    for line in &mut lines {
        line["invoice"] = json!(id);
    }
    state.edit(id, |invoice| invoice["lines"]["data"] = json!(lines));
    retotal(state, id);
}

/// Turns a draft into an open invoice, or a paid one when nothing is due.
pub(crate) fn finalize_now(state: &mut State, id: &str) {
    refresh_usage(state, id);
    let customer = text(state.get(id), "customer").to_owned();
    let before = view(state, id);
    let sequence = number(state.get(&customer), "next_invoice_sequence");
    let prefix = text(state.get(&customer), "invoice_prefix").to_owned();
    let due = settle_balance(state, id, &customer);
    let (now, base) = (state.now, state.base_url.clone());
    state.edit(&customer, |customer| {
        customer["next_invoice_sequence"] = json!(sequence + 1);
    });
    state.edit(id, |invoice| {
        invoice["status"] = json!("open");
        invoice["number"] = json!(format!("{prefix}-{sequence:04}"));
        invoice["hosted_invoice_url"] = json!(format!("{base}/i/{id}"));
        invoice["invoice_pdf"] = json!(format!("{base}/i/{id}/pdf"));
        invoice["automatically_finalizes_at"] = Value::Null;
        invoice["effective_at"] = json!(now);
        invoice["status_transitions"]["finalized_at"] = json!(now);
        if text(invoice, "collection_method") == "send_invoice" {
            invoice["due_date"] = json!(now + number(invoice, "_days") * 86_400);
        }
    });
    if due > 0 {
        crate::payments::intend(state, id, due);
    }
    state.announce(id, "invoice.finalized", &before);
    if due == 0 {
        mark_paid(state, id, 0);
    }
}

/// Applies the customer's balance, carries what is negative or below the smallest charge to it, and gives what is due.
fn settle_balance(state: &mut State, id: &str, customer: &str) -> i64 {
    let invoice = state.get(id);
    let (total, balance) = (number(invoice, "total"), number(state.get(customer), "balance"));
    let owed = total + balance;
    let small = owed > 0 && owed < money::smallest_charge(text(invoice, "currency"));
    let (due, ending) = if owed > 0 && !small { (owed, 0) } else { (0, owed) };
    state.edit(id, |invoice| {
        invoice["starting_balance"] = json!(balance);
        invoice["ending_balance"] = json!(ending);
        invoice["amount_due"] = json!(due);
        invoice["amount_remaining"] = json!(due);
    });
    if ending != balance {
        state.update(customer, "customer.updated", |customer| {
            customer["balance"] = json!(ending);
        });
    }
    due
}

/// Marks an invoice paid with the amount that came, and tells the subscription.
pub(crate) fn mark_paid(state: &mut State, id: &str, amount: i64) {
    let now = state.now;
    let before = view(state, id);
    state.edit(id, |invoice| {
        invoice["status"] = json!("paid");
        invoice["amount_paid"] = json!(amount);
        invoice["amount_remaining"] = json!(0);
        invoice["auto_advance"] = json!(false);
        invoice["attempted"] = json!(true);
        invoice["next_payment_attempt"] = Value::Null;
        invoice["status_transitions"]["paid_at"] = json!(now);
    });
    state.announce(id, "invoice.paid", &before);
    state.announce(id, "invoice.payment_succeeded", &before);
    crate::dunning::paid(state, id);
}

/// Closes an open invoice as `void` or `uncollectible`.
pub(crate) fn close(state: &mut State, id: &str, status: &str, event: &str) {
    let now = state.now;
    state.update(id, event, |invoice| {
        invoice["status"] = json!(status);
        invoice["auto_advance"] = json!(false);
        invoice["next_payment_attempt"] = Value::Null;
        let mark = if status == "void" {
            "voided_at"
        } else {
            "marked_uncollectible_at"
        };
        invoice["status_transitions"][mark] = json!(now);
        if status == "void" {
            invoice["amount_remaining"] = json!(0);
        }
    });
    crate::payments::cancel_intent(state, id);
}

fn editable(state: &mut State, id: &str, wanted: &[&str]) -> Result<(), ApiError> {
    let invoice = state.find("invoice", id, "id")?;
    let customer = text(invoice, "customer").to_owned();
    if !wanted.contains(&text(invoice, "status")) {
        let message = format!(
            "This action needs an invoice that is {}; this one is {}.",
            wanted.join(" or "),
            text(invoice, "status")
        );
        return Err(ApiError::invalid(&message).with("code", "invoice_not_editable"));
    }
    state.enter(&customer);
    Ok(())
}

const TEXTS: [&str; 7] = [
    "auto_advance",
    "automatically_finalizes_at",
    "collection_method",
    "default_payment_method",
    "description",
    "due_date",
    "footer",
];

/// `POST /v1/invoices`: a one-off invoice, or one for a subscription's pending items.
pub(crate) fn create(state: &mut State, params: &Value) -> Answer {
    let named = text(state.get(text(params, "subscription")), "customer").to_owned();
    let customer = params["customer"].as_str().unwrap_or(&named).to_owned();
    crate::customers::present(state, &customer, "customer")?;
    state.enter(&customer);
    let subscription = params["subscription"].as_str();
    let pending = params["pending_invoice_items_behavior"].as_str() == Some("include") || subscription.is_some();
    let period = (state.now, state.now);
    let reason = if pending { "manual" } else { "empty" };
    let id = draft(
        state,
        Draft {
            customer: &customer,
            subscription,
            reason,
            lines: Vec::new(),
            stretches: Vec::new(),
            period,
        },
    );
    let now = state.now;
    state.edit(&id, |invoice| {
        invoice["billing_reason"] = json!("manual");
        invoice["auto_advance"] = json!(false);
        invoice["automatically_finalizes_at"] = Value::Null;
        if let Some(currency) = params["currency"].as_str() {
            invoice["currency"] = json!(currency);
        }
        invoice["_days"] = params["days_until_due"].clone();
        assign(invoice, params, &TEXTS);
        if flag(invoice, "auto_advance") && invoice["automatically_finalizes_at"].is_null() {
            invoice["automatically_finalizes_at"] = json!(now + DRAFT_SECONDS);
        }
        merge_metadata(invoice, params);
    });
    Ok(view(state, &id))
}

/// `POST /v1/invoices/{id}`.
pub(crate) fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    let touched = TEXTS.iter().any(|key| params.get(*key).is_some());
    editable(
        state,
        id,
        if touched {
            &["draft"]
        } else {
            &["draft", "open", "paid", "uncollectible"]
        },
    )?;
    let now = state.now;
    state.update(id, "invoice.updated", |invoice| {
        assign(invoice, params, &TEXTS);
        if params["auto_advance"] == true && invoice["automatically_finalizes_at"].is_null() {
            invoice["automatically_finalizes_at"] = json!(now + DRAFT_SECONDS);
        }
        merge_metadata(invoice, params);
    });
    Ok(view(state, id))
}

/// `DELETE /v1/invoices/{id}`: one-off drafts only.
pub(crate) fn delete(state: &mut State, id: &str) -> Answer {
    editable(state, id, &["draft"])?;
    if state.get(id)["parent"].is_object() {
        return Err(ApiError::invalid("You can only delete one-off draft invoices."));
    }
    let last = view(state, id);
    crate::invoice_items::release(state, id);
    state.forget(id);
    crate::events::emit(state, "invoice.deleted", last, None);
    Ok(json!({"id": id, "object": "invoice", "deleted": true}))
}

/// `POST /v1/invoices/{id}/finalize`.
pub(crate) fn finalize(state: &mut State, id: &str, params: &Value) -> Answer {
    editable(state, id, &["draft"])?;
    if let Some(advance) = params["auto_advance"].as_bool() {
        state.edit(id, |invoice| invoice["auto_advance"] = json!(advance));
    }
    finalize_now(state, id);
    let invoice = state.get(id);
    if flag(invoice, "auto_advance")
        && text(invoice, "collection_method") == "charge_automatically"
        && text(invoice, "status") == "open"
    {
        // Stripe tries to collect within the next minutes, not in this call.
        let soon = state.now + 60;
        state.edit(id, |invoice| invoice["next_payment_attempt"] = json!(soon));
    }
    Ok(view(state, id))
}

/// `POST /v1/invoices/{id}/pay`.
pub(crate) fn pay(state: &mut State, id: &str, params: &Value) -> Answer {
    editable(state, id, &["draft", "open", "uncollectible"])?;
    if text(state.get(id), "status") == "draft" {
        finalize_now(state, id);
    }
    let due = number(state.get(id), "amount_remaining");
    if flag(params, "paid_out_of_band") {
        mark_paid(state, id, due);
    } else if text(state.get(id), "status") != "paid" {
        crate::payments::collect(state, id, params["payment_method"].as_str(), false, true)?;
    }
    Ok(view(state, id))
}

/// `POST /v1/invoices/{id}/void`, `/mark_uncollectible` and `/send`.
pub(crate) fn act(state: &mut State, id: &str, action: &str) -> Answer {
    match action {
        "send" => {
            editable(state, id, &["draft", "open"])?;
            if text(state.get(id), "status") == "draft" {
                finalize_now(state, id);
            }
            state.emit("invoice.sent", id);
        }
        "void" => {
            editable(state, id, &["open", "uncollectible"])?;
            close(state, id, "void", "invoice.voided");
        }
        _ => {
            editable(state, id, &["open"])?;
            close(state, id, "uncollectible", "invoice.marked_uncollectible");
        }
    }
    Ok(view(state, id))
}

/// `GET /v1/invoices/{id}/lines`.
pub(crate) fn lines(state: &State, id: &str, params: &Value) -> Answer {
    state.find("invoice", id, "id")?;
    let all = view(state, id);
    let lines = each(&all["lines"], "data");
    let ids: Vec<&str> = lines.iter().map(|line| text(line, "id")).collect();
    let (chosen, has_more) = crate::state::slice(&ids, params)?;
    let data = lines
        .iter()
        .filter(|line| chosen.contains(&text(line, "id")))
        .cloned()
        .collect();
    Ok(list(&format!("/v1/invoices/{id}/lines"), data, has_more))
}

/// The subscription that an invoice is for, or nothing.
pub(crate) fn subscription(invoice: &Value) -> &str {
    text(&invoice["parent"]["subscription_details"], "subscription")
}

/// `GET /v1/invoices`.
pub(crate) fn page(state: &State, params: &Value) -> Answer {
    state.page("/v1/invoices", params, "invoice", |invoice| {
        let same = |key: &str| params[key].as_str().is_none_or(|wanted| invoice[key] == wanted);
        ["collection_method", "customer", "status"].into_iter().all(same)
            && params["subscription"]
                .as_str()
                .is_none_or(|wanted| subscription(invoice) == wanted)
            && crate::state::in_range(invoice, params, "due_date")
    })
}
