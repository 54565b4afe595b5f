//! What a call costs and what is left of the budget, as its answer says it.
//!
//! The cost is what the call adds to the period, exactly ([`price::marginal`]): the costs of all calls add up to what the
//! invoice's lines are rounded from. Each call has its own place in the count, so that holds with any number at once.

use crate::account::Terms;
use crate::headers::{Short, TURNPIKE_BUDGET_REMAINING, TURNPIKE_COST};
use http::{HeaderMap, HeaderValue};
use model::money::Major;
use model::{Money, price};
use rust_decimal::Decimal;
use std::fmt::Write;

/// What `units` cost after which a meter's count is `taken`, in exact minor units; none where it does not fit.
pub(crate) fn of(terms: &Terms, meter: u16, taken: u64, units: u32) -> Option<Decimal> {
    let (Some(limit), Some(prices)) = (terms.limit(meter), terms.meter(meter)) else {
        return Some(Decimal::ZERO);
    };
    let to = taken.saturating_sub(limit.settled_units);
    price::marginal(prices, to.saturating_sub(units.into()), to).ok()
}

/// What is left of the spend cap, or of the key's own budget when that is less.
pub(crate) fn budget_left(terms: &Terms, key_budget_left: Option<i64>) -> Option<Major> {
    let minor = terms.budget_left_minor().into_iter().chain(key_budget_left).min()?;
    let currency = terms.profile.currency;
    Some(Money { minor, currency }.into())
}

/// Adds both headers, where the meter has a price. `counted` is the meter's count with the call's
/// units, and those units; the budget is the smaller of the consumer's and of the key's own.
pub(crate) fn say(
    headers: &mut HeaderMap,
    terms: &Terms,
    meter: u16,
    counted: (u64, u32),
    key_budget_left: Option<i64>,
) {
    let (taken, units) = counted;
    if !terms.limit(meter).is_some_and(|l| l.priced) {
        return;
    }
    let currency = terms.profile.currency;
    let minor = if units == 0 {
        Some(Decimal::ZERO)
    } else {
        of(terms, meter, taken, units)
    };
    if let Some(value) = minor.and_then(|minor| value(&Major { minor, currency })) {
        headers.insert(TURNPIKE_COST, value);
    }
    if let Some(value) = budget_left(terms, key_budget_left).as_ref().and_then(value) {
        headers.insert(TURNPIKE_BUDGET_REMAINING, value);
    }
}

/// An amount as a structured field (RFC 9651): a string, because its decimals end after three places, with the currency
/// as parameter: `"0.0006";currency=usd`.
fn value(amount: &Major) -> Option<HeaderValue> {
    let mut text = Short::new();
    write!(text, "\"{amount}\";currency={}", amount.currency).ok()?;
    Some(text.value())
}
