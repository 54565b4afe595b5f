//! Requests hidden in requests: raw bytes in, and the recorder says what came out. After every case a fresh client asks
//! and must get its own answer.

use crate::recorder::*;
use crate::support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SMUGGLED: &str = "GET /v1/smuggled HTTP/1.1\r\nHost: a\r\n{key}\r\n\r\n";

/// Refused with one answer and a closed connection; the upstream sees no byte of it.
async fn refused(world: &World, recorder: &Recorder, bytes: &[u8]) {
    let before: usize = recorder.bytes().iter().map(Vec::len).sum();
    let out = raw(world.addr, &with_key(world, bytes)).await;
    let (shown, sent) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(bytes));
    let got = statuses(&out);
    assert!(
        got.is_empty() || (got.len() == 1 && [400, 413, 414, 431, 501].contains(&got[0])),
        "{sent:?} got {shown}"
    );
    let after: usize = recorder.bytes().iter().map(Vec::len).sum();
    assert_eq!(after, before, "{sent:?} reached the upstream");
}

/// At most one request comes of it, with this body if it comes, and never the smuggled one.
async fn one_or_none(world: &World, recorder: &Recorder, bytes: &[u8], body: &[u8]) {
    let before = recorder.requests().len();
    answered(world.addr, &with_key(world, bytes)).await;
    let requests = recorder.requests();
    let (new, sent) = (&requests[before.min(requests.len())..], String::from_utf8_lossy(bytes));
    assert!(new.len() <= 1, "{sent:?} became {new:?}");
    assert!(new.iter().all(|r| r.body == body), "{sent:?} became {new:?}");
    assert!(!requests.iter().any(|r| r.target.contains("smuggled")), "{sent:?}");
    canary(world, recorder).await;
}

fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST /v1/ok HTTP/1.1\r\nHost: a\r\n{{key}}\r\n{lines}\r\n\r\n{body}").into_bytes()
}

/// T01: a length and a coding in one request, in both orders.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_a_coding_is_refused() {
    let (world, recorder) = recorded().await;
    for lines in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Content-Length: 6\r\nX-Between: 1\r\ntransfer-encoding: CHUNKED",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
    ] {
        refused(&world, &recorder, &post(lines, &format!("0\r\n\r\n{SMUGGLED}"))).await;
    }
    canary(&world, &recorder).await;
}

/// T02: a request that hides in the chunks or behind them.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_a_chunk_is_no_request() {
    let (world, recorder) = recorded().await;
    let inner = String::from_utf8(with_key(&world, SMUGGLED.as_bytes())).unwrap();
    let chunked = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let whole = post("Transfer-Encoding: chunked\r\nConnection: close", &chunked);
    one_or_none(&world, &recorder, &whole, inner.as_bytes()).await;
    assert!(recorder.requests().iter().any(|r| r.body == inner.as_bytes()));
    for lines in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-length: 4",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow",
        "Transfer-Encoding: chunked\r\nTransfer_Encoding: identity\r\nContent-Length: 4",
    ] {
        refused(&world, &recorder, &post(lines, &chunked)).await;
    }
    canary(&world, &recorder).await;
}

/// T03: a body on a method that has none for many parsers is a body, never the next request.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_on_any_method_is_a_body() {
    let (world, recorder) = recorded().await;
    for method in [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "PROPFIND", "REPORT",
        "SEARCH", "LINK", "PURGE", "PRI", "get", "Post", "M-SEARCH", "X",
    ] {
        let inner = String::from_utf8(with_key(&world, SMUGGLED.as_bytes())).unwrap();
        let head = format!("{method} /v1/ok HTTP/1.1\r\nHost: a\r\n{{key}}\r\n");
        let length = format!("{head}Content-Length: {}\r\n\r\n{inner}", inner.len());
        one_or_none(&world, &recorder, length.as_bytes(), inner.as_bytes()).await;
        let chunked = format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n",
            inner.len()
        );
        one_or_none(&world, &recorder, chunked.as_bytes(), inner.as_bytes()).await;
        // Without a length there is no body: what follows is a request of its own, answered after the first.
        let none = format!("{head}\r\nGET /v1/next HTTP/1.1\r\nHost: a\r\n{{key}}\r\nConnection: close\r\n\r\n");
        raw(world.addr, &with_key(&world, none.as_bytes())).await;
        assert!(
            recorder
                .requests()
                .iter()
                .all(|r| r.target != "/v1/next" || r.body.is_empty())
        );
    }
}

