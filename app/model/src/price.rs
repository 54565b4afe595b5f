//! Rating: measured usage to money, exactly as Stripe's tiered prices do it.
//!
//! The allowance is the first tier at price zero. *Graduated*: each unit is priced in its own tier and every tier is
//! an invoice line, rounded half away from zero. *Volume*: all units are priced by the tier that the total reaches.
//! *Package*: every package begun is paid whole. The browser's calculator, the running cost, the gateway's spend cap
//! and the check of Stripe's invoice are all this module.

use crate::catalogue::MeterTerms;
use crate::money::{Currency, Money, MoneyError, grouped};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// How tiers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TierModel {
    /// Each unit in its own tier.
    Graduated,
    /// All units by the tier that the total reaches.
    Volume,
    /// Whole packages.
    Package,
}

/// Prices above the allowance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overage {
    /// How the tiers are read.
    pub model: TierModel,
    /// Units in a package; 1 for the other models.
    pub package_units: u64,
    /// Steps, ascending; the last has no `up_to`.
    pub tiers: Vec<OverageTier>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverageTier {
    /// Last unit of the step, counted from the period's first unit.
    pub up_to: Option<u64>,
    /// Price of a unit (of a package), in exact minor units.
    pub unit_minor: Decimal,
}

/// One line of usage on an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLine {
    /// Units on the line.
    pub units: u64,
    /// Price of one (of one package), in exact minor units.
    pub unit_minor: Decimal,
    /// The first and last unit of the tier, counted from 1; last is none on the open tier.
    pub tier: (u64, Option<u64>),
    /// Units times price, rounded once.
    pub amount: Money,
}

/// The usage lines of a meter for a period, tiers without units left out.
///
/// # Errors
/// When an amount does not fit 64 bits of minor units.
pub fn rate(terms: &MeterTerms, units: u64, currency: Currency) -> Result<Vec<UsageLine>, MoneyError> {
    let whole = terms.overage.as_ref().is_some_and(|o| o.model == TierModel::Package);
    let mut lines = Vec::new();
    each_span(terms, units, |span| {
        lines.push(UsageLine {
            units: if whole { units } else { span.count },
            unit_minor: span.unit_minor,
            tier: span.tier,
            amount: Money::from_minor_half_up(span.exact()?, currency)?,
        });
        Ok(())
    })?;
    Ok(lines)
}

/// What the usage of a meter costs in a period: the sum of [`rate`]'s lines.
///
/// # Errors
/// When an amount does not fit 64 bits of minor units.
pub fn cost(terms: &MeterTerms, units: u64, currency: Currency) -> Result<Money, MoneyError> {
    let mut total = Money::zero(currency);
    each_span(terms, units, |span| {
        let line = Money::from_minor_half_up(span.exact()?, currency)?;
        total = total.checked_add(line).ok_or(MoneyError::TooLarge)?;
        Ok(())
    })?;
    Ok(total)
}

/// The units after which the price of the next changes: the allowance's last, and of every tier but the open one.
fn borders(terms: &MeterTerms) -> impl Iterator<Item = u64> + '_ {
    let tiers = terms.overage.iter().flat_map(|o| o.tiers.iter());
    std::iter::once(terms.included).chain(tiers.filter_map(|t| t.up_to))
}

/// The most that any number of units up to `units` costs: a volume price can make more units cheaper.
///
/// # Errors
/// When an amount does not fit 64 bits of minor units.
pub fn dearest(terms: &MeterTerms, units: u64, currency: Currency) -> Result<Money, MoneyError> {
    let mut most = cost(terms, units, currency)?;
    for border in borders(terms).filter(|border| *border < units) {
        let at_border = cost(terms, border, currency)?;
        if at_border.minor > most.minor {
            most = at_border;
        }
    }
    Ok(most)
}

/// What the units after `from` up to `to` add to the cost of a period, in exact minor units, before any line is rounded:
/// what single calls cost adds up to the cost of all of them. A volume price makes the unit at a border cheap or dear,
/// even negative, and a package is paid by the unit that begins it.
///
/// # Errors
/// When an amount does not fit.
pub fn marginal(terms: &MeterTerms, from: u64, to: u64) -> Result<Decimal, MoneyError> {
    exact(terms, to)?
        .checked_sub(exact(terms, from)?)
        .ok_or(MoneyError::TooLarge)
}

/// The cost before any line is rounded.
fn exact(terms: &MeterTerms, units: u64) -> Result<Decimal, MoneyError> {
    let mut total = Decimal::ZERO;
    each_span(terms, units, |span| {
        total = total.checked_add(span.exact()?).ok_or(MoneyError::TooLarge)?;
        Ok(())
    })?;
    Ok(total)
}

/// Units of one price.
struct Span {
    /// What is multiplied: units, or packages.
    count: u64,
    unit_minor: Decimal,
    /// Bounds of the tier.
    tier: (u64, Option<u64>),
}

