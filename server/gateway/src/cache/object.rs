//! An answer that is kept: what it holds, how old it is, and what may be done with it.

use super::control::{Said, Wanted};
use crate::headers;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use model::Time;
use std::time::{Duration, UNIX_EPOCH};

/// What an answer costs beside its bytes: maps, counters and the names of headers.
const OVERHEAD_BYTES: usize = 1024;
/// Statuses of answers that may be kept. Not 206, because parts are never put together, and no failure.
const KEPT: [u16; 13] = [200, 203, 204, 300, 301, 302, 307, 308, 404, 405, 410, 414, 451];
/// Of these the ones that a route's own time to live is for.
const KEPT_BY_DEFAULT: [u16; 6] = [200, 203, 204, 300, 301, 308];
/// What is said of one answer on its way, or by the gateway each time anew.
const NOT_KEPT: [HeaderName; 3] = [header::AGE, header::CONTENT_LENGTH, header::SET_COOKIE];
/// What belongs to the body, which a 304 has not.
const OF_BODY: [HeaderName; 4] = [
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
];
/// What a 304 says about the copy that it confirms (RFC 9110, section 15.4.5).
const OF_NOT_MODIFIED: [HeaderName; 7] = [
    header::CACHE_CONTROL,
    header::CONTENT_LOCATION,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::VARY,
];
/// Names in `Vary` whose values the gateway makes, and are not part of what answers are found by.
const UNKEYED: [&str; 4] = ["*", "x-forwarded-for", "x-request-id", "x-key-id"];

/// What a request had in the headers that an answer varies by.
type Varying = Vec<(HeaderName, Vec<u8>)>;

/// An answer that is kept.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    vary: Varying,
    /// As the upstream said them, to ask it again.
    pub(super) validators: Validators,
    lifetime_s: u64,
    no_cache: bool,
    strict: bool,
    initial_age_ms: u64,
    received_ns: u64,
    /// The count of changes when it was asked for.
    pub(super) asked_at: u64,
    pub(super) place: usize,
    pub(super) route: u16,
    /// As routes are found by it.
    pub(super) path: String,
}

/// What an upstream tells versions of an answer apart by.
#[derive(Debug, Clone, Default)]
pub(super) struct Validators {
    pub(super) etag: Option<HeaderValue>,
    pub(super) last_modified: Option<HeaderValue>,
}

impl Validators {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self {
            etag: headers.get(header::ETAG).cloned(),
            last_modified: headers.get(header::LAST_MODIFIED).cloned(),
        }
    }

    pub(super) fn any(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }
}

/// When an answer was asked for and came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) began_ns: u64,
    pub(super) received_ns: u64,
    /// The machine's time when it came.
    pub(super) received: Time,
}

/// The part of an [`Object`] that its head decides.
#[derive(Debug)]
pub(super) struct Keeping {
    vary: Varying,
    lifetime_s: u64,
    no_cache: bool,
    strict: bool,
    initial_age_ms: u64,
    received_ns: u64,
}

/// What may be done with a kept answer for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// It is the answer; seconds for which it stays fresh, below zero when it is stale.
    Answer(i64),
    /// It is too old for what it says itself.
    Stale,
    /// The client wants it confirmed.
    Unwanted,
}

