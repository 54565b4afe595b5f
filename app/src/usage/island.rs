//! The live parts of the usage page. They are drawn on the server too, so without JavaScript a reload does the same.

#![expect(
    missing_docs,
    reason = "the island macro makes a struct of its own and takes no docs for it"
)]

use super::api::{Bar, Figure, Figures, Log, LogRow};
#[cfg(feature = "hydrate")]
use super::api::{FIGURES, LOG};
#[cfg(feature = "hydrate")]
use crate::ui::wire::Rows;
use leptos::prelude::*;

/// How often the figures and the log are asked for while the page is visible, in milliseconds.
#[cfg(feature = "hydrate")]
const EVERY_MS: u32 = 2_000;

/// Asks an address again and again while the page is visible; a question that is still open is not asked a second
/// time. What the server functions answer is read as rows, as the islands' props are, so that the browser needs no
/// second reader and no client for them.
#[cfg(feature = "hydrate")]
fn poll<T>(into: RwSignal<T>, address: String)
where
    T: From<Rows> + PartialEq + Send + Sync + 'static,
{
    let asking = std::rc::Rc::new(std::cell::Cell::new(false));
    gloo_timers::callback::Interval::new(EVERY_MS, move || {
        let visible = web_sys::window()
            .and_then(|w| w.document())
            .is_some_and(|d| d.visibility_state() == web_sys::VisibilityState::Visible);
        if !visible || asking.replace(true) {
            return;
        }
        let (asking, address) = (asking.clone(), address.clone());
        leptos::task::spawn_local(async move {
            if let Some(rows) = get(&address).await {
                let next = T::from(rows);
                if into.with_untracked(|now| *now != next) {
                    into.set(next);
                }
            }
            asking.set(false);
        });
    })
    .forget();
}

/// What the address answers; none when it fails, and then the page keeps what it shows until the next time.
#[cfg(feature = "hydrate")]
async fn get(address: &str) -> Option<Rows> {
    use wasm_bindgen::JsCast as _;
    use wasm_bindgen_futures::JsFuture;
    let answer = JsFuture::from(web_sys::window()?.fetch_with_str(address)).await.ok()?;
    let answer: web_sys::Response = answer.dyn_into().ok()?;
    if !answer.ok() {
        return None;
    }
    let text = JsFuture::from(answer.text().ok()?).await.ok()?.as_string()?;
    leptos::serde_json::from_str(&text).ok()
}

/// A value for a query string.
#[cfg(feature = "hydrate")]
fn escaped(value: &str) -> String {
    js_sys::encode_uri_component(value).into()
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
    #[cfg(feature = "hydrate")]
    poll(figures, format!("{FIGURES}?environment={}", escaped(&environment)));
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
    rows: Log,
    /// The page's query, which holds the filter.
    filter: String,
) -> impl IntoView {
    let rows = RwSignal::new(rows);
    #[cfg(feature = "hydrate")]
    poll(rows, format!("{LOG}?filter={}", escaped(&filter)));
    #[cfg(not(feature = "hydrate"))]
    let _ = filter;
    view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label="Last requests">
            <table class="stacked">
                <thead>
                    <tr>
                        <th scope="col">"Time (UTC)"</th><th scope="col">"Status"</th><th scope="col">"Route"</th>
                        <th scope="col">"Key"</th><th scope="col" class="num">"Counted"</th><th scope="col" class="num">"Took"</th>
                        <th scope="col">"Request"</th>
                    </tr>
                </thead>
                <tbody>{move || rows.with(|all| all.0.iter().map(row).collect::<Vec<_>>())}</tbody>
            </table>
        </div>
        <p><small>{move || match rows.with(|all| all.0.len()) {
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
            <td data-label="Time (UTC)"><time datetime=r.at.clone()>{r.at_words.clone()}</time></td>
            <td data-label="Status"><span class="badge" data-state=r.state.clone()>{r.status.clone()}</span>{refusal}</td>
            <td data-label="Route">{r.route.clone()}</td>
            <td data-label="Key">{r.key.clone()}{test}</td>
            <td data-label="Counted" class="num">{r.units.clone()}</td>
            <td data-label="Took" class="num">{r.took.clone()}</td>
            <td data-label="Request"><code>{r.request.clone()}</code></td>
        </tr>
    }
}
