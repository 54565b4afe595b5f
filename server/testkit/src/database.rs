//! A database per test, cloned from a migrated template in a cluster that the test run throws away.
//!
//! Test binaries run side by side and share one cluster under `TURNPIKE_TEST_CLUSTER` (set by `./dev test`), or a
//! folder in the target directory. The template's name carries a checksum of the migrations.

use domain::cluster::{Cluster, Durability};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A fresh database with the whole schema; dropped with the value.
pub struct Database {
    pool: PgPool,
    name: String,
    cluster: Cluster,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn folder() -> PathBuf {
    std::env::var_os("TURNPIKE_TEST_CLUSTER").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/test-postgres")),
        PathBuf::from,
    )
}

async fn execute(options: &PgConnectOptions, sql: String) -> Result<(), sqlx::Error> {
    let mut connection = options.connect().await?;
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await?;
    connection.close().await
}

impl Database {
    /// A new one.
    ///
    /// # Panics
    /// When there is no PostgreSQL or it refuses.
    pub async fn new() -> Self {
        let cluster = start_once().await;
        let template = ensure_template(&cluster).await;
        let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let admin = cluster.connect_to("postgres");
        execute(&admin, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            .await
            .unwrap();
        execute(&admin, format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .await
            .expect("a database for the test");
        let pool = PgPoolOptions::new()
            .max_connections(12)
            .connect_with(cluster.connect_to(&name))
            .await
            .unwrap();
        Self { pool, name, cluster }
    }

    /// Connections to it.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// How to connect to it.
    pub fn options(&self) -> PgConnectOptions {
        self.cluster.connect_to(&self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (admin, name) = (self.cluster.connect_to("postgres"), self.name.clone());
        // A thread of its own: the test's runtime may be ending.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            runtime.block_on(execute(&admin, sql)).map_err(std::io::Error::other)
        });
        drop(dropped.join());
    }
}

/// Starts the cluster unless it runs. Processes take turns by a lock file, threads by a mutex.
async fn start_once() -> Cluster {
    static LOCAL: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _local = LOCAL.lock().await;
    let folder = folder();
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    Cluster::start(&folder, Durability::None)
        .await
        .unwrap_or_else(|e| panic!("{e}"))
}

async fn ensure_template(cluster: &Cluster) -> String {
    let sum = domain::MIGRATIONS.iter().fold(0u32, |sum, m| {
        model::key::crc32(&[&sum.to_le_bytes(), &*m.checksum].concat())
    });
    let template = format!("template_{sum:08x}");
    let admin = cluster.connect_to("postgres");
    let mut connection = admin.connect().await.unwrap();
    // One maker at a time, whatever process it is in.
    sqlx::query("SELECT pg_advisory_lock(7770002)")
        .execute(&mut connection)
        .await
        .unwrap();
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&template)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    if !there {
        let making = format!("{template}_making");
        execute(&admin, format!("DROP DATABASE IF EXISTS {making} WITH (FORCE)"))
            .await
            .unwrap();
        execute(&admin, format!("CREATE DATABASE {making}")).await.unwrap();
        let mut migrating = cluster.connect_to(&making).connect().await.unwrap();
        domain::MIGRATIONS
            .run(&mut migrating)
            .await
            .expect("the migrations apply");
        migrating.close().await.unwrap();
        execute(&admin, format!("ALTER DATABASE {making} RENAME TO {template}"))
            .await
            .unwrap();
    }
    connection.close().await.unwrap();
    template
}