impl Keeping {
    /// Whether an answer with this head may be kept, and how. `asked` are the headers of the request that reached the
    /// upstream.
    pub(super) fn decide(
        status: StatusCode,
        headers: &HeaderMap,
        asked: &HeaderMap,
        validators: &Validators,
        default_ttl_s: Option<u32>,
        moment: Moment,
    ) -> Option<Self> {
        let said = Said::of(headers);
        let event_stream = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|t| t.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream"));
        if !KEPT.contains(&status.as_u16())
            || said.no_store
            || said.private
            || event_stream
            || headers.contains_key(header::SET_COOKIE)
            || headers.contains_key(header::CONTENT_RANGE)
        {
            return None;
        }
        let by_default = || {
            let some = KEPT_BY_DEFAULT.contains(&status.as_u16());
            default_ttl_s.filter(|_| some && !said.no_cache).map(u64::from)
        };
        let explicit = said.s_maxage.or(said.max_age).or_else(|| expires(headers, moment));
        let lifetime_s = match explicit.or_else(by_default) {
            Some(seconds) => seconds,
            None if said.no_cache => 0,
            None => return None,
        };
        if (lifetime_s == 0 || said.no_cache) && !validators.any() {
            // It could never be used again.
            return None;
        }
        Some(Self {
            vary: varying(headers, asked)?,
            lifetime_s,
            no_cache: said.no_cache,
            strict: said.strict,
            initial_age_ms: initial_age_ms(headers, moment),
            received_ns: moment.received_ns,
        })
    }
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<i64> {
    let text = headers.get(name)?.to_str().ok()?;
    let since = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// Seconds until `Expires`; one that is no date is in the past.
fn expires(headers: &HeaderMap, moment: Moment) -> Option<u64> {
    headers.get(header::EXPIRES)?;
    let Some(end) = date(headers, &header::EXPIRES) else {
        return Some(0);
    };
    let from = date(headers, &header::DATE).unwrap_or(moment.received.unix_ms() / 1000);
    Some(u64::try_from(end - from).unwrap_or(0))
}

/// RFC 9111, section 4.2.3.
fn initial_age_ms(headers: &HeaderMap, moment: Moment) -> u64 {
    let apparent = date(headers, &header::DATE).map_or(0, |d| moment.received.unix_ms() - d * 1000);
    let said = headers.get(header::AGE).and_then(|a| a.to_str().ok());
    let said: u64 = said.and_then(|a| a.trim().parse().ok()).unwrap_or(0);
    let delay_ms = moment.received_ns.saturating_sub(moment.began_ns) / 1_000_000;
    let corrected = said.saturating_mul(1000).saturating_add(delay_ms);
    corrected.max(u64::try_from(apparent).unwrap_or(0))
}

/// What the request had in the headers named by `Vary`; none when it says that nobody can tell.
fn varying(headers: &HeaderMap, asked: &HeaderMap) -> Option<Varying> {
    let mut out = Varying::new();
    for value in headers.get_all(header::VARY) {
        for name in value.to_str().ok()?.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            if UNKEYED.contains(&name.to_ascii_lowercase().as_str()) {
                return None;
            }
            let name = HeaderName::try_from(name).ok()?;
            if !out.iter().any(|(known, _)| *known == name) {
                let value = joined(asked, &name);
                out.push((name, value));
            }
        }
    }
    out.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
    Some(out)
}

/// All values of a header; a header that is not there differs from one that is empty.
pub(super) fn joined(headers: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    let mut out = Vec::new();
    for value in headers.get_all(name) {
        out.push(b',');
        out.extend_from_slice(value.as_bytes().trim_ascii());
    }
    out
}

/// What an answer is kept with beside its head and body.
pub(super) struct Origin {
    pub(super) validators: Validators,
    pub(super) asked_at: u64,
    pub(super) place: usize,
    pub(super) route: u16,
    pub(super) path: String,
}

impl Object {
    /// Copies everything, so that it holds no larger buffer in memory than it needs.
    pub(super) fn new(
        keeping: Keeping,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        origin: Origin,
        now: Time,
    ) -> Self {
        let Origin {
            validators,
            asked_at,
            place,
            route,
            path,
        } = origin;
        let copied = |v: HeaderValue| HeaderValue::from_bytes(v.as_bytes()).ok();
        Self {
            status,
            headers: compact(headers, &NOT_KEPT, now),
            body: Bytes::copy_from_slice(body),
            vary: keeping.vary,
            validators: Validators {
                etag: validators.etag.and_then(copied),
                last_modified: validators.last_modified.and_then(copied),
            },
            lifetime_s: keeping.lifetime_s,
            no_cache: keeping.no_cache,
            strict: keeping.strict,
            initial_age_ms: keeping.initial_age_ms,
            received_ns: keeping.received_ns,
            asked_at,
            place,
            route,
            path,
        }
    }

