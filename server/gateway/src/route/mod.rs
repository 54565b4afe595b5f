//! Phase one: from host, method, path and headers to a route, or out.
//!
//! Which route takes a request can be told from the catalogue alone:
//!
//! 1. Host: a route that names the request's host goes before one with a wildcard (`*.example.com`, the longest first),
//!    and that before one that answers at every host.
//! 2. Path: plain segments go before parameters, parameters before a rest (`{*rest}`).
//! 3. Method, then headers: among what is left, the greater `priority` first, then the one that asks for more headers.
//!
//! What does not fit gives way to the next best: the next candidate, then the next path, then the next host. Only when
//! nothing fits is a path whose routes take other methods answered 405.

mod host;
mod path;
mod target;
mod tree;
mod upstream;

pub(crate) use host::{asked as asked_host, check_host};
pub(crate) use path::canonical;
pub(crate) use target::Target;
pub(crate) use upstream::{Heritage, Upstream};

use crate::authenticate::{Accepted, AnonymousPlan};
use crate::cache::{self, Rule as CacheRule};
use crate::cors::Cors;
use crate::edits::Edits;
use crate::feature_gates::Gates;
use crate::rate::Rule;
use crate::refusal::{Refusal, Refused};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use model::access;
use model::catalogue::StatusSet;
use model::policy::{AddressRange, Idempotency, Protocol, RoutePolicy, Segment, WebSocketPolicy, segments};
use model::snapshot::{Entitlement, RouteRecord, Routing};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A route, ready to be used.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) number: u16,
    pub(crate) slug: String,
    /// Its path as the catalogue writes it.
    pub(crate) path: String,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) meter: u16,
    pub(crate) counts: StatusSet,
    pub(crate) weight: u32,
    pub(crate) feature: Option<String>,
    /// Largest body of a request, in bytes, where the route has a bound of its own.
    pub(crate) max_request_bytes: Option<u64>,
    /// Whether the bodies of its requests may go on for ever.
    pub(crate) streams: bool,
    /// What may pass through WebSockets, where handshakes are passed on.
    pub(crate) websocket: Option<WebSocketPolicy>,
    /// Who may call it.
    pub(crate) auth: Accepted,
    /// Who may call it from a page in a browser.
    pub(crate) cors: Option<Cors>,
    /// The path at the upstream, when that is not the one that came.
    pub(crate) target: Option<Target>,
    /// `Host` at the upstream, when that is not the upstream's own.
    pub(crate) host: Option<HeaderValue>,
    pub(crate) request_edits: Edits,
    answer_edits: Edits,
    /// Rate limits of its own, whatever the caller's plan.
    pub(crate) limits: Vec<Rule>,
    /// Requests in flight, of all callers together.
    pub(crate) concurrency: Option<u32>,
    pub(crate) gates: Gates,
    /// Whether answers differ by who asks, in what caches between do not know: they must not give them to others.
    pub(crate) private: bool,
    /// Which answers are kept.
    pub(crate) cache: Option<CacheRule>,
    /// How repeats are answered.
    pub(crate) idempotency: Option<Idempotency>,
    /// Whether its requests may change what some route keeps answers about.
    pub(crate) changes: bool,
    allow: Vec<AddressRange>,
    deny: Vec<AddressRange>,
}

