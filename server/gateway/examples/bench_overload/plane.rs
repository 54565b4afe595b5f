//! A control plane with two consumers, one on a lower and one on a higher plan.

use async_trait::async_trait;
use gateway::{Peppers, SnapshotSource, SourceError, UsageSink};
use model::access::{Environment, Method};
use model::catalogue::RateLimit;
use model::key::PlainKey;
use model::policy::{RoutePolicy, UpstreamPolicy};
use model::snapshot::{
    Changes, Counts, Entitlement, FeatureLife, KeyRecord, LedgerPart, MeterRecord, RouteRecord, Routing, UpstreamRecord,
};
use model::usage::UsageBatch;
use model::{Clock, ConsumerId, Currency, KeyId, Period, Random, Time};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

pub(crate) struct Machine;
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
pub(crate) struct Seeded(AtomicU64);
impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}
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

pub(crate) struct Plane {
    changes: Changes,
    shipped: AtomicU64,
    pub(crate) lower: String,
    pub(crate) higher: String,
}

impl Plane {
    pub(crate) fn new(upstream: SocketAddr, bound: Option<u32>) -> Self {
        let random = Seeded::new(1);
        let mut changes = Changes {
            version: 1,
            routing: Some(routing(upstream, bound)),
            ..Changes::default()
        };
        let mut consumer = |number: u128, priority| {
            let key = PlainKey::generate("tp", Environment::Live, &random);
            let id = ConsumerId::from_bits(number);
            changes.entitlements.push(entitlement(id, priority));
            changes.keys.push(KeyRecord {
                id: KeyId::from_bits(number),
                lookup: key.lookup().0,
                mac: Peppers::new([(1, b"bench")])
                    .mac(1, key.reveal().as_bytes())
                    .unwrap_or_default(),
                pepper: 1,
                consumer: id,
                environment: Environment::Live,
                revoked: false,
                expires_at: None,
                routes: None,
                limits: None,
            });
            key.reveal().to_owned()
        };
        let (lower, higher) = (consumer(1, 0), consumer(2, 5));
        Self {
            changes,
            shipped: AtomicU64::new(0),
            lower,
            higher,
        }
    }
}

fn routing(upstream: SocketAddr, bound: Option<u32>) -> Routing {
    Routing {
        upstreams: vec![UpstreamRecord {
            number: 1,
            slug: "bench".to_owned(),
            url: format!("http://{upstream}"),
            first_byte_timeout_ms: 30_000,
            idle_timeout_ms: 60_000,
            policy: UpstreamPolicy {
                max_in_flight: bound,
                ..UpstreamPolicy::default()
            },
        }],
        routes: vec![RouteRecord {
            number: 1,
            slug: "bench".to_owned(),
            methods: vec![Method::Get],
            path: "/bench".to_owned(),
            upstream: 1,
            meter: 1,
            weight: 1,
            feature: None,
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

fn entitlement(consumer: ConsumerId, priority: u8) -> Entitlement {
    let start = Machine.now();
    Entitlement {
        consumer,
        environment: Environment::Live,
        subscription: None,
        plan_version: None,
        plan: format!("priority-{priority}"),
        suspended: None,
        features: Vec::new(),
        feature_life: FeatureLife::default(),
        rate_limit: RateLimit {
            per_second: 1_000_000,
            burst: 1_000_000,
        },
        limits: Vec::new(),
        concurrency: None,
        priority,
        cache_hits: model::catalogue::CacheHits::Counted,
        period: Period {
            start,
            end: start.plus_s(86_400),
        },
        meters: Vec::new(),
        currency: Currency::USD,
        spend_cap_minor: None,
        external_id: None,
        settled_minor: 0,
        overrides: Vec::new(),
    }
}

#[async_trait]
impl SnapshotSource for Plane {
    async fn changes_since(&self, _: &str, version: i64) -> Result<Changes, SourceError> {
        if version >= self.changes.version {
            return Ok(Changes {
                version,
                ..Changes::default()
            });
        }
        Ok(self.changes.clone())
    }
    async fn counts(&self, _: &str, _: &[LedgerPart]) -> Result<Counts, SourceError> {
        Ok(Counts::default())
    }
    async fn hint(&self) {
        std::future::pending::<()>().await;
    }
}

#[async_trait]
impl UsageSink for Plane {
    async fn ship(&self, batch: UsageBatch) -> Result<(), SourceError> {
        self.shipped
            .store(batch.records.last().map_or(0, |r| r.seq), Ordering::Relaxed);
        Ok(())
    }
    async fn shipped_through(&self, _: &str) -> Result<u64, SourceError> {
        Ok(self.shipped.load(Ordering::Relaxed))
    }
}
