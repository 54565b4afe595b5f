//! Plans and their versions, and publishing a catalogue file after looking at what it changes.

use crate::AppError;
use crate::render::{AdminNav, with_status};
use crate::session::ProviderAdmin;
use crate::ui::{FormState, Tone, badge, banner, card, empty, page_head, submit, when};
use axum::extract::{Form, Multipart, Query};
use axum::response::{IntoResponse, Redirect, Response};
use domain::DomainError;
use domain::catalogue::{self, Change, ChangeKind, PlanOverview, VersionOverview};
use http::StatusCode;
use leptos::prelude::*;
use std::collections::HashMap;

/// `GET /admin/plans`
///
/// # Errors
/// When the database fails.
pub async fn page(visitor: ProviderAdmin, Query(query): Query<HashMap<String, String>>) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let plans = catalogue::overview(domain, visitor.provider()).await?;
    let can_charge = domain.payments.is_configured();
    Ok(visitor.admin("Plans", AdminNav::Plans, || {
        let saved = query.get("published").map(|count| {
            let text = match count.as_str() {
                "0" => "Published. No plan's terms changed.".to_owned(),
                "1" => "Published: 1 new version. It can be bought as soon as Stripe has its prices.".to_owned(),
                n => format!("Published: {n} new versions. Each can be bought as soon as Stripe has its prices."),
            };
            banner(Tone::Good, text, ())
        });
        let publish = view! {
            <a class="button" href="/admin/cache">"Kept answers"</a>
            <a class="button" data-kind="primary" href="/admin/plans/publish">"Publish a catalogue"</a>
        };
        let body: Vec<_> = plans.iter().map(|p| plan(p, can_charge)).collect();
        let priced = plans
            .iter()
            .flat_map(|p| p.versions.first())
            .any(|v| !v.terms.is_free());
        let no_stripe = (priced && !can_charge).then(|| {
            let text = "Priced plans cannot be bought until Stripe is configured: set TURNPIKE_STRIPE_SECRET_KEY and \
                        start again. Free and complimentary plans work without.";
            banner(Tone::Warn, text.to_owned(), ())
        });
        let none = plans.is_empty().then(|| {
            empty(
                "Nothing is sold yet",
                "Publish a catalogue file to put plans on the pricing page.",
                (),
            )
        });
        view! {
            {page_head("Plans", "Versions never change once published: who subscribed keeps theirs.", publish)}
            {saved} {no_stripe} {body} {none}
        }
    }))
}

fn plan(plan: &PlanOverview, can_charge: bool) -> impl IntoView + use<> {
    let name = plan
        .versions
        .first()
        .map_or_else(|| plan.slug.clone(), |v| v.terms.name.clone());
    let retired = plan.retired_at.map(|_| badge(Tone::Plain, "no longer sold"));
    let rows: Vec<_> = plan.versions.iter().map(|v| version(v, can_charge)).collect();
    let group = format!("Versions of {name}");
    let table = view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label=group><table class="stacked">
            <thead><tr>
                <th scope="col">"Version"</th><th scope="col">"Published"</th><th scope="col">"Price"</th>
                <th scope="col">"In Stripe"</th><th scope="col" class="num">"Subscribed"</th>
            </tr></thead>
            <tbody>{rows}</tbody>
        </table></div>
    };
    card(name, retired, table)
}

fn version(version: &VersionOverview, can_charge: bool) -> impl IntoView + use<> {
    let prices: Vec<String> = version
        .terms
        .offers
        .iter()
        .map(|o| format!("{} a {}", o.flat, o.interval))
        .collect();
    let ready = match version.ready_at {
        Some(_) if version.terms.is_free() => badge(Tone::Good, "not needed").into_any(),
        Some(_) => badge(Tone::Good, "ready").into_any(),
        None if !can_charge => badge(Tone::Warn, "waits for Stripe").into_any(),
        None => badge(Tone::Warn, "being made").into_any(),
    };
    view! {
        <tr>
            <th data-label="Version" scope="row">{version.number}</th>
            <td data-label="Published">{when(version.published_at)}</td>
            <td data-label="Price">{prices.join(", ")}</td>
            <td data-label="In Stripe">{ready}</td>
            <td data-label="Subscribed" class="num">{version.subscribers}</td>
        </tr>
    }
}

