//! Answers that are kept: as RFC 9111 says, for those who share them and nobody else, and never what came in part.

use crate::scripted::*;
use crate::stub::*;
use crate::support::*;
use model::ConsumerId;
use model::access::Environment;
use model::catalogue::CacheHits;
use model::key::PlainKey;
use model::policy::RoutePolicy;
use model::snapshot::Purge;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MINUTE: &str = "Cache-Control: max-age=60\r\n";

/// What the upstream answers with at a path, beside a body that names the request: `<path> #<number>`.
type Lines = HashMap<&'static str, String>;

struct Kept {
    world: World,
    upstream: Scripted,
}

fn lines(of: &[(&'static str, &str)]) -> Lines {
    of.iter().map(|(path, lines)| (*path, (*lines).to_owned())).collect()
}

fn target(request: &str) -> &str {
    request.split(' ').nth(1).unwrap()
}

fn has(request: &str, line: &str) -> bool {
    request
        .to_ascii_lowercase()
        .contains(&format!("{}\r\n", line.to_ascii_lowercase()))
}

/// An upstream behind `/c/{*rest}` with a cache policy; `If-None-Match: "same"` is answered 304.
async fn kept(cache: &str, of: Lines) -> Kept {
    let number = AtomicUsize::new(0);
    let upstream = Scripted::start(move |request| {
        let n = number.fetch_add(1, Ordering::SeqCst) + 1;
        let path = target(request).split('?').next().unwrap();
        let lines = of.get(path).map_or(MINUTE, String::as_str);
        if has(request, "if-none-match: \"same\"") {
            return vec![format!("HTTP/1.1 304 Not Modified\r\nConnection: close\r\n{lines}\r\n").into_bytes()];
        }
        let body = if request.starts_with("HEAD") {
            String::new()
        } else {
            format!("{path} #{n}")
        };
        whole("200 OK", lines, &body)
    })
    .await;
    let policy = format!("{{\"cache\": {cache}}}");
    let world = upstream
        .world(&[("kept", "/c/{*rest}", policy.as_str()), ("free", "/free", "{}")])
        .await;
    Kept { world, upstream }
}

impl Kept {
    async fn ask(&self, key: &PlainKey, method: &str, path: &str, lines: &str) -> Reply {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n{lines}",
            key.reveal()
        );
        self.world.send(&head, "").await
    }

    async fn get(&self, path: &str, lines: &str) -> Reply {
        self.ask(&self.world.key, "GET", path, lines).await
    }

    /// The body of an answer and what was done for it.
    async fn seen(&self, path: &str, lines: &str) -> (String, String) {
        let reply = self.get(path, lines).await;
        (text(&reply), status(&reply))
    }

    fn asked(&self) -> usize {
        self.upstream.requests().len()
    }

    /// Another consumer with a key.
    async fn consumer(&self, number: u128, change: impl FnOnce(&mut model::snapshot::Entitlement)) -> PlainKey {
        let id = ConsumerId::from_bits(number << 80);
        let mut e = entitlement(id);
        change(&mut e);
        let key = PlainKey::generate("tp", e.environment, &*self.world.random);
        self.world.plane.put_entitlement(e);
        self.world.plane.put_key(key_record(&key, id));
        self.world.synced().await;
        key
    }

    fn metric(&self, name: &str) -> usize {
        let metrics = self.world.gateway.as_ref().unwrap().metrics();
        let line = metrics.lines().find(|l| l.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

fn text(reply: &Reply) -> String {
    String::from_utf8(reply.body.clone()).unwrap()
}

fn status(reply: &Reply) -> String {
    reply.header("cache-status").unwrap_or("none").to_owned()
}

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

/// T40: two consumers, two keys, two plans, live and test: each kind of sharing gives an answer to exactly those it names.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_shared_by_those_who_may() {
    for (by, sharers) in [
        ("key", &[][..]),
        ("consumer", &["key"]),
        ("plan", &["key", "consumer"]),
        ("everyone", &["key", "consumer", "plan", "features"]),
    ] {
        let kept = kept(&format!("{{\"shared_by\": \"{by}\"}}"), lines(&[])).await;
        let first = kept.get("/c/a", "").await;
        let second_key = PlainKey::generate("tp", Environment::Live, &*kept.world.random);
        kept.world.plane.put_key(key_record(&second_key, kept.world.consumer));
        let others = [
            ("key", second_key),
            ("consumer", kept.consumer(3, |_| {}).await),
            ("plan", kept.consumer(4, |e| e.plan = "other".to_owned()).await),
            (
                "features",
                kept.consumer(5, |e| e.features.push("more".to_owned())).await,
            ),
            (
                "environment",
                kept.consumer(6, |e| e.environment = Environment::Test).await,
            ),
        ];
        for (what, key) in &others {
            let reply = kept.ask(key, "GET", "/c/a", "").await;
            assert_eq!(reply.status, 200);
            assert_eq!(reply.body == first.body, sharers.contains(what), "{by}: another {what}");
        }
        let other_host = kept.world.key.reveal();
        let head = format!("GET /c/a HTTP/1.1\r\nHost: b\r\nX-API-Key: {other_host}\r\n");
        assert_ne!(kept.world.send(&head, "").await.body, first.body, "{by}: another host");
        let asked = kept.upstream.requests();
        for (header, told) in [
            ("x-key-id", by == "key"),
            ("x-consumer-id", matches!(by, "key" | "consumer")),
            ("x-forwarded-for", matches!(by, "key" | "consumer")),
            ("x-plan", by != "everyone"),
            ("x-features", by != "everyone"),
            ("x-environment", true),
        ] {
            let says = |r: &String| r.to_ascii_lowercase().contains(&format!("\r\n{header}: "));
            assert!(asked.iter().all(|r| says(r) == told), "{by}: {header}");
        }
    }
}

/// Fields that a plan does not include are left out of what is kept, and a new gate makes what was kept before useless.
#[tokio::test(flavor = "multi_thread")]
async fn gated_fields_leak_into_no_kept_answer() {
    let upstream = Scripted::start(|_| {
        whole(
            "200 OK",
            "Cache-Control: max-age=60\r\nETag: \"v1\"\r\nContent-Type: application/json\r\n",
            "{\"a\":1,\"secret\":2}",
        )
    })
    .await;
    let gated = |field: &str| {
        format!(
            r#"{{"cache": {{"shared_by": "everyone"}}, "gates": [{{"feature": "secrets", "response_fields": ["{field}"]}}]}}"#
        )
    };
    let world = upstream.world(&[("kept", "/c", &gated("secret"))]).await;
    let kept = Kept { world, upstream };
    let rich = kept.consumer(3, |e| e.features.push("secrets".to_owned())).await;
    let ask = async |key: &PlainKey| text(&kept.ask(key, "GET", "/c", "").await);
    for _ in 0..2 {
        assert_eq!(ask(&rich).await, "{\"a\":1,\"secret\":2}");
        assert_eq!(ask(&kept.world.key).await, "{\"a\":1}");
    }
    assert_eq!(kept.asked(), 2);
    let tag = kept
        .ask(&kept.world.key, "GET", "/c", "")
        .await
        .header("etag")
        .unwrap()
        .to_owned();
    let same = kept
        .ask(&kept.world.key, "GET", "/c", &format!("If-None-Match: {tag}\r\n"))
        .await;
    assert_eq!((same.status, same.header("etag")), (304, Some(tag.as_str())));
    let other = kept.ask(&rich, "GET", "/c", &format!("If-None-Match: {tag}\r\n")).await;
    assert_eq!(other.status, 200);
    let mut told = routing(kept.world.upstream.addr);
    let mut service = told.upstreams[0].clone();
    (service.number, service.url) = (50, format!("http://{}", kept.upstream.addr));
    told.upstreams.push(service);
    let mut route = told.routes[0].clone();
    (route.number, route.upstream, route.slug, route.path) = (100, 50, "kept".to_owned(), "/c".to_owned());
    route.policy = serde_json::from_str::<RoutePolicy>(&gated("a")).unwrap();
    told.routes.push(route);
    kept.world.plane.put_routing(told);
    kept.world.synced().await;
    assert_eq!(ask(&kept.world.key).await, "{\"secret\":2}");
}

/// Headers that upstreams are known to heed.
const UNKEYED: [&str; 32] = [
    "X-Forwarded-Host",
    "X-Forwarded-Scheme",
    "X-Forwarded-Proto",
    "X-Forwarded-For",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Host",
    "X-Real-IP",
    "Forwarded",
    "Via",
    "Origin",
    "Referer",
    "User-Agent",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "Cookie",
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "X-Lang",
    "X-Wap-Profile",
    "Max-Forwards",
    "X-Cache-Key",
    "If-None-Match",
    "Range",
    "TE",
    "Connection",
    "Pragma",
    "Content-Type",
];

/// T41: what a client says beside what answers are found by never shows in another client's answer.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_a_client_says_reaches_another() {
    let upstream = Scripted::start(|request| {
        // An upstream that repeats whatever it is told.
        let said = request.to_ascii_lowercase();
        let evil = said
            .lines()
            .filter(|l| l.contains("evil"))
            .collect::<Vec<_>>()
            .join(" ");
        whole("200 OK", MINUTE, &format!("[{evil}]"))
    })
    .await;
    let policy = r#"{"cache": {"shared_by": "everyone", "headers": ["x-lang"]}}"#;
    let world = upstream.world(&[("kept", "/c/{*rest}", policy)]).await;
    let kept = Kept { world, upstream };
    let victim = kept.consumer(3, |_| {}).await;
    for name in UNKEYED {
        let path = format!("/c/{name}");
        let poisoned = kept.get(&path, &format!("{name}: evil\r\n")).await;
        assert!(matches!(poisoned.status, 200 | 400), "{name}: {}", poisoned.status);
        let got = kept.ask(&victim, "GET", &path, "").await;
        assert_eq!((got.status, text(&got).as_str()), (200, "[]"), "{name}");
    }
    for path in [
        "/c/a;evil",
        "/c/a?x=1;y=evil",
        "/c/evil/..%2fa",
        "/c/a.css",
        "/c/%61",
        "/c/a?utm=evil",
    ] {
        let _ = kept.get(path, "").await;
    }
    let got = kept.ask(&victim, "GET", "/c/a", "").await;
    assert!(
        got.status == 200 && status(&got).contains("fwd=uri-miss"),
        "paths and queries are not folded: {}",
        status(&got)
    );
    let head = format!(
        "GET /c/host HTTP/1.1\r\nHost: evil\r\nX-API-Key: {}\r\n",
        kept.world.key.reveal()
    );
    assert!(text(&kept.world.send(&head, "").await).contains("evil"));
    assert_eq!(text(&kept.ask(&victim, "GET", "/c/host", "").await), "[]");
}

/// Who has an address in common may be strangers: the same holds for them, whoever else shares.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_a_stranger_says_reaches_a_neighbour() {
    let upstream = Scripted::start(|request| {
        let evil = request.lines().filter(|l| l.contains("evil"));
        whole("200 OK", MINUTE, &format!("[{}]", evil.collect::<Vec<_>>().join(" ")))
    })
    .await;
    let policy = |by: &str| {
        format!(
            r#"{{"cache": {{"shared_by": "{by}"}}, "auth": {{"accept": ["anonymous"], "anonymous_plan": "open"}}}}"#
        )
    };
    let mut open = entitlement(ConsumerId::ANONYMOUS);
    open.plan = "open".to_owned();
    let (by_key, by_consumer) = (policy("key"), policy("consumer"));
    let routes = [
        ("by-key", "/key/{*rest}", by_key.as_str()),
        ("by-consumer", "/consumer/{*rest}", by_consumer.as_str()),
    ];
    let world = upstream
        .world_told(&routes, |told| told.anonymous_plans = vec![open])
        .await;
    let ask = async |path: &str, lines: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}");
        world.send(&head, "").await
    };
    for by in ["key", "consumer"] {
        for name in UNKEYED {
            let path = format!("/{by}/{name}");
            let poisoned = ask(&path, &format!("{name}: evil\r\n")).await;
            assert!(matches!(poisoned.status, 200 | 400), "{name}: {}", poisoned.status);
            let got = ask(&path, "").await;
            assert_eq!((got.status, text(&got).as_str()), (200, "[]"), "{by} {name}");
        }
        let path = format!("/{by}/a");
        let first = ask(&path, "Accept: a/b\r\n").await;
        let same = ask(&path, "Accept: a/b\r\nX-Lang: evil\r\n").await;
        assert!(
            status(&first).ends_with("stored") && status(&same).contains("hit"),
            "{by}"
        );
    }
}

