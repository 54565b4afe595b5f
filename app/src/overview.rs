//! `GET /home`: the way to the first call, and where plan and usage stand.

use crate::error::AppError;
use crate::keys::curl_line;
use crate::pricing::words;
use crate::render::Nav;
use crate::session::SignedIn;
use crate::ui::copy::CopyButton;
use crate::ui::{Tone, badge, card, meter_bar, page_head, stat};
use axum::response::Response;
use domain::usage::PeriodUsage;
use domain::{cost, keys, usage};
use leptos::prelude::*;
use model::access::Environment;
use model::money::grouped;

/// `GET /home`
///
/// # Errors
/// When the database fails.
pub async fn page(visitor: SignedIn) -> Result<Response, AppError> {
    let (domain, viewer) = (&visitor.site().domain, visitor.viewer());
    let all = keys::list(domain, viewer).await?;
    let has_key = all.iter().any(|k| k.works(domain.clock.now()));
    let has_called = usage::has_requests(domain, viewer).await?;
    let running = cost::running(domain, viewer).await?;
    let period = usage::period(domain, viewer, Environment::Live).await?;
    let routes = keys::routes(domain).await?;
    let may = visitor.role().manages_keys();
    let gateway = domain.settings.gateway_url.clone();
    Ok(visitor.console("Overview", Nav::Overview, || {
        let plan = running.as_ref().map_or("No plan".to_owned(), |c| c.plan.clone());
        let lead = format!("{plan}. The API is at {gateway}.");
        let curl = curl_line(&gateway, &routes, None, "YOUR_KEY");
        let steps = (!has_called).then(|| checklist(has_key, may, curl));
        let cost = running.as_ref().map(|c| {
            let next = c.next_invoice.as_ref();
            let figure = next.map_or("none".to_owned(), |n| n.total.to_string());
            let note = next.map_or("nothing will be charged".to_owned(), |n| format!("on {}", n.at.day()));
            view! {
                {stat("Plan", c.plan.clone(), format!("until {}", c.period.end.day()))}
                {stat("Usage charges so far", c.usage.to_string(), "in this period")}
                {stat("Next invoice as it stands", figure, note)}
            }
        });
        view! {
            {page_head("Overview", lead, ())}
            {steps}
            <section class="card"><div class="stats">{cost}</div></section>
            {period.as_ref().map(allowances)}
        }
    }))
}

fn allowances(period: &PeriodUsage) -> impl IntoView + use<> {
    let bars: Vec<_> = period
        .meters
        .iter()
        .map(|m| {
            let own = m.own.as_ref().map_or_else(String::new, words::until);
            let left = format!(
                "{}: {} of {} used{own}",
                m.name,
                grouped(m.counted),
                grouped(m.quota.units)
            );
            meter_bar(
                m.name.clone(),
                m.counted,
                m.quota.units,
                left,
                format!("resets {}", period.period.end.minute()),
            )
        })
        .collect();
    let more = view! { <a href="/usage">"All usage"</a> };
    card("This period", more, view! { <div class="stack bars">{bars}</div> })
}

/// The three steps to the first call. The address is confirmed by whoever sees this page.
fn checklist(has_key: bool, may: bool, curl: String) -> impl IntoView {
    let key = match (has_key, may) {
        (true, _) => view! { <p>"Your keys are on " <a href="/keys">"their page"</a> "."</p> }.into_any(),
        (false, true) => {
            view! { <p><a class="button" data-kind="primary" href="/keys/new">"Create a key"</a></p> }.into_any()
        }
        (false, false) => view! { <p>"Ask an owner, admin or developer of the account for a key."</p> }.into_any(),
    };
    let body = view! {
        <ol class="steps">
            {step("Confirm your e-mail address", true, ())}
            {step("Create a key", has_key, key)}
            {step("Make the first call", false, view! {
                <pre class="code" tabindex="0" role="group" aria-label="A first call"><code>{curl.clone()}</code></pre>
                <CopyButton text=curl label="Copy call".to_owned() kind=String::new() />
                <p><small>"It shows on the " <a href="/usage">"usage page"</a> " within two seconds, and this list goes away."</small></p>
            })}
        </ol>
    };
    card("Three steps to the first call", "", body)
}

fn step(title: &'static str, done: bool, body: impl IntoView + 'static) -> impl IntoView {
    let mark = if done {
        badge(Tone::Good, "done")
    } else {
        badge(Tone::Plain, "to do")
    };
    view! { <li><h3>{title} " " {mark}</h3>{body}</li> }
}
