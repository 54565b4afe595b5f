//! How an upstream is called.

use super::target::check_targets;
use super::{
    Breaker, Canary, Health, IdentityForm, PolicyError, Protocol, Retries, Target, UpstreamTls, check_in_flight, wrong,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest wait for a connection that makes sense: clients have long given up by then.
const CONNECT_MOST_MS: u32 = 60_000;
/// Longest time for a request as a whole: a day.
const TOTAL_MOST_MS: u32 = 86_400_000;

/// How long a request waits for a place when nothing is said: callers notice a second, and give up after few.
const WAIT_DEFAULT: Duration = Duration::from_secs(1);
/// Longest wait that makes sense: clients have long given up by then.
const WAIT_MOST_MS: u32 = 60_000;

/// How an upstream is called.
///
/// Without `targets` its `url` is its one target. With them the `url` names the service and is not called: it is what
/// `Host` says, and whose certificate targets with TLS must show.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamPolicy {
    /// Longest wait for a connection, in milliseconds; none leaves the gateway's own bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u32>,
    /// Longest time for a request as a whole, its answer's body included, in milliseconds; none means no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_timeout_ms: Option<u32>,
    /// The machines it runs on. Each request goes to the one with the fewest open requests for its weight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// Other machines, for a part of the requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// When a request is tried on another target; with several targets the default is one more attempt, with one none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// When a target is left out; with several targets there is a default, with one there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// Checks beside the requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What is spoken with it.
    #[serde(skip_serializing_if = "Protocol::is_default")]
    pub protocol: Protocol,
    /// How it is told who is calling: in `headers`, which it must take on trust, or in place of them by `jwt`, a token
    /// of five minutes that the gateway signs (`X-Identity-Token`; the public keys are at
    /// `/.well-known/turnpike/jwks.json` of the gateway).
    #[serde(skip_serializing_if = "IdentityForm::is_default")]
    pub identity: IdentityForm,
    /// How its certificates are checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
    /// Requests in flight at once, from one gateway; none means any number. Above it the higher
    /// [`priority`](crate::catalogue::PlanFile::priority) goes first, and the others wait or are shed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// Longest wait for a place among them, in milliseconds; 1,000 when left out, 0 to let nobody wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_wait_ms: Option<u32>,
}

impl UpstreamPolicy {
    /// Longest wait for a place among the requests in flight.
    pub fn max_wait(&self) -> Duration {
        self.max_wait_ms
            .map_or(WAIT_DEFAULT, |ms| Duration::from_millis(ms.into()))
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), PolicyError> {
        check_in_flight("max_in_flight", self.max_in_flight)?;
        match self.max_wait_ms {
            Some(ms) if ms > WAIT_MOST_MS => return wrong("max_wait_ms", format!("must be 0 to {WAIT_MOST_MS}")),
            Some(_) if self.max_in_flight.is_none() => {
                return wrong(
                    "max_wait_ms",
                    "nobody waits without a max_in_flight: give it, or leave this out",
                );
            }
            _ => {}
        }
        for (field, given, most) in [
            ("connect_timeout_ms", self.connect_timeout_ms, CONNECT_MOST_MS),
            ("total_timeout_ms", self.total_timeout_ms, TOTAL_MOST_MS),
        ] {
            if given.is_some_and(|ms| ms == 0 || ms > most) {
                return wrong(field, format!("must be 1 to {most}"));
            }
        }
        check_targets("targets", &self.targets)?;
        self.canary.as_ref().map_or(Ok(()), Canary::check)?;
        self.retries.as_ref().map_or(Ok(()), Retries::check)?;
        self.breaker.as_ref().map_or(Ok(()), Breaker::check)?;
        self.health.as_ref().map_or(Ok(()), Health::check)?;
        self.tls.as_ref().map_or(Ok(()), UpstreamTls::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<UpstreamPolicy, String> {
        let policy: UpstreamPolicy = toml::from_str(text).map_err(|e| e.to_string())?;
        policy.check().map_err(|e| e.to_string())?;
        Ok(policy)
    }

    #[test]
    fn a_whole_policy_survives_being_stored() {
        let text = r#"
            total_timeout_ms = 30000
            protocol = "http2"
            targets = [{ url = "http://10.0.0.1:8080", weight = 2 }, { url = "https://b" }]
            canary = { targets = [{ url = "http://c" }], percent = 5, header = "x-canary", value = "1" }
            retries = { attempts = 3, statuses = [502, 503] }
            breaker = { consecutive_failures = 2 }
            health = { path = "/healthz?a" }
            tls = { ca_file = "/a/ca.pem", server_name = "b" }
        "#;
        let policy = read(text).unwrap();
        let stored = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<UpstreamPolicy>(&stored).unwrap(), policy);
        assert_eq!(serde_json::to_string(&UpstreamPolicy::default()).unwrap(), "{}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, field) in [
            ("total_timeout_ms = 0", "total_timeout_ms"),
            (r#"targets = [{ url = "http://a", weight = 0 }]"#, "targets"),
            (r#"targets = [{ url = "http://a" }, { url = "http://a" }]"#, "targets"),
            (r#"targets = [{ url = "http://a/b" }]"#, "without a path"),
            ("canary = { targets = [] }", "canary.targets"),
            (
                r#"canary = { targets = [{ url = "http://c" }], percent = 101 }"#,
                "canary.percent",
            ),
            (
                r#"canary = { targets = [{ url = "http://c" }], header = "X-A" }"#,
                "canary.header",
            ),
            (
                r#"canary = { targets = [{ url = "http://c" }], value = "1" }"#,
                "canary.value",
            ),
            ("retries = { attempts = 9 }", "retries.attempts"),
            ("retries = { statuses = [404] }", "retries.statuses"),
            ("breaker = { open_ms = 9, max_open_ms = 8 }", "breaker.open_ms"),
            (r#"health = { path = "a" }"#, "health.path"),
            (r#"health = { path = "/a", interval_ms = 1 }"#, "health.interval_ms"),
            (r#"tls = { ca_file = "a" }"#, "tls.ca_file"),
            (r#"tls = { client_key_file = "/a" }"#, "tls.client_key_file"),
            ("tls = { verify = false }", "verify"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains(field), "{text}: {told}");
        }
    }
}
