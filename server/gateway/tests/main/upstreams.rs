//! What upstreams do wrong is said to be their fault, leaks to nobody and is billed to nobody.

use crate::support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn failures_name_whose_fault_it_is() {
    let world = World::new().await;
    for (path, status, slug) in [
        ("/down", 502, "upstream-unreachable"),
        ("/v1/close", 502, "upstream-broken"),
        ("/v1/raw/garbage", 502, "upstream-broken"),
        ("/v1/raw/bad-cl", 502, "upstream-broken"),
        ("/v1/raw/two-cl", 502, "upstream-broken"),
        ("/v1/raw/cr", 502, "upstream-broken"),
        ("/v1/raw/101", 502, "upstream-broken"),
        ("/slow/hang", 504, "upstream-timeout"),
    ] {
        let reply = world.get(path).await;
        assert_eq!((reply.status, reply.problem().as_str()), (status, slug), "{path}");
    }
    assert!(world.shipped().await.iter().all(|r| r.units == 0 && r.refusal > 0));
}

/// Many requests on one connection, so that the gateway's pool is used; the bodies in order.
async fn on_one_connection(world: &World, paths: &[&str]) -> Vec<String> {
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    let mut bodies = Vec::new();
    for path in paths {
        let text = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
            world.key.reveal()
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut out = Vec::new();
        loop {
            let mut chunk = [0u8; 4096];
            let n = stream.read(&mut chunk).await.unwrap();
            assert!(n > 0, "closed after {}", String::from_utf8_lossy(&out));
            out.extend_from_slice(&chunk[..n]);
            let Some(end) = out.windows(4).position(|w| w == b"\r\n\r\n") else {
                continue;
            };
            let reply = Reply::parse(&out);
            let length = reply.header("content-length").map_or(0, |l| l.parse().unwrap());
            if out.len() >= end + 4 + length {
                bodies.push(format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body)));
                break;
            }
        }
    }
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_answer_reaches_nobody() {
    let world = World::new().await;
    let paths = ["/v1/raw/two", "/v1/ok", "/v1/raw/two", "/v1/raw/two", "/v1/ok"];
    assert_eq!(on_one_connection(&world, &paths).await, ["200 ok"; 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_are_passed_over() {
    let world = World::new().await;
    assert_eq!(
        on_one_connection(&world, &["/v1/raw/early-hints", "/v1/ok"]).await,
        ["200 ok"; 2]
    );
}

/// The recorder closes a connection that is used a second time: the request is sent again on a new one, billed once.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_closes_is_replaced_once() {
    let world = World::new().await;
    assert_eq!(
        on_one_connection(&world, &["/v1/once", "/v1/once", "/v1/once"]).await,
        ["200 ok"; 3]
    );
    let rows = world.shipped().await;
    assert_eq!(
        rows.iter().map(|r| (r.status, r.units)).collect::<Vec<_>>(),
        [(200, 1); 3]
    );
    assert!(world.upstream.requests().len() > 3, "the pool was used");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_reused() {
    let world = World::new().await;
    let bodies = on_one_connection(&world, &["/v1/ok"; 20]).await;
    assert_eq!(bodies, ["200 ok"; 20]);
    assert_eq!(world.shipped().await.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_headers_of_an_answer_stay_behind() {
    let world = World::new().await;
    let reply = world.get("/v1/hop").await;
    assert_eq!((reply.status, reply.header("x-kept")), (200, Some("yes")));
    for gone in ["x-secret", "keep-alive", "proxy-authenticate", "upgrade"] {
        assert_eq!(reply.header(gone), None, "{gone}");
    }
    assert!(reply.headers.iter().all(|h| h.1 != "forged"));
    assert_eq!(reply.headers.iter().filter(|h| h.0 == "x-request-id").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_an_answer_are_taken_apart() {
    let world = World::new().await;
    assert_eq!(
        world.get("/v1/raw/te-cl").await.problem(),
        "upstream-broken",
        "two frames are none"
    );
    let reply = world.get("/v1/chunked").await;
    assert_eq!(
        String::from_utf8_lossy(&reply.body).replace("\r\n", " "),
        "3 abc 2 de 0  "
    );
    assert_eq!(reply.header("trailer"), None);
    assert_eq!(world.shipped().await[1].response_bytes, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_broken_off() {
    let world = World::new().await;
    let reply = world.get("/v1/half").await;
    assert_eq!((reply.status, reply.header("content-length")), (200, Some("10")));
    assert!(reply.body.len() < 10);
    let rows = world.shipped().await;
    assert_eq!(
        (rows.len(), rows[0].units),
        (1, 1),
        "the upstream answered: it counts, once"
    );
}
