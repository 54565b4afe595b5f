//! What is sold: the catalogue file that `turnpike plan publish` takes, and the checked form of it.
//!
//! The file is TOML. Prices in it are in major units (`"29.00"`, `"0.0006"`), because people read it; everything past
//! [`CatalogueFile::check`] is in exact minor units.

use crate::ConsumerId;
use crate::access::{Credential, Interval, Method};
use crate::feature::{Life, Rollout, Variant};
use crate::issuer::IssuerFile;
use crate::money::{Currency, Money, minor_units};
use crate::policy::{
    HostPattern, IdentityForm, PolicyError, RateRule, RoutePolicy, ServiceUrl, UpstreamPolicy, check_gates,
    check_in_flight, check_rate_rules, segments, shape,
};
use crate::price::{Overage, OverageTier, TierModel};
use crate::quota::{DEFAULT_MARKS, QuotaGrace, check_marks};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Most plans, routes, meters or features in one file: what a person can still oversee.
pub const MAX_ENTRIES: usize = 500;
/// Longest slug.
pub const MAX_SLUG_LEN: usize = 40;

/// The highest priority of a plan.
pub const PRIORITY_MOST: u8 = 9;

pub(crate) fn is_zero(n: &u8) -> bool {
    *n == 0
}

/// The file as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueFile {
    /// The API product.
    pub product: ProductFile,
    /// The services behind the gateway.
    pub upstreams: Vec<UpstreamFile>,
    /// What is counted.
    pub meters: Vec<MeterFile>,
    /// What plans can grant beyond plain access.
    #[serde(default)]
    pub features: Vec<FeatureFile>,
    /// Whose tokens say who is calling.
    #[serde(default)]
    pub issuers: Vec<IssuerFile>,
    /// What is forwarded where.
    pub routes: Vec<RouteFile>,
    /// What can be bought.
    pub plans: Vec<PlanFile>,
}

/// A set of routes sold together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductFile {
    /// Short name in URLs.
    pub slug: String,
    /// Name on pages and invoices.
    pub name: String,
    /// One sentence for the landing page.
    pub summary: String,
    /// The currency of all its prices.
    pub currency: Currency,
}

/// A service of the provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamFile {
    /// Name that routes refer to.
    pub slug: String,
    /// `http://host:port` or `https://host:port`, without a path: its one target, or with `policy.targets` its name.
    pub url: String,
    /// Longest wait for the first byte of an answer.
    #[serde(default = "default_first_byte_ms")]
    pub first_byte_timeout_ms: u32,
    /// Longest silence inside an answer.
    #[serde(default = "default_idle_ms")]
    pub idle_timeout_ms: u32,
    /// How it is called.
    #[serde(default)]
    pub policy: UpstreamPolicy,
}

fn default_first_byte_ms() -> u32 {
    30_000
}
fn default_idle_ms() -> u32 {
    60_000
}

/// What is counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeterFile {
    /// Name that routes and plans refer to; also the event name in Stripe, with the product's slug before it.
    pub slug: String,
    /// Name on pages and invoices.
    pub name: String,
    /// One of what is counted, in the singular: `call`.
    pub unit: String,
    /// Which answers count: `2xx`, `404`, ... By default 2xx and 3xx.
    #[serde(default = "default_statuses")]
    pub statuses: Vec<String>,
}

fn default_statuses() -> Vec<String> {
    vec!["2xx".to_owned(), "3xx".to_owned()]
}

/// One capability that a plan can grant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureFile {
    /// Name that routes and plans refer to.
    pub slug: String,
    /// Name on the pricing page.
    pub name: String,
    /// Switched on for a part of those whose plan lists it: `{ percent = 10 }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Consumers that have it whatever their plan: `["con_..."]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consumers: Vec<ConsumerId>,
    /// Variants for experiments: `[{ name = "a", weight = 1 }, { name = "b", weight = 1 }]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
}

