//! The estimator. It is a form that works without JavaScript; with it the figures follow the typing.

#![expect(
    missing_docs,
    reason = "the island macro makes a struct of its own and takes no docs for it"
)]

use super::estimate::{Plans, estimate, read_units};
use leptos::prelude::*;
use model::money::grouped;

/// What each plan costs for a number of units in an interval.
#[island]
pub fn Estimator(
    /// The plans, from small to large.
    plans: Plans,
    /// Units to begin with.
    units: u64,
    /// `calls`.
    unit: String,
    /// `month` or `year`.
    interval: String,
) -> impl IntoView {
    let wanted = RwSignal::new(units);
    let rows = move || {
        estimate(&plans.0, wanted.get())
            .into_iter()
            .map(|row| {
                let total = row.total.map_or_else(|| "—".to_owned(), |m| m.to_string());
                let mark = row
                    .cheapest
                    .then(|| view! { <span class="badge" data-state="good">"least"</span> });
                view! {
                    <dl class="stat">
                        <dt>{row.name} " " {mark}</dt>
                        <dd>{total}</dd>
                        <dd class="note">{row.words}</dd>
                    </dl>
                }
            })
            .collect_view()
    };
    view! {
        <form method="get" action="/pricing#estimate" class="stack">
            <input type="hidden" name="interval" value=interval.clone() />
            <div class="inline">
                <div class="field">
                    <label for="calls">{format!("{unit} a {interval}")}</label>
                    <input id="calls" name="calls" inputmode="numeric" autocomplete="off" value=grouped(units)
                        on:input:target=move |event| {
                            if let Some(units) = read_units(&event.target().value()) {
                                wanted.set(units);
                            }
                        } />
                </div>
                <button class="button">"Work it out"</button>
            </div>
            <div class="row" role="status">{rows}</div>
        </form>
    }
}
