//! One type for instants, one trait for clocks, and the half-open period `[start, end)`.

use crate::access::Interval;

/// PostgreSQL counts microseconds from 2000-01-01.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// An instant, kept to the microsecond (what PostgreSQL keeps).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Time(jiff::Timestamp);

impl Time {
    /// The instant that many milliseconds after 1970; clamped to what a calendar can show.
    pub fn from_unix_ms(ms: i64) -> Self {
        Self(jiff::Timestamp::from_millisecond(ms).unwrap_or(if ms < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        }))
    }
    /// The instant that many seconds after 1970.
    pub fn from_unix_s(s: i64) -> Self {
        Self::from_unix_ms(s.saturating_mul(1000))
    }
    /// Milliseconds since 1970.
    pub fn unix_ms(self) -> i64 {
        self.0.as_millisecond()
    }
    /// Whole seconds since 1970.
    pub fn unix_s(self) -> i64 {
        self.0.as_second()
    }
    /// For calendar arithmetic and formatting.
    pub fn jiff(self) -> jiff::Timestamp {
        self.0
    }
    /// This instant moved by milliseconds, forward or back.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Self {
        Self::from_unix_ms(self.unix_ms().saturating_add(ms))
    }
    /// This instant moved by seconds, forward or back.
    #[must_use]
    pub fn plus_s(self, s: i64) -> Self {
        self.plus_ms(s.saturating_mul(1000))
    }
    /// `end - self` in milliseconds, negative when `end` is earlier.
    pub fn ms_until(self, end: Time) -> i64 {
        end.unix_ms().saturating_sub(self.unix_ms())
    }
    /// Microseconds since 2000-01-01, as PostgreSQL has them in a `timestamptz`.
    pub fn postgres_us(self) -> i64 {
        self.0.as_microsecond().saturating_sub(POSTGRES_EPOCH_US)
    }
    /// The start of the UTC hour.
    #[must_use]
    pub fn hour(self) -> Self {
        Self::from_unix_s(self.unix_s().div_euclid(3600) * 3600)
    }
    /// The end of what a person gives one by: the first instant after a day (`2026-12-24`, in UTC), or an instant
    /// itself (RFC 3339).
    pub fn parse_end(text: &str) -> Option<Self> {
        let text = text.trim();
        let day = || {
            let day: jiff::civil::Date = text.parse().ok()?;
            let next = day.tomorrow().ok()?;
            Some(Self(next.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()))
        };
        if text.len() == 10 {
            day()
        } else {
            text.parse().ok().map(Self)
        }
    }
    /// The beginning of what a person gives one by: the first instant of a day (`2026-12-24`, in UTC), or an instant
    /// itself (RFC 3339).
    pub fn parse_start(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() == 10 {
            let day: jiff::civil::Date = text.parse().ok()?;
            Some(Self(day.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()))
        } else {
            text.parse().ok().map(Self)
        }
    }
    /// `2026-11-21`, in UTC.
    pub fn date(self) -> String {
        self.0
            .to_zoned(jiff::tz::TimeZone::UTC)
            .strftime("%Y-%m-%d")
            .to_string()
    }
    /// `21 Nov 2026`, in UTC.
    pub fn day(self) -> String {
        self.0
            .to_zoned(jiff::tz::TimeZone::UTC)
            .strftime("%-d %b %Y")
            .to_string()
    }
    /// `21 Nov 2026, 14:05 UTC`.
    pub fn minute(self) -> String {
        self.0
            .to_zoned(jiff::tz::TimeZone::UTC)
            .strftime("%-d %b %Y, %H:%M UTC")
            .to_string()
    }
}

impl From<jiff::Timestamp> for Time {
    fn from(t: jiff::Timestamp) -> Self {
        Self(t)
    }
}

impl std::fmt::Display for Time {
    /// RFC 3339 in UTC.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the machine's clock and the database's differ by more than this, in milliseconds, nothing is told to others that hangs on
/// the time, and nobody gets leeway: Stripe takes no usage of more than five minutes ahead, and a token may allow as much.
pub const SKEW_MOST_MS: i64 = 240_000;

/// What a clock says at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Business time.
    pub now: Time,
    /// Time for security.
    pub security_now: Time,
    /// Time for rates, in nanoseconds.
    pub steady_ns: u64,
}

