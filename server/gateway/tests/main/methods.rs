//! Routes are bound to any method that has a name: of WebDAV, of caches, OPTIONS, and HEAD alone.

use crate::stub::{Deed, Stub};
use crate::support::*;
use model::snapshot::RouteRecord;

/// Slug, methods, path, policy.
const ROUTES: [(&str, &[&str], &str, &str); 8] = [
    (
        "files",
        &["PROPFIND", "REPORT", "MKCOL", "M-SEARCH", "QUERY"],
        "/files/{*rest}",
        "{}",
    ),
    ("plain", &["OPTIONS"], "/plain", "{}"),
    (
        "open",
        &["GET", "PROPFIND", "OPTIONS"],
        "/open",
        r#"{"cors": {"origins": ["https://app.example"]}}"#,
    ),
    ("head", &["HEAD"], "/head", "{}"),
    ("both", &["GET"], "/both", "{}"),
    ("of-head", &["HEAD"], "/both", r#"{"priority": 1}"#),
    (
        "limited",
        &["GET", "PROPFIND", "REPORT", "MKCOL"],
        "/limited",
        r#"{"limits": [{"name": "dav", "methods": ["PROPFIND", "REPORT"], "by": ["method"], "requests": 1, "per": "day"}],
            "gates": [{"feature": "export", "methods": ["MKCOL"]}]}"#,
    ),
    (
        "kept",
        &["GET", "PROPFIND", "PURGE"],
        "/kept",
        r#"{"cache": {"default_ttl_s": 60}}"#,
    ),
];

async fn world() -> World {
    let world = World::new().await;
    let mut routing = routing(world.upstream.addr);
    for (number, (slug, methods, path, policy)) in (100..).zip(ROUTES) {
        routing.routes.push(RouteRecord {
            number,
            slug: slug.to_owned(),
            methods: methods.iter().map(|m| m.parse().unwrap()).collect(),
            path: path.to_owned(),
            policy: serde_json::from_str(policy).unwrap(),
            ..routing.routes[0].clone()
        });
    }
    world.plane.put_routing(routing);
    world.synced().await;
    world
}

