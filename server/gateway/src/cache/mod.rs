//! Answers that are kept and given again (RFC 9111), for routes that say so ([`model::policy::CachePolicy`]).
//!
//! Whoever asks was authenticated and admitted before: a kept answer is for those who may have it. What it is found by
//! holds the route as it is published with its upstream, the environment, host, scheme, path and query as they came
//! (what changes a resource, and who forgets answers, means all spellings of them),
//! the gates that are closed, who shares it, and for answers that several consumers share, or strangers behind one
//! address, every header of the client that reaches the upstream. Nothing else that a client can choose reaches it (`Rule::lets_through`), so no answer can
//! be made for another client that did not come about by that client's own words. `control` reads `Cache-Control`,
//! `object` says how long an answer holds, `store` keeps it, `fill` gathers it on its way.
//!
//! Requests for the same wait for the first, for a time; when that one fails, or finds an answer that is not kept, they
//! go themselves. What changes a resource, and what an administrator forgets, is counted: an answer that was asked for
//! before a change is not used after it, also when it comes later.

mod control;
mod fill;
mod object;
mod store;

pub(crate) use fill::Fill;
pub(crate) use object::copied;

use crate::account::Account;
use crate::feature_gates::Closed;
use crate::headers;
use crate::route;
use bytes::Bytes;
use control::Wanted;
use fill::Gathering;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use model::access::Environment;
use model::policy::{CachePolicy, SharedBy};
use model::snapshot::{RouteRecord, UpstreamRecord};
use model::{Clock, KeyId, Time};
use object::{Conditions, Keeping, Moment, Object, Origin, Use, Validators};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::{Found, Key, Outcome, Store, Turn};
use tokio::time::{Instant, timeout_at};

/// Places that changes of resources are noted at. Two resources at one place lose their answers together, which costs
/// a request and nothing else.
const PLACES: usize = 1 << 14;
/// The part of the memory that answers may take which are still on their way.
const GATHERING_SHARE: usize = 4;
/// The header that says what was done (RFC 9211).
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// What of the client's own reaches the upstream of answers that consumers share, beside what the route names.
const LET_THROUGH: [HeaderName; 3] = [header::ACCEPT, header::ACCEPT_ENCODING, header::ACCEPT_LANGUAGE];
/// Requests with one of these go by: they ask for a part, bring a credential of the client's own, or might be something
/// else to the upstream than they seem.
const GO_BY: [HeaderName; 9] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];

/// What a route keeps, compiled.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) shared_by: SharedBy,
    default_ttl_s: Option<u32>,
    most: usize,
    /// What of the client's reaches the upstream of a shared answer.
    through: Vec<HeaderName>,
    /// Of the route and its upstream as they are published: when they change, nothing kept before is found.
    print: [u8; 32],
}

impl Rule {
    /// From what the catalogue says.
    pub(crate) fn compile(told: &CachePolicy, route: &RouteRecord, upstream: Option<&UpstreamRecord>) -> Self {
        let more = told.headers.iter().filter_map(|h| HeaderName::try_from(h).ok());
        let records = serde_json::to_vec(&(route, upstream)).unwrap_or_default();
        Self {
            shared_by: told.shared_by,
            default_ttl_s: told.default_ttl_s,
            most: usize::try_from(told.max_object_bytes.0).unwrap_or(usize::MAX),
            through: LET_THROUGH.into_iter().chain(more).collect(),
            print: Sha256::digest(records).into(),
        }
    }

    /// Whether several callers are given the same answer: consumers, or those without a credential who have an address in
    /// common.
    pub(crate) fn is_shared(&self, key: KeyId) -> bool {
        self.shared_by.is_shared() || key == KeyId::NONE
    }

    /// The headers with which a request goes to the upstream of a shared answer.
    pub(crate) fn lets_through(&self, headers: &HeaderMap) -> HeaderMap {
        let mut out = HeaderMap::new();
        for name in self.through.iter().chain([&header::HOST]) {
            for value in headers.get_all(name) {
                out.append(name.clone(), value.clone());
            }
        }
        out
    }
}

/// What a request says about kept answers, read before anything is changed in it.
pub(crate) struct Ask {
    wanted: Wanted,
    conditions: Conditions,
    /// Why it goes by, as RFC 9211 says it.
    by: Option<&'static str>,
}