/// `GET /admin/plans/publish`
///
/// # Errors
/// None.
pub async fn publish_page(visitor: ProviderAdmin) -> Result<Response, AppError> {
    Ok(upload(&visitor, &FormState::empty()))
}

fn upload(visitor: &ProviderAdmin, form: &FormState) -> Response {
    visitor.admin("Publish a catalogue", AdminNav::Plans, || {
        view! {
            {page_head("Publish a catalogue", "You see what it changes before anything does.", ())}
            <form method="post" action="/admin/plans/preview" enctype="multipart/form-data" class="stack card">
                {form.summary()}
                <div class="field">
                    <label for="file">"Catalogue file"</label>
                    <span class="hint" id="file-hint">"TOML: product, upstreams, meters, features, routes and plans."</span>
                    <input id="file" name="file" type="file" accept=".toml" required=true aria-describedby="file-hint" />
                </div>
                {submit("See what it changes", "primary")}
            </form>
        }
    })
}

/// `POST /admin/plans/preview`
///
/// # Errors
/// What no other file can mend.
pub async fn preview(visitor: ProviderAdmin, upload: Multipart) -> Result<Response, AppError> {
    let text = match read(upload).await {
        Ok(text) => text,
        Err(error) => return refuse(&visitor, error),
    };
    let file = match catalogue::parse(&text) {
        Ok(file) => file,
        Err(error) => return refuse(&visitor, error),
    };
    match catalogue::preview(&visitor.site().domain, visitor.provider(), &file).await {
        Ok(changes) => Ok(confirm(&visitor, &changes, text)),
        Err(error) => refuse(&visitor, error),
    }
}

async fn read(mut upload: Multipart) -> Result<String, DomainError> {
    while let Some(field) = upload.next_field().await.map_err(unreadable)? {
        if field.name() == Some("file") {
            return field.text().await.map_err(unreadable);
        }
    }
    Err(DomainError::invalid("file", "Choose a file."))
}

fn unreadable(_: axum::extract::multipart::MultipartError) -> DomainError {
    DomainError::invalid("file", "The file could not be read. It must be text, at most 512 KiB.")
}

fn refuse(visitor: &ProviderAdmin, error: DomainError) -> Result<Response, AppError> {
    let form = FormState::empty().refused(error)?;
    Ok(with_status(StatusCode::UNPROCESSABLE_ENTITY, upload(visitor, &form)))
}

fn confirm(visitor: &ProviderAdmin, changes: &[Change], text: String) -> Response {
    visitor.admin("Publish a catalogue", AdminNav::Plans, || {
        let none = changes
            .is_empty()
            .then(|| empty("Nothing changes", "This is what is published already.", ()));
        let list: Vec<_> = changes.iter().map(change).collect();
        view! {
            {page_head("What it changes", "Nothing has happened yet.", ())}
            {none} {list}
            <form method="post" action="/admin/plans/publish" class="actions">
                <textarea name="text" hidden=true>{text}</textarea>
                {submit("Publish", "primary")}
                <a class="button" href="/admin/plans/publish">"Choose another file"</a>
            </form>
        }
    })
}

fn change(change: &Change) -> impl IntoView + use<> {
    let mark = match change.kind {
        ChangeKind::Added => badge(Tone::Good, "new"),
        ChangeKind::Changed => badge(Tone::Warn, "changes"),
        ChangeKind::Retired => badge(Tone::Bad, "goes"),
    };
    let details: Vec<_> = change.details.iter().map(|d| view! { <li>{d.clone()}</li> }).collect();
    card(change.subject.clone(), mark, view! { <ul>{details}</ul> })
}

/// `POST /admin/plans/publish`
///
/// # Errors
/// What no other file can mend.
pub async fn publish(visitor: ProviderAdmin, Form(form): Form<HashMap<String, String>>) -> Result<Response, AppError> {
    let text = form.get("text").map(String::as_str).unwrap_or_default();
    let outcome = match catalogue::parse(text) {
        Ok(file) => catalogue::publish(&visitor.site().domain, visitor.provider(), &file).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(published) => {
            let count = published.versions.len();
            Ok(Redirect::to(&format!("/admin/plans?published={count}")).into_response())
        }
        Err(error) => refuse(&visitor, error),
    }
}