    /// Its headers with what a 304 says of it (RFC 9111, section 3.2).
    pub(super) fn merged(&self, confirmed: &HeaderMap, now: Time) -> HeaderMap {
        let mut headers = self.headers.clone();
        // A 304 without a date is as old as its arrival.
        headers.remove(header::DATE);
        let describes = |name: &HeaderName| !OF_BODY.contains(name);
        for name in confirmed.keys().filter(|n| describes(n)) {
            headers.remove(name);
        }
        for (name, value) in confirmed.iter().filter(|(n, _)| describes(n)) {
            headers.append(name.clone(), value.clone());
        }
        date_it(&mut headers, now);
        headers
    }

    /// The same with these headers, which a 304 confirmed.
    pub(super) fn refreshed(&self, keeping: Keeping, headers: &HeaderMap, asked_at: u64, now: Time) -> Self {
        let origin = Origin {
            validators: self.validators.clone(),
            asked_at,
            place: self.place,
            route: self.route,
            path: self.path.clone(),
        };
        let mut new = Self::new(keeping, self.status, headers, &[], origin, now);
        new.body = self.body.clone();
        new
    }

    /// Bytes that it takes in memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        let lines = self.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 64);
        let vary = self.vary.iter().map(|(n, v)| n.as_str().len() + v.len() + 64);
        lines.chain(vary).sum::<usize>() + self.body.len() + self.path.len() + OVERHEAD_BYTES
    }

    /// Whether it answers a request with these headers.
    pub(super) fn fits(&self, asked: &HeaderMap) -> bool {
        self.vary.iter().all(|(name, value)| joined(asked, name) == *value)
    }

    /// Whether it and another answer the same requests.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        self.vary == other.vary
    }

    fn age_ms(&self, now_ns: u64) -> u64 {
        let resident_ms = now_ns.saturating_sub(self.received_ns) / 1_000_000;
        self.initial_age_ms.saturating_add(resident_ms)
    }

    /// Its age in whole seconds, as `Age` says it.
    pub(super) fn age_s(&self, now_ns: u64) -> u64 {
        self.age_ms(now_ns) / 1000
    }

    /// What may be done with it (RFC 9111, section 4.2).
    pub(super) fn usable(&self, wanted: &Wanted, now_ns: u64) -> Use {
        let age_ms = self.age_ms(now_ns);
        let lifetime_ms = self.lifetime_s.saturating_mul(1000);
        if self.no_cache {
            return Use::Stale;
        }
        if wanted.no_cache || wanted.max_age == Some(0) {
            return Use::Unwanted;
        }
        let ttl_ms = i64::try_from(lifetime_ms).unwrap_or(i64::MAX) - i64::try_from(age_ms).unwrap_or(i64::MAX);
        let stale_ms = age_ms.saturating_sub(lifetime_ms);
        if age_ms >= lifetime_ms {
            let bearable = wanted.max_stale.is_some_and(|s| stale_ms <= s.saturating_mul(1000));
            let young = wanted.max_age.is_none_or(|s| age_ms <= s.saturating_mul(1000)) || wanted.max_stale.is_some();
            return if bearable && young && !self.strict && wanted.min_fresh == 0 {
                Use::Answer(ttl_ms.div_euclid(1000))
            } else {
                Use::Stale
            };
        }
        let too_old = wanted.max_age.is_some_and(|s| age_ms > s.saturating_mul(1000)) && wanted.max_stale.is_none();
        let too_soon = age_ms.saturating_add(wanted.min_fresh.saturating_mul(1000)) > lifetime_ms;
        if too_old || too_soon {
            return Use::Unwanted;
        }
        Use::Answer(ttl_ms.div_euclid(1000))
    }

    /// The answer to a request: its head, and its body where there is one.
    pub(super) fn answer(
        &self,
        method: &Method,
        conditions: &Conditions,
        now_ns: u64,
    ) -> (StatusCode, HeaderMap, Option<Bytes>) {
        let mut headers = self.headers.clone();
        headers.insert(header::AGE, HeaderValue::from(self.age_s(now_ns)));
        if self.status == StatusCode::OK && conditions.met_by(&self.headers) {
            let other: Vec<HeaderName> = headers.keys().filter(|n| self.is_of_content(n)).cloned().collect();
            for name in other {
                headers.remove(name);
            }
            return (StatusCode::NOT_MODIFIED, headers, None);
        }
        let length = u64::try_from(self.body.len()).unwrap_or(0);
        if *method == Method::HEAD {
            if self.status != StatusCode::NO_CONTENT {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
            return (self.status, headers, None);
        }
        (self.status, headers, (length > 0).then(|| self.body.clone()))
    }

    /// Whether a header belongs to the content, and a 304 does not say it.
    fn is_of_content(&self, name: &HeaderName) -> bool {
        !OF_NOT_MODIFIED.contains(name) && name.as_str().starts_with("content-")
    }
}

