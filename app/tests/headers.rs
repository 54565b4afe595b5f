//! What every answer says to a browser, and who may post.

use crate::browser::{PASSWORD, Portal};
use axum::body::Body;
use http::{Method, Request, StatusCode};

#[tokio::test]
async fn every_answer_has_the_whole_set_of_headers() {
    let portal = Portal::new().await;
    for (path, status) in [
        ("/login", 200),
        ("/account", 303),
        ("/no-such-page", 404),
        ("/panic", 500),
        ("/admin", 404),
    ] {
        let page = portal.browser().get(path).await;
        assert_eq!(page.status, status, "{path}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(page.header(name), value, "{path}");
        }
        assert!(page.header("permissions-policy").contains("camera=()"));
        let csp = page.header("content-security-policy");
        assert!(
            csp.starts_with("default-src 'none'; script-src 'nonce-"),
            "{path}: {csp}"
        );
        assert!(
            csp.contains("frame-ancestors 'none'") && csp.contains("form-action 'self' https://checkout.stripe.com;")
        );
        // This portal is on plain HTTP: a browser would ignore it, and a test would lock itself out.
        assert_eq!(page.header("strict-transport-security"), "");
    }
    let broken = portal.browser().get("/panic").await;
    assert!(!broken.text.contains("on purpose"), "the cause is for the log");
}

#[tokio::test]
async fn a_nonce_is_used_once() {
    let portal = Portal::new().await;
    let mut browser = portal.browser();
    let one = browser.get("/login").await.header("content-security-policy").to_owned();
    let other = browser.get("/login").await.header("content-security-policy").to_owned();
    assert_ne!(one, other);
}

#[tokio::test]
async fn forms_from_elsewhere_change_nothing() {
    let portal = Portal::new().await;
    let mut mara = portal.browser();
    mara.sign_up("mara@lumen.dev").await;
    let cookie = format!("__Host-sid={}", mara.cookie.clone().unwrap());
    let foreign: [&[(&str, &str)]; 6] = [
        &[],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:3000")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("referer", "http://127.0.0.1:3000/account")],
    ];
    for headers in foreign {
        for kind in [
            "application/x-www-form-urlencoded",
            "text/plain",
            "multipart/form-data; boundary=x",
        ] {
            let mut request = Request::builder()
                .method(Method::POST)
                .uri("/logout")
                .header("cookie", &cookie);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let page = portal
                .send(request.header("content-type", kind).body(Body::empty()).unwrap())
                .await;
            assert_eq!(page.status, StatusCode::FORBIDDEN, "{headers:?}");
        }
    }
    // A log-in from elsewhere would make somebody work in a stranger's account.
    let body = format!("email=mara@lumen.dev&password={}", PASSWORD.replace(' ', "+"));
    let request = Request::builder()
        .method(Method::POST)
        .uri("/login")
        .header("origin", "https://evil.example")
        .header("content-type", "application/x-www-form-urlencoded");
    let page = portal.send(request.body(body.into()).unwrap()).await;
    assert_eq!(
        (page.status, page.headers.contains_key("set-cookie")),
        (StatusCode::FORBIDDEN, false)
    );
    assert_eq!(mara.get("/logout").await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(mara.get("/account").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_cookie_of_another_name_is_nobodys() {
    let portal = Portal::new().await;
    let mut mara = portal.browser();
    mara.sign_up("mara@lumen.dev").await;
    let id = mara.cookie.unwrap();
    for cookie in [
        format!("sid={id}"),
        format!("__Secure-sid={id}"),
        format!("__host-sid={id}"),
        format!("__Host-sid={id}x"),
    ] {
        let request = Request::builder()
            .uri("/account")
            .header("cookie", cookie)
            .body(Body::empty())
            .unwrap();
        assert_eq!(portal.send(request).await.to(), "/login?next=/account");
    }
}

#[tokio::test]
async fn a_form_beyond_any_size_is_cut_off() {
    let portal = Portal::new().await;
    let mut eve = portal.browser();
    let long = "x".repeat(70_000);
    let page = eve.post("/login", &[("email", &long), ("password", "x")]).await;
    assert_eq!(page.status, StatusCode::PAYLOAD_TOO_LARGE);
}
