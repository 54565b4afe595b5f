//! Objects as the API shows them: composed, expanded, without the emulator's own notes (keys that begin with `_`).

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::state::{State, each, list, text};

/// The object as an answer or an event shows it; null when there is none.
pub(crate) fn view(state: &State, id: &str) -> Value {
    compose(state, state.get(id).clone())
}

/// As [`view`], for an object in hand.
pub(crate) fn compose(state: &State, mut object: Value) -> Value {
    match text(&object, "object") {
        "subscription" => {
            let url = format!("/v1/subscription_items?subscription={}", text(&object, "id"));
            let items = each(&object, "_items")
                .iter()
                .map(|item| compose(state, item.clone()))
                .collect();
            object["items"] = list(&url, items, false);
            object["items"]["total_count"] = json!(each(&object, "_items").len());
        }
        "subscription_item" => {
            let price = state.get(text(&object, "price")).clone();
            object["plan"] = plan(&price);
            object["price"] = strip(price);
        }
        _ => {}
    }
    strip(object)
}

/// The older name for a recurring price, which subscription items still carry.
pub(crate) fn plan(price: &Value) -> Value {
    let recurring = &price["recurring"];
    json!({
        "id": price["id"], "object": "plan", "active": price["active"], "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"], "billing_scheme": price["billing_scheme"], "created": price["created"],
        "currency": price["currency"], "interval": recurring["interval"], "interval_count": recurring["interval_count"],
        "livemode": false, "metadata": price["metadata"], "meter": recurring["meter"], "nickname": price["nickname"],
        "product": price["product"], "tiers_mode": price["tiers_mode"], "transform_usage": price["transform_quantity"],
        "trial_period_days": null, "usage_type": recurring["usage_type"],
    })
}

fn strip(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, _)| !key.starts_with('_'));
            let cleaned = kept.map(|(key, value)| {
                let value = if key == "metadata" || key == "payload" {
                    value
                } else {
                    strip(value)
                };
                (key, value)
            });
            Value::Object(cleaned.collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(strip).collect()),
        other => other,
    }
}

/// Stripe expands at most four levels.
const DEEPEST: usize = 4;

/// Expands the paths of `expand[]` in an answer.
pub(crate) fn expand(state: &State, answer: &mut Value, paths: &[Value]) -> Result<(), ApiError> {
    for path in paths.iter().filter_map(Value::as_str) {
        let segments: Vec<&str> = path.split('.').collect();
        if segments.len() > DEEPEST {
            let message = format!("You cannot expand more than {DEEPEST} levels of a property. Property: {path}");
            return Err(ApiError::param("expand", &message));
        }
        if !expand_path(state, answer, &segments) {
            let message = format!("This property cannot be expanded ({path}).");
            return Err(ApiError::param("expand", &message));
        }
    }
    Ok(())
}

fn expand_path(state: &State, value: &mut Value, segments: &[&str]) -> bool {
    let Some((head, rest)) = segments.split_first() else {
        return true;
    };
    if let Value::Array(items) = value {
        return items.iter_mut().all(|item| expand_path(state, item, segments));
    }
    if let Some(included) = includable(state, value, head) {
        value[*head] = included;
    }
    match value.get_mut(*head) {
        None => value.is_null(),
        Some(Value::Null) => true,
        Some(Value::String(id)) => {
            let expanded = view(state, id);
            if expanded.is_null() {
                return false;
            }
            value[*head] = expanded;
            expand_path(state, &mut value[*head], rest)
        }
        Some(Value::Array(ids)) if ids.iter().all(Value::is_string) => {
            for id in ids.iter_mut() {
                *id = view(state, id.as_str().unwrap_or_default());
            }
            expand_path(state, &mut value[*head], rest)
        }
        Some(inner @ (Value::Object(_) | Value::Array(_))) => expand_path(state, inner, rest),
        Some(_) => false,
    }
}

/// Properties that an object has only when they are asked for.
fn includable(state: &State, object: &Value, key: &str) -> Option<Value> {
    let id = text(object, "id");
    let stored = state.get(id);
    match (text(object, "object"), key) {
        ("price", "tiers") => Some(stored["_tiers"].clone()),
        ("customer", "subscriptions") => {
            let subscriptions = state
                .of_kind("subscription")
                .rev()
                .filter(|sub| text(sub, "customer") == id && !ended(sub));
            let data = subscriptions.map(|sub| compose(state, sub.clone())).collect();
            Some(list(&format!("/v1/customers/{id}/subscriptions"), data, false))
        }
        ("checkout.session", "line_items") => Some(crate::checkout::line_items(state, stored)),
        ("invoice", "payments") => {
            let payments = state
                .of_kind("invoice_payment")
                .filter(|payment| text(payment, "invoice") == id);
            let data = payments.map(|payment| compose(state, payment.clone())).collect();
            Some(list(&format!("/v1/invoice_payments?invoice={id}"), data, false))
        }
        ("invoice", "confirmation_secret") => {
            let intent = state.get(text(stored, "_intent"));
            (!intent.is_null()).then(|| json!({"client_secret": intent["client_secret"], "type": "payment_intent"}))
        }
        _ => None,
    }
}

/// Whether a subscription is over.
pub(crate) fn ended(subscription: &Value) -> bool {
    matches!(text(subscription, "status"), "canceled" | "incomplete_expired")
}