impl FeatureFile {
    /// Who has it besides what plans say ([`crate::feature`]).
    pub fn life(&self) -> Life {
        Life {
            rollout: self.rollout,
            consumers: self.consumers.clone(),
            variants: self.variants.clone(),
        }
    }
}

/// Host, method and path pattern mapped to an upstream and a meter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteFile {
    /// Name in usage and on keys.
    pub slug: String,
    /// Methods; GET answers HEAD too.
    #[serde(default = "default_methods")]
    pub methods: Vec<Method>,
    /// `/v1/countries/{code}`; a last segment `{*rest}` takes the rest.
    pub path: String,
    /// Where it goes.
    pub upstream: String,
    /// What it counts into.
    pub meter: String,
    /// Units one request consumes.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// The feature a plan must grant.
    #[serde(default)]
    pub feature: Option<String>,
    /// What is done with its requests.
    #[serde(default)]
    pub policy: RoutePolicy,
}

fn default_methods() -> Vec<Method> {
    vec![Method::Get]
}
fn default_weight() -> u32 {
    1
}

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

/// Whether a request counts whose answer the gateway had kept ([`crate::policy::CachePolicy`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheHits {
    /// Like any other: what is sold is the answer.
    #[default]
    Counted,
    /// With no units: what is sold is the work of the upstream. Rate limits still count it.
    Free,
}

impl CacheHits {
    /// Whether it is what holds when nothing is said.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether such a request counts.
    #[must_use]
    pub fn count(self) -> bool {
        self == Self::Counted
    }

    /// `counted` or `free`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Free => "free",
        }
    }
}

/// Requests let through: `per_second` on average, `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Steady rate, in requests per second.
    pub per_second: u32,
    /// Requests allowed at once; at least 1.
    pub burst: u32,
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

/// What is wrong with a catalogue file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct CatalogueError {
    /// Such as `plans.pro.month.flat`.
    pub place: String,
    /// What to do about it.
    pub problem: String,
}

fn wrong<T>(place: impl Into<String>, problem: impl Into<String>) -> Result<T, CatalogueError> {
    Err(CatalogueError {
        place: place.into(),
        problem: problem.into(),
    })
}

/// The terms of one plan version, checked: what is stored, sold and enforced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanTerms {
    /// The plan's identity.
    pub slug: String,
    /// Name on pages and invoices.
    pub name: String,
    /// One line under the name.
    pub tagline: String,
    /// Shown as the one most chosen.
    pub popular: bool,
    /// Slugs of the features granted.
    pub features: Vec<String>,
    /// Short-window limit of everything a consumer does.
    pub rate_limit: RateLimit,
    /// Further limits; all must be passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<RateRule>,
    /// Requests a consumer may have in flight at once; none means any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Who goes first when there is more to do than can be done: 9 before all others, 0 last.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u8,
    /// Whether answers that the gateway kept count like others.
    #[serde(default, skip_serializing_if = "CacheHits::is_default")]
    pub cache_hits: CacheHits,
    /// Days of access after a renewal failed.
    pub grace_days: u16,
    /// Month first, then year where there is one.
    pub offers: Vec<Offer>,
}

/// A checked price for an interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// How long a period is.
    pub interval: Interval,
    /// Paid in advance.
    pub flat: Money,
    /// Allowance and overage per meter.
    pub meters: Vec<MeterTerms>,
}

/// Allowance and overage of a meter, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterTerms {
    /// Slug of the meter.
    pub meter: String,
    /// Units covered by the flat price in each period.
    pub included: u64,
    /// Prices above; none makes the allowance a hard quota.
    pub overage: Option<Overage>,
    /// What a hard quota lets through beyond it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<QuotaGrace>,
    /// Percentages of the allowance at which members are told, where they are not the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<Vec<u16>>,
}

impl MeterTerms {
    /// Percentages of the allowance at which members are told.
    pub fn marks(&self) -> &[u16] {
        self.marks.as_deref().unwrap_or(&DEFAULT_MARKS)
    }
}

