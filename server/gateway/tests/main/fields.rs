//! Fields of the answer that need a feature which the caller's plan has not.

use crate::scripted::*;
use crate::support::*;

const POLICY: &str = r#"{"gates": [
    {"feature": "history", "response_fields": ["population.history", "neighbours[*].trade"]},
    {"feature": "search", "response_fields": ["name"]}
]}"#;
const JSON: &str = "Content-Type: application/json\r\n";
const COUNTRY: &str = "{\n  \"name\": \"Schw\\u0065iz\",\n  \"population\": {\"now\": 8.90e6, \"\\u0068istory\": [1, {\"a\": \"}\"}]},\n  \
    \"neighbours\": [ {\"code\":\"FR\",\"trade\":1}, {\"trade\":2, \"code\":\"DE\"} ]\n}\n";
const LEFT: &str = "{\n  \"name\": \"Schw\\u0065iz\",\n  \"population\": {\"now\": 8.90e6},\n  \
    \"neighbours\": [ {\"code\":\"FR\"}, { \"code\":\"DE\"} ]\n}\n";

async fn world(script: impl Fn(&str) -> Pieces + Send + Sync + 'static) -> (World, Scripted) {
    let upstream = Scripted::start(script).await;
    let world = upstream.world(&[("country", "/country", POLICY)]).await;
    (world, upstream)
}

async fn ask(world: &World, method: &str, lines: &str) -> Reply {
    let key = world.key.reveal();
    let head = format!("{method} /country HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{lines}");
    world.send(&head, "").await
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

/// What a chunked body holds; whether it came to its end.
fn unchunked(mut body: &[u8]) -> (String, bool) {
    let mut out = Vec::new();
    while let Some(line) = body.windows(2).position(|w| w == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&body[..line]).unwrap(), 16).unwrap();
        if length == 0 {
            return (String::from_utf8(out).unwrap(), true);
        }
        let data = &body[line + 2..];
        out.extend_from_slice(&data[..length.min(data.len())]);
        body = data.get(length + 2..).unwrap_or_default();
    }
    (String::from_utf8(out).unwrap(), false)
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_left_out_and_the_rest_stays_byte_for_byte() {
    let lines = format!(
        "{JSON}ETag: \"v1\"\r\nLast-Modified: Sun, 01 Nov 2026 00:00:00 GMT\r\nContent-MD5: x\r\nDigest: x\r\n\
         Content-Digest: x\r\nRepr-Digest: x\r\nAccept-Ranges: bytes\r\nX-Own: 1\r\n"
    );
    let (world, upstream) = world(move |_| whole("200 OK", &lines, COUNTRY)).await;
    let reply = ask(
        &world,
        "GET",
        "Accept-Encoding: gzip, br\r\nRange: bytes=0-99\r\nIf-Range: \"v1\"\r\n",
    )
    .await;
    assert_eq!(
        (reply.status, String::from_utf8_lossy(&reply.body).as_ref()),
        (200, LEFT)
    );
    assert_eq!(reply.header("content-length"), Some(&*LEFT.len().to_string()));
    assert!(reply.header("etag").unwrap().starts_with("W/\"v1-"));
    for gone in [
        "last-modified",
        "content-md5",
        "digest",
        "content-digest",
        "repr-digest",
        "accept-ranges",
    ] {
        assert_eq!(reply.header(gone), None, "{gone}");
    }
    assert_eq!(reply.header("x-own"), Some("1"));
    let asked = upstream.last().to_ascii_lowercase();
    assert!(
        asked.contains("accept-encoding: identity\r\n") && !asked.contains("gzip"),
        "{asked}"
    );
    assert!(!asked.contains("range:"), "{asked}");
    let rows = world.shipped().await;
    assert_eq!(
        rows[0].response_bytes,
        u64::try_from(LEFT.len()).unwrap(),
        "what left is what is written down"
    );

    let head = ask(&world, "HEAD", "").await;
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, None, 0)
    );
    assert_eq!(head.header("etag"), reply.header("etag"));
}

