//! The plan: what it is, changing it, ending it, and paying for the first time.

mod change;
mod checkout;
mod end;
mod view;

pub use change::{apply, keep, preview};
pub use checkout::{cancelled, open, returned};
pub use end::{cancel, cancel_page, portal, resume};
pub use view::page;

use crate::AppError;
use crate::render::{Nav, with_status};
use crate::session::SignedIn;
use crate::ui::{Tone, banner, page_head};
use axum::response::Response;
use domain::DomainError;
use domain::subscriptions::Target;
use http::StatusCode;
use leptos::prelude::*;
use model::access::Interval;
use std::collections::HashMap;

/// A plan and an interval out of a form or an address.
///
/// # Errors
/// When there is no plan in it.
fn target(fields: &HashMap<String, String>) -> Result<Target, DomainError> {
    let plan = fields
        .get("plan")
        .filter(|p| !p.is_empty() && p.len() <= model::catalogue::MAX_SLUG_LEN)
        .ok_or_else(|| DomainError::invalid("plan", "is missing; choose one on the pricing page"))?;
    let interval = fields.get("interval").and_then(|i| i.parse().ok());
    Ok(Target {
        plan: plan.clone(),
        interval: interval.unwrap_or(Interval::Month),
    })
}

/// A page that says why something cannot be done now, with a way back.
///
/// # Errors
/// What is no refusal.
fn refused(visitor: &SignedIn, title: &'static str, error: DomainError) -> Result<Response, AppError> {
    let (status, text) = match error {
        DomainError::Conflict(text) => (StatusCode::CONFLICT, text),
        DomainError::Invalid { problem, .. } => (StatusCode::UNPROCESSABLE_ENTITY, format!("The plan {problem}.")),
        other => return Err(other.into()),
    };
    let page = visitor.console(title, Nav::Plan, || {
        view! {
            {page_head(title, "Nothing was changed.", ())}
            {banner(Tone::Warn, text, view! { <a class="button" href="/plan">"Back to your plan"</a> })}
        }
    });
    Ok(with_status(status, page))
}
