//! The database: the one named, or the private one.

use crate::config::Storage;
use crate::output::Failure;
use domain::cluster::{Cluster, Durability};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use std::time::Duration;

/// Connections of one process: jobs, pages and the gateway's two tasks share them.
const MAX_CONNECTIONS: u32 = 20;
/// How long a page waits for a connection before it gives up.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest statement, and longest pause inside a transaction, in milliseconds.
const STATEMENT_TIMEOUT_MS: &str = "15000";

/// Longest wait at the end for statements under way, and for a database that has gone silent; it rolls back what is left.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Connections, and the private PostgreSQL when there is one.
pub(crate) struct Database {
    /// The pool.
    pub(crate) pool: PgPool,
    cluster: Option<Cluster>,
    owner: bool,
}

impl Database {
    /// Connects; starts the private PostgreSQL when none is named. `owner` stops it at the end even if it was found
    /// running (what a killed `serve` left behind); a short command leaves a running one alone.
    pub(crate) async fn open(storage: &Storage, owner: bool) -> Result<Self, Failure> {
        let (options, cluster) = match storage.url() {
            Some(url) => {
                // Other schemes would be taken for PostgreSQL's.
                if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
                    return Err(Failure(
                        "DATABASE_URL: postgres://user:password@host/database is wanted".to_owned(),
                    ));
                }
                let options: PgConnectOptions = url
                    .parse()
                    .map_err(|e: sqlx::Error| Failure(format!("DATABASE_URL is no PostgreSQL address: {e}")))?;
                (options, None)
            }
            None => {
                let folder = storage.data_dir.join("postgres");
                let cluster = Cluster::start(&folder, Durability::Full)
                    .await
                    .map_err(|e| Failure(e.to_string()))?;
                (cluster.options(), Some(cluster))
            }
        };
        let options = options.application_name("turnpike").options([
            ("statement_timeout", STATEMENT_TIMEOUT_MS),
            ("idle_in_transaction_session_timeout", STATEMENT_TIMEOUT_MS),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options);
        let owner = owner || cluster.as_ref().is_some_and(Cluster::started_here);
        Ok(Self { pool, cluster, owner })
    }

    /// Closes connections, and leaves the private PostgreSQL to the process that took over.
    pub(crate) async fn leave(self) {
        if tokio::time::timeout(CLOSE_LIMIT, self.pool.close()).await.is_err() {
            tracing::warn!("the database did not answer to the end: jobs under way are taken up again later");
        }
    }

    /// Closes connections and stops the private PostgreSQL if it is ours to stop.
    pub(crate) async fn close(mut self) {
        let cluster = self.cluster.take().filter(|_| self.owner);
        self.leave().await;
        if let Some(cluster) = cluster
            && let Err(error) = tokio::task::spawn_blocking(move || cluster.stop())
                .await
                .unwrap_or(Ok(()))
        {
            tracing::error!(error = error.to_string(), "the private PostgreSQL did not stop");
        }
    }
}

/// Brings the schema up to date; refuses a schema newer than this program.
pub(crate) async fn migrate(pool: &PgPool) -> Result<(), Failure> {
    domain::MIGRATIONS.run(pool).await.map_err(|e| match e {
        sqlx::migrate::MigrateError::VersionMissing(version) => {
            Failure(format!("the database was migrated by a newer turnpike (migration {version} is unknown to this one): use that version"))
        }
        other => Failure(format!("cannot migrate the database: {other}")),
    })
}
