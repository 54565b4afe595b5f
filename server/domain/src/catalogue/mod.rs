//! What is sold: products, meters, features, routes, and plans with their unchangeable versions.
//!
//! [`publish`] takes a catalogue file, writes what differs and leaves the rest; a plan gets a new version only when
//! its terms are new. Subscribers keep the version they agreed to. [`stripe::PublishToStripe`] then makes the version's
//! prices in Stripe, and only after that can it be bought.

mod current;
pub(crate) mod issuers;
mod preview;
mod publish;
mod routes;
pub mod stripe;

pub use current::{
    Catalogue, CurrentPlan, Feature, Meter, PlanOverview, Product, VersionOverview, current, free_plan, overview,
};
pub(crate) use current::{meters, plans};
pub use preview::{Change, ChangeKind, MAX_FILE_BYTES, parse, preview};
pub use publish::{Published, PublishedVersion, publish};
pub use routes::{PublicRoute, public_routes};

use crate::jobs::Registry;
use crate::{Domain, Result};
use model::PlanVersionId;
use model::catalogue::PlanTerms;

/// The jobs of the catalogue.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.with::<stripe::PublishToStripe>()
}

/// Carries to Stripe what was published while no key was configured, or given up; doing so again changes nothing.
///
/// # Errors
/// When the database fails.
pub async fn ensure_recurring(domain: &Domain) -> Result<()> {
    stripe::publish_waiting(domain).await
}

/// The terms of a version.
///
/// # Errors
/// [`crate::DomainError::NotFound`] when there is none.
pub async fn terms(connection: &mut sqlx::PgConnection, version: PlanVersionId) -> Result<PlanTerms> {
    let row = sqlx::query!(
        "SELECT terms FROM plan_versions WHERE id = $1",
        version as PlanVersionId
    )
    .fetch_optional(connection)
    .await?
    .ok_or(crate::DomainError::NotFound)?;
    Ok(serde_json::from_value(row.terms)?)
}
