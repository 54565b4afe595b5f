//! Subscription schedules: phases that follow one another, such as a smaller plan from the next period on.

use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::periods::Interval;
use crate::proration::Change;
use crate::state::{State, each, merge_metadata, number, text};
use crate::views::view;

/// `POST /v1/subscription_schedules`, from a subscription.
pub(crate) fn create(state: &mut State, params: &Value) -> Answer {
    let Some(subscription) = params["from_subscription"].as_str() else {
        let message = "The emulator makes schedules from subscriptions only: pass from_subscription.";
        return Err(ApiError::coded("parameter_missing", "from_subscription", message));
    };
    let others = ["customer", "phases", "start_date", "end_behavior"];
    if let Some(other) = others.into_iter().find(|key| params.get(*key).is_some()) {
        let message = format!("You cannot set `{other}` if `from_subscription` is set.");
        return Err(ApiError::param(other, &message));
    }
    let sub = state.find("subscription", subscription, "from_subscription")?.clone();
    if crate::views::ended(&sub) || sub["schedule"].is_string() {
        let message = "You cannot migrate a subscription that is canceled or already attached to a schedule.";
        return Err(ApiError::param("from_subscription", message));
    }
    state.enter(text(&sub, "customer"));
    let items = each(&sub, "_items");
    let start = items
        .iter()
        .map(|item| number(item, "current_period_start"))
        .max()
        .unwrap_or(state.now);
    let end = items
        .iter()
        .map(|item| number(item, "current_period_end"))
        .min()
        .unwrap_or(state.now);
    let listed: Vec<Value> = items.iter().map(|item| phase_item(item, item)).collect();
    let phase = phase(&sub, listed, (start, end), &json!({}));
    let id = state.new_id("sub_sched");
    let mut schedule = json!({
        "id": id, "object": "subscription_schedule", "application": null, "billing_mode": sub["billing_mode"], "canceled_at": null,
        "completed_at": null, "created": state.now, "current_phase": {"start_date": start, "end_date": end}, "customer": sub["customer"],
        "default_settings": {
            "application_fee_percent": null, "automatic_tax": {"disabled_reason": null, "enabled": false, "liability": null},
            "billing_cycle_anchor": "automatic", "billing_thresholds": null, "collection_method": sub["collection_method"],
            "default_payment_method": null, "description": null, "on_behalf_of": null, "transfer_data": null,
            "invoice_settings": {"account_tax_ids": null, "days_until_due": null, "issuer": {"type": "self"}},
        },
        "end_behavior": "release", "livemode": false, "metadata": {}, "phases": [phase], "released_at": null,
        "released_subscription": null, "status": "active", "subscription": subscription, "test_clock": sub["test_clock"],
    });
    merge_metadata(&mut schedule, params);
    state.put(schedule);
    state.update(subscription, "customer.subscription.updated", |sub| {
        sub["schedule"] = json!(id);
    });
    state.emit("subscription_schedule.created", &id);
    Ok(view(state, &id))
}

fn phase_item(item: &Value, from: &Value) -> Value {
    json!({
        "billing_thresholds": null, "discounts": [], "metadata": from.get("metadata").cloned().unwrap_or_else(|| json!({})),
        "plan": item["price"], "price": item["price"], "quantity": item["quantity"], "tax_rates": [],
    })
}

fn phase(sub: &Value, items: Vec<Value>, dates: (i64, i64), params: &Value) -> Value {
    json!({
        "add_invoice_items": [], "application_fee_percent": null, "billing_cycle_anchor": params["billing_cycle_anchor"],
        "billing_thresholds": null, "collection_method": params["collection_method"], "currency": sub["currency"],
        "default_payment_method": null, "default_tax_rates": [], "description": params["description"], "discounts": [],
        "end_date": dates.1, "invoice_settings": null, "items": items,
        "metadata": params.get("metadata").cloned().unwrap_or_else(|| json!({})), "on_behalf_of": null,
        "proration_behavior": params["proration_behavior"].as_str().unwrap_or("create_prorations"), "start_date": dates.0,
        "transfer_data": null, "trial_end": null,
    })
}

fn running(state: &mut State, id: &str) -> Result<Value, ApiError> {
    let schedule = state.find("subscription_schedule", id, "id")?.clone();
    if !matches!(text(&schedule, "status"), "active" | "not_started") {
        let message = format!(
            "You cannot change a subscription schedule that is {}.",
            text(&schedule, "status")
        );
        return Err(ApiError::invalid(&message));
    }
    state.enter(text(&schedule, "customer"));
    Ok(schedule)
}

