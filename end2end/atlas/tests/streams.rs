//! The streamed clock, on tokio's paused time: seconds pass as soon as nobody has anything else to do.

use atlas::Clock;
use axum::body::Body;
use axum::http::{Request, header};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tower::ServiceExt;

/// A clock that follows tokio's.
fn router() -> axum::Router {
    let (start, began) = (crate::NOW.parse::<Timestamp>().unwrap(), tokio::time::Instant::now());
    atlas::router(Clock::new(move || {
        start + SignedDuration::try_from(began.elapsed()).unwrap()
    }))
}

async fn open(path: &str) -> axum::response::Response {
    router()
        .oneshot(Request::get(path).body(Body::empty()).unwrap())
        .await
        .unwrap()
}

/// The `data` of an event that must be a tick, and its id.
pub(crate) fn tick(frame: &[u8]) -> (String, Value) {
    let text = std::str::from_utf8(frame).unwrap();
    let line = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).unwrap().to_owned();
    assert_eq!(line("event: "), "tick");
    assert!(text.ends_with("\n\n"), "an event ends with an empty line: {text:?}");
    (line("id: "), serde_json::from_str(&line("data: ")).unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_event_a_second() {
    let mut response = open("/v1/clock?zone=Asia/Tokyo").await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    for second in 0..3 {
        let frame = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        let (id, data) = tick(&frame);
        let at = crate::NOW.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(second);
        assert_eq!(id, at.as_second().to_string());
        assert_eq!(data["at"], at.to_string());
        assert_eq!(data["local"], format!("2026-11-21T14:00:0{second}+09:00"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_after_an_hour() {
    let body = open("/v1/clock").await.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&body).unwrap();
    assert_eq!(text.matches("event: tick\n").count(), 3600);
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    assert_eq!(
        tick(format!("{last}\n\n").as_bytes()).1["local"],
        "2026-11-21T05:59:59+00:00"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_the_time_now() {
    let mut response = open("/v1/clock").await;
    response.body_mut().frame().await.unwrap().unwrap();
    tokio::time::advance(std::time::Duration::from_millis(10_500)).await;
    let mut next = async || {
        let frame = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        tick(&frame).1["at"].as_str().unwrap().to_owned()
    };
    assert_eq!(next().await, "2026-11-21T05:00:10.5Z");
    let following: Timestamp = next().await.parse().unwrap();
    assert_eq!(
        following.as_second() - crate::NOW.parse::<Timestamp>().unwrap().as_second(),
        11,
        "no burst of old ones"
    );
}
