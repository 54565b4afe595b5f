//! Where a request goes at its upstream, when that is not where it came.

use super::{PatternError, PolicyError, Segment, segments, wrong};
use serde::{Deserialize, Serialize};

/// Another path and host for the upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    /// The path at the upstream, with the parameters of the route's path: `/internal/{code}`, and `{rest}` for what
    /// `{*rest}` took. The query is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `Host` at the upstream; none means the upstream's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// A part of the path at the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Exactly this, with its slashes.
    Text(String),
    /// The segment at this place of the path as it came, from 0.
    Segment(usize),
    /// Everything from this place on.
    Rest(usize),
}

impl Rewrite {
    pub(super) fn check(&self, route: &[Segment]) -> Result<(), PolicyError> {
        if let Some(path) = &self.path
            && let Err(error) = parts(path, route)
        {
            return wrong("rewrite.path", error.to_string());
        }
        let plain = |h: &String| {
            !h.is_empty() && h.len() <= 255 && h.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
        };
        match &self.host {
            Some(host) if !plain(host) => wrong(
                "rewrite.host",
                format!("{host:?} must be a host, with a port if need be"),
            ),
            _ => Ok(()),
        }
    }
}

/// The parts of a path at the upstream, with the parameters of `route`, the path as it comes.
///
/// # Errors
/// When it is no path, or names a parameter that the route's path does not have.
pub fn parts(path: &str, route: &[Segment]) -> Result<Vec<Part>, PatternError> {
    let wrong = |problem| PatternError::new(path, problem);
    let mut out = vec![Part::Text(String::new())];
    for segment in segments(path)? {
        push(&mut out, "/");
        let place = |name: &String| {
            let called = |s: &Segment| matches!(s, Segment::Parameter(n) | Segment::Rest(n) if n == name);
            route.iter().position(called)
        };
        match &segment {
            Segment::Plain(text) if matches!(text.as_str(), "." | "..") => {
                return Err(wrong("must not hold . or .. as a segment"));
            }
            Segment::Plain(text) => push(&mut out, text),
            Segment::Parameter(name) | Segment::Rest(name) => {
                let found =
                    place(name).ok_or_else(|| wrong("names a parameter that the route's path does not have"))?;
                out.push(match route.get(found) {
                    Some(Segment::Rest(_)) => Part::Rest(found),
                    _ => Part::Segment(found),
                });
            }
        }
    }
    Ok(out)
}

fn push(out: &mut Vec<Part>, text: &str) {
    match out.last_mut() {
        Some(Part::Text(last)) => last.push_str(text),
        _ => out.push(Part::Text(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_the_routes_path() {
        let route = segments("/v1/{code}/{*rest}").unwrap();
        let text = |t: &str| Part::Text(t.to_owned());
        assert_eq!(
            parts("/{rest}/of/{code}", &route).unwrap(),
            [text("/"), Part::Rest(2), text("/of/"), Part::Segment(1)]
        );
        assert_eq!(parts("/", &route).unwrap(), [text("/")]);
        for path in ["/{other}", "v1", "/a/../b", "/{code}x"] {
            assert!(parts(path, &route).is_err(), "{path}");
        }
    }
}
