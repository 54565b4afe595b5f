//! Subscriptions: made, changed, listed. All are of the flexible billing mode.

use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::invoices::{Draft, draft, finalize_now};
use crate::prices::{interval, wanted};
use crate::rating::total;
use crate::state::{State, assign, each, flag, in_range, merge_metadata, number, or_null, text};
use crate::views::{ended, view};

/// A first payment may take so long.
const INCOMPLETE_SECONDS: i64 = 23 * 3600;
/// Stripe's largest subscription.
const MOST_ITEMS: usize = 20;

/// The dates of a new subscription.
struct Dates {
    start: i64,
    anchor: i64,
    trial_end: Option<i64>,
}

/// `POST /v1/subscriptions`.
pub(crate) fn create(state: &mut State, params: &Value) -> Answer {
    let customer = text(params, "customer").to_owned();
    crate::customers::present(state, &customer, "customer")?;
    state.enter(&customer);
    let behavior = params["payment_behavior"].as_str().unwrap_or("allow_incomplete");
    if behavior == "pending_if_incomplete" {
        let message = "`payment_behavior=pending_if_incomplete` can only be used to update a subscription.";
        return Err(ApiError::param("payment_behavior", message));
    }
    let prices = prices(state, &customer, params)?;
    let dates = dates(state, params)?;
    let backup = state.clone();
    let id = build(state, &customer, params, &prices, &dates)?;
    let method = method_of(state, params, &customer)?;
    state.emit("customer.subscription.created", &id);
    let first = first_invoice(state, &id, params, &dates);
    let due = number(state.get(&first), "amount_due");
    if method.is_none()
        && due > 0
        && behavior != "default_incomplete"
        && text(params, "collection_method") != "send_invoice"
    {
        state.restore(backup);
        let message = "This customer has no attached payment source or default payment method. Please consider adding a default payment method.";
        return Err(ApiError::invalid(message).with("code", "resource_missing"));
    }
    if let Err(refusal) = start(state, &id, &first, behavior)
        && behavior == "error_if_incomplete"
    {
        state.restore(backup);
        return Err(refusal);
    }
    Ok(view(state, &id))
}

fn method_of(state: &State, params: &Value, customer: &str) -> Result<Option<String>, ApiError> {
    if let Some(method) = params["default_payment_method"].as_str() {
        let found = state.find("payment_method", method, "default_payment_method")?;
        if text(found, "customer") != customer {
            let message = format!("The customer does not have a payment method with the ID {method}.");
            return Err(ApiError::param("default_payment_method", &message));
        }
        return Ok(Some(method.to_owned()));
    }
    Ok(state.get(customer)["invoice_settings"]["default_payment_method"]
        .as_str()
        .map(str::to_owned))
}

fn prices(state: &mut State, customer: &str, params: &Value) -> Result<Vec<String>, ApiError> {
    let asked = each(params, "items");
    if asked.is_empty() || asked.len() > MOST_ITEMS {
        let message = format!("A subscription has 1 to {MOST_ITEMS} items.");
        return Err(ApiError::coded("parameter_missing", "items", &message));
    }
    let mut found: Vec<String> = Vec::new();
    let mut currency = state.get(customer)["currency"].as_str().map(str::to_owned);
    for (index, item) in asked.iter().enumerate() {
        let path = format!("items[{index}]");
        let Some(price) = wanted(state, item, &path)? else {
            return Err(ApiError::coded(
                "parameter_missing",
                &format!("{path}[price]"),
                "Each item needs a price.",
            ));
        };
        if found.contains(&price) {
            let message = "You cannot add multiple subscription items with the same price.";
            return Err(ApiError::param(&format!("{path}[price]"), message));
        }
        let of = state.get(&price);
        if !flag(of, "active") {
            let message = format!("The price specified is inactive. This field only accepts active prices: {price}");
            return Err(ApiError::param(&format!("{path}[price]"), &message));
        }
        let its = text(of, "currency").to_owned();
        if currency.get_or_insert_with(|| its.clone()) != &its {
            let message = format!(
                "You cannot combine currencies on a single customer. This customer has had objects in another currency than {its}."
            );
            return Err(ApiError::param("customer", &message));
        }
        found.push(price);
    }
    Ok(found)
}

