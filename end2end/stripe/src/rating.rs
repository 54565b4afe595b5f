//! What a quantity costs at a price, as the lines of an invoice show it.

use serde_json::Value;

use crate::money;
use crate::state::{each, number, text};

/// One line: quantity, unit price in trillionths, amount in minor units, and the tier's number when there are several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) quantity: i64,
    pub(crate) unit: i128,
    pub(crate) amount: i64,
    pub(crate) tier: Option<usize>,
}

fn exact(object: &Value, key: &str) -> i128 {
    money::parse(text(object, key)).unwrap_or_default()
}

/// The lines for a quantity. A negative quantity costs what zero costs.
pub(crate) fn rate(price: &Value, quantity: i64) -> Vec<Part> {
    let quantity = quantity.max(0);
    match text(price, "tiers_mode") {
        "graduated" => graduated(each(price, "_tiers"), quantity),
        "volume" => volume(each(price, "_tiers"), quantity),
        _ => {
            let unit = exact(price, "unit_amount_decimal");
            let units = packages(&price["transform_quantity"], quantity);
            vec![Part {
                quantity,
                unit,
                amount: money::round(unit * i128::from(units)),
                tier: None,
            }]
        }
    }
}

/// The total for a quantity, in minor units.
pub(crate) fn total(price: &Value, quantity: i64) -> i64 {
    rate(price, quantity).iter().map(|part| part.amount).sum()
}

fn packages(transform: &Value, quantity: i64) -> i64 {
    let size = number(transform, "divide_by");
    match text(transform, "round") {
        _ if size < 1 => quantity,
        "up" => (quantity + size - 1) / size,
        _ => quantity / size,
    }
}

/// Every tier that the quantity reaches is a line; the first one always is, so that its flat fee is billed at no usage too.
fn graduated(tiers: &[Value], quantity: i64) -> Vec<Part> {
    let mut below = 0;
    let mut parts = Vec::new();
    for (index, tier) in tiers.iter().enumerate() {
        let top = tier["up_to"].as_i64().unwrap_or(i64::MAX);
        let inside = quantity.min(top) - below;
        if index > 0 && inside <= 0 {
            break;
        }
        let unit = exact(tier, "unit_amount_decimal");
        let amount = money::round(unit * i128::from(inside) + exact(tier, "flat_amount_decimal"));
        parts.push(Part {
            quantity: inside,
            unit,
            amount,
            tier: Some(index + 1),
        });
        below = top;
    }
    parts
}

/// One line: the tier that the whole quantity reaches prices all of it.
fn volume(tiers: &[Value], quantity: i64) -> Vec<Part> {
    let reached = tiers
        .iter()
        .find(|tier| tier["up_to"].as_i64().is_none_or(|top| quantity <= top));
    let line = |tier: &Value| {
        let unit = exact(tier, "unit_amount_decimal");
        let amount = money::round(unit * i128::from(quantity) + exact(tier, "flat_amount_decimal"));
        Part {
            quantity,
            unit,
            amount,
            tier: None,
        }
    };
    reached.map(line).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tiered(mode: &str) -> Value {
        json!({"tiers_mode": mode, "_tiers": [
            {"up_to": 1000, "unit_amount_decimal": "0"},
            {"up_to": 5000, "unit_amount_decimal": "0.35", "flat_amount_decimal": "200"},
            {"up_to": null, "unit_amount_decimal": "0.333"},
        ]})
    }

    #[test]
    fn graduated_is_a_line_for_each_tier() {
        let amounts = |quantity| {
            rate(&tiered("graduated"), quantity)
                .iter()
                .map(|part| part.amount)
                .collect::<Vec<_>>()
        };
        assert_eq!(amounts(0), [0]);
        assert_eq!(amounts(1000), [0]);
        assert_eq!(amounts(1001), [0, 200]);
        assert_eq!(amounts(5003), [0, 1600, 1]);
    }

    #[test]
    fn volume_prices_all_by_the_tier_reached() {
        assert_eq!(total(&tiered("volume"), 1000), 0);
        assert_eq!(total(&tiered("volume"), 2000), 900);
        assert_eq!(total(&tiered("volume"), 10_000), 3330);
    }

    #[test]
    fn packages_are_counted_up() {
        let price = json!({"unit_amount_decimal": "500", "transform_quantity": {"divide_by": 1000, "round": "up"}});
        assert_eq!(
            [0, 1, 1000, 1001].map(|quantity| total(&price, quantity)),
            [0, 500, 500, 1000]
        );
    }
}
