//! What publishing a file would change, in words, before anybody does it.

use crate::features::lives;
use crate::{Domain, DomainError, Provider, Result};
use model::catalogue::{CatalogueFile, Offer, PlanTerms};
use model::feature::Life;
use model::policy::RateRule;
use model::price::{Overage, TierModel, unit_price_words};
use model::{Currency, money::grouped};

/// Longest catalogue file, in bytes: far above any that a person writes.
pub const MAX_FILE_BYTES: usize = 512 * 1024;

/// One thing that publishing would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happens to it.
    pub kind: ChangeKind,
    /// Such as `Plan Pro`.
    pub subject: String,
    /// One sentence each, such as `Month: $29.00 becomes $35.00`.
    pub details: Vec<String>,
}

/// What happens to a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It changes.
    Changed,
    /// It is no longer in the file, and so no longer served or sold.
    Retired,
}

/// Reads the text of a catalogue file.
///
/// # Errors
/// [`DomainError::Invalid`] with the place of the mistake.
pub fn parse(text: &str) -> Result<CatalogueFile> {
    if text.len() > MAX_FILE_BYTES {
        return Err(DomainError::invalid("file", "is longer than 512 KiB"));
    }
    let file: CatalogueFile = toml::from_str(text).map_err(|e| DomainError::invalid("file", words(&e.to_string())))?;
    file.check().map_err(|e| DomainError::invalid("file", e.to_string()))?;
    Ok(file)
}

/// What the reader of TOML says, without the names that we have for things.
fn words(error: &str) -> String {
    let mut lines = error.lines().map(|line| {
        let kinds = [
            ("expected struct ", "expected a table"),
            ("expected enum ", "expected a word"),
        ];
        let named = kinds.iter().find_map(|(kind, word)| Some((line.find(kind)?, word)));
        named.map_or_else(|| line.to_owned(), |(at, word)| format!("{}{word}", &line[..at]))
    });
    let first = lines.next().unwrap_or_default();
    lines.fold(first, |all, line| format!("{all}\n{line}"))
}

/// What publishing this file would change; nothing when it is what is published.
///
/// # Errors
/// [`DomainError::Invalid`] when the file is wrong.
pub async fn preview(domain: &Domain, provider: &Provider, file: &CatalogueFile) -> Result<Vec<Change>> {
    let plans = file.check().map_err(|e| DomainError::invalid("file", e.to_string()))?;
    let mut changes = Vec::new();
    changes.extend(upstreams(domain, file).await?);
    changes.extend(super::issuers::preview(domain, file).await?);
    changes.extend(routes(domain, file).await?);
    changes.extend(features(domain, file).await?);
    let known = super::overview(domain, provider).await?;
    for terms in &plans {
        let newest = known
            .iter()
            .find(|p| p.slug == terms.slug)
            .and_then(|p| Some((p, p.versions.first()?)));
        let subject = format!("Plan {}", terms.name);
        match newest {
            None => changes.push(Change {
                kind: ChangeKind::Added,
                subject,
                details: terms.offers.iter().map(offer_words).collect(),
            }),
            Some((plan, newest)) if newest.terms != *terms || plan.retired_at.is_some() => {
                let staying: i64 = plan.versions.iter().map(|v| v.subscribers).sum();
                let mut details = differences(&newest.terms, terms);
                if plan.retired_at.is_some() {
                    details.insert(0, "It is sold again.".to_owned());
                }
                if staying > 0 && newest.terms != *terms {
                    details.push(format!("{staying} subscribed; they keep the version they have."));
                }
                changes.push(Change {
                    kind: ChangeKind::Changed,
                    subject,
                    details,
                });
            }
            Some(_) => {}
        }
    }
    for plan in known.iter().filter(|p| p.retired_at.is_none()) {
        if !plans.iter().any(|t| t.slug == plan.slug) {
            let staying: i64 = plan.versions.iter().map(|v| v.subscribers).sum();
            let name = plan
                .versions
                .first()
                .map_or(plan.slug.as_str(), |v| v.terms.name.as_str());
            changes.push(Change {
                kind: ChangeKind::Retired,
                subject: format!("Plan {name}"),
                details: vec![format!("No longer sold; {staying} subscribed keep it.")],
            });
        }
    }
    Ok(changes)
}

