//! Events: what happened, kept for the list and handed to the webhook endpoints.

use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::state::{API_VERSION, State, each, flag, text};

/// Stripe keeps events for thirty days.
const KEPT_SECONDS: i64 = 30 * 86_400;

/// Keeps an event and queues its deliveries.
pub(crate) fn emit(state: &mut State, kind: &str, object: Value, previous: Option<Value>) {
    let id = state.new_id("evt");
    let mut data = json!({"object": object});
    if let Some(previous) = previous {
        data["previous_attributes"] = previous;
    }
    let request = if state.request.is_null() {
        json!({"id": null, "idempotency_key": null})
    } else {
        state.request.clone()
    };
    let waiting = crate::webhooks::queue(state, &id, kind);
    state.put(json!({
        "id": id, "object": "event", "api_version": API_VERSION, "created": state.now, "data": data, "livemode": false,
        "pending_webhooks": waiting, "request": request, "type": kind, "_delivered": waiting == 0,
    }));
}

/// `GET /v1/events`.
pub(crate) fn page(state: &State, params: &Value) -> Answer {
    if params.get("type").is_some() && params.get("types").is_some() {
        return Err(ApiError::param(
            "types",
            "You may only specify one of these parameters: type, types.",
        ));
    }
    let oldest = state.wall - KEPT_SECONDS;
    let matches = |kind: &str, pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => kind == pattern,
    };
    state.page("/v1/events", params, "event", |event| {
        let kind = text(event, "type");
        crate::state::number(event, "created") >= oldest
            && params["type"].as_str().is_none_or(|pattern| matches(kind, pattern))
            && (params.get("types").is_none()
                || each(params, "types")
                    .iter()
                    .any(|t| t.as_str().is_some_and(|t| matches(kind, t))))
            && params["delivery_success"]
                .as_bool()
                .is_none_or(|wanted| flag(event, "_delivered") == wanted)
    })
}