impl Ask {
    /// From a request's head. `has_body` also holds for what changes protocols.
    pub(crate) fn of(parts: &Parts, has_body: bool) -> Self {
        let wanted = Wanted::of(&parts.headers);
        let by = if !matches!(parts.method, Method::GET | Method::HEAD) {
            Some("method")
        } else if has_body
            || wanted.no_store
            || GO_BY.iter().any(|name| parts.headers.contains_key(name))
            || !headers::nominated(&parts.headers).is_empty()
        {
            Some("bypass")
        } else {
            None
        };
        Self {
            wanted,
            conditions: Conditions::of(&parts.headers),
            by,
        }
    }

    /// Whether it takes nothing but an answer that is kept.
    pub(crate) fn wants_only_kept(&self) -> bool {
        self.wanted.only_if_cached
    }

    /// Why it goes by.
    pub(crate) fn goes_by(&self) -> Option<&'static str> {
        self.by
    }
}

/// Who asks, as far as answers are kept apart by it.
pub(crate) struct Who<'a> {
    pub(crate) account: &'a Arc<Account>,
    pub(crate) key: KeyId,
    pub(crate) address: IpAddr,
    pub(crate) plan: &'a HeaderValue,
    /// As the upstream is told them.
    pub(crate) features: &'a HeaderValue,
    pub(crate) closed: Closed,
    pub(crate) scheme: &'a str,
}

fn host(parts: &Parts) -> Vec<u8> {
    let host = match parts.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => parts.headers.get(header::HOST).map_or(&[][..], HeaderValue::as_bytes),
    };
    host.to_ascii_lowercase()
}

fn target(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("/", |p| p.as_str())
}

/// A path as routes are found by it.
fn canonical(path: &str) -> Cow<'_, str> {
    route::canonical(path).unwrap_or(Cow::Borrowed(path))
}

/// What the answer to a request is found by.
fn key(rule: &Rule, who: &Who<'_>, parts: &Parts) -> Key {
    let mut out = Vec::with_capacity(256);
    let mut part = |bytes: &[u8]| {
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    part(&rule.print);
    part(who.account.environment.word().as_bytes());
    part(&who.closed.bits().to_le_bytes());
    part(who.scheme.as_bytes());
    part(&host(parts));
    part(target(parts).as_bytes());
    let by = rule.shared_by;
    if matches!(by, SharedBy::Key | SharedBy::Consumer) {
        part(&who.account.consumer.to_bits().to_le_bytes());
        if who.key == KeyId::NONE {
            part(who.address.to_canonical().to_string().as_bytes());
        }
    }
    if by == SharedBy::Key {
        part(&who.key.to_bits().to_le_bytes());
    }
    if by != SharedBy::Everyone {
        part(who.plan.as_bytes());
        part(who.features.as_bytes());
    }
    if rule.is_shared(who.key) {
        for name in &rule.through {
            part(&object::joined(&parts.headers, name));
        }
    }
    Arc::from(out)
}

/// How a request came by its answer, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// It was kept.
    Hit,
    /// Another request fetched it meanwhile.
    Collapsed,
    /// The upstream confirmed it.
    Confirmed,
    /// The upstream gave it.
    Miss,
    /// It was not looked for.
    Bypass,
}

impl How {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Hit, "hit"),
        (Self::Collapsed, "collapsed"),
        (Self::Confirmed, "confirmed"),
        (Self::Miss, "miss"),
        (Self::Bypass, "bypass"),
    ];
}

/// The answers that a gateway keeps.
pub(crate) struct Cache {
    store: Store,
    gathering: Gathering,
    /// Counts what makes kept answers unusable.
    changes: AtomicU64,
    /// The last change at each place; made when the first is noted.
    changed: OnceLock<Box<[AtomicU64]>>,
    /// The last time that anything was forgotten.
    forgotten: AtomicU64,
    wait: Duration,
    hasher: RandomState,
    results: [AtomicU64; How::ALL.len()],
}

/// A kept answer for a request.
pub(crate) struct Kept {
    object: Arc<Object>,
    pub(crate) how: How,
    ttl_s: i64,
    conditions: Conditions,
}

/// A request on its way to the upstream whose answer may be kept.
pub(crate) struct Fetch {
    ticket: Ticket,
    /// Whose memory its answer takes on its way.
    account: Arc<Account>,
    conditions: Conditions,
    /// Whether others are given the answer.
    shared: bool,
    stale: Option<Arc<Object>>,
    /// What was kept turned out to be useless, and the upstream is asked once more.
    anew: bool,
    /// As RFC 9211 says it.
    why: &'static str,
    /// The client's headers that reach the upstream.
    asked: HeaderMap,
    began_ns: u64,
    asked_at: u64,
    place: usize,
    path: String,
    validators: Validators,
}

