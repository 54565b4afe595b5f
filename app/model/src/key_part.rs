//! A key's part of the usage charges: what its units are of all units of a meter, times what that meter costs so far. The
//! parts of all keys are the whole, but for rounding down. It follows from counts alone, so that the gateway, which holds
//! budgets of keys, and the portal come to the same.

use crate::catalogue::MeterTerms;
use crate::money::Currency;
use crate::price;

/// A key's use of one meter in a period.
#[derive(Debug, Clone, Copy)]
pub struct KeyShare<'a> {
    /// Units that are the key's.
    pub own: u64,
    /// Units of all keys, those among them.
    pub all: u64,
    /// How many of all count under plan versions before the one in force.
    pub settled: u64,
    /// Prices of the others; none where they cost nothing.
    pub prices: Option<&'a MeterTerms>,
}

/// The part of all `meters` together, in minor units. `settled_minor` is what the settled units cost: it is shared by the
/// units of all meters. None where an amount does not fit.
pub fn cost_minor<'a>(
    meters: impl Iterator<Item = KeyShare<'a>>,
    settled_minor: i64,
    currency: Currency,
) -> Option<i64> {
    let (mut cost, mut own, mut all) = (0i64, 0u64, 0u64);
    for meter in meters {
        own = own.saturating_add(meter.own);
        all = all.saturating_add(meter.all);
        if let Some(prices) = meter.prices.filter(|_| meter.own > 0) {
            let since = meter.all.saturating_sub(meter.settled);
            let whole = price::cost(prices, since, currency).ok()?;
            cost = cost.checked_add(part(whole.minor, meter.own, meter.all)?)?;
        }
    }
    cost.checked_add(part(settled_minor, own, all)?)
}

/// What so many of all units are of a cost.
pub(crate) fn part(cost: i64, own: u64, all: u64) -> Option<i64> {
    let all = i128::from(all.max(own).max(1));
    i64::try_from(i128::from(cost) * i128::from(own) / all).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::{Overage, OverageTier, TierModel};
    use rust_decimal::Decimal;

    #[test]
    fn units_inside_the_allowance_and_charges_before_are_shared_by_all_keys() {
        let cent = OverageTier {
            up_to: None,
            unit_minor: Decimal::ONE,
        };
        let prices = MeterTerms {
            included: 100,
            overage: Some(Overage {
                model: TierModel::Graduated,
                package_units: 1,
                tiers: vec![cent],
            }),
            ..MeterTerms::default()
        };
        let share = |own, settled| KeyShare {
            own,
            all: 400,
            settled,
            prices: Some(&prices),
        };
        let cost = |meters: &[KeyShare<'_>], settled| cost_minor(meters.iter().copied(), settled, Currency::USD);
        assert_eq!(cost(&[share(100, 0)], 0), Some(75), "a quarter of 3.00");
        assert_eq!(cost(&[share(0, 0)], 0), Some(0));
        let free = KeyShare {
            own: 300,
            all: 400,
            settled: 0,
            prices: None,
        };
        assert_eq!(cost(&[share(100, 200), free], 1_000), Some(25 + 500));
        assert_eq!(cost(&[share(u64::MAX, 0)], i64::MAX), None);
    }
}
