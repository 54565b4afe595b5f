//! Webhook endpoints, and the queue of deliveries: signed, at least once, retried.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::error::{Answer, ApiError};
use crate::state::{API_VERSION, State, assign, each, merge_metadata, or_null, text};
use crate::views::view;

/// Seconds between a failed delivery and the next try; after the last one Stripe gives up, about three days on.
const BACKOFF: [i64; 11] = [5, 30, 120, 600, 3600, 10_800, 21_600, 43_200, 43_200, 43_200, 86_400];
/// Attempts that a delivery remembers.
const REMEMBERED: usize = 20;

/// One event for one endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Delivery {
    pub(crate) event: String,
    pub(crate) endpoint: String,
    /// When to try next, or nothing when it is over.
    pub(crate) next: Option<i64>,
    pub(crate) delivered: bool,
    pub(crate) attempts: Vec<Value>,
    #[serde(skip)]
    pub(crate) in_flight: bool,
}

/// Queues an event for every endpoint that wants its type. Gives their number.
pub(crate) fn queue(state: &mut State, event: &str, kind: &str) -> usize {
    let wants = |endpoint: &Value| {
        let types = each(endpoint, "enabled_events");
        text(endpoint, "status") == "enabled" && types.iter().any(|wanted| wanted == "*" || *wanted == kind)
    };
    let endpoints = state.ids("webhook_endpoint", wants);
    let wall = state.wall;
    let new = |endpoint: &String| Delivery {
        event: event.to_owned(),
        endpoint: endpoint.clone(),
        next: Some(wall),
        delivered: false,
        attempts: Vec::new(),
        in_flight: false,
    };
    state.deliveries.extend(endpoints.iter().map(new));
    endpoints.len()
}

/// A delivery ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Parcel {
    pub(crate) event: String,
    pub(crate) endpoint: String,
    pub(crate) url: String,
    pub(crate) body: String,
    pub(crate) signature: String,
}

/// Takes the deliveries that are due, oldest event first, and marks them as being sent.
pub(crate) fn take_due(state: &mut State) -> Vec<Parcel> {
    let now = state.wall;
    let mut due = Vec::new();
    for delivery in &mut state.deliveries {
        if !delivery.in_flight && delivery.next.is_some_and(|next| next <= now) {
            delivery.in_flight = true;
            due.push((delivery.event.clone(), delivery.endpoint.clone()));
        }
    }
    due.into_iter()
        .map(|(event, endpoint)| parcel(state, event, endpoint))
        .collect()
}

fn parcel(state: &State, event: String, endpoint: String) -> Parcel {
    let target = state.get(&endpoint);
    let body = view(state, &event).to_string();
    let signature = sign(text(target, "_secret"), state.wall, &body);
    Parcel {
        url: text(target, "url").to_owned(),
        event,
        endpoint,
        body,
        signature,
    }
}

/// `t=..,v1=..`: HMAC-SHA256 of `{t}.{body}`.
pub(crate) fn sign(secret: &str, at: i64, body: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map(|mac| mac.chain_update(format!("{at}.{body}")));
    let digest = mac.map(|mac| mac.finalize().into_bytes()).unwrap_or_default();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={at},v1={hex}")
}

/// Notes what became of a delivery: a status, 0 when nobody answered; `lost` when the control page drops deliveries.
pub(crate) fn record(state: &mut State, event: &str, endpoint: &str, status: u16, lost: bool) {
    let now = state.wall;
    let found = state
        .deliveries
        .iter_mut()
        .find(|delivery| delivery.event == event && delivery.endpoint == endpoint);
    let Some(delivery) = found else { return };
    delivery.in_flight = false;
    delivery
        .attempts
        .push(json!({"at": now, "status": status, "lost": lost}));
    let tries = delivery.attempts.len();
    if tries > REMEMBERED {
        delivery.attempts.remove(0);
    }
    if (200..300).contains(&status) {
        delivery.delivered = true;
        delivery.next = None;
    } else {
        delivery.next = if lost {
            None
        } else {
            BACKOFF.get(tries - 1).map(|wait| now + wait)
        };
    }
    refresh(state, event);
}

