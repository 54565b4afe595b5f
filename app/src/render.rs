//! Views to responses: the document around every page, and its three layouts (public, console, admin).

use crate::site::Site;
use axum::response::{Html, IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use leptos::prelude::*;
use leptos::reactive::owner::Owner;
use std::sync::Arc;

/// The request's nonce, made by the security layer and named in its Content-Security-Policy.
#[derive(Clone, Debug, Default)]
pub struct Nonce(pub String);

/// What the frame of a page shows of the person in front of it.
#[derive(Clone, Debug, Default)]
pub struct Chrome {
    /// For script tags.
    pub nonce: Nonce,
    /// Who is signed in.
    pub who: Option<Who>,
}

/// A person who is signed in.
#[derive(Clone, Debug)]
pub struct Who {
    /// Address.
    pub email: String,
    /// Name of the account acted for; none for provider admins without one.
    pub consumer: Option<String>,
    /// May see the admin pages.
    pub admin: bool,
}

/// Pages of the console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nav {
    /// `/home`
    Overview,
    /// `/keys`
    Keys,
    /// `/usage`
    Usage,
    /// `/plan`
    Plan,
    /// `/invoices`
    Invoices,
    /// `/budget`
    Budget,
    /// `/account`
    Account,
}

/// Pages of the provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdminNav {
    /// `/admin`
    Overview,
    /// `/admin/consumers`
    Consumers,
    /// `/admin/plans`
    Plans,
    /// `/admin/inbox`
    Inbox,
    /// `/account`, for who has no console.
    Account,
}

/// A page that anybody may see.
pub fn public<V: IntoView + 'static>(site: &Site, chrome: &Chrome, title: &str, body: impl FnOnce() -> V) -> Response {
    document(site, chrome, title, || {
        let top = topbar(site, chrome, Place::Outside);
        view! { {top} <main id="main">{body()}</main> {footer(site)} }
    })
}

/// A page of the signed-in consumer.
pub fn console<V: IntoView + 'static>(
    site: &Site,
    chrome: &Chrome,
    title: &str,
    nav: Nav,
    body: impl FnOnce() -> V,
) -> Response {
    let groups: [Group<'_, Nav>; 3] = [
        (
            "",
            &[
                ("Overview", "/home", Nav::Overview),
                ("Keys", "/keys", Nav::Keys),
                ("Usage", "/usage", Nav::Usage),
            ],
        ),
        (
            "Billing",
            &[
                ("Plan", "/plan", Nav::Plan),
                ("Invoices", "/invoices", Nav::Invoices),
                ("Budget", "/budget", Nav::Budget),
            ],
        ),
        ("Account", &[("Account", "/account", Nav::Account)]),
    ];
    private(document(site, chrome, title, || {
        framed(site, chrome, Place::Console, &groups, nav, body())
    }))
}

/// A page of the provider.
pub fn admin<V: IntoView + 'static>(
    site: &Site,
    chrome: &Chrome,
    title: &str,
    nav: AdminNav,
    body: impl FnOnce() -> V,
) -> Response {
    let groups: [Group<'_, AdminNav>; 1] = [(
        "Provider",
        &[
            ("Overview", "/admin", AdminNav::Overview),
            ("Consumers", "/admin/consumers", AdminNav::Consumers),
            ("Plans", "/admin/plans", AdminNav::Plans),
            ("Stripe inbox", "/admin/inbox", AdminNav::Inbox),
            ("Account", "/account", AdminNav::Account),
        ],
    )];
    private(document(site, chrome, title, || {
        framed(site, chrome, Place::Provider, &groups, nav, body())
    }))
}

