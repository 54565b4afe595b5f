//! Kept answers that gateways are told to forget.

use crate::snapshot::Versions;
use crate::{Domain, DomainError, Provider, Result, audit};
use model::snapshot::Purge;
use sqlx::PgConnection;

/// Longest path prefix, in bytes.
const PREFIX_MOST: usize = 1024;

/// Tells every gateway to forget kept answers: of a route, or of all routes; and of all paths, or of those that begin so,
/// as clients write them. Gateways hear of it as of any change; one that is away does when it is back.
///
/// # Errors
/// [`DomainError::Invalid`] when there is no such route, or the prefix is none.
pub async fn purge(domain: &Domain, provider: &Provider, route: Option<&str>, path_prefix: &str) -> Result<()> {
    if !path_prefix.is_empty() && !path_prefix.starts_with('/') || path_prefix.len() > PREFIX_MOST {
        let problem = format!("Begin it with a slash, at most {PREFIX_MOST} characters; or leave it empty.");
        return Err(DomainError::invalid("path", problem));
    }
    let mut tx = domain.pool.begin().await?;
    let number = match route {
        None => None,
        Some(slug) => {
            let row = sqlx::query!("SELECT number FROM routes WHERE slug = $1", slug)
                .fetch_optional(&mut *tx)
                .await?;
            let known = row.ok_or_else(|| DomainError::invalid("route", format!("There is no route {slug:?}.")))?;
            Some(known.number)
        }
    };
    sqlx::query!(
        "INSERT INTO cache_purges (route, path_prefix, version, purged_at) VALUES ($1, $2, 0, $3)
         ON CONFLICT (route, path_prefix) DO UPDATE SET purged_at = excluded.purged_at",
        number,
        path_prefix,
        domain.clock.now(),
    )
    .execute(&mut *tx)
    .await?;
    let target = format!("{}{path_prefix}", route.map(|r| format!("{r} ")).unwrap_or_default());
    let target = if target.is_empty() {
        "everything"
    } else {
        target.trim_end()
    };
    audit::record(domain, &mut tx, provider.actor(), None, "cache.purge", target).await?;
    tx.commit().await?;
    Ok(())
}

/// Those among the changes that are told.
pub(crate) async fn told(connection: &mut PgConnection, told: Versions) -> Result<Vec<Purge>> {
    let rows = sqlx::query!(
        "SELECT route, path_prefix FROM cache_purges WHERE version > $1 AND version <= $2",
        told.after,
        told.through,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let route = row.route.map(u16::try_from).transpose();
            Ok(Purge {
                route: route.map_err(DomainError::internal)?,
                path_prefix: row.path_prefix,
            })
        })
        .collect()
}
