//! Plans in words: what a card, a comparison and a plan page say about terms.

use domain::catalogue::{Catalogue, Meter};
use model::Money;
use model::access::{Interval, QuotaKind};
use model::catalogue::{CacheHits, MeterTerms, Offer, PlanTerms, RateLimit};
use model::money::grouped;
use model::overrides::{self, Change, OVERALL, Override};
use model::policy::RateRule;
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
    own_lines(catalogue, terms, offer, &[])
}

/// What a consumer really has of an offer, a line each: with overrides in force, and until when.
pub fn own_lines(catalogue: &Catalogue, terms: &PlanTerms, offer: &Offer, own: &[Override]) -> Vec<String> {
    let mut out = Vec::new();
    for m in &offer.meters {
        out.extend(meter_lines(m, catalogue.meter(&m.meter), offer, own));
    }
    let rate = |limit: RateLimit| {
        let (second, burst) = (grouped(limit.per_second.into()), grouped(limit.burst.into()));
        format!("{second} calls a second, {burst} at once")
    };
    let (plan, now) = (terms.rate_limit, overrides::rate_limit(terms.rate_limit, own.iter()));
    out.push(in_place_of(rate(plan), rate(now), own_limit(own, OVERALL)));
    out.extend(terms.limits.iter().map(|plan| {
        let now = overrides::limit(plan, own.iter());
        let words = |limit: &RateRule| limit.words(str::to_owned);
        in_place_of(words(plan), words(&now), own_limit(own, &plan.name))
    }));
    out.extend(in_flight(terms));
    if terms.cache_hits == CacheHits::Free {
        out.push("Answers from the cache do not count".to_owned());
    }
    out.extend(feature_lines(catalogue, terms, own));
    if offer.meters.iter().any(|m| m.overage.is_some()) {
        out.push("A spend cap that really stops".to_owned());
    }
    if terms.is_free() {
        out.push("No card needed".to_owned());
    }
    out
}

/// Allowance, price and quota of a meter.
fn meter_lines(terms: &MeterTerms, meter: Option<&Meter>, offer: &Offer, own: &[Override]) -> Vec<String> {
    let interval = offer.interval;
    let plan = allowance(terms, meter, interval);
    let (quota, by) = overrides::quota(terms, own.iter());
    let count = units(quota.units, meter);
    let now = match (quota.kind, &terms.overage, &terms.grace) {
        (QuotaKind::Hard, Some(_), _) => format!("At most {count} a {interval}, then it stops"),
        (QuotaKind::Hard, None, Some(grace)) => {
            format!("{count} a {interval}, then {}, then it stops", grace.words())
        }
        (QuotaKind::Hard, None, None) => format!("{count} a {interval}, then it stops"),
        (QuotaKind::Soft, Some(_), _) => format!("Measured against {count} a {interval}"),
        (QuotaKind::Soft, None, _) => format!("{count} a {interval}, and more free of charge"),
    };
    let mut out = Vec::new();
    match (by, overage(terms, offer.flat)) {
        // What is charged stays as the plan says; the quota comes on top.
        (Some(by), Some(price)) => out.extend([plan, price, format!("{now}{}", until(by))]),
        (by, price) => {
            out.push(in_place_of(plan, now, by));
            out.extend(price);
        }
    }
    out
}

fn feature_lines(catalogue: &Catalogue, terms: &PlanTerms, own: &[Override]) -> Vec<String> {
    let switched = |slug: &str| {
        own.iter().find_map(|o| match &o.change {
            Change::Feature { feature, on } if feature == slug => Some((*on, o)),
            _ => None,
        })
    };
    let of_plan = terms.features.iter().map(|slug| {
        let name = catalogue.feature_name(slug);
        match switched(slug) {
            Some((false, by)) => format!("No {name}{} (the plan has it)", until(by)),
            _ => name.to_owned(),
        }
    });
    let more = own.iter().filter_map(|o| match &o.change {
        Change::Feature { feature, on: true } if !terms.features.contains(feature) => {
            Some(format!("{}{}", catalogue.feature_name(feature), until(o)))
        }
        _ => None,
    });
    of_plan.chain(more).collect()
}

fn own_limit<'a>(own: &'a [Override], limit: &str) -> Option<&'a Override> {
    own.iter()
        .find(|o| matches!(&o.change, Change::Limit { name, .. } if name == limit))
}

/// What the plan says, or what an override says in its place.
fn in_place_of(plan: String, now: String, by: Option<&Override>) -> String {
    match by {
        None => plan,
        Some(by) => format!("{now}{} (the plan: {plan})", until(by)),
    }
}

/// `, for your account until 24 Dec 2026, 00:00 UTC`
pub fn until(by: &Override) -> String {
    let end = by.ends_at.map(|end| format!(" until {}", end.minute()));
    format!(", for your account{}", end.unwrap_or_default())
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