/// `POST /v1/subscription_schedules/{id}`: the phases sent replace those that are there; past ones cannot change.
pub(crate) fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    let schedule = running(state, id)?;
    let sub = state.get(text(&schedule, "subscription")).clone();
    let mut phases = Vec::new();
    let mut next = number(&schedule["current_phase"], "start_date");
    for (index, asked) in each(params, "phases").iter().enumerate() {
        let path = format!("phases[{index}]");
        let start = asked["start_date"].as_i64().unwrap_or(next);
        if start != next {
            let message = "Phases follow one another without a gap; the first one begins with the current phase.";
            return Err(ApiError::param(&format!("{path}[start_date]"), message));
        }
        let last = index + 1 == each(params, "phases").len();
        let end = end_of(asked, start, state.now, last)
            .map_err(|message| ApiError::param(&format!("{path}[end_date]"), message))?;
        let mut items = Vec::new();
        for (place, item) in each(asked, "items").iter().enumerate() {
            let path = format!("{path}[items][{place}]");
            let Some(price) = crate::prices::wanted(state, item, &path)? else {
                return Err(ApiError::coded(
                    "parameter_missing",
                    &format!("{path}[price]"),
                    "Each item needs a price.",
                ));
            };
            let metered = crate::prices::is_metered(state.get(&price));
            if metered && item.get("quantity").is_some() {
                return Err(ApiError::param(
                    &format!("{path}[quantity]"),
                    "You cannot set the quantity of a metered item.",
                ));
            }
            let quantity = if metered {
                Value::Null
            } else {
                json!(item["quantity"].as_i64().unwrap_or(1))
            };
            items.push(phase_item(&json!({"price": price, "quantity": quantity}), item));
        }
        if items.is_empty() {
            return Err(ApiError::coded(
                "parameter_missing",
                &format!("{path}[items]"),
                "Missing required param: items.",
            ));
        }
        phases.push(phase(&sub, items, (start, end), asked));
        next = end;
    }
    state.update(id, "subscription_schedule.updated", |schedule| {
        crate::state::assign(schedule, params, &["end_behavior"]);
        merge_metadata(schedule, params);
        if let Some(first) = phases.first() {
            schedule["current_phase"]["end_date"] = first["end_date"].clone();
            schedule["phases"] = json!(phases);
        }
    });
    Ok(view(state, id))
}

fn end_of(phase: &Value, start: i64, now: i64, last: bool) -> Result<i64, &'static str> {
    let end = match (&phase["end_date"], &phase["duration"]) {
        (Value::Number(end), Value::Null) => end.as_i64().unwrap_or_default(),
        (Value::String(_), Value::Null) => now,
        (Value::Null, duration @ Value::Object(_)) => {
            let every = Interval {
                unit: text(duration, "interval").to_owned(),
                count: duration["interval_count"].as_i64().unwrap_or(1),
            };
            every.after(start, 1)
        }
        (Value::Null, Value::Null) if last => Interval {
            unit: "month".to_owned(),
            count: 1,
        }
        .after(start, 1),
        _ => return Err("Each phase but the last needs either an end_date or a duration."),
    };
    if end > start {
        Ok(end)
    } else {
        Err("A phase must end after it begins.")
    }
}

/// `POST /v1/subscription_schedules/{id}/release`: the subscription goes on as it is.
pub(crate) fn release(state: &mut State, id: &str) -> Answer {
    running(state, id)?;
    let_go(state, id, "released", "released_at", "subscription_schedule.released");
    Ok(view(state, id))
}

fn let_go(state: &mut State, id: &str, status: &str, mark: &str, event: &str) {
    let (now, subscription) = (state.now, text(state.get(id), "subscription").to_owned());
    state.update(&subscription, "customer.subscription.updated", |sub| {
        sub["schedule"] = Value::Null;
    });
    state.update(id, event, |schedule| {
        schedule["status"] = json!(status);
        schedule[mark] = json!(now);
        schedule["current_phase"] = Value::Null;
        if status == "released" {
            schedule["released_subscription"] = json!(subscription);
            schedule["subscription"] = Value::Null;
        }
    });
}

