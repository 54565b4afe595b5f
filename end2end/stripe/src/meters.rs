//! Meters and their events: accepted at once, counted a moment later, summed when an invoice asks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::state::{State, list, number, or_null, text};
use crate::views::view;

/// Stripe takes events up to 35 days old and 5 minutes early.
const OLDEST_SECONDS: i64 = 35 * 86_400;
const EARLIEST_SECONDS: i64 = 5 * 60;
/// For so long an identifier is refused a second time, and an event may be cancelled.
const MEMORY_SECONDS: i64 = 86_400;
/// Digits that a value may have.
const LONGEST_VALUE: usize = 15;

/// An accepted meter event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UsageEvent {
    meter: String,
    customer: String,
    value: i64,
    at: i64,
    identifier: String,
    received: i64,
}

/// `POST /v1/billing/meters`.
pub(crate) fn create(state: &mut State, params: &Value) -> Answer {
    let name = text(params, "event_name");
    let taken = state
        .of_kind("billing.meter")
        .any(|meter| text(meter, "event_name") == name && text(meter, "status") == "active");
    if taken {
        let message = format!("An active meter with the event name `{name}` exists already.");
        return Err(ApiError::param("event_name", &message));
    }
    let id = state.new_id("mtr");
    let mapping = params.get("customer_mapping").cloned();
    let value = params.get("value_settings").cloned();
    state.put(json!({
        "id": id, "object": "billing.meter", "created": state.now, "updated": state.now, "livemode": false, "status": "active",
        "display_name": params["display_name"], "event_name": name, "event_time_window": or_null(params, "event_time_window"),
        "customer_mapping": mapping.unwrap_or_else(|| json!({"event_payload_key": "stripe_customer_id", "type": "by_id"})),
        "default_aggregation": params["default_aggregation"], "dimension_payload_keys": null,
        "value_settings": value.unwrap_or_else(|| json!({"event_payload_key": "value"})),
        "status_transitions": {"deactivated_at": null},
    }));
    state.emit("billing.meter.created", &id);
    Ok(view(state, &id))
}

/// `POST /v1/billing/meters/{id}`: only the display name can change.
pub(crate) fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    state.find("billing.meter", id, "id")?;
    let now = state.now;
    state.update(id, "billing.meter.updated", |meter| {
        crate::state::assign(meter, params, &["display_name"]);
        meter["updated"] = json!(now);
    });
    Ok(view(state, id))
}

/// `POST /v1/billing/meters/{id}/deactivate` and `/reactivate`.
pub(crate) fn switch(state: &mut State, id: &str, active: bool) -> Answer {
    state.find("billing.meter", id, "id")?;
    let now = state.now;
    let (status, event) = if active {
        ("active", "reactivated")
    } else {
        ("inactive", "deactivated")
    };
    state.update(id, &format!("billing.meter.{event}"), |meter| {
        meter["status"] = json!(status);
        meter["updated"] = json!(now);
        meter["status_transitions"]["deactivated_at"] = if active { Value::Null } else { json!(now) };
    });
    Ok(view(state, id))
}

/// The customer and event name that a meter event request is about: Stripe takes one call at a time for each pair.
pub(crate) fn lane(state: &State, params: &Value) -> String {
    let name = text(params, "event_name");
    let meter = state
        .of_kind("billing.meter")
        .rev()
        .find(|meter| text(meter, "event_name") == name);
    let key = meter.map_or("stripe_customer_id", |meter| {
        text(&meter["customer_mapping"], "event_payload_key")
    });
    format!("{name}|{}", text(&params["payload"], key))
}