/// The duty to say what became of a request that others may wait for.
pub(crate) struct Ticket {
    cache: Arc<Cache>,
    key: Key,
    lead: Option<u64>,
    began_ns: u64,
}

impl Ticket {
    fn land(&mut self, outcome: Outcome, mark: bool) {
        if let Some(id) = self.lead.take() {
            let store = &self.cache.store;
            store.landed(&self.key, id, outcome, mark.then_some(self.began_ns));
        }
    }

    fn not_kept(&mut self) {
        self.land(Outcome::NotKept, true);
    }

    /// It might have been kept. Those who wait go themselves, and the next ones wait for each other again.
    fn no_room(&mut self) {
        self.land(Outcome::NotKept, false);
    }

    fn keep(&mut self, object: Arc<Object>) {
        let cache = &self.cache;
        let valid = |o: &Object| cache.is_valid(o) && cache.forgotten.load(Ordering::Acquire) <= o.asked_at;
        let kept = cache.store.put(&self.key, object, valid);
        let outcome = if kept { Outcome::Kept } else { Outcome::NotKept };
        self.land(outcome, false);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.land(Outcome::Open, false);
    }
}

/// What is there for a request.
pub(crate) enum Looked {
    Kept(Kept),
    Fetch(Box<Fetch>),
    /// The client wants nothing else than a kept answer, and there is none.
    Nothing,
}

/// A request that looks for its answer.
pub(crate) struct Look<'a> {
    pub(crate) rule: &'a Rule,
    pub(crate) who: Who<'a>,
    /// Its head; of a shared answer only what [`Rule::lets_through`].
    pub(crate) parts: &'a Parts,
    pub(crate) clock: &'a dyn Clock,
}

impl Cache {
    /// Keeps at most `bytes` in all; requests wait for each other at most for `wait`.
    pub(crate) fn new(bytes: usize, wait: Duration) -> Arc<Self> {
        let gathering_most = bytes / GATHERING_SHARE;
        Arc::new(Self {
            store: Store::new(bytes - gathering_most),
            gathering: Gathering::new(gathering_most),
            changes: AtomicU64::new(1),
            changed: OnceLock::new(),
            forgotten: AtomicU64::new(0),
            wait,
            hasher: RandomState::new(),
            results: Default::default(),
        })
    }

    /// The place at which changes of a request's resource are noted, however its host and path are spelled.
    pub(crate) fn place(&self, environment: Environment, parts: &Parts) -> usize {
        let host = route::asked_host(&parts.uri, &parts.headers);
        let (path, query) = (canonical(parts.uri.path()), parts.uri.query());
        let hash = self.hasher.hash_one((environment.word(), host, path, query));
        usize::try_from(hash).unwrap_or(0) % PLACES
    }

    /// What is at this place was changed (RFC 9111, section 4.4).
    pub(crate) fn changed(&self, place: usize) {
        let now = self.changes.fetch_add(1, Ordering::AcqRel) + 1;
        let all = self
            .changed
            .get_or_init(|| (0..PLACES).map(|_| AtomicU64::new(0)).collect());
        if let Some(last) = all.get(place) {
            last.fetch_max(now, Ordering::AcqRel);
        }
    }

    /// Whether nothing has changed since an answer was asked for.
    fn is_valid(&self, object: &Object) -> bool {
        let changed = self.changed.get().and_then(|all| all.get(object.place));
        changed.is_none_or(|last| last.load(Ordering::Acquire) <= object.asked_at)
    }

    /// Forgets the answers of a route, or of all, whose paths begin with `prefix`, however either is spelled. What is on
    /// its way is not kept.
    pub(crate) fn forget(&self, route: Option<u16>, prefix: &str) {
        let now = self.changes.fetch_add(1, Ordering::AcqRel) + 1;
        self.forgotten.fetch_max(now, Ordering::AcqRel);
        let prefix = canonical(prefix);
        self.store
            .forget(|o| route.is_none_or(|r| r == o.route) && o.path.starts_with(&*prefix));
    }

    /// Counts a result.
    pub(crate) fn count(&self, result: How) {
        let at = How::ALL.iter().position(|(r, _)| *r == result).unwrap_or(0);
        self.results[at].fetch_add(1, Ordering::Relaxed);
    }

