//! Who shares an answer, and what a hit needs and counts.

use super::*;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_that_costs_nothing_needs_no_room_in_the_quota() {
    let kept = kept("{\"shared_by\": \"everyone\"}", lines(&[])).await;
    let poor = |e: &mut model::snapshot::Entitlement| {
        e.cache_hits = CacheHits::Free;
        e.meters = vec![meter(1, 1, None)];
    };
    let free = kept.consumer(3, poor).await;
    assert_eq!(kept.ask(&free, "GET", "/c/a", "").await.status, 200);
    for method in ["GET", "HEAD", "GET"] {
        let hit = kept.ask(&free, method, "/c/a", "").await;
        assert_eq!(hit.status, 200);
        assert!(status(&hit).starts_with("turnpike; hit"), "{method}");
        assert!(hit.header("ratelimit").unwrap().contains("\"quota\";r=0;"));
    }
    // What another consumer had fetched, too; but nothing is fetched, confirmed or changed.
    assert_eq!(kept.get("/c/b", "").await.status, 200);
    assert_eq!(kept.ask(&free, "GET", "/c/b", "").await.status, 200);
    let asked = kept.asked();
    for (method, path, lines) in [
        ("GET", "/c/new", ""),
        ("GET", "/c/new", "Cache-Control: only-if-cached\r\n"),
        ("GET", "/c/a", "Cache-Control: no-cache\r\n"),
        ("GET", "/c/a", "Cache-Control: no-store\r\n"),
        ("GET", "/c/a", "Range: bytes=0-1\r\n"),
        ("DELETE", "/c/a", ""),
        ("GET", "/free", ""),
    ] {
        let refused = kept.ask(&free, method, path, lines).await;
        assert_eq!(refused.problem(), "quota-exceeded", "{method} {path} {lines}");
    }
    kept.world.clock.advance(60_000);
    assert_eq!(
        kept.ask(&free, "GET", "/c/a", "").await.problem(),
        "quota-exceeded",
        "stale"
    );
    assert_eq!(kept.asked(), asked);
    let rows = kept.world.shipped().await;
    let of_free = rows.iter().filter(|r| r.consumer == ConsumerId::from_bits(3 << 80));
    assert_eq!(of_free.map(|r| r.units).sum::<u32>(), 1);
    assert_eq!(kept.get("/c/a", "").await.status, 200);
    kept.world.plane.edit_entitlement(ConsumerId::from_bits(3 << 80), |e| {
        e.suspended = Some(Suspension::Provider);
    });
    kept.world.synced().await;
    assert_eq!(kept.ask(&free, "GET", "/c/a", "").await.problem(), "suspended");
}
