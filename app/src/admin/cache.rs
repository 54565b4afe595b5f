//! Kept answers: telling the gateways to forget them.

use crate::AppError;
use crate::render::{AdminNav, with_status};
use crate::session::ProviderAdmin;
use crate::ui::{FormState, Tone, banner, field, page_head, submit};
use axum::extract::{Form, Query};
use axum::response::{IntoResponse, Redirect, Response};
use domain::purges;
use http::StatusCode;
use leptos::prelude::*;
use std::collections::HashMap;

/// `GET /admin/cache`
///
/// # Errors
/// None.
pub async fn page(visitor: ProviderAdmin, Query(query): Query<HashMap<String, String>>) -> Result<Response, AppError> {
    Ok(show(&visitor, &FormState::empty(), query.contains_key("purged")))
}

fn show(visitor: &ProviderAdmin, form: &FormState, purged: bool) -> Response {
    visitor.admin("Kept answers", AdminNav::Plans, || {
        let done = purged.then(|| banner(Tone::Good, "Every gateway forgets these answers within seconds.", ()));
        let lead = "Routes with a cache answer repeated calls from memory. Forget what is no longer true.";
        view! {
            {page_head("Kept answers", lead, ())}
            {done}
            <form method="post" action="/admin/cache" class="stack card">
                {form.summary()}
                {field(form, "route", "Route", "text", "off", "Its slug. Empty for all routes.")}
                {field(form, "path", "Path", "text", "off", "What the paths begin with, such as /v1/countries. Empty for all paths.")}
                {submit("Forget kept answers", "primary")}
            </form>
        }
    })
}

/// `POST /admin/cache`
///
/// # Errors
/// What no other input can mend.
pub async fn purge(visitor: ProviderAdmin, Form(form): Form<HashMap<String, String>>) -> Result<Response, AppError> {
    let said = |name: &str| form.get(name).map(|v| v.trim().to_owned()).unwrap_or_default();
    let (route, path) = (said("route"), said("path"));
    let only = Some(route.as_str()).filter(|r| !r.is_empty());
    match purges::purge(&visitor.site().domain, visitor.provider(), only, &path).await {
        Ok(()) => Ok(Redirect::to("/admin/cache?purged=1").into_response()),
        Err(error) => {
            let state = FormState::empty()
                .with("route", route)
                .with("path", path)
                .refused(error)?;
            Ok(with_status(
                StatusCode::UNPROCESSABLE_ENTITY,
                show(&visitor, &state, false),
            ))
        }
    }
}
