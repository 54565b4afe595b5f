//! The token by which an upstream is told who is calling.

use super::*;
use crate::credentials;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use model::policy::IdentityForm;

const JWKS: &str = "/.well-known/turnpike/jwks.json";

async fn identifying() -> World {
    let world = World::new().await;
    let policy = r#"{"accept": ["key", "anonymous"], "anonymous_plan": "open"}"#;
    set_policy(&world, policy, |routing| {
        for upstream in &mut routing.upstreams {
            upstream.policy.identity = IdentityForm::Jwt;
        }
    })
    .await;
    world
}

/// The token that the upstream saw last.
fn seen(world: &World) -> String {
    let head = world.upstream.last();
    let line = head.lines().find_map(|l| {
        l.to_ascii_lowercase()
            .starts_with("x-identity-token: ")
            .then(|| l.to_owned())
    });
    line.unwrap_or_else(|| panic!("no token in {head}"))[18..].to_owned()
}

/// As an upstream would: keys by name from the gateway, then signature, issuer, audience and end.
async fn checked(world: &World, token: &str) -> Value {
    let reply = world.send(&format!("GET {JWKS} HTTP/1.1\r\nHost: a\r\n"), "").await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some("application/jwk-set+json"))
    );
    let set: JwkSet = serde_json::from_slice(&reply.body).unwrap();
    let header = decode_header(token).unwrap();
    let key = DecodingKey::from_jwk(set.find(&header.kid.unwrap()).unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["main"]);
    validation.set_issuer(&["https://gateway.example"]);
    // The world's clock is not the machine's.
    validation.validate_exp = false;
    decode::<Value>(token, &key, &validation).unwrap().claims
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_can_check_who_is_calling() {
    let world = identifying().await;
    let forged = "X-Identity-Token: forged\r\nX_Identity_Token: forged\r\nX-Consumer-Id: con_1\r\n";
    let line = format!("X-API-Key: {}\r\n{forged}", world.key.reveal());
    assert_eq!(ask(&world, "/v1/ok", &line).await.status, 200);
    let head = world.upstream.last().to_ascii_lowercase();
    for name in [
        "x-consumer-id",
        "x-key-id",
        "x-plan",
        "x-features",
        "x-environment",
        "forged",
    ] {
        assert!(!head.contains(name), "{name} is in {head}");
    }
    let claims = checked(&world, &seen(&world)).await;
    let now = world.clock.security_now().unix_s();
    assert_eq!(claims["sub"], world.consumer.to_string());
    assert_eq!(
        (&claims["plan"], &claims["environment"]),
        (&json!("pro"), &json!("live"))
    );
    assert_eq!(claims["features"], json!(["search", "bulk"]));
    assert_eq!((&claims["iat"], &claims["exp"]), (&json!(now), &json!(now + 300)));
    assert_eq!(ask(&world, "/v1/ok", "").await.status, 200);
    let claims = checked(&world, &seen(&world)).await;
    assert_eq!((&claims["sub"], &claims["plan"]), (&json!("anonymous"), &json!("open")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_used_for_half_its_life_and_never_for_another_plan() {
    let world = identifying().await;
    world.get("/v1/ok").await;
    let first = seen(&world);
    world.clock.advance(149_000);
    world.get("/v1/ok").await;
    assert_eq!(seen(&world), first, "no signature for each request");
    world.clock.advance(1_000);
    world.get("/v1/ok").await;
    let second = seen(&world);
    assert_ne!(second, first);
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.plan = "scale".to_owned());
    world.synced().await;
    world.get("/v1/ok").await;
    assert_eq!(checked(&world, &seen(&world)).await["plan"], "scale");
    // Months later the key is another, and the one before is still known.
    world.clock.advance(31 * DAY_MS - 200_000);
    let late = seen(&world);
    checked(&world, &late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_keys_are_for_reading() {
    let world = credentials::world("{}").await;
    let reply = world
        .send(&format!("POST {JWKS} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n"), "")
        .await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")));
    let reply = world.send(&format!("HEAD {JWKS} HTTP/1.1\r\nHost: a\r\n"), "").await;
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    world.get("/v1/ok").await;
    assert!(!world.upstream.last().to_ascii_lowercase().contains("x-identity-token"));
}
