//! What can be bought now, and what was published before.

use crate::{Domain, Provider, Result};
use model::access::Interval;
use model::catalogue::{Offer, PlanTerms};
use model::feature::{Life, Rollout};
use model::{Currency, PlanId, PlanVersionId, Time};

/// What is on sale: for the pricing page, and for names of meters and features anywhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalogue {
    /// The API product.
    pub product: Product,
    /// Plans that can be bought, in the order of the catalogue file.
    pub plans: Vec<CurrentPlan>,
    /// All meters.
    pub meters: Vec<Meter>,
    /// All features.
    pub features: Vec<Feature>,
}

/// A set of routes sold together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// Short name in URLs.
    pub slug: String,
    /// Name on pages and invoices.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// Currency of all its prices.
    pub currency: Currency,
}

/// A plan with its newest version that can be bought.
#[derive(Debug, Clone, PartialEq)]
pub struct CurrentPlan {
    /// The plan.
    pub id: PlanId,
    /// The version.
    pub version: PlanVersionId,
    /// The version's number, from 1.
    pub number: i32,
    /// Its terms.
    pub terms: PlanTerms,
}

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    /// Small number, never reused.
    pub number: u16,
    /// Name that terms refer to.
    pub slug: String,
    /// Name on pages.
    pub name: String,
    /// One of what is counted, in the singular.
    pub unit: String,
}

/// A capability that a plan can grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Name that terms refer to.
    pub slug: String,
    /// Name on pages.
    pub name: String,
}

impl Catalogue {
    /// The plan with this slug.
    pub fn plan(&self, slug: &str) -> Option<&CurrentPlan> {
        self.plans.iter().find(|p| p.terms.slug == slug)
    }
    /// The plan with this version, when it is the newest.
    pub fn version(&self, version: PlanVersionId) -> Option<&CurrentPlan> {
        self.plans.iter().find(|p| p.version == version)
    }
    /// The meter with this slug.
    pub fn meter(&self, slug: &str) -> Option<&Meter> {
        self.meters.iter().find(|m| m.slug == slug)
    }
    /// A feature's name on pages; its slug when it is not known.
    pub fn feature_name<'a>(&'a self, slug: &'a str) -> &'a str {
        self.features.iter().find(|f| f.slug == slug).map_or(slug, |f| &f.name)
    }
    /// The free plan that new consumers start on: the first one.
    pub fn free_plan(&self) -> Option<&CurrentPlan> {
        self.plans.iter().find(|p| p.terms.is_free())
    }
}

/// What is on sale now; none before the first catalogue is published.
///
/// # Errors
/// When the database fails.
pub async fn current(domain: &Domain) -> Result<Option<Catalogue>> {
    let mut connection = domain.pool.acquire().await?;
    let product = sqlx::query_as!(
        Product,
        r#"SELECT slug, name, summary, currency AS "currency: Currency" FROM products ORDER BY slug LIMIT 1"#
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(product) = product else { return Ok(None) };
    let plans = plans(&mut connection).await?;
    let meters = meters(&mut connection).await?;
    let features = features(&mut connection).await?;
    Ok(Some(Catalogue {
        product,
        plans,
        meters,
        features,
    }))
}

/// Plans on sale with their newest ready version.
pub(crate) async fn plans(connection: &mut sqlx::PgConnection) -> Result<Vec<CurrentPlan>> {
    let rows = sqlx::query!(
        "SELECT DISTINCT ON (p.position, p.id) p.id, v.id AS version, v.number, v.terms
         FROM plans p JOIN plan_versions v ON v.plan_id = p.id
         WHERE p.retired_at IS NULL AND v.ready_at IS NOT NULL
         ORDER BY p.position, p.id, v.number DESC"
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(CurrentPlan {
                id: r.id,
                version: r.version,
                number: r.number,
                terms: serde_json::from_value(r.terms)?,
            })
        })
        .collect()
}

/// All features. One that not everybody has yet whose plan lists it says so.
async fn features(connection: &mut sqlx::PgConnection) -> Result<Vec<Feature>> {
    let rows = sqlx::query!("SELECT slug, name, life FROM features ORDER BY slug")
        .fetch_all(connection)
        .await?;
    rows.into_iter()
        .map(|r| {
            let life: Life = serde_json::from_value(r.life)?;
            let name = match life.rollout {
                Some(Rollout { percent }) if percent < 100 => format!("{} (being introduced)", r.name),
                _ => r.name,
            };
            Ok(Feature { slug: r.slug, name })
        })
        .collect()
}

/// All meters.
pub(crate) async fn meters(connection: &mut sqlx::PgConnection) -> Result<Vec<Meter>> {
    let rows = sqlx::query!("SELECT number, slug, name, unit FROM meters ORDER BY number")
        .fetch_all(connection)
        .await?;
    rows.into_iter()
        .map(|r| {
            Ok(Meter {
                number: u16::try_from(r.number).map_err(crate::DomainError::internal)?,
                slug: r.slug,
                name: r.name,
                unit: r.unit,
            })
        })
        .collect()
}

/// The free plan that consumers start on and test keys are limited like, with its monthly offer.
///
/// # Errors
/// When the database fails.
pub async fn free_plan(connection: &mut sqlx::PgConnection) -> Result<Option<(CurrentPlan, Offer)>> {
    Ok(plans(connection).await?.into_iter().find_map(|p| {
        let offer = p.terms.is_free().then(|| p.terms.offer(Interval::Month).cloned())??;
        Some((p, offer))
    }))
}

/// A plan as the provider sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanOverview {
    /// Short name in URLs.
    pub slug: String,
    /// No longer sold since then.
    pub retired_at: Option<Time>,
    /// Its versions, the newest first.
    pub versions: Vec<VersionOverview>,
}

/// A version as the provider sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionOverview {
    /// The version.
    pub id: PlanVersionId,
    /// From 1.
    pub number: i32,
    /// Its terms.
    pub terms: PlanTerms,
    /// When it was published.
    pub published_at: Time,
    /// When its prices existed in Stripe; until then it cannot be bought.
    pub ready_at: Option<Time>,
    /// Consumers on it now.
    pub subscribers: i64,
}

/// All plans with all versions and how many consumers are on each.
///
/// # Errors
/// When the database fails.
pub async fn overview(domain: &Domain, _provider: &Provider) -> Result<Vec<PlanOverview>> {
    let rows = sqlx::query!(
        r#"SELECT p.slug, p.retired_at, v.id, v.number, v.terms, v.published_at, v.ready_at,
                  (SELECT count(*) FROM subscriptions s WHERE s.plan_version_id = v.id AND s.ended_at IS NULL) AS "subscribers!"
           FROM plans p JOIN plan_versions v ON v.plan_id = p.id
           ORDER BY p.retired_at IS NOT NULL, p.position, p.id, v.number DESC"#
    )
    .fetch_all(&domain.pool)
    .await?;
    let mut plans: Vec<PlanOverview> = Vec::new();
    for row in rows {
        let version = VersionOverview {
            id: row.id,
            number: row.number,
            terms: serde_json::from_value(row.terms)?,
            published_at: row.published_at,
            ready_at: row.ready_at,
            subscribers: row.subscribers,
        };
        match plans.last_mut() {
            Some(plan) if plan.slug == row.slug => plan.versions.push(version),
            _ => plans.push(PlanOverview {
                slug: row.slug,
                retired_at: row.retired_at,
                versions: vec![version],
            }),
        }
    }
    Ok(plans)
}
