//! `GET /plan`: the plan in force, what comes next, and what can be done about it.

use crate::AppError;
use crate::pricing::words;
use crate::render::Nav;
use crate::session::SignedIn;
use crate::ui::{Tone, badge, banner, card, empty, page_head, stat};
use axum::extract::Query;
use axum::response::Response;
use domain::catalogue::{self, Catalogue};
use domain::overrides;
use domain::subscriptions::{self, Subscription};
use leptos::prelude::*;
use model::access::{Interval, Settlement, SubscriptionStatus};
use model::overrides::Override;
use std::collections::HashMap;

/// `GET /plan`
///
/// # Errors
/// When the database fails.
pub async fn page(visitor: SignedIn, Query(query): Query<HashMap<String, String>>) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let current = subscriptions::current(domain, visitor.viewer()).await?;
    let catalogue = catalogue::current(domain).await?;
    let own = overrides::in_force(domain, visitor.viewer()).await?;
    let done = query.get("done").and_then(|what| done_words(what));
    let manages = visitor.role().manages_billing();
    Ok(visitor.console("Plan", Nav::Plan, || {
        let saved = done.map(|(tone, text)| banner(tone, text, ()));
        let body = match (&current, &catalogue) {
            (Some(current), Some(catalogue)) => draw(current, catalogue, &own, manages),
            _ => {
                let action = view! { <a class="button" data-kind="primary" href="/pricing">"Choose a plan"</a> };
                let text = "Your keys are refused until there is one.";
                view! { {page_head("Plan", "There is no plan on this account.", ())} {empty("No plan", text, action)} }
                    .into_any()
            }
        };
        view! { {saved} {body} }
    }))
}

fn done_words(what: &str) -> Option<(Tone, &'static str)> {
    Some(match what {
        "changed" => (Tone::Good, "Changed. The new limits hold from now on."),
        "pending" => (
            Tone::Warn,
            "The change waits for its payment. Until it is through, your plan stays as it was.",
        ),
        "scheduled" => (Tone::Good, "Scheduled. Until then everything stays as it is."),
        "kept" => (Tone::Good, "Taken back. Your plan stays as it is."),
        "cancelled" => (
            Tone::Good,
            "Cancelled for the end of the period. Until then nothing changes.",
        ),
        "resumed" => (Tone::Good, "Resumed. The plan goes on as if nothing had been."),
        _ => return None,
    })
}

fn draw(current: &Subscription, catalogue: &Catalogue, own: &[Override], manages: bool) -> AnyView {
    let terms = &current.terms;
    let lead = match (current.settlement, current.cancel_at_period_end) {
        (Settlement::Free, _) => format!("Costs nothing. Counts anew on {}.", current.period.end.day()),
        (Settlement::Complimentary, _) => format!(
            "With compliments: nothing is billed. Counts anew on {}.",
            current.period.end.day()
        ),
        (Settlement::Stripe, true) => format!("Ends on {}.", current.period.end.day()),
        (Settlement::Stripe, false) => format!("Renews on {}.", current.period.end.day()),
    };
    let portal = (manages && current.is_paid()).then(|| portal_button("Card and payments", None));
    let lines: Vec<_> = current.offer().map_or_else(Vec::new, |o| {
        words::own_lines(catalogue, terms, o, own)
            .into_iter()
            .map(|line| view! { <li>{line}</li> })
            .collect()
    });
    let price = current.offer().map_or_else(String::new, |o| words::short(o.flat));
    let facts = view! {
        <div class="stats">
            {stat("Price", price, format!("a {}", current.interval))}
            {stat("This period", current.period.start.day(), format!("to {}", current.period.end.day()))}
        </div>
        <ul>{lines}</ul>
        <p><a href="/usage">"Usage of your allowance"</a></p>
    };
    view! {
        {page_head(terms.name.clone(), lead, portal)}
        {notices(current, manages)}
        {card("What you have", status_badge(current), facts)}
        {choices(current, catalogue, manages)}
    }
    .into_any()
}

fn status_badge(current: &Subscription) -> impl IntoView + use<> {
    let (tone, word) = match current.status {
        SubscriptionStatus::Active if current.cancel_at_period_end => (Tone::Warn, "cancelled"),
        SubscriptionStatus::Active => (Tone::Good, "active"),
        SubscriptionStatus::Incomplete => (Tone::Warn, "waiting for payment"),
        SubscriptionStatus::PastDue => (Tone::Warn, "payment failed"),
        SubscriptionStatus::Suspended => (Tone::Bad, "suspended"),
        SubscriptionStatus::Cancelled => (Tone::Bad, "ended"),
    };
    badge(tone, word)
}

fn portal_button(text: &'static str, kind: Option<&'static str>) -> impl IntoView {
    view! { <form method="post" action="/plan/portal"><button class="button" data-kind=kind>{text}</button></form> }
}

