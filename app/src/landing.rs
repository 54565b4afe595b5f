//! The front page and the short reference: what is sold, how a call is made, what an answer says.

use crate::AppError;
use crate::pricing::words;
use crate::session::Visitor;
use crate::ui::{Tone, badge, empty};
use axum::response::Response;
use domain::catalogue::Catalogue;
use leptos::prelude::*;

/// `/`: what this is, a call to copy, and the way to a key.
pub(crate) async fn front(visitor: Visitor) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let catalogue = domain::catalogue::current(domain).await?;
    let call = first_call(domain).await?;
    Ok(visitor.page("Start", move || match catalogue {
        Some(catalogue) => hero(&catalogue, call).into_any(),
        None => view! {
            <div class="wrap">
                {empty("Nothing is on sale yet", "The provider has not published a catalogue.", view! { <a class="button" href="/login">"Log in"</a> })}
            </div>
        }
        .into_any(),
    }))
}

/// The line of curl for the first route that can be called without a body, with the place for a key.
async fn first_call(domain: &domain::Domain) -> Result<Option<String>, AppError> {
    let routes = domain::keys::routes(domain).await?;
    let plain = routes
        .iter()
        .find(|r| r.methods.contains(&model::access::Method::Get) && !r.path.contains('{'));
    Ok(plain.map(|r| {
        format!(
            "curl {}{} \\\n  -H 'X-API-Key: YOUR_KEY'",
            domain.settings.gateway_url, r.path
        )
    }))
}

fn hero(catalogue: &Catalogue, call: Option<String>) -> impl IntoView + use<> {
    let name = catalogue.product.name.clone();
    let plans: Vec<_> = catalogue
        .plans
        .iter()
        .map(|plan| {
            let popular = plan.terms.popular.then(|| badge(Tone::Good, "most chosen"));
            let price = plan.terms.offers.first().map(|offer| {
                view! { <p class="price">{words::short(offer.flat)}" "<small>{format!("a {}", offer.interval)}</small></p> }
            });
            view! {
                <article class="plan">
                    <header><h3>{plan.terms.name.clone()} " " {popular}</h3><p>{plan.terms.tagline.clone()}</p></header>
                    {price}
                </article>
            }
        })
        .collect();
    view! {
        <section class="hero">
            <h1>{catalogue.product.summary.clone()}</h1>
            <p>{format!("{name}: one key, one bill you can check line by line. Start free, stop whenever you like.")}</p>
            <div class="actions">
                <a class="button" data-kind="primary" data-size="large" href="/signup">"Get a key"</a>
                <a class="button" data-size="large" href="/pricing">"Plans and prices"</a>
            </div>
        </section>
        <div class="wrap">
            {call.map(|call| view! { <pre class="code" tabindex="0" role="region" aria-label="A first call">{call}</pre> })}
            <div class="row">
                {reason("A key in a minute", "Sign up, confirm your address, make a key. The free plan asks for no card.")}
                {reason("A bill you can check", "Every line of an invoice leads to the calls behind it, and what the month costs so far is always on the page.")}
                {reason("A cap that stops", "Set the most that usage may cost. Calls beyond it are refused, not billed.")}
            </div>
            <section class="group">
                <header class="page-head"><h2>"Plans"</h2><a href="/pricing">"Compare them and work out your price"</a></header>
                <div class="plans">{plans}</div>
            </section>
        </div>
    }
}

fn reason(heading: &'static str, text: &'static str) -> impl IntoView {
    view! { <section class="reason"><h2>{heading}</h2><p>{text}</p></section> }
}

/// `/docs`: routes, credentials, limits and refusals.
pub(crate) async fn reference(visitor: Visitor) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let routes = domain::catalogue::public_routes(domain).await?;
    let base = domain.settings.gateway_url.clone();
    Ok(visitor.page("Reference", move || {
        let rows: Vec<_> = routes
            .into_iter()
            .map(|r| {
                let needs = r.feature.unwrap_or_else(|| "every plan".to_owned());
                let counts = match r.weight {
                    0 => "nothing".to_owned(),
                    1 => format!("1 {}", r.unit),
                    n => format!("{n} {}s", r.unit),
                };
                view! { <tr><th scope="row"><code>{r.path}</code></th><td data-label="Method">{r.methods.join(", ")}</td><td data-label="In">{needs}</td><td class="num" data-label="Counts as">{counts}</td></tr> }
            })
            .collect();
        view! {
            <div class="wrap" data-top="plain">
                <h1>"Reference"</h1>
                <section class="card">
                    <header><h2>"Calling"</h2></header>
                    <p>"Requests go to " <code>{base}</code> " with your key in the header " <code>"X-API-Key"</code> ", or as " <code>"Authorization: Bearer"</code> ". One of the two, never both, never in the address."</p>
                </section>
                <section class="card">
                    <header><h2>"Routes"</h2></header>
                    <div class="table-wrap" tabindex="0" role="region" aria-label="Routes">
                        <table class="stacked">
                            <thead><tr><th scope="col">"Path"</th><th scope="col">"Method"</th><th scope="col">"In"</th><th scope="col" class="num">"Counts as"</th></tr></thead>
                            <tbody>{rows}</tbody>
                        </table>
                    </div>
                </section>
                <section class="card">
                    <header><h2>"Limits and refusals"</h2></header>
                    <p><code>"RateLimit-Policy"</code> " and " <code>"RateLimit"</code> " on every answer say what your plan allows and what is left. A refusal is " <code>"application/problem+json"</code> ": its type is a page under " <a href="/problems">"refusals"</a> " that says how to mend it, and " <code>"X-Request-Id"</code> " finds it again in your request log."</p>
                </section>
            </div>
        }
    }))
}