    /// Results with their words and counts.
    pub(crate) fn results(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let words = How::ALL.iter().map(|(_, word)| *word);
        words.zip(self.results.iter().map(|n| n.load(Ordering::Relaxed)))
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        self.store.bytes() + self.gathering.bytes()
    }

    /// Looks for the answer to a request, or for the right to fetch it. Waits while another request fetches it.
    pub(crate) async fn look(self: &Arc<Self>, look: Look<'_>, ask: Ask) -> Looked {
        let key = key(look.rule, &look.who, look.parts);
        let asked = &look.parts.headers;
        let deadline = Instant::now() + self.wait;
        let mut collapsed = false;
        loop {
            let now_ns = look.clock.steady_ns();
            let (stale, why) = match self.store.find(&key, asked, |o| self.is_valid(o)) {
                Found::Answer(object) => match object.usable(&ask.wanted, now_ns) {
                    Use::Answer(ttl_s) => {
                        let how = if collapsed { How::Collapsed } else { How::Hit };
                        let conditions = ask.conditions;
                        return Looked::Kept(Kept {
                            object,
                            how,
                            ttl_s,
                            conditions,
                        });
                    }
                    Use::Stale => (Some(object), "stale"),
                    Use::Unwanted => (Some(object), "request"),
                },
                Found::Others => (None, "vary-miss"),
                Found::Nothing => (None, "uri-miss"),
            };
            if ask.wanted.only_if_cached {
                return Looked::Nothing;
            }
            let alone = collapsed || why == "request" || look.parts.method == Method::HEAD;
            let turn = if alone { Turn::Go } else { self.store.turn(&key, now_ns) };
            let lead = match turn {
                Turn::Go => None,
                Turn::Lead(id) => Some(id),
                Turn::Wait(mut outcome, id) => {
                    let waited = timeout_at(deadline, outcome.wait_for(|o| *o != Outcome::Open)).await;
                    match waited.map(|w| w.map(|outcome| *outcome)) {
                        Err(_) => self.store.take_over(&key, id),
                        Ok(Ok(Outcome::Kept)) => {
                            collapsed = true;
                            continue;
                        }
                        Ok(Ok(Outcome::NotKept)) => None,
                        Ok(_) => continue,
                    }
                }
            };
            return Looked::Fetch(Box::new(self.fetch(key, lead, &look, ask, stale, why)));
        }
    }

    fn fetch(
        self: &Arc<Self>,
        key: Key,
        lead: Option<u64>,
        look: &Look<'_>,
        ask: Ask,
        stale: Option<Arc<Object>>,
        why: &'static str,
    ) -> Fetch {
        let began_ns = look.clock.steady_ns();
        Fetch {
            ticket: Ticket {
                cache: Arc::clone(self),
                key,
                lead,
                began_ns,
            },
            account: Arc::clone(look.who.account),
            conditions: ask.conditions,
            shared: look.rule.is_shared(look.who.key),
            stale: stale.filter(|s| s.validators.any()),
            anew: false,
            why,
            asked: look.parts.headers.clone(),
            began_ns,
            asked_at: self.changes.load(Ordering::Acquire),
            place: self.place(look.who.account.environment, look.parts),
            path: canonical(look.parts.uri.path()).into_owned(),
            validators: Validators::default(),
        }
    }
}

impl Fetch {
    /// Makes the request ask whether what is kept still holds. What the client asks to compare with is compared here,
    /// unless nothing is kept and nobody shares the answer: then the upstream does.
    pub(crate) fn ask(&self, headers: &mut HeaderMap) {
        if self.stale.is_none() && !self.shared {
            return;
        }
        headers.remove(header::IF_NONE_MATCH);
        headers.remove(header::IF_MODIFIED_SINCE);
        let Some(stale) = &self.stale else { return };
        if let Some(etag) = &stale.validators.etag {
            headers.insert(header::IF_NONE_MATCH, etag.clone());
        }
        if let Some(last) = &stale.validators.last_modified {
            headers.insert(header::IF_MODIFIED_SINCE, last.clone());
        }
    }

    /// The head of the answer came, as the upstream gave it.
    pub(crate) fn answered(&mut self, headers: &HeaderMap) {
        self.validators = Validators::of(headers);
    }

    fn moment(&self, now: (u64, Time)) -> Moment {
        Moment {
            began_ns: self.began_ns,
            received_ns: now.0,
            received: now.1,
        }
    }