/// T04: lengths that two parsers read differently.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_is_digits_and_there_is_one() {
    let (world, recorder) = recorded().await;
    for value in [
        "5, 5",
        "5,5",
        "+5",
        "-1",
        "-0",
        "0x5",
        "5_0",
        "05",
        "00",
        "",
        " ",
        "18446744073709551616",
        "18446744073709551621",
        "340282366920938463463374607431768211461",
        "5 5",
        "5;",
        "5\t5",
        "5.0",
        "5e0",
        "٥",
        "5\u{a0}",
        "\"5\"",
        "five",
    ] {
        refused(&world, &recorder, &post(&format!("Content-Length: {value}"), "abcde")).await;
    }
    for lines in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 6\r\nContent-Length: 5",
        "Content-Length: 5\r\ncontent-length: 05",
        "Content-Length: 5\r\nContent-Length:",
    ] {
        refused(&world, &recorder, &post(lines, "abcdef")).await;
    }
    let equal = post("Content-Length: 5\r\nContent-Length: 5\r\nConnection: close", "abcde");
    assert_eq!(statuses(&raw(world.addr, &with_key(&world, &equal)).await), [200]);
    assert_eq!(recorder.last().all("content-length"), ["5"], "equal ones become one");
    for optional in ["  5", "\t5 ", "5\t "] {
        let padded = post(&format!("Content-Length:{optional}\r\nConnection: close"), "abcde");
        one_or_none(&world, &recorder, &padded, b"abcde").await;
    }
}

/// T05: anything but exactly `chunked`.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_coding_is_chunked() {
    let (world, recorder) = recorded().await;
    for value in [
        &b" xchunked"[..],
        b" chunkedx",
        b" chunked, identity",
        b" identity",
        b" ,chunked",
        b" chunked,",
        b" chunked,chunked",
        b" gzip, chunked",
        b" gzip",
        b" deflate",
        b" chunked;q=1",
        b" chunked chunked",
        b" \"chunked\"",
        b"\x0bchunked",
        b" \x0bchunked",
        b" chunked\x0b",
        b" \x0cchunked",
        b" \xa0chunked",
        b" chunked\xa0",
        b" \xc2\xa0chunked",
        b"",
        b" ",
        b" chun\tked",
        b" c\0hunked",
        b" trailers, chunked",
    ] {
        let mut bytes = b"POST /v1/ok HTTP/1.1\r\nHost: a\r\n{key}\r\nTransfer-Encoding:".to_vec();
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n\r\n0\r\n\r\n");
        bytes.extend_from_slice(SMUGGLED.as_bytes());
        refused(&world, &recorder, &bytes).await;
    }
    for lines in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding : chunked",
        "\u{0}Transfer-Encoding: chunked",
        " Transfer-Encoding: chunked",
    ] {
        refused(&world, &recorder, &post(lines, &format!("0\r\n\r\n{SMUGGLED}"))).await;
    }
    canary(&world, &recorder).await;
}

/// T06: HTTP/1.0 knows no coding, and a connection that carried a body is not used again.
#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_has_no_chunks_and_no_second_request_after_a_body() {
    let (world, recorder) = recorded().await;
    for lines in [
        "Transfer-Encoding: chunked",
        "Connection: keep-alive\r\nTransfer-Encoding: chunked",
    ] {
        let text = format!("POST /v1/ok HTTP/1.0\r\nHost: a\r\n{{key}}\r\n{lines}\r\n\r\n0\r\n\r\n{SMUGGLED}");
        refused(&world, &recorder, text.as_bytes()).await;
    }
    let text = format!(
        "POST /v1/ok HTTP/1.0\r\nHost: a\r\n{{key}}\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi{SMUGGLED}"
    );
    let out = raw(world.addr, &with_key(&world, text.as_bytes())).await;
    assert_eq!(
        out.windows(7).filter(|w| w == b"HTTP/1.").count(),
        1,
        "one answer, then closed"
    );
    assert!(!recorder.saw(b"smuggled"));
    canary(&world, &recorder).await;
}

