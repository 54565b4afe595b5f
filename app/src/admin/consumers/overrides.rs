//! Overrides of one consumer, a part of its page: what it has in place of its plan, adding one, ending one.

use super::detail;
use crate::AppError;
use crate::accounts::refuse;
use crate::session::ProviderAdmin;
use crate::ui::{FormState, Tone, badge, card, empty, field, hidden, select, submit, when};
use axum::extract::{Form, Path};
use axum::response::{IntoResponse, Redirect, Response};
use domain::overrides::{self, Line, NewOverride, Offered, State};
use domain::{DomainError, catalogue};
use leptos::prelude::*;
use model::access::QuotaKind;
use model::money::grouped;
use model::overrides::{Change, OVERALL};
use model::quota::Quota;
use model::{ConsumerId, Time};
use std::collections::HashMap;

/// A day in seconds: a start today is a start now.
const DAY_S: i64 = 86_400;
/// The fields' names. The form that suspends the account stands on the same page and has a `reason` of its own.
const FIELDS: [&str; 7] = ["target", "amount", "burst", "past", "from", "until", "why"];

/// What the button that ends one sends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ending {
    id: String,
}

/// What this part of the page shows.
pub(super) struct Shown {
    lines: Vec<Line>,
    offered: Option<Offered>,
    catalogue: Option<catalogue::Catalogue>,
}

impl Shown {
    pub(super) async fn load(admin: &ProviderAdmin, consumer: ConsumerId) -> Result<Self, AppError> {
        let domain = &admin.site().domain;
        Ok(Self {
            lines: overrides::list(domain, admin.provider(), consumer).await?,
            offered: overrides::offered(domain, admin.provider(), consumer).await?,
            catalogue: catalogue::current(domain).await?,
        })
    }

    fn meter_name(&self, slug: &str) -> String {
        let meter = self.catalogue.as_ref().and_then(|c| c.meter(slug));
        meter.map_or_else(|| slug.to_owned(), |m| m.name.clone())
    }

    fn feature_name(&self, slug: &str) -> String {
        let catalogue = self.catalogue.as_ref();
        catalogue.map_or_else(|| slug.to_owned(), |c| c.feature_name(slug).to_owned())
    }

    /// What is changed and to what, for people.
    fn words(&self, change: &Change) -> String {
        match change {
            Change::Quota { meter, units, kind } => {
                let past = match kind {
                    None => "",
                    Some(QuotaKind::Hard) => ", then refused",
                    Some(QuotaKind::Soft) => ", then it goes on",
                };
                format!("Quota of {}: {} units{past}", self.meter_name(meter), grouped(*units))
            }
            Change::Limit { name, count, burst } => {
                let burst = burst.map(|b| format!(", {} at once", grouped(b.into())));
                format!(
                    "Limit {name}: {} requests{}",
                    grouped((*count).into()),
                    burst.unwrap_or_default()
                )
            }
            Change::Feature { feature, on } => {
                format!(
                    "Feature {}: {}",
                    self.feature_name(feature),
                    if *on { "on" } else { "off" }
                )
            }
        }
    }

    /// What can be chosen: value and text.
    fn choices(&self, offered: &Offered) -> Vec<(String, String)> {
        let quotas = offered.meters.iter().map(|m| {
            let quota = Quota::of(m);
            let plan = format!("{}, {}", grouped(quota.units), quota.kind);
            let text = format!("Quota of {} (the plan: {plan})", self.meter_name(&m.meter));
            (format!("quota:{}", m.meter), text)
        });
        let (second, burst) = (offered.rate_limit.per_second, offered.rate_limit.burst);
        let overall = format!("Limit {OVERALL} (the plan: {second} requests a second, {burst} at once)");
        let limits = offered.limits.iter().map(|l| {
            let text = format!("Limit {} (the plan: {})", l.name, l.words(str::to_owned));
            (format!("limit:{}", l.name), text)
        });
        let on = offered.features.iter().map(|slug| {
            let text = format!("Feature {}: on", self.feature_name(slug));
            (format!("on:{slug}"), text)
        });
        let off = offered.has.iter().map(|slug| {
            let text = format!("Feature {}: off", self.feature_name(slug));
            (format!("off:{slug}"), text)
        });
        let overall = std::iter::once((format!("limit:{OVERALL}"), overall));
        quotas.chain(overall).chain(limits).chain(on).chain(off).collect()
    }
}