/// T42: a revoked key, a used-up quota and a suspended account get nothing, kept or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_hit_needs_what_a_request_needs() {
    let kept = kept("{\"shared_by\": \"everyone\"}", lines(&[])).await;
    assert_eq!(kept.get("/c/a", "").await.status, 200);
    let poor = kept.consumer(3, |e| e.meters = vec![meter(1, 2, None)]).await;
    let statuses = [
        kept.ask(&poor, "GET", "/c/a", "").await.status,
        kept.ask(&poor, "GET", "/c/a", "").await.status,
    ];
    assert_eq!(statuses, [200, 200]);
    assert_eq!(kept.ask(&poor, "GET", "/c/a", "").await.problem(), "quota-exceeded");
    kept.world.plane.edit_key(poor.lookup().0, |k| k.revoked = true);
    kept.world.synced().await;
    assert_eq!(kept.ask(&poor, "GET", "/c/a", "").await.problem(), "key-revoked");
    assert_eq!(kept.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_whether_hits_count() {
    let kept = kept("{\"shared_by\": \"everyone\"}", lines(&[])).await;
    let free = kept.consumer(3, |e| e.cache_hits = CacheHits::Free).await;
    for key in [&kept.world.key, &free, &kept.world.key, &free] {
        assert_eq!(kept.ask(key, "GET", "/c/a", "").await.status, 200);
    }
    let _ = kept.ask(&free, "GET", "/c/b", "").await;
    let rows = kept.world.shipped().await;
    let units = |consumer: ConsumerId| {
        rows.iter()
            .filter(|r| r.consumer == consumer)
            .map(|r| r.units)
            .collect::<Vec<_>>()
    };
    assert_eq!(units(kept.world.consumer), [1, 1]);
    assert_eq!(units(ConsumerId::from_bits(3 << 80)), [0, 0, 1]);
    assert!(
        rows.iter().all(|r| r.status == 200 && r.response_bytes == 7),
        "{rows:?}"
    );
}

/// An upstream that answers each request only when it is let.
async fn gated(cache: &str, lines: &'static str) -> (Kept, Arc<AtomicUsize>) {
    let let_through = Arc::new(AtomicUsize::new(0));
    let seen = Arc::new(AtomicUsize::new(0));
    let gate = Arc::clone(&let_through);
    let upstream = Scripted::start(move |_| {
        let n = seen.fetch_add(1, Ordering::SeqCst);
        tokio::task::block_in_place(|| {
            for _ in 0..5_000 {
                if gate.load(Ordering::SeqCst) > n {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        whole("200 OK", lines, &format!("#{n}"))
    })
    .await;
    let world = upstream
        .world(&[("kept", "/c/{*rest}", &format!("{{\"cache\": {cache}}}"))])
        .await;
    (Kept { world, upstream }, let_through)
}

fn spawn(kept: &Kept, path: &str) -> tokio::task::JoinHandle<Reply> {
    let (addr, key) = (kept.world.addr, kept.world.key.reveal().to_owned());
    let text = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n");
    tokio::spawn(async move { Reply::parse(&raw(addr, text.as_bytes()).await) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_ask_at_once_make_one_request() {
    let (kept, gate) = gated("{}", MINUTE).await;
    let asking: Vec<_> = (0..50).map(|_| spawn(&kept, "/c/a")).collect();
    until(|| kept.asked() == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    gate.store(1, Ordering::SeqCst);
    let mut collapsed = 0;
    for reply in asking {
        let reply = reply.await.unwrap();
        assert_eq!((reply.status, text(&reply).as_str()), (200, "#0"));
        collapsed += usize::from(status(&reply).contains("collapsed"));
    }
    assert_eq!(kept.asked(), 1);
    assert!(collapsed > 0, "nobody waited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_waits_for_what_is_not_kept_and_nobody_waits_for_ever() {
    let (private, gate) = gated("{}", "Cache-Control: no-store\r\n").await;
    let asking: Vec<_> = (0..10).map(|_| spawn(&private, "/c/a")).collect();
    until(|| private.asked() == 1).await;
    gate.store(1, Ordering::SeqCst);
    // Let go together, not one by one: the upstream has all of them before it answers another.
    until(|| private.asked() == 10).await;
    gate.store(100, Ordering::SeqCst);
    for reply in asking {
        assert_eq!(reply.await.unwrap().status, 200);
    }
    let (mut slow, gate) = gated("{}", MINUTE).await;
    slow.world.stop().await;
    let mut config = config(&slow.world.folder.0);
    config.limits.cache_wait = Duration::from_millis(50);
    slow.world.start_with(config);
    slow.world.synced().await;
    let first = spawn(&slow, "/c/a");
    until(|| slow.asked() == 1).await;
    let second = spawn(&slow, "/c/a");
    until(|| slow.asked() == 2).await;
    gate.store(2, Ordering::SeqCst);
    for reply in [first, second] {
        assert_eq!(reply.await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_cut_off_is_not_kept() {
    let upstream = Scripted::start(|request| {
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nConnection: close\r\n";
        match target(request) {
            "/c/length" => vec![format!("{head}Content-Length: 10\r\n\r\nhalf").into_bytes()],
            "/c/chunk" => vec![format!("{head}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").into_bytes()],
            "/c/close" => vec![format!("{head}\r\nall or half").into_bytes()],
            "/c/large" => whole("200 OK", MINUTE, &"x".repeat(2_000)),
            "/c/larger" => vec![
                format!(
                    "{head}Transfer-Encoding: chunked\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n",
                    "x".repeat(2_000)
                )
                .into_bytes(),
            ],
            _ => vec![
                format!("{head}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").into_bytes(),
                b"5\r\n done\r\n0\r\n\r\n".to_vec(),
            ],
        }
    })
    .await;
    let world = upstream
        .world(&[("kept", "/c/{*rest}", r#"{"cache": {"max_object_bytes": 1000}}"#)])
        .await;
    let kept = Kept { world, upstream };
    for (path, is_kept) in [
        ("/c/length", false),
        ("/c/chunk", false),
        ("/c/close", false),
        ("/c/large", false),
        ("/c/larger", false),
        ("/c/whole", true),
    ] {
        let before = kept.asked();
        let _ = kept.get(path, "").await;
        let second = kept.get(path, "").await;
        assert_eq!(kept.asked() - before == 1, is_kept, "{path}");
        if is_kept {
            assert_eq!(text(&second), "half done");
        }
    }
}

/// Answers that stop on their way are held, and take neither all the room nor any for long.
#[tokio::test(flavor = "multi_thread")]
async fn what_gets_nowhere_keeps_nobody_from_keeping() {
    const PART: usize = 50_000;
    let stuck = format!(
        "HTTP/1.1 200 OK\r\n{MINUTE}Content-Length: 60000\r\n\r\n{}",
        "x".repeat(PART)
    );
    let stub = Stub::start("stuck", Deed::Bytes(stuck.leak())).await;
    let upstream = Scripted::start(|request| {
        let length: usize = target(request).rsplit('-').next().unwrap().parse().unwrap();
        whole("200 OK", MINUTE, &"x".repeat(length))
    })
    .await;
    let policy = r#"{"cache": {}}"#;
    let routes = [("kept", "/c/{*rest}", policy), ("stuck", "/stuck/{*rest}", policy)];
    let mut world = upstream
        .world_told(&routes, |told| {
            let mut service = told.upstreams[0].clone();
            (service.number, service.url) = (51, stub.url());
            told.upstreams.push(service);
            told.routes.last_mut().unwrap().upstream = 51;
        })
        .await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.limits.cache_bytes = 1 << 20;
    world.start_with(config);
    world.synced().await;
    let kept = Kept { world, upstream };
    let held = || kept.metric("turnpike_gateway_cache_bytes ");
    let begin = async |key: &PlainKey| {
        let mut open = Vec::new();
        for n in 0..8 {
            let mut stream = TcpStream::connect(kept.world.addr).await.unwrap();
            let key = key.reveal();
            let head = format!("GET /stuck/{n} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut out = vec![0; PART];
            stream.read_exact(&mut out).await.unwrap();
            open.push(stream);
        }
        open
    };
    let _first = begin(&kept.world.key).await;
    assert!((2 * PART..3 * PART).contains(&held()), "{}", held());
    let other = kept.consumer(3, |_| {}).await;
    let is_kept = async |path: &str| {
        let _ = kept.ask(&other, "GET", path, "").await;
        status(&kept.ask(&other, "GET", path, "").await).contains("hit")
    };
    assert!(is_kept("/c/a-10000").await, "one consumer takes not all the room");
    let mut more = Vec::new();
    for number in 4..6 {
        let key = kept.consumer(number, |_| {}).await;
        more.push(begin(&key).await);
    }
    assert!(!is_kept("/c/b-40000").await && is_kept("/c/c-10000").await);
    kept.world.clock.advance(5_000);
    assert!(is_kept("/c/d-40000").await, "what gets nowhere gives way");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_and_what_is_used_stays() {
    const BYTES: usize = 1 << 20;
    let upstream = Scripted::start(|_| whole("200 OK", MINUTE, &"x".repeat(10_000))).await;
    let mut world = upstream.world(&[("kept", "/c/{*rest}", r#"{"cache": {}}"#)]).await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.limits.cache_bytes = BYTES;
    world.start_with(config);
    world.synced().await;
    let kept = Kept { world, upstream };
    assert_eq!(kept.metric("turnpike_gateway_cache_bytes "), 0);
    let _ = kept.get("/c/used", "").await;
    for n in 0..200 {
        let _ = kept.get(&format!("/c/{n}"), "").await;
        let used = kept.get("/c/used", "").await;
        assert!(status(&used).contains("hit"), "after {n}: {}", status(&used));
        let bytes = kept.metric("turnpike_gateway_cache_bytes ");
        assert!(bytes <= BYTES, "{bytes} after {n}");
    }
    assert!(kept.metric("turnpike_gateway_cache_bytes ") > BYTES / 4);
    assert!(
        status(&kept.get("/c/0", "").await).contains("miss"),
        "what was not used went"
    );
    assert_eq!(kept.metric("turnpike_gateway_cache_requests_total{how=\"hit\"}"), 200);
}

/// Also what was on its way when the administrator said so is not kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_administrator_forgets_answers() {
    let kept = kept("{}", lines(&[])).await;
    let purge = async |route, path_prefix: &str| {
        let path_prefix = path_prefix.to_owned();
        kept.world.plane.purge(Purge { route, path_prefix });
        kept.world.synced().await;
    };
    for (route, prefix, gone) in [
        (None, "/c/b", [false, true]),
        (Some(100), "", [true, true]),
        (Some(1), "", [false, false]),
        (None, "", [true, true]),
    ] {
        let before = [kept.get("/c/a", "").await, kept.get("/c/b", "").await];
        purge(route, prefix).await;
        let after = [kept.get("/c/a", "").await, kept.get("/c/b", "").await];
        for (n, gone) in gone.into_iter().enumerate() {
            assert_eq!(before[n].body != after[n].body, gone, "{route:?} {prefix:?} {n}");
        }
    }
    let (slow, gate) = gated("{}", MINUTE).await;
    let first = spawn(&slow, "/c/a");
    until(|| slow.asked() == 1).await;
    slow.world.plane.purge(Purge {
        route: None,
        path_prefix: String::new(),
    });
    slow.world.synced().await;
    gate.store(10, Ordering::SeqCst);
    assert_eq!(text(&first.await.unwrap()), "#0");
    assert_eq!(text(&slow.get("/c/a", "").await), "#1");
}
