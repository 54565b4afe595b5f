//! What one key may use in a billing period: the page, and the fields that the form of a new key has, too.

use super::change::id_of;
use crate::error::AppError;
use crate::render::{Nav, with_status};
use crate::session::SignedInKeys;
use crate::ui::{FormState, Tone, banner, card, field, page_head, submit};
use axum::extract::{Form, Path, Query};
use axum::response::{IntoResponse, Redirect, Response};
use domain::key_limits::{self, InForce, Limits};
use domain::keys::{self, Key};
use domain::{Domain, DomainError, Viewer, budget};
use http::StatusCode;
use leptos::prelude::*;
use model::money::{Major, grouped};
use model::{Currency, Money};
use std::collections::HashMap;

/// The fields' names.
pub(super) const FIELDS: [&str; 2] = ["quota", "budget"];

/// What a form says.
pub(super) fn wanted(posted: &HashMap<String, String>, currency: Currency) -> domain::Result<Limits> {
    let value = |name: &str| posted.get(name).map_or("", |v| v.trim());
    let digits: String = value("quota")
        .chars()
        .filter(|c| !matches!(c, ',' | '_' | ' '))
        .collect();
    let quota_units = match digits.as_str() {
        "" => None,
        digits => Some(
            digits
                .parse()
                .map_err(|_| DomainError::invalid("quota", "Give a whole number, such as 10,000."))?,
        ),
    };
    let budget_minor = match value("budget").trim_start_matches('$') {
        "" => None,
        text => {
            let money = Money::parse_major(text, currency);
            Some(money.map_err(|e| DomainError::invalid("budget", e.to_string()))?.minor)
        }
    };
    let limits = Limits {
        quota_units,
        budget_minor,
    };
    key_limits::check(limits).map(|()| limits)
}

/// The currency of the account's charges.
pub(super) async fn currency(domain: &Domain, viewer: &Viewer) -> domain::Result<Currency> {
    Ok(budget::read(domain, viewer).await?.currency)
}

/// Both fields.
pub(super) fn fields(form: &FormState, currency: Currency) -> impl IntoView + use<> {
    let label = format!("Budget in {} a billing period", currency.code().to_uppercase());
    view! {
        {field(form, "quota", "Units a billing period", "text", "off", "Such as 10,000. Empty means as many as your plan lets through.")}
        {field(form, "budget", &label, "text", "off", "Such as 20.00: the key's part of your usage charges. Empty means no budget of its own.")}
    }
}

fn filled(now: &InForce) -> FormState {
    let (limits, currency) = (now.limits, now.currency);
    let money = |minor| Major::from(Money { minor, currency }).to_string();
    FormState::empty()
        .with("quota", limits.quota_units.map(|n| n.to_string()).unwrap_or_default())
        .with("budget", limits.budget_minor.map(money).unwrap_or_default())
}

/// `GET /keys/{id}/limits`
///
/// # Errors
/// Not found when the key is not the account's.
pub async fn limits_page(
    visitor: SignedInKeys,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, AppError> {
    let (domain, id) = (&visitor.site().domain, id_of(&id)?);
    let key = keys::get(domain, visitor.viewer(), id).await?;
    let now = key_limits::read(domain, visitor.viewer(), id).await?;
    Ok(draw(&visitor, &key, &now, &filled(&now), query.contains_key("saved")))
}

/// `POST /keys/{id}/limits`
///
/// # Errors
/// What no change of the form can mend.
pub async fn limits(
    visitor: SignedInKeys,
    Path(id): Path<String>,
    Form(posted): Form<HashMap<String, String>>,
) -> Result<Response, AppError> {
    let (domain, id) = (&visitor.site().domain, id_of(&id)?);
    let key = keys::get(domain, visitor.viewer(), id).await?;
    let now = key_limits::read(domain, visitor.viewer(), id).await?;
    let set = match wanted(&posted, now.currency) {
        Ok(limits) => key_limits::set(domain, visitor.key_manager(), id, limits).await,
        Err(error) => Err(error),
    };
    match set {
        Ok(()) => Ok(Redirect::to(&format!("/keys/{id}/limits?saved=1")).into_response()),
        Err(error) => {
            let mut form = FormState::empty();
            for name in FIELDS {
                form = form.with(name, posted.get(name).cloned().unwrap_or_default());
            }
            let page = draw(&visitor, &key, &now, &form.refused(error)?, false);
            Ok(with_status(StatusCode::UNPROCESSABLE_ENTITY, page))
        }
    }
}

fn draw(visitor: &SignedInKeys, key: &Key, now: &InForce, form: &FormState, saved: bool) -> Response {
    let title = format!("Limits of {}", key.name);
    visitor.console(&title, Nav::Keys, || {
        let saved = saved.then(|| banner(Tone::Good, "Saved. It holds within a second.", ()));
        let resets = now
            .period
            .map_or_else(String::new, |p| format!(" The count begins anew on {}.", p.end.minute()));
        let who = match now.keys {
            0 | 1 => "This key has".to_owned(),
            2 => "This key and the other one of its rotation together have".to_owned(),
            more => format!("This key and the {} others of its rotations together have", more - 1),
        };
        let body = view! {
            <form method="post" action=format!("/keys/{}/limits", key.id) class="stack">
                {form.summary()}
                <p>{format!("{who} used {} units in this billing period: {} of the usage charges.{resets}", grouped(now.used), now.spent)}</p>
                {fields(form, now.currency)}
                <ul>
                    <li>"A call beyond the units is refused with status 429 and key-quota-reached, one beyond the budget with 402 and key-budget-reached. Other keys go on."</li>
                    <li>"The key's part of the usage charges is its part of the units: calls inside your plan's allowance are shared by all keys."</li>
                    <li>"The limits stay when you rotate the key, for the old and the new one together, and so does what is used."</li>
                    <li>"Your plan's quota and your account's spend cap hold besides."</li>
                </ul>
                <div class="actions">{submit("Save", "primary")} <a class="button" data-kind="quiet" href="/keys">"Back"</a></div>
            </form>
        };
        view! {
            {page_head(title.clone(), "What this key alone may use in a billing period.", ())}
            {saved}
            {card("Limits", (), body)}
        }
    })
}
