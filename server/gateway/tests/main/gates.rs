//! What of a route needs a feature, in requests. The caller's plan has `search` and `bulk`; `export` and `history` it
//! has not.

use crate::scripted::*;
use crate::support::*;
use model::Time;
use model::snapshot::{FeatureLife, LaterFeatures, Variants};
use std::sync::atomic::Ordering;

async fn world(policy: &str) -> (World, Scripted) {
    let upstream = Scripted::start(|_| whole("200 OK", "Content-Type: text/plain\r\n", "ok")).await;
    let world = upstream.world(&[("gated", "/gated", policy)]).await;
    (world, upstream)
}

async fn send(world: &World, method: &str, target: &str, lines: &str, body: &str) -> Reply {
    let key = world.key.reveal();
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{lines}{length}");
    world.send(&head, body).await
}

fn refused_for(reply: &Reply, feature: &str) -> bool {
    if reply.status == 200 {
        return false;
    }
    assert_eq!((reply.status, reply.problem().as_str()), (403, "feature-missing"));
    let told: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert!(told["detail"].as_str().unwrap().contains(feature), "{told}");
    assert_eq!(told["link"], format!("{PORTAL}/pricing"));
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_may_need_a_feature() {
    let (world, upstream) = world(
        r#"{"gates": [{"feature": "export", "methods": ["DELETE"]}, {"feature": "search", "methods": ["POST"]}]}"#,
    )
    .await;
    for (method, target, lines, refused) in [
        ("GET", "/gated", "", false),
        ("POST", "/gated", "", false),
        ("DELETE", "/gated", "", true),
        ("POST", "/gated", "X-HTTP-Method-Override: delete\r\n", true),
        ("POST", "/gated", "X-Method-Override: PATCH\r\n", false),
        ("POST", "/gated?_method=DELETE", "", true),
        ("POST", "/gated?_method=%64elete", "", true),
    ] {
        let reply = send(&world, method, target, lines, "").await;
        assert_eq!(refused_for(&reply, "export"), refused, "{method} {target} {lines}");
    }
    assert_eq!(upstream.requests().len(), 3);
    let rows = world.shipped().await;
    assert!(
        rows.iter().all(|r| (r.units == 0) == (r.refusal == 13)),
        "what is refused is not counted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_may_need_a_feature() {
    let (world, upstream) = world(
        r#"{"gates": [{"feature": "history", "query": "expand", "query_values": ["history"]},
                      {"feature": "export", "query": "format"}]}"#,
    )
    .await;
    for (query, refused) in [
        ("", None),
        ("?expand=area", None),
        ("?expand=history", Some("history")),
        ("?a=1&Expand[]=area&expand[]=HISTORY", Some("history")),
        ("?a=1;%65xpand=area,hi%73tory", Some("history")),
        ("?expand[history]=1", Some("history")),
        ("?format", Some("export")),
        ("?FORMAT=", Some("export")),
        ("?q=format", None),
    ] {
        let reply = send(&world, "GET", &format!("/gated{query}"), "", "").await;
        assert_eq!(
            refused_for(&reply, refused.unwrap_or_default()),
            refused.is_some(),
            "{query}"
        );
    }
    for query in [
        "?%2565xpand=history",
        "?e%xpand=history",
        "?expand%00=history",
        "?expand=%2568istory",
    ] {
        let reply = send(&world, "GET", &format!("/gated{query}"), "", "").await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (400, "bad-request"),
            "{query}"
        );
    }
    let form = "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n";
    assert!(refused_for(
        &send(&world, "POST", "/gated", form, "a=1&expand=history").await,
        "history"
    ));
    assert!(!refused_for(
        &send(&world, "POST", "/gated", form, "a=1&expand=area").await,
        "history"
    ));
    assert!(
        upstream.last().ends_with("\r\n\r\na=1&expand=area"),
        "a form that is read is forwarded whole"
    );
    assert_eq!(upstream.requests().len(), 4);
}