/// Marks a page as one person's: no cache keeps it.
pub fn private(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The same response with another status, such as 422 for a form that must be mended.
pub fn with_status(status: StatusCode, mut response: Response) -> Response {
    *response.status_mut() = status;
    response
}

fn document<V: IntoView + 'static>(site: &Site, chrome: &Chrome, title: &str, body: impl FnOnce() -> V) -> Response {
    let owner = Owner::new_root(Some(Arc::new(hydration_context::SsrSharedContext::new_islands())));
    let html = owner.with(|| {
        let title = format!("{title} · {}", site.brand);
        let assets = site.assets.clone();
        let boot = (!assets.boot.is_empty()).then(|| {
            view! {
                <script type="module" nonce=chrome.nonce.0.clone() src=assets.boot.clone() data-js=assets.js.clone() data-wasm=assets.wasm.clone() id="boot"></script>
            }
        });
        view! {
            <html lang="en">
                <head>
                    <meta charset="utf-8" />
                    <meta name="viewport" content="width=device-width, initial-scale=1" />
                    <title>{title}</title>
                    <link rel="stylesheet" href=assets.css.clone() />
                    <link rel="icon" href="/favicon.svg" type="image/svg+xml" />
                    {boot}
                </head>
                <body>
                    <a class="skip" href="#main">"Skip to content"</a>
                    {body()}
                </body>
            </html>
        }
        .to_html()
    });
    Html(format!("<!doctype html>{html}")).into_response()
}

/// Which of the three layouts a page has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    Console,
    Provider,
}

fn topbar(site: &Site, chrome: &Chrome, place: Place) -> impl IntoView + use<> {
    let account = match &chrome.who {
        Some(who) => {
            // Nobody needs a link to where they are.
            let admin = (who.admin && place != Place::Provider)
                .then(|| view! { <a class="button" data-kind="quiet" href="/admin">"Provider"</a> });
            let home = (who.consumer.is_some() && place != Place::Console)
                .then(|| view! { <a class="button" href="/home">"Console"</a> });
            view! {
                {admin} {home}
                <span class="who">{who.email.clone()}</span>
                <form method="post" action="/logout"><button class="button" data-kind="quiet">"Log out"</button></form>
            }
            .into_any()
        }
        None => view! {
            <a class="button" data-kind="quiet" href="/login">"Log in"</a>
            <a class="button" href="/signup">"Get a key"</a>
        }
        .into_any(),
    };
    view! {
        <header class="topbar" data-place=(place == Place::Outside).then_some("outside")>
            <a class="brand" href="/">{mark()} {site.brand.to_string()}</a>
            <nav aria-label="Site"><a href="/pricing">"Pricing"</a><a href="/docs">"Reference"</a></nav>
            <div class="spread">{account}</div>
        </header>
    }
}

/// The same links at the end of every page, also where a telephone has no room for them at the top.
fn footer(site: &Site) -> impl IntoView + use<> {
    view! {
        <footer class="foot">
            <span>{site.brand.to_string()}</span>
            <nav aria-label="More">
                <a href="/pricing">"Pricing"</a> <a href="/docs">"Reference"</a> <a href="/problems">"Refusals"</a>
            </nav>
        </footer>
    }
}

fn mark() -> impl IntoView {
    view! {
        <svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2.2" stroke-linecap="round" aria-hidden="true">
            <path d="M4 20V9a8 8 0 0 1 16 0v11" />
            <path d="M9.3 20v-9.5M14.7 20v-9.5M4 14h16" />
        </svg>
    }
}

/// A heading and the links under it: text, address, page.
type Group<'a, N> = (&'a str, &'a [(&'a str, &'a str, N)]);

fn framed<N: PartialEq + Copy, V: IntoView + 'static>(
    site: &Site,
    chrome: &Chrome,
    place: Place,
    groups: &[Group<'_, N>],
    current: N,
    body: V,
) -> impl IntoView + use<N, V> {
    let links: Vec<_> = groups
        .iter()
        .map(|(heading, links)| {
            let links: Vec<_> = links
                .iter()
                .map(|(text, href, nav)| {
                    let here = (*nav == current).then_some("page");
                    view! { <a href=(*href).to_owned() aria-current=here>{(*text).to_owned()}</a> }
                })
                .collect();
            let heading = (!heading.is_empty()).then(|| view! { <h2>{(*heading).to_owned()}</h2> });
            view! { {heading} {links} }
        })
        .collect();
    let label = if place == Place::Provider {
        "Provider"
    } else {
        "Console"
    };
    view! {
        {topbar(site, chrome, place)}
        <div class="console">
            <aside><nav aria-label=label>{links}</nav></aside>
            <main id="main">{body}</main>
        </div>
        {footer(site)}
    }
}
