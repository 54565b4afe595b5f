//! The access log: a line for each request, without secrets, and never in the way of one.

use crate::clients::with_config;
use crate::metrics::metrics;
use crate::support::*;
use gateway::{AccessLogConfig, AccessLogTo};
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A gateway that logs to `path`, in the world's folder where it is relative.
async fn logging(path: &str, sample: &str) -> (World, PathBuf) {
    let world = with_config(|config, world| {
        config.access_log = Some(AccessLogConfig {
            to: AccessLogTo::File(world.folder.0.join(path)),
            sample: sample.parse().unwrap(),
        });
    })
    .await;
    let path = world.folder.0.join(path);
    (world, path)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
    whole.map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_says_who_asked_for_what_and_what_came_of_it() {
    let (world, path) = logging("access.log", "1").await;
    let key = world.key.reveal();
    let head = format!(
        "POST /v1/chunked?secret={key} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nTraceparent: {TRACEPARENT}\r\nContent-Length: 4\r\n"
    );
    let reply = world.send(&head, "body").await;
    assert_eq!(reply.status, 200);
    let passed_on = world.upstream.last().to_ascii_lowercase();
    assert!(
        passed_on.contains(&format!("traceparent: {TRACEPARENT}\r\n")),
        "a trace goes through untouched"
    );
    until(|| lines(&path).len() == 1).await;
    let line = &lines(&path)[0];
    for (field, value) in [
        ("method", "POST"),
        ("path", "/v1/chunked"),
        ("route", "all"),
        ("plan", "pro"),
        ("upstream", "main"),
        ("client", "127.0.0.1"),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
        ("request_id", reply.header("x-request-id").unwrap()),
        ("consumer", &world.consumer.to_string()),
        ("time", "2026-11-02T00:00:00Z"),
    ] {
        assert_eq!(line[field], value, "{field} of {line}");
    }
    let row = &world.shipped().await[0];
    assert_eq!(line["key"], row.key.to_string());
    assert_eq!(line["target"], format!("http://{}", world.upstream.addr));
    for (field, number) in [("status", 200), ("request_bytes", 4), ("response_bytes", 5)] {
        assert_eq!(line[field], number, "{field} of {line}");
    }
    let number = |field: &str| line[field].as_u64().unwrap();
    assert!(number("first_byte_us") > 0 && number("first_byte_us") <= number("duration_us"));
    assert_eq!(line.get("refusal"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_one_line_and_no_line_has_a_secret() {
    let (world, path) = logging("access.log", "1").await;
    let key = world.key.reveal();
    let mut ids = HashSet::new();
    for (line, refusal) in [
        (format!("GET /v1/{key}/ok HTTP/1.1\r\nX-API-Key: {key}"), None),
        (format!("GET /v1/ok?key={key} HTTP/1.1"), Some("credential-misplaced")),
        (format!("GET /{key}?a={key} HTTP/1.1"), Some("no-route")),
        (
            format!("GET /export HTTP/1.1\r\nX-API-Key: {key}"),
            Some("feature-missing"),
        ),
        (
            format!("GET /down HTTP/1.1\r\nX-API-Key: {key}"),
            Some("upstream-unreachable"),
        ),
        (format!("GET /v1/ok?{key} HTTP/7.7"), Some("bad-request")),
    ] {
        let reply = world.send(&format!("{line}\r\nHost: a\r\n"), "").await;
        let id = reply.header("x-request-id").unwrap().to_owned();
        let mine = || {
            lines(&path)
                .into_iter()
                .filter(|l| l["request_id"] == *id)
                .collect::<Vec<_>>()
        };
        until(|| !mine().is_empty()).await;
        let mine = mine();
        assert_eq!(mine.len(), 1);
        assert_eq!(mine[0]["status"], reply.status);
        assert_eq!(mine[0].get("refusal").and_then(Value::as_str), refusal, "{line}");
        ids.insert(id);
    }
    let all = lines(&path);
    assert_eq!(all.len(), ids.len());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(key) && text.contains("/v1/[key]/ok"), "{text}");
    assert_eq!(metrics(&world).sum("access_log_lines_total", &[]), 6.0);
    let down = all.iter().find(|l| l["route"] == "down").unwrap();
    assert_eq!(down["target"], "http://127.0.0.1:1", "whose fault it was is said, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_leaves_out_what_went_well() {
    let (world, path) = logging("access.log", "0").await;
    for path in ["/v1/ok", "/v1/status/404", "/v1/status/500", "/nothing"] {
        world.get(path).await;
    }
    until(|| lines(&path).len() == 2).await;
    let statuses: Vec<Value> = lines(&path).iter().map(|l| l["status"].clone()).collect();
    assert_eq!(statuses, [500, 404], "the failure, and the refusal");
    assert_eq!(lines(&path)[1]["refusal"], "no-route");
    let (half, path) = logging("half.log", "0.5").await;
    for _ in 0..200 {
        half.get("/v1/ok").await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let written = lines(&path).len();
    assert!((50..150).contains(&written), "{written} of 200, seed 7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_moved_is_opened_anew() {
    let (world, path) = logging("access.log", "1").await;
    world.get("/v1/ok").await;
    until(|| lines(&path).len() == 1).await;
    let moved = world.folder.0.join("access.log.1");
    std::fs::rename(&path, &moved).unwrap();
    world.gateway.as_ref().unwrap().reopen_access_log();
    until(|| path.exists()).await;
    world.get("/v1/ok").await;
    until(|| lines(&path).len() == 1).await;
    std::fs::remove_file(&path).unwrap();
    until(|| path.exists()).await;
    world.get("/v1/ok").await;
    until(|| lines(&path).len() == 1).await;
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    world.get("/v1/ok").await;
    until(|| lines(&path).len() == 1).await;
    assert_eq!(lines(&moved).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_no_request() {
    let (mut world, _) = logging("/dev/full", "1").await;
    for _ in 0..20 {
        assert_eq!(world.get("/v1/ok").await.status, 200);
    }
    until(|| metrics(&world).sum("access_log_dropped_total", &[]) == 20.0).await;
    assert_eq!(metrics(&world).sum("access_log_lines_total", &[]), 0.0);
    assert_eq!(world.shipped().await.len(), 20);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_nobody_reads_stops_no_request() {
    let mut world = World::new().await;
    world.stop().await;
    let pipe = world.folder.0.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let mut config = config(&world.folder.0);
    config.access_log = Some(AccessLogConfig {
        to: AccessLogTo::File(pipe),
        sample: gateway::Share::ALL,
    });
    world.start_with(config);
    world.synced().await;
    // A pipe holds 64 kB, the channel the lines behind it.
    let one = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n",
        world.key.reveal()
    );
    let many = format!("{one}\r\n").repeat(2_000) + &one + "Connection: close\r\n\r\n";
    for _ in 0..10 {
        let answers = raw(world.addr, many.as_bytes()).await;
        let answers = String::from_utf8_lossy(&answers).matches("HTTP/1.1 200 OK").count();
        assert_eq!(answers, 2_001);
        // The plan's rate limit is none of this.
        world.clock.advance(30_000);
    }
    let read = metrics(&world);
    assert!(read.sum("access_log_dropped_total", &[]) > 0.0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_opened_stops_the_start() {
    let mut world = World::new().await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.access_log = Some(AccessLogConfig {
        to: AccessLogTo::File("/nowhere/at/all".into()),
        sample: gateway::Share::ALL,
    });
    let error = world.try_start_with(config).unwrap_err();
    assert!(error.to_string().contains("access log"), "{error}");
    for wrong in ["", "-0.1", "1.1", "NaN", "half"] {
        assert!(wrong.parse::<gateway::Share>().is_err(), "{wrong}");
    }
}
