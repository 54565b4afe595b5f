//! Addresses, and what the emulator's pages share. The pages are plain HTML and need no JavaScript.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get, post};

use crate::checkout::Card;
use crate::form::Node;
use crate::running::Shared;
use crate::{api, checkout_page, control, invoice_page, portal_page};

/// All addresses of an emulator.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(control::page))
        .route("/_control", get(control::page))
        .route("/_control/state", get(control::state))
        .route("/_control/{action}", post(control::act))
        .route("/_style.css", get(style))
        .route("/c/pay/{session}", get(checkout_page::show).post(checkout_page::submit))
        .route(
            "/c/pay/{session}/authenticate",
            get(checkout_page::challenge).post(checkout_page::answer),
        )
        .route("/p/session/{secret}", get(portal_page::show).post(portal_page::submit))
        .route(
            "/p/session/{secret}/authenticate",
            get(portal_page::challenge).post(portal_page::answer),
        )
        .route("/i/{invoice}", get(invoice_page::show).post(invoice_page::submit))
        .route(
            "/i/{invoice}/authenticate",
            get(invoice_page::challenge).post(invoice_page::answer),
        )
        .route("/i/{invoice}/pdf", get(invoice_page::pdf))
        .route("/v1/{*path}", any(api::handle))
        .fallback(missing)
        .with_state(shared)
}

async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css")], include_str!("style.css")).into_response()
}

async fn missing() -> Response {
    page(
        StatusCode::NOT_FOUND,
        "Not found",
        "<p>The Stripe emulator has no such page. <a href=\"/_control\">Control page</a></p>",
    )
}

/// Text as HTML shows it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// A whole page. It is never cached, so that the back button asks again.
pub(crate) fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"robots\" content=\"noindex\"><title>{0} · Stripe emulator</title><link rel=\"stylesheet\" href=\"/_style.css\"></head>\
         <body><p class=\"notice\"><strong>Stripe emulator.</strong> No real money moves here.</p><main><h1>{0}</h1>{body}</main></body></html>",
        escape(title)
    );
    let mut response = (status, Html(html)).into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 303 to another address.
pub(crate) fn see_other(to: &str) -> Response {
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    (
        StatusCode::SEE_OTHER,
        [
            (header::LOCATION, to),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ],
    )
        .into_response()
}

/// A message above a form, or nothing.
pub(crate) fn alert(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!("<p class=\"alert\" role=\"alert\">{}</p>", escape(message))
    }
}

/// The fields of a card. `email` is the address on file, which cannot be changed; without one it is asked for.
pub(crate) fn card_fields(email: Option<&str>, name: &str, button: &str) -> String {
    let email = match email {
        Some(known) if !known.is_empty() => format!(
            "<p class=\"fact\"><span>E-mail</span> <span>{}</span></p>",
            escape(known)
        ),
        Some(_) => String::new(),
        None => {
            "<label>E-mail <input name=\"email\" type=\"email\" autocomplete=\"email\" required></label>".to_owned()
        }
    };
    format!(
        "{email}<label>Card number <input name=\"number\" inputmode=\"numeric\" autocomplete=\"cc-number\" placeholder=\"4242 4242 4242 4242\" required></label>\
         <div class=\"pair\"><label>Expiry (MM / YY) <input name=\"expiry\" inputmode=\"numeric\" autocomplete=\"cc-exp\" placeholder=\"12 / 34\" required></label>\
         <label>CVC <input name=\"cvc\" inputmode=\"numeric\" autocomplete=\"cc-csc\" placeholder=\"123\" required></label></div>\
         <label>Name on card <input name=\"name\" autocomplete=\"cc-name\" value=\"{}\" required></label>\
         <button type=\"submit\">{}</button>\
         <details><summary>Test cards</summary><dl><dt><code>4242 4242 4242 4242</code></dt><dd>pays</dd><dt><code>4000 0000 0000 0002</code></dt><dd>is declined</dd>\
         <dt><code>4000 0025 0000 3155</code></dt><dd>asks for 3-D Secure</dd><dt><code>4000 0000 0000 0341</code></dt><dd>is saved, later charges fail</dd></dl></details>",
        escape(name),
        escape(button)
    )
}

/// The card out of a submitted form, or what is wrong with it. `now` in unix seconds decides what has expired.
pub(crate) fn read_card(form: &Node, now: i64) -> Result<Card, &'static str> {
    let digits = |name: &str| form.text(name).chars().filter(char::is_ascii_digit).collect::<String>();
    let number = digits("number");
    if number.len() < 12 {
        return Err("Your card number is incomplete.");
    }
    let expiry = digits("expiry");
    let (month, year) = match (expiry.get(..2), expiry.get(2..)) {
        (Some(month), Some(year)) if year.len() == 2 || year.len() == 4 => (month.parse::<i64>(), year.parse::<i64>()),
        _ => return Err("Your card's expiry date is incomplete."),
    };
    let (Ok(month @ 1..=12), Ok(year)) = (month, year) else {
        return Err("Your card's expiry date is invalid.");
    };
    let year = if year < 100 { 2000 + year } else { year };
    let end = format!("{year:04}-{month:02}-01T00:00:00Z")
        .parse::<jiff::Timestamp>()
        .map_or(0, jiff::Timestamp::as_second);
    let every = crate::periods::Interval {
        unit: "month".to_owned(),
        count: 1,
    };
    if every.after(end, 1) <= now {
        return Err("Your card's expiry date is in the past.");
    }
    if !(3..=4).contains(&digits("cvc").len()) {
        return Err("Your card's security code is incomplete.");
    }
    Ok(Card {
        number,
        expiry: (month, year),
        name: form.text("name").trim().to_owned(),
        email: form.text("email").trim().to_owned(),
    })
}

/// The page of the bank: complete or fail.
pub(crate) fn challenge(action: &str) -> Response {
    let body = format!(
        "<p>Your bank wants to know that it is you. This page plays the bank's.</p><form method=\"post\" action=\"{}\" class=\"row\">\
         <button name=\"result\" value=\"complete\">Complete</button><button name=\"result\" value=\"fail\" class=\"plain\">Fail</button></form>",
        escape(action)
    );
    page(StatusCode::OK, "3-D Secure", &body)
}

/// What the hosted pages say when 3-D Secure failed.
pub(crate) const NOT_AUTHENTICATED: &str =
    "We are unable to authenticate your payment method. Please choose a different payment method and try again.";