fn dates(state: &State, params: &Value) -> Result<Dates, ApiError> {
    let now = state.now;
    let trial_end = match (params["trial_end"].as_i64(), params["trial_period_days"].as_i64()) {
        (Some(_), Some(_)) => {
            return Err(ApiError::param(
                "trial_end",
                "You may only specify one of these parameters: trial_end, trial_period_days.",
            ));
        }
        (Some(end), None) if end <= now => {
            return Err(ApiError::param("trial_end", "The trial end must be in the future."));
        }
        (Some(end), None) => Some(end),
        (None, Some(days)) if days < 1 => {
            return Err(ApiError::param(
                "trial_period_days",
                "The trial must last at least a day.",
            ));
        }
        (None, days) => days.map(|days| now + days * 86_400),
    };
    let start = params["backdate_start_date"].as_i64().unwrap_or(now);
    if start > now {
        return Err(ApiError::param(
            "backdate_start_date",
            "The start date cannot be in the future.",
        ));
    }
    let anchor = params["billing_cycle_anchor"].as_i64();
    if anchor.is_some_and(|anchor| anchor < now) {
        return Err(ApiError::param(
            "billing_cycle_anchor",
            "The billing cycle anchor cannot be in the past.",
        ));
    }
    Ok(Dates {
        start,
        anchor: anchor.or(trial_end).unwrap_or(now),
        trial_end,
    })
}

fn build(
    state: &mut State,
    customer: &str,
    params: &Value,
    prices: &[String],
    dates: &Dates,
) -> Result<String, ApiError> {
    let id = state.new_id("sub");
    let currency = state.get(prices.first().map_or("", String::as_str))["currency"].clone();
    let trial = dates.trial_end;
    let mut sub = json!({
        "id": id, "object": "subscription", "application": null, "application_fee_percent": null,
        "automatic_tax": {"disabled_reason": null, "enabled": false, "liability": null}, "billing_cycle_anchor": dates.anchor,
        "billing_cycle_anchor_config": null, "billing_mode": {"type": "flexible", "flexible": {"proration_discounts": "included"}, "updated_at": state.now},
        "billing_schedules": [], "billing_thresholds": null, "cancel_at": null, "cancel_at_period_end": false, "canceled_at": null,
        "cancellation_details": {"comment": null, "feedback": null, "reason": null}, "collection_method": "charge_automatically",
        "created": state.now, "currency": currency, "customer": customer, "days_until_due": null, "default_payment_method": null,
        "default_source": null, "default_tax_rates": [], "description": null, "discounts": [], "ended_at": null,
        "invoice_settings": {"account_tax_ids": null, "issuer": {"type": "self"}}, "latest_invoice": null, "livemode": false, "metadata": {},
        "next_pending_invoice_item_invoice": null, "on_behalf_of": null, "pause_collection": null,
        "payment_settings": {"payment_method_options": null, "payment_method_types": null, "save_default_payment_method": "off"},
        "pending_invoice_item_interval": null, "pending_setup_intent": null, "pending_update": null, "schedule": null,
        "start_date": dates.start, "status": if trial.is_some() { "trialing" } else { "incomplete" },
        "test_clock": state.get(customer)["test_clock"], "transfer_data": null, "trial_end": trial,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": trial.map(|_| state.now), "_items": [],
    });
    assign(
        &mut sub,
        params,
        &[
            "cancel_at_period_end",
            "collection_method",
            "days_until_due",
            "default_payment_method",
            "description",
            "trial_settings",
        ],
    );
    settings(&mut sub, params);
    merge_metadata(&mut sub, params);
    state.put(sub.clone());
    let mut items = Vec::new();
    for (price, asked) in prices.iter().zip(each(params, "items")) {
        let mut item = crate::proration::new_item(state, &sub, price, asked, state.now)?;
        item["_from"] = json!(dates.start);
        if dates.anchor > state.now || trial.is_some() {
            item["current_period_start"] = json!(dates.start);
            item["current_period_end"] = json!(trial.unwrap_or(i64::MAX).min(number(&item, "current_period_end")));
        }
        items.push(item);
    }
    state.edit(&id, |sub| sub["_items"] = json!(items));
    cancel_dates(state, &id, params)?;
    state.edit(customer, |customer| customer["currency"] = currency);
    Ok(id)
}

fn settings(sub: &mut Value, params: &Value) {
    if let Some(settings) = params.get("payment_settings") {
        assign(
            &mut sub["payment_settings"],
            settings,
            &["payment_method_types", "save_default_payment_method"],
        );
    }
}

