//! Rotating and revoking a key: each has a page that says what will happen, and a form on it.

use super::view::{curl_line, reveal};
use super::{last_used, state_badge};
use crate::error::AppError;
use crate::render::{Nav, with_status};
use crate::session::SignedInKeys;
use crate::ui::{FormState, card, page_head, select, submit};
use axum::extract::{Form, Path};
use axum::response::{IntoResponse, Redirect, Response};
use domain::DomainError;
use domain::keys::{self, Key, Overlap};
use http::StatusCode;
use leptos::prelude::*;
use model::{KeyId, Time};
use std::collections::HashMap;

pub(super) fn id_of(text: &str) -> Result<KeyId, AppError> {
    text.parse().map_err(|_| AppError::not_found())
}

/// `GET /keys/{id}/rotate`
///
/// # Errors
/// Not found when the key is not the account's.
pub async fn rotate_page(visitor: SignedInKeys, Path(id): Path<String>) -> Result<Response, AppError> {
    let key = keys::get(&visitor.site().domain, visitor.viewer(), id_of(&id)?).await?;
    Ok(rotate_form(
        &visitor,
        &key,
        &FormState::empty().with("overlap", Overlap::Day.word()),
    ))
}

/// `POST /keys/{id}/rotate`
///
/// # Errors
/// What no change of the form can mend.
pub async fn rotate(
    visitor: SignedInKeys,
    Path(id): Path<String>,
    Form(posted): Form<HashMap<String, String>>,
) -> Result<Response, AppError> {
    let (domain, id) = (&visitor.site().domain, id_of(&id)?);
    let word = posted.get("overlap").cloned().unwrap_or_default();
    let made = match Overlap::from_word(&word) {
        Some(overlap) => keys::rotate(domain, visitor.key_manager(), id, overlap)
            .await
            .map(|created| (created, overlap)),
        None => Err(DomainError::invalid("overlap", "Choose one of the list.")),
    };
    match made {
        Ok((created, overlap)) => {
            let routes = keys::routes(domain).await?;
            let gateway = &domain.settings.gateway_url;
            let curl = curl_line(gateway, &routes, created.routes.as_deref(), created.plain.reveal());
            let old = keys::get(domain, visitor.viewer(), id).await?;
            let note = match (overlap, old.expires_at) {
                (Overlap::None, _) | (_, None) => "The old key stopped working.".to_owned(),
                (_, Some(end)) => format!("The old key goes on working until {}.", end.minute()),
            };
            Ok(visitor.console("Your new key", Nav::Keys, || reveal(&created, curl, note)))
        }
        Err(error) => {
            let form = FormState::empty().with("overlap", word).refused(error)?;
            let key = keys::get(domain, visitor.viewer(), id).await?;
            Ok(with_status(
                StatusCode::UNPROCESSABLE_ENTITY,
                rotate_form(&visitor, &key, &form),
            ))
        }
    }
}

fn overlap_text(overlap: Overlap) -> &'static str {
    match overlap {
        Overlap::None => "Stop the old key now",
        Overlap::Hour => "Both work for 1 hour",
        Overlap::Day => "Both work for 24 hours",
        Overlap::Week => "Both work for 7 days",
    }
}

fn rotate_form(visitor: &SignedInKeys, key: &Key, form: &FormState) -> Response {
    let now = visitor.site().domain.clock.now();
    let title = format!("Rotate {}", key.name);
    visitor.console(&title, Nav::Keys, || {
        let options = Overlap::ALL.map(|o| (o.word().to_owned(), overlap_text(o).to_owned()));
        let body = view! {
            {facts(key, now)}
            <form method="post" action=format!("/keys/{}/rotate", key.id) class="stack">
                {form.summary()}
                <p>"A new key takes over, with the same name, routes and expiry. Both count against the same quota while both work, and against one set of limits where the key has limits of its own."</p>
                {select(form, "overlap", "The old key", &options, "Long enough for every service that uses it to change over.")}
                <div class="actions">{submit("Rotate key", "primary")} <a class="button" data-kind="quiet" href="/keys">"Back"</a></div>
            </form>
        };
        view! {
            {page_head(title.clone(), "You will see the new key once, on the next page.", ())}
            {card("What happens", (), body)}
        }
    })
}

/// `GET /keys/{id}/revoke`
///
/// # Errors
/// Not found when the key is not the account's.
pub async fn revoke_page(visitor: SignedInKeys, Path(id): Path<String>) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let key = keys::get(domain, visitor.viewer(), id_of(&id)?).await?;
    let now = domain.clock.now();
    let title = format!("Revoke {}", key.name);
    Ok(visitor.console(&title, Nav::Keys, || {
        let body = view! {
            {facts(&key, now)}
            <form method="post" action=format!("/keys/{}/revoke", key.id) class="stack">
                <p>"Every request with this key is refused from now on, within a second, with status 401. This cannot be undone."</p>
                <p>"To change keys without a break, " <a href=format!("/keys/{}/rotate", key.id)>"rotate it"</a> " instead."</p>
                <div class="actions">{submit("Revoke key", "danger")} <a class="button" data-kind="quiet" href="/keys">"Back"</a></div>
            </form>
        };
        view! {
            {page_head(title.clone(), "", ())}
            {card("What happens", (), body)}
        }
    }))
}

/// `POST /keys/{id}/revoke`
///
/// # Errors
/// Not found when the key is not the account's.
pub async fn revoke(visitor: SignedInKeys, Path(id): Path<String>) -> Result<Response, AppError> {
    keys::revoke(&visitor.site().domain, visitor.key_manager(), id_of(&id)?).await?;
    Ok(Redirect::to("/keys").into_response())
}

fn facts(key: &Key, now: Time) -> impl IntoView + use<> {
    view! {
        <p class="inline">
            <code>{format!("{}…{}", key.shown_prefix, key.last4)}</code>
            {state_badge(key, key.state(now))}
            <span>"Last used: " {last_used(key)}</span>
        </p>
    }
}
