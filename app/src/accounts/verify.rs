//! Confirming an address: the page that waits, and the page behind the mailed link.

use super::{away, refuse};
use crate::AppError;
use crate::session::{Visitor, escape};
use crate::ui::{FormState, Tone, banner, submit};
use axum::extract::{Path, Query};
use axum::response::{IntoResponse, Redirect, Response};
use domain::links::Token;
use domain::members;
use leptos::prelude::*;

/// What the address carries.
#[derive(serde::Deserialize)]
pub struct Address {
    sent: Option<String>,
}

fn draw_waiting(visitor: &Visitor, email: String, state: FormState, sent: bool) -> Response {
    let development = visitor.site().domain.settings.development;
    visitor.page("Confirm your address", move || {
        let sent = sent.then(|| {
            let text = "Sent again, unless the last mail left less than a minute ago. Look in the spam folder too.";
            banner(Tone::Info, text, ())
        });
        let outbox = development.then(|| {
            view! { <p>"This portal runs for development: "<a href="/development/mail">"read the mail here"</a>"."</p> }
        });
        view! {
            <div class="narrow">
                <h1>"Confirm your address"</h1>
                {sent}
                <p>"We sent a mail to "<strong>{email}</strong>". Open the link in it and press the button there: then you can create your first key."</p>
                {outbox}
                <form method="post" action="/verify" class="stack">
                    {state.summary()}
                    {submit("Send it again", "")}
                </form>
                <form method="post" action="/logout">
                    <p>"Not your address? "<button class="button" data-kind="quiet">"Start again"</button></p>
                </form>
            </div>
        }
    })
}

/// The page that waits. It looks the same whether an account was made or the address had one.
pub async fn waiting(visitor: Visitor, Query(address): Query<Address>) -> Response {
    if let Some(response) = away(&visitor) {
        return response;
    }
    match visitor.waiting().map(str::to_owned) {
        Some(email) => draw_waiting(&visitor, email, FormState::empty(), address.sent.is_some()),
        None => Redirect::to("/login").into_response(),
    }
}

/// Sends the mail again.
///
/// # Errors
/// When the database fails.
pub async fn resend(visitor: Visitor) -> Result<Response, AppError> {
    if let Some(response) = away(&visitor) {
        return Ok(response);
    }
    let Some(email) = visitor.waiting().map(str::to_owned) else {
        return Ok(Redirect::to("/login").into_response());
    };
    let member = visitor.unverified().map(|identity| identity.member());
    match members::resend(&visitor.site().domain, visitor.client().ip, member, &email).await {
        Ok(()) => Ok(Redirect::to("/verify?sent=1").into_response()),
        Err(error) => refuse(FormState::empty(), error, |state| {
            draw_waiting(&visitor, email, state, false)
        }),
    }
}

fn draw_link(visitor: &Visitor, token: &str, email: String, state: FormState) -> Response {
    let action = format!("/verify/{}", escape(token));
    visitor.page("Confirm your address", move || {
        view! {
            <div class="narrow">
                <h1>"Confirm your address"</h1>
                <p>"You are logged in as "<strong>{email}</strong>"."</p>
                <form method="post" action=action class="stack">
                    {state.summary()}
                    {submit("Confirm this address", "primary")}
                </form>
                <p><a href="/verify">"Ask for a new link"</a></p>
            </div>
        }
    })
}

fn log_in_first(token: &str) -> Response {
    let next = escape(&format!("/verify/{}", escape(token)));
    Redirect::to(&format!("/login?next={next}")).into_response()
}

/// The page behind the link. It changes nothing: mail scanners open links too.
pub async fn link(visitor: Visitor, Path(token): Path<String>) -> Response {
    if let Some(response) = away(&visitor) {
        return response;
    }
    match visitor.unverified().map(|identity| identity.email().to_owned()) {
        Some(email) => draw_link(&visitor, &token, email, FormState::empty()),
        None => log_in_first(&token),
    }
}

/// Confirms the address.
///
/// # Errors
/// When the database fails.
pub async fn confirm(visitor: Visitor, Path(token): Path<String>) -> Result<Response, AppError> {
    if let Some(response) = away(&visitor) {
        return Ok(response);
    }
    let Some(identity) = visitor.unverified() else {
        return Ok(log_in_first(&token));
    };
    let (member, email) = (identity.member(), identity.email().to_owned());
    match members::verify(&visitor.site().domain, member, &Token::given(&token)).await {
        Ok(()) => {
            // The session has rights now that it did not have: it gets an id that nobody knew before.
            visitor.sign_in(member).await?;
            Ok(Redirect::to("/home").into_response())
        }
        Err(error) => refuse(FormState::empty(), error, |state| {
            draw_link(&visitor, &token, email, state)
        }),
    }
}
