//! Features given to one consumer whatever its plan: what it has, giving one until a day, taking one back.

use crate::AppError;
use crate::accounts::refuse;
use crate::render::AdminNav;
use crate::session::ProviderAdmin;
use crate::ui::{FormState, Tone, badge, card, empty, field, hidden, page_head, select, submit, when};
use axum::extract::{Form, Path};
use axum::response::{IntoResponse, Redirect, Response};
use domain::features::{self, Granted};
use domain::{DomainError, catalogue, consumers};
use leptos::prelude::*;
use model::{ConsumerId, Time};

/// What the form for a grant sends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Granting {
    feature: String,
    until: String,
}

/// What the button that takes a feature back sends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawing {
    feature: String,
}

struct Shown {
    id: ConsumerId,
    name: String,
    granted: Vec<Granted>,
    features: Vec<catalogue::Feature>,
    now: Time,
}

impl Shown {
    async fn load(admin: &ProviderAdmin, consumer: ConsumerId) -> Result<Self, AppError> {
        let domain = &admin.site().domain;
        let detail = consumers::detail(domain, admin.provider(), consumer).await?;
        Ok(Self {
            id: consumer,
            name: detail.name,
            granted: features::granted(domain, admin.provider(), consumer).await?,
            features: catalogue::current(domain).await?.map_or_else(Vec::new, |c| c.features),
            now: domain.clock.now(),
        })
    }
}

fn draw(admin: &ProviderAdmin, shown: Shown, state: FormState) -> Response {
    let title = format!("Features of {}", shown.name);
    admin.admin(&title.clone(), AdminNav::Consumers, move || {
        let href = format!("/admin/consumers/{}", shown.id);
        let back = view! { <a class="button" href=href>"Back to the consumer"</a> };
        let lead = "What it has besides its plan. A feature for a time ends by itself, at the gateway too.";
        view! {
            {page_head(title, lead, back)}
            {list(&shown)}
            {form(&shown, &state)}
        }
    })
}

fn list(shown: &Shown) -> impl IntoView + use<> {
    let (id, now) = (shown.id, shown.now);
    let rows: Vec<_> = shown
        .granted
        .iter()
        .map(|grant| {
            let end = match grant.until {
                None => badge(Tone::Good, "until it is taken back").into_any(),
                Some(until) if until <= now => view! { {badge(Tone::Plain, "over")}" since "{when(until)} }.into_any(),
                Some(until) => view! { "until "{when(until)} }.into_any(),
            };
            let label = format!("Take {} back", grant.name);
            view! {
                <tr>
                    <td>{grant.name.clone()}</td>
                    <td data-label="How long">{end}</td>
                    <td data-label="Given">{when(grant.granted_at)}</td>
                    <td>
                        <form method="post" action=format!("/admin/consumers/{id}/features/withdraw")>
                            {hidden("feature", grant.feature.clone())}
                            <button class="button" aria-label=label>"Take back"</button>
                        </form>
                    </td>
                </tr>
            }
        })
        .collect();
    let body = if rows.is_empty() {
        empty("Nothing given", "This consumer has what its plan says.", ()).into_any()
    } else {
        view! {
            <div class="table-wrap" tabindex="0" role="group" aria-label="Features given"><table class="stacked">
                <thead><tr>
                    <th scope="col">"Feature"</th><th scope="col">"How long"</th><th scope="col">"Given"</th>
                    <th scope="col">"Change"</th>
                </tr></thead>
                <tbody>{rows}</tbody>
            </table></div>
        }
        .into_any()
    };
    card("Given to this consumer", (), body)
}

fn form(shown: &Shown, state: &FormState) -> impl IntoView + use<> {
    let options: Vec<(String, String)> = shown
        .features
        .iter()
        .map(|f| (f.slug.clone(), f.name.clone()))
        .collect();
    let body = if options.is_empty() {
        empty("No features", "The published catalogue has none.", ()).into_any()
    } else {
        view! {
            <form method="post" action=format!("/admin/consumers/{}/features", shown.id) class="stack">
                {state.summary()}
                {select(state, "feature", "Feature", &options, "")}
                {field(state, "until", "Last day", "date", "off", "In UTC. Leave it empty for no end.")}
                {submit("Give the feature", "primary")}
            </form>
        }
        .into_any()
    };
    card("Give a feature", "works within seconds", body)
}

/// The page.
///
/// # Errors
/// 404 when there is no such consumer.
pub async fn page(admin: ProviderAdmin, Path(id): Path<String>) -> Result<Response, AppError> {
    let shown = Shown::load(&admin, parse(&id)?).await?;
    Ok(draw(&admin, shown, FormState::empty()))
}

/// Gives a feature.
///
/// # Errors
/// 404 when there is no such consumer.
pub async fn grant(
    admin: ProviderAdmin,
    Path(id): Path<String>,
    Form(form): Form<Granting>,
) -> Result<Response, AppError> {
    let consumer = parse(&id)?;
    let outcome = match until(&form.until) {
        Ok(until) => features::grant(&admin.site().domain, admin.provider(), consumer, &form.feature, until).await,
        Err(error) => Err(error),
    };
    let state = FormState::empty()
        .with("feature", form.feature)
        .with("until", form.until);
    answer(&admin, consumer, outcome, state).await
}

/// Takes a feature back.
///
/// # Errors
/// 404 when there is no such consumer.
pub async fn withdraw(
    admin: ProviderAdmin,
    Path(id): Path<String>,
    Form(form): Form<Withdrawing>,
) -> Result<Response, AppError> {
    let consumer = parse(&id)?;
    let outcome = features::withdraw(&admin.site().domain, admin.provider(), consumer, &form.feature).await;
    answer(&admin, consumer, outcome, FormState::empty()).await
}

fn until(text: &str) -> domain::Result<Option<Time>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let end = Time::parse_end(text).ok_or_else(|| DomainError::invalid("until", "Enter a day as 2026-12-24."))?;
    Ok(Some(end))
}

async fn answer(
    admin: &ProviderAdmin,
    consumer: ConsumerId,
    outcome: domain::Result<()>,
    state: FormState,
) -> Result<Response, AppError> {
    match outcome {
        Ok(()) => Ok(Redirect::to(&format!("/admin/consumers/{consumer}/features")).into_response()),
        Err(error) => {
            let shown = Shown::load(admin, consumer).await?;
            refuse(state, error, |state| draw(admin, shown, state))
        }
    }
}

fn parse(id: &str) -> Result<ConsumerId, AppError> {
    id.parse().map_err(|_| AppError::not_found())
}