/// T07: a folded line, wherever it stands.
#[tokio::test(flavor = "multi_thread")]
async fn a_folded_header_is_refused() {
    let (world, recorder) = recorded().await;
    for fold in ["\r\n folded", "\r\n\tfolded", "\r\n ", "\r\n \r\n Content-Length: 3"] {
        for line in [
            "X-A: 1",
            "Host: a",
            "Content-Length: 5",
            "Connection: close",
            "X-API-Key: x",
            "X-A:",
        ] {
            let text = format!("POST /v1/ok HTTP/1.1\r\n{line}{fold}\r\nHost: a\r\n{{key}}\r\n\r\nabcde");
            refused(&world, &recorder, text.as_bytes()).await;
        }
        let first = format!("POST /v1/ok HTTP/1.1{fold}\r\nHost: a\r\n{{key}}\r\n\r\n");
        refused(&world, &recorder, first.as_bytes()).await;
    }
    canary(&world, &recorder).await;
}

/// T08: control bytes at every place of a head, and in the lines of chunks.
#[tokio::test(flavor = "multi_thread")]
async fn control_bytes_are_refused_wherever_they_stand() {
    let (world, recorder) = recorded().await;
    let head = "POST /v1/ok?q=1 HTTP/1.1\r\nHost: a.example\r\n{key}\r\nX-First: value\r\nContent-Length: 0\r\n\r\n";
    let places = [
        "OST /",
        "/v1/ok",
        "v1",
        "?q",
        "HTTP/1.1",
        "/1.1",
        ".1\r\nHost",
        "Host",
        "ost:",
        ": a.ex",
        "example",
        "X-First",
        "irst:",
        "value",
        "alue",
        "Content",
        "th: 0",
        "0\r\n\r\n",
    ];
    for place in places {
        for byte in [b'\r', b'\n', 0, 0x01, 0x0b, 0x0c, 0x1b, 0x7f] {
            let at = head.find(place).unwrap();
            let mut bytes = head.as_bytes().to_vec();
            bytes.insert(at, byte);
            refused(&world, &recorder, &bytes).await;
        }
    }
    for (line_end, why) in [
        ("\n", "bare LF"),
        ("\r", "bare CR"),
        ("\n\r", "turned"),
        ("\r\r\n", "two CR"),
    ] {
        let text = head.replacen("\r\n", line_end, 2);
        refused(&world, &recorder, text.as_bytes()).await;
        let _ = why;
    }
    for byte in [b'\r', b'\n', 0, 0x0b, 0x7f] {
        for at in [0, 1, 3, 6] {
            let mut bytes = post("Transfer-Encoding: chunked", "");
            let mut body = b"5;e=x\r\nabcde\r\n0\r\n\r\n".to_vec();
            body.insert(at, byte);
            bytes.extend_from_slice(&body);
            broken_body(&world, &recorder, &bytes).await;
        }
    }
    canary(&world, &recorder).await;
}

/// The head is good and the body is not: one answer of 400, closed, and the upstream gets no whole request.
async fn broken_body(world: &World, recorder: &Recorder, bytes: &[u8]) {
    let before = recorder.requests().len();
    let out = raw(world.addr, &with_key(world, bytes)).await;
    let sent = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
    assert_eq!(statuses(&out), [400], "{sent:?} got {}", String::from_utf8_lossy(&out));
    assert_eq!(recorder.requests().len(), before, "{sent:?} became whole");
    assert!(!recorder.saw(b"smuggled"));
}

