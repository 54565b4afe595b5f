//! `Cache-Control`, of requests and of answers (RFC 9111, section 5.2).

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, PRAGMA};

/// The greatest number of seconds: what is longer counts as this (RFC 9111, section 1.2.2).
const SECONDS_MOST: u64 = 1 << 31;

/// What some caches between go by before `Cache-Control` (RFC 9213, and what came before it).
const TARGETED: [HeaderName; 2] = [
    HeaderName::from_static("cdn-cache-control"),
    HeaderName::from_static("surrogate-control"),
];

/// What a request says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) no_store: bool,
    /// Whatever is kept is to be validated first.
    pub(super) no_cache: bool,
    /// The upstream is not to be asked.
    pub(super) only_if_cached: bool,
    /// Seconds, as the following.
    pub(super) max_age: Option<u64>,
    pub(super) min_fresh: u64,
    /// For how long it may be stale.
    pub(super) max_stale: Option<u64>,
}

/// What an answer says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) no_store: bool,
    pub(super) private: bool,
    /// It is to be validated before every use.
    pub(super) no_cache: bool,
    /// It may never be used stale.
    pub(super) strict: bool,
    pub(super) max_age: Option<u64>,
    pub(super) s_maxage: Option<u64>,
}

impl Wanted {
    /// From the headers of a request.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut wanted = Self::default();
        for value in headers.get_all(CACHE_CONTROL) {
            each(value.as_bytes(), |name, argument| match name {
                "no-store" => wanted.no_store = true,
                "no-cache" => wanted.no_cache = true,
                "only-if-cached" => wanted.only_if_cached = true,
                "max-age" => least(&mut wanted.max_age, argument),
                "min-fresh" => wanted.min_fresh = wanted.min_fresh.max(seconds(argument)),
                "max-stale" if argument.is_empty() => wanted.max_stale = Some(SECONDS_MOST),
                "max-stale" => least(&mut wanted.max_stale, argument),
                _ => {}
            });
        }
        if !headers.contains_key(CACHE_CONTROL) {
            // How HTTP/1.0 asked for it, and some clients still do.
            let asks = |v: &http::HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"no-cache");
            wanted.no_cache = headers.get_all(PRAGMA).iter().any(asks);
        }
        wanted
    }
}

impl Said {
    /// From the headers of an answer. What names fields (`private="a"`) counts as if it named none.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut said = Self::default();
        for value in headers.get_all(CACHE_CONTROL) {
            each(value.as_bytes(), |name, argument| match name {
                "no-store" => said.no_store = true,
                "private" => said.private = true,
                "no-cache" => said.no_cache = true,
                "must-revalidate" | "proxy-revalidate" => said.strict = true,
                "max-age" => least(&mut said.max_age, argument),
                "s-maxage" => {
                    least(&mut said.s_maxage, argument);
                    said.strict = true;
                }
                _ => {}
            });
        }
        said
    }
}

/// Says that an answer is one caller's: caches between give it to nobody else. What it says to the caller's own cache stays.
pub(crate) fn make_private(headers: &mut HeaderMap) {
    for name in &TARGETED {
        headers.remove(name);
    }
    let mut said = String::from("private");
    for value in headers.get_all(CACHE_CONTROL) {
        let Ok(text) = value.to_str() else {
            said.push_str(", no-store");
            continue;
        };
        for part in parts(text).map(str::trim).filter(|p| !p.is_empty()) {
            let name = part.split('=').next().unwrap_or_default().trim();
            if !["public", "private", "s-maxage"]
                .iter()
                .any(|n| name.eq_ignore_ascii_case(n))
            {
                said.push_str(", ");
                said.push_str(part);
            }
        }
    }
    let said = HeaderValue::try_from(said).unwrap_or(HeaderValue::from_static("no-store"));
    headers.insert(CACHE_CONTROL, said);
}

/// Of two that say different things the one that keeps less counts.
fn least(known: &mut Option<u64>, argument: &str) {
    let new = seconds(argument);
    *known = Some(known.map_or(new, |k| k.min(new)));
}

/// What is no number is none: then it is stale at once.
fn seconds(text: &str) -> u64 {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return 0;
    }
    text.parse::<u64>().map_or(SECONDS_MOST, |n| n.min(SECONDS_MOST))
}

/// The members of a list; one may have commas inside its quotes.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

/// Calls `tell` with every directive in lower case, and its argument without quotes.
fn each(value: &[u8], mut tell: impl FnMut(&str, &str)) {
    let Ok(text) = std::str::from_utf8(value) else {
        // What cannot be read may forbid everything.
        tell("no-store", "");
        return;
    };
    for part in parts(text) {
        let (name, argument) = part.split_once('=').unwrap_or((part, ""));
        tell(&name.trim().to_ascii_lowercase(), argument.trim().trim_matches('"'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&'static str]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for line in lines {
            out.append(CACHE_CONTROL, HeaderValue::from_static(line));
        }
        out
    }

    #[test]
    fn answers_are_read_in_favour_of_keeping_less() {
        let said = |lines: &[&'static str]| Said::of(&headers(lines));
        let lifetime = |lines: &[&'static str]| said(lines).max_age;
        assert_eq!(lifetime(&["max-age=60"]), Some(60));
        assert_eq!(lifetime(&["Max-Age=\"60\" , x"]), Some(60));
        assert_eq!(lifetime(&["max-age=60, max-age=5"]), Some(5));
        assert_eq!(lifetime(&["max-age=60", "max-age=0"]), Some(0));
        assert_eq!(lifetime(&["max-age=-1"]), Some(0));
        assert_eq!(lifetime(&["max-age"]), Some(0));
        assert_eq!(lifetime(&["max-age=99999999999999999999"]), Some(SECONDS_MOST));
        assert_eq!(lifetime(&["ext=\"a,max-age=60\""]), None);
        assert!(said(&["public, PRIVATE=\"set-cookie, x\", max-age=1"]).private);
        assert!(said(&["s-maxage=9"]).strict && said(&["proxy-revalidate"]).strict);
        assert!(said(&["max-age=1", "no-store"]).no_store);
    }

    #[test]
    fn what_is_made_private_says_the_rest_as_before() {
        for (lines, wanted) in [
            (&[][..], "private"),
            (&["public, max-age=60, s-maxage=600"], "private, max-age=60"),
            (
                &["Public", "S-MaxAge = \"5\", no-cache=\"a, public\""],
                "private, no-cache=\"a, public\"",
            ),
            (&["private=\"x\", no-store"], "private, no-store"),
        ] {
            let mut headers = headers(lines);
            headers.insert("cdn-cache-control", HeaderValue::from_static("max-age=60"));
            make_private(&mut headers);
            assert_eq!((headers.len(), headers[CACHE_CONTROL].to_str().unwrap()), (1, wanted));
        }
    }

    #[test]
    fn requests_are_read() {
        let wanted = Wanted::of(&headers(&["max-stale, min-fresh=5", "only-if-cached"]));
        assert_eq!(
            (wanted.max_stale, wanted.min_fresh, wanted.only_if_cached),
            (Some(SECONDS_MOST), 5, true)
        );
        let mut old = HeaderMap::new();
        old.insert(PRAGMA, HeaderValue::from_static("No-Cache"));
        assert!(Wanted::of(&old).no_cache);
        old.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
        assert!(!Wanted::of(&old).no_cache);
    }
}
