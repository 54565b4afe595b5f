//! The routes on sale, for the public reference.

use crate::{Domain, Result};

/// A route as the reference shows it.
#[derive(Debug, Clone)]
pub struct PublicRoute {
    /// Methods, such as `GET`.
    pub methods: Vec<String>,
    /// Path pattern.
    pub path: String,
    /// Name of the feature a plan must grant.
    pub feature: Option<String>,
    /// Units a request consumes.
    pub weight: i32,
    /// One of what is counted, in the singular.
    pub unit: String,
}

/// The routes on sale, in the catalogue's order.
///
/// # Errors
/// When the database fails.
pub async fn public_routes(domain: &Domain) -> Result<Vec<PublicRoute>> {
    Ok(sqlx::query_as!(
        PublicRoute,
        r#"SELECT r.methods, r.path, f.name AS "feature?", r.weight, m.unit
           FROM routes r JOIN meters m ON m.number = r.meter LEFT JOIN features f ON f.slug = r.feature
           WHERE r.retired_at IS NULL ORDER BY r.number"#
    )
    .fetch_all(&domain.pool)
    .await?)
}
