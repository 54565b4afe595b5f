//! `GET /admin`: who is there, what they pay, what goes through today, and what wants attention.

use crate::error::AppError;
use crate::render::AdminNav;
use crate::session::ProviderAdmin;
use crate::ui::{Tone, banner, card, empty, page_head, stat};
use axum::response::Response;
use domain::metrics::{self, Overview, PlanCount};
use leptos::prelude::*;
use model::money::grouped;

/// `GET /admin`
///
/// # Errors
/// When the database fails.
pub async fn page(visitor: ProviderAdmin) -> Result<Response, AppError> {
    let overview = metrics::overview(&visitor.site().domain, visitor.provider()).await?;
    Ok(visitor.admin("Overview", AdminNav::Overview, || {
        let count = |n: i64| grouped(n.unsigned_abs());
        let paid: i64 = overview.plans.iter().map(|p| p.paid).sum();
        let all: i64 = overview.plans.iter().map(|p| p.subscriptions).sum();
        let share = overview.refused.saturating_add(overview.errors);
        let notes = format!("{} refused, {} failed", count(overview.refused), count(overview.errors));
        let plans = if overview.plans.is_empty() {
            let text = "Publish a catalogue, and the first accounts show here.";
            empty("No subscriptions yet", text, view! { <a class="button" href="/admin/plans">"Plans"</a> }).into_any()
        } else {
            plans(&overview.plans).into_any()
        };
        view! {
            {page_head("Overview", "Days begin at midnight UTC.", ())}
            {attention(&overview)}
            <section class="card"><div class="stats">
                {stat("Consumers", count(overview.consumers), "accounts")}
                {stat("Active subscriptions", count(all), format!("{} paid", count(paid)))}
                {stat("MRR", overview.mrr.to_string(), "flat prices of paid subscriptions; a twelfth of yearly ones")}
                {stat("Requests today", count(overview.requests), if share == 0 { "none refused, none failed".to_owned() } else { notes })}
            </div></section>
            {card("Subscriptions by plan", "", plans)}
        }
    }))
}

fn attention(o: &Overview) -> impl IntoView + use<> {
    let refused = (o.refused_events > 0).then(|| {
        let text = format!(
            "Stripe refused {} meter events: that usage is not billed. The log names them.",
            o.refused_events
        );
        banner(Tone::Bad, text, ())
    });
    let differing = (o.differing_invoices > 0).then(|| {
        let text = format!(
            "{} invoices bill other usage than was rated here. The log names them.",
            o.differing_invoices
        );
        banner(Tone::Bad, text, ())
    });
    let unsent = o.oldest_unsent.filter(|_| o.unsent > 0).map(|oldest| {
        let text = format!(
            "{} meter events wait for Stripe, the oldest of {}.",
            o.unsent,
            oldest.minute()
        );
        banner(Tone::Info, text, ())
    });
    view! { {refused} {differing} {unsent} }
}

fn plans(plans: &[PlanCount]) -> impl IntoView + use<> {
    let rows: Vec<_> = plans
        .iter()
        .map(|p| {
            view! {
                <tr>
                    <td><strong>{p.name.clone()}</strong></td>
                    <td class="num">{p.subscriptions}</td>
                    <td class="num">{p.paid}</td>
                    <td class="num">{p.mrr.to_string()}</td>
                </tr>
            }
        })
        .collect();
    view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label="Subscriptions by plan">
            <table>
                <thead><tr><th scope="col">"Plan"</th><th scope="col" class="num">"Subscriptions"</th><th scope="col" class="num">"Paid"</th><th scope="col" class="num">"MRR"</th></tr></thead>
                <tbody>{rows}</tbody>
            </table>
        </div>
    }
}
