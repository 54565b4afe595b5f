//! What holds for a consumer from one change to the next.

use super::{Account, Later, Profile, TokenPlan};
use crate::headers;
use crate::limit::{Limit, Metered, Over, Slot, cap_left};
use crate::rate::Own;
use http::HeaderValue;
use model::access::Suspension;
use model::catalogue::MeterTerms;
use model::overrides::{Change, Override};
use model::quota::Quota;
use model::snapshot::{Entitlement, FeatureLife, LaterFeatures, MeterEntitlement};
use model::{Period, PlanVersionId, SubscriptionId, Time, price};
use std::sync::Arc;

/// What holds for a consumer from one change to the next.
pub(crate) struct Terms {
    pub(crate) profile: Arc<Profile>,
    /// Whose prices hold where a token names another plan: that changes what may be done, not what is charged.
    pub(super) prices: Option<Arc<Profile>>,
    /// What holds instead from an instant on, in the order of time: other features, limits and quotas.
    pub(super) later: Later,
    /// Every override that is known, for the copy on disk; what they come to is in the profiles.
    pub(super) overrides: Arc<[Override]>,
    pub(crate) suspended: Option<Suspension>,
    pub(crate) subscription: Option<SubscriptionId>,
    pub(crate) plan_version: Option<PlanVersionId>,
    pub(crate) period: Period,
    pub(crate) spend_cap_minor: Option<i64>,
    /// Charged in this period under earlier plan versions, in minor units.
    pub(super) settled_minor: i64,
    pub(crate) limits: Vec<Limit>,
    /// Arrival times of the rate limits that count by this consumer alone.
    pub(crate) own: Own,
    /// More than one priced meter under a cap: the cost is summed at every admission.
    pub(super) summed: bool,
}

/// The period around `now` that follows from a known one: the same, or a later one of equal length.
pub(crate) fn period_at(known: Period, now: Time) -> Period {
    let length = known.start.ms_until(known.end);
    if now < known.end || length <= 0 {
        return known;
    }
    let start = known.end.plus_ms(known.end.ms_until(now) / length * length);
    Period {
        start,
        end: start.plus_ms(length),
    }
}

impl Terms {
    /// What holds instead for a caller whose token names a plan: its profile and quotas. Counters are shared, and a limit
    /// that the consumer's own plan lacks goes on from where it was `before`. `counter` gives that of a meter which it lacks,
    /// given the one in use before. What is charged is charged by the consumer's own plan: where that has no price for more,
    /// the other plan's price lifts no quota.
    pub(super) fn on_plan(
        &self,
        plan: &TokenPlan,
        before: Option<&Self>,
        counter: impl Fn(u16, Option<&Arc<Slot>>) -> Arc<Slot>,
    ) -> Self {
        let profile = &plan.profile;
        let before = before.filter(|b| b.period.start == self.period.start);
        let length_s = self.period.start.ms_until(self.period.end).max(0) / 1000;
        let metered = |meter: u16| profile.metered().find(|(number, ..)| *number == meter);
        let shared = self.limits.iter().cloned();
        let foreign = profile.meters.iter().filter(|(meter, _)| self.limit(*meter).is_none());
        let foreign = foreign.map(|(meter, _)| Limit {
            meter: *meter,
            quota: None,
            grace: None,
            priced: false,
            within_cap: None,
            settled_units: 0,
            leased: false,
            policy: HeaderValue::from_static(""),
            slot: counter(*meter, before.and_then(|b| b.limit(*meter)).map(|l| &l.slot)),
        });
        let limits = shared.chain(foreign).map(|mut limit| {
            // What is leased ends with the own plan's quota; the other plan's is compared with what is counted.
            limit.leased &= limit.priced && self.spend_cap_minor.is_some();
            let of_plan = metered(limit.meter);
            let ceiling = of_plan.and_then(|(_, _, quota)| quota.ceiling());
            if ceiling.is_some() || limit.priced {
                limit.quota = ceiling;
                limit.grace = of_plan.and_then(|(_, terms, _)| terms.grace);
            } else if limit.quota.is_none() && self.limit(limit.meter).is_none() {
                limit.quota = of_plan.map(|(_, _, quota)| quota.units);
            }
            limit.policy = headers::policy(profile.rate_limit, limit.ceiling().map(|c| (c, length_s)));
            limit
        });
        let own = (&self.profile.rules, &self.own);
        let kept: Vec<_> = std::iter::once(own)
            .chain(before.map(|b| (&b.profile.rules, &b.own)))
            .collect();
        Self {
            profile: Arc::clone(profile),
            prices: Some(Arc::clone(&self.profile)),
            later: Later::default(),
            overrides: Arc::default(),
            suspended: self.suspended,
            subscription: self.subscription,
            plan_version: self.plan_version,
            period: self.period,
            spend_cap_minor: self.spend_cap_minor,
            settled_minor: self.settled_minor,
            limits: limits.collect(),
            own: profile.rules.own(&kept),
            summed: self.summed,
        }
    }

    /// The profile whose prices hold.
    pub(super) fn prices(&self) -> &Profile {
        self.prices.as_ref().unwrap_or(&self.profile)
    }

    /// Whether nothing of this has ended by `now`.
    pub(super) fn hold_at(&self, now: Time) -> bool {
        let in_period = now < self.period.end || period_at(self.period, now) == self.period;
        in_period && self.later.first().is_none_or(|(from, _)| now < *from)
    }

    /// The counter of a meter; none when the plan does not mention it, and then it is neither limited nor priced.
    pub(crate) fn limit(&self, meter: u16) -> Option<&Limit> {
        self.limits.iter().find(|l| l.meter == meter)
    }

