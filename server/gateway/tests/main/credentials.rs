//! Keys at the border: where they may be, how many, and what a wrong one gets.

use crate::support::*;
use model::access::Environment;
use model::key::PlainKey;
use model::policy::AuthPolicy;
use model::snapshot::Entitlement;
use model::{ConsumerId, KeyId};
use std::sync::atomic::AtomicU64;

/// A world whose routes take what the policy says.
pub(crate) async fn world(policy: &str) -> World {
    let world = World::new().await;
    set_policy(&world, policy, |_| {}).await;
    world
}

/// Gives every route the policy; the routing table may be changed further.
pub(crate) async fn set_policy(world: &World, policy: &str, change: impl FnOnce(&mut model::snapshot::Routing)) {
    let policy: AuthPolicy = serde_json::from_str(policy).unwrap();
    let mut told = routing(world.upstream.addr);
    for route in &mut told.routes {
        route.policy.auth = policy.clone();
    }
    let mut stranger = entitlement(ConsumerId::ANONYMOUS);
    stranger.plan = "open".to_owned();
    stranger.features = vec!["search".to_owned()];
    stranger.rate_limit = model::catalogue::RateLimit {
        per_second: 1,
        burst: 2,
    };
    told.anonymous_plans = vec![stranger];
    change(&mut told);
    world.plane.put_routing(told);
    world.synced().await;
}

/// Asks for a path with these header lines, each ended.
pub(crate) async fn ask(world: &World, path: &str, lines: &str) -> Reply {
    world
        .send(&format!("GET {path} HTTP/1.1\r\nHost: api.example\r\n{lines}"), "")
        .await
}

fn told(reply: &Reply) -> (u16, String) {
    let slug = if reply.status < 400 {
        String::new()
    } else {
        reply.problem()
    };
    (reply.status, slug)
}

fn detail(reply: &Reply) -> String {
    let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    problem["detail"].as_str().unwrap().to_owned()
}

fn basic(key: &str, password: &str) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in format!("{key}:{password}").as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let six = usize::try_from(bits >> (18 - 6 * i) & 63).unwrap();
            out.push(if i <= chunk.len() {
                char::from(alphabet[six])
            } else {
                '='
            });
        }
    }
    format!("Authorization: Basic {out}\r\n")
}

