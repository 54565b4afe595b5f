//! A gateway between a raw client and a recording upstream, and a control plane that can go away.

use crate::granting::{Granting, Known};
use async_trait::async_trait;
use gateway::{Config, Gateway, Peppers, Running, SnapshotSource, SourceError, UsageSink};
use model::access::{Environment, Method};
use model::catalogue::{CacheHits, MeterTerms, RateLimit};
use model::key::PlainKey;
use model::lease::{LeaseAnswer, LeaseAsk, LeaseSubject};
use model::policy::{RoutePolicy, UpstreamPolicy};
use model::price::{Overage, OverageTier, TierModel};
use model::snapshot::*;
use model::usage::{UsageBatch, UsageRecord};
use model::*;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// 2026-11-01 00:00 UTC: the first period's start.
pub(crate) const START_MS: i64 = 1_793_491_200_000;
pub(crate) const DAY_MS: i64 = 86_400_000;
pub(crate) const PORTAL: &str = "https://portal.example";
pub(crate) const PEPPER: &[u8] = b"a pepper for tests";

/// Milliseconds since 1970, how many of them are jumps of the machine's clock, and how far that is said to be ahead of the
/// database's.
pub(crate) struct TestClock(AtomicI64, AtomicI64, AtomicI64);
impl Clock for TestClock {
    fn now(&self) -> Time {
        Time::from_unix_ms(self.0.load(Ordering::SeqCst))
    }
    fn steady_ns(&self) -> u64 {
        let steady = self.0.load(Ordering::SeqCst) - self.1.load(Ordering::SeqCst);
        u64::try_from(steady).unwrap() * 1_000_000
    }
    fn skew_ms(&self) -> i64 {
        self.2.load(Ordering::SeqCst)
    }
}
impl TestClock {
    pub(crate) fn at(ms: i64) -> Self {
        Self(AtomicI64::new(ms), AtomicI64::new(0), AtomicI64::new(0))
    }
    /// Says how far it is ahead of the database's.
    pub(crate) fn set_skew_ms(&self, skew_ms: i64) {
        self.2.store(skew_ms, Ordering::SeqCst);
    }
    /// Time goes by.
    pub(crate) fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
    /// Somebody sets the machine's clock; no time goes by.
    pub(crate) fn jump(&self, ms: i64) {
        self.1.fetch_add(ms, Ordering::SeqCst);
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

pub(crate) struct Seeded(pub(crate) AtomicU64);
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

#[derive(Default)]
struct State {
    version: i64,
    routing: (i64, Routing),
    keys: HashMap<u64, (i64, KeyRecord)>,
    entitlements: HashMap<(ConsumerId, Environment), (i64, Entitlement)>,
    purges: Vec<(i64, Purge)>,
    ledgers: HashMap<String, Vec<UsageRecord>>,
    leases: Granting,
}

impl State {
    fn shipped_through(&self, ledger: &str) -> u64 {
        let rows = self.ledgers.get(ledger);
        rows.and_then(|rows| rows.last()).map_or(0, |r| r.seq)
    }
    /// Units in the records of all ledgers that `include` takes.
    fn units(&self, include: impl FnMut(&&UsageRecord) -> bool) -> u64 {
        let rows = self.ledgers.values().flatten();
        rows.filter(include).map(|r| u64::from(r.units)).sum()
    }
}

/// Whether both count in the same meter and period.
fn is_like(one: &UsageRecord, other: &UsageRecord) -> bool {
    (one.meter, one.period_start) == (other.meter, other.period_start)
}

/// Control plane and usage store in memory. Each ledger's rows are kept; a gap or a repeat fails the test.
#[derive(Default)]
pub(crate) struct Plane {
    state: Mutex<State>,
    pub(crate) away: AtomicBool,
    /// Take the batch, then claim to have failed: an answer lost on the way.
    pub(crate) lose_answers: AtomicBool,
    /// Most keys and entitlements in an answer; 0 for any number.
    pub(crate) most: AtomicUsize,
    /// Answers given.
    pub(crate) answers: AtomicUsize,
    /// It goes away after so many answers; 0 for never.
    pub(crate) away_after: AtomicUsize,
    /// What an answer takes, in milliseconds.
    pub(crate) slow_ms: AtomicU64,
    /// Fail to say what others count.
    pub(crate) counts_away: AtomicBool,
    /// Questions for what others count.
    pub(crate) counts_asked: AtomicU64,
    /// Ledgers whose gateways it does not hear.
    pub(crate) cut_off: Mutex<HashSet<String>>,
    /// Ledgers whose gateways do not hear its answers for leases.
    pub(crate) deaf: Mutex<HashSet<String>>,
    hint: Notify,
}

impl Plane {
    fn here(&self) -> Result<(), SourceError> {
        if self.away.load(Ordering::SeqCst) {
            Err(SourceError("away".to_owned()))
        } else {
            Ok(())
        }
    }
    fn hears(&self, ledger: &str) -> Result<(), SourceError> {
        self.here()?;
        if self.cut_off.lock().unwrap().contains(ledger) {
            return Err(SourceError("cut off".to_owned()));
        }
        Ok(())
    }
    /// What a subject's ceilings let happen, with what is used.
    pub(crate) fn leased(&self, subject: &LeaseSubject) -> u64 {
        self.state.lock().unwrap().leases.open(subject)
    }
    fn change(&self, f: impl FnOnce(&mut State, i64)) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let version = state.version;
        f(&mut state, version);
        drop(state);
        self.hint.notify_one();
    }
    pub(crate) fn put_routing(&self, routing: Routing) {
        self.change(|s, v| s.routing = (v, routing));
    }
    pub(crate) fn put_key(&self, key: KeyRecord) {
        self.change(|s, v| drop(s.keys.insert(key.lookup, (v, key))));
    }
    pub(crate) fn put_entitlement(&self, e: Entitlement) {
        self.change(|s, v| drop(s.entitlements.insert((e.consumer, e.environment), (v, e))));
    }
    pub(crate) fn purge(&self, purge: Purge) {
        self.change(|s, v| s.purges.push((v, purge)));
    }
    pub(crate) fn edit_key(&self, lookup: u64, f: impl FnOnce(&mut KeyRecord)) {
        self.change(|s, v| {
            let slot = s.keys.get_mut(&lookup).unwrap();
            slot.0 = v;
            f(&mut slot.1);
        });
    }
    pub(crate) fn edit_entitlement(&self, consumer: ConsumerId, f: impl FnOnce(&mut Entitlement)) {
        self.change(|s, v| {
            let slot = s.entitlements.get_mut(&(consumer, Environment::Live)).unwrap();
            slot.0 = v;
            f(&mut slot.1);
        });
    }
    /// Another gateway counts units; that makes no new version.
    pub(crate) fn count_elsewhere(&self, consumer: ConsumerId, units: u64) {
        let mut state = self.state.lock().unwrap();
        let told = state.entitlements.get_mut(&(consumer, Environment::Live)).unwrap();
        told.1.meters[0].used += units;
    }
    /// What was shipped is gone, as when a database is set back.
    pub(crate) fn lose_usage(&self) {
        self.state.lock().unwrap().ledgers.clear();
    }
    pub(crate) fn key_id(&self, lookup: u64) -> KeyId {
        let state = self.state.lock().unwrap();
        state.keys.get(&lookup).unwrap().1.id
    }
    pub(crate) fn version(&self) -> i64 {
        self.state.lock().unwrap().version
    }
    /// All rows of all ledgers.
    pub(crate) fn rows(&self) -> Vec<UsageRecord> {
        self.state.lock().unwrap().ledgers.values().flatten().cloned().collect()
    }
}

#[async_trait]
impl SnapshotSource for Plane {
    async fn changes_since(&self, ledger: &str, version: i64) -> Result<Changes, SourceError> {
        self.hears(ledger)?;
        let last = self.away_after.load(Ordering::SeqCst);
        if last > 0 && self.answers.load(Ordering::SeqCst) >= last {
            return Err(SourceError("away".to_owned()));
        }
        let slow = Duration::from_millis(self.slow_ms.load(Ordering::SeqCst));
        tokio::time::sleep(slow).await;
        self.answers.fetch_add(1, Ordering::SeqCst);
        let s = self.state.lock().unwrap();
        let mut versions: Vec<i64> = s.keys.values().map(|k| k.0).collect();
        versions.extend(s.entitlements.values().map(|e| e.0));
        versions.retain(|v| *v > version);
        versions.sort_unstable();
        let most = self.most.load(Ordering::SeqCst);
        let left_out = versions.get(most).filter(|_| most > 0);
        let through = left_out.map_or(s.version, |v| v - 1);
        let told = |v: i64| v > version && v <= through;
        let mut entitlements: Vec<Entitlement> = s
            .entitlements
            .values()
            .filter(|e| told(e.0))
            .map(|e| e.1.clone())
            .collect();
        for e in &mut entitlements {
            for m in &mut e.meters {
                let mine = |r: &&UsageRecord| {
                    r.consumer == e.consumer
                        && r.environment == e.environment
                        && r.meter == m.meter
                        && r.period_start == e.period.start
                };
                m.used += s.units(mine);
            }
        }
        let others = s.ledgers.keys().filter(|name| *name != ledger);
        let others = others.map(|name| LedgerEnd {
            ledger: name.clone(),
            shipped_through: s.shipped_through(name),
            leases: None,
        });
        Ok(Changes {
            version: through,
            more: left_out.is_some(),
            routing: told(s.routing.0).then(|| s.routing.1.clone()),
            keys: s.keys.values().filter(|k| told(k.0)).map(|k| k.1.clone()).collect(),
            entitlements,
            purges: s.purges.iter().filter(|p| told(p.0)).map(|p| p.1.clone()).collect(),
            shipped_through: s.shipped_through(ledger),
            others: others.collect(),
        })
    }
    async fn counts(&self, ledger: &str, parts: &[LedgerPart]) -> Result<Counts, SourceError> {
        self.hears(ledger)?;
        self.counts_asked.fetch_add(1, Ordering::SeqCst);
        if self.counts_away.load(Ordering::SeqCst) {
            return Err(SourceError("no counts".to_owned()));
        }
        let s = self.state.lock().unwrap();
        let told = |p: &LedgerPart| {
            let rows = s.ledgers.get(&p.ledger).into_iter().flatten();
            let (after, through) = (p.after, p.through);
            rows.filter(move |r| r.units > 0 && after < r.seq && r.seq <= through)
        };
        let mut counts = Counts {
            shipped_through: s.shipped_through(ledger),
            ..Counts::default()
        };
        for r in parts.iter().flat_map(told) {
            let base = s.entitlements.get(&(r.consumer, r.environment));
            let base = base.filter(|(_, e)| e.period.start == r.period_start);
            let base = base.and_then(|(_, e)| e.meters.iter().find(|m| m.meter == r.meter));
            let of_consumer =
                |o: &&UsageRecord| is_like(o, r) && o.consumer == r.consumer && o.environment == r.environment;
            counts.meters.push(MeterCount {
                consumer: r.consumer,
                environment: r.environment,
                meter: r.meter,
                period_start: r.period_start,
                used: base.map_or(0, |m| m.used) + s.units(of_consumer),
            });
            let root = |k: &KeyRecord| k.limits.as_ref().map(|limits| limits.root.unwrap_or(k.id));
            if let Some((lookup, root_id)) = s.keys.values().find_map(|(_, k)| {
                let root = root(k).filter(|_| k.id == r.key)?;
                Some((k.lookup, root))
            }) {
                let of_chain = |id: KeyId| s.keys.values().any(|(_, k)| k.id == id && root(k) == Some(root_id));
                counts.keys.push(KeyCount {
                    root: root_id,
                    lookup,
                    meter: r.meter,
                    period_start: r.period_start,
                    used: s.units(|o| is_like(o, r) && of_chain(o.key)),
                });
            }
        }
        Ok(counts)
    }
    async fn lease(&self, ask: &LeaseAsk) -> Result<LeaseAnswer, SourceError> {
        self.hears(&ask.ledger)?;
        let mut s = self.state.lock().unwrap();
        let mut leases = std::mem::take(&mut s.leases);
        let known = Known {
            ledgers: &s.ledgers,
            entitlements: &s.entitlements,
            keys: &s.keys,
        };
        let answer = leases.answer(&known, ask);
        s.leases = leases;
        if self.deaf.lock().unwrap().contains(&ask.ledger) {
            return Err(SourceError("the answer was lost".to_owned()));
        }
        answer.map_err(SourceError::new)
    }
    async fn hint(&self) {
        self.hint.notified().await;
    }
}

#[async_trait]
impl UsageSink for Plane {
    async fn end_leases(&self, ledger: &str, seq: u64) -> Result<(), SourceError> {
        self.hears(ledger)?;
        let mut s = self.state.lock().unwrap();
        let through = s.shipped_through(ledger);
        s.leases.end(ledger, seq);
        s.leases.reached(ledger, through);
        Ok(())
    }
    async fn ship(&self, batch: UsageBatch) -> Result<(), SourceError> {
        self.hears(&batch.ledger)?;
        let mut s = self.state.lock().unwrap();
        let rows = s.ledgers.entry(batch.ledger.clone()).or_default();
        for r in &batch.records {
            let last = rows.last().map_or(0, |r| r.seq);
            assert_eq!(r.seq, last + 1, "records come in order, without gaps and repeats");
            rows.push(r.clone());
        }
        let through = s.shipped_through(&batch.ledger);
        let keys = std::mem::take(&mut s.keys);
        s.leases.count(&batch.ledger, &batch.records, &keys);
        s.keys = keys;
        s.leases.reached(&batch.ledger, through);
        if self.lose_answers.swap(false, Ordering::SeqCst) {
            return Err(SourceError("the answer was lost".to_owned()));
        }
        Ok(())
    }
    async fn shipped_through(&self, ledger: &str) -> Result<u64, SourceError> {
        self.hears(ledger)?;
        Ok(self.state.lock().unwrap().shipped_through(ledger))
    }
}

/// A folder that goes with the test.
pub(crate) struct Folder(pub(crate) PathBuf);
impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gateway-test-{}-{n}", std::process::id()));
        // A run that was killed may have left one under the same number.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn meter(number: u16, included: u64, unit_minor: Option<&str>) -> MeterEntitlement {
    let overage = unit_minor.map(|unit| Overage {
        model: TierModel::Graduated,
        package_units: 1,
        tiers: vec![OverageTier {
            up_to: None,
            unit_minor: unit.parse().unwrap(),
        }],
    });
    MeterEntitlement::unused(
        number,
        MeterTerms {
            meter: format!("meter-{number}"),
            included,
            overage,
            ..MeterTerms::default()
        },
    )
}