impl Route {
    fn compile(
        record: &RouteRecord,
        path: &[Segment],
        (upstream, told): (&Arc<Upstream>, &Routing),
        counts: StatusSet,
        anonymous: &HashMap<&str, Arc<AnonymousPlan>>,
    ) -> Result<Self, RoutingError> {
        let unusable = |e: &dyn std::fmt::Display| RoutingError::Unusable(record.slug.clone(), e.to_string());
        let policy = &record.policy;
        let rewrite = policy.rewrite.clone().unwrap_or_default();
        let target = rewrite.path.map(|to| Target::compile(&to, path)).transpose();
        let host = rewrite.host.map(HeaderValue::try_from).transpose();
        let gates = Gates::compile(&policy.gates);
        let auth = Accepted::compile(&policy.auth, anonymous);
        Ok(Self {
            private: gates.tell_callers_apart() && auth.takes_credentials(),
            number: record.number,
            slug: record.slug.clone(),
            path: record.path.clone(),
            upstream: Arc::clone(upstream),
            meter: record.meter,
            counts,
            weight: record.weight,
            feature: record.feature.clone(),
            auth,
            max_request_bytes: policy.max_request_bytes,
            streams: policy.streams,
            websocket: policy.websocket.filter(|_| upstream.protocol == Protocol::Http1),
            limits: Rule::of_route(&policy.limits, record.number),
            concurrency: policy.concurrency,
            gates,
            cache: policy.cache.as_ref().map(|cache| {
                let upstream = told.upstreams.iter().find(|u| u.number == record.upstream);
                CacheRule::compile(cache, record, upstream)
            }),
            idempotency: policy.idempotency.clone(),
            changes: told.routes.iter().any(|r| r.policy.cache.is_some()),
            cors: policy
                .cors
                .as_ref()
                .map(|cors| Cors::compile(cors, &policy.auth.key_headers)),
            target: target.map_err(|e| unusable(&e))?,
            host: host.map_err(|e| unusable(&e))?,
            request_edits: Edits::compile(&policy.request_headers).map_err(|e| unusable(&e))?,
            answer_edits: Edits::compile(&policy.answer_headers).map_err(|e| unusable(&e))?,
            allow: policy.allow_addresses.clone(),
            deny: policy.deny_addresses.clone(),
        })
    }

    /// Makes the head of an answer say what it shall say to clients.
    pub(crate) fn edit_answer(&self, headers: &mut HeaderMap) {
        self.answer_edits.apply(headers);
        if self.private {
            cache::make_private(headers);
        }
    }

    /// Refuses clients whose address may not come here.
    pub(crate) fn check_address(&self, client: IpAddr) -> Result<(), Refused> {
        let allowed = self.allow.is_empty() || self.allow.iter().any(|r| r.contains(client));
        if allowed && !self.deny.iter().any(|r| r.contains(client)) {
            return Ok(());
        }
        let detail = format!("Requests from {} are not let in here.", client.to_canonical());
        Err(Refused::new(Refusal::AddressRefused, detail))
    }
}

/// A route with what a request must have beyond its host and path.
#[derive(Debug)]
struct Candidate {
    methods: Vec<access::Method>,
    headers: Vec<(HeaderName, Option<HeaderValue>)>,
    priority: i32,
    route: Arc<Route>,
}

impl Candidate {
    /// Whether a request has them, or is to have them: a preflight names headers and keeps their values to itself.
    fn has_headers(&self, headers: &HeaderMap, promised: &[HeaderName]) -> bool {
        self.headers.iter().all(|(name, wanted)| {
            if promised.contains(name) {
                return true;
            }
            let mut values = headers.get_all(name).iter();
            match wanted {
                None => values.next().is_some(),
                Some(wanted) => values.any(|v| v == wanted),
            }
        })
    }
}

/// Whether a route whose path fits takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Taken,
    /// It asks for headers that the request has not.
    OtherHeaders,
    OtherMethod,
}

/// The paths of a host.
type Paths = tree::Tree<Candidate>;

/// The routing table, compiled.
#[derive(Debug)]
pub(crate) struct Routes {
    exact: HashMap<String, Paths>,
    /// By what a host ends with, the longest first.
    below: Vec<(String, Paths)>,
    everywhere: Paths,
    /// By number.
    pub(crate) upstreams: HashMap<u16, Arc<Upstream>>,
    pub(crate) portal_url: String,
    /// As it came, for the copy on disk.
    pub(crate) told: Routing,
}

/// Why a routing table cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoutingError {
    #[error("upstream {0} is unusable: {1}")]
    Upstream(String, String),
    #[error("route {0} names the unknown upstream {1}")]
    NoUpstream(String, u16),
    #[error("route {0}: {1}")]
    Unusable(String, String),
}