/// Sets `cancel_at` and `cancel_at_period_end`, which follow each other.
fn cancel_dates(state: &mut State, id: &str, params: &Value) -> Result<(), ApiError> {
    let (now, sub) = (state.now, state.get(id).clone());
    let end = each(&sub, "_items")
        .iter()
        .map(|item| number(item, "current_period_end"))
        .max()
        .unwrap_or(now);
    let at_end = match params["cancel_at_period_end"].as_bool() {
        Some(at_end) => at_end,
        None if params.get("cancel_at").is_some() => {
            params["cancel_at"].as_i64().is_none() && params["cancel_at"].is_string()
        }
        None => return Ok(()),
    };
    let exact = params["cancel_at"].as_i64();
    if exact.is_some_and(|at| at <= now) {
        return Err(ApiError::param("cancel_at", "`cancel_at` must be in the future."));
    }
    let when = exact.or(at_end.then_some(end));
    state.edit(id, |sub| {
        sub["cancel_at_period_end"] = json!(at_end);
        sub["cancel_at"] = json!(when);
        sub["canceled_at"] = when.map_or(Value::Null, |_| json!(now));
        sub["cancellation_details"]["reason"] = when.map_or(Value::Null, |_| json!("cancellation_requested"));
    });
    Ok(())
}

/// The invoice that a new subscription begins with; licensed items are on it in advance.
fn first_invoice(state: &mut State, id: &str, params: &Value, dates: &Dates) -> String {
    let sub = state.get(id).clone();
    let free = text(params, "proration_behavior") == "none";
    let now = state.now;
    let mut lines = Vec::new();
    let mut items = each(&sub, "_items").to_vec();
    for item in items.iter_mut().filter(|item| !flag(item, "_metered")) {
        let price = state.get(text(item, "price")).clone();
        let end = number(item, "current_period_end");
        let whole = interval(&price).period(dates.anchor, now);
        if dates.trial_end.is_some() {
            lines.push(crate::billing::trial_line(state, &sub, item, (now, end)));
            continue;
        }
        if dates.start < now && !free {
            lines.extend(crate::billing::advance_lines(
                state,
                &sub,
                item,
                (dates.start, now),
                whole,
            ));
        }
        if dates.anchor > now && free {
            continue;
        }
        let made = crate::billing::advance_lines(state, &sub, item, (now, end), whole);
        lines.extend(made);
        let full = total(&price, number(item, "quantity"));
        item["_debit"] =
            json!({"amount": crate::money::share(full, end - now, whole.1 - whole.0), "start": now, "end": end});
    }
    state.edit(id, |sub| sub["_items"] = json!(items));
    let customer = text(&sub, "customer").to_owned();
    let of = Draft {
        customer: &customer,
        subscription: Some(id),
        reason: "subscription_create",
        lines,
        stretches: Vec::new(),
        period: (now, now),
    };
    let invoice = draft(state, of);
    state.edit(id, |sub| sub["latest_invoice"] = json!(invoice));
    invoice
}

/// Finalizes the first invoice and collects it as the payment behavior says.
fn start(state: &mut State, id: &str, invoice: &str, behavior: &str) -> Result<(), ApiError> {
    if text(state.get(id), "collection_method") == "send_invoice" {
        if text(state.get(id), "status") == "incomplete" {
            state.update(id, "customer.subscription.updated", |sub| {
                sub["status"] = json!("active");
            });
        }
        return Ok(());
    }
    let until = state.now + INCOMPLETE_SECONDS;
    state.edit(id, |sub| sub["_incomplete_until"] = json!(until));
    finalize_now(state, invoice);
    if text(state.get(invoice), "status") == "paid" || behavior == "default_incomplete" {
        return Ok(());
    }
    crate::payments::collect(state, invoice, None, false, false)
}

const TEXTS: [&str; 6] = [
    "collection_method",
    "days_until_due",
    "default_payment_method",
    "description",
    "pause_collection",
    "trial_settings",
];
/// What an update may carry together with `pending_if_incomplete`.
const PENDING: [&str; 8] = [
    "expand",
    "items",
    "payment_behavior",
    "proration_behavior",
    "proration_date",
    "billing_cycle_anchor",
    "trial_end",
    "off_session",
];

