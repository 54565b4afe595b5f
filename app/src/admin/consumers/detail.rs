//! One consumer: plan, keys, use, people, history, and the switch that refuses its keys.

use super::{grouped, overrides, status_badge};
use crate::AppError;
use crate::accounts::refuse;
use crate::render::AdminNav;
use crate::session::ProviderAdmin;
use crate::ui::{FormState, Tone, badge, banner, card, empty, field, page_head, submit, when};
use axum::extract::{Form, Path};
use axum::response::{IntoResponse, Redirect, Response};
use domain::consumers::{self, Detail, HistoryLine, MemberLine, MeterLine};
use domain::keys::{self, Key, KeyState};
use domain::subscriptions::{self, Dispute, Subscription};
use leptos::prelude::*;
use model::access::Settlement;
use model::{ConsumerId, Time};

/// What the form for a suspension sends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suspending {
    reason: String,
}

/// What the page shows.
pub(super) struct Shown {
    detail: Detail,
    subscription: Option<Subscription>,
    keys: Vec<Key>,
    disputes: Vec<Dispute>,
    overrides: overrides::Shown,
    now: Time,
}

impl Shown {
    pub(super) async fn load(admin: &ProviderAdmin, consumer: ConsumerId) -> Result<Self, AppError> {
        let domain = &admin.site().domain;
        let viewer = admin.provider().viewer(consumer);
        Ok(Self {
            detail: consumers::detail(domain, admin.provider(), consumer).await?,
            subscription: subscriptions::current(domain, &viewer).await?,
            keys: keys::list(domain, &viewer).await?,
            disputes: subscriptions::disputes(domain, admin.provider(), consumer).await?,
            overrides: overrides::Shown::load(admin, consumer).await?,
            now: domain.clock.now(),
        })
    }
}

/// The page; `state` is the form's that suspends and restores, `adding` that of the overrides.
pub(super) fn draw(admin: &ProviderAdmin, shown: Shown, state: &FormState, adding: &FormState) -> Response {
    let title = shown.detail.name.clone();
    admin.admin(&title, AdminNav::Consumers, move || {
        let detail = &shown.detail;
        let lead = format!(
            "{} · {} · since {}",
            detail.billing_email,
            detail.id,
            detail.created_at.day()
        );
        let features = format!("/admin/consumers/{}/features", detail.id);
        let back = view! {
            <a class="button" href=features>"Features"</a>
            <a class="button" href="/admin/consumers">"All consumers"</a>
        };
        view! {
            {page_head(detail.name.clone(), lead, back)}
            {suspended_banner(detail)}
            {disputes(&shown.disputes)}
            {plan(shown.subscription.as_ref(), detail.stripe_customer.clone())}
            {usage(&detail.usage)}
            {overrides::section(detail.id, &shown.overrides, shown.now, adding)}
            {key_list(&shown.keys, shown.now)}
            {people(&detail.members)}
            {history(&detail.history)}
            {switch(detail, state)}
        }
    })
}

fn suspended_banner(detail: &Detail) -> impl IntoView + use<> {
    detail.suspended_at.map(|at| {
        let reason = detail.suspended_reason.clone().unwrap_or_default();
        banner(
            Tone::Bad,
            format!("Suspended since {}: {reason} All its keys are refused.", at.minute()),
            (),
        )
    })
}

/// Payments contested at the bank, the open ones to be acted on.
fn disputes(all: &[Dispute]) -> Vec<AnyView> {
    all.iter()
        .map(|dispute| {
            let (tone, state) = match dispute.closed_at {
                None => (Tone::Bad, "answer it in Stripe's dashboard".to_owned()),
                Some(at) => (Tone::Plain, format!("closed on {}", at.day())),
            };
            let (status, reason) = (dispute.status.replace('_', " "), dispute.reason.replace('_', " "));
            let text = format!(
                "Payment of {} disputed on {} ({reason}): {status}, {state}. {}",
                dispute.amount,
                dispute.opened_at.day(),
                dispute.id
            );
            banner(tone, text, ())
        })
        .collect()
}