async fn send(world: &World, line: &str, more: &str) -> Reply {
    let key = world.key.reveal();
    let head = format!("{line} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{more}");
    world.send(&head, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_reaches_the_upstream_by_its_name_or_is_not_allowed() {
    let world = world().await;
    for method in ["PROPFIND", "REPORT", "MKCOL", "M-SEARCH", "QUERY"] {
        let reply = send(&world, &format!("{method} /files/a"), "Depth: 1\r\n").await;
        assert_eq!(reply.status, 200, "{method}");
        let seen = world.upstream.last();
        assert!(seen.starts_with(&format!("{method} /files/a HTTP/1.1\r\n")), "{seen}");
        assert!(seen.contains("depth: 1\r\n"), "{seen}");
    }
    let (before, rows) = (world.upstream.requests().len(), world.shipped().await);
    assert!(rows.len() == 5 && rows.iter().all(|r| (r.status, r.units) == (200, 1)));
    for method in ["GET", "HEAD", "PURGE", "propfind", "PROPFINDS", "TRACE", "CONNECTS"] {
        let reply = send(&world, &format!("{method} /files/a"), "").await;
        assert_eq!(reply.status, 405, "{method}");
        assert_eq!(
            reply.header("allow"),
            Some("M-SEARCH, MKCOL, PROPFIND, QUERY, REPORT"),
            "{method}"
        );
    }
    // A method that begins as HTTP/2 does is a method; the one that is HTTP/2's is none.
    assert_eq!(send(&world, "PRINT /files/a", "").await.status, 405);
    assert_eq!(
        send(&world, "CONNECT /files/a", "").await.problem(),
        "upgrade-unsupported"
    );
    assert_eq!(world.upstream.requests().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_is_a_request_like_others_unless_a_page_asks_before_it_calls() {
    let world = world().await;
    let preflight =
        |method: &str| format!("Origin: https://app.example\r\nAccess-Control-Request-Method: {method}\r\n");
    // Without cors the upstream answers pages itself, and for a key.
    for more in [
        String::new(),
        preflight("OPTIONS"),
        "Origin: https://app.example\r\n".to_owned(),
    ] {
        assert_eq!(send(&world, "OPTIONS /plain", &more).await.status, 200, "{more}");
        assert!(world.upstream.last().starts_with("OPTIONS /plain "));
    }
    assert_eq!(send(&world, "OPTIONS /open", "").await.status, 200);
    assert_eq!(
        send(&world, "OPTIONS /open", "Origin: https://app.example\r\n")
            .await
            .status,
        200
    );
    let forwarded = world.upstream.requests().len();
    assert_eq!((forwarded, world.shipped().await.len()), (5, 5));
    for method in ["GET", "PROPFIND", "OPTIONS", "HEAD"] {
        let reply = send(&world, "OPTIONS /open", &preflight(method)).await;
        assert_eq!(reply.status, 204, "{method}");
        assert_eq!(reply.header("access-control-allow-methods"), Some(method));
    }
    let other = send(&world, "OPTIONS /open", &preflight("MKCOL")).await;
    assert_eq!(
        other.status, 200,
        "the route takes OPTIONS, and the upstream says what it thinks of it"
    );
    assert_eq!(world.upstream.requests().len(), forwarded + 1);
    let stranger = world.send("OPTIONS /plain HTTP/1.1\r\nHost: a\r\n", "").await;
    assert_eq!(stranger.problem(), "key-missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_goes_with_get_and_can_be_had_alone() {
    let world = world().await;
    let route = async |line: &str| {
        let before = world.shipped().await.len();
        assert_eq!(send(&world, line, "").await.status, 200, "{line}");
        until(|| world.plane.rows().len() > before).await;
        world.shipped().await[before].route
    };
    assert_eq!(route("HEAD /head").await, 103);
    assert_eq!(route("HEAD /both").await, 105, "the greater priority");
    assert_eq!(route("GET /both").await, 104);
    assert_eq!(route("HEAD /limited").await, 106, "with GET");
    let reply = send(&world, "GET /head", "").await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("HEAD")));
    let reply = send(&world, "PUT /both", "").await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_gates_know_every_method() {
    let world = world().await;
    for (line, wanted) in [
        ("PROPFIND /limited", Ok(200)),
        ("PROPFIND /limited", Err("rate-limited")),
        ("REPORT /limited", Ok(200)),
        ("REPORT /limited", Err("rate-limited")),
        ("GET /limited", Ok(200)),
        ("MKCOL /limited", Err("feature-missing")),
    ] {
        let reply = send(&world, line, "").await;
        match wanted {
            Ok(status) => assert_eq!(reply.status, status, "{line}"),
            Err(slug) => assert_eq!(reply.problem(), slug, "{line}"),
        }
    }
    let hidden = send(&world, "GET /limited", "X-HTTP-Method-Override: mkcol\r\n").await;
    assert_eq!(hidden.problem(), "feature-missing", "an upstream may be talked into it");
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_answers_are_to_get_and_go_with_what_is_not_known_to_be_safe() {
    let world = world().await;
    let calls = async |line: &str| {
        let before = world.upstream.requests().len();
        assert_eq!(send(&world, line, "").await.status, 200, "{line}");
        world.upstream.requests().len() - before
    };
    assert_eq!(calls("GET /kept").await, 1);
    assert_eq!(calls("GET /kept").await, 0);
    assert_eq!((calls("PROPFIND /kept").await, calls("PROPFIND /kept").await), (1, 1));
    assert_eq!(calls("GET /kept").await, 0, "a safe method changes nothing");
    assert_eq!(calls("PURGE /kept").await, 1);
    assert_eq!(calls("GET /kept").await, 1, "what another does is not known");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_known_to_be_safe_is_sent_again() {
    let (world, a, b) = (
        world().await,
        Stub::start("a", Deed::Close).await,
        Stub::start("b", Deed::Status(200)).await,
    );
    let mut routing = routing(world.upstream.addr);
    let policy = format!(
        r#"{{"targets": [{{"url": "{}"}}, {{"url": "{}"}}], "breaker": {{"consecutive_failures": 0}}}}"#,
        a.url(),
        b.url()
    );
    routing.upstreams[0].policy = serde_json::from_str(&policy).unwrap();
    routing.routes[0].methods = ["PROPFIND", "MKCOL"].map(|m| m.parse().unwrap()).to_vec();
    world.plane.put_routing(routing);
    world.synced().await;
    for _ in 0..20 {
        assert_eq!(send(&world, "PROPFIND /v1/a", "").await.status, 200);
    }
    assert!(a.count() > 0, "some met the target that closes");
    let (before, mut broken) = (a.count(), 0);
    for _ in 0..20 {
        broken += usize::from(send(&world, "MKCOL /v1/a", "").await.status == 502);
    }
    assert_eq!(broken, a.count() - before, "the upstream may have done it already");
    assert!(broken > 0);
}
