//! What a call would cost, and whether it would be let through, without making it.
//!
//! `Turnpike-Quote: ?1` (or `1`) on the call itself asks. The answer is 200 with JSON, the upstream hears nothing of it, no
//! unit is counted, and of all limits only the plan's overall rate limit gives a place. What holds now need not hold a
//! moment later: a quote reserves nothing.

use crate::admit::Foresight;
use crate::cost;
use crate::headers::TURNPIKE_QUOTE;
use crate::limit::Limit;
use crate::refusal::{Refusal, Refused};
use crate::route::Route;
use http::HeaderMap;
use model::money::Major;
use serde_json::{Value, json};

/// Whether a quote is asked for.
pub(crate) fn is_asked(headers: &HeaderMap) -> Result<bool, Refused> {
    let mut said = headers.get_all(TURNPIKE_QUOTE).into_iter();
    let Some(first) = said.next() else { return Ok(false) };
    match (first.as_bytes(), said.next()) {
        (b"?1" | b"1", None) => Ok(true),
        (b"?0" | b"0", None) => Ok(false),
        // Whoever asks for a price must not be charged because of a typing mistake.
        _ => {
            let detail = "Turnpike-Quote is ?1 to ask for the price without calling, or is left out.";
            Err(Refused::new(Refusal::BadRequest, detail))
        }
    }
}

/// The answer's body.
pub(crate) fn body(foresight: &Foresight, route: &Route, meter: &str, portal: &str) -> Value {
    let terms = &foresight.terms;
    let limit = terms.limit(route.meter);
    let taken = limit.map_or(0, |l| l.slot.taken());
    let then = taken.saturating_add(route.weight.into());
    let currency = terms.profile.currency;
    let cost = cost::of(terms, route.meter, then, route.weight).map(|minor| Major { minor, currency }.to_string());
    let included = terms.included(route.meter).zip(limit);
    // A hard quota holds for the whole period, an allowance for what these prices are for; where an override sets a hard
    // quota on what has a price, both do.
    let left = |(included, limit): (u64, &Limit)| {
        let under_quota = limit.quota.map(|quota| quota.saturating_sub(taken));
        let free = limit
            .priced
            .then(|| included.saturating_sub(taken.saturating_sub(limit.settled_units)));
        match (under_quota, free) {
            (Some(quota), Some(free)) => quota.min(free),
            (quota, free) => quota.or(free).unwrap_or_else(|| included.saturating_sub(taken)),
        }
    };
    let included = included.map(left);
    json!({
        "meter": meter,
        "units": route.weight,
        "cost": cost,
        "currency": currency,
        "included_left": included,
        "budget_remaining": cost::budget_left(terms).map(|left| left.to_string()),
        "would_be_refused": foresight.refused.as_ref().map(|r| r.problem(portal)),
    })
}
