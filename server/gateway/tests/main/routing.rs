//! Which route takes a request, and who is kept out of it.

use crate::support::*;
use model::policy::RoutePolicy;
use model::snapshot::RouteRecord;

fn policy(json: &str) -> RoutePolicy {
    serde_json::from_str(json).unwrap()
}

/// A world whose routing has more routes, told while the gateway runs.
pub(crate) async fn with_routes(more: Vec<(&str, &str, &str)>) -> World {
    let world = World::new().await;
    let mut routing = routing(world.upstream.addr);
    for (number, (slug, path, json)) in (100..).zip(more) {
        routing.routes.push(RouteRecord {
            number,
            slug: slug.to_owned(),
            path: path.to_owned(),
            policy: policy(json),
            ..routing.routes[0].clone()
        });
    }
    world.plane.put_routing(routing);
    world.synced().await;
    world
}

/// The route in the ledger says who took the request.
async fn taken_by(world: &World, host: &str, path: &str, header: &str) -> u16 {
    let before = world.shipped().await.len();
    let key = world.key.reveal();
    let reply = world
        .send(
            &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\n{header}"),
            "",
        )
        .await;
    assert_eq!(reply.status, 200, "{host}{path}");
    let rows = world.shipped().await;
    assert_eq!(rows.len(), before + 1);
    rows[before].route
}

#[tokio::test(flavor = "multi_thread")]
async fn host_and_headers_choose_the_route() {
    let world = with_routes(vec![
        ("host", "/v1/{*rest}", r#"{"hosts": ["eu.example.com"]}"#),
        ("hosts", "/v1/{*rest}", r#"{"hosts": ["*.example.com"]}"#),
        ("beta", "/v1/ok", r#"{"match_headers": {"x-version": "beta"}}"#),
    ])
    .await;
    for (host, path, header, route) in [
        ("eu.example.com", "/v1/ok", "", 100),
        ("EU.example.com:80", "/v1/ok", "", 100),
        ("us.example.com", "/v1/ok", "", 101),
        ("example.com", "/v1/ok", "", 1),
        ("example.com", "/v1/ok", "X-Version: beta\r\n", 102),
        ("example.com", "/v1/other", "X-Version: beta\r\n", 1),
        ("eu.example.com", "/v1/ok", "X-Version: beta\r\n", 100),
    ] {
        assert_eq!(
            taken_by(&world, host, path, header).await,
            route,
            "{host}{path} {header}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_kept_out_reaches_nothing() {
    let world = with_routes(vec![
        ("inside", "/inside", r#"{"allow_addresses": ["10.0.0.0/8"]}"#),
        ("outside", "/outside", r#"{"deny_addresses": ["127.0.0.0/8", "::1"]}"#),
        ("ours", "/ours", r#"{"allow_addresses": ["127.0.0.1"]}"#),
    ])
    .await;
    for path in ["/inside", "/outside"] {
        let reply = world.get(path).await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (403, "address-refused"),
            "{path}"
        );
    }
    assert_eq!(world.get("/ours").await.status, 200);
    assert_eq!(world.upstream.seen.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_take_less_or_more_than_the_gateway_does() {
    let world = with_routes(vec![
        ("small", "/small", r#"{"max_request_bytes": 10}"#),
        ("large", "/large", r#"{"max_request_bytes": 200000}"#),
    ])
    .await;
    let key = world.key.reveal();
    for (path, bytes, status) in [
        ("/small", 10, 200),
        ("/small", 11, 413),
        ("/large", 200_000, 200),
        ("/large", 200_001, 413),
        ("/v1/ok", (64 << 10) + 1, 413),
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: {bytes}\r\n");
        let reply = world.send(&head, &"x".repeat(bytes)).await;
        assert_eq!(reply.status, status, "{path} {bytes}");
    }
}
