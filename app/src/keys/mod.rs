//! Keys: the list, and the pages that create, rotate and revoke one.

mod change;
mod create;
mod limits;
mod view;

pub use change::{revoke, revoke_page, rotate, rotate_page};
pub use create::{create, create_page};
pub use limits::{limits, limits_page};
pub(crate) use view::curl_line;

use crate::error::AppError;
use crate::render::Nav;
use crate::session::SignedIn;
use crate::ui::{Tone, badge, card, empty, on_day, page_head, when};
use axum::response::Response;
use domain::keys::{Key, KeyState, MAX_KEYS};
use leptos::prelude::*;
use model::Time;
use model::access::Environment;

/// `GET /keys`
///
/// # Errors
/// When the database fails.
pub async fn page(visitor: SignedIn) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let keys = domain::keys::list(domain, visitor.viewer()).await?;
    let (now, may) = (domain.clock.now(), visitor.role().manages_keys());
    Ok(visitor.console("Keys", Nav::Keys, || {
        let (live, test): (Vec<Key>, Vec<Key>) = keys.into_iter().partition(|k| k.environment == Environment::Live);
        let action = may.then(|| view! { <a class="button" data-kind="primary" href="/keys/new">"Create key"</a> });
        let lead = "A key is shown once, when it is made. Changes reach the gateway in under a second.";
        view! {
            {page_head("Keys", lead, action)}
            {group("Live keys", &live, may, now, Environment::Live)}
            {group("Test keys", &test, may, now, Environment::Test)}
        }
    }))
}

fn group(heading: &'static str, keys: &[Key], may: bool, now: Time, environment: Environment) -> AnyView {
    if keys.is_empty() {
        let text = match environment {
            Environment::Live => "Live calls count against your plan.",
            Environment::Test => {
                "Test keys work on the same routes, are limited like the free plan and are never billed."
            }
        };
        let href = format!("/keys/new?environment={environment}");
        let action = may.then(|| view! { <a class="button" href=href>{format!("Create {environment} key")}</a> });
        return view! { <section class="card">{empty(format!("No {environment} keys yet"), text, action)}</section> }
            .into_any();
    }
    let working = keys.iter().filter(|k| k.works(now)).count();
    let rows: Vec<_> = keys.iter().map(|key| row(key, may, now)).collect();
    let table = view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label=heading>
            <table class="stacked">
                <thead>
                    <tr>
                        <th scope="col">"Name"</th><th scope="col">"Key"</th><th scope="col">"State"</th>
                        <th scope="col">"Routes"</th><th scope="col">"Last used"</th><th scope="col">"Created"</th>
                        <th scope="col" class="num"><span class="skip">"Actions"</span></th>
                    </tr>
                </thead>
                <tbody>{rows}</tbody>
            </table>
        </div>
    };
    card(heading, format!("{working} of {MAX_KEYS} working"), table).into_any()
}

fn row(key: &Key, may: bool, now: Time) -> impl IntoView + use<> {
    let state = key.state(now);
    let routes = match &key.routes {
        None => "all".to_owned(),
        Some(slugs) => slugs.join(", "),
    };
    let rotatable = may && matches!(state, KeyState::Active | KeyState::Expiring);
    let revocable = may && key.works(now);
    let (name, id) = (key.name.clone(), key.id);
    let rotate = rotatable.then(|| {
        view! { <a class="button" href=format!("/keys/{id}/rotate") aria-label=format!("Rotate {name}")>"Rotate"</a> }
    });
    let name = key.name.clone();
    let limits = revocable.then(|| {
        view! { <a class="button" href=format!("/keys/{id}/limits") aria-label=format!("Limits of {name}")>"Limits"</a> }
    });
    let name = key.name.clone();
    let revoke = revocable.then(|| {
        view! {
            <a class="button" data-kind="danger" href=format!("/keys/{id}/revoke") aria-label=format!("Revoke {name}")>"Revoke"</a>
        }
    });
    view! {
        <tr>
            <td><strong>{key.name.clone()}</strong></td>
            <td data-label="Key"><code>{format!("{}…{}", key.shown_prefix, key.last4)}</code></td>
            <td data-label="State">{state_badge(key, state)}</td>
            <td data-label="Routes">{routes}</td>
            <td data-label="Last used">{last_used(key)}</td>
            <td data-label="Created">{on_day(key.created_at)}</td>
            <td class="num"><span class="actions">{limits} {rotate} {revoke}</span></td>
        </tr>
    }
}

fn state_badge(key: &Key, state: KeyState) -> impl IntoView + use<> {
    let until = key.expires_at.map_or_else(String::new, |end| end.minute());
    let (tone, text) = match state {
        KeyState::Active => (Tone::Good, "active".to_owned()),
        KeyState::Expiring => (Tone::Warn, format!("expires {until}")),
        KeyState::Rotated => (Tone::Warn, format!("replaced, ends {until}")),
        KeyState::Expired => (Tone::Plain, "expired".to_owned()),
        KeyState::Revoked => (Tone::Bad, "revoked".to_owned()),
    };
    badge(tone, text)
}

fn last_used(key: &Key) -> AnyView {
    match key.last_used_at {
        Some(at) => when(at).into_any(),
        None => "never".into_any(),
    }
}
