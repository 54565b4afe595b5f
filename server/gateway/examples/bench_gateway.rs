//! A gateway with everything on and a control plane in memory, for benchmarks: no PostgreSQL, no portal.
//!
//! `bench_gateway LISTEN UPSTREAM FOLDER KEYS THREADS` listens, forwards `/bench/{*rest}` and writes its keys to
//! `FOLDER/keys`, one a line; then it prints `ready` with the time it took to load the keys from the source and, when the
//! folder holds a stored snapshot from an earlier run, from disk.

use async_trait::async_trait;
use gateway::{Config, Gateway, Peppers, SnapshotSource, SourceError, UsageSink};
use model::access::{Environment, Method};
use model::catalogue::{MeterTerms, RateLimit};
use model::key::PlainKey;
use model::policy::{RoutePolicy, UpstreamPolicy};
use model::snapshot::{
    Changes, Counts, Entitlement, FeatureLife, KeyRecord, LedgerPart, MeterEntitlement, MeterRecord, RouteRecord,
    Routing, UpstreamRecord,
};
use model::usage::UsageBatch;
use model::{Clock, ConsumerId, Currency, KeyId, Period, Random, Time};
use std::error::Error;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

struct Machine;
impl Clock for Machine {
    #[expect(clippy::disallowed_methods, reason = "this is where the time comes from")]
    fn now(&self) -> Time {
        let since = std::time::SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Time::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(0))
    }
}

/// Repeatable: a benchmark's keys are no secrets.
struct Seeded(AtomicU64);
impl Random for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        for b in bytes {
            let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            *b = (z ^ (z >> 31)).to_le_bytes()[0];
        }
    }
}

/// Says everything once and keeps nothing, so that what the process holds then is the gateway's.
struct Source(Mutex<Option<Changes>>);

#[async_trait]
impl SnapshotSource for Source {
    async fn changes_since(&self, _: &str, version: i64) -> Result<Changes, SourceError> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(kept.filter(|_| version == 0).unwrap_or(Changes {
            version,
            ..Changes::default()
        }))
    }
    async fn counts(&self, _: &str, _: &[LedgerPart]) -> Result<Counts, SourceError> {
        Ok(Counts::default())
    }
    async fn hint(&self) {
        std::future::pending::<()>().await;
    }
}

/// Takes everything, keeps the cursor.
struct Sink(AtomicU64);

#[async_trait]
impl UsageSink for Sink {
    async fn ship(&self, batch: UsageBatch) -> Result<(), SourceError> {
        self.0
            .store(batch.records.last().map_or(0, |r| r.seq), Ordering::Relaxed);
        Ok(())
    }
    async fn shipped_through(&self, _: &str) -> Result<u64, SourceError> {
        Ok(self.0.load(Ordering::Relaxed))
    }
}

fn routing(upstream: &str) -> Routing {
    Routing {
        upstreams: vec![UpstreamRecord {
            number: 1,
            slug: "bench".to_owned(),
            url: format!("http://{upstream}"),
            first_byte_timeout_ms: 30_000,
            idle_timeout_ms: 60_000,
            policy: UpstreamPolicy::default(),
        }],
        routes: vec![RouteRecord {
            number: 1,
            slug: "bench".to_owned(),
            methods: vec![Method::Get],
            path: "/bench/{*rest}".to_owned(),
            upstream: 1,
            meter: 1,
            weight: 1,
            feature: Some("bench".to_owned()),
            policy: RoutePolicy::default(),
        }],
        meters: vec![MeterRecord {
            number: 1,
            slug: "calls".to_owned(),
            statuses: vec!["2xx".to_owned()],
        }],
        portal_url: "http://localhost".to_owned(),
        gateway_url: String::new(),
        anonymous_plans: Vec::new(),
        token_plans: Vec::new(),
        issuers: Vec::new(),
    }
}

fn entitlement(consumer: ConsumerId, now: Time) -> Entitlement {
    Entitlement {
        consumer,
        environment: Environment::Live,
        external_id: None,
        subscription: None,
        plan_version: None,
        plan: "bench".to_owned(),
        suspended: None,
        features: vec!["bench".to_owned()],
        feature_life: FeatureLife::default(),
        rate_limit: RateLimit {
            per_second: 1_000_000,
            burst: 1_000_000,
        },
        limits: Vec::new(),
        concurrency: None,
        priority: 0,
        cache_hits: model::catalogue::CacheHits::Counted,
        period: Period {
            start: now.plus_s(-3600),
            end: now.plus_s(30 * 86_400),
        },
        meters: vec![MeterEntitlement::unused(
            1,
            MeterTerms {
                meter: "calls".to_owned(),
                included: u64::MAX / 2,
                ..MeterTerms::default()
            },
        )],
        currency: Currency::USD,
        spend_cap_minor: Some(1_000_000),
        settled_minor: 0,
        overrides: Vec::new(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, listen, upstream, folder, keys, threads] = args.as_slice() else {
        return Err("bench_gateway LISTEN UPSTREAM FOLDER KEYS THREADS".into());
    };
    let peppers = Peppers::new([(1, b"bench")]);
    let random = Seeded(AtomicU64::new(1));
    let (count, now) = (keys.parse::<u128>()?, Machine.now());
    let mut changes = Changes {
        version: 1,
        routing: Some(routing(upstream)),
        ..Changes::default()
    };
    std::fs::create_dir_all(folder)?;
    let mut listed = std::io::BufWriter::new(std::fs::File::create(format!("{folder}/keys"))?);
    for n in 0..count {
        let key = PlainKey::generate("tp", Environment::Live, &random);
        writeln!(listed, "{}", key.reveal())?;
        // Ten keys a consumer.
        let consumer = ConsumerId::from_bits(n / 10 + 1);
        if n % 10 == 0 {
            changes.entitlements.push(entitlement(consumer, now));
        }
        changes.keys.push(KeyRecord {
            id: KeyId::from_bits(n + 1),
            lookup: key.lookup().0,
            mac: peppers.mac(1, key.reveal().as_bytes()).unwrap_or_default(),
            pepper: 1,
            consumer,
            environment: Environment::Live,
            revoked: false,
            expires_at: None,
            routes: None,
            limits: None,
        });
    }
    listed.flush()?;
    let mut out = std::io::stdout().lock();
    let mut config = Config::new(listen.parse()?, folder.into());
    config.threads = threads.parse()?;
    let begun = Instant::now();
    let running = Gateway::start(
        config,
        Arc::new(Source(Mutex::new(Some(changes)))),
        Arc::new(Sink(AtomicU64::new(0))),
        Arc::new(Machine),
        Arc::new(random),
        peppers,
    )?;
    writeln!(
        out,
        "from disk: version {} in {:?}",
        running.snapshot_version(),
        begun.elapsed()
    )?;
    while running.snapshot_version() < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    writeln!(out, "ready {:?}", begun.elapsed())?;
    out.flush()?;
    tokio::signal::ctrl_c().await?;
    running.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
