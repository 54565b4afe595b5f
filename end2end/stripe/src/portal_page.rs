//! The customer portal: the card, open invoices, past ones.

use std::sync::Arc;

use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::checkout::{Submitted, held};
use crate::form::{Node, parse};
use crate::money;
use crate::pages::{NOT_AUTHENTICATED, alert, card_fields, escape, page, read_card, see_other};
use crate::periods::day;
use crate::portal::change_card;
use crate::running::Shared;
use crate::state::{State, number, text};

fn session(state: &State, secret: &str) -> Value {
    state
        .of_kind("billing_portal.session")
        .find(|session| text(session, "_secret") == secret)
        .cloned()
        .unwrap_or_default()
}

/// The portal.
pub(crate) async fn show(Extract(shared): Extract<Arc<Shared>>, Path(secret): Path<String>) -> Response {
    shared.read(|state| home(state, &session(state, &secret), ""))
}

fn home(state: &State, session: &Value, message: &str) -> Response {
    if session.is_null() {
        return page(
            StatusCode::NOT_FOUND,
            "No such page",
            "<p>There is no such portal session.</p>",
        );
    }
    let id = text(session, "customer");
    let customer = state.get(id);
    let method = state.get(text(&customer["invoice_settings"], "default_payment_method"));
    let method = if method.is_null() {
        let of_subscription = state
            .of_kind("subscription")
            .rev()
            .find(|sub| text(sub, "customer") == id && !crate::views::ended(sub));
        state.get(of_subscription.map_or("", |sub| text(sub, "default_payment_method")))
    } else {
        method
    };
    let card = match method["card"]["last4"].as_str() {
        Some(last4) => format!(
            "<p>Your card: {} ending in <strong>{}</strong></p>",
            escape(text(&method["card"], "brand")),
            escape(last4)
        ),
        None => "<p>There is no card yet.</p>".to_owned(),
    };
    let back = match session["return_url"].as_str() {
        Some(url) => format!("<p><a href=\"{}\">Go back</a></p>", escape(url)),
        None => String::new(),
    };
    let form = format!(
        "<h2>Change the card</h2><form method=\"post\">{}</form>",
        card_fields(Some(text(customer, "email")), text(customer, "name"), "Save card")
    );
    let bills = if session["flow"].is_null() {
        invoices(state, id)
    } else {
        String::new()
    };
    let status = if message.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::PAYMENT_REQUIRED
    };
    page(
        status,
        "Customer portal",
        &format!("{}{card}{form}{bills}{back}", alert(message)),
    )
}

fn invoices(state: &State, customer: &str) -> String {
    let mut rows = String::new();
    for invoice in state
        .of_kind("invoice")
        .rev()
        .filter(|i| text(i, "customer") == customer && text(i, "status") != "draft")
    {
        let amount = money::show(number(invoice, "total"), text(invoice, "currency"));
        let link = format!(
            "<a href=\"/i/{}\">{}</a>",
            text(invoice, "id"),
            escape(text(invoice, "number"))
        );
        let created = day(number(invoice, "created"));
        let status = escape(text(invoice, "status"));
        rows.push_str(&format!(
            "<tr><td>{link}</td><td>{created}</td><td>{status}</td><td class=\"amount\">{}</td></tr>",
            escape(&amount)
        ));
    }
    if rows.is_empty() {
        return "<h2>Invoices</h2><p>There is no invoice yet.</p>".to_owned();
    }
    format!(
        "<h2>Invoices</h2><table><thead><tr><th>Number</th><th>Date</th><th>Status</th><th class=\"amount\">Total</th></tr></thead><tbody>{rows}</tbody></table>"
    )
}

/// The card form was sent.
pub(crate) async fn submit(
    Extract(shared): Extract<Arc<Shared>>,
    Path(secret): Path<String>,
    body: String,
) -> Response {
    let fields = parse(&body).unwrap_or(Node::Branch(Vec::new()));
    shared.with(|state| {
        let session = session(state, &secret);
        if session.is_null() {
            return home(state, &session, "");
        }
        let card = match read_card(&fields, state.wall) {
            Ok(card) => card,
            Err(message) => return home(state, &session, message),
        };
        match change_card(state, text(&session, "customer"), &card, false) {
            Submitted::Done => done(&session, &secret),
            Submitted::Refused(message) => home(state, &session, &message),
            Submitted::Authenticate => {
                let held = json!({"number": card.number, "month": card.expiry.0, "year": card.expiry.1, "name": card.name, "email": card.email});
                state.edit(text(&session, "id"), |session| session["_card"] = held);
                see_other(&format!("/p/session/{secret}/authenticate"))
            }
        }
    })
}

/// After a change: where the flow says, or the portal again.
fn done(session: &Value, secret: &str) -> Response {
    let after = &session["flow"]["after_completion"];
    match (
        text(after, "type"),
        after["redirect"]["return_url"].as_str(),
        session["return_url"].as_str(),
    ) {
        ("redirect", Some(url), _) => see_other(url),
        ("hosted_confirmation", _, Some(url)) => page(
            StatusCode::OK,
            "Saved",
            &format!(
                "<p>Your card is saved.</p><p><a href=\"{}\">Go back</a></p>",
                escape(url)
            ),
        ),
        _ => see_other(&format!("/p/session/{secret}")),
    }
}

/// The bank's page.
pub(crate) async fn challenge(Extract(shared): Extract<Arc<Shared>>, Path(secret): Path<String>) -> Response {
    let waits = shared.read(|state| held(&session(state, &secret)).is_some());
    if waits {
        crate::pages::challenge(&format!("/p/session/{secret}/authenticate"))
    } else {
        see_other(&format!("/p/session/{secret}"))
    }
}

/// The bank's answer.
pub(crate) async fn answer(
    Extract(shared): Extract<Arc<Shared>>,
    Path(secret): Path<String>,
    body: String,
) -> Response {
    let fields = parse(&body).unwrap_or(Node::Branch(Vec::new()));
    shared.with(|state| {
        let session = session(state, &secret);
        let Some(card) = held(&session) else {
            return home(state, &session, "");
        };
        state.edit(text(&session, "id"), |session| session["_card"] = Value::Null);
        if fields.text("result") != "complete" {
            return home(state, &session, NOT_AUTHENTICATED);
        }
        match change_card(state, text(&session, "customer"), &card, true) {
            Submitted::Refused(message) => home(state, &session, &message),
            Submitted::Done | Submitted::Authenticate => done(&session, &secret),
        }
    })
}
