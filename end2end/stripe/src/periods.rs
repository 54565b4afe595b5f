//! Billing periods in UTC: month ends clamp (31 January, 28 February, 31 March), counted from the anchor.

use jiff::{Span, Timestamp, tz::TimeZone};

/// A billing interval: unit and count, such as one month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) unit: String,
    pub(crate) count: i64,
}

impl Interval {
    /// `times` intervals after an instant, in unix seconds.
    pub(crate) fn after(&self, instant: i64, times: i64) -> i64 {
        let count = self.count.saturating_mul(times);
        let span = match self.unit.as_str() {
            "day" => Span::new().try_days(count),
            "week" => Span::new().try_weeks(count),
            "year" => Span::new().try_years(count),
            _ => Span::new().try_months(count),
        };
        let moved = Timestamp::from_second(instant).and_then(|at| {
            let moved = at.to_zoned(TimeZone::UTC).datetime().checked_add(span?)?;
            moved.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp().as_second())
        });
        moved.unwrap_or(i64::MAX)
    }

    /// The period that holds an instant, as start (within) and end (without), for periods counted from an anchor.
    pub(crate) fn period(&self, anchor: i64, instant: i64) -> (i64, i64) {
        let longest = match self.unit.as_str() {
            "day" => 86_400,
            "week" => 7 * 86_400,
            "year" => 366 * 86_400,
            _ => 31 * 86_400,
        };
        let mut index = (instant - anchor).div_euclid(longest * self.count.max(1));
        while self.after(anchor, index) > instant {
            index -= 1;
        }
        while self.after(anchor, index + 1) <= instant {
            index += 1;
        }
        (self.after(anchor, index), self.after(anchor, index + 1))
    }
}

/// A day for people: `5 Jan 2026`.
pub(crate) fn day(instant: i64) -> String {
    Timestamp::from_second(instant).map_or_else(|_| instant.to_string(), |at| at.strftime("%-d %b %Y").to_string())
}

/// An instant for people: `2026-01-05 10:00:00 UTC`.
pub(crate) fn moment(instant: i64) -> String {
    let shown = Timestamp::from_second(instant).map(|at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
    shown.unwrap_or_else(|_| instant.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    #[test]
    fn month_ends_clamp_and_come_back() {
        let month = Interval {
            unit: "month".to_owned(),
            count: 1,
        };
        let anchor = at("2026-01-31T10:00:00Z");
        let (start, end) = month.period(anchor, at("2026-03-01T00:00:00Z"));
        assert_eq!((start, end), (at("2026-02-28T10:00:00Z"), at("2026-03-31T10:00:00Z")));
        assert_eq!(month.period(anchor, anchor), (anchor, at("2026-02-28T10:00:00Z")));
    }

    #[test]
    fn an_instant_before_the_anchor_has_a_period_too() {
        let year = Interval {
            unit: "year".to_owned(),
            count: 1,
        };
        let anchor = at("2028-02-29T00:00:00Z");
        let (start, end) = year.period(anchor, at("2027-03-01T00:00:00Z"));
        assert_eq!((start, end), (at("2027-02-28T00:00:00Z"), anchor));
    }
}
