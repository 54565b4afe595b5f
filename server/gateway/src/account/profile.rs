//! What many consumers have in common, now and later.

use crate::limit::{Frame, Metered};
use crate::rate::{self, Gcra, Rules};
use crate::{headers, metrics};
use http::HeaderValue;
use model::catalogue::{CacheHits, MeterTerms, RateLimit};
use model::overrides::{self, Change, Override};
use model::snapshot::{Entitlement, Variants};
use model::{Currency, Period, Time};
use std::sync::Arc;

/// What many consumers have in common.
#[derive(Debug, PartialEq)]
pub(crate) struct Profile {
    pub(crate) plan: String,
    /// The plan's number in the metrics.
    pub(crate) plan_number: u16,
    pub(crate) features: Vec<String>,
    pub(crate) variants: Variants,
    /// The overall limit, with what an override makes of it.
    pub(crate) rate_limit: RateLimit,
    /// The plan's overall limit.
    pub(crate) told_rate_limit: RateLimit,
    /// What holds in place of the plan's; then nobody else has this profile.
    pub(crate) overrides: Vec<Override>,
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
fn said(features: &[String], variants: &Variants) -> String {
    let said = |feature: &String| match variants.of.get(feature) {
        Some(variant) => format!("{feature}={variant}"),
        None => feature.clone(),
    };
    features.iter().map(said).collect::<Vec<_>>().join(",")
}

impl Profile {
    /// What an entitlement that never changes by itself has in common with others: a plan's.
    pub(crate) fn of(e: &Entitlement) -> Self {
        Self::at(e, e.period.start)
    }

    /// What holds by an entitlement at an instant.
    pub(crate) fn at(e: &Entitlement, at: Time) -> Self {
        let life = &e.feature_life;
        let (features, variants) = match life.later.iter().rfind(|later| later.from <= at) {
            Some(later) => (&later.features, &later.variants),
            None => (&e.features, &life.variants),
        };
        let own: Vec<Override> = overrides::in_force(&e.overrides, at).cloned().collect();
        let rate_limit = overrides::rate_limit(e.rate_limit, own.iter());
        Self {
            plan: e.plan.clone(),
            plan_number: metrics::plan_number(&e.plan),
            rate_limit,
            told_rate_limit: e.rate_limit,
            rate: Gcra::from(rate_limit),
            rules: Rules::overridden(&e.limits, &own),
            concurrency: e.concurrency,
            priority: e.priority,
            cache_hits: e.cache_hits,
            currency: e.currency,
            meters: e.meters.iter().map(|m| (m.meter, m.terms.clone())).collect(),
            plan_header: headers::value(&e.plan),
            features_header: headers::value(&said(features, variants)),
            policy: headers::policy(rate_limit, None),
            features: features.clone(),
            variants: variants.clone(),
            overrides: own,
        }
    }

    /// The override that changes something, in force.
    pub(crate) fn overridden(&self, changes: impl Fn(&Change) -> bool) -> Option<&Override> {
        self.overrides.iter().find(|o| changes(&o.change))
    }

    /// The override that switches a feature on or off, in force.
    pub(crate) fn feature_override(&self, slug: &str) -> Option<&Override> {
        self.overridden(|c| matches!(c, Change::Feature { feature, .. } if feature == slug))
    }

    /// The override of the plan's limit of this name, in force, with what the plan says.
    pub(crate) fn limit_override(&self, limit: &str) -> Option<(&Override, String)> {
        let own = self.overridden(|c| matches!(c, Change::Limit { name, .. } if name == limit))?;
        let told = match self.rules.told.iter().find(|rule| rule.name == limit) {
            Some(rule) => rule.words(str::to_owned),
            None => rate::words_of(self.told_rate_limit),
        };
        Some((own, told))
    }

    /// Its meters, with what may be used of each.
    pub(super) fn metered(&self) -> impl Iterator<Item = Metered<'_>> {
        self.meters.iter().map(|(meter, terms)| {
            let (quota, _) = overrides::quota(terms, self.overrides.iter());
            (*meter, terms, quota)
        })
    }

    /// What the limits of its meters follow from in a period. `cap_left_minor` is what is left of the spend cap.
    pub(super) fn frame(&self, period: Period, cap_left_minor: Option<i64>) -> Frame {
        Frame {
            rate: self.rate_limit,
            currency: self.currency,
            period,
            cap_left_minor,
            priced: self.meters.iter().filter(|(_, terms)| terms.overage.is_some()).count(),
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
            told_rate_limit: rate_limit,
            overrides: Vec::new(),
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