fn small_form(action: &'static str, text: &'static str) -> AnyView {
    view! { <form method="post" action=action><button class="button">{text}</button></form> }.into_any()
}

/// What is about to happen, or has gone wrong, and the button that mends it.
fn notices(current: &Subscription, manages: bool) -> Vec<AnyView> {
    let mut out = Vec::new();
    let confirm = current
        .open_invoice
        .as_ref()
        .filter(|i| i.needs_confirmation)
        .and_then(|i| i.hosted_url.clone());
    let pay = || {
        if let (true, Some(page)) = (manages, confirm.clone()) {
            view! { <a class="button" data-kind="primary" href=page>"Confirm the payment"</a> }.into_any()
        } else if manages {
            portal_button("Mend the payment", Some("primary")).into_any()
        } else {
            view! { <small>"Owners and admins of the account can mend it."</small> }.into_any()
        }
    };
    match (current.status, current.grace_until) {
        (SubscriptionStatus::PastDue, Some(until)) => {
            let what = if confirm.is_some() {
                "Your bank wants you to confirm the payment."
            } else {
                "A payment failed."
            };
            let text = format!(
                "{what} Your keys go on working until {}, then they are refused.",
                until.minute()
            );
            out.push(banner(Tone::Bad, text, pay()).into_any());
        }
        (SubscriptionStatus::Suspended, _) => {
            let text =
                "Your keys are refused because a payment failed. Paying opens the same keys again within seconds.";
            out.push(banner(Tone::Bad, text, pay()).into_any());
        }
        _ => {}
    }
    if let Some(until) = current.pending_until {
        let text = format!(
            "A change of plan waits for its payment and lapses on {}. Until then your plan stays as it is.",
            until.minute()
        );
        out.push(banner(Tone::Warn, text, pay()).into_any());
    }
    if let Some(next) = &current.scheduled {
        let text = format!(
            "{} begins on {}, by the {}. Until then you keep {}.",
            next.terms.name,
            current.period.end.day(),
            next.interval,
            current.terms.name
        );
        let action = manages.then(|| small_form("/plan/keep", "Keep my plan"));
        out.push(banner(Tone::Info, text, action).into_any());
    }
    if current.cancel_at_period_end {
        let text = format!(
            "Cancelled: {} ends on {}. Your keys stay.",
            current.terms.name,
            current.period.end.minute()
        );
        let action = manages.then(|| small_form("/plan/resume", "Resume"));
        out.push(banner(Tone::Warn, text, action).into_any());
    }
    out
}

/// The other plans, each with what choosing it does.
fn choices(current: &Subscription, catalogue: &Catalogue, manages: bool) -> AnyView {
    if !manages {
        return card("Other plans", (), view! { <p>"Owners and admins of the account can change the plan. "<a href="/pricing">"Look at the plans"</a></p> }).into_any();
    }
    let now = current.offer().map_or(0, |o| o.flat.minor);
    let rows: Vec<_> = catalogue
        .plans
        .iter()
        .flat_map(|p| p.terms.offers.iter().map(move |o| (p, o)))
        .filter(|(p, o)| (p.version, o.interval) != (current.version, current.interval) && !p.terms.is_free())
        .map(|(p, offer)| {
            let name = match offer.interval {
                Interval::Month => p.terms.name.clone(),
                Interval::Year => format!("{}, yearly", p.terms.name),
            };
            let effect = if !current.is_paid() || offer.flat.minor > now {
                "at once".to_owned()
            } else {
                format!("on {}", current.period.end.day())
            };
            let action = if current.is_paid() {
                let href = format!("/plan/change?plan={}&interval={}", p.terms.slug, offer.interval);
                view! { <a class="button" href=href>"See what changes"</a> }.into_any()
            } else {
                view! {
                    <form method="post" action="/plan/checkout">
                        {crate::ui::hidden("plan", p.terms.slug.clone())}
                        {crate::ui::hidden("interval", offer.interval.to_string())}
                        <button class="button">"Choose"</button>
                    </form>
                }
                .into_any()
            };
            view! {
                <tr>
                    <th scope="row">{name}</th>
                    <td data-label="Price">{format!("{} a {}", words::short(offer.flat), offer.interval)}</td>
                    <td data-label="Takes effect">{effect}</td>
                    <td class="num">{action}</td>
                </tr>
            }
        })
        .collect();
    let stop = (current.is_paid() && !current.cancel_at_period_end)
        .then(|| view! { <p><a class="button" data-kind="danger" href="/plan/cancel">"Cancel the plan"</a></p> });
    let table = view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label="Other plans"><table class="stacked">
            <thead><tr><th scope="col">"Plan"</th><th scope="col">"Price"</th><th scope="col">"Takes effect"</th><th scope="col" class="num"><span class="skip">"Choose"</span></th></tr></thead>
            <tbody>{rows}</tbody>
        </table></div>
        {stop}
    };
    card("Change the plan", view! { <a href="/pricing">"Compare"</a> }, table).into_any()
}