/// T25: random keys of the right form are refused alike, and a client that goes on is told to wait; a right key from the
/// same address is let in all the while.
#[tokio::test(flavor = "multi_thread")]
async fn guessed_keys_are_refused_alike_and_then_slowed() {
    let world = World::new().await;
    let random = Seeded(AtomicU64::new(4_711));
    let mut bodies = std::collections::HashSet::new();
    let (mut unknown, mut slowed) = (0, 0);
    for _ in 0..100 {
        let key = PlainKey::generate("tp", Environment::Live, &random);
        let reply = ask(&world, "/v1/ok", &format!("X-API-Key: {}\r\n", key.reveal())).await;
        match told(&reply) {
            (401, slug) if slug == "key-unknown" => {
                unknown += 1;
                let instance = reply.header("x-request-id").unwrap().to_owned();
                bodies.insert(String::from_utf8(reply.body).unwrap().replace(&instance, ""));
            }
            (429, slug) if slug == "too-many-failures" => {
                slowed += 1;
                assert_eq!(reply.header("retry-after"), Some("1"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((unknown, slowed, bodies.len()), (60, 40, 1));
    assert_eq!(world.get("/v1/ok").await.status, 200);
    assert_eq!(told(&ask(&world, "/v1/ok", "").await), (401, "key-missing".to_owned()));
    world.clock.advance(2_000);
    let wrong = "X-API-Key: tp_live_nonsense\r\n";
    assert_eq!(ask(&world, "/v1/ok", wrong).await.status, 401);
    assert_eq!(ask(&world, "/v1/ok", wrong).await.status, 401);
    assert_eq!(ask(&world, "/v1/ok", wrong).await.status, 429);
    assert_eq!(world.upstream.requests().len(), 1);
}

/// T27: a key in the query, in a cookie, in the body or in Basic authentication is refused with the place where it
/// belongs, and the upstream sees nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_wrong_place_is_refused_and_the_right_one_named() {
    let world = World::new().await;
    let key = world.key.reveal();
    for (path, lines) in [
        (format!("/v1/ok?api_key={key}"), String::new()),
        (format!("/v1/ok?a=1&x={}", key.replace('_', "%5f")), String::new()),
        ("/v1/ok".to_owned(), format!("Cookie: a=b; key={key}\r\n")),
        ("/v1/ok".to_owned(), basic(key, "")),
    ] {
        let reply = ask(&world, &path, &lines).await;
        assert_eq!(told(&reply), (401, "credential-misplaced".to_owned()), "{path} {lines}");
        assert!(detail(&reply).contains("X-API-Key"), "{}", detail(&reply));
        assert!(!String::from_utf8_lossy(&reply.body).contains(key));
    }
    let body = format!("{{\"key\":\"{key}\"}}");
    let head = format!("POST /v1/ok HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n", body.len());
    let reply = world.send(&head, &body).await;
    assert_eq!(told(&reply), (401, "key-missing".to_owned()));
    assert!(detail(&reply).contains("X-API-Key"));
    assert!(world.upstream.requests().is_empty());
}

/// T27: switched on, a key in the query is taken out of it, and of the address of the page before.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_query_works_where_switched_on_and_goes_no_further() {
    let world = world(r#"{"query": "api_key"}"#).await;
    let key = world.key.reveal().to_owned();
    for (query, forwarded) in [
        (format!("?api_key={key}"), ""),
        (format!("?a=%20b&&api_key={key}&c=1&c=2"), "?a=%20b&&c=1&c=2"),
        (format!("?api%5Fkey={}", key.replace('_', "%5F")), ""),
    ] {
        let referer = format!("Referer: https://a.example/p{query}\r\n");
        let reply = ask(&world, &format!("/v1/ok{query}"), &referer).await;
        assert_eq!(reply.status, 200, "{query}");
        let seen = world.upstream.last();
        assert!(
            seen.starts_with(&format!("GET /v1/ok{forwarded} HTTP/1.1\r\n")),
            "{seen}"
        );
    }
    let all = world.upstream.requests().concat();
    assert!(!all.contains(&key) && !all.contains(&key.replace('_', "%5F")), "{all}");
    for query in [
        format!("?api_key={key}&api_key={key}"),
        format!("?api_key={key}&api%5fkey=x"),
    ] {
        let reply = ask(&world, &format!("/v1/ok{query}"), "").await;
        assert_eq!(told(&reply), (400, "two-credentials".to_owned()));
    }
    let reply = ask(&world, &format!("/v1/ok?api_key={key}x"), "").await;
    assert_eq!(told(&reply), (401, "key-unknown".to_owned()));
    assert!(!String::from_utf8_lossy(&reply.body).contains(&key));
}

/// The key as the user name of Basic authentication, as with Stripe.
#[tokio::test(flavor = "multi_thread")]
async fn basic_authentication_takes_the_key_as_the_user_name() {
    let world = world(r#"{"accept": ["basic"]}"#).await;
    let key = world.key.reveal().to_owned();
    assert_eq!(ask(&world, "/v1/ok", &basic(&key, "")).await.status, 200);
    assert!(!world.upstream.last().to_ascii_lowercase().contains("authorization"));
    for (lines, slug) in [
        (basic(&key, "secret"), "key-unknown"),
        (basic("", &key), "key-unknown"),
        ("Authorization: Basic !!!\r\n".to_owned(), "key-unknown"),
        (format!("Authorization: Basic {}\r\n", "A".repeat(4_000)), "key-unknown"),
        (format!("Authorization: Bearer {key}\r\n"), "credential-misplaced"),
        ("Authorization: Digest a=b\r\n".to_owned(), "key-missing"),
        (format!("X-API-Key: {key}\r\n"), "key-missing"),
        (String::new(), "key-missing"),
    ] {
        let reply = ask(&world, "/v1/ok", &lines).await;
        assert_eq!(told(&reply), (401, slug.to_owned()), "{lines}");
        assert_eq!(
            reply.header("www-authenticate"),
            Some("Basic realm=\"api\", charset=\"UTF-8\"")
        );
        assert!(!String::from_utf8_lossy(&reply.body).contains(&key));
    }
    assert_eq!(world.upstream.requests().len(), 1);
}

/// T29: two credentials are refused, wherever they are and whatever they are; the first never wins.
#[tokio::test(flavor = "multi_thread")]
async fn two_credentials_are_refused_in_every_combination() {
    let policy = r#"{"accept": ["key", "jwt", "basic", "anonymous"], "anonymous_plan": "open",
                     "key_headers": ["x-api-key", "x-token"], "query": "key"}"#;
    let world = world(policy).await;
    let key = world.key.reveal().to_owned();
    let token = "eyJhbGciOiJub25lIn0.e30.";
    let places = [
        (String::new(), format!("X-API-Key: {key}\r\n")),
        (String::new(), format!("X-Token: {key}\r\n")),
        (String::new(), format!("Authorization: Bearer {key}\r\n")),
        (String::new(), format!("Authorization: Bearer {token}\r\n")),
        (String::new(), basic(&key, "")),
        (format!("key={key}"), String::new()),
        (String::new(), "X-API-Key: \r\n".to_owned()),
    ];
    for (i, first) in places.iter().enumerate() {
        for second in &places[i..] {
            let query = format!("{}&{}", first.0, second.0);
            let reply = ask(&world, &format!("/v1/ok?{query}"), &format!("{}{}", first.1, second.1)).await;
            assert_eq!(
                told(&reply),
                (400, "two-credentials".to_owned()),
                "{first:?} {second:?}"
            );
        }
    }
    assert!(world.upstream.requests().is_empty());
}

/// T30: a key is let in until it is revoked or its overlap ends, and then refused by every gateway.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_at_every_gateway() {
    let world = World::new().await;
    let mut second = World::new().await;
    second.stop().await;
    second.plane = std::sync::Arc::clone(&world.plane);
    second.folder = Folder::new();
    second.start();
    second.synced().await;
    let line = format!("X-API-Key: {}\r\n", world.key.reveal());
    for w in [&world, &second] {
        assert_eq!(ask(w, "/v1/ok", &line).await.status, 200);
    }
    world.plane.edit_key(world.key.lookup().0, |k| k.revoked = true);
    for w in [&world, &second] {
        w.synced().await;
        assert_eq!(told(&ask(w, "/v1/ok", &line).await), (401, "key-revoked".to_owned()));
    }
}

/// T31: a key of one environment is no key of the other, and a scope holds; neither is remembered as good.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_good_for_its_own_environment_and_routes() {
    let world = World::new().await;
    let live = world.key.reveal().to_owned();
    let head = live.replacen("_live_", "_test_", 1);
    let head = &head[..head.len() - 6];
    let forged = format!("{head}{}", checksum(head));
    assert!(model::key::parse(forged.as_bytes()).is_some());
    world.plane.edit_key(world.key.lookup().0, |k| k.routes = Some(vec![2]));
    world.synced().await;
    for _ in 0..2 {
        let reply = ask(&world, "/heavy", &format!("X-API-Key: {forged}\r\n")).await;
        assert_eq!(told(&reply), (401, "key-unknown".to_owned()));
        assert_eq!(told(&world.get("/v1/ok").await), (403, "insufficient-scope".to_owned()));
        assert_eq!(world.get("/heavy").await.status, 200);
    }
}

fn checksum(text: &str) -> String {
    let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut n = u64::from(model::key::crc32(text.as_bytes()));
    let mut out = vec![b'0'; 6];
    for c in out.iter_mut().rev() {
        *c = digits[usize::try_from(n % 62).unwrap()];
        n /= 62;
    }
    String::from_utf8(out).unwrap()
}

/// T32: scope and feature decide for every method alike; HEAD is GET.
#[tokio::test(flavor = "multi_thread")]
async fn scope_and_feature_hold_for_every_method() {
    let world = World::new().await;
    let lookup = world.key.lookup().0;
    let key = world.key.reveal().to_owned();
    for scope in [None, Some(vec![8, 9]), Some(vec![1])] {
        for features in [vec![], vec!["search".to_owned()]] {
            world.plane.edit_key(lookup, |k| k.routes = scope.clone());
            world
                .plane
                .edit_entitlement(world.consumer, |e| e.features = features.clone());
            world.synced().await;
            for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
                let head = format!("{method} /search/1 HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n");
                let status = world.send(&head, "").await.status;
                let scoped = scope.as_ref().is_some_and(|s| !s.contains(&8));
                // Only reading needs the feature here; OPTIONS has no route.
                let expected = match method {
                    "OPTIONS" => 405,
                    _ if scoped => 403,
                    "DELETE" => 200,
                    _ if features.is_empty() => 403,
                    _ => 200,
                };
                assert_eq!(status, expected, "{method} {scope:?} {features:?}");
            }
        }
    }
}

/// Which headers carry a key is the route's to say; what it does not read is the upstream's.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_names_its_own_headers() {
    let world = world(r#"{"key_headers": ["x-atlas-key"], "bearer": false}"#).await;
    let key = world.key.reveal().to_owned();
    let theirs = "Authorization: Bearer theirs\r\n";
    let reply = ask(&world, "/v1/ok", &format!("X-Atlas-Key: {key}\r\n{theirs}")).await;
    assert_eq!(reply.status, 200);
    let seen = world.upstream.last().to_ascii_lowercase();
    assert!(
        seen.contains("authorization: bearer theirs\r\n") && !seen.contains("x-atlas-key"),
        "{seen}"
    );
    assert!(!world.upstream.last().contains(&key));
    let reply = ask(&world, "/v1/ok", &format!("X-API-Key: {key}\r\n")).await;
    assert_eq!(told(&reply), (401, "key-missing".to_owned()));
    assert!(detail(&reply).contains("X-Atlas-Key"), "{}", detail(&reply));
}

/// Callers without a credential are on the plan that the route names: its features, its limits for each address, and a
/// record that bills nobody.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_let_in_where_the_route_says_so() {
    let policy = r#"{"accept": ["key", "anonymous"], "anonymous_plan": "open"}"#;
    let world = world(policy).await;
    let forged = "X-Consumer-Id: con_1\r\nX-Key-Id: key_1\r\nX-Plan: pro\r\n";
    let reply = ask(&world, "/v1/ok", forged).await;
    assert_eq!(reply.status, 200);
    let seen = world.upstream.last().to_ascii_lowercase();
    for line in [
        "x-consumer-id: anonymous\r\n",
        "x-plan: open\r\n",
        "x-features: search\r\n",
        "x-environment: live\r\n",
    ] {
        assert!(seen.contains(line), "{line} is not in {seen}");
    }
    assert!(!seen.contains("x-key-id"), "{seen}");
    assert_eq!(ask(&world, "/search/1", "").await.status, 200);
    let reply = ask(&world, "/v1/ok", "").await;
    assert_eq!(told(&reply), (429, "rate-limited".to_owned()));
    assert_eq!(
        world.get("/v1/ok").await.status,
        200,
        "a consumer from the same address has limits of its own"
    );
    world.clock.advance(2_000);
    assert_eq!(
        told(&ask(&world, "/export", "").await),
        (403, "feature-missing".to_owned())
    );
    let wrong = ask(&world, "/v1/ok", "X-API-Key: wrong\r\n").await;
    assert_eq!(
        told(&wrong),
        (401, "key-unknown".to_owned()),
        "a wrong key is never a stranger"
    );
    let rows = world.shipped().await;
    let theirs: Vec<_> = rows.iter().filter(|r| r.consumer == ConsumerId::ANONYMOUS).collect();
    assert_eq!(theirs.len(), 4);
    assert!(
        theirs
            .iter()
            .all(|r| r.key == KeyId::NONE && r.subscription.is_none() && r.plan_version.is_none())
    );
}

