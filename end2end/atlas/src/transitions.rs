//! The moments of a year at which the clocks of a zone change.

use crate::problem::{Kind, Problem};
use crate::request::Params;
use crate::time::{Rule, zone};
use axum::Json;
use axum::response::IntoResponse;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Before it zones kept local mean time; after it today's rules are guesses.
const YEARS: RangeInclusive<i16> = 1850..=2199;
/// An instant is kept to the nanosecond: one step back from a transition the old rule holds.
const STEP: SignedDuration = SignedDuration::from_nanos(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListParams {
    zone: String,
    year: i16,
}

/// The changes of a zone in a year (of UTC), in order.
#[derive(Debug, Serialize)]
pub(crate) struct Transitions {
    zone: String,
    year: i16,
    transitions: Vec<Transition>,
}

#[derive(Debug, Serialize)]
struct Transition {
    at: Timestamp,
    /// How far the clocks move; negative is back.
    shift_seconds: i32,
    before: Rule,
    after: Rule,
}

pub(crate) async fn list(Params(params): Params<ListParams>) -> Result<impl IntoResponse, Problem> {
    let zone = zone(&params.zone)?;
    let years = YEARS
        .contains(&params.year)
        .then(|| Some((start_of(params.year)?, start_of(params.year + 1)?)))
        .flatten();
    let Some((start, end)) = years else {
        let detail = format!(
            "year: {} is not between {} and {}",
            params.year,
            YEARS.start(),
            YEARS.end()
        );
        return Err(Problem::new(Kind::InvalidParameter, detail));
    };
    let transitions = zone
        .following(start - STEP)
        .take_while(|t| t.timestamp() < end)
        .map(|t| Transition::at(&zone, t.timestamp()))
        // The database also has entries that change nothing one can see.
        .filter(|t| t.before != t.after)
        .collect();
    let answer = Transitions {
        zone: zone.iana_name().unwrap_or("UTC").to_owned(),
        year: params.year,
        transitions,
    };
    Ok((crate::STATIC_DATA, Json(answer)))
}

/// The first instant of a year of UTC.
fn start_of(year: i16) -> Option<Timestamp> {
    let day = civil::Date::new(year, 1, 1).ok()?;
    Some(day.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

impl Transition {
    fn at(zone: &TimeZone, at: Timestamp) -> Self {
        let (before, after) = (Rule::at(zone, at - STEP), Rule::at(zone, at));
        Self {
            at,
            shift_seconds: after.offset_seconds() - before.offset_seconds(),
            before,
            after,
        }
    }
}