pub(crate) fn entitlement(consumer: ConsumerId) -> Entitlement {
    let start = Time::from_unix_ms(START_MS);
    Entitlement {
        consumer,
        environment: Environment::Live,
        external_id: None,
        subscription: Some(SubscriptionId::from_bits(71)),
        plan_version: Some(PlanVersionId::from_bits(72)),
        plan: "pro".to_owned(),
        suspended: None,
        features: vec!["search".to_owned(), "bulk".to_owned()],
        feature_life: FeatureLife::default(),
        rate_limit: RateLimit {
            per_second: 100,
            burst: 10_000,
        },
        limits: Vec::new(),
        concurrency: None,
        priority: 0,
        cache_hits: CacheHits::default(),
        period: Period {
            start,
            end: start.plus_ms(30 * DAY_MS),
        },
        meters: vec![meter(1, 1_000_000, None)],
        currency: Currency::USD,
        spend_cap_minor: None,
        settled_minor: 0,
        overrides: Vec::new(),
    }
}

pub(crate) fn key_record(key: &PlainKey, consumer: ConsumerId) -> KeyRecord {
    KeyRecord {
        id: KeyId::from_bits(u128::from(key.lookup().0)),
        lookup: key.lookup().0,
        mac: Peppers::new([(1, PEPPER)]).mac(1, key.reveal().as_bytes()).unwrap(),
        pepper: 1,
        consumer,
        environment: key.environment(),
        revoked: false,
        expires_at: None,
        routes: None,
        limits: None,
    }
}