/// `POST /v1/billing/meter_events`.
pub(crate) fn accept(state: &mut State, params: &Value) -> Answer {
    let name = text(params, "event_name");
    let named: Vec<&Value> = state
        .of_kind("billing.meter")
        .filter(|meter| text(meter, "event_name") == name)
        .collect();
    let Some(meter) = named.iter().find(|meter| text(meter, "status") == "active") else {
        let (code, what) = if named.is_empty() {
            ("no_meter", "No meter")
        } else {
            ("archived_meter", "No active meter")
        };
        return Err(ApiError::param("event_name", &format!("{what} found for event name {name}.")).with("code", code));
    };
    let meter = (*meter).clone();
    let payload = &params["payload"];
    let customer_key = text(&meter["customer_mapping"], "event_payload_key");
    let Some(customer) = payload[customer_key].as_str().filter(|id| !id.is_empty()) else {
        let message = format!("The payload lacks the customer: {customer_key}.");
        return Err(ApiError::coded(
            "meter_event_no_customer_defined",
            &format!("payload[{customer_key}]"),
            &message,
        ));
    };
    state.enter(customer);
    let value = value(&meter, payload)?;
    let at = params["timestamp"].as_i64().unwrap_or(state.now);
    check_time(at, state.now)?;
    let identifier = match params["identifier"].as_str().filter(|id| !id.is_empty()) {
        Some(identifier) => identifier.to_owned(),
        None => state.letters(32),
    };
    let now = state.now;
    state.identifiers.retain(|_, received| now - *received < MEMORY_SECONDS);
    if state.identifiers.insert(identifier.clone(), now).is_some() {
        let message = format!("An event already exists with identifier {identifier}.");
        return Err(ApiError::param("identifier", &message));
    }
    let meter = text(&meter, "id").to_owned();
    state.waiting.push(UsageEvent {
        meter,
        customer: customer.to_owned(),
        value,
        at,
        identifier: identifier.clone(),
        received: now,
    });
    Ok(json!({
        "object": "billing.meter_event", "created": now, "event_name": name, "identifier": identifier, "livemode": false,
        "payload": payload, "timestamp": at,
    }))
}

fn value(meter: &Value, payload: &Value) -> Result<i64, ApiError> {
    if text(&meter["default_aggregation"], "formula") == "count" {
        return Ok(1);
    }
    let key = text(&meter["value_settings"], "event_payload_key");
    let path = format!("payload[{key}]");
    let Some(sent) = payload[key].as_str() else {
        return Err(ApiError::coded(
            "meter_event_value_not_found",
            &path,
            &format!("The payload lacks the value: {key}."),
        ));
    };
    if sent.trim_start_matches('-').len() > LONGEST_VALUE {
        return Err(ApiError::coded(
            "meter_event_value_too_many_digits",
            &path,
            &format!("Too many digits: {sent}"),
        ));
    }
    let invalid = || {
        ApiError::coded(
            "meter_event_invalid_value",
            &path,
            &format!("Invalid value, whole numbers only: {sent}"),
        )
    };
    sent.parse().map_err(|_| invalid())
}

fn check_time(at: i64, now: i64) -> Result<(), ApiError> {
    if at < now - OLDEST_SECONDS {
        let message = "The timestamp must be within the past 35 calendar days.";
        return Err(ApiError::coded("timestamp_too_far_in_past", "timestamp", message));
    }
    if at > now + EARLIEST_SECONDS {
        let message = "The timestamp must not be more than 5 minutes in the future.";
        return Err(ApiError::coded("timestamp_in_future", "timestamp", message));
    }
    Ok(())
}

/// `POST /v1/billing/meter_event_adjustments`: takes an event back within a day of its receipt.
pub(crate) fn adjust(state: &mut State, params: &Value) -> Answer {
    let identifier = text(&params["cancel"], "identifier").to_owned();
    if identifier.is_empty() {
        return Err(ApiError::coded(
            "parameter_missing",
            "cancel[identifier]",
            "Missing required param: cancel[identifier].",
        ));
    }
    let known = state
        .usage
        .values()
        .flatten()
        .chain(&state.waiting)
        .filter(|event| event.identifier == identifier);
    let Some(received) = known.map(|event| event.received).max() else {
        return Err(ApiError::param(
            "cancel[identifier]",
            &format!("No meter event with identifier {identifier}."),
        ));
    };
    if state.now - received >= MEMORY_SECONDS {
        return Err(ApiError::param(
            "cancel[identifier]",
            "Meter events can be cancelled within 24 hours of their receipt only.",
        ));
    }
    let other = |event: &UsageEvent| event.identifier != identifier || event.received != received;
    state.waiting.retain(other);
    for events in state.usage.values_mut() {
        events.retain(other);
    }
    Ok(json!({
        "object": "billing.meter_event_adjustment", "cancel": {"identifier": identifier}, "event_name": params["event_name"],
        "livemode": false, "status": "pending", "type": "cancel",
    }))
}