async fn upstreams(domain: &Domain, file: &CatalogueFile) -> Result<Vec<Change>> {
    let known = sqlx::query!("SELECT slug, url, first_byte_timeout_ms, idle_timeout_ms, policy FROM upstreams")
        .fetch_all(&domain.pool)
        .await?;
    let words = |url: &str, first_byte: i64, idle: i64| {
        format!("{url}, at most {first_byte} ms to the first byte and {idle} ms of silence")
    };
    let mut changes = Vec::new();
    for u in &file.upstreams {
        let new = words(&u.url, i64::from(u.first_byte_timeout_ms), i64::from(u.idle_timeout_ms));
        let old = known.iter().find(|k| k.slug == u.slug).map(|k| {
            let words = words(&k.url, i64::from(k.first_byte_timeout_ms), i64::from(k.idle_timeout_ms));
            (words, &k.policy)
        });
        let subject = format!("Upstream {}", u.slug);
        changes.extend(compared(subject, old, new, &serde_json::to_value(&u.policy)?));
    }
    Ok(changes)
}

async fn routes(domain: &Domain, file: &CatalogueFile) -> Result<Vec<Change>> {
    let known = sqlx::query!(
        "SELECT r.slug, r.methods, r.path, r.weight, r.feature, r.policy, u.slug AS upstream, m.slug AS meter
         FROM routes r JOIN upstreams u ON u.number = r.upstream JOIN meters m ON m.number = r.meter
         WHERE r.retired_at IS NULL"
    )
    .fetch_all(&domain.pool)
    .await?;
    let words = |methods: &[String], path: &str, upstream: &str, meter: &str, weight: i64, feature: Option<&str>| {
        let feature = feature.map_or_else(String::new, |f| format!(", needs {f}"));
        format!(
            "{} {path} to {upstream}, {weight} of {meter}{feature}",
            methods.join(", ")
        )
    };
    let mut changes = Vec::new();
    for r in &file.routes {
        let methods: Vec<String> = r.methods.iter().map(ToString::to_string).collect();
        let new = words(
            &methods,
            &r.path,
            &r.upstream,
            &r.meter,
            i64::from(r.weight),
            r.feature.as_deref(),
        );
        let old = known.iter().find(|k| k.slug == r.slug).map(|k| {
            let words = words(
                &k.methods,
                &k.path,
                &k.upstream,
                &k.meter,
                i64::from(k.weight),
                k.feature.as_deref(),
            );
            (words, &k.policy)
        });
        let subject = format!("Route {}", r.slug);
        changes.extend(compared(subject, old, new, &serde_json::to_value(&r.policy)?));
    }
    for gone in known.iter().filter(|k| !file.routes.iter().any(|r| r.slug == k.slug)) {
        changes.push(Change {
            kind: ChangeKind::Retired,
            subject: format!("Route {}", gone.slug),
            details: vec![format!("{} answers 404 from then on.", gone.path)],
        });
    }
    Ok(changes)
}

/// What changes for something that has words and a policy; nothing when both stay.
fn compared(
    subject: String,
    old: Option<(String, &serde_json::Value)>,
    new: String,
    policy: &serde_json::Value,
) -> Option<Change> {
    let Some((old, old_policy)) = old else {
        return Some(Change {
            kind: ChangeKind::Added,
            subject,
            details: vec![new],
        });
    };
    let moved = (old != new).then(|| format!("{old} becomes {new}"));
    let details: Vec<String> = moved.into_iter().chain(policies(old_policy, policy)).collect();
    (!details.is_empty()).then_some(Change {
        kind: ChangeKind::Changed,
        subject,
        details,
    })
}