/// `POST /v1/subscriptions/{id}`.
pub(crate) fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    let found = state.find("subscription", id, "id")?.clone();
    state.enter(text(&found, "customer"));
    if ended(&found) {
        let message = "A canceled subscription can only update its cancellation_details and metadata.";
        let harmless = |key: &String| matches!(key.as_str(), "cancellation_details" | "metadata" | "expand");
        if !params.as_object().is_some_and(|params| params.keys().all(harmless)) {
            return Err(ApiError::invalid(message));
        }
    }
    let behavior = params["payment_behavior"].as_str().unwrap_or("allow_incomplete");
    if behavior == "pending_if_incomplete"
        && let Some(other) = params
            .as_object()
            .into_iter()
            .flatten()
            .find(|(key, _)| !PENDING.contains(&key.as_str()))
    {
        let message = format!(
            "When `payment_behavior` is `pending_if_incomplete` you cannot update: {}.",
            other.0
        );
        return Err(ApiError::param(other.0, &message));
    }
    method_of(state, params, text(&found, "customer"))?;
    let backup = state.clone();
    match apply(state, id, params, behavior) {
        Ok(()) => Ok(view(state, id)),
        Err(refusal) => {
            state.restore(backup);
            Err(refusal)
        }
    }
}

fn apply(state: &mut State, id: &str, params: &Value, behavior: &str) -> Result<(), ApiError> {
    let before = view(state, id);
    let earlier = state.get(id).clone();
    state.edit(id, |sub| {
        assign(sub, params, &TEXTS);
        settings(sub, params);
        merge_metadata(sub, params);
        if let Some(details) = params.get("cancellation_details") {
            assign(&mut sub["cancellation_details"], details, &["comment", "feedback"]);
        }
    });
    let bill = change_items(state, id, params)?;
    cancel_dates(state, id, params)?;
    follow_period_end(state, id);
    let Some(bill) = bill else {
        state.announce(id, "customer.subscription.updated", &before);
        return Ok(());
    };
    let customer = text(&earlier, "customer").to_owned();
    let period = (state.now, state.now);
    let of = Draft {
        customer: &customer,
        subscription: Some(id),
        reason: "subscription_update",
        lines: bill.0,
        stretches: bill.1,
        period,
    };
    let invoice = draft(state, of);
    state.edit(id, |sub| sub["latest_invoice"] = json!(invoice));
    finalize_now(state, &invoice);
    if text(state.get(&invoice), "status") == "paid" || text(&earlier, "collection_method") == "send_invoice" {
        state.announce(id, "customer.subscription.updated", &before);
        return Ok(());
    }
    crate::pending::collect(state, id, &invoice, &earlier, behavior)?;
    state.announce(id, "customer.subscription.updated", &before);
    Ok(())
}

/// What an immediate invoice bills: lines, and metered stretches.
type Bill = (Vec<Value>, Vec<Value>);

/// Applies items, anchor and trial. Gives what an immediate invoice bills, when there is to be one.
fn change_items(state: &mut State, id: &str, params: &Value) -> Result<Option<Bill>, ApiError> {
    let behavior = params["proration_behavior"].as_str().unwrap_or("create_prorations");
    let at = params["proration_date"].as_i64().unwrap_or(state.now);
    let sub = state.get(id);
    let start = each(sub, "_items")
        .iter()
        .map(|item| number(item, "current_period_start"))
        .max()
        .unwrap_or(at);
    let end = each(sub, "_items")
        .iter()
        .map(|item| number(item, "current_period_end"))
        .min()
        .unwrap_or(at);
    if !(start..=end).contains(&at) {
        return Err(ApiError::param(
            "proration_date",
            "The proration date must be within the current billing period.",
        ));
    }
    let trial_over = params["trial_end"] == "now" && text(sub, "status") == "trialing";
    if let Some(end) = params["trial_end"].as_i64() {
        extend_trial(state, id, end)?;
    }
    if trial_over {
        let now = state.now;
        state.edit(id, |sub| {
            sub["status"] = json!("active");
            sub["trial_end"] = json!(now);
        });
    }
    let reset = trial_over || params["billing_cycle_anchor"]["type"] == "now";
    let change = crate::proration::Change {
        at,
        behavior,
        reset,
        boundary: trial_over,
    };
    if crate::proration::change_items(state, id, each(params, "items"), &change)? {
        return Ok(Some(crate::proration::restart(state, id, at)));
    }
    let now = behavior == "always_invoice" && crate::invoice_items::waiting(state, id);
    Ok(now.then(|| (Vec::new(), Vec::new())))
}

