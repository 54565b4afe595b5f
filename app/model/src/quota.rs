//! What happens around the end of an allowance: grace beyond a hard quota, and the marks at which people are told.

use crate::access::QuotaKind;
use crate::catalogue::MeterTerms;
use crate::time::Time;
use serde::{Deserialize, Serialize};

/// Percentages of an allowance, a quota or a spend cap at which members are told, where the catalogue names none.
pub const DEFAULT_MARKS: [u16; 3] = [50, 80, 100];
/// Most marks of one meter: each is a mail.
pub const MARKS_MOST: usize = 10;
/// The highest mark, in percent: past a soft quota people may want to hear of ten times the allowance.
pub const MARK_MOST: u16 = 1_000;
/// The longest grace: a month.
const HOURS_MOST: u32 = 31 * 24;
const HOUR_MS: i64 = 3_600_000;

/// How much of a meter may be used in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// What usage is measured against, in units.
    pub units: u64,
    /// What happens past them.
    pub kind: QuotaKind,
}

impl Quota {
    /// As a plan says it: its allowance, hard where more has no price.
    pub fn of(terms: &MeterTerms) -> Self {
        let kind = match terms.overage {
            None => QuotaKind::Hard,
            Some(_) => QuotaKind::Soft,
        };
        Self {
            units: terms.included,
            kind,
        }
    }

    /// The last unit that is let through; none when nothing is refused.
    pub fn ceiling(self) -> Option<u64> {
        (self.kind == QuotaKind::Hard).then_some(self.units)
    }
}

/// Calls beyond a hard quota that are let through all the same. They are recorded and cost nothing, as everything under a
/// hard quota. With both bounds the grace ends at the first that is reached, and always with the period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaGrace {
    /// Units beyond the quota, in percent of it, rounded up; 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u16>,
    /// Hours from the moment at which the quota was used up; 1 to 744.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<u32>,
}

impl QuotaGrace {
    /// Checks the bounds.
    ///
    /// # Errors
    /// What to do about it.
    pub fn check(&self) -> Result<(), &'static str> {
        match (self.percent, self.hours) {
            (None, None) => Err("needs percent, hours or both"),
            (Some(percent), _) if !(1..=100).contains(&percent) => Err("percent must be 1 to 100"),
            (_, Some(hours)) if !(1..=HOURS_MOST).contains(&hours) => Err("hours must be 1 to 744"),
            _ => Ok(()),
        }
    }

    /// The last unit of the grace, counted as the quota is; none when only time bounds it.
    pub fn last_unit(&self, quota: u64) -> Option<u64> {
        let more = u128::from(quota).checked_mul(self.percent?.into())?.div_ceil(100);
        u64::try_from(more).ok().map(|more| quota.saturating_add(more))
    }

    /// The first moment after the grace of a quota that was used up at `since`; none when only units bound it.
    pub fn end(&self, since: Time) -> Option<Time> {
        self.hours.map(|hours| since.plus_ms(i64::from(hours) * HOUR_MS))
    }

    /// `5 % more`, `24 hours more`, `5 % or 24 hours more, whichever ends first`.
    pub fn words(&self) -> String {
        match (self.percent, self.hours) {
            (Some(percent), None) => format!("{percent} % more"),
            (None, Some(hours)) => format!("{hours} hours more"),
            (Some(percent), Some(hours)) => format!("{percent} % or {hours} hours more, whichever ends first"),
            (None, None) => String::new(),
        }
    }
}

/// Checks marks of a meter.
///
/// # Errors
/// What to do about it.
pub(crate) fn check_marks(marks: &[u16]) -> Result<(), String> {
    let rising = marks.windows(2).all(|w| w[0] < w[1]);
    if rising && marks.len() <= MARKS_MOST && marks.iter().all(|m| (1..=MARK_MOST).contains(m)) {
        return Ok(());
    }
    Err(format!(
        "at most {MARKS_MOST} percentages from 1 to {MARK_MOST}, each above the one before"
    ))
}

/// Whether `used` has reached so many percent of `of`.
pub fn is_reached(used: u64, of: u64, mark: u16) -> bool {
    u128::from(used) * 100 >= u128::from(of) * u128::from(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_quota_has_a_grace_of_at_least_one() {
        let grace = |percent, hours| QuotaGrace { percent, hours };
        assert_eq!(grace(Some(5), None).last_unit(10), Some(11));
        assert_eq!(grace(Some(5), None).last_unit(1_000), Some(1_050));
        assert_eq!(grace(Some(100), None).last_unit(u64::MAX), Some(u64::MAX));
        assert_eq!(grace(None, Some(24)).last_unit(10), None);
        let since = Time::from_unix_s(100);
        assert_eq!(grace(None, Some(1)).end(since), Some(Time::from_unix_s(3_700)));
        for (percent, hours) in [
            (None, None),
            (Some(0), None),
            (Some(101), None),
            (None, Some(0)),
            (None, Some(745)),
        ] {
            assert!(grace(percent, hours).check().is_err(), "{percent:?} {hours:?}");
        }
    }

    #[test]
    fn marks_rise() {
        assert!(check_marks(&DEFAULT_MARKS).is_ok() && check_marks(&[]).is_ok());
        for wrong in [&[0u16][..], &[80, 80], &[80, 50], &[1_001]] {
            assert!(check_marks(wrong).is_err(), "{wrong:?}");
        }
        assert!(is_reached(1, 2, 50) && !is_reached(49, 100, 50) && is_reached(u64::MAX, u64::MAX, 100));
    }
}
