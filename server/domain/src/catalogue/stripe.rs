//! The outbox job that makes a plan version's product, meters and prices in Stripe.

use crate::jobs::{self, Job};
use crate::payments::{NewPrice, NewPriceKind};
use crate::{Domain, Result, locks};
use model::access::Interval;
use model::catalogue::{Offer, PlanTerms};
use model::{Currency, PlanId, PlanVersionId};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The `part` of the flat price; the others are named by their meter's slug.
pub const FLAT: &str = "";

/// Makes everything a version needs in Stripe, then marks it ready. Each id is stored as soon as it is known and each
/// call has a key made of the version's id, so a run that died half-way is taken up where it ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct PublishToStripe {
    /// The version.
    pub version: PlanVersionId,
}

#[async_trait::async_trait]
impl Job for PublishToStripe {
    const KIND: &'static str = "catalogue.publish_to_stripe";
    const ASKS_STRIPE: bool = true;

    fn dedup_key(&self) -> Option<String> {
        Some(self.version.to_string())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        // Held while Stripe is asked; nothing else waits for this lock but other runs of this job.
        let mut turn = domain.pool.begin().await?;
        locks::wait_for_stripe(&mut turn).await?;
        locks::hold(&mut turn, locks::CARRYING).await?;
        let terms = super::terms(&mut turn, self.version).await?;
        let product = self.product(domain, &terms.name).await?;
        for offer in &terms.offers {
            self.offer(domain, &product, &terms.name, offer).await?;
        }
        sqlx::query!(
            "UPDATE plan_versions SET ready_at = $2 WHERE id = $1 AND ready_at IS NULL",
            self.version as PlanVersionId,
            domain.clock.now()
        )
        .execute(&domain.pool)
        .await?;
        turn.commit().await?;
        Ok(())
    }
}

struct StripeProduct {
    id: String,
    currency: Currency,
}

impl PublishToStripe {
    async fn product(&self, domain: &Domain, plan: &str) -> Result<StripeProduct> {
        let row = sqlx::query!(
            r#"SELECT l.id AS plan, l.slug, p.name, p.currency AS "currency: Currency", l.stripe_product
               FROM products p JOIN plans l ON l.product = p.slug JOIN plan_versions v ON v.plan_id = l.id
               WHERE v.id = $1"#,
            self.version as PlanVersionId
        )
        .fetch_one(&domain.pool)
        .await?;
        let id = match row.stripe_product {
            Some(id) => id,
            None => {
                let key = format!("product-{}", self.version);
                let name = format!("{} {plan}", row.name);
                let id = domain.payments.create_product(&name, &row.slug, &key).await?;
                sqlx::query!(
                    "UPDATE plans SET stripe_product = $2 WHERE id = $1",
                    row.plan as PlanId,
                    id
                )
                .execute(&domain.pool)
                .await?;
                id
            }
        };
        Ok(StripeProduct {
            id,
            currency: row.currency,
        })
    }

    async fn offer(&self, domain: &Domain, product: &StripeProduct, plan: &str, offer: &Offer) -> Result<()> {
        let made = prices(&domain.pool, self.version, offer.interval).await?;
        if offer.flat.minor > 0 && !made.contains_key(FLAT) {
            self.price(
                domain,
                product,
                plan,
                offer.interval,
                FLAT,
                NewPriceKind::Flat(offer.flat),
            )
            .await?;
        }
        for terms in &offer.meters {
            // Without overage the allowance is a hard quota: there is nothing to charge.
            let Some(overage) = &terms.overage else { continue };
            if made.contains_key(&terms.meter) {
                continue;
            }
            let kind = NewPriceKind::Metered {
                meter: self.meter(domain, &terms.meter).await?,
                included: terms.included,
                overage: overage.clone(),
            };
            self.price(domain, product, plan, offer.interval, &terms.meter, kind)
                .await?;
        }
        Ok(())
    }

    async fn price(
        &self,
        domain: &Domain,
        product: &StripeProduct,
        plan: &str,
        interval: Interval,
        part: &str,
        kind: NewPriceKind,
    ) -> Result<()> {
        let new = NewPrice {
            product: product.id.clone(),
            nickname: format!("{plan} {interval} {part}").trim_end().to_owned(),
            currency: product.currency,
            interval,
            kind,
        };
        let key = format!("price-{}-{interval}-{part}", self.version);
        let id = domain.payments.create_price(&new, &key).await?;
        sqlx::query!(
            "INSERT INTO plan_prices (plan_version_id, interval, part, stripe_price) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
            self.version as PlanVersionId,
            interval as Interval,
            part,
            id
        )
        .execute(&domain.pool)
        .await?;
        Ok(())
    }

    async fn meter(&self, domain: &Domain, slug: &str) -> Result<String> {
        let row = sqlx::query!(
            "SELECT name, event_name, stripe_meter FROM meters WHERE slug = $1",
            slug
        )
        .fetch_one(&domain.pool)
        .await?;
        if let Some(id) = row.stripe_meter {
            return Ok(id);
        }
        let key = format!("meter-{slug}-{}", self.version);
        let id = domain.payments.create_meter(&row.name, &row.event_name, &key).await?;
        sqlx::query!("UPDATE meters SET stripe_meter = $2 WHERE slug = $1", slug, id)
            .execute(&domain.pool)
            .await?;
        Ok(id)
    }
}

/// Enqueues what is on offer and not in Stripe yet, when there is a key to do it with. A version that a newer one has
/// overtaken meanwhile is left: nobody will buy it.
pub(super) async fn publish_waiting(domain: &Domain) -> Result<()> {
    if !domain.payments.is_configured() {
        return Ok(());
    }
    let mut tx = domain.pool.begin().await?;
    for plan in priced(&mut *tx).await?.into_iter().filter(|p| !p.in_stripe) {
        let job = PublishToStripe { version: plan.version };
        jobs::enqueue(domain, &mut tx, &job, domain.clock.now()).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// A plan on offer that costs something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricedPlan {
    /// Name on pages.
    pub name: String,
    /// Its newest version.
    pub version: PlanVersionId,
    /// Its prices are in Stripe; until then the version cannot be bought.
    pub in_stripe: bool,
}

/// The plans on offer that cost something, in the order of the catalogue file.
///
/// # Errors
/// When the database fails.
pub async fn priced(executor: impl sqlx::PgExecutor<'_>) -> Result<Vec<PricedPlan>> {
    let rows = sqlx::query!(
        r#"SELECT DISTINCT ON (p.position, p.id) v.id, v.terms, v.ready_at IS NOT NULL AS "in_stripe!"
           FROM plans p JOIN plan_versions v ON v.plan_id = p.id
           WHERE p.retired_at IS NULL ORDER BY p.position, p.id, v.number DESC"#
    )
    .fetch_all(executor)
    .await?;
    let mut plans = Vec::new();
    for row in rows {
        let terms: PlanTerms = serde_json::from_value(row.terms)?;
        if !terms.is_free() {
            plans.push(PricedPlan {
                name: terms.name,
                version: row.id,
                in_stripe: row.in_stripe,
            });
        }
    }
    Ok(plans)
}

/// The Stripe prices of a version's offer, by part.
pub(crate) async fn prices(
    executor: impl sqlx::PgExecutor<'_>,
    version: PlanVersionId,
    interval: Interval,
) -> Result<HashMap<String, String>> {
    let rows = sqlx::query!(
        "SELECT part, stripe_price FROM plan_prices WHERE plan_version_id = $1 AND interval = $2",
        version as PlanVersionId,
        interval as Interval
    )
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().map(|r| (r.part, r.stripe_price)).collect())
}
