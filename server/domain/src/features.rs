//! Features with a life: how they are switched on is published with the catalogue, who has one for a time is granted
//! here, and both become what an entitlement says (`model::feature` has the rules).

use crate::{Domain, DomainError, Provider, Result, audit, entitlements};
use model::feature::{self, Grant, Life, Stage};
use model::snapshot::{Entitlement, FeatureLife, LaterFeatures, Variants};
use model::{ConsumerId, Time};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};

/// A grant as the provider sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Slug of the feature.
    pub feature: String,
    /// Its name on pages.
    pub name: String,
    /// The first instant without it; none means until it is withdrawn.
    pub until: Option<Time>,
    /// When it was granted.
    pub granted_at: Time,
}

/// Gives a consumer a feature whatever its plan, until an instant or until it is withdrawn. Granted again, it has the
/// new end.
///
/// # Errors
/// `Invalid` for `feature` or `until`; `NotFound` when there is no such consumer.
pub async fn grant(
    domain: &Domain,
    provider: &Provider,
    consumer: ConsumerId,
    feature: &str,
    until: Option<Time>,
) -> Result<()> {
    let now = domain.clock.now();
    if until.is_some_and(|until| until <= now) {
        return Err(DomainError::invalid("until", "Choose a day that is not over."));
    }
    let mut tx = domain.pool.begin().await?;
    let known = sqlx::query_scalar!("SELECT slug FROM features ORDER BY slug")
        .fetch_all(&mut *tx)
        .await?;
    if !known.iter().any(|k| k == feature) {
        let problem = format!("{feature:?} is none of the features {}.", known.join(", "));
        return Err(DomainError::invalid("feature", problem));
    }
    found(&mut tx, consumer).await?;
    sqlx::query!(
        "INSERT INTO feature_grants (consumer_id, feature, until, granted_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (consumer_id, feature) DO UPDATE SET until = excluded.until, granted_at = excluded.granted_at",
        consumer as ConsumerId,
        feature,
        until as Option<Time>,
        now,
    )
    .execute(&mut *tx)
    .await?;
    audit::record(
        domain,
        &mut tx,
        provider.actor(),
        Some(consumer),
        "feature.grant",
        feature,
    )
    .await?;
    entitlements::recompile(domain, &mut tx, consumer).await?;
    tx.commit().await?;
    Ok(())
}

/// Takes a granted feature back. One that the plan gives stays.
///
/// # Errors
/// `Conflict` when it was not granted.
pub async fn withdraw(domain: &Domain, provider: &Provider, consumer: ConsumerId, feature: &str) -> Result<()> {
    let mut tx = domain.pool.begin().await?;
    let gone = sqlx::query!(
        "DELETE FROM feature_grants WHERE consumer_id = $1 AND feature = $2",
        consumer as ConsumerId,
        feature
    )
    .execute(&mut *tx)
    .await?;
    if gone.rows_affected() == 0 {
        return Err(DomainError::Conflict(format!("It has not been given {feature}.")));
    }
    audit::record(
        domain,
        &mut tx,
        provider.actor(),
        Some(consumer),
        "feature.withdraw",
        feature,
    )
    .await?;
    entitlements::recompile(domain, &mut tx, consumer).await?;
    tx.commit().await?;
    Ok(())
}

/// What was granted to a consumer, also what has ended since.
///
/// # Errors
/// When the database fails.
pub async fn granted(domain: &Domain, _provider: &Provider, consumer: ConsumerId) -> Result<Vec<Granted>> {
    Ok(sqlx::query_as!(
        Granted,
        r#"SELECT g.feature, f.name, g.until AS "until: Time", g.granted_at
           FROM feature_grants g JOIN features f ON f.slug = g.feature
           WHERE g.consumer_id = $1 ORDER BY g.feature"#,
        consumer as ConsumerId,
    )
    .fetch_all(&domain.pool)
    .await?)
}

async fn found(connection: &mut PgConnection, consumer: ConsumerId) -> Result<()> {
    sqlx::query_scalar!(
        "SELECT name FROM consumers WHERE id = $1 FOR NO KEY UPDATE",
        consumer as ConsumerId
    )
    .fetch_optional(connection)
    .await?
    .map(drop)
    .ok_or(DomainError::NotFound)
}

/// How every feature is switched on.
///
/// # Errors
/// When the database fails, or holds something that this program cannot read.
pub(crate) async fn lives(connection: &mut PgConnection) -> Result<BTreeMap<String, Life>> {
    let rows = sqlx::query!("SELECT slug, life FROM features")
        .fetch_all(connection)
        .await?;
    rows.into_iter()
        .map(|r| Ok((r.slug, serde_json::from_value(r.life)?)))
        .collect()
}

/// What decides on a consumer's features besides its plan.
pub(crate) struct Deciding {
    lives: BTreeMap<String, Life>,
    grants: Vec<Grant>,
}

impl Deciding {
    /// For a consumer.
    ///
    /// # Errors
    /// As [`lives`].
    pub(crate) async fn load(connection: &mut PgConnection, consumer: ConsumerId) -> Result<Self> {
        let grants = sqlx::query_as!(
            Grant,
            r#"SELECT feature, until AS "until: Time" FROM feature_grants WHERE consumer_id = $1 ORDER BY feature"#,
            consumer as ConsumerId
        )
        .fetch_all(&mut *connection)
        .await?;
        Ok(Self {
            lives: lives(connection).await?,
            grants,
        })
    }

    /// What a consumer with these features of its plan has now or will have, overrides apart.
    pub(crate) fn has(&self, plan: &[String], consumer: ConsumerId, now: Time) -> BTreeSet<String> {
        let stages = feature::stages(plan, &self.lives, &self.grants, &[], consumer, now);
        stages.into_iter().flat_map(|stage| stage.features).collect()
    }

    /// Turns the features of a plan into those that the consumer has, now and later, by what is in the record's
    /// overrides, too. Without a plan there are none.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn apply(&self, connection: &mut PgConnection, record: &mut Entitlement, now: Time) -> Result<()> {
        if record.plan_version.is_none() {
            return Ok(());
        }
        let mut life = FeatureLife::default();
        let (plan, own) = (&record.features, &record.overrides);
        for stage in feature::stages(plan, &self.lives, &self.grants, own, record.consumer, now) {
            let Stage {
                from,
                features,
                variants,
            } = stage;
            let variants = Variants {
                number: variant_set(connection, &variants).await?,
                of: variants,
            };
            match from {
                None => {
                    record.features = features;
                    life.variants = variants;
                }
                Some(from) => life.later.push(LaterFeatures {
                    from,
                    features,
                    variants,
                }),
            }
        }
        record.feature_life = life;
        Ok(())
    }
}

/// The number of a combination of variants, which it keeps for ever; 0 for none.
async fn variant_set(connection: &mut PgConnection, variants: &BTreeMap<String, String>) -> Result<u16> {
    if variants.is_empty() {
        return Ok(0);
    }
    let words: Vec<String> = variants.iter().map(|(f, v)| format!("{f}={v}")).collect();
    let words = words.join(",");
    loop {
        let known = sqlx::query_scalar!("SELECT number FROM variant_sets WHERE words = $1", words)
            .fetch_optional(&mut *connection)
            .await?;
        if let Some(number) = known {
            return u16::try_from(number).map_err(DomainError::internal);
        }
        // Not an upsert: that would use up a number each time, and there are 32,767.
        sqlx::query!(
            "INSERT INTO variant_sets (words) VALUES ($1) ON CONFLICT DO NOTHING",
            words
        )
        .execute(&mut *connection)
        .await?;
    }
}
