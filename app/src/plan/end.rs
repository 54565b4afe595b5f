//! Ending the plan, taking that back, and the way to the card.

use super::refused;
use crate::AppError;
use crate::render::{Nav, with_status};
use crate::session::SignedInBilling;
use crate::ui::{FormState, field, page_head, submit};
use axum::extract::Form;
use axum::response::{IntoResponse, Redirect, Response};
use domain::DomainError;
use domain::catalogue;
use domain::subscriptions::{self, Subscription};
use http::StatusCode;
use leptos::prelude::*;
use std::collections::HashMap;

const TITLE: &str = "Cancel your plan";

/// `GET /plan/cancel`
///
/// # Errors
/// When the database fails.
pub async fn cancel_page(visitor: SignedInBilling) -> Result<Response, AppError> {
    match paid(&visitor).await? {
        Ok(current) => draw(&visitor, &current, &FormState::empty()).await,
        Err(error) => refused(&visitor, TITLE, error),
    }
}

async fn paid(visitor: &SignedInBilling) -> Result<Result<Subscription, DomainError>, AppError> {
    let current = subscriptions::current(&visitor.site().domain, visitor.viewer()).await?;
    Ok(current
        .filter(Subscription::is_paid)
        .ok_or_else(|| DomainError::Conflict("There is no paid plan to cancel.".to_owned())))
}

async fn draw(visitor: &SignedInBilling, current: &Subscription, form: &FormState) -> Result<Response, AppError> {
    let free = catalogue::current(&visitor.site().domain).await?;
    let free = free.as_ref().and_then(|c| c.free_plan()).map(|p| p.terms.name.clone());
    Ok(visitor.console(TITLE, Nav::Plan, || {
        let (name, end) = (&current.terms.name, current.period.end);
        let after = match free {
            Some(free) => format!("From then on you are on {free}, with the same keys and its limits."),
            None => "From then on your keys are refused; they are kept.".to_owned(),
        };
        let hint = format!("Type {name} to confirm.");
        view! {
            {page_head(format!("Cancel {name}"), format!("{name} goes on until {}.", end.minute()), ())}
            <form method="post" action="/plan/cancel" class="stack">
                {form.summary()}
                <ul>
                    <li>{format!("Until {} nothing changes: limits, features and keys stay.", end.minute())}</li>
                    <li>{after}</li>
                    <li>"Usage beyond the allowance until then is on a last invoice. Nothing is paid back for the running period."</li>
                    <li>"You can take it back until that day."</li>
                </ul>
                {field(form, "name", "Plan", "text", "off", &hint)}
                <div class="actions">{submit(&format!("Cancel {name} on {}", end.day()), "danger")} <a class="button" href="/plan">"Keep my plan"</a></div>
            </form>
        }
    }))
}

/// `POST /plan/cancel`
///
/// # Errors
/// When Stripe cannot be reached.
pub async fn cancel(visitor: SignedInBilling, Form(form): Form<HashMap<String, String>>) -> Result<Response, AppError> {
    let current = match paid(&visitor).await? {
        Ok(current) => current,
        Err(error) => return refused(&visitor, TITLE, error),
    };
    let typed = form.get("name").map(|n| n.trim().to_owned()).unwrap_or_default();
    if !typed.eq_ignore_ascii_case(&current.terms.name) {
        let problem = format!("Type {} to confirm.", current.terms.name);
        let state = FormState::empty()
            .with("name", typed)
            .refused(DomainError::invalid("name", problem))?;
        let page = draw(&visitor, &current, &state).await?;
        return Ok(with_status(StatusCode::UNPROCESSABLE_ENTITY, page));
    }
    match subscriptions::cancel(&visitor.site().domain, visitor.billing_manager()).await {
        Ok(()) => Ok(Redirect::to("/plan?done=cancelled").into_response()),
        Err(error) => refused(&visitor, TITLE, error),
    }
}

/// `POST /plan/resume`
///
/// # Errors
/// When Stripe cannot be reached.
pub async fn resume(visitor: SignedInBilling) -> Result<Response, AppError> {
    match subscriptions::resume(&visitor.site().domain, visitor.billing_manager()).await {
        Ok(()) => Ok(Redirect::to("/plan?done=resumed").into_response()),
        Err(error) => refused(&visitor, "Resume your plan", error),
    }
}

/// `POST /plan/portal`: to Stripe's page for the card and open invoices. Its address is never kept.
///
/// # Errors
/// When Stripe cannot be reached.
pub async fn portal(visitor: SignedInBilling) -> Result<Response, AppError> {
    match subscriptions::portal_url(&visitor.site().domain, visitor.billing_manager()).await {
        Ok(url) => Ok(crate::render::private(Redirect::to(&url).into_response())),
        Err(error) => refused(&visitor, "Card and payments", error),
    }
}
