//! The hosted invoice page and the invoice as a PDF.

use std::sync::Arc;

use axum::extract::{Path, State as Extract};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::cards::Outcome;
use crate::checkout::{Card, held, save_card};
use crate::error::ApiError;
use crate::form::{Node, parse};
use crate::money;
use crate::pages::{NOT_AUTHENTICATED, alert, card_fields, escape, page, read_card, see_other};
use crate::periods::day;
use crate::running::Shared;
use crate::state::{State, each, number, text};

/// The invoice, with a form when it is open.
pub(crate) async fn show(Extract(shared): Extract<Arc<Shared>>, Path(id): Path<String>) -> Response {
    shared.read(|state| invoice(state, &id, ""))
}

fn known(state: &State, id: &str) -> bool {
    let invoice = state.get(id);
    text(invoice, "object") == "invoice" && text(invoice, "status") != "draft"
}

fn invoice(state: &State, id: &str, message: &str) -> Response {
    if !known(state, id) {
        return page(
            StatusCode::NOT_FOUND,
            "No such page",
            "<p>There is no such invoice, or it is a draft.</p>",
        );
    }
    let invoice = state.get(id);
    let currency = text(invoice, "currency");
    let mut rows = String::new();
    for line in each(&invoice["lines"], "data") {
        let amount = escape(&money::show(number(line, "amount"), currency));
        rows.push_str(&format!(
            "<tr><td>{}</td><td class=\"amount\">{amount}</td></tr>",
            escape(text(line, "description"))
        ));
    }
    let due = money::show(number(invoice, "amount_remaining"), currency);
    let pay = if text(invoice, "status") == "open" {
        let customer = state.get(text(invoice, "customer"));
        let saved = state.get(&crate::payments::method_for(state, id))["card"]["last4"].clone();
        let saved = saved.as_str().map_or_else(String::new, |last4| {
            format!("<form method=\"post\"><input type=\"hidden\" name=\"saved\" value=\"yes\"><button>Pay {} with the card ending in {last4}</button></form>", escape(&due))
        });
        let fields = card_fields(
            Some(text(customer, "email")),
            text(customer, "name"),
            &format!("Pay {due}"),
        );
        format!("{saved}<h2>Pay with another card</h2><form method=\"post\">{fields}</form>")
    } else {
        String::new()
    };
    let body = format!(
        "{}<p class=\"fact\"><span>Status</span> <strong>{}</strong></p><p class=\"fact\"><span>Date</span> <span>{}</span></p>\
         <table><tbody>{rows}</tbody></table><p class=\"fact\"><span>Total</span> <span>{}</span></p><p class=\"fact\"><span>Amount due</span> <strong>{}</strong></p>\
         <p><a href=\"/i/{id}/pdf\">Download PDF</a></p>{pay}",
        alert(message),
        escape(text(invoice, "status")),
        day(number(invoice, "created")),
        escape(&money::show(number(invoice, "total"), currency)),
        escape(&due)
    );
    let status = if message.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::PAYMENT_REQUIRED
    };
    page(status, &format!("Invoice {}", text(invoice, "number")), &body)
}

/// Pays with the saved card or a new one.
pub(crate) async fn submit(Extract(shared): Extract<Arc<Shared>>, Path(id): Path<String>, body: String) -> Response {
    let fields = parse(&body).unwrap_or(Node::Branch(Vec::new()));
    shared.with(|state| {
        if !known(state, &id) || text(state.get(&id), "status") != "open" {
            return invoice(state, &id, "");
        }
        let customer = text(state.get(&id), "customer").to_owned();
        state.enter(&customer);
        if fields.text("saved") == "yes" {
            let result = crate::payments::collect(state, &id, None, false, true);
            return shown(state, &id, None, result);
        }
        let card = match read_card(&fields, state.wall) {
            Ok(card) => card,
            Err(message) => return invoice(state, &id, message),
        };
        if let Err(refusal) = crate::cards::check(&card.number) {
            return invoice(state, &id, refusal.message());
        }
        if crate::cards::outcome(&card.number, false, false) == Outcome::Authentication {
            return ask(state, &id, Some(&card));
        }
        let result = pay_with(state, &id, &customer, &card, false);
        shown(state, &id, Some(&card), result)
    })
}

fn pay_with(state: &mut State, id: &str, customer: &str, card: &Card, present: bool) -> Result<(), ApiError> {
    let method = save_card(state, customer, card, present)?;
    crate::payments::collect(state, id, Some(&method), present, true)
}

