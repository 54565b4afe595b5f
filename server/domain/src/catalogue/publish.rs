//! Publishing: the catalogue file into tables, in one transaction.

use crate::{Domain, DomainError, Provider, Result, audit, entitlements, jobs, locks};
use model::catalogue::{CatalogueFile, PlanTerms};
use model::{PlanId, PlanVersionId, Time};
use sqlx::PgConnection;

use super::issuers;
use super::stripe::PublishToStripe;

/// What publishing did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The new versions; empty when no terms changed.
    pub versions: Vec<PublishedVersion>,
}

/// A new plan version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedVersion {
    /// Slug of the plan.
    pub plan: String,
    /// The version.
    pub id: PlanVersionId,
    /// Its number, from 1.
    pub number: i32,
    /// It can be bought at once; otherwise as soon as Stripe has its prices.
    pub ready: bool,
}

/// Publishes a catalogue: writes what differs, retires routes and plans that the file no longer has, and makes a new
/// version of each plan whose terms changed. Publishing the same file again changes nothing.
///
/// # Errors
/// [`DomainError::Invalid`] when the file is wrong, names another product than the one published before, or another
/// currency.
pub async fn publish(domain: &Domain, provider: &Provider, file: &CatalogueFile) -> Result<Published> {
    let plans = file.check().map_err(|e| DomainError::invalid("file", e.to_string()))?;
    let now = domain.clock.now();
    let mut tx = domain.pool.begin().await?;
    locks::hold(&mut tx, locks::PUBLISHING).await?;
    refuse_other_product(&mut tx, file).await?;
    write_product(&mut tx, file, now).await?;
    write_meters_and_features(&mut tx, file).await?;
    write_routes(&mut tx, file, now).await?;
    issuers::write(domain, &mut tx, file, now).await?;
    let mut versions = Vec::new();
    for (position, terms) in (0i32..).zip(&plans) {
        let plan = write_plan(domain, &mut tx, &file.product.slug, position, terms, now).await?;
        if let Some(version) = write_version(domain, &mut tx, plan, terms, now).await? {
            audit::record(
                domain,
                &mut tx,
                provider.actor(),
                None,
                "plan.publish",
                &version.id.to_string(),
            )
            .await?;
            versions.push(version);
        }
    }
    let slugs: Vec<String> = plans.iter().map(|p| p.slug.clone()).collect();
    sqlx::query!(
        "UPDATE plans SET retired_at = $2 WHERE NOT (slug = ANY($1)) AND retired_at IS NULL",
        &slugs,
        now
    )
    .execute(&mut *tx)
    .await?;
    // Test keys are limited like the free plan, whose terms may be new.
    jobs::enqueue(domain, &mut tx, &entitlements::RecompileAll { after: None }, now).await?;
    sqlx::query!("UPDATE routing_state SET version = 0")
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(Published { versions })
}

async fn refuse_other_product(connection: &mut PgConnection, file: &CatalogueFile) -> Result<()> {
    let known = sqlx::query!("SELECT slug, currency FROM products")
        .fetch_optional(connection)
        .await?;
    match known {
        Some(row) if row.slug != file.product.slug => Err(DomainError::invalid(
            "file",
            format!(
                "product.slug: must stay {}: an installation sells one product",
                row.slug
            ),
        )),
        Some(row) if row.currency != file.product.currency.code() => Err(DomainError::invalid(
            "file",
            format!("product.currency: must stay {}: subscribers pay in it", row.currency),
        )),
        _ => Ok(()),
    }
}