/// This part of the page.
pub(super) fn section(id: ConsumerId, shown: &Shown, now: Time, state: &FormState) -> impl IntoView + use<> {
    let body = view! {
        {state.summary()}
        {list(id, shown, now)}
        {form(id, shown, state)}
    };
    card("Overrides", "in place of the plan, for a time", body)
}

fn list(id: ConsumerId, shown: &Shown, now: Time) -> AnyView {
    let rows: Vec<_> = shown.lines.iter().map(|line| row(id, shown, line, now)).collect();
    if rows.is_empty() {
        let text = "Limits, quotas and features of this consumer are as its plan says.";
        return empty("No overrides", text, ()).into_any();
    }
    view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label="Overrides"><table class="stacked">
            <thead><tr>
                <th scope="col">"What"</th><th scope="col">"State"</th><th scope="col">"From"</th>
                <th scope="col">"Until"</th><th scope="col">"Why"</th><th scope="col">"Change"</th>
            </tr></thead>
            <tbody>{rows}</tbody>
        </table></div>
    }
    .into_any()
}

fn row(id: ConsumerId, shown: &Shown, line: &Line, now: Time) -> impl IntoView + use<> {
    let what = shown.words(&line.change);
    let state = line.state(now);
    let tone = match state {
        State::Active => Tone::Good,
        State::Coming => Tone::Info,
        State::Ended(_) => Tone::Plain,
    };
    let misfit = line.misfit.clone().filter(|_| !matches!(state, State::Ended(_)));
    let misfit = misfit.map(|why| {
        view! { <br />{badge(Tone::Warn, "does not apply to this plan")}<br /><small>{why}</small> }
    });
    let end = match (state, line.ends_at) {
        (State::Ended(at), _) => when(at).into_any(),
        (_, Some(at)) => when(at).into_any(),
        (_, None) => "no end".into_any(),
    };
    let button = (!matches!(state, State::Ended(_))).then(|| {
        let text = if state == State::Coming { "Take back" } else { "End now" };
        view! {
            <form method="post" action=format!("/admin/consumers/{id}/overrides/end")>
                {hidden("id", line.id.to_string())}
                <button class="button" aria-label=format!("{text}: {what}")>{text}</button>
            </form>
        }
    });
    view! {
        <tr>
            <td>{what.clone()}<br /><code>{line.id.to_string()}</code></td>
            <td data-label="State">{badge(tone, state.word())} {misfit}</td>
            <td data-label="From">{when(line.starts_at)}</td>
            <td data-label="Until">{end}</td>
            <td data-label="Why">{line.reason.clone()}<br /><small>{line.created_by.clone()}</small></td>
            <td>{button}</td>
        </tr>
    }
}

fn form(id: ConsumerId, shown: &Shown, state: &FormState) -> AnyView {
    let Some(offered) = &shown.offered else {
        let text = "An override changes what a plan says, and this consumer has none.";
        return view! { <p>{text}</p> }.into_any();
    };
    let choices = shown.choices(offered);
    let past: Vec<(String, String)> = [
        ("", "What happens past the plan's own"),
        ("hard", "Refused until the period ends"),
        ("soft", "Let through"),
    ]
    .map(|(value, text)| (value.to_owned(), text.to_owned()))
    .into();
    view! {
        <h3>"Add an override"</h3>
        <form method="post" action=format!("/admin/consumers/{id}/overrides") class="stack">
            {select(state, "target", "What", &choices, "")}
            {field(state, "amount", "Number", "text", "off", "Units of a quota in a billing period, or requests of a limit in each of its windows. Empty for a feature.")}
            {field(state, "burst", "Requests at once", "text", "off", "Of a limit. Empty means as the plan says.")}
            {select(state, "past", "Past a quota", &past, "Of a quota.")}
            {field(state, "from", "First day", "date", "off", "In UTC. Empty, or today, means now.")}
            {field(state, "until", "Last day", "date", "off", "In UTC. Empty means no end.")}
            {field(state, "why", "Why", "text", "off", "For you and the audit log; the consumer does not read it.")}
            <ul>
                <li>"It begins and ends by itself, at every gateway, in its moment. What was used before stays counted."</li>
                <li>"It never changes an invoice: prices and included units stay the plan's. What is used beyond them is charged as the plan says, and costs nothing where the plan has no price."</li>
                <li>"Quotas and limits hold for live keys; features for test keys, too. The consumer sees what it has, and until when, on its pages."</li>
            </ul>
            {submit("Add the override", "primary")}
        </form>
    }
    .into_any()
}

