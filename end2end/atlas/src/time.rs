//! Local time at an instant in a time zone.

use crate::clock::Clock;
use crate::problem::{Kind, Problem};
use crate::request::Params;
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// Longest zone name, in bytes; the longest in the database has 32.
const MAX_ZONE_BYTES: usize = 64;
/// Longest `at`, in bytes: nanoseconds and an offset fit in 36.
const MAX_AT_BYTES: usize = 64;

/// The database inside the binary: the answer must not depend on the machine.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Which zone, when.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeLookup {
    zone: String,
    at: Option<String>,
}

/// What clocks in a zone show at an instant.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LocalTime {
    zone: String,
    at: Timestamp,
    local: String,
    #[serde(flatten)]
    rule: Rule,
}

/// The part of a zone's rules that holds at an instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Rule {
    offset: String,
    offset_seconds: i32,
    abbreviation: String,
    dst: bool,
}

pub(crate) async fn show(
    State(clock): State<Clock>,
    Params(lookup): Params<TimeLookup>,
) -> Result<impl IntoResponse, Problem> {
    Ok((crate::MOMENTARY, Json(answer(&lookup, &clock)?)))
}

/// Answers a lookup; without `at`, for now.
pub(crate) fn answer(lookup: &TimeLookup, clock: &Clock) -> Result<LocalTime, Problem> {
    let zone = zone(&lookup.zone)?;
    let at = match lookup.at.as_deref() {
        Some(text) => instant(text)?,
        None => clock.now(),
    };
    Ok(LocalTime::new(&zone, at))
}

/// A zone by its IANA name, in any case.
pub(crate) fn zone(name: &str) -> Result<TimeZone, Problem> {
    let known = (name.len() <= MAX_ZONE_BYTES).then(|| ZONES.get(name).ok()).flatten();
    known.ok_or_else(|| {
        let shown: String = name.chars().take(MAX_ZONE_BYTES).collect();
        let detail = format!("The IANA time zone database has no {shown:?}; a name looks like Europe/Zurich.");
        Problem::new(Kind::UnknownZone, detail)
    })
}

fn instant(text: &str) -> Result<Timestamp, Problem> {
    let read = (text.len() <= MAX_AT_BYTES).then(|| text.parse().ok()).flatten();
    read.ok_or_else(|| {
        let detail = "at: not an RFC 3339 time such as 2026-07-01T12:00:00Z (in a query, write + as %2B)";
        Problem::new(Kind::InvalidParameter, detail)
    })
}

impl LocalTime {
    pub(crate) fn new(zone: &TimeZone, at: Timestamp) -> Self {
        Self {
            zone: zone.iana_name().unwrap_or("UTC").to_owned(),
            at,
            local: at.display_with_offset(zone.to_offset(at)).to_string(),
            rule: Rule::at(zone, at),
        }
    }
}

impl Rule {
    pub(crate) fn at(zone: &TimeZone, at: Timestamp) -> Self {
        let info = zone.to_offset_info(at);
        Self {
            offset: shown(info.offset()),
            offset_seconds: info.offset().seconds(),
            abbreviation: info.abbreviation().to_owned(),
            dst: info.dst().is_dst(),
        }
    }

    pub(crate) fn offset_seconds(&self) -> i32 {
        self.offset_seconds
    }
}

/// `+02:00`, and `-00:01:15` for the local mean times of the nineteenth century.
fn shown(offset: Offset) -> String {
    let sign = if offset.seconds() < 0 { '-' } else { '+' };
    let all = offset.seconds().unsigned_abs();
    let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
    if seconds == 0 {
        format!("{sign}{hours:02}:{minutes:02}")
    } else {
        format!("{sign}{hours:02}:{minutes:02}:{seconds:02}")
    }
}
