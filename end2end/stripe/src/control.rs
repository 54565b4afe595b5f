//! The control page: time, failures, webhooks. Every action takes a form or JSON.

use std::sync::Arc;

use axum::extract::{Path, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::form::{Node, parse};
use crate::pages::{escape, page as html, see_other};
use crate::periods::moment;
use crate::running::Shared;
use crate::settings::{Fault, Settings};
use crate::state::{State, flag, number, text};

/// Charges that the page offers to dispute.
const SHOWN_CHARGES: usize = 5;
/// Events that the page shows.
const SHOWN_EVENTS: usize = 25;

/// `GET /_control`.
pub(crate) async fn page(Extract(shared): Extract<Arc<Shared>>) -> Response {
    let body = shared.read(controls);
    html(StatusCode::OK, "Control", &body)
}

fn controls(state: &State) -> String {
    let settings = &state.settings;
    let checked = |on: bool| if on { " checked" } else { "" };
    let webhooks = &settings.webhooks;
    let step = |label: &str, seconds: i64| {
        format!("<button name=\"seconds\" value=\"{seconds}\" class=\"plain\">{label}</button>")
    };
    let mut events = String::new();
    for event in state.of_kind("event").rev().take(SHOWN_EVENTS) {
        let (id, kind) = (text(event, "id"), text(event, "type"));
        let waiting = if crate::webhooks::outstanding(state, id) {
            "waits"
        } else {
            ""
        };
        events.push_str(&format!(
            "<tr><td>{kind}<br><code>{id}</code></td><td>{waiting}</td><td><form method=\"post\" action=\"/_control/resend\"><button name=\"event\" value=\"{id}\" class=\"plain\">Resend</button></form></td></tr>"
        ));
    }
    let disputes = disputes(state);
    format!(
        "<p>Now <strong>{}</strong>, {} s ahead of real time.</p>\
         <h2>Time</h2><form method=\"post\" action=\"/_control/advance\" class=\"row\">{}{}{}{}</form>\
         <form method=\"post\" action=\"/_control/advance\" class=\"row\"><label>To (unix seconds) <input name=\"to\" inputmode=\"numeric\" value=\"{}\"></label><button>Advance</button></form>\
         <h2>Next charge</h2><form method=\"post\" action=\"/_control/fail_next_charge\" class=\"row\"><label>Fails with <select name=\"code\"><option>card_declined</option><option>insufficient_funds</option>\
         <option>expired_card</option><option>processing_error</option><option>authentication_required</option></select></label><button>Fail it</button></form><p>Ordered: {}</p>\
         <h2>API faults</h2><form method=\"post\" action=\"/_control/fault\"><label>Kind <select name=\"kind\"><option>status</option><option>slow</option><option>drop_after_commit</option></select></label>\
         <div class=\"pair\"><label>Status <input name=\"status\" value=\"500\" inputmode=\"numeric\"></label><label>Requests <input name=\"count\" value=\"1\" inputmode=\"numeric\"></label></div>\
         <label>Delay (ms) <input name=\"delay_ms\" value=\"0\" inputmode=\"numeric\"></label><button>Add the fault</button></form><p>Faults to come: {}</p>\
         <h2>Webhooks</h2><form method=\"post\" action=\"/_control/webhooks\"><label><input type=\"checkbox\" name=\"duplicate\" value=\"true\"{}> Send twice</label>\
         <label><input type=\"checkbox\" name=\"reorder\" value=\"true\"{}> Send backwards</label><label><input type=\"checkbox\" name=\"drop\" value=\"true\"{}> Lose all</label>\
         <label>Delay (ms) <input name=\"delay_ms\" value=\"{}\" inputmode=\"numeric\"></label><button>Set</button></form>\
         <form method=\"post\" action=\"/_control/settle\"><button class=\"plain\">Count usage and deliver now</button></form>\
         <h2>Disputes</h2><table><tbody>{disputes}</tbody></table>\
         <h2>Events</h2><table><tbody>{events}</tbody></table>",
        moment(state.wall),
        state.offset,
        step("+1 hour", 3600),
        step("+1 day", 86_400),
        step("+1 week", 7 * 86_400),
        step("+31 days", 31 * 86_400),
        state.wall,
        escape(settings.fail_next_charge.as_deref().unwrap_or("nothing")),
        settings.faults.len(),
        checked(webhooks.duplicate),
        checked(webhooks.reorder),
        checked(webhooks.drop),
        webhooks.delay_ms,
    )
}

/// Disputes that wait for the bank, and the newest charges that can be contested.
fn disputes(state: &State) -> String {
    let mut rows = String::new();
    for dispute in state.of_kind("dispute").filter(|d| !crate::disputes::is_closed(d)) {
        let (id, charge) = (text(dispute, "id"), text(dispute, "charge"));
        let outcomes: &[&str] = if text(dispute, "status").starts_with("warning_") {
            &["warning_closed"]
        } else {
            &["won", "lost"]
        };
        let button =
            |outcome: &&str| format!("<button name=\"outcome\" value=\"{outcome}\" class=\"plain\">{outcome}</button>");
        let buttons: String = outcomes.iter().map(button).collect();
        rows.push_str(&format!(
            "<tr><td>{}<br><code>{charge}</code></td><td>disputed</td><td><form method=\"post\" action=\"/_control/close_dispute\"><input type=\"hidden\" name=\"dispute\" value=\"{id}\">{buttons}</form></td></tr>",
            number(dispute, "amount"),
        ));
    }
    let charges = state.of_kind("charge").rev();
    for charge in charges
        .filter(|c| flag(c, "paid") && !flag(c, "disputed"))
        .take(SHOWN_CHARGES)
    {
        rows.push_str(&format!(
            "<tr><td>{}<br><code>{}</code></td><td>paid</td><td><form method=\"post\" action=\"/_control/dispute\"><button name=\"charge\" value=\"{1}\" class=\"plain\">Dispute</button></form></td></tr>",
            number(charge, "amount"),
            text(charge, "id"),
        ));
    }
    rows
}

/// `GET /_control/state`.
pub(crate) async fn state(Extract(shared): Extract<Arc<Shared>>) -> Response {
    let shown = shared.read(overview);
    ([(header::CONTENT_TYPE, "application/json")], shown.to_string()).into_response()
}

fn overview(state: &State) -> Value {
    let deliveries: Vec<Value> = state
        .deliveries
        .iter()
        .map(|d| json!({"event": d.event, "endpoint": d.endpoint, "next": d.next, "attempts": d.attempts, "delivered": d.delivered}))
        .collect();
    json!({
        "now": state.wall, "offset": state.offset, "settings": state.settings, "deliveries": deliveries,
        "waiting_meter_events": state.waiting.len(), "meter_event_errors": state.usage_errors, "next_due": crate::clock::next_due(state, ""),
    })
}

/// `POST /_control/{action}`.
pub(crate) async fn act(
    Extract(shared): Extract<Arc<Shared>>,
    Path(action): Path<String>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let as_json = kind.starts_with("application/json");
    let params = if as_json {
        serde_json::from_str(&body).unwrap_or_default()
    } else {
        read_form(&body)
    };
    let result = perform(&shared, &action, &params).await;
    match result {
        Ok(()) if as_json => state(Extract(shared)).await,
        Ok(()) => see_other("/_control"),
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
            (
                status,
                [(header::CONTENT_TYPE, "application/json")],
                refusal.body().to_string(),
            )
                .into_response()
        }
    }
}

