//! Raw bytes against the parser; the judge is what the upstream's recorder saw.

use crate::support::*;

fn with_key(world: &World, text: &str) -> Vec<u8> {
    text.replace("{key}", &format!("X-API-Key: {}", world.key.reveal()))
        .into_bytes()
}

/// Sends bytes that must be refused with 400 (or dropped), and checks that the upstream saw nothing new.
async fn refused(world: &World, text: &str) {
    let before = world.upstream.requests().len();
    let out = raw(world.addr, &with_key(world, text)).await;
    let shown = String::from_utf8_lossy(&out).into_owned();
    let status = shown.split(' ').nth(1).unwrap_or("closed").to_owned();
    assert!(
        ["400", "501", "431", "closed"].contains(&status.as_str()),
        "{text:?} got {shown}"
    );
    assert_eq!(
        shown.matches("HTTP/1.1 ").count(),
        usize::from(status != "closed"),
        "{text:?} got {shown}"
    );
    let seen = world.upstream.requests();
    assert_eq!(seen.len(), before, "{text:?} reached the upstream as {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lengths_are_refused() {
    let world = World::new().await;
    let smuggled = "0\r\n\r\nGET /v1/smuggled HTTP/1.1\r\nHost: a\r\n{key}\r\n\r\n";
    for lines in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: 5_0",
        "Content-Length: 05",
        "Content-Length:",
        "Content-Length: 18446744073709551616",
        "Content-Length: 5 5",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\r\n chunked",
        "Content-Length : 6",
        "Content-Length\r\n: 6",
    ] {
        refused(
            &world,
            &format!("POST /v1/ok HTTP/1.1\r\nHost: a\r\n{{key}}\r\n{lines}\r\n\r\n{smuggled}"),
        )
        .await;
    }
    refused(
        &world,
        "POST /v1/ok HTTP/1.0\r\nHost: a\r\n{key}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_bytes_and_odd_lines_are_refused() {
    let world = World::new().await;
    for bad in ["\r", "\n", "\0", "\x0b", "\x7f"] {
        for text in [
            format!("GET /v1/o{bad}k HTTP/1.1\r\nHost: a\r\n{{key}}\r\n\r\n"),
            format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\n{{key}}\r\nX-A{bad}: 1\r\n\r\n"),
            format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\n{{key}}\r\nX-A: b{bad}c\r\n\r\n"),
            format!("POST /v1/ok HTTP/1.1\r\nHost: a{bad}\r\n{{key}}\r\nContent-Length: 0\r\n\r\n"),
        ] {
            refused(&world, &text).await;
        }
    }
    for lines in [
        "X-A: 1\r\n folded",
        "X-A: 1\r\n\tfolded",
        "X-A : 1",
        ": 1",
        "no colon",
        "X A: 1",
        "Host: b",
        "X-(A): 1",
    ] {
        refused(
            &world,
            &format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\n{{key}}\r\n{lines}\r\n\r\n"),
        )
        .await;
    }
    for text in [
        "GET /v1/ok HTTP/1.1\r\n{key}\r\n\r\n",
        "GET /v1/ok HTTP/1.1\r\nHost: a@b\r\n{key}\r\n\r\n",
        "GET /v1/ok HTTP/1.1\r\nHost: a b\r\n{key}\r\n\r\n",
        "GET /v1/ok HTTP/1.1\r\nHost: \r\n{key}\r\n\r\n",
        "GET /v1/ok HTTP/1.1\nHost: a\n{key}\n\n",
        "GET  /v1/ok HTTP/1.1\r\nHost: a\r\n{key}\r\n\r\n",
        "GET /v1/ok HTTP/2.0\r\nHost: a\r\n{key}\r\n\r\n",
        "GET /v1/ok#frag HTTP/1.1\r\nHost: a\r\n{key}\r\n\r\n",
        "GET http://u:p@a/v1/ok HTTP/1.1\r\nHost: a\r\n{key}\r\n\r\n",
    ] {
        refused(&world, text).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_paths_never_reach_the_upstream() {
    let world = World::new().await;
    for path in [
        "/v1//ok",
        "/v1/../ok",
        "/v1/./ok",
        "/v1/%2e%2e/ok",
        "/v1/a%2fok",
        "/v1/a\\ok",
        "/v1/a;ok",
        "/v1/%00",
        "/v1/%252e",
    ] {
        let reply = world.get(path).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "bad-request"), "{path}");
    }
    assert!(world.upstream.requests().is_empty());
    assert_eq!(world.get("/v1/a%20b/%C3%A9?x=%2e%2e//;").await.status, 200);
    assert!(
        world
            .upstream
            .last()
            .starts_with("GET /v1/a%20b/%C3%A9?x=%2e%2e//; HTTP/1.1\r\n")
    );
    assert_eq!(world.get("/search/%65x").await.status, 200);
    assert!(world.upstream.last().starts_with("GET /search/%65x HTTP/1.1\r\n"));
}

/// A chunk that is not well-formed never completes a request: the upstream gets no whole body from it.
#[tokio::test(flavor = "multi_thread")]
async fn broken_chunks_are_refused() {
    let world = World::new().await;
    for body in [
        "0x5\r\nabcde\r\n0\r\n\r\n",
        "+5\r\nabcde\r\n0\r\n\r\n",
        " 5\r\nabcde\r\n0\r\n\r\n",
        "5 \r\nabcde\r\n0\r\n\r\n",
        "5\nabcde\r\n0\r\n\r\n",
        "5\r\nabcde0\r\n\r\n",
        "5\r\nabcde\r\n\r\n0\r\n\r\n",
        "00000000000000005\r\nabcde\r\n0\r\n\r\n",
        "5\r\nabcde\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "0\r\nbad trailer\r\n\r\n",
    ] {
        let text = format!("POST /v1/ok HTTP/1.1\r\nHost: a\r\n{{key}}\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let out = raw(world.addr, &with_key(&world, &text)).await;
        let reply = Reply::parse(&out);
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (400, "body-broken"),
            "{body:?}"
        );
    }
    assert!(world.upstream.requests().is_empty(), "{:?}", world.upstream.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_and_never_become_requests() {
    let world = World::new().await;
    let body = "GET /v1/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for method in ["GET", "POST", "PUT", "DELETE"] {
        let head = format!(
            "{method} /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nContent-Length: {}\r\n",
            world.key.reveal(),
            body.len()
        );
        assert_eq!(world.send(&head, body).await.status, 200, "{method}");
        let seen = world.upstream.last();
        assert!(
            seen.starts_with(&format!("{method} /v1/ok ")) && seen.ends_with(body),
            "{seen}"
        );
    }
    let equal = format!(
        "POST /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nContent-Length: 2\r\nContent-Length: 2\r\n",
        world.key.reveal()
    );
    assert_eq!(world.send(&equal, "hi").await.status, 200);
    assert_eq!(
        world
            .upstream
            .last()
            .to_ascii_lowercase()
            .matches("content-length")
            .count(),
        1
    );
    assert!(
        !world
            .upstream
            .requests()
            .iter()
            .any(|r| r.starts_with("GET /v1/smuggled"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_bodies_stream_and_trailers_are_dropped() {
    let world = World::new().await;
    let head = format!(
        "POST /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Plan\r\n",
        world.key.reveal()
    );
    let reply = world
        .send(
            &head,
            "3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Plan: scale\r\nContent-Length: 9\r\n\r\n",
        )
        .await;
    assert_eq!(reply.status, 200);
    let seen = world.upstream.last();
    assert!(
        !seen.contains("scale") && !seen.contains("ext=1") && seen.ends_with("0\r\n\r\n"),
        "{seen}"
    );
    assert_eq!(seen.to_ascii_lowercase().matches("trailer:").count(), 0);
    assert_eq!(world.shipped().await[0].request_bytes, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let world = World::new().await;
    let one = |path: &str, extra: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{{key}}\r\n{extra}\r\n");
    let text = format!(
        "{}{}{}",
        one("/v1/ok", ""),
        one("/nothing", ""),
        one("/v1/empty", "Connection: close\r\n")
    );
    let out = String::from_utf8(raw(world.addr, &with_key(&world, &text)).await).unwrap();
    let statuses: Vec<_> = out
        .match_indices("HTTP/1.1 ")
        .map(|(i, _)| &out[i + 9..i + 12])
        .collect();
    assert_eq!(statuses, ["200", "404", "204"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_are_refused_and_what_follows_is_dropped() {
    let world = World::new().await;
    let text = "GET /v1/ok HTTP/1.1\r\nHost: a\r\n{key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /v1/second HTTP/1.1\r\nHost: a\r\n{key}\r\n\r\n";
    let out = String::from_utf8(raw(world.addr, &with_key(&world, text)).await).unwrap();
    assert!(
        out.starts_with("HTTP/1.1 501 ") && out.matches("HTTP/1.1").count() == 1,
        "{out}"
    );
    assert!(world.upstream.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_forge_or_remove_what_the_gateway_says() {
    let world = World::new().await;
    let head = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: api.example\r\nX-API-Key: {}\r\nX-Consumer-Id: forged\r\nx_consumer_id: forged\r\n\
         X-PLAN: forged\r\nX_Plan: forged\r\nX-Features: forged\r\nX-Key-Id: forged\r\nX-Environment: forged\r\n\
         X-Request-Id: forged\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: forged\r\nX-Forwarded-Proto: forged\r\n\
         Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Authorization: x\r\n\
         Proxy-Connection: x\r\nX-Mine: kept\r\nConnection: X-Plan, X-Consumer-Id, X-Gone, X-Forwarded-For\r\nX-Gone: 1\r\n",
        world.key.reveal()
    );
    assert_eq!(world.send(&head, "").await.status, 200);
    let seen = world.upstream.last();
    assert!(!seen.contains("forged") && !seen.contains("6.6.6.6"), "{seen}");
    let lower = seen.to_ascii_lowercase();
    for gone in [
        "keep-alive",
        "te:",
        "proxy-",
        "x-gone",
        "connection:",
        "x-api-key",
        "authorization",
        "_",
    ] {
        assert!(
            !lower
                .replace("con_", "")
                .replace("key_", "")
                .replace("req_", "")
                .contains(gone),
            "{gone} in {seen}"
        );
    }
    for line in [
        format!("x-consumer-id: {}", world.consumer),
        "x-plan: pro".to_owned(),
        "x-features: search,bulk".to_owned(),
        "x-environment: live".to_owned(),
        "x-forwarded-for: 127.0.0.1".to_owned(),
        "x-forwarded-proto: http".to_owned(),
        "x-forwarded-host: api.example".to_owned(),
        format!("host: 127.0.0.1:{}", world.upstream.addr.port()),
        "x-mine: kept".to_owned(),
    ] {
        assert_eq!(lower.lines().filter(|l| **l == *line).count(), 1, "{line} in {seen}");
    }
    for name in ["x-key-id: key_", "x-request-id: req_"] {
        assert_eq!(lower.matches(name).count(), 1, "{name} in {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn absolute_form_wins_over_host() {
    let world = World::new().await;
    let head = format!(
        "GET http://other.example/v1/ok?a=1 HTTP/1.1\r\nHost: api.example\r\nX-API-Key: {}\r\n",
        world.key.reveal()
    );
    assert_eq!(world.send(&head, "").await.status, 200);
    let seen = world.upstream.last().to_ascii_lowercase();
    assert!(
        seen.starts_with("get /v1/ok?a=1 http/1.1\r\n") && seen.contains("x-forwarded-host: other.example\r\n"),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_continue_gets_no_body_through_a_refusal() {
    let world = World::new().await;
    let text =
        "POST /v1/ok HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 30\r\nConnection: close\r\n\r\n";
    let out = String::from_utf8(raw(world.addr, text.as_bytes()).await).unwrap();
    assert!(out.starts_with("HTTP/1.1 401 "), "{out}");
    let good = text.replace(
        "Connection",
        &format!("X-API-Key: {}\r\nConnection", world.key.reveal()),
    );
    let out = raw(world.addr, format!("{good}{}", "x".repeat(30)).as_bytes()).await;
    let out = String::from_utf8(out).unwrap();
    assert!(
        out.starts_with("HTTP/1.1 100 ") && out.contains("HTTP/1.1 200 "),
        "{out}"
    );
    assert!(!world.upstream.last().to_ascii_lowercase().contains("expect"));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused() {
    let world = World::new().await;
    let key = world.key.reveal();
    let large = format!("POST /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: 65537\r\n");
    let reply = world.send(&large, "").await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "body-too-large"));
    assert!(world.upstream.requests().is_empty());
    let mut text = format!("POST /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..5 {
        text.push_str(&format!("4000\r\n{}\r\n", "x".repeat(1 << 14)));
    }
    text.push_str("0\r\n\r\n");
    let mut stream = tokio::net::TcpStream::connect(world.addr).await.unwrap();
    let (mut read, mut write) = stream.split();
    let sending = async {
        // The gateway may close before it has read all: it wants no more.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut write, text.as_bytes()).await;
    };
    let mut out = [0u8; 12];
    let (got, ()) = tokio::join!(tokio::io::AsyncReadExt::read_exact(&mut read, &mut out), sending);
    if got.is_ok() {
        assert_eq!(&out, b"HTTP/1.1 413");
    }
    assert!(world.upstream.requests().is_empty());
    let many: String = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "y".repeat(70_000));
    for lines in [many, long] {
        let text = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\n{{key}}\r\n{lines}\r\n");
        refused(&world, &text).await;
    }
    let rows = world.shipped().await;
    assert!(rows.iter().all(|r| r.units == 0 && r.status == 413), "{rows:?}");
}

/// What is no request is told so like everything else, with a request id, and the connection is closed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_answered_with_a_problem() {
    let world = World::new().await;
    for text in [
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-A : 1\r\n\r\n",
        "POST /v1/ok HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "nonsense\r\n\r\n",
        "GET /v1/ok HTTP/1.1\nHost: a\n\n",
    ] {
        // The second request is never looked at.
        let out = raw(
            world.addr,
            format!("{text}GET /v1/ok HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
        )
        .await;
        let reply = Reply::parse(&out);
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (400, "bad-request"),
            "{text:?}"
        );
        assert_eq!(reply.header("connection"), Some("close"));
        assert_eq!(
            reply.header("content-length"),
            Some(reply.body.len().to_string().as_str())
        );
    }
    // After an answered request on the same connection, too.
    let out = raw(
        world.addr,
        &with_key(
            &world,
            "GET /v1/ok HTTP/1.1\r\nHost: a\r\n{key}\r\n\r\nGET / HTTP/1.1\r\n: 1\r\n\r\n",
        ),
    )
    .await;
    let out = String::from_utf8(out).unwrap();
    assert!(
        out.starts_with("HTTP/1.1 200 ") && out.matches("HTTP/1.1 400 ").count() == 1,
        "{out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_and_heads_are_answered_as_they_ask() {
    let world = World::new().await;
    let one = |line: &str, more: &str| with_key(&world, &format!("{line}\r\nHost: a\r\n{{key}}\r\n{more}\r\n"));
    let out = String::from_utf8(raw(world.addr, &one("GET /v1/ok HTTP/1.0", "")).await).unwrap();
    assert!(
        out.starts_with("HTTP/1.1 200 ") && out.contains("connection: close\r\n"),
        "{out}"
    );
    let out = String::from_utf8(raw(world.addr, &one("GET /v1/chunked HTTP/1.0", "")).await).unwrap();
    assert!(
        !out.contains("transfer-encoding") && out.ends_with("\r\n\r\nabcde"),
        "{out}"
    );
    let two = [
        one("GET /v1/ok HTTP/1.0", "Connection: keep-alive\r\n"),
        one("HEAD /v1/ok HTTP/1.1", "Connection: close\r\n"),
    ];
    let out = String::from_utf8(raw(world.addr, &two.concat()).await).unwrap();
    assert!(out.contains("connection: keep-alive\r\n"), "{out}");
    assert_eq!(out.matches("content-length: 2\r\n").count(), 2, "{out}");
    assert!(
        out.ends_with("\r\n\r\n"),
        "nothing behind the head of an answer to HEAD: {out}"
    );
    assert_eq!(out.matches("date: ").count(), 2, "{out}");
}

/// A body that nobody wants ends the connection, unless it is there already: then it is passed over.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_refused_body_is_never_a_request() {
    let world = World::new().await;
    let inner = "GET /v1/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let refused = format!(
        "POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}",
        inner.len()
    );
    let last = with_key(
        &world,
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\n{key}\r\nConnection: close\r\n\r\n",
    );
    let out = raw(world.addr, &[refused.as_bytes(), &last].concat()).await;
    let out = String::from_utf8(out).unwrap();
    assert!(
        out.starts_with("HTTP/1.1 404 ") && out.contains("HTTP/1.1 200 "),
        "{out}"
    );
    assert_eq!(out.matches("HTTP/1.1 ").count(), 2, "{out}");
    let more = refused.replace(
        &format!("Length: {}", inner.len()),
        &format!("Length: {}", inner.len() + 1_000_000),
    );
    let out = String::from_utf8(raw(world.addr, more.as_bytes()).await).unwrap();
    assert_eq!(out.matches("HTTP/1.1 ").count(), 1, "{out}");
    assert!(world.upstream.requests().iter().all(|r| r.starts_with("GET /v1/ok ")));
}
