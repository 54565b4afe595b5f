//! The list of consumers, with a search and pages that have addresses.

use super::{grouped, status_badge};
use crate::AppError;
use crate::render::AdminNav;
use crate::session::{ProviderAdmin, escape};
use crate::ui::{Tone, badge, empty, on_day, page_head};
use axum::extract::Query;
use axum::response::Response;
use domain::consumers::{self, Line};
use leptos::prelude::*;
use model::ConsumerId;

/// What the address carries.
#[derive(serde::Deserialize)]
pub struct Address {
    #[serde(default)]
    search: String,
    #[serde(default)]
    before: String,
}

fn row(line: &Line) -> impl IntoView + use<> {
    let state = match line.suspended_at {
        Some(_) => badge(Tone::Bad, "suspended").into_any(),
        None => status_badge(line.status).into_any(),
    };
    view! {
        <tr>
            <td><a href=format!("/admin/consumers/{}", line.id)>{line.name.clone()}</a></td>
            <td data-label="Billing address">{line.billing_email.clone()}</td>
            <td data-label="Plan">{line.plan.clone().unwrap_or_else(|| "none".to_owned())}</td>
            <td data-label="State">{state}</td>
            <td data-label="Keys" class="num">{grouped(line.keys)}</td>
            <td data-label="Units, this period" class="num">{grouped(line.units)}</td>
            <td data-label="Since">{on_day(line.created_at)}</td>
        </tr>
    }
}

fn table(lines: &[Line]) -> impl IntoView + use<> {
    let rows: Vec<_> = lines.iter().map(row).collect();
    view! {
        <section class="card"><div class="table-wrap" tabindex="0" role="group" aria-label="Consumers"><table class="stacked">
            <thead><tr>
                <th scope="col">"Name"</th><th scope="col">"Billing address"</th><th scope="col">"Plan"</th>
                <th scope="col">"State"</th><th scope="col" class="num">"Keys"</th>
                <th scope="col" class="num">"Units, this period"</th><th scope="col">"Since"</th>
            </tr></thead>
            <tbody>{rows}</tbody>
        </table></div></section>
    }
}

/// The list.
///
/// # Errors
/// When the database fails.
pub async fn page(admin: ProviderAdmin, Query(address): Query<Address>) -> Result<Response, AppError> {
    let search = address.search.trim().to_owned();
    let before: Option<ConsumerId> = address.before.parse().ok();
    let found = consumers::list(&admin.site().domain, admin.provider(), &search, before).await?;
    Ok(admin.admin("Consumers", AdminNav::Consumers, move || {
        let body = match (found.lines.is_empty(), search.is_empty()) {
            (false, _) => table(&found.lines).into_any(),
            (true, true) => empty("No consumers yet", "They appear here when developers sign up.", ()).into_any(),
            (true, false) => {
                let all = view! { <a class="button" href="/admin/consumers">"Show all"</a> };
                empty(
                    "Nothing found",
                    "No name or billing address contains this, and it is no consumer's id.",
                    all,
                )
                .into_any()
            }
        };
        let next = found.next.map(|id| {
            let href = format!("/admin/consumers?search={}&before={id}", escape(&search));
            view! { <a class="button" href=href rel="next">"Older"</a> }
        });
        let newest = before.map(|_| {
            let href = format!("/admin/consumers?search={}", escape(&search));
            view! { <a class="button" href=href>"Newest"</a> }
        });
        view! {
            {page_head("Consumers", "Accounts that subscribe, hold keys and pay, the newest first.", ())}
            <form method="get" action="/admin/consumers" role="search" class="inline">
                <div class="field">
                    <label for="search">"Name, address or id"</label>
                    <input id="search" name="search" type="search" value=search.clone() autocomplete="off" />
                </div>
                <button class="button">"Search"</button>
            </form>
            {body}
            <nav class="actions" aria-label="Pages">{newest} {next}</nav>
        }
    }))
}
