//! Issuers of tokens: written when a catalogue is published, handed to gateways, and named in usage.

use super::preview::{Change, ChangeKind};
use crate::{Domain, Result};
use model::catalogue::CatalogueFile;
use model::snapshot::IssuerRecord;
use model::{KeyId, Time};
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// Writes the file's issuers and retires those that it no longer has. One that comes back is who it was.
pub(super) async fn write(
    domain: &Domain,
    connection: &mut PgConnection,
    file: &CatalogueFile,
    now: Time,
) -> Result<()> {
    for issuer in &file.issuers {
        sqlx::query!(
            "INSERT INTO issuers (slug, key_id, record) VALUES ($1, $2, $3)
             ON CONFLICT (slug) DO UPDATE SET record = excluded.record, retired_at = NULL",
            issuer.slug,
            KeyId::new(now, &*domain.random) as KeyId,
            serde_json::to_value(issuer)?,
        )
        .execute(&mut *connection)
        .await?;
    }
    let slugs: Vec<String> = file.issuers.iter().map(|i| i.slug.clone()).collect();
    sqlx::query!(
        "UPDATE issuers SET retired_at = $2 WHERE NOT (slug = ANY($1)) AND retired_at IS NULL",
        &slugs,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What publishing the file would change about whose tokens are taken.
pub(super) async fn preview(domain: &Domain, file: &CatalogueFile) -> Result<Vec<Change>> {
    let known = records(&mut *domain.pool.acquire().await?).await?;
    let change = |kind, slug: &str, detail: String| Change {
        kind,
        subject: format!("Issuer {slug}"),
        details: vec![detail],
    };
    let mut changes = Vec::new();
    for issuer in &file.issuers {
        match known.iter().find(|k| k.file.slug == issuer.slug) {
            None => {
                let detail = format!("Tokens of {} are taken where a route takes jwt", issuer.issuer);
                changes.push(change(ChangeKind::Added, &issuer.slug, detail));
            }
            Some(known) if known.file != *issuer => {
                let detail = format!("Becomes {}", serde_json::to_string(issuer)?);
                changes.push(change(ChangeKind::Changed, &issuer.slug, detail));
            }
            Some(_) => {}
        }
    }
    for gone in known
        .iter()
        .filter(|k| !file.issuers.iter().any(|i| i.slug == k.file.slug))
    {
        let detail = "Its tokens are refused from then on".to_owned();
        changes.push(change(ChangeKind::Retired, &gone.file.slug, detail));
    }
    Ok(changes)
}

/// The issuers whose tokens are taken.
pub(crate) async fn records(connection: &mut PgConnection) -> Result<Vec<IssuerRecord>> {
    let rows = sqlx::query!("SELECT key_id, record FROM issuers WHERE retired_at IS NULL ORDER BY slug")
        .fetch_all(connection)
        .await?;
    let record = |row| {
        let (key, record): (KeyId, serde_json::Value) = row;
        Ok(IssuerRecord {
            key,
            file: serde_json::from_value(record)?,
        })
    };
    rows.into_iter().map(|r| record((r.key_id, r.record))).collect()
}

/// What usage shows for callers with a token, by the key that stands for them.
pub(crate) async fn labels(connection: &mut PgConnection) -> Result<BTreeMap<KeyId, String>> {
    let rows = sqlx::query!("SELECT key_id, slug FROM issuers")
        .fetch_all(connection)
        .await?;
    Ok(rows
        .into_iter()
        .map(|r| (r.key_id, format!("token of {}", r.slug)))
        .collect())
}
