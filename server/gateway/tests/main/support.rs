//! A gateway between a raw client and a recording upstream, and a control plane that can go away.

pub(crate) use crate::plane::Plane;
use crate::recorder::accept;
use gateway::{Config, Gateway, Peppers, Running, SnapshotSource, UsageSink};
use model::access::{Environment, Method};
use model::catalogue::{CacheHits, MeterTerms, RateLimit};
use model::key::PlainKey;
use model::policy::{RoutePolicy, UpstreamPolicy};
use model::price::{Overage, OverageTier, TierModel};
use model::snapshot::*;
use model::usage::UsageRecord;
use model::*;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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
    /// How long a lease is kept that is not used, where limits are leased.
    pub(crate) leases: Option<Duration>,
}

impl World {
    /// One consumer with one live key on the plan `pro`.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Entitlement)) -> Self {
        Self::made(change, None).await
    }

    /// With a gateway that leases limits, and gives nothing back for idleness alone.
    pub(crate) async fn leasing(change: impl FnOnce(&mut Entitlement)) -> Self {
        Self::made(change, Some(Duration::from_secs(600))).await
    }

    async fn made(change: impl FnOnce(&mut Entitlement), leases: Option<Duration>) -> Self {
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
        config.leases = self.leases.is_some();
        config.limits.lease_idle = self.leases.unwrap_or(config.limits.lease_idle);
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
    config
}

/// Waits for a condition, failing after a time that no healthy run needs.
pub(crate) async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..12_000 {
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
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut out)).await;
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
            loop {
                let stream = accept(&listener).await;
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
