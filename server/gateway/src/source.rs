//! The two doors to the control plane. The gateway waits for neither while it answers a request.

use async_trait::async_trait;
use model::lease::{LeaseAnswer, LeaseAsk};
use model::snapshot::{Changes, Counts, LedgerPart};
use model::usage::UsageBatch;

/// The control plane could not be asked, or did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the control plane does not answer: {0}")]
pub struct SourceError(pub String);

impl SourceError {
    /// From any error, by its text.
    pub fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Where routes, keys and entitlements come from.
#[async_trait]
pub trait SnapshotSource: Send + Sync {
    /// What changed after `version` (0: everything there is), or the oldest part of it. `ledger` names the asking gateway, so that
    /// `shipped_through` can be its own; both are read in one transaction with `used`.
    ///
    /// # Errors
    /// When the control plane cannot be reached.
    async fn changes_since(&self, ledger: &str, version: i64) -> Result<Changes, SourceError>;

    /// What is used now of everything that the records of these parts of other ledgers counted in, at most
    /// [`model::snapshot::COUNTED_MOST`] records in all; the counts and `shipped_through` of the asking gateway's `ledger` are read in
    /// one transaction.
    ///
    /// # Errors
    /// When the control plane cannot be reached.
    async fn counts(&self, ledger: &str, parts: &[LedgerPart]) -> Result<Counts, SourceError>;

    /// Grants leases, and takes back what is given back ([`model::lease`] has the rule). A question whose turn is not the next
    /// one is refused.
    ///
    /// # Errors
    /// When the control plane cannot be reached, or grants no leases.
    async fn lease(&self, _ask: &LeaseAsk) -> Result<LeaseAnswer, SourceError> {
        Err(SourceError::new("no leases are granted here"))
    }

    /// Returns when something may have changed. It may return too often and it may miss a change: the gateway asks
    /// from time to time whatever it says. The future is dropped and made anew between questions, so a notice that
    /// comes meanwhile must be kept for the next call (as a `PgListener` or a `tokio::sync::Notify` does); and while the
    /// way to the notices is broken it must wait, not return at once.
    async fn hint(&self);
}

/// Where finished requests go.
#[async_trait]
pub trait UsageSink: Send + Sync {
    /// Takes a batch: the aggregates, the rows and the cursor in one transaction. Records at or before the cursor
    /// are passed over, so that a batch sent twice counts once. Who waits for it may stop waiting, and then ask for the
    /// cursor: what was begun must be whole or nothing all the same, also where it is done later.
    ///
    /// # Errors
    /// When it is unknown whether the batch was taken; it is sent again from the cursor.
    async fn ship(&self, batch: UsageBatch) -> Result<(), SourceError>;

    /// The cursor: the last sequence number taken from this ledger, 0 for a ledger never seen.
    ///
    /// # Errors
    /// When the control plane cannot be reached.
    async fn shipped_through(&self, ledger: &str) -> Result<u64, SourceError>;

    /// Nothing is used any more of what this ledger has leased beyond its record `seq`: its gateway has ended.
    ///
    /// # Errors
    /// When the control plane cannot be reached.
    async fn end_leases(&self, _ledger: &str, _seq: u64) -> Result<(), SourceError> {
        Ok(())
    }
}