impl PlanTerms {
    /// The offer for an interval.
    pub fn offer(&self, interval: Interval) -> Option<&Offer> {
        self.offers.iter().find(|o| o.interval == interval)
    }
    /// Whether it costs nothing and can cost nothing.
    pub fn is_free(&self) -> bool {
        self.offers
            .iter()
            .all(|o| o.flat.minor == 0 && o.meters.iter().all(|m| m.overage.is_none()))
    }
}

impl CatalogueFile {
    /// Answers that several consumers share cannot depend on who calls.
    fn check_sharing(&self, place: &str, route: &RouteFile) -> Result<(), CatalogueError> {
        let shares = route.policy.cache.as_ref().is_some_and(|c| c.shared_by.is_shared());
        let told = |u: &UpstreamFile| u.slug == route.upstream && u.policy.identity == IdentityForm::Jwt;
        if shares && self.upstreams.iter().any(told) {
            let problem = "its upstream is told in a token who calls, which shared answers cannot depend on: use \
                           shared_by = \"consumer\", or an upstream without identity = \"jwt\"";
            return wrong(format!("{place}.policy.cache.shared_by"), problem);
        }
        Ok(())
    }

    /// Checks every rule that does not need a database and gives the terms of each plan, in the file's order.
    ///
    /// # Errors
    /// The first thing wrong, with its place in the file.
    pub fn check(&self) -> Result<Vec<PlanTerms>, CatalogueError> {
        check_slug("product.slug", &self.product.slug)?;
        let upstreams = slugs("upstreams", self.upstreams.iter().map(|u| &u.slug))?;
        let meters = slugs("meters", self.meters.iter().map(|m| &m.slug))?;
        let features = slugs("features", self.features.iter().map(|f| &f.slug))?;
        for f in &self.features {
            f.life().check(&format!("features.{}", f.slug))?;
        }
        slugs("routes", self.routes.iter().map(|r| &r.slug))?;
        slugs("plans", self.plans.iter().map(|p| &p.slug))?;
        for u in &self.upstreams {
            check_url(&u.slug, &u.url)?;
            check_policy(&format!("upstreams.{}", u.slug), u.policy.check())?;
        }
        for m in &self.meters {
            for s in &m.statuses {
                if StatusSet::bit_range(s).is_none() {
                    return wrong(
                        format!("meters.{}.statuses", m.slug),
                        format!("{s:?} is neither a class (2xx) nor a status (404)"),
                    );
                }
            }
        }
        for r in &self.routes {
            let place = format!("routes.{}", r.slug);
            known(&place, "upstream", &upstreams, &r.upstream)?;
            self.check_sharing(&place, r)?;
            known(&place, "meter", &meters, &r.meter)?;
            if let Some(f) = &r.feature {
                known(&place, "feature", &features, f)?;
            }
            check_path(&place, &r.path)?;
            let path = segments(&r.path).or_else(|e| wrong(format!("{place}.path"), e.to_string()))?;
            check_policy(&place, r.policy.check(&path))?;
            check_policy(&place, check_gates(&r.policy.gates, &r.methods, &features))?;
            if r.methods.is_empty() || r.weight > 1_000_000 {
                return wrong(place, "needs a method, and a weight of at most 1,000,000");
            }
        }
        check_overlaps(&self.routes)?;
        self.check_limits()?;
        let plans: Vec<PlanTerms> = self
            .plans
            .iter()
            .map(|p| p.check(self.product.currency, &meters, &features))
            .collect::<Result<_, _>>()?;
        self.check_anonymous_plans(&plans)?;
        self.check_issuers(&plans)?;
        Ok(plans)
    }