fn route(number: u16, slug: &str, methods: &[Method], path: &str) -> RouteRecord {
    RouteRecord {
        number,
        slug: slug.to_owned(),
        methods: methods.to_vec(),
        path: path.to_owned(),
        upstream: 1,
        meter: 1,
        weight: 1,
        feature: None,
        policy: RoutePolicy::default(),
    }
}

/// Routes used by all tests; `/v1/...` answers as the path says (see [`Upstream`]).
pub(crate) fn routing(upstream: SocketAddr) -> Routing {
    let service = |number, slug: &str, port: u16, first_byte_timeout_ms| UpstreamRecord {
        number,
        slug: slug.to_owned(),
        url: format!("http://127.0.0.1:{port}"),
        first_byte_timeout_ms,
        idle_timeout_ms: 10_000,
        policy: UpstreamPolicy::default(),
    };
    let all = [Method::Get, Method::Post, Method::Put, Method::Delete];
    let mut routes = vec![
        route(1, "all", &all, "/v1/{*rest}"),
        route(2, "heavy", &[Method::Get], "/heavy"),
        route(3, "export", &[Method::Get], "/export"),
        route(4, "other", &[Method::Get], "/other"),
        route(5, "down", &[Method::Get], "/down"),
        route(6, "slow", &[Method::Get], "/slow/{*rest}"),
        route(7, "post-only", &[Method::Post], "/post-only"),
        route(8, "search", &[Method::Get], "/search/{id}"),
        route(9, "search-delete", &[Method::Delete], "/search/{code}"),
    ];
    routes[1].weight = 5;
    routes[2].feature = Some("export".to_owned());
    routes[3].meter = 2;
    routes[4].upstream = 2;
    routes[5].upstream = 3;
    routes[7].feature = Some("search".to_owned());
    let counted = |number| MeterRecord {
        number,
        slug: format!("meter-{number}"),
        statuses: vec!["2xx".to_owned(), "404".to_owned()],
    };
    Routing {
        upstreams: vec![
            service(1, "main", upstream.port(), 10_000),
            service(2, "down", 1, 1_000),
            service(3, "slow", upstream.port(), 100),
        ],
        routes,
        meters: vec![counted(1), counted(2)],
        portal_url: PORTAL.to_owned(),
        gateway_url: "https://gateway.example".to_owned(),
        anonymous_plans: Vec::new(),
        token_plans: Vec::new(),
        issuers: Vec::new(),
    }
}

