//! The gateway's two doors, opened onto the domain.

use async_trait::async_trait;
use domain::Domain;
use gateway::{SnapshotSource, SourceError, UsageSink};
use model::lease::{LeaseAnswer, LeaseAsk};
use model::snapshot::{Changes, Counts, LedgerPart};
use model::usage::UsageBatch;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Pause after the listening connection could not be made.
const RELISTEN: Duration = Duration::from_secs(1);

/// Answers the gateway from the database.
pub(crate) struct Bridge {
    domain: Domain,
    changed: Notify,
    migration_tried: watch::Receiver<bool>,
}

impl Bridge {
    /// Listens for changes from now on. Asks for none before `migration_tried`: at a first start the tables are only
    /// being made.
    pub(crate) fn start(domain: Domain, migration_tried: watch::Receiver<bool>) -> std::sync::Arc<Self> {
        let bridge = std::sync::Arc::new(Self {
            domain,
            changed: Notify::new(),
            migration_tried,
        });
        let listener = bridge.clone();
        tokio::spawn(async move {
            // A listener keeps its connection, and a pool that closes waits for every one.
            while !listener.domain.pool.is_closed() {
                match domain::snapshot::listen(&listener.domain).await {
                    Ok(mut hints) => {
                        while !listener.domain.pool.is_closed() {
                            listener.changed.notify_one();
                            hints.next().await;
                        }
                    }
                    Err(error) => tracing::warn!(cause = error.chain(), "cannot listen for changes; polling goes on"),
                }
                tokio::time::sleep(RELISTEN).await;
            }
        });
        bridge
    }
}

impl Bridge {
    /// Waits for the first migration's end, good or bad.
    async fn tables_made(&self) {
        // Who would say so is gone only when the program ends.
        let _ = self.migration_tried.clone().wait_for(|tried| *tried).await;
    }
}

fn source_error(error: domain::DomainError) -> SourceError {
    SourceError::new(error.chain())
}

#[async_trait]
impl SnapshotSource for Bridge {
    async fn changes_since(&self, ledger: &str, version: i64) -> Result<Changes, SourceError> {
        self.tables_made().await;
        domain::snapshot::changes_since(&self.domain, ledger, version)
            .await
            .map_err(source_error)
    }
    async fn counts(&self, ledger: &str, parts: &[LedgerPart]) -> Result<Counts, SourceError> {
        self.tables_made().await;
        domain::usage::counts(&self.domain, ledger, parts)
            .await
            .map_err(source_error)
    }
    async fn lease(&self, ask: &LeaseAsk) -> Result<LeaseAnswer, SourceError> {
        self.tables_made().await;
        domain::usage::lease(&self.domain, ask).await.map_err(source_error)
    }
    async fn hint(&self) {
        self.changed.notified().await;
    }
}

#[async_trait]
impl UsageSink for Bridge {
    async fn ship(&self, batch: UsageBatch) -> Result<(), SourceError> {
        self.tables_made().await;
        let domain = self.domain.clone();
        // A task of its own, so that whoever stops waiting does not cut it: rows are on their way in a form that sqlx cannot
        // abandon half-way without losing count of the answers on that connection. PostgreSQL bounds it by its own limit.
        let shipping = tokio::spawn(async move { domain::usage::ship(&domain, &batch).await });
        shipping.await.map_err(SourceError::new)?.map_err(source_error)
    }
    async fn shipped_through(&self, ledger: &str) -> Result<u64, SourceError> {
        self.tables_made().await;
        domain::usage::shipped_through(&self.domain, ledger)
            .await
            .map_err(source_error)
    }
    async fn end_leases(&self, ledger: &str, seq: u64) -> Result<(), SourceError> {
        self.tables_made().await;
        domain::usage::end_leases(&self.domain, ledger, seq)
            .await
            .map_err(source_error)
    }
}
