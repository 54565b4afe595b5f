//! What the control plane tells the gateway: routes, keys and one flat entitlement per consumer and environment.
//!
//! Everything has a version from one sequence that grows in commit order. A gateway asks for what changed since the
//! version it has; what it is given replaces what it had under the same id. Nothing is ever deleted, only ended.
//! A part of an answer is all that changed up to its version and not later, so whoever is interrupted goes on from there.
//!
//! Usage changes no version. A gateway that is told of other ledgers asks for the [`Counts`] that their new records
//! changed: each ledger has its own order, so nothing that commits late is ever behind what was asked for.

use crate::access::{Environment, Method, QuotaKind, Suspension};
use crate::catalogue::{CacheHits, MeterTerms, RateLimit, is_zero};
use crate::issuer::IssuerFile;
use crate::overrides::{self, Override};
use crate::policy::{RateRule, RoutePolicy, UpstreamPolicy};
use crate::quota::Quota;
use crate::{ConsumerId, Currency, KeyId, Period, PlanVersionId, SubscriptionId, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A ledger that was shipped within this time is among [`Changes::others`], in seconds. A gateway that heard nothing for half
/// of it cannot know which were shipped meanwhile, and asks for everything.
pub const OTHERS_TOLD_FOR_S: i64 = 2 * 86_400;
/// Most records in one question for [`Counts`]: some tens of milliseconds for the database.
pub const COUNTED_MOST: u64 = 20_000;

/// What changed since a version; much is told in parts, the oldest changes first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Changes {
    /// The version these changes lead to.
    pub version: i64,
    /// There is more to ask for, from that version on. What a key may do may be in a later part than the key.
    #[serde(default)]
    pub more: bool,
    /// The whole routing table, when anything in it changed.
    pub routing: Option<Routing>,
    /// Keys that are new or changed.
    pub keys: Vec<KeyRecord>,
    /// Entitlements that are new or changed.
    pub entitlements: Vec<Entitlement>,
    /// Kept answers to be forgotten.
    #[serde(default)]
    pub purges: Vec<Purge>,
    /// The last ledger sequence number of the asking gateway that is counted in `used` of these entitlements.
    pub shipped_through: u64,
    /// Ledgers of other gateways: all there are where everything was asked for, otherwise those that were shipped lately.
    #[serde(default)]
    pub others: Vec<LedgerEnd>,
}

/// How far the ledger of a gateway is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEnd {
    /// The ledger's name.
    pub ledger: String,
    /// The last sequence number that is counted.
    pub shipped_through: u64,
    /// Whether its gateway takes leases; none where it was not heard of lately.
    #[serde(default)]
    pub leases: Option<bool>,
}

/// Records of a ledger that are counted, and that the asking gateway has not heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerPart {
    /// The ledger's name.
    pub ledger: String,
    /// The sequence number before the first of them.
    pub after: u64,
    /// The last of them.
    pub through: u64,
}

/// What is used by all gateways, of everything that records of some parts of their ledgers counted in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of consumers.
    pub meters: Vec<MeterCount>,
    /// Of keys that have limits.
    pub keys: Vec<KeyCount>,
    /// The last ledger sequence number of the asking gateway that is in these counts.
    pub shipped_through: u64,
}

/// Units of a consumer's meter in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeterCount {
    /// Whose.
    pub consumer: ConsumerId,
    /// Live or test.
    pub environment: Environment,
    /// Number of the meter.
    pub meter: u16,
    /// The period's first instant.
    pub period_start: Time,
    /// Units, as far as shipped.
    pub used: u64,
}

/// Units of a meter in a period that the keys of a chain of rotations used together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyCount {
    /// The first key of the chain.
    pub root: KeyId,
    /// What finds one of its keys ([`KeyRecord::lookup`]).
    pub lookup: u64,
    /// Number of the meter.
    pub meter: u16,
    /// The period's first instant.
    pub period_start: Time,
    /// Units, as far as shipped.
    pub used: u64,
}

/// Kept answers to be forgotten ([`crate::policy::CachePolicy`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purge {
    /// Number of the route; none means all routes.
    pub route: Option<u16>,
    /// What their paths begin with, as clients write them; empty means all paths.
    pub path_prefix: String,
}

