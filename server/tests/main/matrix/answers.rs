//! What every answer has, whatever it is.

use super::world::{Page, World};
use http::Method;
use model::access::Role;

const SET: [(&str, &str); 6] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=()"),
];
const POLICY: [&str; 5] = [
    "default-src 'none'",
    "script-src 'nonce-",
    "base-uri 'none'",
    "frame-ancestors 'none'",
    "object-src 'none'",
];

/// The first thing that is wrong with an answer's head.
pub(super) fn check(page: &Page, signed_in: bool, what: &str) -> Result<(), String> {
    for (name, value) in SET {
        if !page.header(name).starts_with(value) {
            return Err(format!("{what}: {name} is {:?}", page.header(name)));
        }
    }
    let policy = page.header("content-security-policy");
    if policy.contains("unsafe-inline") || policy.contains("'unsafe-eval'") {
        return Err(format!("{what}: {policy}"));
    }
    if let Some(missing) = POLICY.iter().find(|part| !policy.contains(**part)) {
        return Err(format!("{what}: no {missing} in {policy:?}"));
    }
    let kept = !page.header("cache-control").contains("no-store");
    let html = page.header("content-type").starts_with("text/html");
    let personal = signed_in && (page.status == 200 || html);
    if kept && (personal || page.headers.contains_key("set-cookie")) {
        let cache = page.header("cache-control");
        return Err(format!("{what}: one person's page may be kept: {cache:?}"));
    }
    for word in ["panicked", "sqlx", "error returned from database", "src/", "SELECT "] {
        if page.status.as_u16() >= 400 && page.text.contains(word) {
            return Err(format!("{what}: {word:?} on an error page"));
        }
    }
    if html && (page.text.contains(" style=\"") || page.text.contains(" onclick=")) {
        return Err(format!("{what}: the policy forbids inline style and script"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_whole_set_of_headers() {
    let world = World::new().await;
    let tenant = world.tenant().await;
    let session = world.session(tenant.member(Role::Owner)).await;
    for session in [None, Some(session.as_str())] {
        for path in [
            "/nothing",
            "/keys/nonsense/revoke",
            "/invoices/%00",
            "/invoices/inv_",
            "/problems/none",
            "/problems/%3Cscript%3E",
            "/.env",
            "/keys/../admin",
            "/admin/consumers/con_0/suspend",
            "/logout",
            "/plan/return?session_id=%27%20OR%201%3D1",
            "/usage?from=never&route=%00&key=key_",
            "/_pages/usage/log?filter=%00",
            "/_pages/usage/none",
        ] {
            let page = world.get(path, session).await;
            assert!(!page.status.is_server_error(), "{path}: {}", page.status);
            check(&page, session.is_some(), path).unwrap();
            assert!(!page.text.contains("<script>"), "{path}");
        }
    }
    let ask = super::world::Ask {
        method: &Method::POST,
        path: "/keys/new",
        session: Some(&session),
        headers: &[("sec-fetch-site", "same-origin")],
        content_type: "application/json",
        body: "{".to_owned(),
    };
    let page = world.ask(ask).await;
    assert!(page.status.is_client_error(), "{}", page.status);
    check(&page, true, "JSON to a form").unwrap();
    let ask = super::world::Ask {
        method: &Method::POST,
        path: "/keys/new",
        session: Some(&session),
        headers: &[("sec-fetch-site", "same-origin")],
        content_type: "application/x-www-form-urlencoded",
        body: format!("name={}", "a".repeat(2 << 20)),
    };
    let page = world.ask(ask).await;
    assert_eq!(page.status, 413);
    check(&page, true, "a form beyond any size").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_function_says_what_is_wrong_with_its_arguments() {
    let world = World::new().await;
    let tenant = world.tenant().await;
    let session = world.session(tenant.member(Role::Viewer)).await;
    for (path, wanted) in [
        ("/_pages/usage/figures", "environment"),
        ("/_pages/usage/figures?environment=moon", "live or test"),
        ("/_pages/usage/log", "filter"),
        ("/_pages/usage/log?filter=class%3D7", "class"),
        ("/_pages/usage/log?filter=env%3Dmoon", "live or test"),
    ] {
        let page = world.get(path, Some(&session)).await;
        assert_eq!(page.status, 400, "{path}");
        assert!(page.text.contains(wanted), "{path}: {}", page.text);
        check(&page, true, path).unwrap();
    }
    for path in [
        "/_pages/usage/figures?environment=test",
        "/_pages/usage/log?filter=class%3D4%26refused%3D1",
    ] {
        assert_eq!(world.get(path, Some(&session)).await.status, 200, "{path}");
    }
}