    /// An issuer is found by the claim `iss`, so no two may share it.
    fn check_issuers(&self, plans: &[PlanTerms]) -> Result<(), CatalogueError> {
        let sold: Vec<&str> = plans.iter().map(|p| p.slug.as_str()).collect();
        slugs("issuers", self.issuers.iter().map(|i| &i.slug))?;
        for (at, issuer) in self.issuers.iter().enumerate() {
            let place = format!("issuers.{}", issuer.slug);
            let checked = issuer.check();
            checked.or_else(|e| wrong(format!("{place}.{}", e.field), e.problem))?;
            for plan in &issuer.plans {
                known(&place, "plans", &sold, plan)?;
            }
            if let Some(twin) = self.issuers[..at].iter().find(|i| i.issuer == issuer.issuer) {
                return wrong(format!("{place}.issuer"), format!("is that of {} already", twin.slug));
            }
        }
        let needs = |r: &&RouteFile| r.policy.auth.accepts(Credential::Jwt);
        match self.routes.iter().find(needs) {
            Some(route) if self.issuers.is_empty() => wrong(
                format!("routes.{}.policy.auth.accept", route.slug),
                "takes jwt, but the file names no [[issuers]] whose tokens those would be",
            ),
            _ => Ok(()),
        }
    }

    /// Nobody can be billed for what callers without a credential do.
    fn check_anonymous_plans(&self, plans: &[PlanTerms]) -> Result<(), CatalogueError> {
        let slugs: Vec<&str> = plans.iter().map(|p| p.slug.as_str()).collect();
        for route in &self.routes {
            let Some(slug) = &route.policy.auth.anonymous_plan else {
                continue;
            };
            let place = format!("routes.{}.policy.auth", route.slug);
            known(&place, "anonymous_plan", &slugs, slug)?;
            if plans.iter().any(|p| p.slug == *slug && !p.is_free()) {
                let problem = format!("{slug} costs something: name a plan without a price and without overage");
                return wrong(format!("{place}.anonymous_plan"), problem);
            }
        }
        Ok(())
    }

    /// The limits of plans name routes that exist, and in no answer two limits have one name.
    fn check_limits(&self) -> Result<(), CatalogueError> {
        let routes: Vec<&str> = self.routes.iter().map(|r| r.slug.as_str()).collect();
        for plan in &self.plans {
            let place = format!("plans.{}", plan.slug);
            let bounds = check_rate_rules(&plan.limits).and(check_in_flight("concurrency", plan.concurrency));
            bounds.or_else(|e| wrong(format!("{place}.{}", e.field), e.problem))?;
            if plan.priority > PRIORITY_MOST {
                return wrong(
                    format!("{place}.priority"),
                    format!("must be 0 (served last) to {PRIORITY_MOST} (first)"),
                );
            }
            for rule in &plan.limits {
                for slug in &rule.routes {
                    known(&format!("{place}.limits.{}", rule.name), "routes", &routes, slug)?;
                }
                let twin = self
                    .routes
                    .iter()
                    .find(|r| r.policy.limits.iter().any(|l| l.name == rule.name));
                if let Some(route) = twin {
                    let problem = format!(
                        "the route {} has a limit of this name, too: answers could not tell them apart",
                        route.slug
                    );
                    return wrong(format!("{place}.limits.{}", rule.name), problem);
                }
            }
        }
        Ok(())
    }
}

