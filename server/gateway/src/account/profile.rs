//! What many consumers have in common, now and later.

use crate::rate::{Gcra, Rules};
use crate::{headers, metrics};
use http::HeaderValue;
use model::catalogue::{CacheHits, MeterTerms, RateLimit};
use model::snapshot::{Entitlement, Variants};
use model::{Currency, Time};
use std::sync::Arc;

/// What many consumers have in common.
#[derive(Debug, PartialEq)]
pub(crate) struct Profile {
    pub(crate) plan: String,
    /// The plan's number in the metrics.
    pub(crate) plan_number: u16,
    pub(crate) features: Vec<String>,
    pub(crate) variants: Variants,
    pub(crate) rate_limit: RateLimit,
    /// The overall limit, ready to be used.
    pub(crate) rate: Gcra,
    /// Further limits.
    pub(crate) rules: Rules,
    /// Requests a consumer may have in flight.
    pub(crate) concurrency: Option<u32>,
    /// Who is let in first when there is more to do than can be done; 0 to 9.
    pub(crate) priority: u8,
    /// Whether answers that were kept count like others.
    pub(crate) cache_hits: CacheHits,
    pub(crate) currency: Currency,
    pub(crate) meters: Vec<(u16, MeterTerms)>,
    /// `X-Plan` and `X-Features`.
    pub(crate) plan_header: HeaderValue,
    pub(crate) features_header: HeaderValue,
    /// `RateLimit-Policy` where a meter has no ceiling of its own.
    pub(crate) policy: HeaderValue,
}

/// Profiles that begin later, in the order of time.
pub(crate) type Later = Arc<[(Time, Arc<Profile>)]>;

/// The profiles of an entitlement: of now, and of each later instant.
pub(crate) struct Profiles {
    pub(crate) now: Arc<Profile>,
    pub(crate) later: Later,
}

/// What holds at `now`, and what still lies ahead.
pub(super) fn current(profile: &Arc<Profile>, later: &Later, now: Time) -> (Arc<Profile>, Later) {
    match later.iter().rposition(|(from, _)| *from <= now) {
        None => (Arc::clone(profile), Arc::clone(later)),
        Some(begun) => (
            Arc::clone(&later[begun].1),
            Arc::from(later.get(begun + 1..).unwrap_or_default()),
        ),
    }
}

/// Features as the upstream is told them: `search,ranking=b`.
pub(super) fn features(e: &Entitlement) -> Vec<String> {
    let said = |feature: &String| match e.feature_life.variants.of.get(feature) {
        Some(variant) => format!("{feature}={variant}"),
        None => feature.clone(),
    };
    e.features.iter().map(said).collect()
}

impl Profile {
    /// What an entitlement has in common with others.
    pub(crate) fn of(e: &Entitlement) -> Self {
        Self {
            plan: e.plan.clone(),
            plan_number: metrics::plan_number(&e.plan),
            features: e.features.clone(),
            variants: e.feature_life.variants.clone(),
            rate_limit: e.rate_limit,
            rate: Gcra::from(e.rate_limit),
            rules: Rules::of_plan(&e.limits),
            concurrency: e.concurrency,
            priority: e.priority,
            cache_hits: e.cache_hits,
            currency: e.currency,
            meters: e.meters.iter().map(|m| (m.meter, m.terms.clone())).collect(),
            plan_header: headers::value(&e.plan),
            features_header: headers::value(&features(e).join(",")),
            policy: headers::policy(e.rate_limit, None),
        }
    }

    pub(super) fn nothing() -> Self {
        let rate_limit = RateLimit {
            per_second: 1,
            burst: 1,
        };
        Self {
            plan: String::new(),
            plan_number: 0,
            features: Vec::new(),
            variants: Variants::default(),
            rate_limit,
            rate: Gcra::from(rate_limit),
            rules: Rules::default(),
            concurrency: None,
            priority: 0,
            cache_hits: CacheHits::default(),
            currency: Currency::USD,
            meters: Vec::new(),
            plan_header: HeaderValue::from_static(""),
            features_header: HeaderValue::from_static(""),
            policy: HeaderValue::from_static(""),
        }
    }
}