impl Routes {
    /// Compiles a table. Targets that are in the one before, too, are taken over with all that is known of them.
    pub(crate) fn compile(told: Routing, heritage: Heritage<'_>) -> Result<Self, RoutingError> {
        let mut upstreams = HashMap::new();
        for u in &told.upstreams {
            upstreams.insert(u.number, Arc::new(Upstream::compile(u, heritage)?));
        }
        let words = |m: &model::snapshot::MeterRecord| StatusSet::from_words(m.statuses.iter().map(String::as_str));
        let meters: HashMap<u16, StatusSet> = told.meters.iter().map(|m| (m.number, words(m))).collect();
        let plan = |e: &Entitlement| Arc::new(AnonymousPlan::compile(e));
        let anonymous = told
            .anonymous_plans
            .iter()
            .map(|e| (e.plan.as_str(), plan(e)))
            .collect();
        let mut by_host: HashMap<Option<&str>, Paths> = HashMap::new();
        for r in &told.routes {
            let upstream = upstreams.get(&r.upstream);
            let upstream = upstream.ok_or_else(|| RoutingError::NoUpstream(r.slug.clone(), r.upstream))?;
            let counts = meters.get(&r.meter).copied();
            let path = segments(&r.path).map_err(|e| RoutingError::Unusable(r.slug.clone(), e.to_string()))?;
            let counts = counts.unwrap_or_else(|| StatusSet::from_words([]));
            let route = Arc::new(Route::compile(r, &path, (upstream, &told), counts, &anonymous)?);
            let hosts = r.policy.hosts.iter().map(|h| Some(h.as_str()));
            for host in hosts.chain(r.policy.hosts.is_empty().then_some(None)) {
                let paths = by_host.entry(host).or_default();
                paths.insert(&path, candidate(r, &route)?);
            }
        }
        for paths in by_host.values_mut() {
            paths.sort_by_key(&|c| (Reverse(c.priority), Reverse(c.headers.len()), c.route.number));
        }
        let everywhere = by_host.remove(&None).unwrap_or_default();
        let (mut exact, mut below) = (HashMap::new(), Vec::new());
        for (host, paths) in by_host {
            let host = host.unwrap_or_default();
            match host.strip_prefix('*') {
                Some(suffix) => below.push((suffix.to_owned(), paths)),
                None => drop(exact.insert(host.to_owned(), paths)),
            }
        }
        below.sort_by_key(|(suffix, _)| Reverse(suffix.len()));
        Ok(Self {
            exact,
            below,
            everywhere,
            upstreams,
            portal_url: told.portal_url.trim_end_matches('/').to_owned(),
            told,
        })
    }

    /// The route of a request.
    pub(crate) fn find(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Arc<Route>, Refused> {
        self.find_watched(method, uri, (headers, &[]), &mut |_, _| {})
    }

    /// The route of the request that a page asks about in `headers`, which will have the headers in `promised`, too.
    pub(crate) fn find_promised(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        promised: &[HeaderName],
    ) -> Result<Arc<Route>, Refused> {
        self.find_watched(method, uri, (headers, promised), &mut |_, _| {})
    }

    /// The same; `watch` is told of every route that the path fits, in the order in which they are asked.
    pub(crate) fn find_watched(
        &self,
        method: &Method,
        uri: &Uri,
        (headers, promised): (&HeaderMap, &[HeaderName]),
        watch: &mut impl FnMut(&Route, Fit),
    ) -> Result<Arc<Route>, Refused> {
        let path = path::canonical(uri.path())?;
        let wanted = known_method(method);
        let mut allowed: Vec<access::Method> = Vec::new();
        for paths in self.at_host(uri, headers) {
            let fits = paths.find(&path, &mut |candidate| {
                if !candidate.has_headers(headers, promised) {
                    watch(&candidate.route, Fit::OtherHeaders);
                    return None;
                }
                if wanted.is_some_and(|w| w.is_among(&candidate.methods)) {
                    watch(&candidate.route, Fit::Taken);
                    return Some(Arc::clone(&candidate.route));
                }
                watch(&candidate.route, Fit::OtherMethod);
                allowed.extend(&candidate.methods);
                None
            });
            if let Some(route) = fits {
                return Ok(route);
            }
        }
        if allowed.is_empty() {
            return Err(Refused::new(Refusal::NoRoute, "No API has a route at this path."));
        }
        Err(other_method(allowed))
    }

    /// The path trees that may answer at the request's host, in the order they are asked.
    fn at_host<'a>(&'a self, uri: &'a Uri, headers: &'a HeaderMap) -> impl Iterator<Item = &'a Paths> {
        let hosted = !self.exact.is_empty() || !self.below.is_empty();
        let host = hosted.then(|| host::asked(uri, headers)).flatten();
        let exact = host.as_ref().and_then(|h| self.exact.get(&**h));
        let fits = move |(suffix, _): &&(String, Paths)| {
            host.as_ref()
                .is_some_and(|h| h.len() > suffix.len() && h.ends_with(suffix.as_str()))
        };
        let below = self.below.iter().filter(fits).map(|(_, paths)| paths);
        exact.into_iter().chain(below).chain(std::iter::once(&self.everywhere))
    }
}