fn extend_trial(state: &mut State, id: &str, end: i64) -> Result<(), ApiError> {
    if end <= state.now {
        return Err(ApiError::param("trial_end", "The trial end must be in the future."));
    }
    let now = state.now;
    state.edit(id, |sub| {
        sub["status"] = json!("trialing");
        sub["trial_start"] = if sub["trial_start"].is_null() {
            json!(now)
        } else {
            sub["trial_start"].clone()
        };
        sub["trial_end"] = json!(end);
        sub["billing_cycle_anchor"] = json!(end);
        for item in sub["_items"].as_array_mut().into_iter().flatten() {
            item["current_period_end"] = json!(end);
        }
    });
    Ok(())
}

/// Keeps `cancel_at` at the period's end while the subscription is to end with it.
fn follow_period_end(state: &mut State, id: &str) {
    state.edit(id, |sub| {
        if flag(sub, "cancel_at_period_end") {
            let end = each(sub, "_items")
                .iter()
                .map(|item| number(item, "current_period_end"))
                .max();
            sub["cancel_at"] = json!(end);
        }
    });
}

/// `GET /v1/subscriptions`: those that are over only when `status` asks for them.
pub(crate) fn page(state: &State, params: &Value) -> Answer {
    state.page("/v1/subscriptions", params, "subscription", |sub| {
        let same = |key: &str| params[key].as_str().is_none_or(|wanted| sub[key] == wanted);
        let status = match params["status"].as_str() {
            None => !ended(sub),
            Some("all") => true,
            Some("ended") => ended(sub),
            Some(wanted) => text(sub, "status") == wanted,
        };
        let items = each(sub, "_items");
        status
            && ["collection_method", "customer", "test_clock"].into_iter().all(same)
            && params["price"]
                .as_str()
                .is_none_or(|price| items.iter().any(|item| item["price"] == price))
            && ["current_period_start", "current_period_end"]
                .into_iter()
                .all(|key| items.iter().any(|item| in_range(item, params, key)))
    })
}

/// The subscription and stored item for a subscription item's id.
pub(crate) fn item(state: &State, id: &str) -> Result<(String, Value), ApiError> {
    let found = state.of_kind("subscription").filter(|sub| !ended(sub)).find_map(|sub| {
        let item = each(sub, "_items").iter().find(|item| text(item, "id") == id)?;
        Some((text(sub, "id").to_owned(), item.clone()))
    });
    found.ok_or_else(|| ApiError::missing("subscription_item", id, "id"))
}

/// `POST /v1/subscription_items`, and `POST` and `DELETE /v1/subscription_items/{id}`: an update of the subscription.
pub(crate) fn change_item(state: &mut State, id: Option<&str>, params: &Value, deleted: bool) -> Answer {
    let sub = match id {
        Some(id) => item(state, id)?.0,
        None => {
            let sub = text(params, "subscription").to_owned();
            state.find("subscription", &sub, "subscription")?;
            sub
        }
    };
    let known: Vec<String> = each(state.get(&sub), "_items")
        .iter()
        .map(|item| text(item, "id").to_owned())
        .collect();
    let mut entry = json!({});
    let mut update_params = json!({});
    for (key, value) in params.as_object().into_iter().flatten() {
        match key.as_str() {
            "subscription" | "expand" | "clear_usage" => {}
            "price" | "price_data" | "quantity" | "metadata" => entry[key] = value.clone(),
            _ => update_params[key] = value.clone(),
        }
    }
    if let Some(id) = id {
        entry["id"] = json!(id);
    }
    if deleted {
        entry["deleted"] = json!(true);
    }
    update_params["items"] = json!([entry]);
    update(state, &sub, &update_params)?;
    if deleted {
        return Ok(json!({"id": id, "object": "subscription_item", "deleted": true}));
    }
    let items = each(state.get(&sub), "_items");
    let made = items.iter().find(|item| {
        id.map_or(!known.iter().any(|k| k == text(item, "id")), |id| {
            text(item, "id") == id
        })
    });
    Ok(crate::views::compose(
        state,
        made.cloned().unwrap_or_else(|| or_null(&json!({}), "")),
    ))
}

/// `GET /v1/subscription_items`.
pub(crate) fn items(state: &State, params: &Value) -> Answer {
    let sub = text(params, "subscription");
    state.find("subscription", sub, "subscription")?;
    Ok(view(state, sub)["items"].clone())
}
