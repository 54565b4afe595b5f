//! Who a token's caller is, what it may do, and what is written down.

use super::*;
use crate::streams::{SILENCE_MOST_MS, open_at, read_to_close};
use model::ConsumerId;
use model::access::Suspension;

/// A caller with a token is the consumer that it names: metered, limited and suspended as with a key.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_acts_for_its_consumer() {
    let world = simple().await;
    let token = ed(ED).token(json!({}), &claims(&world));
    assert_eq!(call(&world, &token).await.status, 200);
    let seen = world.upstream.last().to_ascii_lowercase();
    let stand_in = KeyId::from_bits(STAND_IN).to_string();
    for line in [
        format!("x-consumer-id: {}\r\n", world.consumer),
        format!("x-key-id: {stand_in}\r\n"),
        "x-plan: pro\r\n".to_owned(),
    ] {
        assert!(seen.contains(&line), "{line} is not in {seen}");
    }
    assert!(!seen.contains("authorization") && !world.upstream.last().contains(&token));
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.suspended = Some(Suspension::Provider));
    world.synced().await;
    assert_eq!(
        outcome(&world, &token).await,
        (403, "suspended".to_owned()),
        "at once, although it is remembered"
    );
    world.plane.edit_entitlement(world.consumer, |e| e.suspended = None);
    world.synced().await;
    assert_eq!(call(&world, &token).await.status, 200);
    let rows = world.shipped().await;
    assert_eq!(rows.len(), 3);
    assert!(
        rows.iter()
            .all(|r| r.key == KeyId::from_bits(STAND_IN) && r.consumer == world.consumer)
    );
    assert!(rows[0].subscription.is_some() && rows[0].units == 1);
}

/// A token ends with its time (and the leeway), and so does what was opened with it; and when its issuer goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    const LEEWAY_S: i64 = 30;
    let trusted = json!({"algorithms": ["EdDSA"], "public_key": ED_PUBLIC, "leeway_s": LEEWAY_S});
    for ends_by_time in [true, false] {
        let world = World::new().await;
        set_policy(&world, r#"{"accept": ["key", "jwt"]}"#, |routing| {
            routing.issuers = vec![record(trusted.clone())];
            routing.upstreams[0].idle_timeout_ms = SILENCE_MOST_MS;
        })
        .await;
        let token = ed(ED).token(json!({}), &claims(&world));
        let line = format!("Authorization: Bearer {token}\r\n");
        let mut stream = open_at(&world, "/v1/sse", &line).await;
        if ends_by_time {
            // Past its end, and within the leeway.
            world.clock.advance((300 + LEEWAY_S / 2) * 1_000);
            let early = tokio::time::timeout(Duration::from_secs(3), stream.read_u8()).await;
            assert!(early.is_err(), "it ended before its time: {early:?}");
            world.clock.advance(LEEWAY_S / 2 * 1_000);
        } else {
            trust(&world, Vec::new()).await;
        }
        read_to_close(&mut stream).await;
        let slug = if ends_by_time { "token-expired" } else { "token-invalid" };
        assert_eq!(call(&world, &token).await.problem(), slug);
    }
}

/// A token for somebody who is not here is no way in, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_a_stranger_is_refused() {
    let world = simple().await;
    for name in [
        ConsumerId::from_bits(12).to_string(),
        ConsumerId::ANONYMOUS.to_string(),
        "ada".to_owned(),
    ] {
        let mut claims = claims(&world);
        claims["sub"] = json!(name);
        let outcome = outcome(&world, &ed(ED).token(json!({}), &claims)).await;
        assert_eq!(outcome, (403, "token-unknown-consumer".to_owned()));
    }
    world.plane.away.store(true, Ordering::SeqCst);
    until(|| {
        world
            .gateway
            .as_ref()
            .unwrap()
            .metrics()
            .contains("snapshot_connected 0")
    })
    .await;
    let mut claims = claims(&world);
    claims["sub"] = json!(ConsumerId::from_bits(12).to_string());
    assert_eq!(outcome(&world, &ed(ED).token(json!({}), &claims)).await.0, 503);
}

/// The provider's own names: found, moved and taken back while the gateway runs, tokens in memory included.
#[tokio::test(flavor = "multi_thread")]
async fn the_providers_own_names_work() {
    let issuer = json!({"algorithms": ["EdDSA"], "public_key": ED_PUBLIC, "consumer_is": "external_id", "consumer_claim": "https://example/org"});
    let world = world(issuer).await;
    let mut claims = claims(&world);
    claims["https://example/org"] = json!("acme-17");
    let token = ed(ED).token(json!({}), &claims);
    assert_eq!(outcome(&world, &token).await.1, "token-unknown-consumer");
    let name = |consumer, name: Option<&str>| {
        let name = name.map(ToOwned::to_owned);
        world.plane.edit_entitlement(consumer, |e| e.external_id = name);
    };
    name(world.consumer, Some("acme-17"));
    world.synced().await;
    assert_eq!(outcome(&world, &token).await.0, 200);
    let other = ConsumerId::from_bits(2 << 80);
    world.plane.put_entitlement(entitlement(other));
    name(world.consumer, None);
    name(other, Some("acme-17"));
    world.synced().await;
    assert_eq!(outcome(&world, &token).await.0, 200);
    assert!(
        world.upstream.last().contains(&other.to_string()),
        "it means somebody else now"
    );
    name(other, Some("acme-18"));
    world.synced().await;
    assert_eq!(outcome(&world, &token).await.1, "token-unknown-consumer");
}

