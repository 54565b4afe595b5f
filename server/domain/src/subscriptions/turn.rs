//! Whose turn it is: one at a time asks Stripe about a consumer and writes the answer.

use crate::{Domain, Result, locks};
use model::ConsumerId;
use sqlx::{PgConnection, Postgres, Transaction};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Turns under way at once in this process. Each keeps a connection while Stripe answers and needs others meanwhile; were
/// there as many turns as connections, they would wait for one another.
static TURNS: Semaphore = Semaphore::const_new(6);

/// A transaction that holds the consumer's turn until it ends. Not the consumer's row lock: that would keep pages
/// waiting for as long as Stripe takes to answer.
pub(crate) struct Turn {
    transaction: Transaction<'static, Postgres>,
    consumer: ConsumerId,
    _permit: SemaphorePermit<'static>,
}

impl Turn {
    /// Waits for the consumer's turn.
    pub(crate) async fn take(domain: &Domain, consumer: ConsumerId) -> Result<Self> {
        let permit = TURNS.acquire().await.map_err(crate::DomainError::internal)?;
        let mut transaction = domain.pool.begin().await?;
        locks::wait_for_stripe(&mut transaction).await?;
        sqlx::query!(
            "SELECT pg_advisory_xact_lock($1, hashtext($2))",
            locks::TURN,
            consumer.to_string()
        )
        .fetch_one(&mut *transaction)
        .await?;
        Ok(Self {
            transaction,
            consumer,
            _permit: permit,
        })
    }
    /// Whose turn it is.
    pub(crate) fn consumer(&self) -> ConsumerId {
        self.consumer
    }
    /// Its connection.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
    /// Keeps what was written and lets the next one in.
    pub(crate) async fn commit(self) -> Result<()> {
        self.transaction.commit().await?;
        Ok(())
    }
}
