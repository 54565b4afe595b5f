//! Signing up: an address and a password, nothing else.

use super::{away, refuse};
use crate::AppError;
use crate::session::Visitor;
use crate::ui::{FormState, field, submit};
use axum::extract::Form;
use axum::response::{IntoResponse, Redirect, Response};
use domain::members::{self, SignUp, SignedUp};
use domain::settings::Secret;
use leptos::prelude::*;

/// What the form sends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    email: String,
    password: String,
}

fn draw(visitor: &Visitor, state: FormState) -> Response {
    visitor.page("Sign up", move || {
        view! {
            <div class="narrow">
                <h1>"Get a key"</h1>
                <p>"Sign up, confirm your address, and create your first key. No card needed."</p>
                <form method="post" action="/signup" class="stack">
                    {state.summary()}
                    {field(&state, "email", "E-mail", "email", "username", "")}
                    {field(&state, "password", "Password", "password", "new-password", "At least 12 characters. A few words in a row do well.")}
                    {submit("Sign up", "primary")}
                </form>
                <p>"You have an account? "<a href="/login">"Log in"</a></p>
            </div>
        }
    })
}

/// The form.
pub async fn page(visitor: Visitor) -> Response {
    away(&visitor).unwrap_or_else(|| draw(&visitor, FormState::empty()))
}

/// Signs up. The answer is the same for an address that has an account: a session that waits for a confirmation.
///
/// # Errors
/// When the database fails.
pub async fn submit_form(visitor: Visitor, Form(fields): Form<Fields>) -> Result<Response, AppError> {
    let state = FormState::empty().with("email", fields.email.clone());
    let request = SignUp {
        email: fields.email,
        password: Secret::new(fields.password),
    };
    match members::sign_up(&visitor.site().domain, visitor.client().ip, request).await {
        Ok(SignedUp::Member(member)) => visitor.sign_in(member).await?,
        Ok(SignedUp::Known(email)) => visitor.wait_for(email.address()).await?,
        Err(error) => return refuse(state, error, |state| draw(&visitor, state)),
    }
    Ok(Redirect::to("/verify").into_response())
}