/// Features come from a token only where its issuer may grant them.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_grants_what_it_may() {
    let plain = json!({"algorithms": ["EdDSA"], "public_key": ED_PUBLIC});
    let mut granting = plain.clone();
    granting["may_grant"] = json!(["features"]);
    let world = world(plain).await;
    let with = |features: Value| {
        let mut claims = claims(&world);
        claims["features"] = features;
        ed(ED).token(json!({}), &claims)
    };
    let token = with(json!(["export", "search"]));
    assert_eq!(call_at(&world, "/export", &token).await.problem(), "feature-missing");
    trust(&world, vec![record(granting.clone())]).await;
    assert_eq!(call_at(&world, "/export", &token).await.status, 200);
    let seen = world.upstream.last().to_ascii_lowercase();
    assert!(seen.contains("x-features: search,bulk,export\r\n"), "{seen}");
    assert_eq!(
        world.get("/export").await.problem(),
        "feature-missing",
        "a key gets nothing of it"
    );
    set_policy(&world, r#"{"accept": ["key", "jwt"]}"#, |routing| {
        let gate = json!({"feature": "export", "query": "full"});
        routing.issuers = vec![record(granting.clone())];
        for route in &mut routing.routes {
            route.policy.gates = vec![serde_json::from_value(gate.clone()).unwrap()];
        }
    })
    .await;
    assert_eq!(
        call_at(&world, "/v1/ok?full=1", &token).await.status,
        200,
        "it opens gates, too"
    );
    assert_eq!(world.get("/v1/ok?full=1").await.problem(), "feature-missing");
    for wrong in [
        json!("export"),
        json!([1]),
        json!(["a,b"]),
        json!([""]),
        json!({"export": true}),
    ] {
        assert_invalid(&world, "features", &with(wrong)).await;
    }
}

/// A route that takes no tokens refuses good ones, and one that takes tokens alone refuses good keys.
#[tokio::test(flavor = "multi_thread")]
async fn routes_choose_between_keys_and_tokens() {
    let world = simple().await;
    let token = ed(ED).token(json!({}), &claims(&world));
    let issuers = vec![record(json!({"algorithms": ["EdDSA"], "public_key": ED_PUBLIC}))];
    set_policy(&world, r#"{"accept": ["jwt"]}"#, |r| r.issuers.clone_from(&issuers)).await;
    assert_eq!(call(&world, &token).await.status, 200);
    assert_eq!(world.get("/v1/ok").await.status, 401);
    let reply = call(&world, world.key.reveal()).await;
    assert_eq!((reply.status, reply.problem().as_str()), (401, "credential-misplaced"));
    set_policy(&world, r#"{"accept": ["key"], "bearer": true}"#, |r| {
        r.issuers = issuers;
    })
    .await;
    assert_eq!(outcome(&world, &token).await, (401, "key-unknown".to_owned()));
    assert_eq!(world.get("/v1/ok").await.status, 200);
}

/// An open stream of a token's caller ends when the consumer is suspended.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_consumer() {
    let world = World::new().await;
    let issuer = record(json!({"algorithms": ["EdDSA"], "public_key": ED_PUBLIC}));
    set_policy(&world, r#"{"accept": ["key", "jwt"]}"#, |routing| {
        routing.issuers = vec![issuer];
        // Or its silence would end it.
        routing.upstreams[0].idle_timeout_ms = SILENCE_MOST_MS;
    })
    .await;
    let token = ed(ED).token(json!({}), &claims(&world));
    let head = format!("GET /v1/sse HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    let addr = world.addr;
    let stream = tokio::spawn(async move { raw(addr, head.as_bytes()).await });
    until(|| !world.upstream.requests().is_empty()).await;
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.suspended = Some(Suspension::Provider));
    let said = stream.await.unwrap();
    assert!(String::from_utf8_lossy(&said).starts_with("HTTP/1.1 200"));
}

/// A feature that a token grants opens gates as one of the plan does.
#[tokio::test(flavor = "multi_thread")]
async fn a_granted_feature_opens_gates() {
    let world = World::new().await;
    let issuer = record(json!({"algorithms": ["EdDSA"], "public_key": ED_PUBLIC, "may_grant": ["features"]}));
    set_policy(&world, r#"{"accept": ["key", "jwt"]}"#, |routing| {
        routing.issuers = vec![issuer];
        for route in &mut routing.routes {
            route.policy.gates = serde_json::from_value(json!([{"feature": "history", "query": "since"}])).unwrap();
        }
    })
    .await;
    let mut claims = claims(&world);
    let plain = ed(ED).token(json!({}), &claims);
    claims["features"] = json!(["history"]);
    let granted = ed(ED).token(json!({}), &claims);
    assert_eq!(
        call_at(&world, "/v1/ok?since=1", &plain).await.problem(),
        "feature-missing"
    );
    assert_eq!(call_at(&world, "/v1/ok?since=1", &granted).await.status, 200);
}