/// A copy of an answer's headers in memory of their own, with a date.
pub(crate) fn copied(headers: &HeaderMap, now: Time) -> HeaderMap {
    compact(headers, &[header::CONTENT_LENGTH], now)
}

/// A copy of headers without some, whose values lie in one buffer of their own; with a date.
fn compact(headers: &HeaderMap, without: &[HeaderName], now: Time) -> HeaderMap {
    let kept = || headers.iter().filter(|(name, _)| !without.contains(name));
    let mut all = BytesMut::with_capacity(kept().map(|(_, v)| v.len()).sum());
    for (_, value) in kept() {
        all.put_slice(value.as_bytes());
    }
    let mut all = all.freeze();
    let mut out = HeaderMap::with_capacity(headers.len() + 4);
    for (name, value) in kept() {
        if let Ok(value) = HeaderValue::from_maybe_shared(all.split_to(value.len())) {
            let name = HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone());
            out.append(name, value);
        }
    }
    date_it(&mut out, now);
    out
}

/// An answer without a date is as old as its arrival.
fn date_it(headers: &mut HeaderMap, now: Time) {
    if !headers.contains_key(header::DATE) {
        let since = Duration::from_millis(u64::try_from(now.unix_ms()).unwrap_or(0));
        headers.insert(
            header::DATE,
            headers::value(&httpdate::fmt_http_date(UNIX_EPOCH + since)),
        );
    }
}

/// What a request asks to be told only if it changed.
#[derive(Debug, Default, Clone)]
pub(super) struct Conditions {
    none_match: Vec<HeaderValue>,
    modified_since: Option<HeaderValue>,
}

impl Conditions {
    /// From the headers of a request.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self {
            none_match: headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect(),
            modified_since: headers.get(header::IF_MODIFIED_SINCE).cloned(),
        }
    }

    /// Whether the copy that the client has is as good (RFC 9110, section 13.2.2).
    fn met_by(&self, headers: &HeaderMap) -> bool {
        if !self.none_match.is_empty() {
            let Some(etag) = headers.get(header::ETAG).map(|e| opaque(e.as_bytes())) else {
                return false;
            };
            let listed = self.none_match.iter().flat_map(|v| tags(v.as_bytes()));
            return listed.into_iter().any(|tag| tag == b"*" || opaque(tag) == etag);
        }
        let Some(since) = &self.modified_since else {
            return false;
        };
        let mut asked = HeaderMap::new();
        asked.insert(header::IF_MODIFIED_SINCE, since.clone());
        let since = date(&asked, &header::IF_MODIFIED_SINCE);
        let last = date(headers, &header::LAST_MODIFIED);
        since.zip(last).is_some_and(|(since, last)| last <= since)
    }
}

/// A tag for the weak comparison.
pub(super) fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The tags of a list; a tag may have commas inside its quotes.
fn tags(list: &[u8]) -> Vec<&[u8]> {
    let mut quoted = false;
    let parts = list.split(|b| {
        quoted ^= *b == b'"';
        *b == b',' && !quoted
    });
    parts.map(<[u8]>::trim_ascii).filter(|t| !t.is_empty()).collect()
}