fn plan(subscription: Option<&Subscription>, stripe_customer: Option<String>) -> impl IntoView + use<> {
    let body = match subscription {
        None => empty("No plan", "Keys of this consumer are refused until it has one.", ()).into_any(),
        Some(subscription) => {
            let settlement = match subscription.settlement {
                Settlement::Stripe => "paid through Stripe",
                Settlement::Free => "free by its terms",
                Settlement::Complimentary => "given away: metered, never billed",
            };
            let end = if subscription.cancel_at_period_end {
                "ends"
            } else {
                "renews"
            };
            let scheduled = subscription.scheduled.as_ref().map(|next| {
                view! { <p>"Then: "{next.terms.name.clone()}", by the "{next.interval.word()}"."</p> }
            });
            let grace = subscription.grace_until.map(|until| {
                view! { <p>"A payment failed; access goes on until "{when(until)}"."</p> }
            });
            view! {
                <p>
                    <strong>{subscription.terms.name.clone()}</strong>", by the "{subscription.interval.word()}", "{settlement}" "
                    {status_badge(Some(subscription.status))}
                </p>
                <p>"This period: "{when(subscription.period.start)}" to "{when(subscription.period.end)}", when it "{end}"."</p>
                {scheduled}
                {grace}
            }
            .into_any()
        }
    };
    card(
        "Plan",
        stripe_customer.unwrap_or_else(|| "not known to Stripe".to_owned()),
        body,
    )
}

fn usage(lines: &[MeterLine]) -> impl IntoView + use<> {
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            view! {
                <tr>
                    <td data-label="Meter">{line.meter.clone()}</td>
                    <td data-label="Environment">{line.environment.word()}</td>
                    <td data-label="Used" class="num">{grouped(line.units)}" "{line.unit.clone()}{(line.units != 1).then_some("s")}</td>
                    <td data-label="Period began">{when(line.period_start)}</td>
                </tr>
            }
        })
        .collect();
    let body = if rows.is_empty() {
        empty(
            "Nothing used yet",
            "The first request through the gateway shows here within seconds.",
            (),
        )
        .into_any()
    } else {
        view! {
            <div class="table-wrap" tabindex="0" role="group" aria-label="Usage"><table class="stacked">
                <thead><tr>
                    <th scope="col">"Meter"</th><th scope="col">"Environment"</th>
                    <th scope="col" class="num">"Used"</th><th scope="col">"Period began"</th>
                </tr></thead>
                <tbody>{rows}</tbody>
            </table></div>
        }
        .into_any()
    };
    card("Usage", "last period with use, by meter", body)
}

fn key_list(keys: &[Key], now: Time) -> impl IntoView + use<> {
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            let state = match key.state(now) {
                KeyState::Active => badge(Tone::Good, "active"),
                KeyState::Expiring => badge(Tone::Warn, "expires soon"),
                KeyState::Rotated => badge(Tone::Warn, "rotated, overlap runs"),
                KeyState::Expired => badge(Tone::Plain, "expired"),
                KeyState::Revoked => badge(Tone::Plain, "revoked"),
            };
            let used = match key.last_used_at {
                Some(at) => when(at).into_any(),
                None => "never".into_any(),
            };
            view! {
                <tr>
                    <td>{key.name.clone()}</td>
                    <td data-label="Key"><code>{key.shown_prefix.clone()}"…"{key.last4.clone()}</code></td>
                    <td data-label="Environment">{key.environment.word()}</td>
                    <td data-label="State">{state}</td>
                    <td data-label="Last used">{used}</td>
                    <td data-label="Created">{when(key.created_at)}</td>
                </tr>
            }
        })
        .collect();
    let body = if rows.is_empty() {
        empty("No keys", "This consumer has not created one yet.", ()).into_any()
    } else {
        view! {
            <div class="table-wrap" tabindex="0" role="group" aria-label="Keys"><table class="stacked">
                <thead><tr>
                    <th scope="col">"Name"</th><th scope="col">"Key"</th><th scope="col">"Environment"</th>
                    <th scope="col">"State"</th><th scope="col">"Last used"</th><th scope="col">"Created"</th>
                </tr></thead>
                <tbody>{rows}</tbody>
            </table></div>
        }
        .into_any()
    };
    card("Keys", "the secrets are stored nowhere", body)
}

