//! What explain says of a request is what the gateway then answers to it, refusal by refusal.

use crate::support::*;
use gateway::{Explanation, Question};
use model::access::{Environment, Suspension};
use model::catalogue::RateLimit;
use model::key::PlainKey;
use model::snapshot::{Entitlement, KeyLimits, KeyRecord, RouteRecord};
use model::{ConsumerId, KeyId, Time};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Routes beside those of all tests: slug, path, policy.
const ROUTES: [(&str, &str, &str); 9] = [
    ("inside", "/inside", r#"{"deny_addresses": ["127.0.0.0/8"]}"#),
    ("done", "/done", r#"{"idempotency": {"required": true}}"#),
    (
        "open",
        "/open",
        r#"{"cors": {"origins": ["https://app.example"]}, "websocket": true}"#,
    ),
    ("small", "/small", r#"{"max_request_bytes": 10}"#),
    (
        "gated",
        "/gated",
        r#"{"gates": [{"feature": "history", "methods": ["DELETE"]}, {"feature": "history", "query": "expand"},
            {"feature": "history", "request_fields": ["since"]}]}"#,
    ),
    (
        "limited",
        "/limited",
        r#"{"limits": [{"name": "shared", "by": ["route"], "requests": 1, "per": "day"}]}"#,
    ),
    ("narrow", "/narrow/{*rest}", r#"{"concurrency": 1}"#),
    (
        "kept",
        "/kept",
        r#"{"cache": {"shared_by": "consumer", "default_ttl_s": 60}}"#,
    ),
    ("cut-off", "/cut-off", "{}"),
];
const PREFLIGHT: &str = "Origin: https://app.example\nAccess-Control-Request-Method: GET";
const HANDSHAKE: &str =
    "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

struct Shop {
    world: World,
    made: u128,
}

impl Shop {
    async fn new() -> Self {
        let world = World::new().await;
        let mut routing = routing(world.upstream.addr);
        // With a breaker of its own a single target is cut off whole.
        let breaker = r#"{"breaker": {"consecutive_failures": 1, "open_ms": 600000, "max_open_ms": 600000}}"#;
        let mut cut_off = routing.upstreams[1].clone();
        (cut_off.number, cut_off.slug) = (9, "cut-off".to_owned());
        cut_off.policy = serde_json::from_str(breaker).unwrap();
        routing.upstreams.push(cut_off);
        for (number, (slug, path, policy)) in (100..).zip(ROUTES) {
            routing.routes.push(RouteRecord {
                number,
                slug: slug.to_owned(),
                path: path.to_owned(),
                upstream: if slug == "cut-off" { 9 } else { 1 },
                policy: serde_json::from_str(policy).unwrap(),
                ..routing.routes[0].clone()
            });
        }
        world.plane.put_routing(routing);
        world.synced().await;
        Self { world, made: 1 }
    }

    /// The key of another consumer, with other terms.
    async fn consumer(&mut self, change: impl FnOnce(&mut Entitlement)) -> PlainKey {
        self.key(change, |_| {}).await
    }

    async fn key(&mut self, change: impl FnOnce(&mut Entitlement), of_key: impl FnOnce(&mut KeyRecord)) -> PlainKey {
        self.made += 1;
        let consumer = ConsumerId::from_bits(self.made << 80);
        let key = PlainKey::generate("tp", Environment::Live, &*self.world.random);
        let mut told = entitlement(consumer);
        change(&mut told);
        let mut record = key_record(&key, consumer);
        of_key(&mut record);
        self.world.plane.put_entitlement(told);
        self.world.plane.put_key(record);
        self.world.synced().await;
        key
    }

    fn ask(&self, line: &str, headers: &str, key: Option<KeyId>) -> Explanation {
        let (method, url) = line.split_once(' ').unwrap();
        let headers = headers.lines().map(|l| l.split_once(": ").unwrap());
        let question = Question {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: headers.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            key,
            client: None,
        };
        self.world.gateway.as_ref().unwrap().explain(&question).unwrap()
    }

    /// Asks by the key's id and by its text, sends the request, and compares what it meets. A body is sent when its length
    /// is said.
    async fn meets(&self, key: Option<&PlainKey>, line: &str, headers: &str, wanted: Result<u16, &str>) {
        let with_key = match key {
            Some(key) => format!("{headers}\nX-API-Key: {}", key.reveal())
                .trim_start()
                .to_owned(),
            None => headers.to_owned(),
        };
        let mut said = vec![self.ask(line, &with_key, None)];
        if let Some(key) = key {
            said.push(self.ask(line, headers, Some(KeyId::from_bits(u128::from(key.lookup().0)))));
        }
        let mut head = format!("{line} HTTP/1.1\r\nHost: a\r\n");
        for header in with_key.lines() {
            head.push_str(&format!("{header}\r\n"));
        }
        let length = headers.lines().find_map(|l| l.strip_prefix("Content-Length: "));
        let body = "x".repeat(length.map_or(0, |l| l.parse().unwrap()));
        let got = self.world.send(&head, &body).await;
        let refusal = (got.header("content-type") == Some("application/problem+json")).then(|| got.problem());
        let met = refusal.as_deref().map_or(Ok(got.status), Err);
        assert_eq!(met, wanted, "{line} {headers}: {got:?}");
        for said in said {
            assert_eq!(said.refusal, refusal, "{line} {headers}: {said:#?}");
            assert_eq!(said.status.unwrap_or(200), got.status, "{line} {headers}: {said:#?}");
            assert_eq!(
                said.status.is_none(),
                said.decisions.iter().any(|d| d.phase == "forward") && wanted == Ok(200) && !headers.contains("Quote"),
                "{line} {headers}: forwarded or not: {said:#?}"
            );
        }
    }

    /// Holds an event stream open.
    async fn hold(&self, key: &PlainKey, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.world.addr).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n", key.reveal());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200");
        stream
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_itself_decides() {
    let shop = Shop::new().await;
    let key = shop.world.key.clone();
    for (line, headers, wanted) in [
        ("GET /v1/ok", "", Ok(200)),
        ("GET /nothing", "", Err("no-route")),
        ("DELETE /heavy", "", Err("method-not-allowed")),
        ("GET /v1/%2e%2e/x", "", Err("bad-request")),
        ("GET /export", "", Err("feature-missing")),
        ("GET /inside", "", Err("address-refused")),
        ("GET /open", "Upgrade: h2c\nConnection: Upgrade", Err("bad-request")),
        ("GET /v1/ok", HANDSHAKE, Err("upgrade-unsupported")),
        ("GET /nothing", HANDSHAKE, Err("upgrade-unsupported")),
        ("POST /open", HANDSHAKE, Err("bad-request")),
        ("POST /done", "", Err("idempotency-key-missing")),
        ("POST /done", "Idempotency-Key: \"\"", Err("bad-request")),
        ("POST /done", "Idempotency-Key: a", Ok(200)),
        ("GET /done", "", Ok(200)),
        ("POST /small", "Content-Length: 10", Ok(200)),
        ("POST /small", "Content-Length: 11", Err("body-too-large")),
        ("POST /v1/ok", "Content-Length: 65537", Err("body-too-large")),
        ("GET /gated", "", Ok(200)),
        ("DELETE /gated", "", Err("feature-missing")),
        ("GET /gated?expand=a", "", Err("feature-missing")),
        (
            "POST /gated",
            "Content-Length: 2\nContent-Encoding: gzip",
            Err("body-encoded"),
        ),
        ("GET /limited", "", Ok(200)),
        ("GET /limited", "", Err("rate-limited")),
        ("GET /kept", "", Ok(200)),
        ("GET /v1/ok", "Turnpike-Quote: ?1", Ok(200)),
        ("GET /export", "Turnpike-Quote: ?1", Ok(200)),
        ("GET /v1/ok", "Turnpike-Quote: yes", Err("bad-request")),
    ] {
        shop.meets(Some(&key), line, headers, wanted).await;
    }
    // The first failure shuts the only target out; it is met by none of the tries before.
    assert_eq!(shop.world.get("/cut-off").await.status, 502);
    shop.meets(Some(&key), "GET /cut-off", "", Err("upstream-unavailable"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_caller() {
    let shop = Shop::new().await;
    let elsewhere = "Origin: https://evil.example\nAccess-Control-Request-Method: GET";
    let other_method = "Origin: https://app.example\nAccess-Control-Request-Method: PATCH";
    for (line, headers, wanted) in [
        ("OPTIONS /open", PREFLIGHT, Ok(204)),
        ("OPTIONS /open", elsewhere, Err("origin-refused")),
        ("OPTIONS /open", other_method, Err("method-not-allowed")),
        ("OPTIONS /open", "", Err("method-not-allowed")),
        ("OPTIONS /v1/ok", PREFLIGHT, Err("method-not-allowed")),
        ("GET /.well-known/turnpike/jwks.json", "", Ok(200)),
        ("POST /.well-known/turnpike/jwks.json", "", Ok(405)),
        ("GET /v1/ok", "", Err("key-missing")),
        ("GET /v1/ok", "X-API-Key: nonsense", Err("key-unknown")),
        (
            "GET /v1/ok",
            "X-API-Key: nonsense\nAuthorization: Bearer nonsense",
            Err("two-credentials"),
        ),
        ("GET /v1/ok", "Authorization: Basic abc", Err("credential-misplaced")),
    ] {
        shop.meets(None, line, headers, wanted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_no_wrong_credentials() {
    let shop = Shop::new().await;
    for _ in 0..200 {
        let said = shop.ask("GET /v1/ok", "X-API-Key: nonsense", None);
        assert_eq!(said.refusal.as_deref(), Some("key-unknown"));
    }
    for wanted in std::iter::repeat_n("key-unknown", 60).chain(["too-many-failures"; 2]) {
        shop.meets(None, "GET /v1/ok", "X-API-Key: nonsense", Err(wanted)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_and_its_account_decide() {
    let mut shop = Shop::new().await;
    for (suspension, slug) in [
        (Suspension::Payment, "payment-required"),
        (Suspension::Provider, "suspended"),
        (Suspension::NoPlan, "no-plan"),
    ] {
        let key = shop.consumer(|e| e.suspended = Some(suspension)).await;
        shop.meets(Some(&key), "GET /v1/ok", "", Err(slug)).await;
    }
    let narrow = shop.key(|_| {}, |k| k.routes = Some(vec![2])).await;
    shop.meets(Some(&narrow), "GET /v1/ok", "", Err("insufficient-scope"))
        .await;
    shop.meets(Some(&narrow), "GET /heavy", "", Ok(200)).await;
    let revoked = shop.key(|_| {}, |k| k.revoked = true).await;
    shop.meets(Some(&revoked), "GET /v1/ok", "", Err("key-revoked")).await;
    let ended = Some(Time::from_unix_ms(START_MS));
    let expired = shop.key(|_| {}, |k| k.expires_at = ended).await;
    shop.meets(Some(&expired), "GET /v1/ok", "", Err("key-expired")).await;
    // The one refusal that comes first is the one that is said, whatever else would refuse.
    let both = shop
        .key(
            |e| e.suspended = Some(Suspension::Provider),
            |k| k.routes = Some(vec![2]),
        )
        .await;
    shop.meets(Some(&both), "GET /export", "", Err("suspended")).await;
}

/// What a key's owner sets.
fn limits(quota: Option<u64>, budget_minor: Option<i64>) -> Option<KeyLimits> {
    Some(KeyLimits {
        quota,
        budget_minor,
        period_start: Time::from_unix_ms(START_MS),
        used: Vec::new(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_limits_decide() {
    let mut shop = Shop::new().await;
    let rate = |e: &mut Entitlement| {
        e.rate_limit = RateLimit {
            per_second: 1,
            burst: 1,
        };
    };
    let named = |e: &mut Entitlement| {
        let rule = r#"{"name": "reads", "methods": ["GET"], "requests": 1, "per": "day"}"#;
        e.limits = vec![serde_json::from_str(rule).unwrap()];
    };
    let price = |e: &mut Entitlement| e.meters = vec![meter(1, 0, Some("2"))];
    let quota = |e: &mut Entitlement| e.meters = vec![meter(1, 1, None)];
    let cap = |e: &mut Entitlement| {
        e.meters = vec![meter(1, 0, Some("2"))];
        e.spend_cap_minor = Some(3);
    };
    let two_priced = |e: &mut Entitlement| {
        e.meters = vec![meter(1, 0, Some("2")), meter(2, 0, Some("2"))];
        e.spend_cap_minor = Some(3);
    };
    // Calls that pass, and what refuses the next.
    let first = shop.consumer(rate).await;
    for (passing, slug, key) in [
        (1, "rate-limited", first.clone()),
        (1, "rate-limited", shop.consumer(named).await),
        (1, "quota-exceeded", shop.consumer(quota).await),
        (1, "spend-cap-reached", shop.consumer(cap).await),
        (1, "spend-cap-reached", shop.consumer(two_priced).await),
        (
            2,
            "key-quota-reached",
            shop.key(price, |k| k.limits = limits(Some(2), None)).await,
        ),
        (
            0,
            "key-quota-reached",
            shop.key(price, |k| k.limits = limits(Some(0), None)).await,
        ),
        (
            2,
            "key-budget-reached",
            shop.key(price, |k| k.limits = limits(None, Some(5))).await,
        ),
        (
            0,
            "key-budget-reached",
            shop.key(price, |k| k.limits = limits(None, Some(1))).await,
        ),
        // The account's own ceiling comes before that of the key.
        (
            1,
            "quota-exceeded",
            shop.key(quota, |k| k.limits = limits(Some(1), None)).await,
        ),
    ] {
        for _ in 0..passing {
            shop.meets(Some(&key), "GET /v1/ok", "", Ok(200)).await;
        }
        for _ in 0..2 {
            shop.meets(Some(&key), "GET /v1/ok", "", Err(slug)).await;
        }
        // The price is told whatever would refuse the call, but by the overall rate limit.
        let overall = key.lookup() == first.lookup();
        let quote = if overall { Err(slug) } else { Ok(200) };
        shop.meets(Some(&key), "GET /v1/ok", "Turnpike-Quote: ?1", quote).await;
    }
}

/// What another period used up is no matter of this one.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_period_begins_for_both() {
    let mut shop = Shop::new().await;
    let key = shop.key(|_| {}, |k| k.limits = limits(Some(1), None)).await;
    shop.meets(Some(&key), "GET /v1/ok", "", Ok(200)).await;
    shop.meets(Some(&key), "GET /v1/ok", "", Err("key-quota-reached")).await;
    shop.world.clock.advance(30 * DAY_MS);
    shop.meets(Some(&key), "GET /v1/ok", "", Ok(200)).await;
    shop.meets(Some(&key), "GET /v1/ok", "", Err("key-quota-reached")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_in_flight_decide() {
    let mut shop = Shop::new().await;
    let alone = shop.consumer(|e| e.concurrency = Some(1)).await;
    let held = shop.hold(&alone, "/v1/sse").await;
    shop.meets(Some(&alone), "GET /v1/ok", "", Err("too-many-at-once"))
        .await;
    let other = shop.world.key.clone();
    shop.meets(Some(&other), "GET /narrow/ok", "", Ok(200)).await;
    let narrow = shop.hold(&other, "/narrow/sse").await;
    shop.meets(Some(&other), "GET /narrow/ok", "", Err("route-busy")).await;
    drop((held, narrow));
}