/// `POST /v1/subscription_schedules/{id}/cancel`: ends the subscription too.
pub(crate) fn cancel(state: &mut State, id: &str, params: &Value) -> Answer {
    let schedule = running(state, id)?;
    let invoice = params["invoice_now"].as_bool().unwrap_or(true);
    let prorate = params["prorate"].as_bool().unwrap_or(true);
    crate::cancel::now(
        state,
        text(&schedule, "subscription"),
        &json!({"invoice_now": invoice, "prorate": prorate}),
    )?;
    Ok(view(state, id))
}

/// Begins the phases that begin at or before `at` for a subscription.
pub(crate) fn advance_for(state: &mut State, subscription: &str, at: i64) {
    let schedule = text(state.get(subscription), "schedule").to_owned();
    while due(state.get(&schedule)).is_some_and(|end| end <= at) {
        advance(state, &schedule);
    }
}

/// When the current phase of a schedule ends, or never.
pub(crate) fn due(schedule: &Value) -> Option<i64> {
    (text(schedule, "status") == "active").then(|| schedule["current_phase"]["end_date"].as_i64())?
}

/// Ends the current phase: the next one begins, or the end behavior does its work.
pub(crate) fn advance(state: &mut State, id: &str) {
    let schedule = state.get(id).clone();
    let end = number(&schedule["current_phase"], "end_date");
    let subscription = text(&schedule, "subscription").to_owned();
    let Some(next) = each(&schedule, "phases")
        .iter()
        .find(|phase| number(phase, "start_date") == end)
    else {
        if text(&schedule, "end_behavior") == "cancel" {
            let_go(
                state,
                id,
                "completed",
                "completed_at",
                "subscription_schedule.completed",
            );
            crate::cancel::at_end(state, &subscription, end);
        } else {
            let_go(state, id, "released", "released_at", "subscription_schedule.released");
        }
        return;
    };
    let before = view(state, &subscription);
    let asked = changes(state.get(&subscription), each(next, "items"));
    let items = each(state.get(&subscription), "_items");
    let boundary = items.iter().all(|item| number(item, "current_period_end") == end);
    let behavior = text(next, "proration_behavior").to_owned();
    let change = Change {
        at: end,
        behavior: &behavior,
        reset: false,
        boundary,
    };
    if crate::proration::change_items(state, &subscription, &asked, &change) == Ok(true) {
        let (lines, stretches) = crate::proration::restart(state, &subscription, end);
        let customer = text(&schedule, "customer");
        let of = crate::invoices::Draft {
            customer,
            subscription: Some(&subscription),
            reason: "subscription_update",
            lines,
            stretches,
            period: (end, end),
        };
        let invoice = crate::invoices::draft(state, of);
        state.edit(&subscription, |sub| sub["latest_invoice"] = json!(invoice));
    }
    let phase = json!({"start_date": next["start_date"], "end_date": next["end_date"]});
    state.update(id, "subscription_schedule.updated", |schedule| {
        schedule["current_phase"] = phase;
    });
    state.announce(&subscription, "customer.subscription.updated", &before);
}

/// The `items[]` of an update that makes a subscription's items those of a phase. Items are paired by price, then by
/// whether they are metered, so that a plan change is a change of prices and no removal.
fn changes(sub: &Value, wanted: &[Value]) -> Vec<Value> {
    let mut left: Vec<&Value> = each(sub, "_items").iter().collect();
    let mut new: Vec<&Value> = Vec::new();
    let mut out = Vec::new();
    let entry = |item: Option<&Value>, wanted: &Value| {
        let mut entry = json!({"price": wanted["price"]});
        if let Some(item) = item {
            entry["id"] = item["id"].clone();
        }
        if !wanted["quantity"].is_null() {
            entry["quantity"] = wanted["quantity"].clone();
        }
        entry
    };
    for want in wanted {
        match left.iter().position(|item| item["price"] == want["price"]) {
            Some(place) => out.push(entry(Some(left.remove(place)), want)),
            None => new.push(want),
        }
    }
    for want in new {
        let metered = want["quantity"].is_null();
        let place = left.iter().position(|item| (item["_metered"] == true) == metered);
        let item = place.map(|place| left.remove(place));
        out.push(entry(item, want));
    }
    out.extend(left.iter().map(|item| json!({"id": item["id"], "deleted": true})));
    out
}
