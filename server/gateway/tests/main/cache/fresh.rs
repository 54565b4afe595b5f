//! For how long an answer is given again, and to which requests.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_given_again_until_it_is_stale() {
    let kept = kept("{}", lines(&[])).await;
    let first = kept.get("/c/a?x=1", "").await;
    assert_eq!(
        (text(&first).as_str(), status(&first).as_str()),
        ("/c/a #1", "turnpike; fwd=uri-miss; fwd-status=200; stored")
    );
    kept.world.clock.advance(20_000);
    let again = kept.get("/c/a?x=1", "").await;
    assert_eq!(
        (text(&again).as_str(), status(&again).as_str()),
        ("/c/a #1", "turnpike; hit; ttl=40")
    );
    assert_eq!(again.header("age"), Some("20"));
    assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    assert!(again.header("ratelimit").is_some() && again.header("date").is_some());
    let head = kept.ask(&kept.world.key, "HEAD", "/c/a?x=1", "").await;
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, Some("7"), 0)
    );
    assert_eq!(
        kept.get("/c/a?x=2", "").await.body,
        b"/c/a #2",
        "the query is part of what is asked for"
    );
    kept.world.clock.advance(40_000);
    let stale = kept.get("/c/a?x=1", "").await;
    assert_eq!(
        (text(&stale).as_str(), status(&stale).as_str()),
        ("/c/a #3", "turnpike; fwd=stale; fwd-status=200; stored")
    );
    assert!(kept.get("/free", "").await.header("cache-status").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_says_how_long_is_kept() {
    let stored = [
        ("/c/max-age", "Cache-Control: max-age=60\r\n"),
        ("/c/s-maxage", "Cache-Control: max-age=0, s-maxage=60\r\n"),
        (
            "/c/expires",
            "Date: Mon, 02 Nov 2026 00:00:00 GMT\r\nExpires: Mon, 02 Nov 2026 00:01:00 GMT\r\n",
        ),
        ("/c/twice", "Cache-Control: max-age=60\r\nCache-Control: public\r\n"),
    ];
    let not = [
        ("/c/silent", ""),
        ("/c/modified", "Last-Modified: Sun, 01 Nov 2026 00:00:00 GMT\r\n"),
        ("/c/no-store", "Cache-Control: max-age=60, no-store\r\n"),
        ("/c/private", "Cache-Control: private, max-age=60\r\n"),
        ("/c/fields", "Cache-Control: private=\"x\", max-age=60\r\n"),
        ("/c/cookie", "Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n"),
        ("/c/star", "Cache-Control: max-age=60\r\nVary: accept, *\r\n"),
        ("/c/past", "Expires: 0\r\n"),
        ("/c/zero", "Cache-Control: s-maxage=0, max-age=60\r\n"),
        ("/c/aged", "Cache-Control: max-age=60\r\nAge: 60\r\n"),
        (
            "/c/events",
            "Cache-Control: max-age=60\r\nContent-Type: text/event-stream\r\n",
        ),
        ("/c/address", "Cache-Control: max-age=60\r\nVary: X-Forwarded-For\r\n"),
        ("/c/no-cache", "Cache-Control: no-cache, max-age=60\r\n"),
    ];
    let kept = kept("{}", lines(&[&stored[..], &not[..]].concat())).await;
    for (path, _) in stored {
        let first = kept.get(path, "").await;
        assert!(status(&first).ends_with("stored"), "{path}: {}", status(&first));
        assert_eq!(kept.get(path, "").await.body, first.body, "{path}");
    }
    for (path, _) in not {
        let first = kept.get(path, "").await;
        assert_ne!(kept.get(path, "").await.body, first.body, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_say_how_long_for_what_says_nothing() {
    let cache = "{\"default_ttl_s\": 30}";
    let kept = kept(
        cache,
        lines(&[
            ("/c/a", ""),
            ("/c/b", "Cache-Control: no-store\r\n"),
            ("/c/c", "Expires: 0\r\n"),
        ]),
    )
    .await;
    for (path, is_kept) in [("/c/a", true), ("/c/b", false), ("/c/c", false)] {
        let first = kept.get(path, "").await;
        assert_eq!(kept.get(path, "").await.body == first.body, is_kept, "{path}");
    }
    kept.world.clock.advance(30_000);
    assert!(status(&kept.get("/c/a", "").await).contains("fwd=stale"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_says_is_heeded() {
    let kept = kept(
        "{}",
        lines(&[("/c/strict", "Cache-Control: max-age=60, must-revalidate\r\n")]),
    )
    .await;
    let nothing = kept.get("/c/a", "Cache-Control: only-if-cached\r\n").await;
    assert_eq!((nothing.status, nothing.problem().as_str()), (504, "not-cached"));
    assert_eq!(kept.asked(), 0);
    assert_eq!(
        kept.seen("/c/a", "Cache-Control: no-store\r\n").await.1,
        "turnpike; fwd=bypass; fwd-status=200"
    );
    assert_eq!(kept.seen("/c/a", "").await.0, "/c/a #2");
    kept.world.clock.advance(10_000);
    for (asks, what) in [
        ("Cache-Control: max-age=11", "turnpike; hit; ttl=50"),
        ("Cache-Control: only-if-cached", "turnpike; hit; ttl=50"),
        ("Cache-Control: min-fresh=50", "turnpike; hit; ttl=50"),
        ("Pragma: other", "turnpike; hit; ttl=50"),
    ] {
        assert_eq!(
            kept.seen("/c/a", &format!("{asks}\r\n")).await,
            ("/c/a #2".to_owned(), what.to_owned()),
            "{asks}"
        );
    }
    for (number, asks) in (3..).zip(["no-cache", "max-age=9", "min-fresh=51", "max-age=0"]) {
        let (body, what) = kept.seen("/c/a", &format!("Cache-Control: {asks}\r\n")).await;
        assert_eq!(body, format!("/c/a #{number}"), "{asks}");
        assert!(what.starts_with("turnpike; fwd=request"), "{asks}: {what}");
        kept.world.clock.advance(10_000);
    }
    let _ = kept.seen("/c/strict", "").await;
    let _ = kept.seen("/c/a", "Cache-Control: no-cache\r\n").await;
    kept.world.clock.advance(70_000);
    let (_, what) = kept.seen("/c/a", "Cache-Control: max-stale=10\r\n").await;
    assert_eq!(what, "turnpike; hit; ttl=-10");
    assert!(
        kept.seen("/c/strict", "Cache-Control: max-stale\r\n")
            .await
            .1
            .contains("fwd=stale")
    );
    assert!(
        kept.seen("/c/a", "Cache-Control: max-stale=9\r\n")
            .await
            .1
            .contains("fwd=stale")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_the_client_has_is_compared() {
    let tagged = "Cache-Control: max-age=60\r\nETag: \"v1\"\r\nContent-Type: text/plain\r\n";
    let dated = "Cache-Control: max-age=60\r\nLast-Modified: Sun, 01 Nov 2026 00:00:00 GMT\r\n";
    let kept = kept("{}", lines(&[("/c/tag", tagged), ("/c/date", dated)])).await;
    let _ = (kept.get("/c/tag", "").await, kept.get("/c/date", "").await);
    for (path, asks, wanted) in [
        ("/c/tag", "If-None-Match: \"v1\"", 304),
        ("/c/tag", "If-None-Match: \"a,b\", W/\"v1\"", 304),
        ("/c/tag", "If-None-Match: *", 304),
        ("/c/tag", "If-None-Match: \"v2\"", 200),
        ("/c/tag", "If-Modified-Since: Sun, 01 Nov 2026 00:00:00 GMT", 200),
        ("/c/date", "If-Modified-Since: Sun, 01 Nov 2026 00:00:00 GMT", 304),
        ("/c/date", "If-Modified-Since: Sat, 31 Oct 2026 00:00:00 GMT", 200),
        (
            "/c/date",
            "If-None-Match: \"v1\"\r\nIf-Modified-Since: Sun, 01 Nov 2026 00:00:00 GMT",
            200,
        ),
    ] {
        let reply = kept.get(path, &format!("{asks}\r\n")).await;
        assert_eq!(
            (reply.status, reply.body.is_empty()),
            (wanted, wanted == 304),
            "{path} {asks}"
        );
        assert!(status(&reply).starts_with("turnpike; hit"), "{path} {asks}");
        if wanted == 304 {
            assert_eq!(
                (reply.header("content-type"), reply.header("content-length")),
                (None, None)
            );
            assert!(reply.header("cache-control").is_some() && reply.header("age").is_some());
        }
    }
    assert_eq!(kept.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_answer_is_confirmed_by_the_upstream() {
    let kept = kept(
        "{}",
        lines(&[
            ("/c/a", "Cache-Control: max-age=60\r\nETag: \"same\"\r\nX-Own: 1\r\n"),
            ("/c/b", "Cache-Control: no-cache\r\nETag: \"same\"\r\n"),
        ]),
    )
    .await;
    let _ = kept.get("/c/a", "").await;
    kept.world.clock.advance(61_000);
    let confirmed = kept.get("/c/a", "If-None-Match: \"other\"\r\n").await;
    assert_eq!((confirmed.status, text(&confirmed).as_str()), (200, "/c/a #1"));
    assert_eq!(status(&confirmed), "turnpike; fwd=stale; fwd-status=304; stored");
    assert!(has(&kept.upstream.last(), "if-none-match: \"same\"") && !kept.upstream.last().contains("other"));
    assert_eq!(
        kept.seen("/c/a", "").await,
        ("/c/a #1".to_owned(), "turnpike; hit; ttl=60".to_owned())
    );
    for n in 0..3 {
        let (body, what) = kept.seen("/c/b", "").await;
        assert_eq!(body, "/c/b #3", "what says no-cache is confirmed every time");
        assert_eq!(what.contains("fwd-status=304"), n > 0);
    }
    let rows = kept.world.shipped().await;
    assert!(
        rows.iter().all(|r| r.units == 1 && r.status == 200),
        "a confirmed answer counts as what the client got"
    );
}

/// What an upstream confirms is not what is kept: it is fetched again, and nobody hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_which_another_version_is_confirmed_is_fetched_anew() {
    for (stubborn, wanted) in [(false, 200), (true, 502)] {
        let upstream = Scripted::start(move |request| {
            let first = !request.contains("x-again: ");
            let tag = if first { "v1" } else { "v2" };
            if has(request, "if-none-match: \"v1\"") || (stubborn && !first) {
                let head = "HTTP/1.1 304 Not Modified\r\nConnection: close\r\nETag: \"v2\"\r\n\r\n";
                return vec![head.as_bytes().to_vec()];
            }
            whole("200 OK", &format!("{MINUTE}ETag: \"{tag}\"\r\n"), tag)
        })
        .await;
        let world = upstream.world(&[("kept", "/c/{*rest}", r#"{"cache": {}}"#)]).await;
        let kept = Kept { world, upstream };
        assert_eq!(text(&kept.get("/c/a", "").await), "v1");
        kept.world.clock.advance(61_000);
        let lines = "x-again: 1\r\nIf-None-Match: \"v0\"\r\n";
        let again = kept.get("/c/a", lines).await;
        assert_eq!(again.status, wanted, "{again:?}");
        assert_eq!(kept.asked(), 3);
        assert!(!kept.upstream.last().to_ascii_lowercase().contains("if-none-match"));
        if wanted == 200 {
            assert_eq!(text(&again), "v2");
            let (body, what) = kept.seen("/c/a", "").await;
            assert_eq!((body.as_str(), what.as_str()), ("v2", "turnpike; hit; ttl=60"));
        } else {
            assert_eq!(again.problem(), "upstream-broken");
        }
        let rows = kept.world.shipped().await;
        let units: Vec<_> = rows.iter().map(|r| (r.status, r.units)).collect();
        let last = if wanted == 200 {
            &[(200, 1), (200, 1)][..]
        } else {
            &[(502, 0)]
        };
        assert_eq!(&units[1..], last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_vary_by_what_they_say() {
    let kept = kept(
        "{}",
        lines(&[("/c/a", "Cache-Control: max-age=60\r\nVary: X-Tenant, accept\r\n")]),
    )
    .await;
    let one = kept.get("/c/a", "X-Tenant: 1\r\n").await;
    let two = kept.get("/c/a", "X-Tenant: 2\r\n").await;
    assert!(status(&two).contains("fwd=vary-miss"));
    assert_ne!(one.body, two.body);
    assert_eq!(kept.get("/c/a", "X-Tenant: 1\r\n").await.body, one.body);
    assert_eq!(kept.get("/c/a", "X-Tenant: 2\r\n").await.body, two.body);
    assert_ne!(kept.get("/c/a", "X-Tenant: 2\r\nAccept: a/b\r\n").await.body, two.body);
    for n in 0..40 {
        let _ = kept.get("/c/a", &format!("X-Tenant: more-{n}\r\n")).await;
    }
    assert_ne!(
        kept.get("/c/a", "X-Tenant: 1\r\n").await.body,
        one.body,
        "variants are bounded"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_whole_of_a_get_goes_by() {
    let kept = kept("{}", lines(&[])).await;
    let _ = kept.get("/c/a", "").await;
    for line in [
        "Range: bytes=0-1",
        "If-Range: \"a\"",
        "If-Match: \"a\"",
        "Authorization: Basic YTpi",
        "Cookie: a=b",
        "X-HTTP-Method-Override: DELETE",
        "Content-Length: 0\r\nConnection: x-tenant",
    ] {
        let (body, what) = kept.seen("/c/a", &format!("{line}\r\n")).await;
        if line.starts_with("Authorization") {
            // It is a second credential on this route.
            assert_eq!(what, "none");
            continue;
        }
        assert_ne!(body, "/c/a #1", "{line}");
        assert_eq!(what, "turnpike; fwd=bypass; fwd-status=200", "{line}");
    }
    let key = kept.world.key.reveal();
    let fat = format!("GET /c/a HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: 3\r\n");
    assert!(status(&kept.world.send(&fat, "x=1").await).contains("fwd=bypass"));
    assert_eq!(kept.seen("/c/a", "").await.0, "/c/a #1", "and nothing of it was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_a_resource_makes_its_answers_unusable() {
    let kept = kept("{}", lines(&[("/c/b", "Cache-Control: max-age=60\r\n")])).await;
    let (a, b) = (kept.get("/c/a", "").await, kept.get("/c/b", "").await);
    let mut post = kept.ask(&kept.world.key, "POST", "/c/a", "Content-Length: 0\r\n").await;
    assert_eq!(
        (post.status, status(&post).as_str()),
        (200, "turnpike; fwd=method; fwd-status=200")
    );
    assert_ne!(kept.get("/c/a", "").await.body, a.body);
    assert_eq!(kept.get("/c/b", "").await.body, b.body);
    post = kept
        .ask(&kept.world.key, "POST", "/v1/status/500", "Content-Length: 0\r\n")
        .await;
    assert_eq!(post.status, 500);
}

/// An answer may be found by another spelling of its address than the one that is changed, or forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn changes_mean_every_spelling() {
    let kept = kept("{}", lines(&[])).await;
    let ask = async |method: &str, host: &str, path: &str| {
        let key = kept.world.key.reveal();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\nContent-Length: 0\r\n");
        text(&kept.world.send(&head, "").await)
    };
    let spellings = [
        ("a", "/c/a"),
        ("a", "/c/%61"),
        ("a:443", "/c/a"),
        ("A", "/c/a"),
        ("a.", "/c/a"),
    ];
    for (n, (host, path)) in spellings.into_iter().enumerate() {
        let (changed, at) = spellings[(n + 1) % spellings.len()];
        let before = ask("GET", host, path).await;
        assert_eq!(ask("GET", host, path).await, before);
        let _ = ask("PUT", changed, at).await;
        assert_ne!(ask("GET", host, path).await, before, "{host}{path} after {changed}{at}");
    }
    for (host, path) in spellings {
        for prefix in ["/c/a", "/c/%61", "/c/"] {
            let before = ask("GET", host, path).await;
            kept.world.plane.purge(Purge {
                route: None,
                path_prefix: prefix.to_owned(),
            });
            kept.world.synced().await;
            assert_ne!(ask("GET", host, path).await, before, "{host}{path} after {prefix}");
        }
    }
}
