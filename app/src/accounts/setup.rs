//! The first admin signs up with the token that the program printed. Afterwards this page does not exist.

use super::refuse;
use crate::AppError;
use crate::render;
use crate::session::Visitor;
use crate::ui::{FormState, field, submit};
use axum::extract::{Form, Query};
use axum::response::{IntoResponse, Redirect, Response};
use domain::bootstrap;
use domain::links::Token;
use domain::settings::Secret;
use leptos::prelude::*;

/// What the address carries.
#[derive(serde::Deserialize)]
pub struct Address {
    #[serde(default)]
    token: String,
}

/// What the form sends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    token: String,
    email: String,
    password: String,
}

fn draw(visitor: &Visitor, state: FormState) -> Response {
    render::private(visitor.page("First admin", move || {
        view! {
            <div class="narrow">
                <h1>"First admin"</h1>
                <p>"Whoever fills this in runs the portal: its plans, its consumers, its money. The page closes when it is done."</p>
                <form method="post" action="/admin/setup" class="stack">
                    {state.summary()}
                    {field(&state, "token", "One-time token", "text", "off", "The program printed it when it started.")}
                    {field(&state, "email", "E-mail", "email", "username", "")}
                    {field(&state, "password", "Password", "password", "new-password", "At least 12 characters. A few words in a row do well.")}
                    {submit("Become the admin", "primary")}
                </form>
            </div>
        }
    }))
}

/// The form.
///
/// # Errors
/// 404 when there is an admin.
pub async fn page(visitor: Visitor, Query(address): Query<Address>) -> Result<Response, AppError> {
    if !bootstrap::is_open(&visitor.site().domain).await? {
        return Err(AppError::not_found());
    }
    Ok(draw(&visitor, FormState::empty().with("token", address.token)))
}

/// Makes the first admin.
///
/// # Errors
/// 404 when there is an admin.
pub async fn submit_form(visitor: Visitor, Form(fields): Form<Fields>) -> Result<Response, AppError> {
    let token = Token::given(fields.token.trim());
    let password = Secret::new(fields.password);
    match bootstrap::first_admin(&visitor.site().domain, &token, &fields.email, &password).await {
        Ok(member) => {
            visitor.sign_in(member).await?;
            Ok(Redirect::to("/admin").into_response())
        }
        Err(error) => {
            let state = FormState::empty()
                .with("token", fields.token)
                .with("email", fields.email);
            refuse(state, error, |state| draw(&visitor, state))
        }
    }
}
