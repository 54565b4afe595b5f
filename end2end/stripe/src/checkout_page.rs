//! The hosted page of Checkout.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

use crate::checkout::{Submitted, held, line_items, pay};
use crate::form::{Node, parse};
use crate::money;
use crate::pages::{NOT_AUTHENTICATED, alert, card_fields, escape, page, read_card, see_other};
use crate::running::Shared;
use crate::state::{State, each, number, text};

/// Stripe waits so long for the endpoints to take `checkout.session.completed` before it sends the customer on.
const REDIRECT_WAIT: Duration = Duration::from_secs(10);

/// The page, the way on when the session is complete, or its end.
pub(crate) async fn show(Extract(shared): Extract<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let session = shared.read(|state| state.get(&id).clone());
    match text(&session, "status") {
        "open" => shared.read(|state| form(state, &session, "")),
        "complete" => see_other(&success(&session)),
        "" => page(
            StatusCode::NOT_FOUND,
            "No such page",
            "<p>There is no such Checkout session.</p>",
        ),
        _ => over(&session),
    }
}

fn over(session: &Value) -> Response {
    let back = match session["cancel_url"].as_str() {
        Some(url) => format!("<p><a href=\"{}\">Go back</a></p>", escape(url)),
        None => String::new(),
    };
    page(
        StatusCode::GONE,
        "This session has expired",
        &format!("<p>Checkout sessions end after a while. Begin again from where you came.</p>{back}"),
    )
}

fn success(session: &Value) -> String {
    text(session, "success_url").replace("{CHECKOUT_SESSION_ID}", text(session, "id"))
}

fn form(state: &State, session: &Value, message: &str) -> Response {
    let currency = text(session, "currency");
    let setup = text(session, "mode") == "setup";
    let listed = line_items(state, session);
    let mut rows = String::new();
    for item in each(&listed, "data") {
        let price = &item["price"];
        let rhythm = if price["recurring"].is_object() {
            crate::billing::rhythm(price)
        } else {
            String::new()
        };
        let (count, amount) = match item["quantity"].as_i64() {
            Some(1) => (
                String::new(),
                format!("{} {rhythm}", money::show(number(item, "amount_total"), currency)),
            ),
            Some(count) => (
                format!("{count} × "),
                format!("{} {rhythm}", money::show(number(item, "amount_total"), currency)),
            ),
            None => (String::new(), format!("by usage {rhythm}")),
        };
        rows.push_str(&format!(
            "<tr><td>{count}{}</td><td class=\"amount\">{}</td></tr>",
            escape(text(item, "description")),
            escape(&amount)
        ));
    }
    let due = if setup {
        String::new()
    } else {
        let total = money::show(number(session, "amount_total"), currency);
        format!(
            "<p>Due today</p><p class=\"total\">{}</p><table><tbody>{rows}</tbody></table>",
            escape(&total)
        )
    };
    let customer = state.get(text(session, "customer"));
    let known = [&customer["email"], &session["customer_email"]]
        .into_iter()
        .find_map(Value::as_str);
    let cancel = match session["cancel_url"].as_str() {
        Some(url) => format!("<p><a href=\"{}\">Cancel and go back</a></p>", escape(url)),
        None => String::new(),
    };
    let button = match (setup, number(session, "amount_total")) {
        (true, _) => "Save card".to_owned(),
        (false, 0) => "Subscribe".to_owned(),
        (false, total) => format!("Pay {}", money::show(total, currency)),
    };
    let body = format!(
        "{due}{}<form method=\"post\">{}</form>{cancel}",
        alert(message),
        card_fields(known, text(customer, "name"), &button)
    );
    let status = if message.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::PAYMENT_REQUIRED
    };
    page(status, if setup { "Save a card" } else { "Checkout" }, &body)
}

/// The card form was sent. Sent twice, the second one finds the session complete.
pub(crate) async fn submit(Extract(shared): Extract<Arc<Shared>>, Path(id): Path<String>, body: String) -> Response {
    let fields = parse(&body).unwrap_or(Node::Branch(Vec::new()));
    let session = shared.read(|state| state.get(&id).clone());
    if text(&session, "status") != "open" {
        return onward(&shared, &id).await;
    }
    let card = match read_card(&fields, shared.read(|state| state.wall)) {
        Ok(card) => card,
        Err(message) => return shared.read(|state| form(state, &session, message)),
    };
    match shared.with(|state| pay(state, &id, &card, false)) {
        Submitted::Done => onward(&shared, &id).await,
        Submitted::Authenticate => see_other(&format!("/c/pay/{id}/authenticate")),
        Submitted::Refused(message) => shared.read(|state| form(state, &session, &message)),
    }
}

/// Waits for the endpoints, then sends the customer on.
async fn onward(shared: &Arc<Shared>, id: &str) -> Response {
    let event = shared.read(|state| text(state.get(id), "_completed_event").to_owned());
    shared.delivered(&event, REDIRECT_WAIT).await;
    show(Extract(shared.clone()), Path(id.to_owned())).await
}

/// The bank's page.
pub(crate) async fn challenge(Extract(shared): Extract<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let waits = shared.read(|state| held(state.get(&id)).is_some());
    if waits {
        crate::pages::challenge(&format!("/c/pay/{id}/authenticate"))
    } else {
        see_other(&format!("/c/pay/{id}"))
    }
}

/// The bank's answer.
pub(crate) async fn answer(Extract(shared): Extract<Arc<Shared>>, Path(id): Path<String>, body: String) -> Response {
    let fields = parse(&body).unwrap_or(Node::Branch(Vec::new()));
    let session = shared.read(|state| state.get(&id).clone());
    let Some(card) = held(&session) else {
        return onward(&shared, &id).await;
    };
    shared.with(|state| state.edit(&id, |session| session["_card"] = Value::Null));
    if fields.text("result") != "complete" {
        return shared.read(|state| form(state, &session, NOT_AUTHENTICATED));
    }
    match shared.with(|state| pay(state, &id, &card, true)) {
        Submitted::Done => onward(&shared, &id).await,
        Submitted::Authenticate => see_other(&format!("/c/pay/{id}/authenticate")),
        Submitted::Refused(message) => shared.read(|state| form(state, &session, &message)),
    }
}
