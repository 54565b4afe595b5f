//! Plans as a catalogue file says them, and what they come to.

use super::{CacheHits, CatalogueError, MeterTerms, Offer, PlanTerms, RateLimit, known, slugs, wrong};
use crate::access::Interval;
use crate::money::{Currency, Money, minor_units};
use crate::policy::RateRule;
use crate::price::{Overage, OverageTier, TierModel};
use crate::quota::{QuotaGrace, check_marks};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// A named offer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// Short name in URLs; the plan's identity across versions.
    pub slug: String,
    /// Name on pages and invoices.
    pub name: String,
    /// One line under the name.
    pub tagline: String,
    /// Shown as the one most chosen.
    #[serde(default)]
    pub popular: bool,
    /// Features granted.
    #[serde(default)]
    pub features: Vec<String>,
    /// Short-window limit of everything a consumer does.
    pub rate_limit: RateLimit,
    /// Further limits, such as one for each method; all must be passed.
    #[serde(default)]
    pub limits: Vec<RateRule>,
    /// Requests a consumer may have in flight at once; none means any number. Event streams count while they are open.
    #[serde(default)]
    pub concurrency: Option<u32>,
    /// Who goes first when there is more to do than can be done: 9 before all others, 0 (the default) last.
    #[serde(default)]
    pub priority: u8,
    /// Whether answers that the gateway kept count like others.
    #[serde(default)]
    pub cache_hits: CacheHits,
    /// Days of access after a renewal failed.
    #[serde(default = "default_grace_days")]
    pub grace_days: u16,
    /// The monthly offer.
    pub month: OfferFile,
    /// The yearly offer, where there is one.
    #[serde(default)]
    pub year: Option<OfferFile>,
}

fn default_grace_days() -> u16 {
    7
}

/// A price for an interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferFile {
    /// What is paid in advance, in major units.
    pub flat: String,
    /// What usage costs.
    pub meters: Vec<OfferMeterFile>,
}

/// Allowance and overage of a meter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferMeterFile {
    /// The meter.
    pub meter: String,
    /// Units covered by the flat price in each period.
    pub included: u64,
    /// What happens above: a price, or nothing here, and then requests are refused (a hard quota).
    #[serde(default)]
    pub overage: Option<OverageFile>,
    /// Calls beyond a hard quota that are let through: `{ percent = 5 }`, `{ hours = 24 }`, or both.
    #[serde(default)]
    pub grace: Option<QuotaGrace>,
    /// Percentages of `included` at which members get a mail; 50, 80 and 100 by default.
    #[serde(default)]
    pub marks: Option<Vec<u16>>,
}

/// Prices above the allowance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverageFile {
    /// `graduated`, `volume` or `package`.
    pub model: TierModel,
    /// Units in a package; 1 for the others.
    #[serde(default = "default_package")]
    pub package_units: u64,
    /// Steps; the last has no `up_to`.
    pub tiers: Vec<OverageTierFile>,
}

