//! Every answer has an id, which is the gateway's alone to choose. (`clients` looks for it in answers over HTTP/2.)

use crate::routing::with_routes;
use std::collections::HashSet;

const FORGED: &str = "req_forged";

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_answer_has_an_id_of_its_own() {
    let world = with_routes(vec![(
        "open",
        "/open",
        r#"{"cors": {"origins": ["https://app.example"]}, "websocket": true}"#,
    )])
    .await;
    let key = format!("X-API-Key: {}\r\n", world.key.reveal());
    let preflight = "Origin: https://app.example\r\nAccess-Control-Request-Method: GET\r\n";
    let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    let mut seen = HashSet::new();
    for (status, line, more) in [
        (200, "GET /v1/ok HTTP/1.1", key.as_str()),
        (200, "HEAD /v1/ok HTTP/1.1", &key),
        (200, "GET /v1/ok HTTP/1.0", &key),
        (200, "GET /v1/chunked HTTP/1.1", &key),
        (204, "GET /v1/empty HTTP/1.1", &key),
        (418, "GET /v1/status/418 HTTP/1.1", &key),
        (200, "GET /v1/hop HTTP/1.1", &key),
        (204, "OPTIONS /open HTTP/1.1", preflight),
        (200, "GET /.well-known/turnpike/jwks.json HTTP/1.1", ""),
        (200, "GET /v1/ok HTTP/1.1", &format!("{key}Turnpike-Quote: ?1\r\n")),
        (405, "POST /heavy HTTP/1.1", &key),
        (404, "GET /nothing HTTP/1.1", &key),
        (401, "GET /v1/ok HTTP/1.1", ""),
        (403, "GET /export HTTP/1.1", &key),
        (502, "GET /down HTTP/1.1", &key),
        (502, "GET /v1/raw/garbage HTTP/1.1", &key),
        (504, "GET /slow/hang HTTP/1.1", &key),
        (400, "GET /v1/%2e%2e/x HTTP/1.1", &key),
        (400, "GET /v1/ok HTTP/7", &key),
        (400, "\u{1}\u{2} / HTTP/1.1", &key),
        (
            400,
            "POST /v1/ok HTTP/1.1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            413,
            "POST /v1/ok HTTP/1.1",
            &format!("{key}Content-Length: 99999999\r\n"),
        ),
        (501, "GET /v1/ok HTTP/1.1", &format!("{key}{handshake}")),
        (400, "GET /open HTTP/1.1", &format!("{key}{handshake}")),
    ] {
        let head = format!("{line}\r\nHost: a\r\nX-Request-Id: {FORGED}\r\nX_Request_Id: {FORGED}\r\n{more}");
        let reply = world.send(&head, "").await;
        assert_eq!(reply.status, status, "{line} {reply:?}");
        let ids: Vec<&String> = reply
            .headers
            .iter()
            .filter(|h| h.0 == "x-request-id")
            .map(|h| &h.1)
            .collect();
        assert!(
            ids.len() == 1 && ids[0].starts_with("req_") && ids[0] != FORGED,
            "{line} {ids:?}"
        );
        assert!(seen.insert(ids[0].clone()), "{line}");
    }
    for request in world.upstream.requests() {
        let id = request.lines().find_map(|l| l.strip_prefix("x-request-id: ")).unwrap();
        assert!(seen.contains(id), "the upstream is told the id that the caller gets");
        assert!(!request.contains(FORGED), "{request}");
    }
    let rows = world.shipped().await;
    assert!(!rows.is_empty() && rows.iter().all(|r| seen.contains(&r.request.to_string())));
}
