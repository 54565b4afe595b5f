//! What stands around every page: who may post, what a browser may do with an answer, and that a panic is one
//! answer's end and not the program's.

use crate::error::AppError;
use crate::error_page;
use crate::render::Nonce;
use crate::site::Site;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use domain::DomainError;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use std::any::Any;
use std::sync::Arc;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;

/// Where Stripe's own pages live: a form of ours may end there by a redirect.
pub const STRIPE_ORIGINS: [&str; 2] = ["https://checkout.stripe.com", "https://billing.stripe.com"];
/// Longest form, in bytes. A route that takes more says so with a [`DefaultBodyLimit`] of its own.
pub(crate) const MAX_FORM_LEN: usize = 64 * 1024;
/// Longest body of any request, in bytes, whatever its route reads it with.
const MAX_BODY_LEN: usize = 1024 * 1024;
/// Random bytes of a nonce: 128 bits, as CSP asks.
const NONCE_LEN: usize = 16;
/// Two years. Without `includeSubDomains`: the hosts beside this one are not ours to decide on.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=63072000");
/// Everything that these pages have no use for.
const PERMISSIONS: HeaderValue = HeaderValue::from_static(
    "camera=(), microphone=(), geolocation=(), payment=(), usb=(), serial=(), bluetooth=(), midi=(), \
     display-capture=(), browsing-topics=()",
);

/// What the layers know of the outside.
#[derive(Clone)]
struct Policy {
    site: Site,
    /// Scheme, host and port that browsers see.
    origin: Arc<str>,
    /// The `form-action` sources beside ourselves.
    form_action: Arc<str>,
}

/// Puts all protection around the pages. `payment_origins` are the origins of the payment pages that forms lead to:
/// [`STRIPE_ORIGINS`], and the emulator's in development.
pub fn protect(router: Router, site: &Site, payment_origins: &[String]) -> Router {
    let policy = Policy {
        site: site.clone(),
        origin: origin_of(&site.domain.settings.portal_url).into(),
        form_action: payment_origins.join(" ").into(),
    };
    // Read from the bottom: the last layer is the outermost.
    router
        .layer(DefaultBodyLimit::max(MAX_FORM_LEN))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_LEN))
        .layer(from_fn_with_state(policy.clone(), refuse_cross_site))
        .layer(CatchPanicLayer::custom(after_panic))
        .layer(from_fn_with_state(site.clone(), error_page::draw))
        .layer(crate::session::layer(&site.domain))
        .layer(from_fn_with_state(site.clone(), error_page::draw))
        .layer(from_fn_with_state(policy, headers))
}

/// `https://portal.example:8443` of an address with or without a path.
pub fn origin_of(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let (scheme, host) = (scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
    // Browsers leave the usual port out of an origin.
    let usual = if scheme == "https" { ":443" } else { ":80" };
    format!("{scheme}://{}", host.strip_suffix(usual).unwrap_or(&host))
}

/// Lets a request that may change something through only when one of our own pages sent it.
async fn refuse_cross_site(State(policy): State<Policy>, request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if reads || is_signed(request.uri().path()) || same_site(request.headers(), &policy.origin) {
        return next.run(request).await;
    }
    let text = "This form was sent from another site, or from this one under another address, so it was not looked at. \
                Nothing was changed. Open the page here and send it again.";
    AppError::forbidden(text).into_response()
}

/// Whether the address is for programs, which are known by a signature or a token: no other site can make a browser
/// send one.
pub(crate) fn is_signed(path: &str) -> bool {
    path == "/stripe/webhook" || path.starts_with("/api/")
}

/// Whether the browser says that one of our own pages sends this. `Sec-Fetch-Site` cannot be set by a script; browsers
/// without it send `Origin` with every POST.
fn same_site(headers: &HeaderMap, origin: &str) -> bool {
    let only = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Some(value.as_bytes()),
            (None, _) => None,
            // Two answers to one question are no answer.
            (Some(_), Some(_)) => Some(b"".as_slice()),
        }
    };
    match (only(HeaderName::from_static("sec-fetch-site")), only(header::ORIGIN)) {
        (Some(site), _) => site == b"same-origin",
        (None, Some(sender)) => sender == origin.as_bytes(),
        (None, None) => false,
    }
}

/// Names the scripts that may run, and puts the same headers on every answer, errors included.
async fn headers(State(policy): State<Policy>, mut request: Request, next: Next) -> Response {
    let mut bytes = [0; NONCE_LEN];
    policy.site.domain.random.fill(&mut bytes);
    let nonce: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    request.extensions_mut().insert(Nonce(nonce.clone()));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Ok(csp) = HeaderValue::try_from(content_security_policy(&nonce, &policy.form_action)) {
        headers.insert(header::CONTENT_SECURITY_POLICY, csp);
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(HeaderName::from_static("permissions-policy"), PERMISSIONS);
    if policy.origin.starts_with("https://") {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
    }
    if headers.contains_key(header::SET_COOKIE) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn content_security_policy(nonce: &str, form_action: &str) -> String {
    // `wasm-unsafe-eval` compiles the islands' WebAssembly; it allows no script.
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}' 'strict-dynamic' 'wasm-unsafe-eval'; style-src 'self'; \
         img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self' {form_action}; \
         base-uri 'none'; frame-ancestors 'none'; object-src 'none'"
    )
}

fn after_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    AppError::from(DomainError::internal(format!("panic: {text}"))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "https://portal.example";

    fn sent(pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        same_site(&headers, OURS)
    }

    #[test]
    fn only_our_own_pages_may_post() {
        assert!(sent(&[("sec-fetch-site", "same-origin"), ("origin", OURS)]));
        assert!(sent(&[("sec-fetch-site", "same-origin")]));
        assert!(sent(&[("origin", OURS)]));
        for refused in [
            &[][..],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site"), ("origin", OURS)],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "")],
            &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
            &[("origin", "null")],
            &[("origin", "https://evil.example")],
            &[("origin", "http://portal.example")],
            &[("origin", "https://portal.example.evil.example")],
            &[("origin", "https://portal.example:8443")],
            &[("origin", OURS), ("origin", "https://evil.example")],
        ] {
            assert!(!sent(refused), "{refused:?}");
        }
    }

    #[test]
    fn an_origin_has_no_path_and_no_usual_port() {
        for (url, origin) in [
            ("https://portal.example", OURS),
            ("https://Portal.example:443/x", OURS),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("http://[::1]:3000/", "http://[::1]:3000"),
        ] {
            assert_eq!(origin_of(url), origin);
        }
    }

    #[test]
    fn no_inline_script_is_allowed() {
        let csp = content_security_policy("0a1b", "https://checkout.stripe.com");
        assert!(!csp.contains("unsafe-inline") && !csp.contains("'unsafe-eval'"));
        assert!(csp.contains("form-action 'self' https://checkout.stripe.com;"));
    }
}