/// T09: lines that are no headers.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_a_name_a_colon_and_a_value() {
    let (world, recorder) = recorded().await;
    for line in [
        &b"X-A : 1"[..],
        b"X-A\t: 1",
        b": 1",
        b":",
        b"no colon",
        b"X A: 1",
        b"X-(A): 1",
        b"X-A,B: 1",
        b"X/A: 1",
        b"X=A: 1",
        b"\"X-A\": 1",
        b"X-\xc3\xa4: 1",
        b"X-\xff: 1",
        b"X{A}: 1",
        b"@: 1",
        b"Content-Length : 0",
        b"HTTP/1.1 200 OK",
        b"GET /v1/smuggled HTTP/1.1",
    ] {
        let mut bytes = b"POST /v1/ok HTTP/1.1\r\nHost: a\r\n{key}\r\n".to_vec();
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n\r\n");
        refused(&world, &recorder, &bytes).await;
    }
    for start in [
        "POST /v1/ok",
        "POST  /v1/ok HTTP/1.1",
        "POST /v1/ok  HTTP/1.1",
        " POST /v1/ok HTTP/1.1",
        "POST /v1/ok HTTP/1.1 ",
        "POST /v1/ok HTTP/1.2",
        "POST /v1/ok HTTP/2.0",
        "POST /v1/ok HTTP/11",
        "POST /v1/ok http/1.1",
        "POST /v1/ok HTTP/1.10",
        "POST\t/v1/ok\tHTTP/1.1",
        "POST HTTP/1.1",
        "POST /v1/ok x HTTP/1.1",
        "P(ST /v1/ok HTTP/1.1",
        "POST /v1/\u{e9} HTTP/1.1",
    ] {
        let text = format!("{start}\r\nHost: a\r\n{{key}}\r\n\r\n");
        refused(&world, &recorder, text.as_bytes()).await;
    }
    canary(&world, &recorder).await;
}

/// T10: chunk sizes that two parsers read differently, from the list of the HTTP Garden.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_a_size_and_as_many_bytes() {
    let (world, recorder) = recorded().await;
    for body in [
        &b"0x5\r\nabcde\r\n0\r\n\r\n"[..],
        b"+5\r\nabcde\r\n0\r\n\r\n",
        b" 5\r\nabcde\r\n0\r\n\r\n",
        b"\t5\r\nabcde\r\n0\r\n\r\n",
        b"5 \r\nabcde\r\n0\r\n\r\n",
        b"5\xb5\r\nabcde\r\n0\r\n\r\n",
        b"5\xc2\xa0\r\nabcde\r\n0\r\n\r\n",
        b"5_\r\nabcde\r\n0\r\n\r\n",
        b"00000000000000005\r\nabcde\r\n0\r\n\r\n",
        b"10000000000000005\r\nabcde\r\n0\r\n\r\n",
        b"5\r\nabcde0\r\n\r\n",
        b"5\r\nabcdef\r\n0\r\n\r\n",
        b"5\r\nabcdeX\r0\r\n\r\n",
        b"5\r\nabcde\r\n\r\n0\r\n\r\n",
        b"\r\n5\r\nabcde\r\n0\r\n\r\n",
        b"5\nabcde\n0\n\n",
        b"5\r\nabcde\n0\r\n\r\n",
        b"5\rXabcde\r\n0\r\n\r\n",
        b";e\r\n\r\n",
        b"\r\n\r\n",
        b"g\r\n",
        b"-5\r\nabcde\r\n0\r\n\r\n",
        b"5,5\r\nabcde\r\n0\r\n\r\n",
        b"5;a\nb\r\nabcde\r\n0\r\n\r\n",
        b"5;a\rb\r\nabcde\r\n0\r\n\r\n",
        b"0;\n\r\n\r\n",
    ] {
        let mut bytes = post("Transfer-Encoding: chunked", "");
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(SMUGGLED.as_bytes());
        let before = recorder.requests().len();
        let out = answered(world.addr, &with_key(&world, &bytes)).await;
        let shown = String::from_utf8_lossy(body).into_owned();
        assert!(
            recorder.requests().len() == before && !recorder.saw(b"smuggled"),
            "{shown:?} became whole"
        );
        // A size beyond every bound is refused as too large, everything else as broken.
        assert!(
            matches!(statuses(&out)[..], [400 | 413]),
            "{shown:?}: {}",
            String::from_utf8_lossy(&out)
        );
    }
    // Sizes that only overflow is smaller than: all that follows is the chunk's.
    for size in [
        "ffffffffffffffff",
        "fffffffffffffffe",
        "8000000000000000",
        "7fffffffffffffff",
    ] {
        let bytes = post(
            "Transfer-Encoding: chunked",
            &format!("{size}\r\nabcde\r\n0\r\n\r\n{SMUGGLED}"),
        );
        let before = recorder.requests().len();
        let out = exchange(world.addr, &with_key(&world, &bytes)).await;
        assert!(!statuses(&out).contains(&200), "{size}");
        assert_eq!(recorder.requests().len(), before, "{size} became whole");
    }
    canary(&world, &recorder).await;
}

