//! Requests with an `Idempotency-Key` are done once, whoever repeats them and whatever becomes of the client.

use crate::scripted::*;
use crate::support::*;
use model::ConsumerId;
use model::Time;
use model::access::{Environment, Suspension};
use model::catalogue::RateLimit;
use model::key::PlainKey;
use model::snapshot::{Entitlement, KeyLimits};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

struct Once {
    world: World,
    upstream: Scripted,
}

/// An upstream that answers as the last segment of the path says, behind `/o/{*rest}`.
async fn once(policy: &str) -> Once {
    let number = AtomicUsize::new(0);
    let upstream = Scripted::start(move |request| {
        let n = number.fetch_add(1, Ordering::SeqCst) + 1;
        let path = request.split(' ').nth(1).unwrap().split('?').next().unwrap();
        let head = "HTTP/1.1 201 Created\r\nConnection: close\r\n";
        match path.rsplit('/').next().unwrap() {
            "empty" => vec![b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_vec()],
            "refused" => whole("422 Unprocessable Entity", "", &format!("#{n}")),
            "failed" => whole("500 Internal Server Error", "", &format!("#{n}")),
            "later" => whole("503 Service Unavailable", "Retry-After: 1\r\n", &format!("#{n}")),
            "broken" => Vec::new(),
            "half" => vec![format!("{head}Content-Length: 10\r\n\r\n#{n}").into_bytes()],
            "large" => whole("201 Created", "", &format!("#{n} {}", "x".repeat(100_000))),
            "chunked" => vec![format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\n#{n}\r\n0\r\n\r\n").into_bytes()],
            "long" => vec![
                format!(
                    "{head}Transfer-Encoding: chunked\r\n\r\n13880\r\n{}\r\n",
                    "x".repeat(80_000)
                )
                .into_bytes(),
                format!("2\r\n#{n}\r\n0\r\n\r\n").into_bytes(),
            ],
            _ => whole(
                "201 Created",
                "X-Own: 1\r\nLocation: /o/1\r\nSet-Cookie: a=b\r\n",
                &format!("#{n}"),
            ),
        }
    })
    .await;
    Once::behind(upstream, policy).await
}

impl Once {
    async fn behind(upstream: Scripted, policy: &str) -> Self {
        let policy = format!("{{\"idempotency\": {policy}}}");
        let routes = [
            ("once", "/o/{*rest}", policy.as_str()),
            ("other", "/p/{*rest}", policy.as_str()),
        ];
        let world = upstream.world(&routes).await;
        Self { world, upstream }
    }

    fn head(&self, key: &PlainKey, line: &str, lines: &str, body: &str) -> String {
        let (key, length) = (key.reveal(), body.len());
        format!("{line} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: {length}\r\n{lines}")
    }

    async fn send(&self, line: &str, lines: &str, body: &str) -> Reply {
        self.world
            .send(&self.head(&self.world.key, line, lines, body), body)
            .await
    }

    async fn post(&self, path: &str, key: &str) -> Reply {
        self.send(
            &format!("POST {path}"),
            &format!("Idempotency-Key: {key}\r\n"),
            "a body",
        )
        .await
    }

    fn done(&self) -> usize {
        self.upstream.requests().len()
    }
}

fn replayed(reply: &Reply) -> bool {
    reply.header("idempotent-replayed") == Some("true")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_first_answer_and_costs_nothing() {
    let once = once("{}").await;
    for path in ["/o/plain", "/o/chunked", "/o/empty", "/o/refused"] {
        let before = once.done();
        let first = once.post(path, "one").await;
        let again = once.post(path, "one").await;
        assert_eq!(again.status, first.status, "{path}");
        assert!(!replayed(&first) && replayed(&again), "{path}");
        assert_eq!(once.done() - before, 1, "{path}");
        assert!(String::from_utf8_lossy(&again.body).contains('#') || path == "/o/empty");
        let clear = |r: &Reply| {
            if r.header("transfer-encoding").is_some() {
                r.body[3..5].to_vec()
            } else {
                r.body.clone()
            }
        };
        assert_eq!(clear(&again), clear(&first), "{path}");
        for same in ["x-own", "location", "set-cookie"] {
            assert_eq!(again.header(same), first.header(same), "{path}");
        }
        assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
        assert!(has_line(&once.upstream.last(), "idempotency-key: one"));
        // A key of one path is another request's at the next: each path has its own.
        once.world.clock.advance(86_400_001);
        assert!(
            !replayed(&once.post(path, "one").await),
            "{path}: a day later it is new"
        );
        once.world.clock.advance(86_400_001);
    }
    let rows = once.world.shipped().await;
    let units: Vec<u32> = rows.iter().map(|r| r.units).collect();
    assert_eq!(units, [1, 0, 1, 1, 0, 1, 1, 0, 1, 0, 0, 0], "{rows:?}");
    assert_eq!(rows[1].status, 201);
}

fn has_line(request: &str, line: &str) -> bool {
    request.to_ascii_lowercase().contains(&format!("\r\n{line}\r\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_one_consumer_environment_and_route() {
    let once = once("{}").await;
    let first = once.post("/o/plain", "one").await;
    let second = PlainKey::generate("tp", Environment::Live, &*once.world.random);
    once.world.plane.put_key(key_record(&second, once.world.consumer));
    let mut others = Vec::new();
    for (number, environment) in [(1u128, Environment::Test), (3, Environment::Live)] {
        let id = ConsumerId::from_bits(number << 80);
        let mut e = entitlement(id);
        e.environment = environment;
        let key = PlainKey::generate("tp", environment, &*once.world.random);
        once.world.plane.put_entitlement(e);
        once.world.plane.put_key(key_record(&key, id));
        others.push(key);
    }
    once.world.synced().await;
    let lines = "Idempotency-Key: \"one\"\r\n";
    let ask = async |key: &PlainKey, path: &str| {
        let head = once.head(key, &format!("POST {path}"), lines, "a body");
        once.world.send(&head, "a body").await
    };
    let same = ask(&second, "/o/plain").await;
    assert!(
        replayed(&same) && same.body == first.body,
        "another key of the consumer"
    );
    for key in &others {
        let reply = ask(key, "/o/plain").await;
        assert!(!replayed(&reply) && reply.body != first.body);
    }
    assert!(!replayed(&ask(&second, "/p/plain").await));
    assert_eq!(once.done(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_good_for_one_request() {
    let once = once("{}").await;
    let _ = once.post("/o/plain", "one").await;
    let lines = "Idempotency-Key: one\r\n";
    for (line, more, body) in [
        ("PUT /o/plain", "", "a body"),
        ("POST /o/plainer", "", "a body"),
        ("POST /o/plain?x=1", "", "a body"),
        ("POST /o/plain", "", "a bodz"),
        ("POST /o/plain", "", ""),
        ("POST /o/plain", "Content-Type: text/plain\r\n", "a body"),
    ] {
        let reply = once.send(line, &format!("{lines}{more}"), body).await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (422, "idempotency-reused"),
            "{line} {body}"
        );
    }
    let key = once.world.key.reveal();
    let head =
        format!("POST /o/plain HTTP/1.1\r\nHost: other.example\r\nX-API-Key: {key}\r\n{lines}Content-Length: 6\r\n");
    let reply = once.world.send(&head, "a body").await;
    assert_eq!(reply.problem(), "idempotency-reused", "another host");
    assert_eq!(once.done(), 1);
    assert!(
        !replayed(&once.send("GET /o/plain", lines, "").await),
        "what changes nothing needs no key"
    );
    assert_eq!(once.done(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_insist_on_a_key() {
    let required = once("{\"required\": true}").await;
    let without = required.send("POST /o/plain", "", "a").await;
    assert_eq!(
        (without.status, without.problem().as_str()),
        (400, "idempotency-key-missing")
    );
    assert_eq!(required.send("DELETE /o/plain", "", "").await.status, 201);
    for bad in ["", "\"\"", &"x".repeat(256), "a\r\nIdempotency-Key: b"] {
        assert_eq!(required.post("/o/plain", bad).await.problem(), "bad-request", "{bad}");
    }
    let large = "x".repeat(60 << 10);
    let fits = required
        .send("POST /o/plain", "Idempotency-Key: large\r\n", &large)
        .await;
    assert_eq!(fits.status, 201);
    assert!(required.upstream.last().ends_with(&large));
    let optional = once("{}").await;
    assert_eq!(optional.send("POST /o/plain", "", "a").await.status, 201);
    assert_eq!(optional.send("POST /o/plain", "", "a").await.body, b"#2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_may_be_done_again() {
    let plain = once("{}").await;
    for (path, status) in [("/o/failed", 500), ("/o/later", 503), ("/o/broken", 502)] {
        let before = plain.done();
        for _ in 0..2 {
            let reply = plain.post(path, path).await;
            assert_eq!((reply.status, replayed(&reply)), (status, false), "{path}");
        }
        assert_eq!(plain.done() - before, 2, "{path}");
    }
    let keeping = once("{\"keep_failures\": true}").await;
    for (path, kept) in [("/o/failed", true), ("/o/later", false), ("/o/broken", false)] {
        let _ = keeping.post(path, path).await;
        assert_eq!(replayed(&keeping.post(path, path).await), kept, "{path}");
    }
}

/// It was done, and is not done twice; nobody is told that it was not.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_kept_is_not_replaced_by_doing_it_again() {
    let once = once("{\"max_answer_bytes\": 50000}").await;
    for (path, status, ends_with) in [
        ("/o/large", 201, "xxx"),
        ("/o/long", 201, "\r\n2\r\n#2\r\n0\r\n\r\n"),
        ("/o/half", 201, "#3"),
    ] {
        let first = once.post(path, path).await;
        let text = String::from_utf8_lossy(&first.body).into_owned();
        assert!(first.status == status || path == "/o/half", "{path}");
        assert!(text.ends_with(ends_with) || path == "/o/half", "{path}");
        let again = once.post(path, path).await;
        assert_eq!(
            (again.status, again.problem().as_str()),
            (409, "idempotency-lost"),
            "{path}"
        );
    }
    assert_eq!(once.done(), 3);
}

/// A caller who asks for a format out of which nothing can be left gets no answer, and neither a second try nor a free
/// one.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_passed_on_was_given_all_the_same() {
    let upstream = Scripted::start(|request| {
        let kind = if has_line(request, "accept: text/csv") {
            "text/csv"
        } else {
            "application/json"
        };
        let body = if has_line(request, "accept: x/broken") {
            "{]"
        } else {
            "{}"
        };
        whole("201 Created", &format!("Content-Type: {kind}\r\n"), body)
    })
    .await;
    let policy = r#"{"idempotency": {}, "gates": [{"feature": "history", "response_fields": ["history"]}]}"#;
    let world = upstream.world(&[("once", "/o/{*rest}", policy)]).await;
    let once = Once { world, upstream };
    let cases = [
        ("text/csv", 406, "format-refused"),
        ("x/broken", 502, "upstream-broken"),
    ];
    for (accept, status, problem) in cases {
        let lines = format!("Idempotency-Key: {accept}\r\nAccept: {accept}\r\n");
        let first = once.send("POST /o/a", &lines, "a body").await;
        assert_eq!((first.status, first.problem().as_str()), (status, problem));
        assert!(first.header("ratelimit").is_some(), "{first:?}");
        let again = once.send("POST /o/a", &lines, "a body").await;
        assert_eq!((again.status, again.problem().as_str()), (409, "idempotency-lost"));
    }
    assert_eq!(once.done(), 2);
    let rows = once.world.shipped().await;
    let units: Vec<_> = rows.iter().map(|r| (r.status, r.units)).collect();
    assert_eq!(units, [(406, 1), (409, 0), (502, 1), (409, 0)]);
}

/// What cannot be written down is not answered, and neither is a repeat, which would be free.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_not_recorded_is_not_given_to_a_repeat() {
    // Records in a segment of the ledger.
    const SEGMENT: usize = 64;
    let once = once("{}").await;
    let (ledger, away) = (once.world.folder.0.join("ledger"), once.world.folder.0.join("away"));
    // There is no place for a second segment.
    std::fs::rename(&ledger, &away).unwrap();
    for n in 0..SEGMENT {
        assert_eq!(once.post("/o/plain", &n.to_string()).await.status, 201, "{n}");
    }
    let last = once.post("/o/plain", "last").await;
    assert_eq!((last.status, last.problem().as_str()), (503, "ledger-unavailable"));
    assert_eq!(once.done(), SEGMENT + 1);
    std::fs::rename(&away, &ledger).unwrap();
    let mut again = once.post("/o/plain", "last").await;
    for _ in 0..1_000 {
        if again.status != 503 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        again = once.post("/o/plain", "last").await;
    }
    assert_eq!((again.status, again.problem().as_str()), (409, "idempotency-lost"));
    assert_eq!(once.done(), SEGMENT + 1);
}

/// Keys that cost nothing (422 does not count) take memory all the same: of who uses them.
#[tokio::test(flavor = "multi_thread")]
async fn who_floods_with_keys_pushes_out_nobody_else() {
    let mut once = once("{}").await;
    let id = ConsumerId::from_bits(3 << 80);
    let other = PlainKey::generate("tp", Environment::Live, &*once.world.random);
    once.world.plane.put_entitlement(entitlement(id));
    once.world.plane.put_key(key_record(&other, id));
    once.world.stop().await;
    let mut config = config(&once.world.folder.0);
    config.limits.idempotency_bytes = 64 << 10;
    once.world.start_with(config);
    once.world.synced().await;
    let others = async |once: &Once, n: usize| {
        let lines = format!("Idempotency-Key: {n}\r\n");
        let head = once.head(&other, "POST /o/plain", &lines, "a body");
        once.world.send(&head, "a body").await
    };
    let first = others(&once, 0).await;
    assert_eq!(first.status, 201);
    let mut refused = 0;
    for n in 0..400 {
        let reply = once.post("/o/refused", &format!("flood-{n}")).await;
        if reply.status == 503 {
            assert_eq!(reply.problem(), "overloaded");
            assert_eq!(reply.header("retry-after"), Some("60"));
            refused += 1;
        } else {
            assert_eq!(reply.status, 422);
        }
    }
    assert!((100..300).contains(&refused), "{refused}");
    let again = others(&once, 0).await;
    assert!(replayed(&again) && again.body == first.body, "{again:?}");
    for n in 1..20 {
        assert_eq!(others(&once, n).await.status, 201, "{n}");
    }
    let before = once.done();
    for n in 0..400 {
        let status = once.post("/o/refused", &format!("flood-{n}")).await.status;
        assert!(matches!(status, 422 | 409 | 503), "{n}: {status}");
    }
    assert_eq!(once.done(), before, "what was done is not done again");
    once.world.clock.advance(86_400_001);
    assert_eq!(
        once.post("/o/plain", "new").await.status,
        201,
        "a day later there is room"
    );
}

/// It may be at it still.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_upstream_did_not_answer_in_time_is_not_done_again() {
    let (upstream, gate) = gated_upstream().await;
    let routes = [("once", "/o/{*rest}", r#"{"idempotency": {}}"#)];
    let world = upstream.world_with(&routes, |u| u.first_byte_timeout_ms = 100).await;
    let once = Once { world, upstream };
    let first = once.post("/o/a", "one").await;
    assert_eq!((first.status, first.problem().as_str()), (504, "upstream-timeout"));
    let again = once.post("/o/a", "one").await;
    assert_eq!((again.status, again.problem().as_str()), (409, "idempotency-lost"));
    until(|| once.done() > 0).await;
    gate.store(10, Ordering::SeqCst);
    assert_eq!(once.done(), 1);
    assert!(once.world.shipped().await.iter().all(|r| r.units == 0));
}

/// An upstream that answers each request only when it is let.
async fn gated_upstream() -> (Scripted, Arc<AtomicUsize>) {
    let gate = Arc::new(AtomicUsize::new(0));
    let (seen, open) = (AtomicUsize::new(0), Arc::clone(&gate));
    let upstream = Scripted::start(move |_| {
        let n = seen.fetch_add(1, Ordering::SeqCst);
        tokio::task::block_in_place(|| {
            for _ in 0..5_000 {
                if open.load(Ordering::SeqCst) > n {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        whole("201 Created", "", &format!("#{n}"))
    })
    .await;
    (upstream, gate)
}

/// What it answers is kept.
async fn gated() -> (Once, Arc<AtomicUsize>) {
    let (upstream, gate) = gated_upstream().await;
    (Once::behind(upstream, "{}").await, gate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_repeat_while_the_first_is_under_way_is_told_to_wait() {
    let (once, gate) = gated().await;
    let head = once.head(
        &once.world.key,
        "POST /o/a",
        "Idempotency-Key: one\r\nConnection: close\r\n",
        "a body",
    );
    let (addr, text) = (once.world.addr, format!("{head}\r\na body"));
    let first = tokio::spawn(async move { Reply::parse(&raw(addr, text.as_bytes()).await) });
    until(|| once.done() == 1).await;
    let busy = once.post("/o/a", "one").await;
    assert_eq!((busy.status, busy.problem().as_str()), (409, "idempotency-busy"));
    assert_eq!(busy.header("retry-after"), Some("1"));
    gate.store(1, Ordering::SeqCst);
    assert_eq!(first.await.unwrap().body, b"#0");
    let again = once.post("/o/a", "one").await;
    assert!(replayed(&again) && again.body == b"#0");
    assert_eq!(once.done(), 1);
}

/// The reason to repeat at all: the answer did not arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_goes_away_finds_what_it_asked_for_done() {
    let (once, gate) = gated().await;
    let head = once.head(&once.world.key, "POST /o/a", "Idempotency-Key: one\r\n", "a body");
    let mut stream = TcpStream::connect(once.world.addr).await.unwrap();
    stream.write_all(format!("{head}\r\na body").as_bytes()).await.unwrap();
    until(|| once.done() == 1).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        once.post("/o/a", "one").await.problem(),
        "idempotency-busy",
        "it goes on"
    );
    gate.store(10, Ordering::SeqCst);
    for _ in 0..1_000 {
        let reply = once.post("/o/a", "one").await;
        if reply.status == 201 {
            assert!(replayed(&reply) && reply.body == b"#0");
            assert_eq!(once.done(), 1);
            let rows = once.world.shipped().await;
            assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), 1, "it is billed once");
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("its answer never came");
}

/// A gateway that stops waits for it as for a client's own request.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_goes_on_without_its_client_is_finished_before_the_gateway_ends() {
    let (mut once, gate) = gated().await;
    let head = once.head(&once.world.key, "POST /o/a", "Idempotency-Key: one\r\n", "a body");
    let mut stream = TcpStream::connect(once.world.addr).await.unwrap();
    stream.write_all(format!("{head}\r\na body").as_bytes()).await.unwrap();
    until(|| once.done() == 1).await;
    drop(stream);
    let gateway = once.world.gateway.take().unwrap();
    let ending = tokio::spawn(gateway.shutdown(Duration::from_secs(30)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!ending.is_finished());
    gate.store(1, Ordering::SeqCst);
    ending.await.unwrap();
    let rows = once.world.plane.rows();
    assert_eq!(rows.iter().map(|r| (r.status, r.units)).collect::<Vec<_>>(), [(201, 1)]);
}

/// An upstream behind terms that leave room for one call, which is made.
async fn used_up(terms: impl FnOnce(&mut Entitlement), limits: Option<KeyLimits>) -> Once {
    let once = once("{}").await;
    let (plane, consumer) = (&once.world.plane, once.world.consumer);
    plane.edit_entitlement(consumer, terms);
    plane.edit_key(once.world.key.lookup().0, |k| k.limits = limits);
    once.world.synced().await;
    assert_eq!(once.post("/o/plain", "one").await.status, 201);
    once
}

/// Repeats, but nothing else, are answered where a limit of units or money refuses the call.
async fn gives_repeats_alone(once: &Once, refusal: &str) {
    for _ in 0..3 {
        let again = once.post("/o/plain", "one").await;
        assert_eq!((again.status, replayed(&again)), (201, true), "{refusal}");
    }
    assert_eq!(once.post("/o/plain", "two").await.problem(), refusal);
    assert_eq!(once.send("POST /o/plain", "", "a body").await.problem(), refusal);
    assert_eq!(once.post("/p/plain", "one").await.problem(), refusal, "another route's");
    let other = once.send("POST /o/plain", "Idempotency-Key: one\r\n", "another").await;
    assert_eq!(other.problem(), "idempotency-reused");
    assert_eq!(once.done(), 1, "{refusal}");
    let rows = once.world.shipped().await;
    assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), 1, "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_needs_no_room_in_quota_cap_and_key_limits() {
    let quota = |e: &mut Entitlement| e.meters = vec![meter(1, 1, None)];
    let cap = |e: &mut Entitlement| {
        e.meters = vec![meter(1, 0, Some("2"))];
        e.spend_cap_minor = Some(3);
    };
    let of_key = KeyLimits {
        root: None,
        quota: Some(1),
        budget_minor: None,
        period_start: Time::from_unix_ms(START_MS),
        used: Vec::new(),
    };
    gives_repeats_alone(&used_up(quota, None).await, "quota-exceeded").await;
    gives_repeats_alone(&used_up(|_| {}, Some(of_key)).await, "key-quota-reached").await;
    let once = used_up(cap, None).await;
    gives_repeats_alone(&once, "spend-cap-reached").await;
    let again = once.post("/o/plain", "one").await;
    assert_eq!(again.header("turnpike-cost"), Some("\"0.00\";currency=usd"));
    // What was refused has claimed nothing.
    once.world
        .plane
        .edit_entitlement(once.world.consumer, |e| e.spend_cap_minor = None);
    once.world.synced().await;
    let first = once.post("/o/plain", "two").await;
    assert_eq!((first.status, replayed(&first), once.done()), (201, false, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_past_the_quota_passes_nothing_else() {
    let once = used_up(|e| e.meters = vec![meter(1, 1, None)], None).await;
    let (plane, consumer) = (&once.world.plane, once.world.consumer);
    let again = async || {
        once.world.synced().await;
        let reply = once.post("/o/plain", "one").await;
        assert!(!replayed(&reply) && once.done() == 1);
        reply.problem()
    };
    plane.edit_entitlement(consumer, |e| {
        e.rate_limit = RateLimit {
            per_second: 1,
            burst: 1,
        };
    });
    once.world.synced().await;
    once.world.clock.advance(60_000);
    assert!(replayed(&once.post("/o/plain", "one").await));
    assert_eq!(again().await, "rate-limited");
    once.world.clock.advance(60_000);
    plane.edit_entitlement(consumer, |e| e.suspended = Some(Suspension::Payment));
    assert_eq!(again().await, "payment-required");
    plane.edit_entitlement(consumer, |e| e.suspended = None);
    plane.edit_key(once.world.key.lookup().0, |k| k.routes = Some(vec![1]));
    assert_eq!(again().await, "insufficient-scope");
    plane.edit_key(once.world.key.lookup().0, |k| k.revoked = true);
    assert_eq!(again().await, "key-revoked");
}