/// How features are switched on, where that is not by plans alone.
async fn features(domain: &Domain, file: &CatalogueFile) -> Result<Vec<Change>> {
    let known = lives(&mut *domain.pool.acquire().await?).await?;
    let mut changes = Vec::new();
    for f in &file.features {
        let new = f.life();
        let (kind, details) = match known.get(&f.slug) {
            Some(old) if *old == new => continue,
            Some(old) => {
                let was = format!("{} becomes: {}", life_words(old), life_words(&new));
                (ChangeKind::Changed, was)
            }
            None if new.is_plain() => continue,
            None => (ChangeKind::Added, life_words(&new)),
        };
        changes.push(Change {
            kind,
            subject: format!("Feature {}", f.slug),
            details: vec![details],
        });
    }
    Ok(changes)
}

/// `for 10 % of those whose plan lists it; for 2 consumers by name; variants a:1, b:3`.
fn life_words(life: &Life) -> String {
    let mut parts = vec![match life.rollout {
        Some(rollout) => format!("for {} % of those whose plan lists it", rollout.percent),
        None => "for all whose plan lists it".to_owned(),
    }];
    if !life.consumers.is_empty() {
        parts.push(format!("for {} by name", life.consumers.len()));
    }
    if !life.variants.is_empty() {
        let variants: Vec<String> = life
            .variants
            .iter()
            .map(|v| format!("{}:{}", v.name, v.weight))
            .collect();
        parts.push(format!("variants {}", variants.join(", ")));
    }
    parts.join("; ")
}

/// How two policies differ, a sentence for each field.
fn policies(old: &serde_json::Value, new: &serde_json::Value) -> Vec<String> {
    let fields = |v: &serde_json::Value| v.as_object().cloned().unwrap_or_default();
    let (old, new) = (fields(old), fields(new));
    let mut names: Vec<&String> = old.keys().chain(new.keys().filter(|n| !old.contains_key(*n))).collect();
    names.sort();
    let changed = names.into_iter().filter(|n| old.get(*n) != new.get(*n));
    changed
        .map(|name| match (old.get(name), new.get(name)) {
            (None, Some(now)) => format!("Policy {name} is set to {now}."),
            (Some(was), None) => format!("Policy {name} is removed; it was {was}."),
            (was, now) => format!(
                "Policy {name} becomes {}; it was {}.",
                now.unwrap_or(&serde_json::Value::Null),
                was.unwrap_or(&serde_json::Value::Null)
            ),
        })
        .collect()
}

/// How two versions' terms differ, a sentence each.
fn differences(old: &PlanTerms, new: &PlanTerms) -> Vec<String> {
    let mut out = Vec::new();
    if old.name != new.name || old.tagline != new.tagline || old.popular != new.popular {
        out.push("Its name or the words on the pricing page change.".to_owned());
    }
    for feature in new.features.iter().filter(|f| !old.features.contains(f)) {
        out.push(format!("Feature {feature} is added."));
    }
    for feature in old.features.iter().filter(|f| !new.features.contains(f)) {
        out.push(format!("Feature {feature} is removed."));
    }
    if old.rate_limit != new.rate_limit {
        let words = |t: &PlanTerms| format!("{} a second, {} at once", t.rate_limit.per_second, t.rate_limit.burst);
        out.push(format!("Rate limit: {} becomes {}.", words(old), words(new)));
    }
    out.extend(limit_differences(&old.limits, &new.limits));
    if old.concurrency != new.concurrency {
        let words = |t: &PlanTerms| t.concurrency.map_or("any number".to_owned(), |n| grouped(n.into()));
        out.push(format!("Requests in flight: {} becomes {}.", words(old), words(new)));
    }
    if old.priority != new.priority {
        out.push(format!(
            "Priority under load: {} becomes {}.",
            old.priority, new.priority
        ));
    }
    if old.cache_hits != new.cache_hits {
        let words = |t: &PlanTerms| t.cache_hits.word();
        out.push(format!(
            "Answers from the cache: {} becomes {}.",
            words(old),
            words(new)
        ));
    }
    if old.grace_days != new.grace_days {
        out.push(format!(
            "Grace period: {} days become {}.",
            old.grace_days, new.grace_days
        ));
    }
    for offer in &new.offers {
        match old.offer(offer.interval) {
            Some(before) if before == offer => {}
            Some(before) => out.push(format!("{} becomes {}", offer_words(before), offer_words(offer))),
            None => out.push(format!("New: {}", offer_words(offer))),
        }
    }
    for gone in old.offers.iter().filter(|o| new.offer(o.interval).is_none()) {
        out.push(format!("No longer offered: {}", offer_words(gone)));
    }
    out
}