impl Span {
    fn exact(&self) -> Result<Decimal, MoneyError> {
        Decimal::from(self.count)
            .checked_mul(self.unit_minor)
            .ok_or(MoneyError::TooLarge)
    }
}

/// Calls `each` for every price that some of the units have, the allowance first; never for nothing.
fn each_span(
    terms: &MeterTerms,
    units: u64,
    mut each: impl FnMut(Span) -> Result<(), MoneyError>,
) -> Result<(), MoneyError> {
    let mut say = |count, unit_minor, tier| match count {
        0 => Ok(()),
        count => each(Span {
            count,
            unit_minor,
            tier,
        }),
    };
    let free = (1, Some(terms.included));
    let Some(overage) = &terms.overage else {
        return say(units, Decimal::ZERO, free);
    };
    let mut floor = terms.included;
    match overage.model {
        TierModel::Package => {
            let price = overage.tiers.first().map_or(Decimal::ZERO, |t| t.unit_minor);
            say(units.div_ceil(overage.package_units.max(1)), price, (1, None))
        }
        TierModel::Volume if units <= terms.included => say(units, Decimal::ZERO, free),
        TierModel::Volume => {
            for t in &overage.tiers {
                if t.up_to.is_none_or(|up_to| units <= up_to) {
                    return say(units, t.unit_minor, (floor + 1, t.up_to));
                }
                floor = t.up_to.unwrap_or(floor);
            }
            Ok(())
        }
        TierModel::Graduated => {
            say(units.min(terms.included), Decimal::ZERO, free)?;
            for t in &overage.tiers {
                let end = t.up_to.map_or(units, |up_to| units.min(up_to));
                say(end.saturating_sub(floor), t.unit_minor, (floor + 1, t.up_to))?;
                floor = t.up_to.unwrap_or(units).max(floor);
            }
            Ok(())
        }
    }
}

/// The largest number of units whose cost stays at or below `cap_minor`, with every smaller number staying there too
/// (a volume price can jump). `None`: no number is too many.
pub fn units_within(terms: &MeterTerms, cap_minor: i64, currency: Currency) -> Option<u64> {
    terms.overage.as_ref()?;
    let over = |units: u64| cost(terms, units, currency).map_or(true, |m| m.minor > cap_minor);
    // Cost rises within a tier; only a volume price may fall at a border, so each tier is searched on its own.
    let mut low = 0u64;
    let ends = terms
        .overage
        .iter()
        .flat_map(|o| o.tiers.iter())
        .map(|t| t.up_to.unwrap_or(u64::MAX / 4));
    for end in std::iter::once(terms.included).chain(ends) {
        if end <= low && end != 0 {
            continue;
        }
        if over(low.saturating_add(1).min(end.max(1))) {
            return Some(low);
        }
        if over(end) {
            let mut high = end;
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if over(middle) { high = middle } else { low = middle }
            }
            return Some(low);
        }
        low = low.max(end);
    }
    None
}

