//! What time it is: the injected clock, and the stream that tells it every second.

use crate::problem::Problem;
use crate::request::Params;
use crate::time::{LocalTime, zone};
use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use futures::stream;
use jiff::Timestamp;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Between two events.
const TICK: Duration = Duration::from_secs(1);
/// Events in a stream: an hour of them, so that a forgotten one ends. A browser connects again by itself.
const MAX_TICKS: u32 = 3600;

/// Tells the time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that shows what `now` returns.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamParams {
    #[serde(default = "utc")]
    zone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// Server-sent events named `tick`; their data is what `/v1/time` answers.
pub(crate) async fn stream(
    State(clock): State<Clock>,
    Params(params): Params<StreamParams>,
) -> Result<impl IntoResponse, Problem> {
    let zone = zone(&params.zone)?;
    let mut ticks = interval(TICK);
    // A reader that stood still wants the time now, not the seconds it missed.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let events = stream::unfold((ticks, 0), move |(mut ticks, sent)| {
        let (clock, zone) = (clock.clone(), zone.clone());
        async move {
            if sent == MAX_TICKS {
                return None;
            }
            ticks.tick().await;
            let at = clock.now();
            let event = Event::default()
                .event("tick")
                .id(at.as_second().to_string())
                .json_data(LocalTime::new(&zone, at));
            Some((event, (ticks, sent + 1)))
        }
    });
    Ok((crate::MOMENTARY, Sse::new(events)))
}
