//! What a catalogue file says beside plans: product, upstreams, meters, features, routes.

use super::PlanFile;
use crate::ConsumerId;
use crate::access::Method;
use crate::feature::{Life, Rollout, Variant};
use crate::issuer::IssuerFile;
use crate::money::Currency;
use crate::policy::{RoutePolicy, UpstreamPolicy};
use serde::{Deserialize, Serialize};

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
    /// Methods, any but CONNECT and TRACE; GET answers HEAD too, unless a route with a greater priority does.
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
