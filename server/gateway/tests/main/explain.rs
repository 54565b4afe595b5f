//! What would become of a request: true to what becomes of it, without a trace.

use crate::routing::with_routes;
use crate::support::*;
use gateway::{Explanation, Question, Verdict};
use model::KeyId;

fn key_id(world: &World) -> KeyId {
    KeyId::from_bits(u128::from(world.key.lookup().0))
}

fn ask(world: &World, method: &str, url: &str, headers: &[(&str, &str)]) -> Explanation {
    let question = Question {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: headers
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        key: Some(key_id(world)),
        client: None,
    };
    world.gateway.as_ref().unwrap().explain(&question).unwrap()
}

fn detail<'a>(explanation: &'a Explanation, about: &str) -> &'a str {
    let found = explanation.decisions.iter().find(|d| d.about == about);
    &found.unwrap_or_else(|| panic!("no {about} in {explanation:#?}")).detail
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_the_request_then_meets() {
    let world = World::with(|e| {
        e.rate_limit.burst = 4;
        e.meters[0].terms.included = 7;
    })
    .await;
    for (method, url, status) in [
        ("GET", "/v1/ok", 200),
        ("GET", "/nothing", 404),
        ("DELETE", "/heavy", 405),
        ("GET", "/export", 403),
        ("GET", "/v1/%2e%2e/x", 400),
        ("GET", "/heavy", 200),
        ("GET", "/heavy", 429),
        ("GET", "/v1/ok", 200),
        ("GET", "/v1/ok", 429),
    ] {
        for _ in 0..3 {
            let said = ask(&world, method, url, &[]);
            assert_eq!(said.status.unwrap_or(200), status, "{url} {said:#?}");
        }
        let head = format!(
            "{method} {url} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n",
            world.key.reveal()
        );
        let got = world.send(&head, "").await;
        assert_eq!(got.status, status, "{url}");
        let said = ask(&world, method, url, &[]);
        assert!(status == 200 || said.refusal == Some(got.problem()), "{url} {said:#?}");
    }
    assert_eq!(world.upstream.requests().len(), 3, "questions reach no upstream");
    assert_eq!(world.shipped().await.len(), 6, "and no ledger");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_through_all_phases_and_says_no_secret() {
    let policy = r#"{"rewrite": {"path": "/inner/{id}"}, "match_headers": {"x-kind": "*"},
        "request_headers": {"set": {"authorization": "Basic c2VjcmV0"}, "remove": ["x-gone"]}}"#;
    let world = with_routes(vec![("inner", "/outer/{id}", policy)]).await;
    let headers = [
        ("x-kind", "a"),
        ("x-gone", "1"),
        ("x-plan", "forged"),
        ("x-api-key", world.key.reveal()),
        ("accept", "*/*"),
    ];
    let said = ask(&world, "GET", "https://api.example/outer/7?q=1", &headers);
    assert_eq!((&said.refusal, said.live), (&None, true));
    let mut phases: Vec<&str> = said.decisions.iter().map(|d| d.phase.as_str()).collect();
    phases.dedup();
    assert_eq!(phases, ["route", "authenticate", "admit", "forward", "record"]);
    for (about, wanted) in [
        ("route", "inner takes"),
        ("caller", "con_"),
        ("plan", "pro"),
        ("rate limit rate", "9999 left"),
        ("quota and spend cap", "0 units taken of a hard quota of 1000000"),
        ("upstream", "main"),
        ("target 0", "circuit closed"),
        ("path", "/outer/7?q=1 becomes /inner/7?q=1"),
        ("headers added", "x-plan: pro"),
        ("headers not passed on", "x-plan"),
        ("headers passed on", "accept"),
        ("headers set by the route", "authorization"),
        ("meter", "1 units of meter-1"),
    ] {
        assert!(detail(&said, about).contains(wanted), "{about}: {said:#?}");
    }
    let text = serde_json::to_string(&said).unwrap();
    assert!(
        !text.contains(world.key.reveal()) && !text.contains("c2VjcmV0"),
        "{text}"
    );
    let other = ask(&world, "GET", "/outer/7", &[]);
    assert_eq!(other.refusal.as_deref(), Some("no-route"));
    assert!(detail(&other, "route inner").contains("headers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_do_not_work_are_told_apart() {
    let world = World::new().await;
    let question = |key| Question {
        method: "GET".to_owned(),
        url: "/v1/ok".to_owned(),
        headers: Vec::new(),
        key,
        client: None,
    };
    let gateway = world.gateway.as_ref().unwrap();
    assert!(gateway.explain(&question(Some(KeyId::from_bits(5)))).is_err());
    assert_eq!(
        gateway.explain(&question(None)).unwrap().refusal.as_deref(),
        Some("key-missing")
    );
    world.plane.edit_key(world.key.lookup().0, |k| k.routes = Some(vec![2]));
    world.synced().await;
    let said = ask(&world, "GET", "/v1/ok", &[]);
    assert_eq!(said.refusal.as_deref(), Some("insufficient-scope"));
    let refused = said.decisions.iter().filter(|d| d.verdict == Verdict::Refuses).count();
    assert!(
        refused == 1 && said.decisions.last().unwrap().phase == "record",
        "it goes on behind a refusal"
    );
    world.plane.edit_key(world.key.lookup().0, |k| k.revoked = true);
    world.synced().await;
    assert_eq!(
        ask(&world, "GET", "/v1/ok", &[]).refusal.as_deref(),
        Some("key-revoked")
    );
}