/// Everything one test needs.
pub(crate) struct World {
    pub(crate) plane: Arc<Plane>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) upstream: Upstream,
    pub(crate) folder: Folder,
    pub(crate) gateway: Option<Running>,
    pub(crate) addr: SocketAddr,
    pub(crate) key: PlainKey,
    pub(crate) consumer: ConsumerId,
    pub(crate) random: Arc<Seeded>,
    /// Whether its gateways lease limits.
    leases: bool,
}

impl World {
    /// One consumer with one live key on the plan `pro`.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Entitlement)) -> Self {
        Self::made(change, false).await
    }

    /// With a gateway that leases limits.
    pub(crate) async fn leasing(change: impl FnOnce(&mut Entitlement)) -> Self {
        Self::made(change, true).await
    }

    async fn made(change: impl FnOnce(&mut Entitlement), leases: bool) -> Self {
        let random = Arc::new(Seeded(AtomicU64::new(7)));
        let consumer = ConsumerId::from_bits(1 << 80);
        let key = PlainKey::generate("tp", Environment::Live, &*random);
        let upstream = Upstream::start().await;
        let plane = Arc::new(Plane::default());
        let mut e = entitlement(consumer);
        change(&mut e);
        plane.put_routing(routing(upstream.addr));
        plane.put_entitlement(e);
        plane.put_key(key_record(&key, consumer));
        let mut world = Self {
            plane,
            clock: Arc::new(TestClock::at(START_MS + DAY_MS)),
            upstream,
            folder: Folder::new(),
            gateway: None,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            key,
            consumer,
            random,
            leases,
        };
        world.start();
        world.synced().await;
        world
    }

    /// Another gateway on the same control plane, with a clock of its own that says the same.
    pub(crate) async fn beside(&self) -> Self {
        let mut other = Self {
            plane: Arc::clone(&self.plane),
            clock: Arc::new(TestClock::at(self.clock.now().unix_ms())),
            upstream: Upstream::start().await,
            folder: Folder::new(),
            gateway: None,
            addr: self.addr,
            key: self.key.clone(),
            consumer: self.consumer,
            random: Arc::clone(&self.random),
            leases: self.leases,
        };
        other.start();
        other.synced().await;
        other
    }

    /// Milliseconds from now to then.
    pub(crate) fn clock_until(&self, then: Time) -> i64 {
        self.clock.now().ms_until(then)
    }

    pub(crate) fn start(&mut self) {
        let mut config = config(&self.folder.0);
        config.limits.segment_records = 64;
        config.leases = self.leases;
        self.start_with(config);
    }

    pub(crate) fn start_with(&mut self, config: Config) {
        self.try_start_with(config).unwrap();
    }

    pub(crate) fn try_start_with(&mut self, config: Config) -> Result<(), gateway::StartError> {
        let started = Gateway::start(
            config,
            Arc::clone(&self.plane) as Arc<dyn SnapshotSource>,
            Arc::clone(&self.plane) as Arc<dyn UsageSink>,
            Arc::clone(&self.clock) as Arc<dyn Clock>,
            Arc::clone(&self.random) as Arc<dyn Random>,
            Peppers::new([(1, PEPPER)]),
        )?;
        self.addr = started.local_addr();
        self.gateway = Some(started);
        Ok(())
    }

    pub(crate) async fn stop(&mut self) {
        self.gateway.take().unwrap().shutdown(Duration::from_secs(5)).await;
    }

    /// Waits until the gateway has what the control plane has.
    pub(crate) async fn synced(&self) {
        let wanted = self.plane.version();
        until(|| self.gateway.as_ref().unwrap().snapshot_version() >= wanted).await;
    }

    pub(crate) async fn shipped(&self) -> Vec<UsageRecord> {
        until(|| self.gateway.as_ref().unwrap().unshipped() == 0).await;
        self.plane.rows()
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(
            &format!(
                "GET {path} HTTP/1.1\r\nHost: api.example\r\nX-API-Key: {}\r\n",
                self.key.reveal()
            ),
            "",
        )
        .await
    }

    /// A head without its end, and a body; on a connection of its own.
    pub(crate) async fn send(&self, head: &str, body: &str) -> Reply {
        Reply::parse(&raw(self.addr, format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).await)
    }
}