/// The method as routes and limits know it; none when no route can be bound to it.
pub(crate) fn known_method(method: &Method) -> Option<access::Method> {
    match *method {
        Method::GET => Some(access::Method::Get),
        Method::HEAD => Some(access::Method::Head),
        Method::POST => Some(access::Method::Post),
        Method::PUT => Some(access::Method::Put),
        Method::PATCH => Some(access::Method::Patch),
        Method::DELETE => Some(access::Method::Delete),
        _ => method.as_str().parse().ok(),
    }
}

fn candidate(record: &RouteRecord, route: &Arc<Route>) -> Result<Candidate, RoutingError> {
    let unusable = |e: &dyn std::fmt::Display| RoutingError::Unusable(record.slug.clone(), e.to_string());
    let RoutePolicy {
        match_headers,
        priority,
        ..
    } = &record.policy;
    let mut headers = Vec::new();
    for (name, value) in match_headers {
        let name = HeaderName::try_from(name).map_err(|e| unusable(&e))?;
        let value = (value != "*").then(|| HeaderValue::try_from(value)).transpose();
        headers.push((name, value.map_err(|e| unusable(&e))?));
    }
    Ok(Candidate {
        methods: record.methods.clone(),
        headers,
        priority: *priority,
        route: Arc::clone(route),
    })
}

