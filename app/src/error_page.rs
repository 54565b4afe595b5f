//! Bare error answers as pages: what happened, what to do, and nothing typed is lost.
//!
//! A form that could not be taken for a reason that passes (the session had ended, the database was away) is kept on
//! the page, so that it can be sent again. Passwords are not.

use crate::error::{ErrorText, SignedOut};
use crate::render::{self, Chrome, Nonce};
use crate::session::{Visitor, escape, own_path};
use crate::site::Site;
use crate::ui::submit;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Form, FromRequest, FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};
use leptos::prelude::*;
use tower_sessions::Session;

/// Longest form that is kept to be sent again, in bytes: the longest that most pages take.
const MAX_KEPT_LEN: usize = crate::security::MAX_FORM_LEN;
/// The encoding of forms without files.
const FORM: &str = "application/x-www-form-urlencoded";

/// A form as it came, to be sent again.
struct Kept {
    path: String,
    fields: Vec<(String, String)>,
}

/// Draws bare error answers as pages, for browsers. It stands twice: inside the session layer, where the page can say
/// who is signed in, and outside it for that layer's own failures.
pub(crate) async fn draw(State(site): State<Site>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    // Islands and programs read these.
    let is_data = crate::security::is_signed(path) || path.starts_with("/_pages/");
    if is_data || !wants_page(request.headers()) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let asked = parts.clone();
    let (body, form) = match keep(&parts, body).await {
        Ok(pair) => pair,
        Err(response) => return response,
    };
    let response = next.run(Request::from_parts(parts, body)).await;
    let Some((status, text)) = words(&response) else {
        return response;
    };
    let headers = response.headers().clone();
    let page = page(&site, asked, form, status, text).await;
    let mut page = render::private(render::with_status(status, page));
    for name in [header::RETRY_AFTER, header::ALLOW, header::SET_COOKIE] {
        if let Some(value) = headers.get(&name) {
            page.headers_mut().insert(name, value.clone());
        }
    }
    page
}

fn wants_page(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok());
    accept.is_none_or(|a| a.contains("html") || a.contains("*/*"))
}

/// Reads a form that may have to be sent again. Other bodies go on as they are.
async fn keep(parts: &Parts, body: Body) -> Result<(Body, Option<Bytes>), Response> {
    let text = |name| {
        parts
            .headers
            .get(name)
            .and_then(|v: &http::HeaderValue| v.to_str().ok())
    };
    let is_form = parts.method == Method::POST && text(header::CONTENT_TYPE).is_some_and(|t| t.starts_with(FORM));
    let length: Option<usize> = text(header::CONTENT_LENGTH).and_then(|l| l.parse().ok());
    if !is_form || length.is_none_or(|length| length > MAX_KEPT_LEN) {
        return Ok((body, None));
    }
    match to_bytes(body, MAX_KEPT_LEN).await {
        Ok(bytes) => Ok((Body::from(bytes.clone()), Some(bytes))),
        // The sender went away.
        Err(_) => Err(StatusCode::BAD_REQUEST.into_response()),
    }
}

/// Status and words of an answer that has no page yet.
fn words(response: &Response) -> Option<(StatusCode, String)> {
    if response.extensions().get::<SignedOut>().is_some() {
        let text = "Your session had ended before this arrived, so nothing was changed.";
        return Some((StatusCode::UNAUTHORIZED, text.to_owned()));
    }
    let status = response.status();
    if let Some(text) = response.extensions().get::<ErrorText>() {
        return Some((status, text.0.clone()));
    }
    let kind = response.headers().get(header::CONTENT_TYPE);
    let bare = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    let failed = status.is_client_error() || status.is_server_error();
    (bare && failed).then(|| (status, usual(status)))
}

/// What answers without words of their own mean.
fn usual(status: StatusCode) -> String {
    match status {
        StatusCode::NOT_FOUND => return crate::AppError::not_found().public,
        StatusCode::METHOD_NOT_ALLOWED => "This address does not take that kind of request. Nothing was changed.",
        StatusCode::PAYLOAD_TOO_LARGE => {
            "What was sent is longer than any form here takes: 64 KiB, or 512 KiB for a catalogue file. Nothing was \
             changed. Go back in your browser, which kept what you typed, and shorten it."
        }
        s if s.is_server_error() => {
            "Something went wrong on our side and has been logged. Nothing you entered was changed."
        }
        _ => {
            "What was sent cannot be read: something is missing, is there twice, or comes from an older version of \
             the page. Nothing was changed. Open the page again and fill it in anew; your browser kept what you typed \
             on the page before this one."
        }
    }
    .to_owned()
}

fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "You are logged out",
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "Too long",
        StatusCode::TOO_MANY_REQUESTS => "Too many tries",
        s if s.is_server_error() => "Something went wrong",
        _ => "That did not work",
    }
}

/// Whether sending the same once more can succeed.
fn passes(status: StatusCode, signed_in: bool) -> bool {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS => true,
        // For the signed out, the provider's pages are not there.
        StatusCode::NOT_FOUND => !signed_in,
        s => s.is_server_error(),
    }
}

async fn page(site: &Site, mut asked: Parts, form: Option<Bytes>, status: StatusCode, text: String) -> Response {
    let nonce = asked.extensions.get::<Nonce>().cloned().unwrap_or_default();
    let (path, posted) = (asked.uri.clone(), asked.method == Method::POST);
    let referer = own_referer(&asked.headers, &site.domain.settings.portal_url);
    let visitor = match asked.extensions.get::<Session>() {
        Some(_) => Visitor::from_request_parts(&mut asked, site).await.ok(),
        None => None,
    };
    let chrome = match &visitor {
        Some(visitor) => visitor.chrome().clone(),
        None => Chrome { nonce, who: None },
    };
    let signed_in = chrome.who.is_some();
    let kept = match form {
        Some(bytes) if passes(status, signed_in) => fields(bytes).await.map(|fields| Kept {
            path: path.path().to_owned(),
            fields,
        }),
        _ => None,
    };
    let home = match &chrome.who {
        Some(who) if who.consumer.is_some() => ("/home", "Go to the overview"),
        Some(_) => ("/admin", "Go to the overview"),
        None => ("/", "Go to the start page"),
    };
    let next = if posted {
        referer
    } else {
        path.path_and_query().map(ToString::to_string)
    };
    let may_log_in = !signed_in && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND);
    render::public(site, &chrome, title(status), move || {
        let log_in = may_log_in.then(|| log_in(next.as_deref(), kept.is_some()));
        view! {
            <div class="narrow">
                <h1>{title(status)}</h1>
                <p>{text}</p>
                {log_in}
                {kept.map(send_again)}
                <p><a class="button" href=home.0>{home.1}</a></p>
            </div>
        }
    })
}

/// The way to the log-in: in a tab of its own when this page holds something that would be lost.
fn log_in(next: Option<&str>, keeps: bool) -> AnyView {
    let href = match next.and_then(own_path) {
        Some(next) => format!("/login?next={}", escape(next)),
        None => "/login".to_owned(),
    };
    if keeps {
        view! { <p><a href="/login" target="_blank">"Log in in a new tab"</a>", then come back to this one."</p> }
            .into_any()
    } else {
        view! { <p>"If you have an account, "<a href=href>"log in"</a>" and you come back here."</p> }.into_any()
    }
}

fn send_again(kept: Kept) -> impl IntoView {
    let secret = |name: &str| matches!(name, "password" | "current");
    let without_password = kept.fields.iter().any(|(name, _)| secret(name));
    let inputs: Vec<_> = kept
        .fields
        .into_iter()
        .filter(|(name, _)| !secret(name))
        .map(|(name, value)| view! { <input type="hidden" name=name value=value /> })
        .collect();
    let note = if without_password {
        "What you typed is kept on this page, without the password: you are asked for it again."
    } else {
        "What you typed is kept on this page."
    };
    view! {
        <form method="post" action=kept.path class="stack">
            {inputs}
            <p>{note}</p>
            {submit("Send it again", "primary")}
        </form>
    }
}

async fn fields(bytes: Bytes) -> Option<Vec<(String, String)>> {
    let request = Request::builder()
        .method(Method::POST)
        .header(header::CONTENT_TYPE, FORM)
        .body(Body::from(bytes))
        .ok()?;
    let Form(fields) = Form::<Vec<(String, String)>>::from_request(request, &()).await.ok()?;
    Some(fields)
}

/// The path of the page that the form was on, when it is one of ours.
fn own_referer(headers: &HeaderMap, portal_url: &str) -> Option<String> {
    let referer = headers.get(header::REFERER)?.to_str().ok()?;
    let path = referer.strip_prefix(portal_url.trim_end_matches('/'))?;
    own_path(path).map(str::to_owned)
}
