//! What is done with the requests of one route.

use super::{
    AddressRange, AuthPolicy, CachePolicy, Cors, Gate, HeaderEdits, HostPattern, Idempotency, PolicyError, RateRule,
    Rewrite, Segment, WebSocketPolicy, check_in_flight, check_rate_rules, is_header_name, websocket, wrong,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most hosts, header conditions or address ranges of one route: what a person can still oversee.
const MOST: usize = 100;

/// What is done with the requests of one route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoutePolicy {
    /// Hosts it answers at; none means every host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// Headers a request must have, by name in lower case, with their whole value; `*` for any value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_headers: BTreeMap<String, String>,
    /// Among routes with the same host, path and method the greater one is asked first.
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// Largest body of a request, in bytes; none leaves the gateway's own bound, which streams have not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_request_bytes: Option<u64>,
    /// Whether the bodies of its requests are streams: as slow and as large as they like, as those of gRPC calls are
    /// without a word. They end when both sides are silent for the upstream's `idle_timeout_ms`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub streams: bool,
    /// Client addresses let in; none means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_addresses: Vec<AddressRange>,
    /// Client addresses kept out, even when they are let in above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny_addresses: Vec<AddressRange>,
    /// Pages of other origins that may call it; none means no page may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// Where requests go at the upstream, when that is not where they came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// What changes in requests on their way to the upstream.
    #[serde(skip_serializing_if = "HeaderEdits::is_empty")]
    pub request_headers: HeaderEdits,
    /// What changes in answers on their way to the client.
    #[serde(skip_serializing_if = "HeaderEdits::is_empty")]
    pub answer_headers: HeaderEdits,
    /// Whether WebSocket handshakes are passed on, and what may pass behind them; the upstream must speak HTTP/1.1.
    #[serde(
        deserialize_with = "websocket::read",
        serialize_with = "websocket::write",
        skip_serializing_if = "Option::is_none"
    )]
    pub websocket: Option<WebSocketPolicy>,
    /// Rate limits of this route, whatever the caller's plan.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<RateRule>,
    /// Requests in flight at once, of all callers together; none means any number. Event streams count while they are
    /// open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Who may call it.
    #[serde(skip_serializing_if = "AuthPolicy::is_default")]
    pub auth: AuthPolicy,
    /// What of it needs a feature.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    /// Which answers are kept and given again; none means none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CachePolicy>,
    /// How repeats of a request with an `Idempotency-Key` are answered; none means that it is the upstream's affair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

impl RoutePolicy {
    /// Checks what the types do not say, for a route with this path.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self, path: &[Segment]) -> Result<(), PolicyError> {
        for (field, count) in [
            ("hosts", self.hosts.len()),
            ("match_headers", self.match_headers.len()),
            ("allow_addresses", self.allow_addresses.len()),
            ("deny_addresses", self.deny_addresses.len()),
        ] {
            if count > MOST {
                return wrong(field, format!("at most {MOST}"));
            }
        }
        for (name, value) in &self.match_headers {
            if !is_header_name(name) {
                return wrong(
                    "match_headers",
                    format!("{name:?} is not a header's name in lower case"),
                );
            }
            if value.is_empty() || !value.bytes().all(|b| (b' '..0x7f).contains(&b)) {
                return wrong(
                    "match_headers",
                    format!("the value of {name} must be visible ASCII, or *"),
                );
            }
        }
        check_rate_rules(&self.limits)?;
        check_in_flight("concurrency", self.concurrency)?;
        if let Some(rule) = self.limits.iter().find(|r| !r.routes.is_empty()) {
            let problem = format!("{}: a route's limit holds for that route; remove routes", rule.name);
            return wrong("limits", problem);
        }
        let in_bodies = |g: &Gate| !(g.request_fields.is_empty() && g.response_fields.is_empty());
        if self.websocket.is_some() && self.gates.iter().any(in_bodies) {
            return wrong(
                "websocket",
                "what passes through a WebSocket cannot be gated: give it a route of its own",
            );
        }
        let reads_whole = self.idempotency.is_some() || self.gates.iter().any(|g| !g.request_fields.is_empty());
        if self.streams && reads_whole {
            return wrong(
                "streams",
                "with idempotency, or a gate's request_fields, bodies are read whole before they go on: remove one",
            );
        }
        self.websocket.as_ref().map_or(Ok(()), WebSocketPolicy::check)?;
        self.auth.check()?;
        self.cache.as_ref().map_or(Ok(()), CachePolicy::check)?;
        self.idempotency.as_ref().map_or(Ok(()), Idempotency::check)?;
        self.request_headers.check("request_headers")?;
        self.answer_headers.check("answer_headers")?;
        self.rewrite.as_ref().map_or(Ok(()), |r| r.check(path))?;
        self.cors.as_ref().map_or(Ok(()), Cors::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::segments;

    fn read(text: &str) -> Result<RoutePolicy, String> {
        let policy: RoutePolicy = toml::from_str(text).map_err(|e| e.to_string())?;
        policy.check(&segments("/a").unwrap()).map_err(|e| e.to_string())?;
        Ok(policy)
    }

    #[test]
    fn what_is_read_whole_is_no_stream() {
        assert!(read("streams = true\nmax_request_bytes = 5").unwrap().streams);
        assert_eq!(serde_json::to_string(&read("streams = false").unwrap()).unwrap(), "{}");
        for other in [
            "idempotency = {}",
            r#"gates = [{ feature = "history", request_fields = ["history"] }]"#,
        ] {
            let told = read(&format!("streams = true\n{other}")).unwrap_err();
            assert!(told.contains("streams") && told.contains("read whole"), "{told}");
            read(other).unwrap();
        }
    }
}
