//! Pages in a browser that call a route, and requests and answers that a route changes on their way.

use crate::routing::with_routes;
use crate::support::*;

const CORS: &str = r#"{"cors": {"origins": ["https://app.example.com", "https://*.example.org"],
    "request_headers": ["x-trace"], "exposed_headers": ["etag"], "max_age_s": 60}}"#;

async fn preflight(world: &World, path: &str, origin: &str, method: &str) -> Reply {
    let head = format!(
        "OPTIONS {path} HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: {method}\r\n"
    );
    world.send(&head, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_needs_no_key_and_reaches_no_upstream() {
    let world = with_routes(vec![("open", "/open", CORS)]).await;
    let reply = preflight(&world, "/open", "https://app.example.com", "POST").await;
    assert_eq!(reply.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-methods", "POST"),
        ("access-control-max-age", "60"),
        ("vary", "origin"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    let asked = reply.header("access-control-allow-headers").unwrap();
    assert!(asked.contains("x-api-key") && asked.contains("x-trace"), "{asked}");
    let refused = preflight(&world, "/open", "https://evil.example", "POST").await;
    assert_eq!((refused.status, refused.problem().as_str()), (403, "origin-refused"));
    assert_eq!(refused.header("access-control-allow-origin"), None);
    for (path, method) in [("/open", "PATCH"), ("/v1/ok", "GET")] {
        let other = preflight(&world, path, "https://app.example.com", method).await;
        assert_eq!(
            (other.status, other.header("access-control-allow-origin")),
            (405, None),
            "{path}"
        );
    }
    assert!(world.upstream.seen.lock().unwrap().is_empty());
    assert!(world.shipped().await.is_empty());
}

/// Browsers name the headers of the request to come and keep their values to themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_asks_about_the_request_to_come() {
    let own_key = r#"{"cors": {"origins": ["https://app.example.com"]}, "auth": {"key_headers": ["x-atlas-key"]},
        "match_headers": {"x-version": "beta"}}"#;
    let world = with_routes(vec![("beta", "/both", own_key), ("plain", "/both", CORS)]).await;
    for (more, named) in [
        (
            "Access-Control-Request-Headers: X-Atlas-Key, X-Version\r\n",
            "x-atlas-key",
        ),
        ("Access-Control-Request-Headers: x-trace\r\n", "x-trace"),
        ("", "x-trace"),
    ] {
        let head = format!(
            "OPTIONS /both HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example.com\r\n\
             Access-Control-Request-Method: GET\r\n{more}"
        );
        let reply = world.send(&head, "").await;
        let asked = reply.header("access-control-allow-headers").unwrap();
        assert!(asked.split(", ").any(|name| name == named), "{more:?}: {asked}");
        assert_eq!(asked.contains("x-api-key"), named == "x-trace", "{more:?}: {asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_refusals_can_be_read_by_pages_that_may_call() {
    let world = with_routes(vec![
        ("open", "/open", CORS),
        ("all", "/all", r#"{"cors": {"origins": ["*"]}}"#),
    ])
    .await;
    let ask = async |path: &str, key: &str, origin: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{origin}");
        world.send(&head, "").await
    };
    let key = world.key.reveal();
    for (path, key, origin, status, allowed) in [
        (
            "/open",
            key,
            "Origin: https://a.example.org\r\n",
            200,
            Some("https://a.example.org"),
        ),
        (
            "/open",
            "nonsense",
            "Origin: https://a.example.org\r\n",
            401,
            Some("https://a.example.org"),
        ),
        ("/open", key, "Origin: https://evil.example\r\n", 200, None),
        ("/open", key, "", 200, None),
        ("/all", key, "Origin: https://evil.example\r\n", 200, Some("*")),
        ("/v1/ok", key, "Origin: https://a.example.org\r\n", 200, None),
    ] {
        let reply = ask(path, key, origin).await;
        assert_eq!(reply.status, status, "{path} {origin}");
        assert_eq!(reply.header("access-control-allow-origin"), allowed, "{path} {origin}");
        let shown = reply.header("access-control-expose-headers").unwrap_or_default();
        assert_eq!(shown.contains("ratelimit"), allowed.is_some(), "{shown}");
        assert_eq!(shown.contains("turnpike-cost"), allowed.is_some(), "{shown}");
        assert_eq!(
            reply.header("vary").is_some(),
            path == "/open",
            "caches must keep origins apart"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_changes_path_host_and_headers() {
    let world = with_routes(vec![(
        "old",
        "/old/{id}/{*rest}",
        r#"{"rewrite": {"path": "/v1/{rest}/of/{id}", "host": "inner.example"},
            "request_headers": {"remove": ["cookie"], "set": {"accept": "text/plain"}, "add": {"x-a": "2"}},
            "answer_headers": {"remove": ["x-upstream"], "set": {"cache-control": "no-store"}}}"#,
    )])
    .await;
    let key = world.key.reveal();
    let head = format!(
        "GET /old/c%20h/ok/x?q=%2F HTTP/1.1\r\nHost: api.example\r\nX-API-Key: {key}\r\nCookie: a=b\r\nAccept: */*\r\nX-A: 1\r\n"
    );
    let reply = world.send(&head, "").await;
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")));
    let seen = world.upstream.last();
    assert!(seen.starts_with("GET /v1/ok/x/of/c%20h?q=%2F HTTP/1.1\r\n"), "{seen}");
    let line = |name: &str| {
        let lines = seen.lines().filter_map(|l| l.split_once(": "));
        lines
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
            .collect::<Vec<_>>()
    };
    assert_eq!(line("host"), ["inner.example"]);
    assert_eq!((line("cookie"), line("accept")), (vec![], vec!["text/plain"]));
    assert_eq!(line("x-a"), ["1", "2"]);
    assert_eq!(line("x-forwarded-host"), ["api.example"]);
}
