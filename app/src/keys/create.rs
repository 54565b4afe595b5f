//! Creating a key: the form, and the page that shows the key once.

use super::limits;
use super::view::{curl_line, reveal};
use crate::error::AppError;
use crate::render::{Nav, with_status};
use crate::session::SignedInKeys;
use crate::ui::{FormState, card, field, page_head, select, submit};
use axum::extract::{Form, Query};
use axum::response::Response;
use domain::key_limits::{self, Limits};
use domain::keys::{self, CreatedKey, KeyRoute, NewKey};
use domain::{Domain, KeyManager};
use http::StatusCode;
use leptos::prelude::*;
use model::access::Environment;
use model::{Currency, Time};
use std::collections::{BTreeSet, HashMap};

/// What the names of the route boxes begin with.
const ROUTE_BOX: &str = "route-";
/// Value of the choice between all routes and some.
const SOME_ROUTES: &str = "some";

/// `GET /keys/new`
///
/// # Errors
/// When the database fails.
pub async fn create_page(
    visitor: SignedInKeys,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let routes = keys::routes(domain).await?;
    let currency = limits::currency(domain, visitor.viewer()).await?;
    let environment = query.get("environment").map_or("live", String::as_str);
    let form = FormState::empty()
        .with("environment", environment)
        .with("expires", "never")
        .with("routes", "all");
    Ok(form_page(&visitor, &form, &routes, &BTreeSet::new(), currency))
}

/// `POST /keys/new`
///
/// # Errors
/// What no change of the form can mend.
pub async fn create(visitor: SignedInKeys, Form(posted): Form<HashMap<String, String>>) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let value = |name: &str| posted.get(name).cloned().unwrap_or_default();
    let boxes: BTreeSet<String> = posted
        .keys()
        .filter_map(|k| k.strip_prefix(ROUTE_BOX))
        .map(str::to_owned)
        .collect();
    let currency = limits::currency(domain, visitor.viewer()).await?;
    let limits = limits::wanted(&posted, currency);
    let made = match wanted(&posted, &boxes, domain.clock.now()).and_then(|new| Ok((new, limits?))) {
        Ok((new, limits)) => limited(domain, visitor.key_manager(), new, limits).await,
        Err(error) => Err(error),
    };
    let routes = keys::routes(domain).await?;
    match made {
        Ok(created) => {
            let gateway = &domain.settings.gateway_url;
            let curl = curl_line(gateway, &routes, created.routes.as_deref(), created.plain.reveal());
            let note = match created.plain.environment() {
                Environment::Live => "A live key: its calls count against your plan.",
                Environment::Test => "A test key: limited like the free plan, never billed.",
            };
            Ok(visitor.console("Your new key", Nav::Keys, || reveal(&created, curl, note.to_owned())))
        }
        Err(error) => {
            let form = FormState::empty()
                .with("name", value("name"))
                .with("quota", value("quota"))
                .with("budget", value("budget"))
                .with("environment", value("environment"))
                .with("expires", value("expires"))
                .with("routes", value("routes"))
                .refused(error)?;
            let page = form_page(&visitor, &form, &routes, &boxes, currency);
            Ok(with_status(StatusCode::UNPROCESSABLE_ENTITY, page))
        }
    }
}

/// Nobody has the key before it is limited: its text leaves with this answer.
async fn limited(domain: &Domain, manager: &KeyManager, new: NewKey, limits: Limits) -> domain::Result<CreatedKey> {
    let created = keys::create(domain, manager, new).await?;
    if limits != Limits::default() {
        key_limits::set(domain, manager, created.id, limits).await?;
    }
    Ok(created)
}

fn wanted(posted: &HashMap<String, String>, boxes: &BTreeSet<String>, now: Time) -> domain::Result<NewKey> {
    let value = |name: &str| posted.get(name).map_or("", String::as_str);
    let environment: Environment = value("environment")
        .parse()
        .map_err(|_| domain::DomainError::invalid("environment", "Choose live or test."))?;
    let expires_at = match value("expires") {
        "never" | "" => None,
        days => {
            let days: i64 = days
                .parse()
                .ok()
                .filter(|d| (1..=3_650).contains(d))
                .ok_or_else(|| domain::DomainError::invalid("expires", "Choose one of the list."))?;
            Some(now.plus_s(days * 86_400))
        }
    };
    Ok(NewKey {
        name: value("name").to_owned(),
        environment,
        expires_at,
        routes: (value("routes") == SOME_ROUTES).then(|| boxes.iter().cloned().collect()),
    })
}

fn form_page(
    visitor: &SignedInKeys,
    form: &FormState,
    routes: &[KeyRoute],
    chosen: &BTreeSet<String>,
    currency: Currency,
) -> Response {
    visitor.console("Create a key", Nav::Keys, || {
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(v, t)| ((*v).to_owned(), (*t).to_owned())).collect()
        };
        let environments = owned(&[("live", "Live: counts against your plan"), ("test", "Test: limited like the free plan, never billed")]);
        let expiries = owned(&[
            ("never", "Never"),
            ("7", "In 7 days"),
            ("30", "In 30 days"),
            ("90", "In 90 days"),
            ("365", "In a year"),
        ]);
        let which = owned(&[("all", "All routes, also those added later"), (SOME_ROUTES, "Only the routes ticked below")]);
        let boxes: Vec<_> = routes.iter().map(|r| route_box(r, chosen.contains(&r.slug))).collect();
        let body = view! {
            <form method="post" action="/keys/new" class="stack">
                {form.summary()}
                {field(form, "name", "Name", "text", "off", "Where it will be used, such as: production, batch job.")}
                {select(form, "environment", "Environment", &environments, "")}
                {select(form, "expires", "Expires", &expiries, "A key that leaks does less harm when it ends by itself.")}
                {select(form, "routes", "May use", &which, "")}
                <details open={!chosen.is_empty()}>
                    <summary>"Choose routes"</summary>
                    <fieldset><legend class="skip">"Routes"</legend>{boxes}</fieldset>
                </details>
                <details open={!(form.value("quota").is_empty() && form.value("budget").is_empty())}>
                    <summary>"Limit what it may use"</summary>
                    <div class="stack">{limits::fields(form, currency)}</div>
                </details>
                <div class="actions">{submit("Create key", "primary")} <a class="button" data-kind="quiet" href="/keys">"Back"</a></div>
            </form>
        };
        view! {
            {page_head("Create a key", "You will see it once, on the next page.", ())}
            {card("New key", (), body)}
        }
    })
}

fn route_box(route: &KeyRoute, checked: bool) -> impl IntoView + use<> {
    let name = format!("{ROUTE_BOX}{}", route.slug);
    let methods: Vec<&str> = route.methods.iter().map(|m| m.word()).collect();
    view! {
        <label class="check">
            <input type="checkbox" name=name value="on" checked=checked />
            <span>{route.slug.clone()} " " <code>{format!("{} {}", methods.join(" "), route.path)}</code></span>
        </label>
    }
}
