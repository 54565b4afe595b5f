//! A lost password: asking for a link, and setting a new one with it.

use super::refuse;
use crate::AppError;
use crate::render;
use crate::session::{Visitor, escape};
use crate::ui::{FormState, field, submit};
use axum::extract::{Form, Path};
use axum::response::{IntoResponse, Redirect, Response};
use domain::links::{self, Purpose, Token};
use domain::members;
use domain::settings::Secret;
use http::StatusCode;
use leptos::prelude::*;

/// What the first form sends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    email: String,
}

/// What the second form sends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    password: String,
}

fn draw_ask(visitor: &Visitor, state: FormState) -> Response {
    visitor.page("Set a new password", move || {
        view! {
            <div class="narrow">
                <h1>"Set a new password"</h1>
                <p>"We mail you a link. It works once, for 30 minutes."</p>
                <form method="post" action="/reset" class="stack">
                    {state.summary()}
                    {field(&state, "email", "E-mail", "email", "username", "")}
                    {submit("Send the link", "primary")}
                </form>
                <p><a href="/login">"Back to log-in"</a></p>
            </div>
        }
    })
}

/// The form that asks for a link.
pub async fn ask(visitor: Visitor) -> Response {
    draw_ask(&visitor, FormState::empty())
}

/// Asks for a link. The answer does not say whether the address has an account.
///
/// # Errors
/// When the database fails.
pub async fn send(visitor: Visitor, Form(asked): Form<Asked>) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    if let Err(error) = members::ask_reset(domain, visitor.client().ip, &asked.email).await {
        let state = FormState::empty().with("email", asked.email);
        return refuse(state, error, |state| draw_ask(&visitor, state));
    }
    let development = domain.settings.development;
    Ok(visitor.page("Look in your mail", move || {
        let outbox = development.then(|| {
            view! { <p>"This portal runs for development: "<a href="/development/mail">"read the mail here"</a>"."</p> }
        });
        view! {
            <div class="narrow">
                <h1>"Look in your mail"</h1>
                <p>"If "<strong>{asked.email}</strong>" has an account, a link to set a new password is on its way. Look in the spam folder too; after a minute you can ask again."</p>
                {outbox}
                <p><a href="/login">"Back to log-in"</a></p>
            </div>
        }
    }))
}

fn draw_set(visitor: &Visitor, token: &str, state: FormState) -> Response {
    let action = format!("/reset/{}", escape(token));
    render::private(visitor.page("Set a new password", move || {
        view! {
            <div class="narrow">
                <h1>"Set a new password"</h1>
                <p>"You will be logged out everywhere else."</p>
                <form method="post" action=action class="stack">
                    {state.summary()}
                    {field(&state, "password", "New password", "password", "new-password", "At least 12 characters. A few words in a row do well.")}
                    {submit("Set the password", "primary")}
                </form>
            </div>
        }
    }))
}

fn draw_spent(visitor: &Visitor) -> Response {
    let page = visitor.page("This link no longer works", || {
        view! {
            <div class="narrow">
                <h1>"This link no longer works"</h1>
                <p>"It was used, is older than 30 minutes, or there is a newer one."</p>
                <p><a class="button" data-kind="primary" href="/reset">"Ask for a new link"</a></p>
            </div>
        }
    });
    render::with_status(StatusCode::GONE, page)
}

/// The page behind the link. It changes nothing: mail scanners open links too.
///
/// # Errors
/// When the database fails.
pub async fn link(visitor: Visitor, Path(token): Path<String>) -> Result<Response, AppError> {
    let owner = links::owner(&visitor.site().domain, &Token::given(&token), Purpose::Reset).await?;
    Ok(match owner {
        Some(_) => draw_set(&visitor, &token, FormState::empty()),
        None => draw_spent(&visitor),
    })
}

/// Sets the password, ends all sessions and begins a new one.
///
/// # Errors
/// When the database fails.
pub async fn set(
    visitor: Visitor,
    Path(token): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    match members::reset(domain, &Token::given(&token), &Secret::new(fields.password)).await {
        Ok(member) => {
            visitor.sign_in(member).await?;
            Ok(Redirect::to("/home").into_response())
        }
        Err(domain::DomainError::Conflict(_)) => Ok(draw_spent(&visitor)),
        Err(error) => refuse(FormState::empty(), error, |state| draw_set(&visitor, &token, state)),
    }
}
