//! Refusals: their status, their kind, and that they say what to change.

use crate::{Answer, get, post, send};
use axum::body::Body;
use axum::http::{Method, Request, header};
use serde_json::json;

fn assert_problem(answer: &Answer, status: u16, slug: &str, detail: &str, what: &str) {
    assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.json);
    assert_eq!(
        answer.headers[header::CONTENT_TYPE],
        "application/problem+json",
        "{what}"
    );
    assert_eq!(answer.json["status"], status, "{what}");
    assert_eq!(
        answer.json["type"],
        format!("https://atlas.example/problems/{slug}"),
        "{what}"
    );
    let said = answer.json["detail"].as_str().unwrap();
    assert!(said.contains(detail), "{what}: {said:?} does not say {detail:?}");
}

#[tokio::test]
async fn wrong_parameters_are_refused_by_name() {
    let long = "a".repeat(100);
    for (path, detail) in [
        ("/v1/countries?limit=0", "limit"),
        ("/v1/countries?limit=251", "between 1 and 250"),
        ("/v1/countries?limit=-1", "limit"),
        ("/v1/countries?limit=ten", "limit"),
        ("/v1/countries?limit=1&limit=2", "duplicate field `limit`"),
        ("/v1/countries?page=2", "unknown field `page`"),
        (&format!("/v1/countries?q={long}"), "q: longer than 80 bytes"),
        ("/v1/countries?after=1", "two or three letters"),
        ("/v1/countries/CH?lang=de", "unknown field `lang`"),
        ("/v1/countries/C", "two or three letters"),
        ("/v1/countries/C1", "two or three letters"),
        ("/v1/countries/%C3%A9", "two or three letters"),
        ("/v1/countries/%FF", "UTF-8"),
        ("/v1/currencies/FRANC", "three letters or three digits"),
        ("/v1/currencies/+12", "three letters or three digits"),
        ("/v1/currencies/CHF?x", "unknown field `x`"),
        ("/v1/time", "missing field `zone`"),
        ("/v1/time?zone=UTC&at=noon", "RFC 3339"),
        ("/v1/time?zone=UTC&at=2026-07-01T12:00:00+02:00", "%2B"),
        ("/v1/time?zone=UTC&at=2026-07-01", "RFC 3339"),
        ("/v1/time?zone=UTC&format=short", "unknown field `format`"),
        ("/v1/transitions?zone=UTC", "missing field `year`"),
        ("/v1/transitions?zone=UTC&year=1849", "between 1850 and 2199"),
        ("/v1/transitions?zone=UTC&year=2200", "between 1850 and 2199"),
        ("/v1/transitions?zone=UTC&year=99999", "year"),
        ("/v1/clock?at=now", "unknown field `at`"),
    ] {
        assert_problem(&get(path).await, 400, "invalid-parameter", detail, path);
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let long = format!("/v1/time?zone={}", "a".repeat(5000));
    for (path, slug) in [
        ("/v1/countries/ZZ", "unknown-country"),
        ("/v1/countries/000", "unknown-country"),
        ("/v1/countries?after=ZZ", "unknown-country"),
        ("/v1/currencies/QQQ", "unknown-currency"),
        ("/v1/currencies/000", "unknown-currency"),
        ("/v1/time?zone=Europe/Zuerich", "unknown-zone"),
        ("/v1/time?zone=", "unknown-zone"),
        ("/v1/time?zone=../../etc/passwd", "unknown-zone"),
        (&long, "unknown-zone"),
        ("/v1/transitions?zone=Mars&year=2026", "unknown-zone"),
        ("/v1/clock?zone=Mars", "unknown-zone"),
        ("/", "no-such-path"),
        ("/v1/countries/", "no-such-path"),
        ("/v2/countries", "no-such-path"),
    ] {
        assert_problem(&get(path).await, 404, slug, "", path);
    }
}

#[tokio::test]
async fn other_methods_are_told_which_to_use() {
    for (method, path, allow) in [
        (Method::POST, "/v1/countries", "GET,HEAD"),
        (Method::DELETE, "/v1/countries/CH", "GET,HEAD"),
        (Method::PUT, "/v1/currencies/CHF", "GET,HEAD"),
        (Method::PATCH, "/v1/time", "GET,HEAD"),
        (Method::POST, "/v1/transitions", "GET,HEAD"),
        (Method::POST, "/v1/clock", "GET,HEAD"),
        (Method::GET, "/v1/batch", "POST"),
        (Method::DELETE, "/openapi.json", "GET,HEAD"),
    ] {
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .body(Body::empty())
            .unwrap();
        let answer = send(request).await;
        assert_problem(&answer, 405, "method-not-allowed", method.as_str(), path);
        assert_eq!(answer.headers[header::ALLOW], allow, "{method} {path}");
    }
}

#[tokio::test]
async fn bodies_that_are_no_batch_are_refused() {
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"lookups": 3}"#,
        r#"{"lookups": [], "more": 1}"#,
    ] {
        assert_problem(&post("/v1/batch", body).await, 400, "invalid-body", "", body);
    }
    let request = Request::post("/v1/batch").body(Body::from("{}")).unwrap();
    assert_problem(
        &send(request).await,
        415,
        "unsupported-media-type",
        "application/json",
        "no content type",
    );
}

#[tokio::test]
async fn a_body_has_64_kib_at_most() {
    let padded = |bytes: usize| {
        let batch = json!({"lookups": [{"currency": "CHF"}]}).to_string();
        format!("{batch}{}", " ".repeat(bytes - batch.len()))
    };
    assert_eq!(post("/v1/batch", padded(atlas::MAX_BODY_BYTES)).await.status, 200);
    let answer = post("/v1/batch", padded(atlas::MAX_BODY_BYTES + 1)).await;
    assert_problem(&answer, 413, "body-too-large", "65536 bytes", "one more byte");
}

#[tokio::test]
async fn only_data_that_stays_may_be_cached() {
    for (path, expected) in [
        ("/v1/countries", "public, max-age=86400"),
        ("/v1/countries/CH", "public, max-age=86400"),
        ("/v1/currencies/CHF", "public, max-age=86400"),
        ("/v1/transitions?zone=UTC&year=2026", "public, max-age=86400"),
        ("/v1/time?zone=UTC", "no-store"),
    ] {
        assert_eq!(get(path).await.headers[header::CACHE_CONTROL], expected, "{path}");
    }
    assert!(
        !get("/v1/countries/ZZ")
            .await
            .headers
            .contains_key(header::CACHE_CONTROL)
    );
}
