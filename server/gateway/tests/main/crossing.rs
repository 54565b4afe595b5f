//! What crosses the gateway and what does not: header by header, path by path.

use crate::recorder::*;
use crate::support::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Sends a GET with these lines; the answer, and what the upstream saw if it saw anything.
async fn sent(world: &World, recorder: &Recorder, target: &str, lines: &[u8]) -> (Reply, Option<Request>) {
    let before = recorder.requests().len();
    let mut bytes = format!("GET {target} HTTP/1.1\r\nHost: api.example\r\n{{key}}\r\n").into_bytes();
    bytes.extend_from_slice(lines);
    bytes.extend_from_slice(b"Connection: close\r\n\r\n");
    let reply = Reply::parse(&raw(world.addr, &with_key(world, &bytes)).await);
    (reply, recorder.requests().get(before).cloned())
}

/// T16: a client that nominates our headers in `Connection` removes only its own.
#[tokio::test(flavor = "multi_thread")]
async fn nominated_headers_go_and_ours_stay() {
    let (world, recorder) = recorded().await;
    for nominated in [
        "X-Consumer-Id, X-Plan, X-Key-Id, X-Features, X-Environment, X-Request-Id",
        "x-consumer-id,X-PLAN , x-forwarded-for,x-forwarded-proto,X-Forwarded-Host",
        "Authorization, X-API-Key, Host, Content-Length, Transfer-Encoding, Connection",
        "close, X-Plan\r\nConnection: X-Consumer-Id\r\nConnection: ,,X-Key-Id,,",
        "\"X-Plan\", X-Plan;q=1, *",
    ] {
        let lines = format!("X-Plan: forged\r\nX-Mine: 1\r\nConnection: {nominated}\r\n");
        let (reply, seen) = sent(&world, &recorder, "/v1/ok", lines.as_bytes()).await;
        let seen = seen.unwrap();
        assert_eq!(reply.status, 200, "{nominated}");
        assert_eq!(seen.all("x-consumer-id"), [world.consumer.to_string()], "{nominated}");
        assert_eq!(seen.all("x-plan"), ["pro"], "{nominated}");
        assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"], "{nominated}");
        for name in [
            "x-key-id",
            "x-features",
            "x-environment",
            "x-request-id",
            "host",
            "x-forwarded-proto",
            "x-forwarded-host",
        ] {
            assert_eq!(seen.all(name).len(), 1, "{name} with {nominated}");
        }
        assert!(
            seen.all("connection").is_empty() && seen.all("x-mine") == ["1"],
            "{seen:?}"
        );
    }
    let (_, seen) = sent(
        &world,
        &recorder,
        "/v1/ok",
        b"X-Mine: 1\r\nX-Other: 2\r\nConnection: X-Mine\r\n",
    )
    .await;
    let seen = seen.unwrap();
    assert!(
        seen.all("x-mine").is_empty() && seen.all("x-other") == ["2"],
        "{seen:?}"
    );
}

/// T17: the whole of what goes to an upstream, and the whole of what comes back.
#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_headers_stay_behind_both_ways() {
    const HOP: &str = "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\n\
        Proxy-Authenticate: Basic\r\nProxy-Authentication-Info: x\r\nTE: trailers, deflate\r\nTrailer: X-T\r\nHTTP2-Settings: AAMA\r\n";
    let recorder = Recorder::answering(|_| {
        let answer = format!(
            "HTTP/1.1 200 OK\r\n{HOP}Content-Length: 2\r\nX-Own: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nok"
        );
        answer.into_bytes()
    })
    .await;
    let world = before(&recorder).await;
    let lines = format!("{HOP}Accept: */*\r\nCookie: c=1\r\nUser-Agent: u\r\nX-Two: 1\r\nX-Two: 2\r\n");
    let (reply, seen) = sent(&world, &recorder, "/v1/ok?q", lines.as_bytes()).await;
    let seen = seen.unwrap();
    let mut names: Vec<&str> = seen.headers.iter().map(|h| h.0.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "cookie",
            "host",
            "user-agent",
            "x-consumer-id",
            "x-environment",
            "x-features",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-key-id",
            "x-plan",
            "x-request-id",
            "x-two",
            "x-two",
        ]
    );
    assert_eq!((seen.target.as_str(), seen.all("x-two")), ("/v1/ok?q", vec!["1", "2"]));
    let mut names: Vec<&str> = reply.headers.iter().map(|h| h.0.as_str()).collect();
    names.sort_unstable();
    names.retain(|n| *n != "date");
    assert_eq!(
        names,
        [
            "connection",
            "content-length",
            "ratelimit",
            "ratelimit-policy",
            "set-cookie",
            "set-cookie",
            "x-own",
            "x-request-id"
        ]
    );
}

