//! Phase three: whether the caller may make this request now. The first refusal wins; units are reserved before the
//! request is forwarded, so a hard quota and a spend cap hold whatever runs at the same time.

use crate::account::Terms;
use crate::authenticate::Caller;
use crate::headers::{self, RATELIMIT, RATELIMIT_POLICY};
use crate::limit::{Limit, Over};
use crate::refusal::{Refusal, Refused};
use crate::route::Route;
use http::{HeaderMap, HeaderValue};
use model::Time;
use model::access::Suspension;
use std::sync::Arc;

const NS_PER_S: u64 = 1_000_000_000;

/// The right to make one request, with the units it took.
pub(crate) struct Admission {
    pub(crate) terms: Arc<Terms>,
    /// Units taken from the route's meter; given back when the answer does not count.
    pub(crate) units: u32,
    /// What is left of the rate limit, and seconds until it is whole.
    rate: (u64, u64),
}

/// Decides. `now_ns` is the machine's time in nanoseconds since 1970; `now` is business time.
pub(crate) fn admit(caller: &Caller, route: &Route, now: Time, now_ns: u64) -> Result<Admission, Refused> {
    let account = &caller.key.account;
    let terms = account.terms(now);
    check_state(&terms)?;
    if let Some(routes) = &caller.key.routes
        && !routes.contains(&route.number)
    {
        let detail = format!("This key's scope does not hold the route {}.", route.slug);
        return Err(Refused::new(Refusal::InsufficientScope, detail));
    }
    if let Some(feature) = &route.feature
        && !terms.profile.features.contains(feature)
        && !caller.is_granted(feature)
    {
        let detail = format!("The plan {} does not include {feature}.", terms.profile.plan);
        return Err(Refused::new(Refusal::FeatureMissing, detail));
    }
    let rate = account.rate(terms.profile.rate, now_ns);
    let seconds = rate.wait_ns.div_ceil(NS_PER_S);
    let left = (rate.remaining, seconds);
    if !rate.allowed {
        let limit = terms.profile.rate;
        let detail = format!(
            "At most {} requests a second, {} at once.",
            limit.per_second, limit.burst
        );
        let refused = Refused::new(Refusal::RateLimited, detail).retry_after(seconds);
        return Err(with_limits(refused, &terms, route.meter, left, now));
    }
    if let Some(limit) = terms.limit(route.meter)
        && let Err(over) = account.take(&terms, limit, route.weight)
    {
        return Err(with_limits(
            over_limit(over, &terms, limit, now),
            &terms,
            route.meter,
            left,
            now,
        ));
    }
    Ok(Admission {
        terms,
        units: route.weight,
        rate: left,
    })
}

fn check_state(terms: &Terms) -> Result<(), Refused> {
    let (refusal, detail) = match terms.suspended {
        None => return Ok(()),
        Some(Suspension::Payment) => (
            Refusal::PaymentRequired,
            "A payment failed. Pay it, and your keys work again.",
        ),
        Some(Suspension::Provider) => (
            Refusal::Suspended,
            "The provider suspended this account. Write to them.",
        ),
        Some(Suspension::NoPlan) => (Refusal::NoPlan, "There is no plan behind this key. Choose one."),
    };
    Err(Refused::new(refusal, detail))
}

fn over_limit(over: Over, terms: &Terms, limit: &Limit, now: Time) -> Refused {
    match over {
        Over::Quota => {
            let seconds = u64::try_from(now.ms_until(terms.period.end) / 1000 + 1).unwrap_or(1);
            let detail = format!(
                "The plan {} includes {} units until {}. A larger plan lifts this at once.",
                terms.profile.plan,
                limit.quota.unwrap_or(0),
                terms.period.end
            );
            Refused::new(Refusal::QuotaExceeded, detail).retry_after(seconds)
        }
        Over::Cap => Refused::new(
            Refusal::SpendCapReached,
            format!(
                "Your own spend cap holds until {}. Raise it to go on.",
                terms.period.end
            ),
        ),
    }
}

/// Units left of the meter's ceiling, and seconds until the period ends.
fn quota(terms: &Terms, meter: u16, now: Time) -> Option<(u64, i64)> {
    let limit = terms.limit(meter)?;
    let left = limit.ceiling()?.saturating_sub(limit.slot.taken());
    Some((left, now.ms_until(terms.period.end).max(0) / 1000))
}

fn policy(terms: &Terms, meter: u16) -> HeaderValue {
    terms.limit(meter).map_or(&terms.profile.policy, |l| &l.policy).clone()
}

fn with_limits(refused: Refused, terms: &Terms, meter: u16, rate: (u64, u64), now: Time) -> Refused {
    refused
        .with(RATELIMIT_POLICY, policy(terms, meter))
        .with(RATELIMIT, headers::ratelimit(rate, quota(terms, meter, now)))
}

impl Admission {
    /// Says what is left, after the answer was counted or not.
    pub(crate) fn add_headers(&self, headers: &mut HeaderMap, meter: u16, now: Time) {
        headers.insert(RATELIMIT_POLICY, policy(&self.terms, meter));
        headers.insert(RATELIMIT, headers::ratelimit(self.rate, quota(&self.terms, meter, now)));
    }
}