/// A unit price for people: `$0.60 per 1,000` where a single unit costs less than a minor unit, else `$0.05 each`.
pub fn unit_price_words(unit_minor: Decimal, currency: Currency) -> String {
    if unit_minor >= Decimal::ONE && unit_minor.normalize().scale() == 0 {
        return Money::from_minor_half_up(unit_minor, currency).map_or_else(|_| String::new(), |m| format!("{m} each"));
    }
    for thousand in [1_000u64, 1_000_000] {
        let price = unit_minor * Decimal::from(thousand);
        if price.normalize().scale() == 0 {
            return Money::from_minor_half_up(price, currency)
                .map_or_else(|_| String::new(), |m| format!("{m} per {}", grouped(thousand)));
        }
    }
    format!("{} minor units each", unit_minor.normalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn terms(model: TierModel, included: u64, tiers: &[(Option<u64>, &str)]) -> MeterTerms {
        let tiers = tiers
            .iter()
            .map(|(up_to, p)| OverageTier {
                up_to: *up_to,
                unit_minor: p.parse().unwrap(),
            })
            .collect();
        MeterTerms {
            meter: "calls".to_owned(),
            included,
            overage: Some(Overage {
                model,
                package_units: 1,
                tiers,
            }),
            ..MeterTerms::default()
        }
    }
    fn minor(t: &MeterTerms, units: u64) -> i64 {
        cost(t, units, Currency::USD).unwrap().minor
    }

    #[test]
    fn graduated_prices_each_unit_in_its_tier() {
        let t = terms(
            TierModel::Graduated,
            50_000,
            &[(Some(500_000), "0.06"), (None, "0.045")],
        );
        assert_eq!(minor(&t, 50_000), 0);
        assert_eq!(minor(&t, 180_000), 7_800);
        assert_eq!(minor(&t, 500_000), 27_000);
        assert_eq!(minor(&t, 600_000), 27_000 + 4_500);
        assert_eq!(rate(&t, 600_000, Currency::USD).unwrap().len(), 3);
    }

    #[test]
    fn volume_prices_all_units_by_the_tier_reached() {
        let t = terms(TierModel::Volume, 1_000_000, &[(None, "0.03")]);
        assert_eq!(minor(&t, 1_000_000), 0);
        assert_eq!(minor(&t, 1_000_001), 30_000);
        assert_eq!(units_within(&t, 29_999, Currency::USD), Some(1_000_000));
    }

    #[test]
    fn packages_are_paid_whole() {
        let mut t = terms(TierModel::Package, 0, &[(None, "500")]);
        t.overage.as_mut().unwrap().package_units = 1_000;
        assert_eq!(
            [minor(&t, 0), minor(&t, 1), minor(&t, 1_000), minor(&t, 1_001)],
            [0, 500, 500, 1_000]
        );
    }

    #[test]
    fn a_hard_quota_costs_nothing() {
        let t = MeterTerms {
            meter: "calls".to_owned(),
            included: 1_000,
            ..MeterTerms::default()
        };
        assert_eq!(minor(&t, 1_000), 0);
        assert_eq!(units_within(&t, 0, Currency::USD), None);
    }

    proptest! {
        #[test]
        fn the_cap_is_the_last_unit_that_fits(
            included in 0u64..5_000, step in 1u64..5_000, a in 0u32..400, b in 1u32..400,
            volume: bool, cap in 0i64..2_000,
        ) {
            let model = if volume { TierModel::Volume } else { TierModel::Graduated };
            let price = |p: u32| format!("0.{p:03}");
            let t = terms(model, included, &[(Some(included + step), &price(a)), (None, &price(b))]);
            let most = units_within(&t, cap, Currency::USD).expect("the last tier costs something");
            prop_assert!(minor(&t, most) <= cap);
            prop_assert!(minor(&t, most + 1) > cap);
            for n in (0..=most).rev().take(200) {
                prop_assert!(minor(&t, n) <= cap);
            }
        }

        #[test]
        fn graduated_cost_never_falls(units in 0u64..20_000, more in 0u64..5_000) {
            let t = terms(TierModel::Graduated, 1_000, &[(Some(5_000), "0.7"), (None, "0.333")]);
            prop_assert!(minor(&t, units) <= minor(&t, units + more) + 1);
        }

        /// What each call is told it costs adds up to what the invoice's lines are rounded from.
        #[test]
        fn calls_add_up_to_the_invoice(
            included in 0u64..300, step in 1u64..300, a in 0u32..3_000, b in 0u32..3_000, kind in 0u8..3,
            calls in proptest::collection::vec(1u64..40, 0..60),
        ) {
            let price = |p: u32| format!("{}.{:03}", p / 1_000, p % 1_000);
            let t = match kind {
                0 => terms(TierModel::Graduated, included, &[(Some(included + step), &price(a)), (None, &price(b))]),
                1 => terms(TierModel::Volume, included, &[(Some(included + step), &price(a)), (None, &price(b))]),
                _ => {
                    let mut t = terms(TierModel::Package, 0, &[(None, &price(a))]);
                    t.overage.as_mut().unwrap().package_units = step;
                    t
                }
            };
            let mut at = 0;
            let mut told = Decimal::ZERO;
            for units in calls {
                told += marginal(&t, at, at + units).unwrap();
                at += units;
            }
            let lines = rate(&t, at, Currency::USD).unwrap();
            let packages = |l: &UsageLine| if kind == 2 { l.units.div_ceil(step) } else { l.units };
            let unrounded: Decimal = lines.iter().map(|l| Decimal::from(packages(l)) * l.unit_minor).sum();
            prop_assert_eq!(told, unrounded);
            let rounding = (Decimal::from(minor(&t, at)) - told).abs();
            prop_assert!(rounding <= Decimal::new(5, 1) * Decimal::from(lines.len()), "each line is rounded once");
        }

        #[test]
        fn lines_sum_to_the_units(units in 0u64..2_000_000) {
            let t = terms(TierModel::Graduated, 50_000, &[(Some(500_000), "0.06"), (None, "0.045")]);
            let lines = rate(&t, units, Currency::USD).unwrap();
            prop_assert_eq!(lines.iter().map(|l| l.units).sum::<u64>(), units);
        }
    }

    #[test]
    fn says_prices_in_words() {
        let words = |p: &str| unit_price_words(p.parse().unwrap(), Currency::USD);
        assert_eq!(words("0.06"), "$0.60 per 1,000");
        assert_eq!(words("0.045"), "$0.45 per 1,000");
        assert_eq!(words("5"), "$0.05 each");
    }
}