/// T10: an extension is read past, not kept, and has an end.
#[tokio::test(flavor = "multi_thread")]
async fn extensions_of_chunks_are_dropped_and_bounded() {
    let (world, recorder) = recorded().await;
    let few = post(
        "Transfer-Encoding: chunked\r\nConnection: close",
        "5;a=\"b\"\r\nabcde\r\n0;c\r\n\r\n",
    );
    assert_eq!(statuses(&raw(world.addr, &with_key(&world, &few)).await), [200]);
    assert!(recorder.last().body == b"abcde" && !recorder.saw(b";a") && !recorder.saw(b";c"));
    let before = recorder.requests().len();
    let long = post(
        "Transfer-Encoding: chunked",
        &format!("5;{}\r\nabcde\r\n0\r\n\r\n", "e".repeat(1 << 20)),
    );
    let out = exchange(world.addr, &with_key(&world, &long)).await;
    assert!(!statuses(&out).contains(&200), "{}", String::from_utf8_lossy(&out));
    // The same in many small chunks: an extension each, as much as a body may have in all.
    let many = format!(
        "{}0\r\n\r\n",
        "1;eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\r\nx\r\n".repeat(60_000)
    );
    let many = post("Transfer-Encoding: chunked", &many);
    let out = exchange(world.addr, &with_key(&world, &many)).await;
    assert!(!statuses(&out).contains(&200), "{}", String::from_utf8_lossy(&out));
    assert_eq!(recorder.requests().len(), before);
}

/// T11: trailers go no further, whatever they are called.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_are_dropped() {
    let (world, recorder) = recorded().await;
    for trailer in [
        "Content-Length: 9",
        "Transfer-Encoding: chunked",
        "Authorization: Bearer forged",
        "X-Plan: forged",
        "X-Consumer-Id: forged",
        "Host: forged",
        "Connection: close",
        "X-Innocent: forged",
    ] {
        let lines = "Transfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Plan\r\nConnection: close";
        let bytes = post(lines, &format!("5\r\nabcde\r\n0\r\n{trailer}\r\n\r\n"));
        let out = raw(world.addr, &with_key(&world, &bytes)).await;
        assert!(
            matches!(statuses(&out)[..], [200 | 400]),
            "{trailer}: {}",
            String::from_utf8_lossy(&out)
        );
        assert!(!recorder.saw(b"forged"), "{trailer}");
    }
    let requests = recorder.requests();
    assert!(
        requests
            .iter()
            .all(|r| r.all("trailer").is_empty() && r.body == b"abcde"),
        "{requests:?}"
    );
}

/// T12: whom the request is for is said once, and is a host.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_host() {
    let (world, recorder) = recorded().await;
    for lines in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host: a@b\r\n",
        "Host: a b\r\n",
        "Host: a,b\r\n",
        "Host:\r\n",
        "Host: a/b\r\n",
        "Host: a?b\r\n",
        "Host: a#b\r\n",
        "Host: a\\b\r\n",
        "Host: a:x\r\n",
        "Host: a:99999\r\n",
        "Host: a:80:80\r\n",
        "Host: [::1\r\n",
        "Host: http://a\r\n",
        "Host: <a>\r\n",
        "Host: a%00\r\n",
        "Host: \u{e4}\r\n",
    ] {
        let text = format!("GET /v1/ok HTTP/1.1\r\n{lines}{{key}}\r\n\r\n");
        refused(&world, &recorder, text.as_bytes()).await;
    }
    for target in [
        "http://u:p@a/v1/ok",
        "http:///v1/ok",
        "//a/v1/ok",
        "ftp://a/v1/ok",
        "a/v1/ok",
        "a:80",
        "*",
        "http://a b/v1/ok",
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{{key}}\r\nConnection: close\r\n\r\n");
        let before = recorder.requests().len();
        let out = raw(world.addr, &with_key(&world, text.as_bytes())).await;
        assert!(
            matches!(statuses(&out)[..], [400 | 404 | 405]),
            "{target}: {}",
            String::from_utf8_lossy(&out)
        );
        assert_eq!(recorder.requests().len(), before, "{target}");
    }
    let text = "GET http://b.example/v1/ok HTTP/1.1\r\nHost: a.example\r\n{key}\r\nConnection: close\r\n\r\n";
    assert_eq!(
        statuses(&raw(world.addr, &with_key(&world, text.as_bytes())).await),
        [200]
    );
    let seen = recorder.last();
    assert_eq!(
        (seen.target.as_str(), seen.all("x-forwarded-host")),
        ("/v1/ok", vec!["b.example"])
    );
    assert!(!recorder.saw(b"a.example"));
    canary(&world, &recorder).await;
}

