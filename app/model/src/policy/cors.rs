//! Cross-origin requests: which pages in a browser may call a route (Fetch standard, "CORS protocol").

use super::{PolicyError, is_header_name, wrong};
use serde::{Deserialize, Serialize};

/// Longest time a browser may remember a preflight, in seconds. Chromium keeps none for longer than two hours.
const MAX_AGE_MOST_S: u32 = 86_400;

/// Who may call a route from a page in a browser, and open its WebSockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// `https://app.example.com`; `https://*.example.com` for every host below; `*` for every origin.
    pub origins: Vec<String>,
    /// Request headers a page may send beside the ordinary ones, in lower case. The key's header is always among them.
    #[serde(default)]
    pub request_headers: Vec<String>,
    /// Answer headers a page may read beside the ordinary ones, in lower case. The gateway's own are always among them.
    #[serde(default)]
    pub exposed_headers: Vec<String>,
    /// Pages may send cookies and client certificates. Not together with `*`.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may remember a preflight, in seconds.
    #[serde(default = "default_max_age_s")]
    pub max_age_s: u32,
}

fn default_max_age_s() -> u32 {
    600
}

impl Cors {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if self.origins.is_empty() {
            return wrong("cors.origins", "name at least one origin, or leave cors out");
        }
        for origin in &self.origins {
            if origin == "*" {
                if self.credentials {
                    return wrong("cors.origins", "\"*\" cannot go with credentials: name the origins");
                }
            } else if !is_origin(origin) {
                let problem = format!("{origin:?} must be like https://app.example.com, without a path, or \"*\"");
                return wrong("cors.origins", problem);
            }
        }
        for name in self.request_headers.iter().chain(&self.exposed_headers) {
            if !is_header_name(name) {
                return wrong("cors", format!("{name:?} is not a header's name in lower case"));
            }
        }
        if self.max_age_s > MAX_AGE_MOST_S {
            return wrong("cors.max_age_s", format!("must be at most {MAX_AGE_MOST_S}"));
        }
        Ok(())
    }

    /// Whether a page of this origin may call. Compared byte for byte, as browsers send origins in one form.
    pub fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| {
            allowed == "*"
                || allowed == origin
                || allowed.split_once("*.").is_some_and(|(scheme, domain)| {
                    origin
                        .strip_prefix(scheme)
                        .and_then(|host| host.strip_suffix(domain))
                        .and_then(|below| below.strip_suffix('.'))
                        .is_some_and(|below| !below.is_empty() && !below.contains(['/', ':', '@']))
                })
        })
    }
}

fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let host = rest.strip_prefix("*.").unwrap_or(rest);
    matches!(scheme, "http" | "https")
        && !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        Cors {
            origins: origins.iter().map(ToString::to_string).collect(),
            request_headers: Vec::new(),
            exposed_headers: Vec::new(),
            credentials: false,
            max_age_s: 600,
        }
    }

    #[test]
    fn an_origin_is_allowed_as_a_whole() {
        let some = cors(&["https://app.example.com", "https://*.example.org"]);
        for (origin, allowed) in [
            ("https://app.example.com", true),
            ("http://app.example.com", false),
            ("https://app.example.com.evil.net", false),
            ("https://evil-app.example.com", false),
            ("https://a.example.org", true),
            ("https://a.b.example.org", true),
            ("https://example.org", false),
            ("https://.example.org", false),
            ("https://evilexample.org", false),
            ("https://evil.net/.example.org", false),
            ("null", false),
        ] {
            assert_eq!(some.allows(origin), allowed, "{origin}");
        }
        assert!(cors(&["*"]).allows("null"));
    }

    #[test]
    fn what_browsers_would_not_honour_is_refused() {
        for origins in [
            &["https://app.example.com/"][..],
            &["app.example.com"],
            &["https://"],
            &[],
        ] {
            assert!(cors(origins).check().is_err(), "{origins:?}");
        }
        let both = Cors {
            credentials: true,
            ..cors(&["*"])
        };
        assert!(both.check().is_err());
        assert_eq!(
            cors(&["https://*.example.org", "http://localhost:5173"]).check(),
            Ok(())
        );
    }
}