fn ask(state: &mut State, id: &str, card: Option<&Card>) -> Response {
    let held = card.map_or(json!({"number": ""}), |card| {
        json!({"number": card.number, "month": card.expiry.0, "year": card.expiry.1, "name": card.name, "email": card.email})
    });
    state.edit(id, |invoice| invoice["_card"] = held);
    see_other(&format!("/i/{id}/authenticate"))
}

fn shown(state: &mut State, id: &str, card: Option<&Card>, result: Result<(), ApiError>) -> Response {
    match result {
        Ok(()) => see_other(&format!("/i/{id}")),
        Err(refusal) if text(&refusal.error, "code") == "invoice_payment_intent_requires_action" => {
            ask(state, id, card)
        }
        Err(refusal) => invoice(state, id, refusal.message()),
    }
}

/// The bank's page.
pub(crate) async fn challenge(Extract(shared): Extract<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let waits = shared.read(|state| held(state.get(&id)).is_some());
    if waits {
        crate::pages::challenge(&format!("/i/{id}/authenticate"))
    } else {
        see_other(&format!("/i/{id}"))
    }
}

/// The bank's answer.
pub(crate) async fn answer(Extract(shared): Extract<Arc<Shared>>, Path(id): Path<String>, body: String) -> Response {
    let fields = parse(&body).unwrap_or(Node::Branch(Vec::new()));
    shared.with(|state| {
        let Some(card) = held(state.get(&id)) else {
            return see_other(&format!("/i/{id}"));
        };
        state.edit(&id, |invoice| invoice["_card"] = Value::Null);
        if fields.text("result") != "complete" {
            return invoice(state, &id, NOT_AUTHENTICATED);
        }
        if text(state.get(&id), "status") != "open" {
            return see_other(&format!("/i/{id}"));
        }
        let customer = text(state.get(&id), "customer").to_owned();
        state.enter(&customer);
        if !card.number.is_empty() {
            let result = pay_with(state, &id, &customer, &card, true);
            return shown(state, &id, Some(&card), result);
        }
        let method = crate::payments::method_for(state, &id);
        state.edit(&method, |method| method["_authenticated"] = json!(true));
        let result = crate::payments::collect(state, &id, None, true, true);
        shown(state, &id, None, result)
    })
}

/// The invoice as a PDF of one page.
pub(crate) async fn pdf(Extract(shared): Extract<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let lines = shared.read(|state| known(state, &id).then(|| summary(state.get(&id))));
    match lines {
        Some(lines) => ([(header::CONTENT_TYPE, "application/pdf")], document(&lines)).into_response(),
        None => page(
            StatusCode::NOT_FOUND,
            "No such page",
            "<p>There is no such invoice, or it is a draft.</p>",
        ),
    }
}

fn summary(invoice: &Value) -> Vec<String> {
    let currency = text(invoice, "currency");
    let mut lines = vec![
        format!("Invoice {}", text(invoice, "number")),
        format!("From the Stripe emulator, {}", day(number(invoice, "created"))),
        format!(
            "To {} {}",
            text(invoice, "customer_name"),
            text(invoice, "customer_email")
        ),
        String::new(),
    ];
    for line in each(&invoice["lines"], "data") {
        lines.push(format!(
            "{}    {}",
            text(line, "description"),
            money::show(number(line, "amount"), currency)
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "Total {}    Status {}",
        money::show(number(invoice, "total"), currency),
        text(invoice, "status")
    ));
    lines
}

/// A PDF with these lines in Helvetica, WinAnsi letters only.
fn document(lines: &[String]) -> Vec<u8> {
    let letter = |c: char| match c {
        '(' | ')' | '\\' => format!("\\{c}"),
        '×' => "\\327".to_owned(),
        '€' => "\\200".to_owned(),
        '£' => "\\243".to_owned(),
        c if c.is_ascii() => c.to_string(),
        _ => "?".to_owned(),
    };
    let shown: String = lines
        .iter()
        .map(|line| format!("({}) Tj T*\n", line.chars().map(letter).collect::<String>()))
        .collect();
    let content = format!("BT /F1 10 Tf 14 TL 50 790 Td\n{shown}ET");
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>".to_owned(),
        format!("<< /Length {} >>\nstream\n{content}\nendstream", content.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>".to_owned(),
    ];
    let mut out = "%PDF-1.4\n".to_owned();
    let mut table = String::new();
    for (index, object) in objects.iter().enumerate() {
        table.push_str(&format!("{:010} 00000 n \n", out.len()));
        out.push_str(&format!("{} 0 obj\n{object}\nendobj\n", index + 1));
    }
    let (start, size) = (out.len(), objects.len() + 1);
    out.push_str(&format!("xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"));
    out.into_bytes()
}
