//! The spend cap: what it is, what it does, and the form that sets it.

use crate::error::AppError;
use crate::render::{Nav, with_status};
use crate::session::{SignedIn, SignedInBilling};
use crate::ui::{FormState, Tone, banner, card, field, meter_bar, page_head, submit};
use axum::extract::{Form, Query};
use axum::response::{IntoResponse, Redirect, Response};
use domain::DomainError;
use domain::budget::{self, Budget, CapSet};
use http::StatusCode;
use leptos::prelude::*;
use model::Money;
use std::collections::HashMap;

/// `GET /budget`
///
/// # Errors
/// When the database fails.
pub async fn page(visitor: SignedIn, Query(query): Query<HashMap<String, String>>) -> Result<Response, AppError> {
    let current = budget::read(&visitor.site().domain, visitor.viewer()).await?;
    let form = FormState::empty().with("cap", current.cap.map(major).unwrap_or_default());
    let note = match query.get("saved").map(String::as_str) {
        Some("room") => Some((Tone::Good, "Saved. It holds from now on.")),
        Some("stops") => Some((
            Tone::Warn,
            "Saved. This period has spent as much already, so calls that cost something are refused from now on.",
        )),
        Some("none") => Some((Tone::Good, "Saved. Usage charges have no ceiling.")),
        _ => None,
    };
    Ok(draw(&visitor, &current, &form, note))
}

/// `POST /budget`
///
/// # Errors
/// What no change of the form can mend.
pub async fn set(visitor: SignedInBilling, Form(posted): Form<HashMap<String, String>>) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let current = budget::read(domain, visitor.viewer()).await?;
    let typed = posted.get("cap").map(|t| t.trim().to_owned()).unwrap_or_default();
    let wanted = if typed.is_empty() {
        Ok(None)
    } else {
        Money::parse_major(typed.trim_start_matches('$'), current.currency)
            .map(|m| Some(m.minor))
            .map_err(|e| DomainError::invalid("cap", e.to_string()))
    };
    let outcome = match wanted {
        Ok(cap) => budget::set(domain, visitor.billing_manager(), cap)
            .await
            .map(|set| (cap, set)),
        Err(error) => Err(error),
    };
    match outcome {
        Ok((None, _)) => Ok(Redirect::to("/budget?saved=none").into_response()),
        Ok((_, CapSet::Room)) => Ok(Redirect::to("/budget?saved=room").into_response()),
        Ok((_, CapSet::StopsNow)) => Ok(Redirect::to("/budget?saved=stops").into_response()),
        Err(error) => {
            let form = FormState::empty().with("cap", typed).refused(error)?;
            Ok(with_status(
                StatusCode::UNPROCESSABLE_ENTITY,
                draw(&visitor, &current, &form, None),
            ))
        }
    }
}

/// `60.00`: what the field takes.
fn major(money: Money) -> String {
    money
        .to_string()
        .chars()
        .filter(|c| c.is_ascii_digit() || *c == '.')
        .collect()
}

fn draw(visitor: &SignedIn, current: &Budget, form: &FormState, note: Option<(Tone, &'static str)>) -> Response {
    let may = visitor.role().manages_billing();
    visitor.console("Budget", Nav::Budget, || {
        let saved = note.map(|(tone, text)| banner(tone, text, ()));
        let resets = current.period.map_or_else(String::new, |p| format!("resets {}", p.end.minute()));
        let now = match current.cap {
            Some(cap) => meter_bar(
                "Usage charges of the cap",
                current.spent.minor.max(0).unsigned_abs(),
                cap.minor.max(0).unsigned_abs(),
                format!("{} of {cap} usage charges", current.spent),
                resets,
            )
            .into_any(),
            None => view! { <p>{format!("{} usage charges in this period, and no ceiling.", current.spent)}</p> }.into_any(),
        };
        let edit = may.then(|| {
            let label = format!("Spend cap in {}", current.currency.code().to_uppercase());
            view! {
                <form method="post" action="/budget" class="stack">
                    {form.summary()}
                    {field(form, "cap", &label, "text", "off", "Such as 60.00. Empty means no ceiling; 0 means only what your plan includes.")}
                    <ul>
                        <li>"It stops traffic: a call that would cost more than is left is refused with status 402 and spend-cap-reached."</li>
                        <li>"Calls inside your plan's allowance cost nothing and go on."</li>
                        <li>"It is about usage charges. The price of the plan itself is not in it."</li>
                        <li>"It begins anew with each billing period, and a change holds within a second."</li>
                    </ul>
                    <div class="actions">{submit("Save", "primary")}</div>
                </form>
            }
        });
        let denied = (!may).then(|| view! { <p>"Owners and admins of the account can change it."</p> });
        view! {
            {page_head("Budget", "A ceiling on usage charges in a billing period.", ())}
            {saved}
            {card("This period", (), now)}
            {card("Spend cap", (), view! { {edit} {denied} })}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Currency;

    #[test]
    fn the_field_shows_what_it_takes() {
        let cap = Money {
            minor: 123_450,
            currency: Currency::USD,
        };
        assert_eq!(Money::parse_major(&major(cap), Currency::USD), Ok(cap));
    }
}