/// A new catalogue holds at once, and takes nothing back of what was used.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_follow_the_catalogue() {
    let policy = r#"{"accept": ["anonymous"], "anonymous_plan": "open"}"#;
    let world = world(policy).await;
    let with = |change: fn(&mut Entitlement)| {
        move |r: &mut model::snapshot::Routing| {
            for plan in &mut r.anonymous_plans {
                plan.meters = vec![meter(1, 2, None)];
                plan.rate_limit.burst = 100;
                change(plan);
            }
        }
    };
    set_policy(&world, policy, with(|_| {})).await;
    for status in [200, 200] {
        assert_eq!(ask(&world, "/v1/ok", "").await.status, status);
    }
    world.clock.advance(60_000);
    assert_eq!(
        told(&ask(&world, "/v1/ok", "").await),
        (429, "quota-exceeded".to_owned())
    );
    set_policy(&world, policy, with(|e| e.meters = vec![meter(1, 3, None)])).await;
    assert_eq!(ask(&world, "/v1/ok", "").await.status, 200);
    assert_eq!(
        told(&ask(&world, "/v1/ok", "").await),
        (429, "quota-exceeded".to_owned())
    );
    set_policy(&world, "{}", |_| {}).await;
    assert_eq!(told(&ask(&world, "/v1/ok", "").await), (401, "key-missing".to_owned()));
    set_policy(&world, policy, |r| r.anonymous_plans.clear()).await;
    assert_eq!(
        told(&ask(&world, "/v1/ok", "").await),
        (401, "key-missing".to_owned()),
        "an unknown plan lets nobody in"
    );
}

