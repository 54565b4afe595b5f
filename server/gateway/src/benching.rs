//! The steps of a request, each by itself, for the benches in `bench/`. Not part of the crate's interface.

use crate::Peppers;
use crate::admit;
use crate::authenticate::{self, Caller, Callers, Known as Knowing};
use crate::ledger::{Ledger, record};
use crate::rate::{Gcra, Stand};
use crate::route::Route;
use crate::tables::Tables;
use http::request::Parts;
use http::{HeaderValue, Request};
use model::access::Environment;
use model::catalogue::RateLimit;
use model::key::PlainKey;
use model::snapshot::{Changes, Entitlement, KeyRecord};
use model::usage::UsageRecord;
use model::{ConsumerId, KeyId, Random, RequestId, Time};
use serde_json::json;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Keys in the tables that work.
pub const KEY_COUNT: usize = 10_000;
/// The issuer that is trusted.
pub const ISSUER: &str = "https://login.example";
/// Keys that share a consumer.
const KEYS_OF_A_CONSUMER: usize = 10;
/// Records in a segment of the ledger; the bench overwrites none.
const SEGMENT_RECORDS: u32 = 1 << 20;
/// A limit that refuses nothing.
const NO_LIMIT: RateLimit = RateLimit {
    per_second: 1_000_000,
    burst: 1_000_000,
};

/// Business time: any.
fn now() -> Time {
    Time::from_unix_s(1_800_000_000)
}

/// Repeatable: a benchmark's keys are no secrets.
struct Counting(AtomicU64);
impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            let n = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
            let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            *byte = (n ^ (n >> 31)).to_be_bytes()[0];
        }
    }
}

/// A gateway's tables and ledger, and a request.
pub struct Bench {
    tables: Tables,
    peppers: Peppers,
    callers: Callers,
    ledger: Arc<Ledger>,
    keys: Vec<String>,
    route: Arc<Route>,
    parts: Parts,
    rate: Gcra,
    arrival: AtomicU64,
    /// Steady time, a microsecond further at each request.
    now_ns: AtomicU64,
    record: record::Encoded,
}

impl Bench {
    /// With the ledger in this folder.
    ///
    /// # Errors
    /// When the folder cannot be written, or the bench does not fit the catalogue's form.
    pub fn new(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let random = Counting(AtomicU64::new(1));
        let peppers = Peppers::new([(1, b"bench")]);
        let ledger = Ledger::open(folder, SEGMENT_RECORDS, &random)?;
        let (changes, keys) = changes(&peppers, &random)?;
        let tables = Tables::new();
        tables.apply(changes, &ledger, now())?;
        let request = Request::get("/v1/countries/ch").header("accept", HeaderValue::from_static("*/*"));
        let (parts, ()) = request.body(())?.into_parts();
        let route = find(&tables, &parts)?;
        Ok(Self {
            tables,
            peppers,
            callers: Callers::new(),
            ledger,
            keys,
            route,
            parts,
            rate: Gcra::from(NO_LIMIT),
            arrival: AtomicU64::new(0),
            now_ns: AtomicU64::new(1 << 60),
            record: record::encode(&usage()),
        })
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.fetch_add(1_000, Ordering::Relaxed)
    }

    /// Finds the request's route; its number.
    pub fn find_route(&self) -> Option<u16> {
        find(&self.tables, &self.parts).ok().map(|r| r.number)
    }

    /// Form, checksum, look-up and HMAC of the key with this number; whether it is let in.
    pub fn check_key(&self, number: usize) -> bool {
        self.key(number).is_some()
    }

    /// The same for a text; what it is refused with is left out.
    pub fn check_text(&self, text: &str) -> bool {
        authenticate::key_caller(&self.tables, &self.peppers, text.as_bytes(), now()).is_some()
    }

    /// Whether a token is let in. Its issuer may be [`ISSUER`], which signs with EdDSA and whose key nobody here has.
    pub fn check_token(&self, text: &str) -> bool {
        let known = Knowing {
            tables: &self.tables,
            peppers: &self.peppers,
            callers: &self.callers,
        };
        authenticate::token_caller(known, text.as_bytes(), now()).is_some()
    }

    /// The key with this number. Those from [`KEY_COUNT`] on, as many again, are revoked.
    pub fn key_text(&self, number: usize) -> Option<&str> {
        self.keys.get(number).map(String::as_str)
    }

    fn key(&self, number: usize) -> Option<Caller> {
        authenticate::key_caller(&self.tables, &self.peppers, self.keys.get(number)?.as_bytes(), now())
    }

    /// Takes a place of a rate limit; whether there was one.
    pub fn take_rate(&self) -> bool {
        self.rate.take(&self.arrival, self.now_ns()).allowed
    }

