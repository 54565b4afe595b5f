//! Logging in and out.

use super::{away, refuse};
use crate::AppError;
use crate::session::{Visitor, own_path};
use crate::ui::{FormState, field, hidden, submit};
use axum::extract::{Form, Query};
use axum::response::{IntoResponse, Redirect, Response};
use domain::settings::Secret;
use domain::{identity, members};
use leptos::prelude::*;

/// What the address carries.
#[derive(serde::Deserialize)]
pub struct Address {
    #[serde(default)]
    next: String,
}

/// What the form sends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    email: String,
    password: String,
    #[serde(default)]
    next: String,
}

fn draw(visitor: &Visitor, state: FormState) -> Response {
    visitor.page("Log in", move || {
        view! {
            <div class="narrow">
                <h1>"Log in"</h1>
                <form method="post" action="/login" class="stack">
                    {state.summary()}
                    {hidden("next", state.value("next"))}
                    {field(&state, "email", "E-mail", "email", "username", "")}
                    {field(&state, "password", "Password", "password", "current-password", "")}
                    {submit("Log in", "primary")}
                </form>
                <p><a href="/reset">"Forgotten your password?"</a></p>
                <p>"New here? "<a href="/signup">"Sign up"</a></p>
            </div>
        }
    })
}

/// The form.
pub async fn page(visitor: Visitor, Query(address): Query<Address>) -> Response {
    let next = own_path(&address.next).unwrap_or_default();
    match away(&visitor) {
        Some(_) if !next.is_empty() => Redirect::to(next).into_response(),
        Some(response) => response,
        None => draw(&visitor, FormState::empty().with("next", next)),
    }
}

/// Logs in and goes on to where the person wanted to be.
///
/// # Errors
/// When the database fails.
pub async fn submit_form(visitor: Visitor, Form(fields): Form<Fields>) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let next = own_path(&fields.next).unwrap_or_default();
    let password = Secret::new(fields.password);
    let member = match members::log_in(domain, visitor.client().ip, &fields.email, &password).await {
        Ok(member) => member,
        Err(error) => {
            let state = FormState::empty()
                .with("email", fields.email.clone())
                .with("next", next);
            return refuse(state, error, |state| draw(&visitor, state));
        }
    };
    visitor.sign_in(member).await?;
    let identity = identity::of_member(domain, member).await?;
    let to = match identity {
        Some(identity) if !identity.verified() && !next.starts_with("/verify/") => "/verify",
        _ if !next.is_empty() => next,
        Some(identity) if identity.membership().is_none() && identity.verified() => "/admin",
        _ => "/home",
    };
    Ok(Redirect::to(to).into_response())
}

/// Logs out.
///
/// # Errors
/// When the database fails.
pub async fn leave(visitor: Visitor) -> Result<Response, AppError> {
    visitor.sign_out("/").await
}