impl PlanFile {
    fn check(&self, currency: Currency, meters: &[&str], features: &[&str]) -> Result<PlanTerms, CatalogueError> {
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

impl OverageFile {
    fn check(&self, place: &str, included: u64, currency: Currency) -> Result<Overage, CatalogueError> {
        let place = format!("{place}.overage");
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

/// Which HTTP statuses a meter counts: one bit for each of 100 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusSet([u64; 8]);

impl StatusSet {
    fn bit_range(word: &str) -> Option<std::ops::Range<u16>> {
        if let Some(class) = word.strip_suffix("xx") {
            let class: u16 = class.parse().ok().filter(|c| (1..=5).contains(c))?;
            return Some(class * 100..class * 100 + 100);
        }
        let status: u16 = word.parse().ok().filter(|s| (100..600).contains(s))?;
        Some(status..status + 1)
    }

    /// From the words of a catalogue file; a word that is none is left out (the file's check refuses it).
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut set = [0u64; 8];
        for status in words.into_iter().filter_map(Self::bit_range).flatten() {
            let bit = status - 100;
            set[usize::from(bit / 64)] |= 1 << (bit % 64);
        }
        Self(set)
    }

    /// Whether the status counts.
    pub fn contains(&self, status: u16) -> bool {
        (100..600).contains(&status) && {
            let bit = status - 100;
            self.0[usize::from(bit / 64)] & (1 << (bit % 64)) != 0
        }
    }
}

/// Lower-case letters, digits and -, a letter first, at most [`MAX_SLUG_LEN`].
pub(crate) fn is_slug(slug: &str) -> bool {
    !slug.is_empty()
        && slug.len() <= MAX_SLUG_LEN
        && slug
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && slug.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
}

fn check_slug(place: &str, slug: &str) -> Result<(), CatalogueError> {
    if is_slug(slug) {
        Ok(())
    } else {
        wrong(
            place,
            format!("{slug:?} must be lower-case letters, digits and -, at most {MAX_SLUG_LEN}"),
        )
    }
}

fn slugs<'a>(place: &str, all: impl Iterator<Item = &'a String>) -> Result<Vec<&'a str>, CatalogueError> {
    let mut seen: Vec<&str> = Vec::new();
    for slug in all {
        check_slug(place, slug)?;
        if seen.contains(&slug.as_str()) {
            return wrong(place, format!("{slug} is there twice"));
        }
        seen.push(slug);
    }
    if seen.len() > MAX_ENTRIES {
        wrong(place, format!("at most {MAX_ENTRIES}"))
    } else {
        Ok(seen)
    }
}

fn known(place: &str, what: &str, all: &[&str], slug: &str) -> Result<(), CatalogueError> {
    if all.contains(&slug) {
        return Ok(());
    }
    wrong(
        format!("{place}.{what}"),
        format!("{slug:?} is none of {}", all.join(", ")),
    )
}

fn check_policy(place: &str, checked: Result<(), PolicyError>) -> Result<(), CatalogueError> {
    checked.or_else(|e| wrong(format!("{place}.policy.{}", e.field), e.problem))
}

/// No request may have two routes with nothing to choose between them.
fn check_overlaps(routes: &[RouteFile]) -> Result<(), CatalogueError> {
    let mut seen: HashMap<(Option<&HostPattern>, String), Vec<&RouteFile>> = HashMap::new();
    for route in routes {
        let Ok(path) = segments(&route.path) else { continue };
        let hosts = route.policy.hosts.iter().map(Some);
        for host in hosts.chain(route.policy.hosts.is_empty().then_some(None)) {
            let others = seen.entry((host, shape(&path))).or_default();
            let twin = others.iter().find(|o| {
                o.methods.iter().any(|m| route.methods.contains(m))
                    && o.policy.match_headers == route.policy.match_headers
                    && o.policy.priority == route.policy.priority
            });
            if let Some(twin) = twin {
                let problem = format!(
                    "takes the same requests as {}: give one of them a policy.priority",
                    twin.slug
                );
                return wrong(format!("routes.{}", route.slug), problem);
            }
            others.push(route);
        }
    }
    Ok(())
}

fn check_url(slug: &str, url: &str) -> Result<(), CatalogueError> {
    match url.parse::<ServiceUrl>() {
        Ok(_) => Ok(()),
        Err(error) => wrong(format!("upstreams.{slug}.url"), error.to_string()),
    }
}

fn check_path(place: &str, path: &str) -> Result<(), CatalogueError> {
    let good = path.starts_with('/')
        && path.len() <= 512
        && !path.contains("//")
        && path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%' | b'\\' | b';'))
        && path.split('/').all(|s| s != "." && s != "..");
    if good {
        Ok(())
    } else {
        wrong(
            format!("{place}.path"),
            format!("{path:?} must begin with / and be a plain path"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        product = { slug = "p", name = "P", summary = "P.", currency = "usd" }
        upstreams = [{ slug = "u", url = "http://127.0.0.1:1" }]
        meters = [{ slug = "calls", name = "Calls", unit = "call" }]
        plans = []
    "#;

    fn check(routes: &str) -> Result<Vec<PlanTerms>, String> {
        let file: CatalogueFile = toml::from_str(&format!("{FILE}\n{routes}")).unwrap();
        file.check().map_err(|e| e.to_string())
    }

    fn route(slug: &str, rest: &str) -> String {
        format!("[[routes]]\nslug = \"{slug}\"\nupstream = \"u\"\nmeter = \"calls\"\n{rest}\n")
    }

    #[test]
    fn credentials_are_checked_against_the_rest_of_the_file() {
        let plan = |flat: &str| {
            format!(
                "{}\n[[plans]]\nslug = \"open\"\nname = \"Open\"\ntagline = \"\"\nrate_limit = {{ per_second = 1, burst = 1 }}\n\
                 month = {{ flat = \"{flat}\", meters = [] }}\n",
                FILE.replace("plans = []", "")
            )
        };
        let check = |plans: &str, issuers: &str, auth: &str| {
            let route = route("a", &format!("path = \"/a\"\npolicy = {{ auth = {auth} }}"));
            let file: CatalogueFile = toml::from_str(&format!("{plans}\n{route}\n{issuers}")).unwrap();
            file.check().map(drop).map_err(|e| e.to_string())
        };
        let issuer = "[[issuers]]\nslug = \"login\"\nissuer = \"https://login.example\"\naudiences = [\"api\"]\n\
                      algorithms = [\"ES256\"]\njwks_url = \"https://login.example/keys\"\n";
        let anonymous = "{ accept = [\"anonymous\"], anonymous_plan = \"open\" }";
        assert_eq!(check(&plan("0"), "", anonymous), Ok(()));
        let told = check(&plan("1"), "", anonymous).unwrap_err();
        assert!(
            told.starts_with("routes.a.policy.auth.anonymous_plan: open costs"),
            "{told}"
        );
        let told = check(&plan("0"), "", &anonymous.replace("open", "pro")).unwrap_err();
        assert!(
            told.starts_with("routes.a.policy.auth.anonymous_plan: \"pro\" is none of open"),
            "{told}"
        );
        let told = check(&plan("0"), "", "{ accept = [\"jwt\"] }").unwrap_err();
        assert!(told.starts_with("routes.a.policy.auth.accept"), "{told}");
        assert_eq!(check(&plan("0"), issuer, "{ accept = [\"jwt\"] }"), Ok(()));
        let twins = format!("{issuer}{}", issuer.replace("\"login\"", "\"other\""));
        assert!(
            check(&plan("0"), &twins, "{}")
                .unwrap_err()
                .starts_with("issuers.other.issuer")
        );
        let wrong = issuer.replace("[\"api\"]", "[]");
        assert!(
            check(&plan("0"), &wrong, "{}")
                .unwrap_err()
                .starts_with("issuers.login.audiences")
        );
    }

    #[test]
    fn two_routes_for_the_same_requests_need_something_to_choose_by() {
        let first = route("first", "path = \"/v1/{id}\"");
        for (second, good) in [
            ("path = \"/v1/{code}\"", false),
            ("path = \"/v1/{code}\"\npolicy = { priority = 1 }", true),
            (
                "path = \"/v1/{code}\"\npolicy = { match_headers = { x-beta = \"*\" } }",
                true,
            ),
            ("path = \"/v1/{code}\"\npolicy = { hosts = [\"a.example\"] }", true),
            ("path = \"/v1/{code}\"\nmethods = [\"POST\"]", true),
            ("path = \"/v1/special\"", true),
        ] {
            let checked = check(&format!("{first}{}", route("second", second)));
            assert_eq!(checked.is_ok(), good, "{second}: {checked:?}");
        }
    }

    #[test]
    fn limits_name_routes_that_exist_and_have_names_of_their_own() {
        let routes = route(
            "first",
            "path = \"/a\"\npolicy = { limits = [{ name = \"all\", by = [\"route\"], requests = 9, per = \"second\" }] }",
        );
        let plan = |limits: &str| {
            let plan = format!(
                "plans = [{{ slug = \"free\", name = \"F\", tagline = \"T\", rate_limit = {{ per_second = 1, burst = 1 }}, \
                 month = {{ flat = \"0\", meters = [] }}, limits = [{limits}] }}]"
            );
            let file = FILE.replace("plans = []", &plan);
            let file: CatalogueFile = toml::from_str(&format!("{file}\n{routes}")).unwrap();
            file.check().map_err(|e| e.to_string())
        };
        let reads = "{ name = \"reads\", methods = [\"GET\"], requests = 500, per = \"minute\" }";
        let writes =
            "{ name = \"writes\", methods = [\"POST\"], routes = [\"first\"], requests = 100, per = \"minute\" }";
        let terms = plan(&format!("{reads}, {writes}")).unwrap();
        assert_eq!((terms[0].limits.len(), terms[0].limits[1].burst()), (2, 100));
        for (limits, told) in [
            (
                reads.replace("reads", "all"),
                "plans.free.limits.all: the route first has",
            ),
            (
                writes.replace("first", "second"),
                "plans.free.limits.writes.routes: \"second\" is none of first",
            ),
            (format!("{reads}, {reads}"), "plans.free.limits: reads: is there twice"),
            (
                format!("{reads}], concurrency = 0, features = ["),
                "plans.free.concurrency: must be at least 1",
            ),
            (
                format!("{reads}], priority = 10, features = ["),
                "plans.free.priority: must be 0",
            ),
        ] {
            let error = plan(&limits).unwrap_err();
            assert!(error.starts_with(told), "{error}");
        }
        let terms = plan(&format!("{reads}], concurrency = 20, priority = 9, features = [")).unwrap();
        assert_eq!((terms[0].concurrency, terms[0].priority), (Some(20), 9));
        let misplaced = routes.replace("by =", "routes = [\"first\"], by =");
        let error = check(&misplaced).unwrap_err();
        assert!(
            error.starts_with("routes.first.policy.limits: all: a route's limit"),
            "{error}"
        );
    }

    #[test]
    fn what_is_wrong_in_a_policy_is_said_with_its_place() {
        for (policy, place) in [
            (
                "{ match_headers = { X-Beta = \"1\" } }",
                "routes.first.policy.match_headers",
            ),
            (
                "{ match_headers = { x-beta = \"\" } }",
                "routes.first.policy.match_headers",
            ),
        ] {
            let told = check(&route("first", &format!("path = \"/a\"\npolicy = {policy}"))).unwrap_err();
            assert!(told.starts_with(place), "{told}");
        }
        let shared = "path = \"/a\"\npolicy = { cache = { shared_by = \"plan\" } }";
        assert!(check(&route("first", shared)).is_ok());
        let file = FILE.replace("127.0.0.1:1\"", "127.0.0.1:1\", policy = { identity = \"jwt\" }");
        let file: CatalogueFile = toml::from_str(&format!("{file}\n{}", route("first", shared))).unwrap();
        let told = file.check().unwrap_err().to_string();
        assert!(told.starts_with("routes.first.policy.cache.shared_by"), "{told}");
        let bound = "[[upstreams]]\nslug = \"v\"\nurl = \"http://a\"\npolicy = { connect_timeout_ms = 0 }";
        let file = FILE.replace("upstreams = [{ slug = \"u\", url = \"http://127.0.0.1:1\" }]", "");
        let file: CatalogueFile = toml::from_str(&format!("{file}\nroutes = []\n{bound}")).unwrap();
        let told = file.check().unwrap_err().to_string();
        assert!(told.starts_with("upstreams.v.policy.connect_timeout_ms"), "{told}");
        for unknown in [
            "{ host = [\"a\"] }",
            "{ hosts = [\"A.example\"] }",
            "{ deny_addresses = [\"x\"] }",
        ] {
            let text = format!(
                "{FILE}\n{}",
                route("first", &format!("path = \"/a\"\npolicy = {unknown}"))
            );
            assert!(toml::from_str::<CatalogueFile>(&text).is_err(), "{unknown}");
        }
    }
}