pub(crate) fn config(folder: &Path) -> Config {
    let mut config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), folder.to_owned());
    config.threads = 2;
    config.limits.body_bytes = 64 << 10;
    config.limits.poll_interval = Duration::from_millis(500);
    config.limits.counts_interval = Duration::from_millis(50);
    config.limits.ship_interval = Duration::from_millis(20);
    config.limits.lease_idle = Duration::from_secs(1);
    config
}

/// Waits for a condition, failing after a time that no healthy run needs.
pub(crate) async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("what was waited for did not happen");
}

/// Sends bytes, reads until the gateway closes.
pub(crate) async fn raw(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut out = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut out)).await;
    if read.is_err() {
        panic!("the connection stayed open: {}", String::from_utf8_lossy(&out));
    }
    out
}

/// An answer as its bytes say.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("no head in {:?}", String::from_utf8_lossy(bytes));
        });
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|l| l.split_once(':').unwrap())
            .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
            .collect();
        Self {
            status,
            headers,
            body: bytes[end + 4..].to_vec(),
        }
    }
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|h| h.0 == name).map(|h| h.1.as_str())
    }
    /// The problem's slug, after checking its form.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(json["status"], self.status);
        assert_eq!(json["instance"].as_str(), self.header("x-request-id"));
        assert!(json["title"].is_string() && json["detail"].is_string());
        assert!(json["link"].as_str().unwrap().starts_with(PORTAL));
        json["type"]
            .as_str()
            .unwrap()
            .strip_prefix(&format!("{PORTAL}/problems/"))
            .unwrap()
            .to_owned()
    }
}

