//! The lines of an invoice in our own words; the amounts are Stripe's, to the cent.

use crate::Result;
use crate::catalogue::stripe::FLAT;
use crate::payments::StripeLine;
use model::Money;
use model::access::Interval;
use model::catalogue::PlanTerms;
use model::money::grouped;
use model::price::unit_price_words;
use sqlx::PgConnection;
use std::collections::HashMap;

/// What a price is the price of.
struct Sold {
    plan: String,
    interval: Interval,
    /// Name of the meter on pages; none for the price in advance.
    meter: Option<String>,
}

/// Each line that charges or credits something, in words. A price that is none of ours, because the provider added it by
/// hand, keeps Stripe's words.
///
/// # Errors
/// When the database fails.
pub(super) async fn describe(connection: &mut PgConnection, lines: &[StripeLine]) -> Result<Vec<(String, Money)>> {
    let sold = sold(connection, lines).await?;
    let of = |line: &StripeLine| line.price.as_ref().and_then(|price| sold.get(price));
    let charging = lines.iter().filter(|l| l.amount.minor != 0 || of(l).is_none());
    Ok(charging
        .map(|l| {
            (
                of(l).map_or_else(|| l.description.clone(), |sold| words(sold, l)),
                l.amount,
            )
        })
        .collect())
}

async fn sold(connection: &mut PgConnection, lines: &[StripeLine]) -> Result<HashMap<String, Sold>> {
    let prices: Vec<String> = lines.iter().filter_map(|l| l.price.clone()).collect();
    let rows = sqlx::query!(
        r#"SELECT p.stripe_price, p.part, p.interval AS "interval: Interval", v.terms, m.name AS "meter?"
           FROM plan_prices p JOIN plan_versions v ON v.id = p.plan_version_id LEFT JOIN meters m ON m.slug = p.part
           WHERE p.stripe_price = ANY($1)"#,
        &prices
    )
    .fetch_all(connection)
    .await?;
    let mut sold = HashMap::new();
    for row in rows {
        let terms: PlanTerms = serde_json::from_value(row.terms)?;
        let one = Sold {
            plan: terms.name,
            interval: row.interval,
            meter: (row.part != FLAT).then(|| row.meter.unwrap_or(row.part)),
        };
        sold.insert(row.stripe_price, one);
    }
    Ok(sold)
}

fn words(sold: &Sold, line: &StripeLine) -> String {
    let (plan, from, to) = (&sold.plan, line.period.start.day(), line.period.end.day());
    match &sold.meter {
        Some(meter) => {
            let mut text = format!("{meter} on {plan} until {to}");
            if let Some(units) = line.quantity {
                text.push_str(&format!(": {}", grouped(units)));
            }
            if let Some(unit_minor) = line.unit_minor {
                text.push_str(&format!(" at {}", unit_price_words(unit_minor, line.amount.currency)));
            }
            text
        }
        None if line.amount.minor < 0 => format!("Credit for {plan} from {from} to {to}, which is paid already"),
        None if line.proration => format!("{plan} for the rest of the period, {from} to {to}"),
        None => format!("{plan} for a {}, {from} to {to}", sold.interval),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Currency, Period, Time};

    fn line(minor: i64, proration: bool, units: Option<u64>, unit_minor: Option<&str>) -> StripeLine {
        let start = Time::from_unix_s(1_800_000_000);
        StripeLine {
            description: "2 x Tier 1".to_owned(),
            quantity: units,
            unit_minor: unit_minor.map(|u| u.parse().unwrap()),
            amount: Money {
                minor,
                currency: Currency::USD,
            },
            price: Some("price_1".to_owned()),
            proration,
            period: Period {
                start,
                end: start.plus_s(10 * 86_400),
            },
        }
    }

    #[test]
    fn a_line_says_what_it_is_for() {
        let flat = Sold {
            plan: "Pro".to_owned(),
            interval: Interval::Month,
            meter: None,
        };
        let usage = Sold {
            meter: Some("API calls".to_owned()),
            plan: "Pro".to_owned(),
            interval: Interval::Month,
        };
        let cases = [
            (
                &flat,
                line(-900, true, Some(1), None),
                "Credit for Pro from 15 Jan 2027 to 25 Jan 2027, which is paid already",
            ),
            (
                &flat,
                line(900, true, Some(1), None),
                "Pro for the rest of the period, 15 Jan 2027 to 25 Jan 2027",
            ),
            (
                &flat,
                line(2_900, false, Some(1), None),
                "Pro for a month, 15 Jan 2027 to 25 Jan 2027",
            ),
            (
                &usage,
                line(300, false, Some(5_000), Some("0.06")),
                "API calls on Pro until 25 Jan 2027: 5,000 at $0.60 per 1,000",
            ),
        ];
        for (sold, line, text) in cases {
            assert_eq!(words(sold, &line), text);
        }
    }
}