/// Counts the first `count` of the waiting events and refreshes the drafts that bill them.
pub(crate) fn aggregate(state: &mut State, count: usize) {
    let ready: Vec<UsageEvent> = state.waiting.drain(..count.min(state.waiting.len())).collect();
    if ready.is_empty() {
        return;
    }
    for event in ready {
        if crate::customers::present(state, &event.customer, "").is_err() {
            state.usage_errors.push(json!({
                "code": "meter_event_customer_not_found", "customer": event.customer, "identifier": event.identifier, "meter": event.meter,
            }));
            continue;
        }
        state
            .usage
            .entry(format!("{}|{}", event.meter, event.customer))
            .or_default()
            .push(event);
    }
    for draft in state.ids("invoice", |invoice| {
        text(invoice, "status") == "draft" && invoice["_metered"][0].is_object()
    }) {
        crate::invoices::refresh_usage(state, &draft);
    }
}

/// The usage of a customer in `[from, to)`, aggregated as the meter says.
pub(crate) fn usage(state: &State, meter: &str, customer: &str, from: i64, to: i64) -> i64 {
    let events = state.usage.get(&format!("{meter}|{customer}"));
    let inside = events
        .into_iter()
        .flatten()
        .filter(|event| (from..to).contains(&event.at));
    let meter = state.get(meter);
    let window = match text(meter, "event_time_window") {
        "hour" => 3600,
        "day" => 86_400,
        _ => 0,
    };
    let mut kept: BTreeMap<(i64, usize), &UsageEvent> = BTreeMap::new();
    for (order, event) in inside.enumerate() {
        // With a window, the last event of each window replaces the earlier ones.
        let key = if window > 0 {
            (event.at.div_euclid(window), 0)
        } else {
            (event.at, order)
        };
        kept.insert(key, event);
    }
    match text(&meter["default_aggregation"], "formula") {
        "last" => kept.last_key_value().map_or(0, |(_, event)| event.value),
        _ => kept.values().fold(0, |sum: i64, event| sum.saturating_add(event.value)),
    }
}

/// `GET /v1/billing/meters/{id}/event_summaries`.
pub(crate) fn summaries(state: &State, id: &str, params: &Value) -> Answer {
    state.find("billing.meter", id, "id")?;
    let customer = text(params, "customer");
    crate::customers::present(state, customer, "customer")?;
    let (start, end) = (number(params, "start_time"), number(params, "end_time"));
    let (step, what) = match text(params, "value_grouping_window") {
        "hour" => (3600, "hours"),
        "day" => (86_400, "UTC days"),
        _ => (60, "minutes"),
    };
    for (name, value) in [("start_time", start), ("end_time", end)] {
        if value % step != 0 {
            return Err(ApiError::param(name, &format!("{name} must be aligned to {what}.")));
        }
    }
    if start >= end {
        return Err(ApiError::param("end_time", "end_time must be after start_time."));
    }
    let step = if params.get("value_grouping_window").is_some() {
        step
    } else {
        end - start
    };
    let mut found = Vec::new();
    let mut from = start;
    while from < end {
        let total = usage(state, id, customer, from, from + step);
        if total != 0 || step == end - start {
            found.push(json!({
                "id": format!("mtrusg_{}_{from}_{step}", id.trim_start_matches("mtr_")), "object": "billing.meter_event_summary",
                "aggregated_value": decimal(total), "start_time": from, "end_time": from + step, "livemode": false, "meter": id,
            }));
        }
        from += step;
    }
    found.reverse();
    let ids: Vec<&str> = found.iter().map(|summary| text(summary, "id")).collect();
    let (chosen, has_more) = crate::state::slice(&ids, params)?;
    let data = found
        .iter()
        .filter(|summary| chosen.contains(&text(summary, "id")))
        .cloned()
        .collect();
    Ok(list(
        &format!("/v1/billing/meters/{id}/event_summaries"),
        data,
        has_more,
    ))
}

/// Stripe writes sums with a point.
fn decimal(value: i64) -> Value {
    let text = format!("{value}.0");
    text.parse::<f64>()
        .ok()
        .and_then(serde_json::Number::from_f64)
        .map_or(Value::Null, Value::Number)
}