fn default_package() -> u64 {
    1
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverageTierFile {
    /// Last unit of the step, counted from the first unit of the period; none on the last step.
    #[serde(default)]
    pub up_to: Option<u64>,
    /// Price of a unit (of a package), in major units.
    pub unit: String,
}

impl PlanFile {
    pub(super) fn check(
        &self,
        currency: Currency,
        meters: &[&str],
        features: &[&str],
    ) -> Result<PlanTerms, CatalogueError> {
        let place = format!("plans.{}", self.slug);
        for f in &self.features {
            known(&place, "features", features, f)?;
        }
        if self.rate_limit.per_second == 0 || self.rate_limit.burst == 0 {
            return wrong(format!("{place}.rate_limit"), "per_second and burst must be at least 1");
        }
        let mut offers = vec![
            self.month
                .check(&format!("{place}.month"), Interval::Month, currency, meters)?,
        ];
        if let Some(year) = &self.year {
            offers.push(year.check(&format!("{place}.year"), Interval::Year, currency, meters)?);
        }
        Ok(PlanTerms {
            slug: self.slug.clone(),
            name: self.name.clone(),
            tagline: self.tagline.clone(),
            popular: self.popular,
            features: self.features.clone(),
            rate_limit: self.rate_limit,
            limits: self.limits.clone(),
            concurrency: self.concurrency,
            priority: self.priority,
            cache_hits: self.cache_hits,
            grace_days: self.grace_days,
            offers,
        })
    }
}

impl OfferFile {
    fn check(
        &self,
        place: &str,
        interval: Interval,
        currency: Currency,
        meters: &[&str],
    ) -> Result<Offer, CatalogueError> {
        let flat = match Money::parse_major(&self.flat, currency) {
            Ok(m) if m.minor >= 0 => m,
            Ok(_) => return wrong(format!("{place}.flat"), "must not be negative"),
            Err(e) => return wrong(format!("{place}.flat"), e.to_string()),
        };
        check_charge(&format!("{place}.flat"), &self.flat, flat)?;
        slugs(&format!("{place}.meters"), self.meters.iter().map(|m| &m.meter))?;
        let mut terms = Vec::new();
        for m in &self.meters {
            let place = format!("{place}.meters.{}", m.meter);
            known(&place, "meter", meters, &m.meter)?;
            let overage = m
                .overage
                .as_ref()
                .map(|o| o.check(&place, m.included, currency))
                .transpose()?;
            if let Some(grace) = &m.grace {
                if overage.is_some() {
                    let problem = "nothing is refused past a soft quota: leave out either grace or overage";
                    return wrong(format!("{place}.grace"), problem);
                }
                grace.check().or_else(|e| wrong(format!("{place}.grace"), e))?;
            }
            let marks = check_marks(m.marks.as_deref().unwrap_or_default());
            marks.or_else(|e| wrong(format!("{place}.marks"), e))?;
            terms.push(MeterTerms {
                meter: m.meter.clone(),
                included: m.included,
                overage,
                grace: m.grace,
                marks: m.marks.clone(),
            });
        }
        Ok(Offer {
            interval,
            flat,
            meters: terms,
        })
    }
}

/// Refuses what Stripe cannot charge: an amount that is finer than it counts.
fn check_charge(place: &str, text: &str, amount: Money) -> Result<(), CatalogueError> {
    let (currency, step) = (amount.currency, amount.currency.charge_step());
    if amount.minor % i64::from(step) == 0 {
        return Ok(());
    }
    let decimals = currency.charged_decimals();
    let takes = match decimals {
        0 => format!("whole {currency}"),
        _ => "two decimals".to_owned(),
    };
    let near = Decimal::new(amount.minor / i64::from(step), decimals);
    let problem = format!("{text} {currency} cannot be charged: Stripe takes {takes}, such as {near}");
    wrong(place, problem)
}

impl OverageFile {
    fn check(&self, place: &str, included: u64, currency: Currency) -> Result<Overage, CatalogueError> {
        let place = format!("{place}.overage");
        if currency.charge_step() > 1 {
            // How Stripe rounds a line of usage to what it can charge is not modelled: the running cost would differ.
            let problem = format!(
                "usage cannot be priced in {currency} yet, because Stripe charges no amounts as fine as it counts: leave \
                 the overage out (then calls beyond what is included are refused) or sell in another currency"
            );
            return wrong(place, problem);
        }
        let mut floor = included;
        let mut tiers = Vec::new();
        for (i, t) in self.tiers.iter().enumerate() {
            let last = i + 1 == self.tiers.len();
            match t.up_to {
                Some(_) if last => return wrong(place, "the last tier must have no up_to"),
                None if !last => return wrong(place, "only the last tier may have no up_to"),
                Some(up_to) if up_to <= floor => return wrong(place, format!("up_to {up_to} must be above {floor}")),
                Some(up_to) => floor = up_to,
                None => {}
            }
            let unit = minor_units(&t.unit, currency).or_else(|e| wrong(&place, e.to_string()))?;
            if unit.is_sign_negative() || unit.scale() > 12 {
                return wrong(
                    place,
                    format!(
                        "{} must not be negative or finer than 12 decimals of a minor unit",
                        t.unit
                    ),
                );
            }
            tiers.push(OverageTier {
                up_to: t.up_to,
                unit_minor: unit,
            });
        }
        if tiers.is_empty() || self.package_units == 0 {
            return wrong(place, "needs a tier, and packages of at least one unit");
        }
        if self.model == TierModel::Package && (tiers.len() != 1 || included != 0) {
            return wrong(place, "a package price has one tier and no included units");
        }
        Ok(Overage {
            model: self.model,
            package_units: self.package_units,
            tiers,
        })
    }
}