/// A form's fields with numbers and truths read as such.
fn read_form(body: &str) -> Value {
    let Ok(Node::Branch(fields)) = parse(body) else {
        return json!({});
    };
    let mut out = json!({});
    for (name, value) in fields {
        if let Node::Leaf(value) = value {
            let typed = serde_json::from_str(&value)
                .ok()
                .filter(|value: &Value| value.is_i64() || value.is_boolean());
            out[name] = typed.unwrap_or(Value::String(value));
        }
    }
    out
}

async fn perform(shared: &Shared, action: &str, params: &Value) -> Result<(), ApiError> {
    match action {
        "advance" => {
            let now = shared.read(|state| state.wall);
            let to = params["to"]
                .as_i64()
                .or_else(|| params["seconds"].as_i64().map(|seconds| now + seconds));
            let to = to
                .filter(|to| *to >= now)
                .ok_or_else(|| ApiError::param("to", "Pass `seconds` or `to`, not in the past."))?;
            shared.advance_to(to).await;
            Ok(())
        }
        "settle" => {
            shared.settle().await;
            Ok(())
        }
        "dispute" => {
            let (charge, reason) = (
                text(params, "charge"),
                params["reason"].as_str().unwrap_or("fraudulent"),
            );
            let inquiry = params["inquiry"].as_bool().unwrap_or(false);
            shared.with(|state| crate::disputes::open(state, charge, reason, inquiry).map(drop))
        }
        "close_dispute" => {
            shared.with(|state| crate::disputes::close(state, text(params, "dispute"), text(params, "outcome")))
        }
        "resend" => shared.with(|state| crate::webhooks::resend(state, text(params, "event"))),
        _ => shared.with(|state| set(&mut state.settings, action, params)),
    }
}

fn set(settings: &mut Settings, action: &str, params: &Value) -> Result<(), ApiError> {
    let bad = |error: serde_json::Error| ApiError::invalid(&error.to_string());
    match action {
        "fail_next_charge" => settings.fail_next_charge = params["code"].as_str().map(str::to_owned),
        "fault" => settings
            .faults
            .push(serde_json::from_value::<Fault>(params.clone()).map_err(bad)?),
        "webhooks" => settings.webhooks = serde_json::from_value(params.clone()).map_err(bad)?,
        "settings" => {
            let mut merged = serde_json::to_value(&*settings).map_err(bad)?;
            for (key, value) in params.as_object().into_iter().flatten() {
                merged[key] = value.clone();
            }
            *settings = serde_json::from_value(merged).map_err(bad)?;
        }
        other => {
            return Err(ApiError {
                status: 404,
                ..ApiError::invalid(&format!("No such action: {other}"))
            });
        }
    }
    Ok(())
}
