//! Where an upstream's requests go.

use super::{PolicyError, is_header_name, wrong};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::str::FromStr;

/// Most targets of an upstream, and most of its canary: what metrics can still name one by one.
pub const TARGETS_MOST: usize = 64;
/// Greatest weight: ratios of 1 to 1000 can be said, and sums stay small.
const WEIGHT_MOST: u16 = 1000;

/// The address of a service: `http://host`, `https://host:port`, without a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceUrl {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// 80, or 443 with TLS, unless it says otherwise.
    pub port: u16,
    text: String,
}

/// The text is no such address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} must be http://host, https://host or either with :port, without a path")]
pub struct ServiceUrlError(String);

impl ServiceUrl {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// Host and port as they are written: what `Host` says.
    pub fn authority(&self) -> &str {
        self.text.split_once("//").map_or("", |(_, rest)| rest)
    }
}

impl FromStr for ServiceUrl {
    type Err = ServiceUrlError;

    fn from_str(text: &str) -> Result<Self, ServiceUrlError> {
        let wrong = || ServiceUrlError(text.chars().take(80).collect());
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(wrong()),
        };
        let (host, port) = if let Some(inner) = rest.strip_prefix('[') {
            let (host, after) = inner.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            let port = if after.is_empty() {
                None
            } else {
                Some(after.strip_prefix(':').ok_or_else(wrong)?)
            };
            (host, port)
        } else {
            let (host, port) = rest.split_once(':').map_or((rest, None), |(h, p)| (h, Some(p)));
            let named = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            if host.is_empty() || host.len() > 253 || !host.bytes().all(named) {
                return Err(wrong());
            }
            (host, port)
        };
        let default = if tls { 443 } else { 80 };
        let number = |p: &str| {
            p.parse::<u16>()
                .ok()
                .filter(|n| *n > 0 && p.bytes().all(|b| b.is_ascii_digit()))
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: port.map_or(Some(default), number).ok_or_else(wrong)?,
            text: text.to_owned(),
        })
    }
}

impl Serialize for ServiceUrl {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ServiceUrl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One of the machines behind an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Where it is.
    pub url: ServiceUrl,
    /// Its share of the requests, against the other targets': 1 to 1000.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u16,
}

fn one() -> u16 {
    1
}
fn is_one(weight: &u16) -> bool {
    *weight == 1
}

/// Targets that try something out with a part of the requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The machines that get these requests; while none of them can, the others do.
    pub targets: Vec<Target>,
    /// Percent of the consumers whose requests go there: always the same consumers, and more of them as it grows.
    #[serde(default)]
    pub percent: u8,
    /// Requests with this header go there too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Only when the header has this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl Canary {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if self.targets.is_empty() {
            return wrong("canary.targets", "needs at least one target");
        }
        check_targets("canary.targets", &self.targets)?;
        if self.percent > 100 {
            return wrong("canary.percent", "must be 0 to 100");
        }
        if self.header.as_deref().is_some_and(|h| !is_header_name(h)) {
            return wrong("canary.header", "is not a header's name in lower case");
        }
        match &self.value {
            Some(_) if self.header.is_none() => wrong("canary.value", "needs a header to be the value of"),
            Some(value) if value.is_empty() || !value.bytes().all(|b| (b' '..0x7f).contains(&b)) => {
                wrong("canary.value", "must be visible ASCII")
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn check_targets(field: &'static str, targets: &[Target]) -> Result<(), PolicyError> {
    if targets.len() > TARGETS_MOST {
        return wrong(field, format!("at most {TARGETS_MOST}"));
    }
    for (i, target) in targets.iter().enumerate() {
        if !(1..=WEIGHT_MOST).contains(&target.weight) {
            return wrong(
                field,
                format!("the weight of {} must be 1 to {WEIGHT_MOST}", target.url.as_str()),
            );
        }
        if targets[..i].iter().any(|t| t.url == target.url) {
            return wrong(field, format!("{} stands there twice", target.url.as_str()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_scheme_and_no_path() {
        for (text, tls, host, port) in [
            ("http://a", false, "a", 80),
            ("https://a.example", true, "a.example", 443),
            ("http://10.0.0.1:8080", false, "10.0.0.1", 8080),
            ("https://[::1]:8443", true, "::1", 8443),
            ("http://[::1]", false, "::1", 80),
        ] {
            let url: ServiceUrl = text.parse().unwrap();
            assert_eq!((url.tls, url.host.as_str(), url.port), (tls, host, port), "{text}");
            assert!(text.ends_with(url.authority()));
        }
        for text in [
            "",
            "a",
            "ftp://a",
            "http://",
            "http://a/",
            "http://a?b",
            "http://u@a",
            "http://a:0",
            "http://a:+1",
            "http://a:70000",
            "http://[::1",
            "http://a b",
            "http://[a]",
        ] {
            assert!(text.parse::<ServiceUrl>().is_err(), "{text}");
        }
    }
}