/// What the form says.
fn wanted(posted: &HashMap<String, String>, now: Time) -> domain::Result<NewOverride> {
    let value = |name: &str| posted.get(name).map_or("", |v| v.trim());
    let starts_at = match value("from") {
        "" => None,
        text => {
            let day = Time::parse_start(text).ok_or_else(|| day_wanted("from"))?;
            // The day has begun: from now on.
            Some(day).filter(|day| now < *day || day.plus_s(DAY_S) <= now)
        }
    };
    let ends_at = match value("until") {
        "" => None,
        text => Some(Time::parse_end(text).ok_or_else(|| day_wanted("until"))?),
    };
    Ok(NewOverride {
        change: change(&value)?,
        reason: value("why").to_owned(),
        starts_at,
        ends_at,
    })
}

fn day_wanted(field: &'static str) -> DomainError {
    DomainError::invalid(field, "Enter a day as 2026-12-24.")
}

fn change<'a>(value: &impl Fn(&str) -> &'a str) -> domain::Result<Change> {
    let (what, which) = value("target").split_once(':').unwrap_or_default();
    let only = |field: &'static str, of: &str| match value(field) {
        "" => Ok(()),
        _ => Err(DomainError::invalid(
            field,
            format!("This is for {of} alone: leave it empty."),
        )),
    };
    let which = which.to_owned();
    if what != "quota" {
        only("past", "a quota")?;
    }
    if what != "limit" {
        only("burst", "a limit")?;
    }
    Ok(match what {
        "quota" => Change::Quota {
            meter: which,
            units: number("amount", value("amount"))?,
            kind: match value("past") {
                "" => None,
                word => Some(
                    word.parse()
                        .map_err(|_| DomainError::invalid("past", "Choose one of these."))?,
                ),
            },
        },
        "limit" => Change::Limit {
            name: which,
            count: number("amount", value("amount"))?,
            burst: match value("burst") {
                "" => None,
                text => Some(number("burst", text)?),
            },
        },
        "on" | "off" => {
            only("amount", "quotas and limits")?;
            Change::Feature {
                feature: which,
                on: what == "on",
            }
        }
        _ => return Err(DomainError::invalid("target", "Choose what to change.")),
    })
}

fn number<N: std::str::FromStr>(field: &'static str, text: &str) -> domain::Result<N> {
    let digits: String = text.chars().filter(|c| !matches!(c, ',' | '_' | ' ')).collect();
    let wrong = |_| DomainError::invalid(field, "Give a whole number, such as 10,000.");
    digits.parse().map_err(wrong)
}

/// Adds one.
///
/// # Errors
/// 404 when there is no such consumer.
pub async fn add(
    admin: ProviderAdmin,
    Path(id): Path<String>,
    Form(posted): Form<HashMap<String, String>>,
) -> Result<Response, AppError> {
    let (domain, consumer) = (&admin.site().domain, detail::parse(&id)?);
    let outcome = match wanted(&posted, domain.clock.now()) {
        Ok(new) => overrides::add(domain, admin.provider(), consumer, new).await.map(drop),
        Err(error) => Err(error),
    };
    let mut state = FormState::empty();
    for name in FIELDS {
        state = state.with(name, posted.get(name).cloned().unwrap_or_default());
    }
    answer(&admin, consumer, outcome, state).await
}

/// Ends one now.
///
/// # Errors
/// 404 when the consumer has no such override.
pub async fn end(admin: ProviderAdmin, Path(id): Path<String>, Form(form): Form<Ending>) -> Result<Response, AppError> {
    let (domain, consumer) = (&admin.site().domain, detail::parse(&id)?);
    let which = form.id.parse().map_err(|_| AppError::not_found())?;
    let outcome = overrides::end(domain, admin.provider(), consumer, which).await;
    answer(&admin, consumer, outcome, FormState::empty()).await
}

async fn answer(
    admin: &ProviderAdmin,
    consumer: ConsumerId,
    outcome: domain::Result<()>,
    state: FormState,
) -> Result<Response, AppError> {
    let error = match outcome {
        Ok(()) => return Ok(Redirect::to(&format!("/admin/consumers/{consumer}")).into_response()),
        Err(DomainError::Invalid {
            field: "reason",
            problem,
        }) => DomainError::invalid("why", problem),
        Err(error) => error,
    };
    let shown = detail::Shown::load(admin, consumer).await?;
    refuse(state, error, |state| {
        detail::draw(admin, shown, &FormState::empty(), &state)
    })
}