/// Brings an event's `pending_webhooks` up to date and forgets deliveries that arrived.
fn refresh(state: &mut State, event: &str) {
    let waiting = state
        .deliveries
        .iter()
        .filter(|delivery| delivery.event == event && !delivery.delivered)
        .count();
    state.edit(event, |event| {
        event["pending_webhooks"] = json!(waiting);
        event["_delivered"] = json!(waiting == 0);
    });
    state.deliveries.retain(|delivery| !delivery.delivered);
}

/// Whether an event waits for an endpoint that has not answered well yet and is still to be tried.
pub(crate) fn outstanding(state: &State, event: &str) -> bool {
    state
        .deliveries
        .iter()
        .any(|delivery| delivery.event == event && delivery.next.is_some())
}

/// Sends an event again to every endpoint that wants it.
pub(crate) fn resend(state: &mut State, event: &str) -> Result<(), ApiError> {
    let kind = text(state.find("event", event, "event")?, "type").to_owned();
    state
        .deliveries
        .retain(|delivery| delivery.event != event || delivery.in_flight);
    queue(state, event, &kind);
    refresh(state, event);
    Ok(())
}

fn check_url(params: &Value) -> Result<(), ApiError> {
    match params["url"].as_str() {
        Some(url) if !url.starts_with("http://") && !url.starts_with("https://") => Err(ApiError::coded(
            "url_invalid",
            "url",
            "Invalid URL: An explicit scheme (such as https) must be provided.",
        )),
        _ => Ok(()),
    }
}

/// `POST /v1/webhook_endpoints`: the secret is in this answer only.
pub(crate) fn create(state: &mut State, params: &Value) -> Answer {
    check_url(params)?;
    let version = params["api_version"].as_str().unwrap_or(API_VERSION);
    if version != API_VERSION {
        let message = format!("Invalid API version: the emulator speaks {API_VERSION} only, not {version}.");
        return Err(ApiError::param("api_version", &message));
    }
    if each(params, "enabled_events").is_empty() {
        return Err(ApiError::coded(
            "parameter_missing",
            "enabled_events",
            "Missing required param: enabled_events.",
        ));
    }
    let id = state.new_id("we");
    let secret = format!("whsec_{}", state.letters(32));
    let mut endpoint = json!({
        "id": id, "object": "webhook_endpoint", "api_version": or_null(params, "api_version"), "application": null, "created": state.now,
        "description": or_null(params, "description"), "enabled_events": params["enabled_events"], "livemode": false, "metadata": {},
        "status": "enabled", "url": params["url"], "_secret": secret,
    });
    merge_metadata(&mut endpoint, params);
    state.put(endpoint);
    let mut answer = view(state, &id);
    answer["secret"] = json!(secret);
    Ok(answer)
}

/// `POST /v1/webhook_endpoints/{id}`.
pub(crate) fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    state.find("webhook_endpoint", id, "id")?;
    check_url(params)?;
    state.edit(id, |endpoint| {
        assign(endpoint, params, &["description", "enabled_events", "url"]);
        merge_metadata(endpoint, params);
        if let Some(disabled) = params["disabled"].as_bool() {
            endpoint["status"] = json!(if disabled { "disabled" } else { "enabled" });
        }
    });
    Ok(view(state, id))
}

/// `DELETE /v1/webhook_endpoints/{id}`.
pub(crate) fn delete(state: &mut State, id: &str) -> Answer {
    state.find("webhook_endpoint", id, "id")?;
    state.forget(id);
    state.deliveries.retain(|delivery| delivery.endpoint != id);
    Ok(json!({"id": id, "object": "webhook_endpoint", "deleted": true}))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_signature_is_stripes() {
        let header = super::sign("whsec_test", 1, "{}");
        assert_eq!(header.len(), "t=1,v1=".len() + 64);
        assert_ne!(header, super::sign("whsec_test", 2, "{}"));
    }
}