/// T28: a key that works, in every kind of answer and failure, is found nowhere but in the request.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_written_down_nowhere() {
    let mut world = world(r#"{"query": "api_key"}"#).await;
    let key = world.key.reveal().to_owned();
    let secret = &key[key.len() - 38..key.len() - 6];
    let mut said = Vec::new();
    for path in [
        "/v1/ok",
        "/nothing",
        "/v1/status/500",
        "/v1/close",
        "/other",
        "/slow/hang",
        "/v1/raw/garbage",
        "/export",
        "//",
    ] {
        for given in [
            format!("X-API-Key: {key}"),
            format!("Authorization: Bearer {key}"),
            format!("X-API-Key: {key}x"),
        ] {
            said.push(format!("{:?}", ask(&world, path, &format!("{given}\r\n")).await));
        }
        said.push(format!("{:?}", ask(&world, &format!("{path}?api_key={key}"), "").await));
    }
    said.push(world.gateway.as_ref().unwrap().metrics());
    said.push(format!("{:?}", world.shipped().await));
    said.push(world.upstream.requests().concat());
    world.stop().await;
    for file in walk(&world.folder.0) {
        said.push(String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned());
    }
    for text in said {
        assert!(!text.contains(secret), "{text}");
    }
    assert_eq!(secret.len(), 32);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries
        .flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] })
        .collect()
}

/// Each client address has the plan's limits for itself, those that count by key or route too.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_use_up_each_others_limits() {
    let mut world = World::new().await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    world.start_with(config);
    world.synced().await;
    let policy = r#"{"accept": ["anonymous"], "anonymous_plan": "open"}"#;
    for by in ["consumer", "key", "route"] {
        set_policy(&world, policy, |routing| {
            let rule = format!("{{\"name\": \"few-{by}\", \"by\": [\"{by}\"], \"requests\": 2, \"per\": \"hour\"}}");
            for plan in &mut routing.anonymous_plans {
                plan.rate_limit.burst = 100;
                plan.limits = vec![serde_json::from_str(&rule).unwrap()];
            }
        })
        .await;
        for address in ["203.0.113.1", "203.0.113.2", "2001:db8::1"] {
            let line = format!("X-Forwarded-For: {address}\r\n");
            for status in [200, 200, 429] {
                assert_eq!(ask(&world, "/v1/ok", &line).await.status, status, "{by} {address}");
            }
        }
        let neighbour = "X-Forwarded-For: 2001:db8::2\r\n";
        assert_eq!(
            ask(&world, "/v1/ok", neighbour).await.status,
            429,
            "64 bits are one client's"
        );
    }
}