/// Where requests go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// Services behind the gateway.
    pub upstreams: Vec<UpstreamRecord>,
    /// Routes, in no order: the path tree decides.
    pub routes: Vec<RouteRecord>,
    /// What is counted.
    pub meters: Vec<MeterRecord>,
    /// Where refusals link to, without a slash at the end: the portal's address.
    pub portal_url: String,
    /// Where clients reach the gateway: who signs the tokens that tell upstreams who is calling.
    #[serde(default)]
    pub gateway_url: String,
    /// The plans that routes let callers without a credential be on, as the entitlement of one client address.
    #[serde(default)]
    pub anonymous_plans: Vec<Entitlement>,
    /// The plans that tokens may name, as the entitlement of nobody.
    #[serde(default)]
    pub token_plans: Vec<Entitlement>,
    /// Whose tokens are taken.
    #[serde(default)]
    pub issuers: Vec<IssuerRecord>,
}

/// An issuer of tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IssuerRecord {
    /// Stands in usage for the key that its callers do not have.
    pub key: KeyId,
    /// As it is published.
    pub file: IssuerFile,
}

/// A service behind the gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamRecord {
    /// Small number, never reused.
    pub number: u16,
    /// Its name in metrics.
    pub slug: String,
    /// `http://host:port` or `https://host:port`; its name alone when the policy lists targets.
    pub url: String,
    /// Longest wait for the first byte of an answer.
    pub first_byte_timeout_ms: u32,
    /// Longest silence inside an answer.
    pub idle_timeout_ms: u32,
    /// How it is called.
    #[serde(default)]
    pub policy: UpstreamPolicy,
}

/// What is counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeterRecord {
    /// Small number, never reused.
    pub number: u16,
    /// Name that terms refer to.
    pub slug: String,
    /// Which answers count: `2xx`, `404`.
    pub statuses: Vec<String>,
}

/// Method and path pattern, and what a request there means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteRecord {
    /// Small number, never reused.
    pub number: u16,
    /// Name in usage and on keys.
    pub slug: String,
    /// Methods; GET answers HEAD too.
    pub methods: Vec<Method>,
    /// `/v1/countries/{code}`.
    pub path: String,
    /// Number of the upstream.
    pub upstream: u16,
    /// Number of the meter.
    pub meter: u16,
    /// Units a request consumes.
    pub weight: u32,
    /// Feature that a plan must grant.
    pub feature: Option<String>,
    /// What is done with its requests.
    #[serde(default)]
    pub policy: RoutePolicy,
}

/// A key as the gateway knows it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its id.
    pub id: KeyId,
    /// The public part that finds it, as a number ([`crate::key::Lookup`]).
    pub lookup: u64,
    /// HMAC-SHA-256 of the whole key under the pepper.
    pub mac: [u8; 32],
    /// Number of the pepper.
    pub pepper: u16,
    /// Whose it is.
    pub consumer: ConsumerId,
    /// Live or test.
    pub environment: Environment,
    /// Revoked: refused from now on, whatever else.
    pub revoked: bool,
    /// Refused from then on.
    pub expires_at: Option<Time>,
    /// Numbers of the routes it may use; none means all.
    pub routes: Option<Vec<u16>>,
    /// What its owner lets it use in a billing period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<KeyLimits>,
}

/// What one key may use in a billing period, and what it has used; together with the keys that it was rotated from and to,
/// which are told the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLimits {
    /// The first key of these, whose id names the chain; none for that one itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<KeyId>,
    /// Units of all meters together; none means as many as the plan lets through.
    pub quota: Option<u64>,
    /// Its part of the usage charges, in minor units.
    pub budget_minor: Option<i64>,
    /// The period that `used` is of.
    pub period_start: Time,
    /// Units used, as far as shipped ([`Changes::shipped_through`]).
    pub used: Vec<KeyUse>,
}

/// What a key has used of a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUse {
    /// Number of the meter.
    pub meter: u16,
    /// Units.
    pub units: u64,
}

impl std::fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRecord")
            .field("id", &self.id)
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
    }
}

