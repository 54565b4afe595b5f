//! The estimator's arithmetic: the same rating that the invoice has, on the server and in the browser.

use crate::ui::wire::{Cells, Rows};
use model::Money;
use model::catalogue::MeterTerms;
use model::money::grouped;
use model::price::{Overage, OverageTier, TierModel, cost};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// A plan as the estimator needs it: its flat price and one meter's terms, of one interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Priced {
    /// Name of the plan.
    pub name: String,
    /// Paid in advance.
    pub flat: Money,
    /// Allowance and overage.
    pub meter: MeterTerms,
}

/// The plans, from small to large.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Rows", into = "Rows")]
pub struct Plans(pub Vec<Priced>);

/// The words for the tier models on their way to the browser.
const MODELS: [(TierModel, &str); 3] = [
    (TierModel::Graduated, "graduated"),
    (TierModel::Volume, "volume"),
    (TierModel::Package, "package"),
];

impl From<Plans> for Rows {
    fn from(plans: Plans) -> Self {
        plans.0.into_iter().map(cells).collect()
    }
}

fn cells(plan: Priced) -> Vec<String> {
    let Money { minor, currency } = plan.flat;
    let included = plan.meter.included.to_string();
    let mut cells = vec![
        plan.name,
        minor.to_string(),
        currency.to_string(),
        plan.meter.meter,
        included,
    ];
    if let Some(overage) = plan.meter.overage {
        let model = MODELS.iter().find(|(model, _)| *model == overage.model);
        cells.push(model.map_or("", |(_, word)| word).to_owned());
        cells.push(overage.package_units.to_string());
        for tier in overage.tiers {
            cells.push(tier.up_to.map(|n| n.to_string()).unwrap_or_default());
            cells.push(tier.unit_minor.to_string());
        }
    }
    cells
}

impl TryFrom<Rows> for Plans {
    type Error = &'static str;
    fn try_from(rows: Rows) -> Result<Self, &'static str> {
        let plans: Option<Vec<Priced>> = rows.into_iter().map(|row| priced(Cells::new(row))).collect();
        plans.map(Self).ok_or("a plan that cannot be read")
    }
}

fn priced(mut row: Cells) -> Option<Priced> {
    Some(Priced {
        name: row.text(),
        flat: Money {
            minor: row.text().parse().ok()?,
            currency: row.text().parse().ok()?,
        },
        meter: MeterTerms {
            meter: row.text(),
            included: row.text().parse().ok()?,
            overage: match row.next_text() {
                None => None,
                Some(word) => Some(overage(&word, row)?),
            },
            ..MeterTerms::default()
        },
    })
}

fn overage(word: &str, mut row: Cells) -> Option<Overage> {
    let (model, _) = MODELS.iter().find(|(_, known)| *known == word)?;
    let package_units = row.text().parse().ok()?;
    let mut tiers = Vec::new();
    while let Some(up_to) = row.next_text() {
        tiers.push(OverageTier {
            up_to: if up_to.is_empty() {
                None
            } else {
                Some(up_to.parse().ok()?)
            },
            unit_minor: Decimal::from_str_exact(&row.text()).ok()?,
        });
    }
    Some(Overage {
        model: *model,
        package_units,
        tiers,
    })
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
                ..MeterTerms::default()
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
    fn plans_arrive_in_the_browser_as_they_were() {
        let mut package = plan("Package", 1, 7, Some("0.045"));
        if let Some(overage) = &mut package.meter.overage {
            overage.model = TierModel::Package;
            overage.package_units = 1_000;
            overage.tiers.insert(
                0,
                OverageTier {
                    up_to: Some(500),
                    unit_minor: Decimal::ONE,
                },
            );
        }
        let plans = Plans(vec![
            plan("Free", 0, 1_000, None),
            plan("Pro", -5, 0, Some("0.06")),
            package,
        ]);
        assert_eq!(Plans::try_from(Rows::from(plans.clone())), Ok(plans));
        assert!(Plans::try_from(vec![vec!["Broken".to_owned()]]).is_err());
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