/// Where the time comes from. Business time may be ahead of the machine's (a Stripe test clock); the time that
/// sessions and one-time links expire by never is.
pub trait Clock: Send + Sync {
    /// All three at once, for who needs them together: a clock may look only once for them.
    fn reading(&self) -> Reading {
        Reading {
            now: self.now(),
            security_now: self.security_now(),
            steady_ns: self.steady_ns(),
        }
    }
    /// Business time: periods, usage, invoices.
    fn now(&self) -> Time;
    /// Time for security: sessions, links, log-in delays.
    fn security_now(&self) -> Time {
        self.now()
    }
    /// Time for rates, in nanoseconds since some moment: it never goes back and never jumps, whatever somebody does to
    /// the machine's clock.
    fn steady_ns(&self) -> u64 {
        u64::try_from(self.security_now().jiff().as_nanosecond()).unwrap_or(0)
    }
    /// How far the machine's clock is ahead of the database's, in milliseconds, as far as that is known; negative when it is
    /// behind.
    fn skew_ms(&self) -> i64 {
        0
    }
}

/// A half-open stretch of time: `start` is in it, `end` is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Period {
    /// The first instant.
    pub start: Time,
    /// The first instant after it.
    pub end: Time,
}

impl Period {
    /// Whether the instant lies in it.
    pub fn contains(&self, t: Time) -> bool {
        self.start <= t && t < self.end
    }

    /// The period with number `index` (0 is the first) of an agreement that began at `anchor`, by the UTC calendar.
    /// The day is that of the anchor, or the month's last where it has no such day (Jan 31, Feb 28, Mar 31).
    pub fn nth(anchor: Time, interval: Interval, index: i64) -> Self {
        let months = match interval {
            Interval::Month => 1,
            Interval::Year => 12,
        };
        let at = |n: i64| {
            let zoned = anchor.jiff().to_zoned(jiff::tz::TimeZone::UTC);
            let span = jiff::Span::new()
                .try_months(n.saturating_mul(months))
                .unwrap_or_default();
            Time(zoned.checked_add(span).map_or(jiff::Timestamp::MAX, |z| z.timestamp()))
        };
        Self {
            start: at(index),
            end: at(index + 1),
        }
    }

    /// The period around `now` of an agreement that began at `anchor`; the first one when `now` is before it.
    pub fn around(anchor: Time, interval: Interval, now: Time) -> Self {
        let days = anchor.ms_until(now).max(0) / 86_400_000;
        let mut index = match interval {
            Interval::Month => days / 32,
            Interval::Year => days / 367,
        };
        loop {
            let period = Self::nth(anchor, interval, index);
            if now < period.end {
                return period;
            }
            index += 1;
        }
    }
}

#[cfg(feature = "sqlx")]
mod sqlx_impls {
    use super::{POSTGRES_EPOCH_US, Time};
    use sqlx::{Decode, Encode, Postgres, Type, encode::IsNull, error::BoxDynError, postgres::*};

    impl Type<Postgres> for Time {
        fn type_info() -> PgTypeInfo {
            PgTypeInfo::with_name("TIMESTAMPTZ")
        }
    }
    impl PgHasArrayType for Time {
        fn array_type_info() -> PgTypeInfo {
            PgTypeInfo::with_name("_TIMESTAMPTZ")
        }
    }
    impl Encode<'_, Postgres> for Time {
        fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
            <i64 as Encode<Postgres>>::encode(self.postgres_us(), buf)
        }
    }
    impl Decode<'_, Postgres> for Time {
        fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
            match value.format() {
                PgValueFormat::Binary => {
                    let us = <i64 as Decode<Postgres>>::decode(value)?;
                    Ok(Self(jiff::Timestamp::from_microsecond(
                        us.saturating_add(POSTGRES_EPOCH_US),
                    )?))
                }
                PgValueFormat::Text => Ok(Self(value.as_str()?.replace(' ', "T").parse()?)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        Time(text.parse().unwrap())
    }

    #[test]
    fn month_ends_clamp_and_come_back() {
        let anchor = at("2026-01-31T10:00:00Z");
        assert_eq!(Period::nth(anchor, Interval::Month, 0).end, at("2026-02-28T10:00:00Z"));
        assert_eq!(Period::nth(anchor, Interval::Month, 1).end, at("2026-03-31T10:00:00Z"));
        assert_eq!(
            Period::around(anchor, Interval::Month, at("2026-03-31T09:59:59Z")).start,
            at("2026-02-28T10:00:00Z")
        );
        assert_eq!(
            Period::around(anchor, Interval::Month, at("2026-03-31T10:00:00Z")).start,
            at("2026-03-31T10:00:00Z")
        );
    }

    #[test]
    fn periods_follow_each_other_without_gap() {
        let anchor = at("2024-02-29T00:00:00Z");
        for i in 0..60 {
            for interval in [Interval::Month, Interval::Year] {
                assert_eq!(
                    Period::nth(anchor, interval, i).end,
                    Period::nth(anchor, interval, i + 1).start
                );
            }
        }
    }
}