    /// Whether the upstream, which says that nothing changed, means another version than it was asked about.
    pub(crate) fn is_of_another_version(&self) -> bool {
        let asked_for = self.stale.as_ref().and_then(|s| s.validators.etag.as_ref());
        let tags = self.validators.etag.as_ref().zip(asked_for);
        tags.is_some_and(|(new, old)| object::opaque(new.as_bytes()) != object::opaque(old.as_bytes()))
    }

    /// Forgets what the upstream was asked about; the headers with which it is asked for all of it.
    pub(crate) fn ask_anew(&mut self) -> HeaderMap {
        if let Some(stale) = self.stale.take() {
            self.ticket.cache.store.drop_one(&self.ticket.key, &stale);
        }
        self.anew = true;
        let mut headers = self.asked.clone();
        headers.remove(header::IF_NONE_MATCH);
        headers.remove(header::IF_MODIFIED_SINCE);
        headers
    }

    /// Whether the upstream was asked for all of it, whatever the client has.
    pub(crate) fn is_anew(&self) -> bool {
        self.anew
    }

    /// The kept answer, when the upstream says that it still holds. `now` is steady and machine's time.
    pub(crate) fn confirmed(&mut self, rule: &Rule, headers: &HeaderMap, now: (u64, Time)) -> Option<Kept> {
        let stale = self.stale.take()?;
        let merged = stale.merged(headers, now.1);
        let validators = stale.validators.clone();
        let (status, moment) = (stale.status, self.moment(now));
        let keeping = Keeping::decide(status, &merged, &self.asked, &validators, rule.default_ttl_s, moment);
        let object = match keeping {
            Some(keeping) => {
                let object = Arc::new(stale.refreshed(keeping, &merged, self.asked_at, now.1));
                self.ticket.keep(Arc::clone(&object));
                object
            }
            None => {
                self.ticket.not_kept();
                stale
            }
        };
        Some(Kept {
            object,
            how: How::Confirmed,
            ttl_s: 0,
            conditions: std::mem::take(&mut self.conditions),
        })
    }

    /// Says what was done, and gathers the answer when it is one to be kept. `whole` says that its end can be told from
    /// a connection that broke.
    pub(crate) fn fill(
        mut self,
        rule: &Rule,
        (route, method): (u16, &Method),
        (status, headers): (StatusCode, &mut HeaderMap),
        whole: bool,
        now: (u64, Time),
    ) -> Option<Box<Fill>> {
        self.ticket.cache.count(How::Miss);
        let keeping = (*method == Method::GET && whole)
            .then(|| {
                let (asked, moment) = (&self.asked, self.moment(now));
                Keeping::decide(status, headers, asked, &self.validators, rule.default_ttl_s, moment)
            })
            .flatten();
        let length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|l| l.to_str().ok()?.parse().ok());
        let fits = length.is_none_or(|l: usize| l <= rule.most);
        let Some(keeping) = keeping.filter(|_| fits) else {
            say(headers, &format!("fwd={}; fwd-status={}", self.why, status.as_u16()));
            self.ticket
                .land(Outcome::NotKept, status.is_success() && *method == Method::GET);
            return None;
        };
        let head = (keeping, status, headers.clone());
        say(
            headers,
            &format!("fwd={}; fwd-status={}; stored", self.why, status.as_u16()),
        );
        let origin = Origin {
            validators: self.validators,
            asked_at: self.asked_at,
            place: self.place,
            route,
            path: self.path,
        };
        let account = &self.account;
        Some(Box::new(Fill::new(self.ticket, account, head, origin, rule.most, now)))
    }
}

impl Kept {
    /// The answer to a request.
    pub(crate) fn answer(&self, method: &Method, now_ns: u64) -> (StatusCode, HeaderMap, Option<Bytes>) {
        let (status, mut headers, body) = self.object.answer(method, &self.conditions, now_ns);
        match self.how {
            How::Hit => say(&mut headers, &format!("hit; ttl={}", self.ttl_s)),
            How::Collapsed => say(&mut headers, "fwd=uri-miss; collapsed"),
            _ => say(&mut headers, "fwd=stale; fwd-status=304; stored"),
        }
        (status, headers, body)
    }

    /// Whether the upstream did nothing for this request.
    pub(crate) fn is_hit(&self) -> bool {
        matches!(self.how, How::Hit | How::Collapsed)
    }
}

/// Says what the cache did, behind what caches before it said (RFC 9211).
pub(crate) fn say(headers: &mut HeaderMap, what: &str) {
    headers.append(CACHE_STATUS, headers::value(&format!("turnpike; {what}")));
}