fn other_method(mut allowed: Vec<access::Method>) -> Refused {
    if allowed.contains(&access::Method::Get) {
        allowed.push(access::Method::Head);
    }
    allowed.sort();
    allowed.dedup();
    let words: Vec<&str> = allowed.iter().map(access::Method::word).collect();
    let words = words.join(", ");
    let refused = Refused::new(Refusal::MethodNotAllowed, format!("Allowed here: {words}."));
    refused.with(header::ALLOW, crate::headers::value(&words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::policy::UpstreamPolicy;
    use model::snapshot::{MeterRecord, UpstreamRecord};

    fn record(number: u16, slug: &str, path: &str, policy: &str) -> RouteRecord {
        RouteRecord {
            number,
            slug: slug.to_owned(),
            methods: vec![access::Method::Get],
            path: path.to_owned(),
            upstream: 1,
            meter: 1,
            weight: 1,
            feature: None,
            policy: serde_json::from_str(policy).unwrap(),
        }
    }

    fn compile(routes: Vec<RouteRecord>) -> Routes {
        let upstream = UpstreamRecord {
            number: 1,
            slug: "one".to_owned(),
            url: "http://127.0.0.1:1".to_owned(),
            first_byte_timeout_ms: 1,
            idle_timeout_ms: 1,
            policy: UpstreamPolicy::default(),
        };
        let meter = MeterRecord {
            number: 1,
            slug: "calls".to_owned(),
            statuses: Vec::new(),
        };
        Routes::compile(
            Routing {
                upstreams: vec![upstream],
                routes,
                meters: vec![meter],
                portal_url: String::new(),
                gateway_url: String::new(),
                anonymous_plans: Vec::new(),
                token_plans: Vec::new(),
                issuers: Vec::new(),
            },
            Heritage::default(),
        )
        .unwrap()
    }

    fn found(routes: &Routes, method: Method, path: &str, headers: &[(&str, &str)]) -> Result<String, Refusal> {
        let header = |(n, v): &(&str, &str)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap());
        let headers = headers.iter().map(header).collect();
        let route = routes.find(&method, &path.parse().unwrap(), &headers);
        route.map(|r| r.slug.clone()).map_err(|r| r.refusal())
    }

    #[test]
    fn the_narrowest_host_is_asked_first_and_the_next_when_nothing_fits() {
        let routes = compile(vec![
            record(1, "any", "/{*rest}", "{}"),
            record(2, "below", "/{*rest}", r#"{"hosts": ["*.example.com"]}"#),
            record(3, "deeper", "/v1/{id}", r#"{"hosts": ["*.eu.example.com"]}"#),
            record(4, "exact", "/v1/a", r#"{"hosts": ["a.eu.example.com"]}"#),
        ]);
        for (host, path, slug) in [
            ("a.eu.example.com", "/v1/a", "exact"),
            ("A.EU.Example.com:8443", "/v1/a", "exact"),
            ("a.eu.example.com", "/v1/b", "deeper"),
            ("a.eu.example.com", "/v2", "below"),
            ("example.com", "/v1/a", "any"),
            ("[::1]:80", "/v1/a", "any"),
        ] {
            let got = found(&routes, Method::GET, path, &[("host", host)]);
            assert_eq!(got.as_deref(), Ok(slug), "{host}{path}");
        }
        let absolute = found(&routes, Method::GET, "http://a.eu.example.com/v1/a", &[("host", "x")]);
        assert_eq!(
            absolute.as_deref(),
            Ok("exact"),
            "the target's host counts, not the header's"
        );
    }

    #[test]
    fn priority_goes_before_headers_and_more_headers_before_fewer() {
        let routes = compile(vec![
            record(1, "plain", "/a", "{}"),
            record(2, "beta", "/a", r#"{"match_headers": {"x-version": "beta"}}"#),
            record(
                3,
                "both",
                "/a",
                r#"{"match_headers": {"x-version": "beta", "x-debug": "*"}}"#,
            ),
            record(
                4,
                "first",
                "/a",
                r#"{"match_headers": {"x-first": "*"}, "priority": 1}"#,
            ),
        ]);
        for (headers, slug) in [
            (&[][..], "plain"),
            (&[("x-version", "stable")], "plain"),
            (&[("x-version", "beta")], "beta"),
            (&[("x-version", "beta"), ("x-debug", "1")], "both"),
            (&[("x-version", "beta"), ("x-debug", "1"), ("x-first", "1")], "first"),
        ] {
            assert_eq!(
                found(&routes, Method::GET, "/a", headers).as_deref(),
                Ok(slug),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn a_path_with_other_methods_is_not_missing() {
        let mut post = record(2, "post", "/a", "{}");
        post.methods = vec![access::Method::Post];
        let routes = compile(vec![record(1, "get", "/a", "{}"), post]);
        assert_eq!(found(&routes, Method::HEAD, "/a", &[]).as_deref(), Ok("get"));
        assert_eq!(found(&routes, Method::POST, "/a", &[]).as_deref(), Ok("post"));
        assert_eq!(found(&routes, Method::PUT, "/a", &[]), Err(Refusal::MethodNotAllowed));
        assert_eq!(found(&routes, Method::PUT, "/b", &[]), Err(Refusal::NoRoute));
    }

    #[test]
    fn addresses_kept_out_stay_out_even_when_let_in() {
        let policy = r#"{"allow_addresses": ["10.0.0.0/8"], "deny_addresses": ["10.6.6.6"]}"#;
        let routes = compile(vec![record(1, "inside", "/a", policy)]);
        let route = routes
            .find(&Method::GET, &"/a".parse().unwrap(), &HeaderMap::new())
            .unwrap();
        for (address, inside) in [
            ("10.1.1.1", true),
            ("::ffff:10.1.1.1", true),
            ("10.6.6.6", false),
            ("192.0.2.1", false),
        ] {
            assert_eq!(
                route.check_address(address.parse().unwrap()).is_ok(),
                inside,
                "{address}"
            );
        }
    }
}
