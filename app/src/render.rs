//! Views to responses: the document around every page, and its three layouts (public, console, admin).

use crate::error::ErrorText;
use crate::site::Site;
use axum::extract::{Request, State};
use axum::middleware::Next;
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
        let top = topbar(site, chrome);
        view! { {top} <main id="main">{body()}</main> }
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
        framed(site, chrome, "Console", &groups, nav, body())
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
        framed(site, chrome, "Provider", &groups, nav, body())
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

/// Draws bare error answers as pages, for browsers. The outermost layer but for the security headers.
pub async fn error_pages(State(site): State<Site>, request: Request, next: Next) -> Response {
    let nonce = request.extensions().get::<Nonce>().cloned().unwrap_or_default();
    let wants_page = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|a| a.to_str().ok())
        .is_none_or(|a| a.contains("html") || a.contains("*/*"));
    let response = next.run(request).await;
    let status = response.status();
    let text = match response.extensions().get::<ErrorText>() {
        Some(text) => text.0.clone(),
        None if status == StatusCode::NOT_FOUND && !response.headers().contains_key(header::CONTENT_TYPE) => {
            crate::AppError::not_found().public
        }
        None if status == StatusCode::METHOD_NOT_ALLOWED => "This page does not take that kind of request.".to_owned(),
        None => return response,
    };
    if !wants_page {
        return response;
    }
    let chrome = Chrome { nonce, who: None };
    let title = match status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::FORBIDDEN => "Not allowed",
        s if s.is_server_error() => "Something went wrong",
        _ => "That did not work",
    };
    let page = public(&site, &chrome, title, move || {
        view! {
            <div class="narrow">
                <h1>{title}</h1>
                <p>{text}</p>
                <p><a class="button" href="/">"Go to the start page"</a></p>
            </div>
        }
    });
    private(with_status(status, page))
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

fn topbar(site: &Site, chrome: &Chrome) -> impl IntoView + use<> {
    let account = match &chrome.who {
        Some(who) => {
            let admin = who
                .admin
                .then(|| view! { <a class="button" data-kind="quiet" href="/admin">"Provider"</a> });
            let home = who
                .consumer
                .is_some()
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
            <a class="button" data-kind="primary" href="/signup">"Get a key"</a>
        }
        .into_any(),
    };
    view! {
        <header class="topbar">
            <a class="brand" href="/">{mark()} {site.brand.to_string()}</a>
            <nav aria-label="Site"><a href="/pricing">"Pricing"</a><a href="/docs">"Reference"</a></nav>
            <div class="spread">{account}</div>
        </header>
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
    label: &'static str,
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
    view! {
        {topbar(site, chrome)}
        <div class="console">
            <aside><nav aria-label=label>{links}</nav></aside>
            <main id="main">{body}</main>
        </div>
    }
}
