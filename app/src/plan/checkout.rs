//! Paying for the first time: to Stripe, and back.

use super::{refused, target};
use crate::AppError;
use crate::render::Nav;
use crate::session::{SignedIn, SignedInBilling};
use crate::ui::{Tone, banner, hidden, page_head};
use axum::extract::{Form, Query};
use axum::response::{IntoResponse, Redirect, Response};
use domain::subscriptions::{self, Opened, Return, Subscription};
use http::{HeaderValue, header};
use leptos::prelude::*;
use std::collections::HashMap;

/// `POST /plan/checkout`: to Stripe's page, the open one when there is one.
///
/// # Errors
/// When Stripe cannot be reached.
pub async fn open(visitor: SignedInBilling, Form(form): Form<HashMap<String, String>>) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let outcome = match target(&form) {
        Ok(target) => subscriptions::open(domain, visitor.billing_manager(), &target.plan, target.interval).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(Opened::Pay(url)) => Ok(Redirect::to(&url).into_response()),
        Ok(Opened::Paid { session }) => Ok(Redirect::to(&format!("/plan/return?session_id={session}")).into_response()),
        Err(error) => refused(&visitor, "Choose a plan", error),
    }
}

/// `GET /plan/return`: waits for the payment to arrive. Opening it again is harmless.
///
/// # Errors
/// 404 for a session that is not this account's.
pub async fn returned(visitor: SignedIn, Query(query): Query<HashMap<String, String>>) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let session = query.get("session_id").ok_or_else(AppError::not_found)?;
    let state = subscriptions::returned(domain, visitor.viewer(), session).await?;
    let current = subscriptions::current(domain, visitor.viewer()).await?;
    let waits = state == Return::Waiting;
    let mut response = visitor.console("Payment", Nav::Plan, || outcome(state, current));
    if waits {
        // Looks again by itself, without a script.
        response
            .headers_mut()
            .insert(header::REFRESH, HeaderValue::from_static("2"));
    }
    Ok(response)
}

fn outcome(state: Return, current: Option<Subscription>) -> AnyView {
    match state {
        Return::Active => {
            let name = current.map_or_else(|| "your plan".to_owned(), |s| s.terms.name);
            view! {
                {page_head(format!("You are on {name}"), "It is paid for and in force: your keys have the new limits already.", ())}
                <div class="actions">
                    <a class="button" data-kind="primary" href="/home">"Make a call"</a>
                    <a class="button" href="/keys">"Keys"</a>
                    <a class="button" href="/invoices">"Invoices"</a>
                </div>
            }
            .into_any()
        }
        Return::Waiting => view! {
            {page_head("Your payment is on its way", "Stripe is confirming it. This page looks again every two seconds; you can also leave, the plan starts by itself.", ())}
            <p role="status"><progress aria-label="Waiting for the payment"></progress></p>
        }
        .into_any(),
        Return::Open(url) => view! {
            {page_head("Not paid yet", "Nothing was charged, and your plan is what it was.", ())}
            {banner(Tone::Warn, "The payment page is still open.", view! { <a class="button" data-kind="primary" href=url>"Go on to pay"</a> })}
        }
        .into_any(),
        Return::Expired => view! {
            {page_head("The payment page was closed", "Nothing was charged, and your plan is what it was.", ())}
            <p><a class="button" data-kind="primary" href="/pricing">"Choose a plan"</a></p>
        }
        .into_any(),
    }
}

/// `GET /plan/cancelled`: back from Stripe without paying. Keeps the plan that was chosen.
///
/// # Errors
/// None.
pub async fn cancelled(visitor: SignedIn, Query(query): Query<HashMap<String, String>>) -> Result<Response, AppError> {
    let chosen = target(&query).ok().filter(|_| visitor.role().manages_billing());
    Ok(visitor.console("Payment", Nav::Plan, || {
        let resume = chosen.map(|target| {
            view! {
                <form method="post" action="/plan/checkout">
                    {hidden("plan", target.plan)}
                    {hidden("interval", target.interval.to_string())}
                    <button class="button" data-kind="primary">"Go on to pay"</button>
                </form>
            }
        });
        view! {
            {page_head("Not paid", "Nothing was charged, and your plan is what it was.", ())}
            <div class="actions">{resume}<a class="button" href="/pricing">"Look at the plans"</a></div>
        }
    }))
}
