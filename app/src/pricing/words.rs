//! Plans in words: what a card, a comparison and a plan page say about terms.

use domain::catalogue::{Catalogue, Meter};
use model::Money;
use model::access::Interval;
use model::catalogue::{CacheHits, MeterTerms, Offer, PlanTerms};
use model::money::grouped;
use model::price::{Overage, TierModel, unit_price_words};

/// `$29` for whole amounts, `$29.50` otherwise.
pub fn short(money: Money) -> String {
    let full = money.to_string();
    full.strip_suffix(".00").map_or(full.clone(), str::to_owned)
}

/// `50,000 calls`.
pub fn units(count: u64, meter: Option<&Meter>) -> String {
    let unit = meter.map_or("unit", |m| m.unit.as_str());
    let s = if count == 1 { "" } else { "s" };
    format!("{} {unit}{s}", grouped(count))
}

/// `50,000 calls included` or `1,000 calls a month, then it stops`.
pub fn allowance(terms: &MeterTerms, meter: Option<&Meter>, interval: Interval) -> String {
    let included = units(terms.included, meter);
    if terms.overage.is_some() {
        format!("{included} included a {interval}")
    } else if let Some(grace) = &terms.grace {
        format!("{included} a {interval}, then {}, then it stops", grace.words())
    } else {
        format!("{included} a {interval}, then it stops")
    }
}

/// `then $0.60 per 1,000, $0.45 per 1,000 past 500,000`; nothing for a hard quota.
pub fn overage(terms: &MeterTerms, money: Money) -> Option<String> {
    let overage = terms.overage.as_ref()?;
    Some(match overage.model {
        TierModel::Graduated => format!("then {}", steps(overage, money)),
        TierModel::Volume => format!("then one price for all: {}", steps(overage, money)),
        TierModel::Package => {
            let price = overage
                .tiers
                .first()
                .map_or_else(String::new, |t| each(t.unit_minor, money));
            format!(
                "{} for every {} begun",
                price.trim_end_matches(" each"),
                grouped(overage.package_units)
            )
        }
    })
}

fn steps(overage: &Overage, money: Money) -> String {
    let mut out = String::new();
    let mut past = None;
    for tier in &overage.tiers {
        let price = each(tier.unit_minor, money);
        match past {
            None => out.push_str(&price),
            Some(past) => out.push_str(&format!(", {price} past {}", grouped(past))),
        }
        past = tier.up_to;
    }
    out
}

fn each(unit_minor: rust_decimal::Decimal, money: Money) -> String {
    unit_price_words(unit_minor, money.currency)
}

/// Everything an offer comes with, a line each.
pub fn lines(catalogue: &Catalogue, terms: &PlanTerms, offer: &Offer) -> Vec<String> {
    let mut out = Vec::new();
    for m in &offer.meters {
        let meter = catalogue.meter(&m.meter);
        out.push(allowance(m, meter, offer.interval));
        out.extend(overage(m, offer.flat));
    }
    let rate = terms.rate_limit;
    out.push(format!(
        "{} calls a second, {} at once",
        grouped(rate.per_second.into()),
        grouped(rate.burst.into())
    ));
    out.extend(terms.limits.iter().map(|l| l.words(str::to_owned)));
    out.extend(in_flight(terms));
    if terms.cache_hits == CacheHits::Free {
        out.push("Answers from the cache do not count".to_owned());
    }
    out.extend(terms.features.iter().map(|f| catalogue.feature_name(f).to_owned()));
    if offer.meters.iter().any(|m| m.overage.is_some()) {
        out.push("A spend cap that really stops".to_owned());
    }
    if terms.is_free() {
        out.push("No card needed".to_owned());
    }
    out
}

/// `20 requests in flight`, where that is bounded.
pub fn in_flight(terms: &PlanTerms) -> Option<String> {
    let most = terms.concurrency?;
    let s = if most == 1 { "" } else { "s" };
    Some(format!("{} request{s} in flight", grouped(most.into())))
}

/// What a year saves against twelve months, when it does.
pub fn yearly_saving(terms: &PlanTerms) -> Option<Money> {
    let (month, year) = (terms.offer(Interval::Month)?.flat, terms.offer(Interval::Year)?.flat);
    let saved = month.minor.checked_mul(12)?.checked_sub(year.minor)?;
    (saved > 0).then_some(Money {
        minor: saved,
        currency: year.currency,
    })
}
