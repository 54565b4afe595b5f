//! The Stripe inbox: what came, what became of it, and handling it again.

use crate::AppError;
use crate::render::AdminNav;
use crate::session::ProviderAdmin;
use crate::ui::{Tone, badge, banner, card, empty, page_head, when};
use axum::extract::{Path, Query};
use axum::response::{IntoResponse, Redirect, Response};
use domain::DomainError;
use domain::stripe_inbox::{self, Entry, Filter};
use leptos::prelude::*;
use std::collections::HashMap;

/// The states that can be filtered by, with their names.
const STATES: [(&str, &str); 5] = [
    ("", "All"),
    ("received", "Waiting"),
    ("done", "Done"),
    ("ignored", "Ignored"),
    ("dead", "Failed"),
];

/// `GET /admin/inbox`
///
/// # Errors
/// When the database fails.
pub async fn page(visitor: ProviderAdmin, Query(query): Query<HashMap<String, String>>) -> Result<Response, AppError> {
    let state = query
        .get("state")
        .filter(|s| !s.is_empty() && STATES.iter().any(|(known, _)| known == s));
    let filter = Filter {
        state: state.cloned(),
        before: query.get("before").cloned(),
    };
    let entries = stripe_inbox::list(&visitor.site().domain, visitor.provider(), &filter).await?;
    Ok(visitor.admin("Stripe inbox", AdminNav::Inbox, || {
        let chosen = filter.state.clone().unwrap_or_default();
        let tabs: Vec<_> = STATES
            .iter()
            .map(|(state, name)| {
                let here = (*state == chosen).then_some("true");
                view! { <a href=format!("/admin/inbox?state={state}") aria-current=here>{*name}</a> }
            })
            .collect();
        let full = i64::try_from(entries.len()).is_ok_and(|n| n >= stripe_inbox::PAGE);
        let older = entries.last().filter(|_| full).map(|last| {
            let href = format!("/admin/inbox?state={chosen}&before={}", last.id);
            view! { <p><a class="button" href=href>"Older"</a></p> }
        });
        let body = if entries.is_empty() {
            empty(
                "Nothing here",
                "Stripe delivers an event within seconds of what it is about.",
                (),
            )
            .into_any()
        } else {
            table(&entries).into_any()
        };
        view! {
            {page_head("Stripe inbox", "Every event that Stripe delivered, and what became of it.", ())}
            <nav class="tabs" aria-label="State">{tabs}</nav>
            <section class="card">{body} {older}</section>
        }
    }))
}

fn table(entries: &[Entry]) -> impl IntoView + use<> {
    let rows: Vec<_> = entries
        .iter()
        .map(|e| {
            view! {
                <tr>
                    <td data-label="Received">{when(e.received_at)}</td>
                    <th scope="row"><a href=format!("/admin/inbox/{}", e.id)>{e.kind.clone()}</a></th>
                    <td data-label="About" class="mono">{e.object.clone()}</td>
                    <td data-label="State">{state_badge(e)}</td>
                    <td data-label="Failed tries" class="num">{e.attempts}</td>
                </tr>
            }
        })
        .collect();
    view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label="Events"><table class="stacked">
            <thead><tr>
                <th scope="col">"Received"</th><th scope="col">"Event"</th><th scope="col">"About"</th>
                <th scope="col">"State"</th><th scope="col" class="num">"Failed tries"</th>
            </tr></thead>
            <tbody>{rows}</tbody>
        </table></div>
    }
}

fn state_badge(entry: &Entry) -> impl IntoView + use<> {
    let tone = match entry.state.as_str() {
        "done" => Tone::Good,
        "dead" => Tone::Bad,
        "received" => Tone::Warn,
        _ => Tone::Plain,
    };
    let name = STATES
        .iter()
        .find(|(state, _)| *state == entry.state)
        .map_or("", |(_, name)| *name);
    badge(tone, name.to_lowercase())
}

/// `GET /admin/inbox/{id}`
///
/// # Errors
/// 404 for an event that is not there.
pub async fn detail(
    visitor: ProviderAdmin,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, AppError> {
    let (entry, raw) = stripe_inbox::detail(&visitor.site().domain, visitor.provider(), &id).await?;
    let raw = serde_json::to_string_pretty(&raw).map_err(DomainError::from)?;
    Ok(visitor.admin("Event", AdminNav::Inbox, || {
        let replayed = query
            .contains_key("replayed")
            .then(|| banner(Tone::Good, "It is handled again within seconds. Reload to see the outcome.", ()));
        let action = format!("/admin/inbox/{}/replay", entry.id);
        let button = (entry.state != "ignored").then(|| {
            view! { <form method="post" action=action><button class="button">"Handle again"</button></form> }
        });
        let error = entry.last_error.clone().map(|e| banner(Tone::Bad, e, ()));
        let done = entry.done_at.map(|t| view! { <p>"Handled " {when(t)}</p> });
        view! {
            {page_head(entry.kind.clone(), entry.id.clone(), button)}
            {replayed} {error}
            {card("What became of it", state_badge(&entry), view! { <p>"Received " {when(entry.received_at)}</p> {done} })}
            {card("What Stripe sent", "handling fetches the object anew; this is not believed", view! { <pre class="code" tabindex="0">{raw}</pre> })}
        }
    }))
}

/// `POST /admin/inbox/{id}/replay`
///
/// # Errors
/// 404 for an event that is not there, 409 for one that is not handled.
pub async fn replay(visitor: ProviderAdmin, Path(id): Path<String>) -> Result<Response, AppError> {
    stripe_inbox::replay(&visitor.site().domain, visitor.provider(), &id).await?;
    Ok(Redirect::to(&format!("/admin/inbox/{id}?replayed=1")).into_response())
}
