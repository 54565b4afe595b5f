//! Changing a paid plan: what it does and costs, then the button.

use super::{refused, target};
use crate::AppError;
use crate::pricing::words;
use crate::render::Nav;
use crate::session::SignedInBilling;
use crate::ui::{card, hidden, page_head, stat, submit};
use axum::extract::{Form, Query};
use axum::response::{IntoResponse, Redirect, Response};
use domain::DomainError;
use domain::subscriptions::{self, ChangePreview, Done, Effect, Target};
use leptos::prelude::*;
use model::Time;
use std::collections::HashMap;

const TITLE: &str = "Change your plan";

/// `GET /plan/change`
///
/// # Errors
/// When Stripe cannot be reached.
pub async fn preview(
    visitor: SignedInBilling,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let target = match target(&query) {
        Ok(target) => target,
        Err(error) => return refused(&visitor, TITLE, error),
    };
    match subscriptions::preview(domain, visitor.billing_manager(), &target).await {
        Ok(preview) => {
            let now = domain.clock.now();
            Ok(visitor.console(TITLE, Nav::Plan, || draw(&preview, &target, now)))
        }
        Err(error) => refused(&visitor, TITLE, error),
    }
}

fn draw(preview: &ChangePreview, target: &Target, now: Time) -> impl IntoView + use<> {
    let (from, to) = (preview.from.terms.name.clone(), preview.to.name.clone());
    let (at, when, consequence, verb) = match preview.effect {
        Effect::Now(at) => (
            at,
            "now".to_owned(),
            "The new limits hold as soon as the payment is through. If it is declined, everything stays as it is."
                .to_owned(),
            format!("Pay {} and change to {to}", preview.due_now),
        ),
        Effect::AtPeriodEnd(end) => (
            now,
            end.day(),
            format!(
                "Until {} you keep {from} with all its limits. You can take the change back until then.",
                end.minute()
            ),
            format!("Change to {to} on {}", end.day()),
        ),
    };
    let lines: Vec<_> = preview
        .lines
        .iter()
        .map(|(text, amount)| view! { <tr><td>{text.clone()}</td><td class="num">{amount.to_string()}</td></tr> })
        .collect();
    let breakdown = (!lines.is_empty()).then(|| {
        view! {
            <div class="table-wrap" tabindex="0" role="group" aria-label="Charges and credits"><table>
                <thead><tr><th scope="col">"Charge or credit"</th><th scope="col" class="num">"Amount"</th></tr></thead>
                <tbody>{lines}</tbody>
            </table></div>
        }
    });
    let (next, next_at) = preview.next;
    let figures = view! {
        <div class="stats">
            {stat("Due today", preview.due_now.to_string(), "credit for unused time taken off".to_owned())}
            {stat("Next invoice", words::short(next), format!("on {}, plus usage", next_at.day()))}
            {stat("Takes effect", when, format!("{from} to {to}, by the {}", target.interval))}
        </div>
        {breakdown}
    };
    view! {
        {page_head(format!("{from} to {to}"), consequence, ())}
        {card("What it costs", (), figures)}
        <form method="post" action="/plan/change" class="stack">
            {hidden("plan", target.plan.clone())}
            {hidden("interval", target.interval.to_string())}
            {hidden("at", at.unix_ms().to_string())}
            <div class="actions">{submit(&verb, "primary")} <a class="button" href="/plan">"Keep my plan"</a></div>
            <p><small>"Renews until cancelled. Prices exclude tax. Payment is handled by Stripe."</small></p>
        </form>
    }
}

/// `POST /plan/change`
///
/// # Errors
/// When Stripe cannot be reached.
pub async fn apply(visitor: SignedInBilling, Form(form): Form<HashMap<String, String>>) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let at = form
        .get("at")
        .and_then(|at| at.parse().ok())
        .map(Time::from_unix_ms)
        .ok_or_else(|| DomainError::Conflict("This preview is out of date. Look at it again.".to_owned()));
    let outcome = match (target(&form), at) {
        (Ok(target), Ok(at)) => subscriptions::apply(domain, visitor.billing_manager(), &target, at).await,
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    match outcome {
        Ok(done) => {
            let what = match done {
                Done::Changed => "changed",
                Done::Pending { .. } => "pending",
                Done::Scheduled(_) => "scheduled",
            };
            Ok(Redirect::to(&format!("/plan?done={what}")).into_response())
        }
        Err(error) => refused(&visitor, TITLE, error),
    }
}

/// `POST /plan/keep`: takes a scheduled change back.
///
/// # Errors
/// When Stripe cannot be reached.
pub async fn keep(visitor: SignedInBilling) -> Result<Response, AppError> {
    match subscriptions::keep_plan(&visitor.site().domain, visitor.billing_manager()).await {
        Ok(()) => Ok(Redirect::to("/plan?done=kept").into_response()),
        Err(error) => refused(&visitor, TITLE, error),
    }
}