/// With the feature nothing of the request or the answer is touched.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_with_the_feature_sees_all() {
    let lines = format!("{JSON}ETag: \"v1\"\r\nAccept-Ranges: bytes\r\n");
    let (world, upstream) = world(move |_| whole("200 OK", &lines, COUNTRY)).await;
    assert_eq!(ask(&world, "GET", "").await.body, LEFT.as_bytes());
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.features.push("history".to_owned()));
    world.synced().await;
    let reply = ask(&world, "GET", "Accept-Encoding: gzip\r\nRange: bytes=0-9\r\n").await;
    assert_eq!(reply.body, COUNTRY.as_bytes());
    assert_eq!(
        (reply.header("etag"), reply.header("accept-ranges")),
        (Some("\"v1\""), Some("bytes"))
    );
    let asked = upstream.last().to_ascii_lowercase();
    assert!(
        asked.contains("accept-encoding: gzip\r\n") && asked.contains("range: bytes=0-9\r\n"),
        "{asked}"
    );
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.features = Vec::new());
    world.synced().await;
    let without_name = LEFT.replacen("\n  \"name\": \"Schw\\u0065iz\",", "", 1);
    assert_eq!(
        String::from_utf8(ask(&world, "GET", "").await.body).unwrap(),
        without_name
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_pieces_of_any_size_is_filtered() {
    let (world, _upstream) = world(|_| {
        let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n{JSON}\r\n");
        let pieces = COUNTRY
            .as_bytes()
            .chunks(3)
            .map(|p| chunk(std::str::from_utf8(p).unwrap()));
        [head.into_bytes()]
            .into_iter()
            .chain(pieces)
            .chain([b"0\r\n\r\n".to_vec()])
            .collect()
    })
    .await;
    let reply = ask(&world, "GET", "").await;
    assert_eq!(reply.header("content-length"), None);
    assert_eq!(unchunked(&reply.body), (LEFT.to_owned(), true));
}

/// Many times the size of what the gateway would keep; the rest arrives while the document is still being made.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_document_streams() {
    const ROWS: usize = 40_000;
    let row = r#"{"code":"FR","trade":{"of":[1,2,3],"in":"a \"string\" }"},"name":"kept"}"#;
    let left = r#"{"code":"FR","name":"kept"}"#;
    let body = |row: &str| format!("{{\"neighbours\":[{}]}}", vec![row; ROWS].join(","));
    let document = body(row);
    let (world, _upstream) = world(move |_| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n{JSON}\r\n",
            document.len()
        );
        let pieces = document.as_bytes().chunks(100_000).map(<[u8]>::to_vec);
        [head.into_bytes()].into_iter().chain(pieces).collect()
    })
    .await;
    let reply = ask(&world, "GET", "").await;
    let (text, ended) = unchunked(&reply.body);
    assert!(ended && text == body(left), "{} bytes", text.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_filtered_as_they_come() {
    let (world, _upstream) = world(|_| {
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\n\r\n";
        let lines = "{\"population\":{\"history\":1}}\n[1]\n{\"population\":{\"now\":1,\"history\":2}}\n";
        vec![head.into(), lines.into(), lines.into()]
    })
    .await;
    let left = "{\"population\":{}}\n[1]\n{\"population\":{\"now\":1}}\n".repeat(2);
    let reply = ask(&world, "GET", "").await;
    let (text, _) = if reply.header("content-length").is_some() {
        (String::from_utf8(reply.body).unwrap(), true)
    } else {
        unchunked(&reply.body)
    };
    assert_eq!(text, left);
}

/// Answers that hold a secret where it cannot be left out: name, head lines, body, status and problem.
fn unfit(secret: &str) -> Vec<(&'static str, String, String, u16, &'static str)> {
    vec![
        (
            "packed",
            format!("{JSON}Content-Encoding: gzip\r\n"),
            secret.into(),
            502,
            "upstream-broken",
        ),
        (
            "not-json",
            JSON.into(),
            format!("{{\"population\":{{\"history\":\"{secret}\""),
            502,
            "upstream-broken",
        ),
        (
            "trailing",
            JSON.into(),
            format!("{{}} {secret}"),
            502,
            "upstream-broken",
        ),
        (
            "comment",
            JSON.into(),
            format!("{{/*{secret}*/}}"),
            502,
            "upstream-broken",
        ),
        (
            "utf16",
            "Content-Type: application/json; charset=utf-16\r\n".into(),
            secret.into(),
            502,
            "upstream-broken",
        ),
        (
            "csv",
            "Content-Type: text/csv\r\n".into(),
            secret.into(),
            406,
            "format-refused",
        ),
        (
            "nameless",
            String::new(),
            format!("{{\"population\":{{\"history\":\"{secret}\"}}}}"),
            406,
            "format-refused",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_filtered_is_withheld() {
    let secret = "the secret";
    let cases = unfit(secret);
    let script = cases.clone();
    let (world, _upstream) = world(move |request| {
        let case = script
            .iter()
            .find(|c| request.contains(&format!("x-case: {}\r\n", c.0)))
            .unwrap();
        whole("200 OK", &case.1, &case.2)
    })
    .await;
    for (name, _, _, status, problem) in &cases {
        let reply = ask(&world, "GET", &format!("X-Case: {name}\r\n")).await;
        assert_eq!((reply.status, reply.problem().as_str()), (*status, *problem), "{name}");
        assert!(!String::from_utf8_lossy(&reply.body).contains(secret), "{name}");
    }
    let rows = world.shipped().await;
    assert!(
        rows.iter().all(|r| r.units == 1 && r.refusal != 0),
        "the upstream did what it was asked: {rows:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn other_answers_pass() {
    let (world, _upstream) = world(|request| {
        let case = |name: &str| request.contains(&format!("x-case: {name}\r\n"));
        if case("picture") {
            whole(
                "200 OK",
                "Content-Type: image/png\r\nContent-Encoding: identity\r\n",
                "\u{1}png",
            )
        } else if case("error") {
            whole("500 Internal Server Error", "Content-Type: text/html\r\n", "<p>sorry")
        } else if case("error-json") {
            whole("404 Not Found", JSON, r#"{"population":{"history":1}}"#)
        } else if case("problem") {
            whole(
                "200 OK",
                "Content-Type: application/vnd.x+json; charset=\"UTF-8\"\r\n",
                r#"{"population":{"history":1}}"#,
            )
        } else {
            vec![b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_vec()]
        }
    })
    .await;
    for (name, status, body) in [
        ("picture", 200, "\u{1}png"),
        ("error", 500, "<p>sorry"),
        ("error-json", 404, r#"{"population":{}}"#),
        ("problem", 200, r#"{"population":{}}"#),
        ("nothing", 204, ""),
    ] {
        let reply = ask(&world, "GET", &format!("X-Case: {name}\r\n")).await;
        assert_eq!(
            (reply.status, String::from_utf8(reply.body).unwrap().as_str()),
            (status, body),
            "{name}"
        );
    }
}

/// The stream had begun: it is broken off, and what was gated is in no part of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_goes_wrong_on_the_way_is_broken_off() {
    let (world, _upstream) = world(|_| {
        let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n{JSON}\r\n");
        let begin = format!("{{\"a\":\"{}\",", "x".repeat(200_000));
        let wrong = "\"population\":{\"history\":\"the secret\"]}";
        let mut pieces = vec![head.into_bytes(), chunk(&begin)];
        pieces.extend([chunk(wrong), b"0\r\n\r\n".to_vec()]);
        pieces
    })
    .await;
    let reply = ask(&world, "GET", "").await;
    let (text, ended) = unchunked(&reply.body);
    assert_eq!(reply.status, 200);
    assert!(!ended && text.starts_with("{\"a\":\"xxx"), "{} bytes", text.len());
    assert!(!text.contains("the secret") && !text.contains("history"));
}

/// A copy from before a change of plan is not taken for the answer after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_copy_is_only_compared_with_its_like() {
    let (world, upstream) = world(|request| {
        if request.to_ascii_lowercase().contains("if-none-match: w/\"v1\"\r\n") {
            return vec![b"HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\nConnection: close\r\n\r\n".to_vec()];
        }
        whole("200 OK", &format!("{JSON}ETag: \"v1\"\r\n"), COUNTRY)
    })
    .await;
    let tag = ask(&world, "GET", "").await.header("etag").unwrap().to_owned();
    let again = ask(&world, "GET", &format!("If-None-Match: {tag}\r\n")).await;
    assert_eq!((again.status, again.header("etag")), (304, Some(tag.as_str())));
    for other in ["\"v1\"", "W/\"v1\"", "*", "W/\"v1-00000000\""] {
        let all = format!("If-None-Match: {other}\r\nIf-Modified-Since: Sun, 01 Nov 2026 00:00:00 GMT\r\n");
        let reply = ask(&world, "GET", &all).await;
        assert_eq!((reply.status, reply.body), (200, LEFT.as_bytes().to_vec()), "{other}");
        assert!(
            !upstream.last().to_ascii_lowercase().contains("\r\nif-"),
            "{}",
            upstream.last()
        );
    }
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.features.push("history".to_owned()));
    world.synced().await;
    let reply = ask(&world, "GET", &format!("If-None-Match: {tag}\r\n")).await;
    assert_eq!((reply.status, reply.body), (200, COUNTRY.as_bytes().to_vec()));
}