/// A raw TCP server that keeps every byte it is sent and answers as the last segments of the path say:
/// `ok`, `status/404`, `empty`, `chunked`, `sse`, `hang`, `close`, `once` (closes a connection that is used again),
/// `raw/<name>` (one of the hostile answers), anything else: `ok`.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Lets every open event stream send one more event.
    pub(crate) tick: Arc<tokio::sync::broadcast::Sender<String>>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tick = Arc::new(tokio::sync::broadcast::Sender::new(64));
        let (kept, ticks) = (Arc::clone(&seen), Arc::clone(&tick));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&kept), Arc::clone(&ticks)));
            }
        });
        Self { addr, seen, tick }
    }
    /// Requests as text, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .map(|b| String::from_utf8_lossy(b).into_owned())
            .collect()
    }
    pub(crate) fn last(&self) -> String {
        self.requests().pop().unwrap()
    }
}

/// Reads one request whole; its bytes, or none when the peer closed.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(length) = whole(buffer) {
            return Some(buffer.drain(..length).collect());
        }
        let mut chunk = [0u8; 8192];
        let n = stream.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        buffer.extend_from_slice(&chunk[..n]);
    }
}

fn whole(buffer: &[u8]) -> Option<usize> {
    let end = buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return buffer[end..]
            .windows(5)
            .position(|w| w == b"0\r\n\r\n")
            .map(|p| end + p + 5);
    }
    let length = head
        .split("content-length: ")
        .nth(1)
        .map_or(0, |l| l.split("\r\n").next().unwrap().parse().unwrap());
    (buffer.len() >= end + length).then_some(end + length)
}

