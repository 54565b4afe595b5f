//! Every refusal says what is wrong, with the right status, and is recorded where the caller is known.

use crate::support::*;
use gateway::Refusal;
use model::Time;
use model::access::{Environment, Suspension};
use model::catalogue::RateLimit;
use model::key::PlainKey;
use std::sync::atomic::{AtomicU64, Ordering};

async fn refused(world: &World, path: &str) -> (u16, String) {
    let reply = world.get(path).await;
    (reply.status, reply.problem())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forwarded_is_answered_and_recorded() {
    let mut world = World::new().await;
    let reply = world.get("/v1/ok?q=%20a&b").await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"ok"[..]));
    let seen = world.upstream.last();
    assert!(seen.starts_with("GET /v1/ok?q=%20a&b HTTP/1.1\r\n"), "{seen}");
    let rows = world.shipped().await;
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((row.units, row.status, row.refusal, row.response_bytes), (1, 200, 0, 2));
    assert_eq!((row.route, row.meter, row.consumer), (1, 1, world.consumer));
    assert_eq!(row.period_start, Time::from_unix_ms(START_MS));
    assert_eq!(Some(row.request.to_string().as_str()), reply.header("x-request-id"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_methods() {
    let world = World::new().await;
    assert_eq!(refused(&world, "/nothing").await, (404, "no-route".to_owned()));
    let reply = world.get("/post-only").await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
    let key = world.key.reveal();
    for method in ["OPTIONS", "TRACE", "FOO", "PATCH"] {
        let head = format!("{method} /search/1 HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n");
        let reply = world.send(&head, "").await;
        assert_eq!(reply.status, 405, "{method}");
        let allow = reply.header("allow").unwrap();
        assert!(
            allow.contains("GET") && allow.contains("HEAD") && allow.contains("DELETE"),
            "{allow}"
        );
    }
    let head = format!("HEAD /search/1 HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n");
    let reply = world.send(&head, "").await;
    assert_eq!(
        (reply.status, reply.header("content-length"), reply.body.len()),
        (200, Some("2"), 0)
    );
    assert_eq!(world.shipped().await.len(), 1, "what has no caller is not recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials() {
    let world = World::new().await;
    let key = world.key.reveal().to_owned();
    let head = "GET /v1/ok HTTP/1.1\r\nHost: a\r\n";
    for (lines, status, slug) in [
        (String::new(), 401, "key-missing"),
        ("Authorization: Basic abc\r\n".to_owned(), 401, "credential-misplaced"),
        ("Authorization: Digest abc\r\n".to_owned(), 401, "key-missing"),
        ("X-API-Key: nonsense\r\n".to_owned(), 401, "key-unknown"),
        (format!("X-API-Key: {key}x\r\n"), 401, "key-unknown"),
        (
            format!("X-API-Key: {key}\r\nX-API-Key: {key}\r\n"),
            400,
            "two-credentials",
        ),
        (
            format!("X-API-Key: {key}\r\nAuthorization: Bearer {key}\r\n"),
            400,
            "two-credentials",
        ),
        (
            format!("Authorization: Bearer {key}\r\nAuthorization: Bearer {key}\r\n"),
            400,
            "two-credentials",
        ),
    ] {
        let reply = world.send(&format!("{head}{lines}"), "").await;
        assert_eq!((reply.status, reply.problem().as_str()), (status, slug), "{lines}");
        assert_eq!(reply.header("www-authenticate").is_some(), status == 401);
    }
    let other = PlainKey::generate("tp", Environment::Live, &Seeded(AtomicU64::new(99)));
    let reply = world
        .send(&format!("{head}X-API-Key: {}\r\n", other.reveal()), "")
        .await;
    assert_eq!(reply.problem(), "key-unknown");
    for line in [
        format!("Authorization: Bearer {key}"),
        format!("AUTHORIZATION: bEaReR  {key}"),
    ] {
        assert_eq!(world.send(&format!("{head}{line}\r\n"), "").await.status, 200);
    }
    assert!(!world.upstream.last().to_ascii_lowercase().contains("authorization"));
    assert!(!world.upstream.requests().concat().contains(&key));
}

/// The same id with another secret: only the MAC tells them apart.
#[tokio::test(flavor = "multi_thread")]
async fn the_secret_counts_not_the_id() {
    let world = World::new().await;
    let text = world.key.reveal();
    let start = text.len() - 46;
    let stolen = format!("{}{}", &text[..start + 8], "A".repeat(32));
    let mut crc = u64::from(model::key::crc32(stolen.as_bytes()));
    let mut digits = Vec::new();
    for _ in 0..6 {
        digits.push(
            b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[usize::try_from(crc % 62).unwrap()],
        );
        crc /= 62;
    }
    digits.reverse();
    let forged = format!("{stolen}{}", String::from_utf8(digits).unwrap());
    assert!(model::key::parse(forged.as_bytes()).is_some());
    let reply = world
        .send(
            &format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {forged}\r\n"),
            "",
        )
        .await;
    assert_eq!((reply.status, reply.problem().as_str()), (401, "key-unknown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn state_scope_and_features() {
    let world = World::new().await;
    let lookup = world.key.lookup().0;
    for (suspension, status, slug) in [
        (Suspension::Payment, 402, "payment-required"),
        (Suspension::Provider, 403, "suspended"),
        (Suspension::NoPlan, 402, "no-plan"),
    ] {
        world
            .plane
            .edit_entitlement(world.consumer, |e| e.suspended = Some(suspension));
        world.synced().await;
        assert_eq!(refused(&world, "/v1/ok").await, (status, slug.to_owned()));
    }
    world.plane.edit_entitlement(world.consumer, |e| e.suspended = None);
    world.plane.edit_key(lookup, |k| k.routes = Some(vec![2, 3]));
    world.synced().await;
    assert_eq!(refused(&world, "/v1/ok").await, (403, "insufficient-scope".to_owned()));
    assert_eq!(world.get("/heavy").await.status, 200);
    let reply = world.get("/export").await;
    assert_eq!((reply.status, reply.problem().as_str()), (403, "feature-missing"));
    assert!(String::from_utf8_lossy(&reply.body).contains("/pricing"));
    world.plane.edit_key(lookup, |k| {
        k.expires_at = Some(Time::from_unix_ms(START_MS + DAY_MS + 1_000));
    });
    world.synced().await;
    assert_eq!(world.get("/heavy").await.status, 200);
    world.clock.advance(1_000);
    assert_eq!(refused(&world, "/heavy").await, (401, "key-expired".to_owned()));
    world.plane.edit_key(lookup, |k| k.revoked = true);
    world.synced().await;
    assert_eq!(refused(&world, "/heavy").await, (401, "key-revoked".to_owned()));
    assert!(world.upstream.requests().len() == 2);
    let rows = world.shipped().await;
    let refusals: Vec<_> = rows
        .iter()
        .filter_map(|r| Refusal::from_number(r.refusal))
        .map(Refusal::slug)
        .collect();
    let expected = [
        "payment-required",
        "suspended",
        "no-plan",
        "insufficient-scope",
        "feature-missing",
        "key-expired",
        "key-revoked",
    ];
    assert_eq!(refusals, expected);
    assert!(rows.iter().all(|r| (r.refusal == 0) == (r.units > 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_an_entitlement_has_no_plan() {
    let world = World::new().await;
    let test_key = PlainKey::generate("tp", Environment::Test, &*world.random);
    world.plane.put_key(key_record(&test_key, world.consumer));
    world.synced().await;
    let head = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", test_key.reveal());
    assert_eq!(world.send(&head, "").await.problem(), "no-plan");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_limit_is_exact_and_says_so() {
    let world = World::with(|e| {
        e.rate_limit = RateLimit {
            per_second: 10,
            burst: 3,
        }
    })
    .await;
    for left in ["2", "1", "0"] {
        let reply = world.get("/v1/ok").await;
        assert_eq!(reply.status, 200);
        let told = reply.header("ratelimit").unwrap();
        assert!(
            told.starts_with(&format!("\"rate\";r={left};t=1, \"quota\";r=")),
            "{told}"
        );
        let policy = reply.header("ratelimit-policy").unwrap();
        assert_eq!(policy, "\"rate\";q=3;w=1, \"quota\";q=1000000;w=2592000");
    }
    for _ in 0..3 {
        let reply = world.get("/v1/ok").await;
        assert_eq!((reply.status, reply.problem().as_str()), (429, "rate-limited"));
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    world.clock.advance(99);
    assert_eq!(world.get("/v1/ok").await.status, 429);
    world.clock.advance(1);
    assert_eq!(world.get("/v1/ok").await.status, 200);
    assert_eq!(world.get("/v1/ok").await.status, 429);
    world.clock.advance(60_000);
    let passed = futures_count(&world, 20).await;
    assert_eq!(passed, 3, "a long pause saves up no more than the burst");
}

async fn futures_count(world: &World, count: usize) -> usize {
    let mut passed = 0;
    for _ in 0..count {
        passed += usize::from(world.get("/v1/ok").await.status == 200);
    }
    passed
}

#[tokio::test(flavor = "multi_thread")]
async fn before_there_are_routes_it_is_not_ready() {
    let mut world = World::new().await;
    world.stop().await;
    world.folder = Folder::new();
    world.plane.away.store(true, Ordering::SeqCst);
    world.start();
    assert!(!world.gateway.as_ref().unwrap().ready());
    assert_eq!(world.get("/v1/ok").await.status, 503);
    world.plane.away.store(false, Ordering::SeqCst);
    until(|| world.gateway.as_ref().unwrap().ready()).await;
    world.synced().await;
    assert_eq!(world.get("/v1/ok").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_bounded_labels() {
    let world = World::new().await;
    world.get("/v1/ok").await;
    world.get("/v1/status/500").await;
    world.get("/nothing").await;
    let text = world.gateway.as_ref().unwrap().metrics();
    for line in [
        "turnpike_gateway_answers_total{route=\"all\",upstream=\"main\",class=\"2xx\"} 1",
        "turnpike_gateway_answers_total{route=\"all\",upstream=\"main\",class=\"5xx\"} 1",
        "turnpike_gateway_refusals_total{reason=\"no-route\"} 1",
        "turnpike_gateway_answer_seconds_count 2",
        "turnpike_gateway_ledger_records 2",
        "turnpike_gateway_snapshot_connected 1",
        "turnpike_gateway_keys 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains(world.key.reveal()) && !text.contains("con_"));
}
