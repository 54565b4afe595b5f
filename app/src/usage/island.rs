//! The live parts of the usage page. They are drawn on the server too, so without JavaScript a reload does the same.

#![expect(
    missing_docs,
    reason = "the island macro makes a struct of its own and takes no docs for it"
)]

use super::api::{Bar, Figure, Figures, LogRow};
use leptos::prelude::*;

/// How often the figures and the log are asked for while the page is visible, in milliseconds.
#[cfg(feature = "hydrate")]
const EVERY_MS: u32 = 2_000;

/// Asks again and again while the page is visible; a question that is still open is not asked a second time.
#[cfg(feature = "hydrate")]
fn poll<T, F>(into: RwSignal<T>, ask: impl Fn() -> F + Copy + 'static)
where
    T: PartialEq + Send + Sync + 'static,
    F: Future<Output = Result<T, ServerFnError>> + 'static,
{
    let asking = std::rc::Rc::new(std::cell::Cell::new(false));
    gloo_timers::callback::Interval::new(EVERY_MS, move || {
        let visible = web_sys::window()
            .and_then(|w| w.document())
            .is_some_and(|d| d.visibility_state() == web_sys::VisibilityState::Visible);
        if !visible || asking.replace(true) {
            return;
        }
        let asking = asking.clone();
        leptos::task::spawn_local(async move {
            if let Ok(next) = ask().await
                && into.with_untracked(|now| *now != next)
            {
                into.set(next);
            }
            asking.set(false);
        });
    })
    .forget();
}

/// The figures and bars, two seconds old at most.
#[island]
pub fn LiveFigures(
    /// As the server drew them.
    figures: Figures,
    /// `live` or `test`.
    environment: String,
) -> impl IntoView {
    let figures = RwSignal::new(figures);
    let environment = StoredValue::new(environment);
    #[cfg(feature = "hydrate")]
    poll(figures, move || super::api::live_figures(environment.get_value()));
    #[cfg(not(feature = "hydrate"))]
    let _ = environment;
    view! {
        <section class="card">
            <div class="stats">{move || figures.with(|f| f.stats.iter().map(figure).collect::<Vec<_>>())}</div>
            <p><small>{move || figures.with(|f| format!("As of {} UTC.", f.as_of))}<span class="needs-script">" Updates while this page is open."</span></small></p>
        </section>
        <section class="card">
            <header><h2>"Limits"</h2></header>
            <div class="stack bars">{move || figures.with(|f| f.bars.iter().map(bar).collect::<Vec<_>>())}</div>
        </section>
    }
}

fn figure(f: &Figure) -> impl IntoView + use<> {
    view! { <dl class="stat"><dt>{f.name.clone()}</dt><dd>{f.figure.clone()}</dd><dd class="note">{f.note.clone()}</dd></dl> }
}

fn bar(b: &Bar) -> impl IntoView + use<> {
    view! {
        <div class="meter" data-state=b.state.clone()>
            <div class="words"><strong>{b.name.clone()}</strong></div>
            <progress max=b.of.max(1).to_string() value=b.used.min(b.of).to_string() aria-label=b.name.clone()></progress>
            <div class="words"><span>{b.left.clone()}</span><span>{b.right.clone()}</span></div>
        </div>
    }
}

/// The request log, two seconds old at most.
#[island]
pub fn LiveLog(
    /// As the server drew it.
    rows: Vec<LogRow>,
    /// The page's query, which holds the filter.
    filter: String,
) -> impl IntoView {
    let rows = RwSignal::new(rows);
    let filter = StoredValue::new(filter);
    #[cfg(feature = "hydrate")]
    poll(rows, move || super::api::live_log(filter.get_value()));
    #[cfg(not(feature = "hydrate"))]
    let _ = filter;
    view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label="Last requests">
            <table>
                <thead>
                    <tr>
                        <th scope="col">"Time (UTC)"</th><th scope="col">"Status"</th><th scope="col">"Route"</th>
                        <th scope="col">"Key"</th><th scope="col" class="num">"Counted"</th><th scope="col" class="num">"Took"</th>
                        <th scope="col">"Request"</th>
                    </tr>
                </thead>
                <tbody>{move || rows.with(|all| all.iter().map(row).collect::<Vec<_>>())}</tbody>
            </table>
        </div>
        <p><small>{move || match rows.with(Vec::len) {
            0 => "No request passes this filter.".to_owned(),
            1 => "1 request.".to_owned(),
            n => format!("{n} requests, the newest first."),
        }}</small></p>
    }
}

fn row(r: &LogRow) -> impl IntoView + use<> {
    let (name, href) = r.refusal.clone();
    let refusal = (!href.is_empty()).then(|| view! { " " <a href=href>{name}</a> });
    let test = r.test.then(|| view! { " " <span class="badge">"test"</span> });
    view! {
        <tr>
            <td><time datetime=r.at.clone()>{r.at_words.clone()}</time></td>
            <td><span class="badge" data-state=r.state.clone()>{r.status.to_string()}</span>{refusal}</td>
            <td>{r.route.clone()}</td>
            <td>{r.key.clone()}{test}</td>
            <td class="num">{r.units.clone()}</td>
            <td class="num">{r.took.clone()}</td>
            <td><code>{r.request.clone()}</code></td>
        </tr>
    }
}