async fn write_product(connection: &mut PgConnection, file: &CatalogueFile, now: Time) -> Result<()> {
    let p = &file.product;
    sqlx::query!(
        "INSERT INTO products (slug, name, summary, currency, updated_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (slug) DO UPDATE SET name = excluded.name, summary = excluded.summary, updated_at = excluded.updated_at",
        p.slug,
        p.name,
        p.summary,
        p.currency.code(),
        now
    )
    .execute(&mut *connection)
    .await?;
    for u in &file.upstreams {
        let policy = serde_json::to_value(&u.policy)?;
        let (first_byte_ms, idle_ms) = (millis(u.first_byte_timeout_ms)?, millis(u.idle_timeout_ms)?);
        // Not an upsert: that would use up a number each time, and there are 32,767.
        sqlx::query!(
            "MERGE INTO upstreams u
             USING (SELECT $1::text AS slug, $2::text AS url, $3::int AS first_byte_ms, $4::int AS idle_ms, $5::jsonb AS policy) n
             ON u.slug = n.slug
             WHEN MATCHED THEN UPDATE SET url = n.url, first_byte_timeout_ms = n.first_byte_ms,
                  idle_timeout_ms = n.idle_ms, policy = n.policy
             WHEN NOT MATCHED THEN INSERT (slug, url, first_byte_timeout_ms, idle_timeout_ms, policy)
                  VALUES (n.slug, n.url, n.first_byte_ms, n.idle_ms, n.policy)",
            u.slug,
            u.url,
            first_byte_ms,
            idle_ms,
            policy
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

fn millis(ms: u32) -> Result<i32> {
    i32::try_from(ms).map_err(|_| DomainError::invalid("file", "upstreams: a timeout is at most 24 days"))
}

async fn write_meters_and_features(connection: &mut PgConnection, file: &CatalogueFile) -> Result<()> {
    for m in &file.meters {
        sqlx::query!(
            "MERGE INTO meters m
             USING (SELECT $1::text AS slug, $2::text AS name, $3::text AS unit, $4::text[] AS statuses, $5::text AS event_name) n
             ON m.slug = n.slug
             WHEN MATCHED THEN UPDATE SET name = n.name, unit = n.unit, statuses = n.statuses
             WHEN NOT MATCHED THEN INSERT (slug, name, unit, statuses, event_name)
                  VALUES (n.slug, n.name, n.unit, n.statuses, n.event_name)",
            m.slug,
            m.name,
            m.unit,
            &m.statuses,
            format!("{}_{}", file.product.slug, m.slug)
        )
        .execute(&mut *connection)
        .await?;
    }
    for f in &file.features {
        sqlx::query!(
            "INSERT INTO features (slug, name, life) VALUES ($1, $2, $3)
             ON CONFLICT (slug) DO UPDATE SET name = excluded.name, life = excluded.life",
            f.slug,
            f.name,
            serde_json::to_value(f.life())?
        )
        .execute(&mut *connection)
        .await?;
    }
    let slugs: Vec<String> = file.features.iter().map(|f| f.slug.clone()).collect();
    // A feature that the file no longer has is nobody's by name; what subscribers' versions list stays theirs.
    sqlx::query!("UPDATE features SET life = '{}' WHERE NOT (slug = ANY($1))", &slugs)
        .execute(connection)
        .await?;
    Ok(())
}

async fn write_routes(connection: &mut PgConnection, file: &CatalogueFile, now: Time) -> Result<()> {
    for r in &file.routes {
        let methods: Vec<String> = r.methods.iter().map(ToString::to_string).collect();
        let weight = i32::try_from(r.weight).map_err(DomainError::internal)?;
        let policy = serde_json::to_value(&r.policy)?;
        sqlx::query!(
            "MERGE INTO routes r
             USING (SELECT $1::text AS slug, $2::text AS product, $3::text[] AS methods, $4::text AS path, $5::int AS weight,
                           $6::text AS feature, (SELECT number FROM upstreams WHERE slug = $7) AS upstream,
                           (SELECT number FROM meters WHERE slug = $8) AS meter, $9::jsonb AS policy) n
             ON r.slug = n.slug
             WHEN MATCHED THEN UPDATE SET methods = n.methods, path = n.path, weight = n.weight, feature = n.feature,
                  upstream = n.upstream, meter = n.meter, policy = n.policy, retired_at = NULL
             WHEN NOT MATCHED THEN INSERT (slug, product, methods, path, weight, feature, upstream, meter, policy)
                  VALUES (n.slug, n.product, n.methods, n.path, n.weight, n.feature, n.upstream, n.meter, n.policy)",
            r.slug,
            file.product.slug,
            &methods,
            r.path,
            weight,
            r.feature.as_deref(),
            r.upstream,
            r.meter,
            policy
        )
        .execute(&mut *connection)
        .await?;
    }
    let slugs: Vec<String> = file.routes.iter().map(|r| r.slug.clone()).collect();
    sqlx::query!(
        "UPDATE routes SET retired_at = $2 WHERE NOT (slug = ANY($1)) AND retired_at IS NULL",
        &slugs,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_plan(
    domain: &Domain,
    connection: &mut PgConnection,
    product: &str,
    position: i32,
    terms: &PlanTerms,
    now: Time,
) -> Result<PlanId> {
    let row = sqlx::query!(
        "INSERT INTO plans (id, slug, product, position, created_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (slug) DO UPDATE SET position = excluded.position, retired_at = NULL
         RETURNING id",
        PlanId::new(now, &*domain.random) as PlanId,
        terms.slug,
        product,
        position,
        now
    )
    .fetch_one(connection)
    .await?;
    Ok(row.id)
}

/// A new version when the newest has other terms.
async fn write_version(
    domain: &Domain,
    connection: &mut PgConnection,
    plan: PlanId,
    terms: &PlanTerms,
    now: Time,
) -> Result<Option<PublishedVersion>> {
    let newest = sqlx::query!(
        "SELECT number, terms FROM plan_versions WHERE plan_id = $1 ORDER BY number DESC LIMIT 1",
        plan as PlanId
    )
    .fetch_optional(&mut *connection)
    .await?;
    let mut number = 1;
    if let Some(newest) = newest {
        if serde_json::from_value::<PlanTerms>(newest.terms)? == *terms {
            return Ok(None);
        }
        number = newest.number + 1;
    }
    let id = PlanVersionId::new(now, &*domain.random);
    let ready = terms.is_free();
    sqlx::query!(
        "INSERT INTO plan_versions (id, plan_id, number, terms, published_at, ready_at) VALUES ($1, $2, $3, $4, $5, $6)",
        id as PlanVersionId,
        plan as PlanId,
        number,
        serde_json::to_value(terms)?,
        now,
        ready.then_some(now)
    )
    .execute(&mut *connection)
    .await?;
    // Without a key it waits for a start that has one.
    if !ready && domain.payments.is_configured() {
        jobs::enqueue(domain, connection, &PublishToStripe { version: id }, now).await?;
    }
    Ok(Some(PublishedVersion {
        plan: terms.slug.clone(),
        id,
        number,
        ready,
    }))
}