/// All that a consumer may do in an environment, flat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entitlement {
    /// Whose.
    pub consumer: ConsumerId,
    /// Live, or test (then limited like the free plan and never billed).
    pub environment: Environment,
    /// The name that the provider gave the consumer; tokens may call it by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// The agreement behind it.
    pub subscription: Option<SubscriptionId>,
    /// The plan version behind it.
    pub plan_version: Option<PlanVersionId>,
    /// Slug of the plan, for `X-Plan`.
    pub plan: String,
    /// Everything is refused, and why.
    pub suspended: Option<Suspension>,
    /// Slugs of the features it has.
    pub features: Vec<String>,
    /// Variants of these features, and what becomes of them by itself.
    #[serde(default, skip_serializing_if = "FeatureLife::is_plain")]
    pub feature_life: FeatureLife,
    /// Short-window limit, over all keys of the consumer.
    pub rate_limit: RateLimit,
    /// Further rate limits; all must be passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<RateRule>,
    /// Requests in flight at once, over all keys of the consumer; none means any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Who goes first when there is more to do than can be done: 9 before all others, 0 last.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u8,
    /// Whether answers that the gateway kept count like others.
    #[serde(default, skip_serializing_if = "CacheHits::is_default")]
    pub cache_hits: CacheHits,
    /// The billing period that usage counts in. Past its end the gateway counts from zero in a period of the same
    /// length that begins there, until it is told otherwise.
    pub period: Period,
    /// Allowance, overage and what is used, per meter.
    pub meters: Vec<MeterEntitlement>,
    /// Currency of the prices.
    pub currency: Currency,
    /// The consumer's ceiling on usage charges in a period, in minor units.
    pub spend_cap_minor: Option<i64>,
    /// What usage of this period costs that counts under plan versions before this one, in minor units; the same units
    /// are in [`MeterEntitlement::settled_units`]. It is the part of the spend cap that is gone, whatever comes.
    #[serde(default)]
    pub settled_minor: i64,
    /// What holds in place of the plan's limits and quotas above, each from its start to its end. Those of features are
    /// in `features` and `feature_life` already, and are here for explanations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
}

impl Entitlement {
    /// The quota of one of its meters at an instant, and the override that it comes from.
    pub fn quota_at(&self, meter: &MeterEntitlement, at: Time) -> (Quota, Option<&Override>) {
        overrides::quota(&meter.terms, overrides::in_force(&self.overrides, at))
    }
}

/// Variants of a consumer's features, and what becomes of them without the control plane.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FeatureLife {
    /// Those of the features it has now.
    #[serde(default)]
    pub variants: Variants,
    /// What it has later instead, in the order of time: at the end of a grant.
    #[serde(default)]
    pub later: Vec<LaterFeatures>,
}

impl FeatureLife {
    /// Whether there are neither variants nor an end.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// Which variant of which features.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variants {
    /// The number of this combination in usage records; 0 for none.
    pub number: u16,
    /// The variant of each feature that has some.
    pub of: BTreeMap<String, String>,
}

/// Features from an instant on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaterFeatures {
    /// Its first instant.
    pub from: Time,
    /// Slugs of all features from then on.
    pub features: Vec<String>,
    /// Their variants.
    #[serde(default)]
    pub variants: Variants,
}

/// Allowance, overage and what is used of a meter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeterEntitlement {
    /// Number of the meter.
    pub meter: u16,
    /// Allowance and prices; no overage means a hard quota at the allowance.
    pub terms: MeterTerms,
    /// Units used in the period, as far as shipped ([`Changes::shipped_through`]).
    pub used: u64,
    /// The part of `used` that counts under earlier plan versions; this one's prices are for the rest.
    #[serde(default)]
    pub settled_units: u64,
    /// When a hard quota with a grace was used up in this period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_up_at: Option<Time>,
}

impl MeterEntitlement {
    /// A meter of which nothing is used.
    pub fn unused(meter: u16, terms: MeterTerms) -> Self {
        Self {
            meter,
            terms,
            used: 0,
            settled_units: 0,
            used_up_at: None,
        }
    }

    /// Units used that do not count against the allowance: it is for what its prices are for.
    pub fn settled_outside_allowance(&self) -> u64 {
        match self.terms.overage {
            Some(_) => self.settled_units.min(self.used),
            None => 0,
        }
    }

    /// Units used that count against a quota of it. A hard one holds for the whole period.
    pub fn counted(&self, quota: Quota) -> u64 {
        match quota.kind {
            QuotaKind::Hard => self.used,
            QuotaKind::Soft => self.used.saturating_sub(self.settled_outside_allowance()),
        }
    }
}