    /// Whom [`Bench::admit`] takes.
    pub fn caller(&self, number: usize) -> Known {
        Known(self.key(number))
    }

    /// Features, concurrency, rate limits, quota and spend cap of a known caller; whether it is admitted.
    pub fn admit(&self, caller: &Known) -> bool {
        let Some(caller) = &caller.0 else { return false };
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let request = admit::Request::new(caller, &self.route, address, &self.parts);
        admit::admit(&request, &self.tables, now(), (Stand::Alone, self.now_ns())).is_ok_and(|a| a.unpaid.is_none())
    }

    /// Writes a record; its number.
    pub fn append(&self) -> Option<u64> {
        self.ledger.append(self.record, [None, None]).ok()
    }
}

/// A caller whose key was checked.
pub struct Known(Option<Caller>);

fn find(tables: &Tables, parts: &Parts) -> Result<Arc<Route>, Box<dyn Error>> {
    let routes = tables.routes.load();
    let found = routes
        .as_ref()
        .ok_or("no routes")?
        .find(&parts.method, &parts.uri, &parts.headers);
    found.map_err(|_| "no route".into())
}

fn changes(peppers: &Peppers, random: &Counting) -> Result<(Changes, Vec<String>), Box<dyn Error>> {
    let routing = json!({
        "upstreams": [{"number": 1, "slug": "atlas", "url": "http://127.0.0.1:4010", "first_byte_timeout_ms": 30_000, "idle_timeout_ms": 60_000}],
        "routes": [
            {"number": 1, "slug": "countries", "methods": ["GET"], "path": "/v1/countries", "upstream": 1, "meter": 1, "weight": 1, "feature": null},
            {"number": 2, "slug": "country", "methods": ["GET"], "path": "/v1/countries/{code}", "upstream": 1, "meter": 1, "weight": 1, "feature": "facts"},
        ],
        "meters": [{"number": 1, "slug": "calls", "statuses": ["2xx"]}],
        "issuers": [{"key": KeyId::from_bits(1 << 100), "file": {
            "slug": "login", "issuer": ISSUER, "audiences": ["https://api.example"], "algorithms": ["EdDSA"],
            // The key of RFC 8037, A.2.
            "public_key": r#"{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
        }}],
        "portal_url": "http://localhost",
    });
    let mut changes = Changes {
        version: 1,
        routing: Some(serde_json::from_value(routing)?),
        ..Changes::default()
    };
    let mut keys = Vec::with_capacity(2 * KEY_COUNT);
    for number in 0..2 * KEY_COUNT {
        let consumer = ConsumerId::from_bits(u128::try_from(number % KEY_COUNT / KEYS_OF_A_CONSUMER)? + 1);
        if number < KEY_COUNT && number % KEYS_OF_A_CONSUMER == 0 {
            changes.entitlements.push(entitlement(consumer)?);
        }
        let key = PlainKey::generate("tp", Environment::Live, random);
        changes.keys.push(KeyRecord {
            id: KeyId::from_bits(u128::try_from(number)? + 1),
            lookup: key.lookup().0,
            mac: peppers.mac(1, key.reveal().as_bytes()).unwrap_or_default(),
            pepper: 1,
            consumer,
            environment: Environment::Live,
            revoked: number >= KEY_COUNT,
            expires_at: None,
            routes: None,
            limits: None,
        });
        keys.push(key.reveal().to_owned());
    }
    Ok((changes, keys))
}

fn entitlement(consumer: ConsumerId) -> Result<Entitlement, serde_json::Error> {
    serde_json::from_value(json!({
        "consumer": consumer, "environment": Environment::Live, "subscription": null, "plan_version": null,
        "plan": "pro", "suspended": null, "features": ["facts"], "rate_limit": NO_LIMIT,
        "limits": [{"name": "reads", "methods": ["GET"], "requests": 1_000_000, "per": "minute"}],
        "period": {"start": now().plus_s(-3_600), "end": now().plus_s(86_400)},
        "meters": [{"meter": 1, "terms": {"meter": "calls", "included": u64::MAX / 2}, "used": 0, "settled_units": 0}],
        "currency": "usd", "spend_cap_minor": 1_000_000,
    }))
}

fn usage() -> UsageRecord {
    UsageRecord {
        seq: 0,
        request: RequestId::from_bits(1),
        continues: false,
        at: now(),
        consumer: ConsumerId::from_bits(1),
        environment: Environment::Live,
        subscription: None,
        plan_version: None,
        period_start: now(),
        key: KeyId::from_bits(1),
        route: 2,
        meter: 1,
        units: 1,
        status: 200,
        refusal: 0,
        request_bytes: 0,
        response_bytes: 1_000,
        duration_us: 1_000,
        variants: 0,
    }
}