fn people(members: &[MemberLine]) -> impl IntoView + use<> {
    let rows: Vec<_> = members
        .iter()
        .map(|member| {
            let verified = match member.verified_at {
                Some(at) => when(at).into_any(),
                None => badge(Tone::Warn, "not confirmed").into_any(),
            };
            view! {
                <tr>
                    <td>{member.email.clone()}</td><td data-label="Role">{member.role.word()}</td><td data-label="Address confirmed">{verified}</td>
                    <td data-label="Since">{when(member.created_at)}</td>
                </tr>
            }
        })
        .collect();
    let table = view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label="Members"><table class="stacked">
            <thead><tr>
                <th scope="col">"E-mail"</th><th scope="col">"Role"</th><th scope="col">"Address confirmed"</th>
                <th scope="col">"Since"</th>
            </tr></thead>
            <tbody>{rows}</tbody>
        </table></div>
    };
    card("Members", (), table)
}

fn history(lines: &[HistoryLine]) -> impl IntoView + use<> {
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            view! {
                <tr>
                    <td data-label="When">{when(line.at)}</td><td data-label="What">{line.action.clone()}</td>
                    <td data-label="With what"><code>{line.target.clone()}</code></td><td data-label="By whom"><code>{line.actor.clone()}</code></td>
                </tr>
            }
        })
        .collect();
    let table = view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label="History"><table class="stacked">
            <thead><tr>
                <th scope="col">"When"</th><th scope="col">"What"</th><th scope="col">"With what"</th>
                <th scope="col">"By whom"</th>
            </tr></thead>
            <tbody>{rows}</tbody>
        </table></div>
    };
    card("History", "the last twenty changes", table)
}

/// Suspends or restores, whichever can be done now.
fn switch(detail: &Detail, state: &FormState) -> impl IntoView + use<> {
    let id = detail.id;
    let form = if detail.suspended_at.is_some() {
        view! {
            <form method="post" action=format!("/admin/consumers/{id}/restore") class="stack">
                {state.summary()}
                <p>"Keys work again within seconds, if the plan lets them."</p>
                {submit("Restore the account", "primary")}
            </form>
        }
        .into_any()
    } else {
        view! {
            <form method="post" action=format!("/admin/consumers/{id}/suspend") class="stack">
                {state.summary()}
                <p>"All its keys are refused within seconds. Its subscription goes on and is billed; cancel that in Stripe if it should not."</p>
                {field(state, "reason", "Reason", "text", "off", "The consumer reads it.")}
                {submit("Suspend the account", "danger")}
            </form>
        }
        .into_any()
    };
    let heading = if detail.suspended_at.is_some() {
        "Restore"
    } else {
        "Suspend"
    };
    card(heading, (), form)
}

/// The page.
///
/// # Errors
/// 404 when there is no such consumer.
pub async fn page(admin: ProviderAdmin, Path(id): Path<String>) -> Result<Response, AppError> {
    let shown = Shown::load(&admin, parse(&id)?).await?;
    Ok(draw(&admin, shown, &FormState::empty(), &FormState::empty()))
}

/// Suspends.
///
/// # Errors
/// 404 when there is no such consumer.
pub async fn suspend(
    admin: ProviderAdmin,
    Path(id): Path<String>,
    Form(form): Form<Suspending>,
) -> Result<Response, AppError> {
    let consumer = parse(&id)?;
    let outcome = consumers::suspend(&admin.site().domain, admin.provider(), consumer, &form.reason).await;
    answer(
        &admin,
        consumer,
        outcome,
        FormState::empty().with("reason", form.reason),
    )
    .await
}

/// Restores.
///
/// # Errors
/// 404 when there is no such consumer.
pub async fn restore(admin: ProviderAdmin, Path(id): Path<String>) -> Result<Response, AppError> {
    let consumer = parse(&id)?;
    let outcome = consumers::restore(&admin.site().domain, admin.provider(), consumer).await;
    answer(&admin, consumer, outcome, FormState::empty()).await
}

async fn answer(
    admin: &ProviderAdmin,
    consumer: ConsumerId,
    outcome: domain::Result<()>,
    state: FormState,
) -> Result<Response, AppError> {
    match outcome {
        Ok(()) => Ok(Redirect::to(&format!("/admin/consumers/{consumer}")).into_response()),
        Err(error) => {
            let shown = Shown::load(admin, consumer).await?;
            refuse(state, error, |state| draw(admin, shown, &state, &FormState::empty()))
        }
    }
}

/// The id in the address.
pub(super) fn parse(id: &str) -> Result<ConsumerId, AppError> {
    id.parse().map_err(|_| AppError::not_found())
}