/// T13: nothing behind an upgrade reaches the upstream before it has agreed to it.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_an_upgrade_waits_for_101() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
    ] {
        let recorder = Recorder::answering(move |_| answer.as_bytes().to_vec()).await;
        let world = before(&recorder).await;
        for upgrade in ["foo", "websocket", "h2c", "TLS/1.0"] {
            let text = format!(
                "GET /v1/ok HTTP/1.1\r\nHost: a\r\n{{key}}\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n{SMUGGLED}"
            );
            exchange(world.addr, &with_key(&world, text.as_bytes())).await;
            assert!(
                !recorder.saw(b"smuggled"),
                "{upgrade}, {answer}: {:?}",
                recorder.requests()
            );
        }
    }
}

/// T14: an expectation that is refused early, or spelled oddly, leaves no bytes behind that become a request.
#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_never_shifts_the_frame() {
    let (world, recorder) = recorded().await;
    let inner = String::from_utf8(with_key(&world, SMUGGLED.as_bytes())).unwrap();
    for value in [
        "100-continue",
        "100-Continue",
        "100-continue, 100-continue",
        "\"100-continue\"",
        "y100-continue",
        "200-ok",
        "",
        "100",
    ] {
        for key in ["{key}", "X-No-Key: 1"] {
            let text = format!(
                "POST /v1/ok HTTP/1.1\r\nHost: a\r\n{key}\r\nExpect: {value}\r\nContent-Length: {}\r\n\r\n{inner}",
                inner.len()
            );
            one_or_none(&world, &recorder, text.as_bytes(), inner.as_bytes()).await;
            assert!(
                recorder.requests().iter().all(|r| r.all("expect").is_empty()),
                "{value}"
            );
        }
    }
}

/// T15: an answer given before the body was read; what the body holds is drained or the connection closed.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_refusal_does_not_turn_a_body_into_requests() {
    let (world, recorder) = recorded().await;
    let inner = String::from_utf8(with_key(&world, SMUGGLED.as_bytes())).unwrap();
    // Larger than any buffer, so that most of it arrives behind the refusal.
    let large = inner.repeat(60_000 / inner.len());
    for body in [&inner, &large] {
        for (line, target) in [
            ("X-No-Key: 1", "/v1/ok"),
            ("{key}", "/nowhere"),
            ("{key}", "/search/1"),
            ("X-API-Key: tp_live_x", "/v1/ok"),
        ] {
            let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{line}\r\n");
            let length = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            one_or_none(&world, &recorder, length.as_bytes(), b"").await;
            let chunked = format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            );
            one_or_none(&world, &recorder, chunked.as_bytes(), b"").await;
        }
    }
    // A client that waits for the refusal before it sends the rest.
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    let head = format!(
        "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        inner.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut chunk = [0u8; 4096];
    assert!(stream.read(&mut chunk).await.unwrap() > 0);
    let _ = stream.write_all(inner.as_bytes()).await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(std::time::Duration::from_millis(250), stream.read_to_end(&mut rest)).await;
    assert!(!recorder.saw(b"smuggled"));
    canary(&world, &recorder).await;
}

/// T92: empty lines before a request are passed over (RFC 9112, 2.2), but who sends nothing else is sent away.
#[tokio::test(flavor = "multi_thread")]
async fn empty_lines_do_not_go_on_for_ever() {
    let (world, recorder) = recorded().await;
    refused(&world, &recorder, "\r\n".repeat(100).as_bytes()).await;
    let request = format!(
        "\r\nGET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
        world.key.reveal()
    );
    assert_eq!(statuses(&raw(world.addr, request.as_bytes()).await), [200]);
}