/// T18: names that an upstream may take for ours, however they are spelled. A failing case prints its seed.
#[test]
fn nobody_but_the_gateway_says_who_is_calling() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (world, recorder) = runtime.block_on(recorded());
    let ours = "(x[-_](consumer[-_]id|key[-_]id|plan|features|environment|request[-_]id|real[-_]ip|api[-_]key|forwarded[-_](for|host|proto|port|prefix))|forwarded)";
    let strategy = (ours, proptest::collection::vec(any::<bool>(), 24), 1usize..3);
    let config = Config {
        cases: 120,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&strategy, |(name, upper, times)| {
        let cased = name.chars().zip(upper.into_iter().chain(std::iter::repeat(false)));
        let spelled: String = cased
            .map(|(c, up)| if up { c.to_ascii_uppercase() } else { c })
            .collect();
        let lines = format!("{spelled}: forged\r\n").repeat(times);
        let (reply, seen) = runtime.block_on(sent(&world, &recorder, "/v1/ok", lines.as_bytes()));
        // Two credentials are no request.
        prop_assert!(
            reply.status == 200 || name.replace('_', "-") == "x-api-key",
            "{spelled}: {}",
            reply.status
        );
        if let Some(seen) = seen {
            prop_assert!(
                !seen.headers.iter().any(|h| h.1.contains("forged")),
                "{spelled} in {seen:?}"
            );
        }
        Ok(())
    });
    outcome.unwrap();
    for homograph in [
        &b"X-Pl\xd0\xb0n: forged\r\n"[..],
        b"X\xe2\x80\x90Plan: forged\r\n",
        b"\xef\xbc\xb8-Plan: forged\r\n",
        b"X-Plan\xc2\xa0: forged\r\n",
    ] {
        let (reply, seen) = runtime.block_on(sent(&world, &recorder, "/v1/ok", homograph));
        assert!(reply.status == 400 && seen.is_none(), "{homograph:?}: {reply:?}");
    }
    assert!(!recorder.saw(b"forged"));
    runtime.block_on(canary(&world, &recorder));
}

/// T19: whoever connects is the client, whatever it says about others; nobody is trusted to speak for another.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_address_comes_from_the_socket() {
    let (world, recorder) = recorded().await;
    for chain in [
        "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-For: 203.0.113.7, 10.0.0.1",
        "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 198.51.100.1",
        "X-Forwarded-For: 127.0.0.1, 203.0.113.7",
        "X-Forwarded-For: unknown, \"[2001:db8::1]:80\"",
        "X-Forwarded-For: ,,,203.0.113.7",
        "X-Forwarded-For:",
        "X_Forwarded_For: 203.0.113.7",
        "Forwarded: for=203.0.113.7;proto=https;host=evil.example",
        "Forwarded: for=\"[2001:db8::1]\", for=203.0.113.7",
        "X-Real-IP: 203.0.113.7",
        "X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Prefix: /evil",
    ] {
        let (reply, seen) = sent(&world, &recorder, "/v1/ok", format!("{chain}\r\n").as_bytes()).await;
        let seen = seen.unwrap();
        assert_eq!(reply.status, 200, "{chain}");
        assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"], "{chain}");
        assert_eq!(seen.all("x-forwarded-proto"), ["http"], "{chain}");
        assert_eq!(seen.all("x-forwarded-host"), ["api.example"], "{chain}");
        for gone in [
            "forwarded",
            "x-real-ip",
            "x-forwarded-port",
            "x-forwarded-prefix",
            "x_forwarded_for",
        ] {
            assert!(seen.all(gone).is_empty(), "{gone} with {chain}");
        }
    }
}

