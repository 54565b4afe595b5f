//! The estimator's arithmetic: the same rating that the invoice has, on the server and in the browser.

use model::Money;
use model::catalogue::MeterTerms;
use model::money::grouped;
use model::price::cost;
use serde::{Deserialize, Serialize};

/// A plan as the estimator needs it: its flat price and one meter's terms, of one interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Priced {
    /// Name of the plan.
    pub name: String,
    /// Paid in advance.
    pub flat: Money,
    /// Allowance and overage.
    pub meter: MeterTerms,
}

/// What a plan would cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Name of the plan.
    pub name: String,
    /// The whole price; none when the plan refuses that many.
    pub total: Option<Money>,
    /// How it comes about.
    pub words: String,
    /// No other plan that allows it costs less.
    pub cheapest: bool,
}

/// What each plan would cost for so many units in a period.
pub fn estimate(plans: &[Priced], units: u64) -> Vec<Row> {
    let mut rows: Vec<Row> = plans.iter().map(|plan| row(plan, units)).collect();
    let least = rows.iter().filter_map(|r| r.total).map(|m| m.minor).min();
    // The first of equals: plans are listed from small to large.
    if let Some(row) = rows
        .iter_mut()
        .find(|r| r.total.map(|m| m.minor) == least && least.is_some())
    {
        row.cheapest = true;
    }
    rows
}

fn row(plan: &Priced, units: u64) -> Row {
    let over = units.saturating_sub(plan.meter.included);
    let usage = cost(&plan.meter, units, plan.flat.currency).ok();
    let (total, words) = if over > 0 && plan.meter.overage.is_none() {
        (None, format!("stops at {}", grouped(plan.meter.included)))
    } else {
        let words = match usage {
            Some(usage) if usage.minor > 0 => {
                format!("{} + {usage} for {} over the allowance", plan.flat, grouped(over))
            }
            _ => "all included".to_owned(),
        };
        (usage.and_then(|u| u.checked_add(plan.flat)), words)
    };
    Row {
        name: plan.name.clone(),
        total,
        words,
        cheapest: false,
    }
}

/// Reads `180,000`, `180 000` or `180000`; what is no number is none.
pub fn read_units(text: &str) -> Option<u64> {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let clean = text
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, ',' | '.' | ' ' | '\u{a0}' | '_' | '\''));
    digits.parse().ok().filter(|_| clean && digits.len() <= 15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Currency;
    use model::price::{Overage, OverageTier, TierModel};

    fn plan(name: &str, flat_minor: i64, included: u64, unit_minor: Option<&str>) -> Priced {
        Priced {
            name: name.to_owned(),
            flat: Money {
                minor: flat_minor,
                currency: Currency::USD,
            },
            meter: MeterTerms {
                meter: "calls".to_owned(),
                included,
                overage: unit_minor.map(|unit| Overage {
                    model: TierModel::Graduated,
                    package_units: 1,
                    tiers: vec![OverageTier {
                        up_to: None,
                        unit_minor: unit.parse().unwrap(),
                    }],
                }),
            },
        }
    }

    #[test]
    fn the_cheapest_plan_that_allows_it_is_marked() {
        let plans = [
            plan("Free", 0, 1_000, None),
            plan("Pro", 2_900, 50_000, Some("0.06")),
            plan("Scale", 29_900, 1_000_000, Some("0.03")),
        ];
        let at = |units| {
            let rows = estimate(&plans, units);
            let cheapest = rows.iter().find(|r| r.cheapest).unwrap();
            (cheapest.name.clone(), cheapest.total.unwrap().to_string())
        };
        assert_eq!(at(1_000), ("Free".to_owned(), "$0.00".to_owned()));
        assert_eq!(at(1_001), ("Pro".to_owned(), "$29.00".to_owned()));
        assert_eq!(at(180_000), ("Pro".to_owned(), "$107.00".to_owned()));
        assert_eq!(at(900_000), ("Scale".to_owned(), "$299.00".to_owned()));
        assert_eq!(estimate(&plans, 5_000)[0].total, None);
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        assert_eq!(read_units("180,000"), Some(180_000));
        assert_eq!(read_units(" 180 000"), Some(180_000));
        for text in ["", "many", "-5", "1e9", "9999999999999999"] {
            assert_eq!(read_units(text), None, "{text}");
        }
    }
}
