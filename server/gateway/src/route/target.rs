//! The path a request has at its upstream, when that is not the one it came with.

use http::Uri;
use model::policy::{Part, PatternError, Segment};

/// A rewritten path, compiled.
#[derive(Debug)]
pub(crate) struct Target(Vec<Part>);

impl Target {
    /// For a route with this path.
    pub(super) fn compile(path: &str, route: &[Segment]) -> Result<Self, PatternError> {
        model::policy::parts(path, route).map(Self)
    }

    /// Path and query for a request. What is taken from its path is taken byte for byte: the segments that were
    /// matched are those of the path as it is written, because no escape of a slash is let through.
    pub(crate) fn apply(&self, uri: &Uri) -> String {
        let path = uri.path().strip_prefix('/').unwrap_or_default();
        let mut out = String::with_capacity(path.len() + 32);
        for part in &self.0 {
            out.push_str(match part {
                Part::Text(text) => text,
                Part::Segment(place) => path.split('/').nth(*place).unwrap_or_default(),
                Part::Rest(place) => rest(path, *place),
            });
        }
        if let Some(query) = uri.query() {
            out.push('?');
            out.push_str(query);
        }
        out
    }
}

/// What follows the first `count` slashes.
fn rest(path: &str, count: usize) -> &str {
    path.splitn(count + 1, '/').nth(count).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::policy::segments;

    #[test]
    fn parameters_keep_their_bytes_and_the_query_stays() {
        let route = segments("/v1/{code}/{*rest}").unwrap();
        for (path, asked, wanted) in [
            (
                "/{rest}/of/{code}",
                "/v1/c%20h/a/b%C3%A9?x=%2F&y",
                "/a/b%C3%A9/of/c%20h?x=%2F&y",
            ),
            ("/fixed", "/v1/ch/a", "/fixed"),
            ("/v2/{code}/{rest}", "/v1/ch/a/", "/v2/ch/a/"),
            ("/", "/v1/ch/a?", "/?"),
        ] {
            let target = Target::compile(path, &route).unwrap();
            assert_eq!(target.apply(&asked.parse().unwrap()), wanted);
        }
    }
}