/// One reading of a path by somebody who is kind to it: every escape decoded, again and again, both slashes alike,
/// parameters cut, dots walked.
fn kindly(path: &str) -> Vec<String> {
    let mut bytes = path.split('?').next().unwrap().as_bytes().to_vec();
    for _ in 0..3 {
        let mut out = Vec::new();
        let mut i = 0;
        while i < bytes.len() {
            let pair = bytes.get(i + 1..i + 3).and_then(|p| std::str::from_utf8(p).ok());
            match pair
                .filter(|_| bytes[i] == b'%')
                .and_then(|p| u8::from_str_radix(p, 16).ok())
            {
                Some(byte) => {
                    out.push(byte);
                    i += 3;
                }
                None => {
                    out.push(bytes[i]);
                    i += 1;
                }
            }
        }
        bytes = out;
    }
    let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
    let mut walked: Vec<String> = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(walked.pop()),
            plain => walked.push(plain.to_owned()),
        }
    }
    walked
}

/// T22: a path let through is forwarded byte for byte, and the kindest reader gets to the same place as the strictest.
/// A failing case prints its seed.
#[test]
fn a_path_means_the_same_to_the_gateway_and_the_upstream() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (world, recorder) = runtime.block_on(recorded());
    let piece = "(/|//|\\.|\\.\\.|%2e|%2E|%2f|%5c|%00|%0a|%3b|%25|%252e|%c0%ae|%e0%80%af|%c3%a9|%ff|%u002e|;|\\\\|a|admin|heavy|~|@|:|\\?|#|%20|\\+)";
    let strategy = proptest::collection::vec(piece, 0..8);
    let config = Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&strategy, |pieces| {
        let target = format!("/v1/{}", pieces.concat());
        let (reply, seen) = runtime.block_on(sent(&world, &recorder, &target, b""));
        let Some(seen) = seen else {
            prop_assert!(matches!(reply.status, 400 | 404), "{target}: {}", reply.status);
            return Ok(());
        };
        prop_assert_eq!(&seen.target, &target, "forwarded byte for byte");
        let strict: Vec<String> = target
            .split('?')
            .next()
            .unwrap()
            .split('/')
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
            .collect();
        let kind = kindly(&target);
        prop_assert_eq!(kind.len(), strict.len(), "{}", target);
        prop_assert_eq!(&kind[0], "v1", "{}", target);
        Ok(())
    });
    outcome.unwrap();
}

/// T22: an address for every trick that is known by name.
#[tokio::test(flavor = "multi_thread")]
async fn known_tricks_with_paths_are_refused() {
    let (world, recorder) = recorded().await;
    for target in [
        "/v1/../heavy",
        "/v1/%2e%2e/heavy",
        "/v1/.%2e/heavy",
        "/v1/%2E./heavy",
        "/v1/..;/heavy",
        "/v1/%2e%2e%2fheavy",
        "/v1%2fheavy",
        "/v1/..%5cheavy",
        "/v1/\\..\\heavy",
        "/v1//heavy",
        "//heavy",
        "/v1/./heavy",
        "/v1/heavy/.",
        "/v1/%00",
        "/v1/a%00.json",
        "/v1/%0d%0aX-Plan:forged",
        "/v1/%c0%ae%c0%ae/heavy",
        "/v1/%e0%80%af",
        "/v1/%f8%80%80%80%af",
        "/v1/%fe",
        "/v1/%252e%252e/heavy",
        "/v1/%25%32%65",
        "/v1/%u002e",
        "/v1/%",
        "/v1/%2",
        "/v1/%zz",
        "/v1/a;b=c",
        "/v1/a%3bb",
        "/v1/%2f",
        "/v1/%5c",
        "/v1/%7f",
        "/v1/%09",
    ] {
        let (reply, seen) = sent(&world, &recorder, target, b"").await;
        assert!(reply.status == 400 && seen.is_none(), "{target}: {reply:?} {seen:?}");
    }
    // What only looks odd is one place, and stays as it was written.
    for target in [
        "/v1/a%20b",
        "/v1/%C3%A9",
        "/v1/%61",
        "/v1/...",
        "/v1/a..b",
        "/v1/~a!$&'()*+,=:@",
        "/v1/ok?a=../..//;%2e%00\\",
    ] {
        let (reply, seen) = sent(&world, &recorder, target, b"").await;
        assert_eq!((reply.status, seen.unwrap().target.as_str()), (200, target));
    }
}
