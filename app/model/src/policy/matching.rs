//! Host and path patterns of routes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::str::FromStr;

/// Longest host name (RFC 1035, 2.3.4).
const HOST_MOST: usize = 253;

/// A host a route answers at: `api.example.com`, or `*.example.com` for every host below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPattern(String);

/// The text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} {problem}")]
pub struct PatternError {
    given: String,
    problem: &'static str,
}

impl PatternError {
    pub(super) fn new(given: &str, problem: &'static str) -> Self {
        Self {
            given: given.chars().take(80).collect(),
            problem,
        }
    }
}

impl HostPattern {
    /// What a host below a wildcard ends with (`.example.com`); none when it is one host.
    pub fn suffix(&self) -> Option<&str> {
        self.0.strip_prefix('*')
    }
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether a host, in lower case and without a port, is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self.suffix() {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == self.0,
        }
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let host = text.strip_prefix("*.").unwrap_or(text);
        let label = |l: &str| {
            let plain = l
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            (1..=63).contains(&l.len()) && plain && !l.starts_with('-') && !l.ends_with('-')
        };
        if text.len() <= HOST_MOST && host.split('.').all(label) {
            return Ok(Self(text.to_owned()));
        }
        Err(PatternError::new(
            text,
            "must be a host in lower case without a port, such as api.example.com or *.example.com",
        ))
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A part of a route's path between two slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Exactly this.
    Plain(String),
    /// `{name}`: one segment that is not empty.
    Parameter(String),
    /// `{*name}`: everything from here on, not empty. Only at the end.
    Rest(String),
}

/// The segments of a route's path.
///
/// # Errors
/// When a brace does not enclose a whole segment, a name is not one, stands there twice, or a rest is not at the end.
pub fn segments(path: &str) -> Result<Vec<Segment>, PatternError> {
    let wrong = |problem| PatternError::new(path, problem);
    let parts = path.strip_prefix('/').ok_or_else(|| wrong("must begin with /"))?;
    let mut out = Vec::new();
    for part in parts.split('/') {
        if matches!(out.last(), Some(Segment::Rest(_))) {
            return Err(wrong("must end with the segment that takes the rest"));
        }
        let Some(inner) = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) else {
            if part.contains(['{', '}']) {
                return Err(wrong("must have braces around whole segments, as in /v1/{id}"));
            }
            out.push(Segment::Plain(part.to_owned()));
            continue;
        };
        let name = inner.strip_prefix('*').unwrap_or(inner);
        let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.is_empty() || !name.bytes().all(letters) {
            return Err(wrong("must name its parameters with letters, digits, _ and -"));
        }
        let taken = |s: &Segment| matches!(s, Segment::Parameter(n) | Segment::Rest(n) if n == name);
        if out.iter().any(taken) {
            return Err(wrong("must not name two parameters alike"));
        }
        out.push(if inner == name {
            Segment::Parameter(name.to_owned())
        } else {
            Segment::Rest(name.to_owned())
        });
    }
    Ok(out)
}

/// A route's path with its parameters called by their place: `/a/{id}` and `/a/{code}` take the same requests.
pub fn shape(segments: &[Segment]) -> String {
    let word = |s: &Segment| match s {
        Segment::Plain(text) => format!("/{text}"),
        Segment::Parameter(_) => "/{}".to_owned(),
        Segment::Rest(_) => "/{*}".to_owned(),
    };
    segments.iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_plain_or_have_one_star_in_front() {
        for (text, good) in [
            ("api.example.com", true),
            ("*.example.com", true),
            ("localhost", true),
            ("API.example.com", false),
            ("api.*.com", false),
            ("*", false),
            ("api.example.com:443", false),
            ("api..com", false),
            ("-a.com", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<HostPattern>().is_ok(), good, "{text}");
        }
        let below: HostPattern = "*.example.com".parse().unwrap();
        assert!(below.matches("a.example.com") && below.matches("a.b.example.com"));
        assert!(!below.matches("example.com") && !below.matches(".example.com") && !below.matches("aexample.com"));
    }

    #[test]
    fn braces_enclose_whole_segments() {
        for path in [
            "a",
            "/a{id}",
            "/{id}.json",
            "/{}",
            "/{*}",
            "/{*rest}/a",
            "/{a}/{a}",
            "/{a b}",
            "/}a{",
        ] {
            assert!(segments(path).is_err(), "{path}");
        }
        let named = |path| shape(&segments(path).unwrap());
        assert_eq!(named("/a/{id}/{*rest}"), named("/a/{code}/{*tail}"));
        assert_ne!(named("/a/{id}"), named("/a/{*id}"));
        assert_eq!(segments("/").unwrap(), [Segment::Plain(String::new())]);
    }
}