const FIELDS: &str = r#"{"gates": [{"feature": "history", "request_fields": ["filters.geo", "items[*].trade"]}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_the_body_may_need_a_feature() {
    let (world, upstream) = world(FIELDS).await;
    let json = "Content-Type: application/json\r\n";
    for (lines, body, refused) in [
        (json, r#"{"filters": {"name": "x"}, "geo": 1}"#, false),
        (json, r#"{"filters": {"geo": {}}}"#, true),
        (json, r#"{"Filters": {"g\u0065o": null}}"#, true),
        (json, r#"{"items": [{"a": 1}, {"trade": 1}]}"#, true),
        (
            "Content-Type: application/merge-patch+json\r\n",
            r#"{"filters":{"geo":1}}"#,
            true,
        ),
        // Upstreams that do not look at what it is called would find it.
        ("Content-Type: text/plain\r\n", r#" {"filters":{"geo":1}}"#, true),
        ("", r#"{"filters":{"geo":1}}"#, true),
        ("Content-Type: text/plain\r\n", "filters.geo", false),
        (json, "", false),
    ] {
        let before = upstream.requests().len();
        let reply = send(&world, "POST", "/gated", lines, body).await;
        assert_eq!(refused_for(&reply, "history"), refused, "{lines}{body}");
        assert_eq!(
            upstream.requests().len() > before,
            !refused,
            "not a byte of what is refused goes on"
        );
        assert!(refused || upstream.last().ends_with(&format!("\r\n\r\n{body}")));
    }
    for body in [
        r#"{"filters":1,"filters":{}}"#,
        r#"{"a":1"#,
        r#"{a:1}"#,
        "{}{}",
        "nul",
        r#"{"a":1,}"#,
    ] {
        let reply = send(&world, "POST", "/gated", json, body).await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (400, "body-unclear"),
            "{body}"
        );
    }
    let packed = send(
        &world,
        "POST",
        "/gated",
        &format!("{json}Content-Encoding: gzip\r\n"),
        "x",
    )
    .await;
    assert_eq!((packed.status, packed.problem().as_str()), (415, "body-encoded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_checked_is_bounded_and_may_be_chunked() {
    let policy = FIELDS.replacen('{', "{\"max_request_bytes\": 4000000,", 1);
    let (world, upstream) = world(&policy).await;
    let key = world.key.reveal();
    let head = format!(
        "POST /gated HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    );
    let chunks = |body: &str| -> String {
        let pieces = body
            .as_bytes()
            .chunks(7)
            .map(|c| format!("{:x}\r\n{}\r\n", c.len(), String::from_utf8_lossy(c)));
        pieces.collect::<String>() + "0\r\n\r\n"
    };
    let reply = world.send(&head, &chunks(r#"{"filters": {"name": "x"}}"#)).await;
    assert_eq!(reply.status, 200);
    assert!(upstream.last().contains(r#"{"filters": {"name": "x"}}"#));
    let rows = world.shipped().await;
    assert_eq!(rows[0].request_bytes, 26);
    let reply = world.send(&head, &chunks(r#"{"filters": {"geo": "x"}}"#)).await;
    assert!(refused_for(&reply, "history"));

    let large = |n: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(n - 8));
    let json = "Content-Type: application/json\r\n";
    assert_eq!(send(&world, "POST", "/gated", json, &large(1 << 20)).await.status, 200);
    let reply = send(&world, "POST", "/gated", json, &large((1 << 20) + 1)).await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "body-too-large"));
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_with_the_feature_passes_every_gate() {
    let (world, upstream) = world(
        r#"{"gates": [{"feature": "history", "methods": ["POST"]}, {"feature": "history", "query": "expand"},
                      {"feature": "history", "request_fields": ["geo"]}]}"#,
    )
    .await;
    let asks = async || {
        send(
            &world,
            "POST",
            "/gated?expand=1&%2565xpand",
            "Content-Encoding: gzip\r\n",
            r#"{"geo":1,"geo":2}"#,
        )
        .await
    };
    assert!(refused_for(&asks().await, "history"));
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.features.push("history".to_owned()));
    world.synced().await;
    assert_eq!(asks().await.status, 200);
    assert!(upstream.last().ends_with(r#"{"geo":1,"geo":2}"#));
    world.plane.edit_entitlement(world.consumer, |e| e.features.clear());
    world.synced().await;
    assert!(refused_for(&asks().await, "history"));
}

fn variants(number: u16, of: &[(&str, &str)]) -> Variants {
    Variants {
        number,
        of: of.iter().map(|(f, v)| ((*f).to_owned(), (*v).to_owned())).collect(),
    }
}

/// What a consumer has for a time ends in its instant, also while the control plane is away and after a new start.
#[tokio::test(flavor = "multi_thread")]
async fn a_granted_feature_ends_at_its_moment() {
    let (mut world, upstream) = world(r#"{"gates": [{"feature": "history", "query": "expand"}]}"#).await;
    let end = Time::from_unix_ms(START_MS + 2 * DAY_MS);
    world.plane.edit_entitlement(world.consumer, |e| {
        e.features.push("history".to_owned());
        e.feature_life = FeatureLife {
            variants: variants(7, &[("history", "long")]),
            later: vec![LaterFeatures {
                from: end,
                features: vec!["search".to_owned()],
                variants: variants(0, &[]),
            }],
        };
    });
    world.synced().await;
    let saved = || std::fs::metadata(world.folder.0.join("snapshot")).is_ok();
    assert_eq!(send(&world, "GET", "/gated?expand=1", "", "").await.status, 200);
    assert!(
        upstream.last().contains("x-features: search,bulk,history=long\r\n"),
        "{}",
        upstream.last()
    );
    until(saved).await;
    world.stop().await;
    world.plane.away.store(true, Ordering::SeqCst);
    world.start();
    until(|| world.gateway.as_ref().unwrap().snapshot_version() > 0).await;

    world.clock.advance(world.clock_until(end) - 1);
    assert_eq!(send(&world, "GET", "/gated?expand=1", "", "").await.status, 200);
    world.clock.advance(1);
    assert!(refused_for(
        &send(&world, "GET", "/gated?expand=1", "", "").await,
        "history"
    ));
    assert_eq!(send(&world, "GET", "/gated", "", "").await.status, 200);
    assert!(
        upstream.last().contains("x-features: search\r\n"),
        "{}",
        upstream.last()
    );
    world.plane.away.store(false, Ordering::SeqCst);
    let rows = world.shipped().await;
    assert_eq!(
        rows.iter().map(|r| (r.status, r.variants)).collect::<Vec<_>>(),
        [(200, 7), (200, 7), (403, 0), (200, 0)]
    );
    assert_eq!(
        rows.iter().map(|r| r.units).sum::<u32>(),
        3,
        "the count goes on over the change"
    );
}