    /// The limits that follow from a profile, with nothing used, for a period that begins.
    pub(super) fn emptied(&self, profile: &Profile, period: Period) -> Vec<Limit> {
        let frame = profile.frame(period, cap_left(self.spend_cap_minor, 0));
        let limit = |metered| frame.limit(metered, 0, Arc::default());
        profile.metered().map(limit).collect()
    }

    /// The limits that follow from a profile that begins in the middle of the period: with what is used so far.
    pub(super) fn limits_under(&self, profile: &Profile) -> Vec<Limit> {
        let frame = profile.frame(self.period, cap_left(self.spend_cap_minor, self.settled_minor));
        let limit = |metered: Metered<'_>| {
            let before = self.limit(metered.0);
            let slot = before.map_or_else(Arc::default, |l| Arc::clone(&l.slot));
            let limit = frame.limit(metered, before.map_or(0, |l| l.settled_units), slot);
            // With more units than are used, a grace that had begun is over.
            limit.slot.follow_grace(&limit, None);
            limit
        };
        profile.metered().map(limit).collect()
    }

    /// What is taken under these terms, with `more` units of a meter, costs this much, in minor units; none when it does
    /// not fit 64 bits.
    pub(super) fn cost_minor(&self, more: Option<(u16, u64)>) -> Option<i64> {
        self.prices().meters.iter().try_fold(0i64, |sum, (number, terms)| {
            let since = |l: &Limit| l.slot.taken().saturating_sub(l.settled_units);
            let more = more.filter(|(meter, _)| meter == number).map_or(0, |(_, n)| n);
            let units = self.limit(*number).map_or(0, since).saturating_add(more);
            sum.checked_add(price::cost(terms, units, self.prices().currency).ok()?.minor)
        })
    }

    /// Whether a cost is beyond what is left of the spend cap, and units made it so.
    pub(super) fn is_beyond_cap(&self, before: Option<i64>, then: Option<i64>) -> bool {
        let over = |cost: i64, left: i64| cost > left && before.is_none_or(|b| cost > b);
        cap_left(self.spend_cap_minor, self.settled_minor).is_some_and(|left| then.is_none_or(|cost| over(cost, left)))
    }

    /// Whether units of a meter would be given just now.
    pub(crate) fn peek(&self, limit: &Limit, units: u32, now: Time) -> Result<(), Over> {
        limit.slot.peek(u64::from(units), limit, now)?;
        let more = Some((limit.meter, u64::from(units)));
        if self.summed && units > 0 && self.is_beyond_cap(self.cost_minor(None), self.cost_minor(more)) {
            return Err(Over::Cap);
        }
        Ok(())
    }

    /// Charged in this period under earlier plan versions, in minor units.
    pub(crate) fn settled_minor(&self) -> i64 {
        self.settled_minor
    }

    /// What is left of the spend cap, in minor units.
    pub(crate) fn budget_left_minor(&self) -> Option<i64> {
        let left = cap_left(self.spend_cap_minor, self.settled_minor)?;
        Some(left.saturating_sub(self.cost_minor(None)?).max(0))
    }

    /// Units that the plan in force includes of a meter, whatever an override says: they cost nothing more.
    pub(crate) fn included(&self, number: u16) -> Option<u64> {
        let meters = &self.profile.meters;
        let found = meters.iter().find(|(n, _)| *n == number);
        found.map(|(_, terms)| terms.included)
    }

    /// The override that a meter's quota comes from, and the quota that the plan says.
    pub(crate) fn quota_override(&self, number: u16) -> Option<(&Override, Quota)> {
        let (_, terms, _) = self.profile.metered().find(|(n, ..)| *n == number)?;
        let of_meter = |c: &Change| matches!(c, Change::Quota { meter, .. } if *meter == terms.meter);
        Some((self.profile.overridden(of_meter)?, Quota::of(terms)))
    }

    /// The terms that a meter's units are charged by.
    pub(crate) fn meter(&self, number: u16) -> Option<&MeterTerms> {
        let meters = &self.prices().meters;
        meters.iter().find(|(n, _)| *n == number).map(|(_, terms)| terms)
    }

    pub(super) fn feature_life(&self) -> FeatureLife {
        let later = self.later.iter().map(|(from, profile)| LaterFeatures {
            from: *from,
            features: profile.features.clone(),
            variants: profile.variants.clone(),
        });
        FeatureLife {
            variants: self.profile.variants.clone(),
            later: later.collect(),
        }
    }

    /// The entitlement again, with these units as `used`, for the copy on disk.
    pub(crate) fn to_entitlement(&self, account: &Account, used: &[u64]) -> Entitlement {
        let settled = self.limits.iter().map(|l| (l.settled_units, l.slot.used_up_at()));
        let meters = self.profile.meters.iter().zip(used).zip(settled);
        Entitlement {
            consumer: account.consumer,
            environment: account.environment,
            external_id: account.external_id.load_full().map(|id| String::clone(&id)),
            subscription: self.subscription,
            plan_version: self.plan_version,
            plan: self.profile.plan.clone(),
            suspended: self.suspended,
            features: self.profile.features.clone(),
            rate_limit: self.profile.told_rate_limit,
            limits: self.profile.rules.told.clone(),
            concurrency: self.profile.concurrency,
            priority: self.profile.priority,
            cache_hits: self.profile.cache_hits,
            feature_life: self.feature_life(),
            period: self.period,
            meters: meters
                .map(
                    |(((meter, terms), used), (settled_units, used_up_at))| MeterEntitlement {
                        meter: *meter,
                        terms: terms.clone(),
                        used: *used,
                        settled_units,
                        used_up_at,
                    },
                )
                .collect(),
            currency: self.profile.currency,
            spend_cap_minor: self.spend_cap_minor,
            settled_minor: self.settled_minor,
            overrides: self.overrides.to_vec(),
        }
    }
}