async fn answer(
    mut stream: TcpStream,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    tick: Arc<tokio::sync::broadcast::Sender<String>>,
) {
    let mut buffer = Vec::new();
    let mut count = 0;
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        count += 1;
        seen.lock().unwrap().push(request.clone());
        let text = String::from_utf8_lossy(&request).into_owned();
        let target = text.split(' ').nth(1).unwrap().split('?').next().unwrap().to_owned();
        let head_only = text.starts_with("HEAD ");
        let reply = match target.rsplit('/').next().unwrap() {
            "empty" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            "chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n".to_owned(),
            "hang" => {
                tokio::time::sleep(Duration::from_secs(600)).await;
                return;
            }
            "close" => return,
            "once" if count > 1 => return,
            "half" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
                return;
            }
            "sse" => return events(stream, &tick).await,
            "hop" => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Request-Id: forged\r\nRateLimit: forged\r\nX-Kept: yes\r\n\r\nok".to_owned(),
            last => match target.split_once("/status/").or(target.split_once("/raw/")) {
                Some((_, "two")) => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond".to_owned(),
                Some((_, "te-cl")) => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
                Some((_, "bad-cl")) => "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok".to_owned(),
                Some((_, "two-cl")) => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok".to_owned(),
                Some((_, "cr")) => "HTTP/1.1 200 OK\r\nX-A: b\rX-Evil: 1\r\nContent-Length: 2\r\n\r\nok".to_owned(),
                Some((_, "101")) => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n".to_owned(),
                Some((_, "garbage")) => "SSH-2.0-OpenSSH\r\n\r\n".to_owned(),
                Some((_, "early-hints")) => "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
                Some((_, status)) if last == status => format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 2\r\n\r\nok"),
                _ if head_only => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n".to_owned(),
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Own: 1\r\n\r\nok".to_owned(),
            },
        };
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn events(mut stream: TcpStream, tick: &tokio::sync::broadcast::Sender<String>) {
    let mut ticks = tick.subscribe();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    let mut probe = [0u8; 1];
    loop {
        let event = tokio::select! {
            event = ticks.recv() => event,
            _ = stream.read(&mut probe) => return,
        };
        let Ok(event) = event else { return };
        if event == "end" {
            let _ = stream.write_all(b"0\r\n\r\n").await;
            return;
        }
        let text = format!("data: {event}\n\n");
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            return;
        }
    }
}