/// How named rate limits differ, a sentence each.
fn limit_differences(old: &[RateRule], new: &[RateRule]) -> Vec<String> {
    let words = |rule: &RateRule| rule.words(str::to_owned);
    let mut out = Vec::new();
    for rule in new {
        match old.iter().find(|o| o.name == rule.name) {
            None => out.push(format!("Limit {} is added: {}.", rule.name, words(rule))),
            Some(before) if before != rule => {
                out.push(format!(
                    "Limit {}: {} becomes {}.",
                    rule.name,
                    words(before),
                    words(rule)
                ));
            }
            Some(_) => {}
        }
    }
    for gone in old.iter().filter(|o| !new.iter().any(|n| n.name == o.name)) {
        out.push(format!("Limit {} is removed; it was {}.", gone.name, words(gone)));
    }
    out
}

/// `$29.00 a month; calls: 50,000 included, then $0.60 per 1,000`.
fn offer_words(offer: &Offer) -> String {
    let mut out = format!("{} a {}", offer.flat, offer.interval);
    for m in &offer.meters {
        out.push_str(&format!("; {}: {} included, ", m.meter, grouped(m.included)));
        match &m.overage {
            None => match &m.grace {
                None => out.push_str("then refused"),
                Some(grace) => out.push_str(&format!("then {}, then refused", grace.words())),
            },
            Some(overage) => out.push_str(&overage_words(overage, offer.flat.currency)),
        }
    }
    for m in offer.meters.iter().filter(|m| m.marks.is_some()) {
        let marks: Vec<String> = m.marks().iter().map(|mark| format!("{mark} %")).collect();
        match marks.is_empty() {
            true => out.push_str(&format!("; {}: no mails", m.meter)),
            false => out.push_str(&format!("; {}: mails at {}", m.meter, marks.join(", "))),
        }
    }
    out
}

/// `then $0.60 per 1,000, $0.45 per 1,000 past 500,000`.
fn overage_words(overage: &Overage, currency: Currency) -> String {
    let mut out = String::new();
    let mut floor = None;
    for tier in &overage.tiers {
        let price = unit_price_words(tier.unit_minor, currency);
        match floor {
            None => out.push_str(&format!("then {price}")),
            Some(floor) => out.push_str(&format!(", {price} past {}", grouped(floor))),
        }
        floor = tier.up_to;
    }
    match overage.model {
        TierModel::Graduated => out,
        TierModel::Volume => out + ", one price for all",
        TierModel::Package => format!("{out}, in packages of {}", grouped(overage.package_units)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_told_without_names_of_ours() {
        let told = |text| parse(text).unwrap_err().to_string();
        let product = told("product = 5");
        assert!(
            product.contains("line 1, column 11") && product.contains("integer `5`, expected a table"),
            "{product}"
        );
        assert!(
            !product.contains("struct") && !product.contains("ProductFile"),
            "{product}"
        );
        assert!(told("x = 1").contains("unknown field `x`, expected one of `product`"));
    }

    #[test]
    fn limits_are_compared_by_their_names() {
        let rule = |name: &str, rest: &str| -> RateRule {
            toml::from_str(&format!("name = \"{name}\"\nper = \"minute\"\n{rest}")).unwrap()
        };
        let old = [
            rule("reads", "requests = 5"),
            rule("gone", "requests = 1"),
            rule("same", "requests = 2"),
        ];
        let new = [
            rule("same", "requests = 2"),
            rule("reads", "requests = 9\nburst = 3"),
            rule("new", "requests = 4\nmethods = [\"POST\"]"),
        ];
        assert_eq!(
            limit_differences(&old, &new),
            [
                "Limit reads: 5 requests a minute becomes 9 requests a minute, 3 at once.",
                "Limit new is added: 4 requests a minute for POST.",
                "Limit gone is removed; it was 1 request a minute.",
            ]
        );
    }
}
