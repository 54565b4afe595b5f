//! What a plan version lays down, in exact minor units.

use super::is_zero;
use crate::access::Interval;
use crate::money::Money;
use crate::policy::RateRule;
use crate::price::Overage;
use crate::quota::{DEFAULT_MARKS, QuotaGrace};
use serde::{Deserialize, Serialize};

/// Whether a request counts whose answer the gateway had kept ([`crate::policy::CachePolicy`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheHits {
    /// Like any other: what is sold is the answer.
    #[default]
    Counted,
    /// With no units: what is sold is the work of the upstream. Rate limits still count it.
    Free,
}

impl CacheHits {
    /// Whether it is what holds when nothing is said.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether such a request counts.
    #[must_use]
    pub fn count(self) -> bool {
        self == Self::Counted
    }

    /// `counted` or `free`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Free => "free",
        }
    }
}

/// Requests let through: `per_second` on average, `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Steady rate, in requests per second.
    pub per_second: u32,
    /// Requests allowed at once; at least 1.
    pub burst: u32,
}

/// The terms of one plan version, checked: what is stored, sold and enforced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanTerms {
    /// The plan's identity.
    pub slug: String,
    /// Name on pages and invoices.
    pub name: String,
    /// One line under the name.
    pub tagline: String,
    /// Shown as the one most chosen.
    pub popular: bool,
    /// Slugs of the features granted.
    pub features: Vec<String>,
    /// Short-window limit of everything a consumer does.
    pub rate_limit: RateLimit,
    /// Further limits; all must be passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<RateRule>,
    /// Requests a consumer may have in flight at once; none means any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Who goes first when there is more to do than can be done: 9 before all others, 0 last.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u8,
    /// Whether answers that the gateway kept count like others.
    #[serde(default, skip_serializing_if = "CacheHits::is_default")]
    pub cache_hits: CacheHits,
    /// Days of access after a renewal failed.
    pub grace_days: u16,
    /// Month first, then year where there is one.
    pub offers: Vec<Offer>,
}

/// A checked price for an interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// How long a period is.
    pub interval: Interval,
    /// Paid in advance.
    pub flat: Money,
    /// Allowance and overage per meter.
    pub meters: Vec<MeterTerms>,
}

/// Allowance and overage of a meter, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterTerms {
    /// Slug of the meter.
    pub meter: String,
    /// Units covered by the flat price in each period.
    pub included: u64,
    /// Prices above; none makes the allowance a hard quota.
    pub overage: Option<Overage>,
    /// What a hard quota lets through beyond it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<QuotaGrace>,
    /// Percentages of the allowance at which members are told, where they are not the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<Vec<u16>>,
}

impl MeterTerms {
    /// Percentages of the allowance at which members are told.
    pub fn marks(&self) -> &[u16] {
        self.marks.as_deref().unwrap_or(&DEFAULT_MARKS)
    }
}

impl PlanTerms {
    /// The offer for an interval.
    pub fn offer(&self, interval: Interval) -> Option<&Offer> {
        self.offers.iter().find(|o| o.interval == interval)
    }
    /// Whether it costs nothing and can cost nothing.
    pub fn is_free(&self) -> bool {
        self.offers
            .iter()
            .all(|o| o.flat.minor == 0 && o.meters.iter().all(|m| m.overage.is_none()))
    }
}
