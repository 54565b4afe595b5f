//! Answers of routes that have fields a caller may not see.
//!
//! The upstream is asked for the whole of what it has, uncompressed. A JSON answer loses what no longer holds of it
//! (length, digests, ranges, the time of its last change); its entity tag becomes a weak one that also says what is
//! left out, so that a copy kept from before a change of plan is never taken for the answer after it.
//!
//! A successful answer in another format cannot be filtered, so it is withheld, except for pictures, sound, moving
//! pictures and fonts. Answers that report an error in another format pass.

use super::{Closed, Gates};
use crate::filter::{Filter, Form};
use crate::refusal::{Refusal, Refused};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use model::policy::FieldPath;
use std::fmt::Write;
use std::sync::Arc;

/// What no longer holds of an answer that lost something.
const GONE: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    header::ACCEPT_RANGES,
    header::LAST_MODIFIED,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("x-content-sha256"),
];
/// What a caller may not ask of an answer that loses something.
const NOT_ASKED: [HeaderName; 4] = [header::RANGE, header::IF_RANGE, header::IF_MODIFIED_SINCE, header::TE];
/// JSON, a value a line.
const LINES: [&str; 8] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonl",
    "application/jsonlines",
    "application/x-jsonlines",
    "application/json-lines",
    "application/stream+json",
];
/// JSON under other names than `application/json` and `+json`.
const DOCUMENTS: [&str; 4] = ["application/json", "text/json", "application/x-json", "text/x-json"];
/// Formats that have no fields.
const WITHOUT_FIELDS: [&str; 4] = ["image/", "audio/", "video/", "font/"];

/// What tells answers without these fields from others: FNV-1a of the paths.
pub(super) fn tag(fields: &[FieldPath]) -> u32 {
    let bytes = fields.iter().flat_map(|f| f.as_str().bytes().chain([0]));
    bytes.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

impl Gates {
    /// Whether answers differ by the features of who asks.
    pub(crate) fn tell_callers_apart(&self) -> bool {
        self.hiding != 0
    }

    /// Whether the answer to a request may lose something.
    pub(crate) fn hides(&self, closed: Closed) -> bool {
        closed.0 & self.hiding != 0
    }

    /// What is left out, as a part of entity tags.
    fn mark(&self, closed: Closed) -> String {
        let gates = self.those(closed.0 & self.hiding);
        let sum = gates.fold(0, |sum: u32, gate| sum.rotate_left(1) ^ gate.tag);
        format!("-{sum:08x}")
    }

    /// Changes what the client said so that the answer can be filtered: all of it, as it is, and only compared with
    /// what the same caller would have been given.
    pub(crate) fn ask_plainly(&self, closed: Closed, headers: &mut HeaderMap) {
        for name in &NOT_ASKED {
            headers.remove(name);
        }
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if !headers.contains_key(header::IF_NONE_MATCH) {
            return;
        }
        let mark = self.mark(closed);
        let mut asked = String::new();
        for tag in headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .flat_map(|v| v.as_bytes().split(|b| *b == b','))
        {
            let tag = std::str::from_utf8(tag).unwrap_or_default().trim();
            let opaque = tag.strip_prefix("W/").unwrap_or(tag);
            let own = opaque.strip_suffix('"').and_then(|o| o.strip_suffix(mark.as_str()));
            if let Some(own) = own.filter(|o| o.starts_with('"')) {
                let comma = if asked.is_empty() { "" } else { ", " };
                let _ = write!(asked, "{comma}W/{own}\"");
            }
        }
        match HeaderValue::try_from(asked) {
            Ok(asked) if !asked.is_empty() => drop(headers.insert(header::IF_NONE_MATCH, asked)),
            _ => drop(headers.remove(header::IF_NONE_MATCH)),
        }
    }

    /// Makes an answer's head fit for what will be left of its body, and gives the filter for it; none when the body
    /// passes as it is.
    ///
    /// # Errors
    /// When the body cannot be filtered and must not pass.
    pub(crate) fn treat_answer(
        &self,
        closed: Closed,
        method: &Method,
        status: StatusCode,
        headers: &mut HeaderMap,
    ) -> Result<Option<Filter>, Refused> {
        if !self.hides(closed) {
            return Ok(None);
        }
        if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            self.mark_tag(closed, headers);
            return Ok(None);
        }
        let Some(form) = form(status, headers)? else {
            return Ok(None);
        };
        self.mark_tag(closed, headers);
        for name in &GONE {
            headers.remove(name);
        }
        let filter = || Filter::new(Arc::clone(&self.fields), closed.0 & self.hiding, form);
        Ok((*method != Method::HEAD).then(filter))
    }

    /// What is left out of answers, in a form to be compared; empty when nothing is.
    pub(crate) fn hidden(&self, closed: Closed) -> String {
        if self.hides(closed) {
            self.mark(closed)
        } else {
            String::new()
        }
    }

    fn mark_tag(&self, closed: Closed, headers: &mut HeaderMap) {
        headers.remove(header::LAST_MODIFIED);
        let Some(tag) = headers.remove(header::ETAG) else {
            return;
        };
        let tag = tag.to_str().unwrap_or_default();
        let opaque = tag.strip_prefix("W/").unwrap_or(tag).strip_suffix('"');
        if let Some(opaque) = opaque.filter(|o| o.starts_with('"'))
            && let Ok(marked) = HeaderValue::try_from(format!("W/{opaque}{}\"", self.mark(closed)))
        {
            headers.insert(header::ETAG, marked);
        }
    }
}

/// What the body holds; none when it holds no fields, or reports an error in a format of its own.
fn form(status: StatusCode, headers: &HeaderMap) -> Result<Option<Form>, Refused> {
    let plain = |v: &HeaderValue| v.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(plain) {
        return Err(unfit("is compressed, which it was asked not to be"));
    }
    if status.is_informational() {
        return Err(unfit("changes to another protocol"));
    }
    if status == StatusCode::PARTIAL_CONTENT || headers.contains_key(header::CONTENT_RANGE) {
        return Err(unfit("is a part of a document, which was not asked for"));
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let kind = match (types.next(), types.next()) {
        (Some(kind), None) => kind.to_str().map_err(|_| unfit("has no readable content type"))?,
        (None, _) => "",
        _ => return Err(unfit("has two content types")),
    };
    let kind = kind.to_ascii_lowercase();
    let (essence, parameters) = kind.split_once(';').unwrap_or((&kind, ""));
    let essence = essence.trim();
    let form = if LINES.contains(&essence) {
        Form::Lines
    } else if DOCUMENTS.contains(&essence) || essence.ends_with("+json") {
        Form::Document
    } else if !status.is_success()
        || WITHOUT_FIELDS.iter().any(|w| essence.starts_with(w))
        || headers.get(header::CONTENT_LENGTH).is_some_and(|l| l == "0")
    {
        return Ok(None);
    } else {
        return Err(other_format(essence));
    };
    let charset = parameters.split(';').filter_map(|p| p.trim().strip_prefix("charset="));
    let known = |c: &str| matches!(c.trim_matches('"'), "utf-8" | "utf8" | "us-ascii");
    if charset.into_iter().all(known) {
        Ok(Some(form))
    } else {
        Err(unfit("is in another character set than UTF-8"))
    }
}

fn unfit(why: &str) -> Refused {
    tracing::warn!(why, "an answer cannot be filtered");
    let detail = format!("The answer {why}, so fields that the plan does not include cannot be left out of it.");
    Refused::new(Refusal::UpstreamBroken, detail)
}

fn other_format(essence: &str) -> Refused {
    let named = if essence.is_empty() {
        "a format that it does not name"
    } else {
        essence
    };
    let detail = format!(
        "The API answers in {named}, out of which fields that the plan does not include cannot be left. Ask for \
         application/json in the header Accept."
    );
    Refused::new(Refusal::FormatRefused, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::policy::Gate;

    fn gates() -> Gates {
        let gate = |json: &str| serde_json::from_str::<Gate>(json).unwrap();
        Gates::compile(&[
            gate(r#"{"feature": "a", "response_fields": ["a"]}"#),
            gate(r#"{"feature": "b", "response_fields": ["b"]}"#),
        ])
    }

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(n, v): &(&'static str, &'static str)| (HeaderName::from_static(n), HeaderValue::from_static(v));
        pairs.iter().map(pair).collect()
    }

    const BOTH: Closed = Closed(0b11);

    fn treated(status: u16, headers: &[(&'static str, &'static str)]) -> (Result<bool, Refusal>, HeaderMap) {
        let mut headers = map(headers);
        let status = StatusCode::from_u16(status).unwrap();
        let filter = gates().treat_answer(BOTH, &Method::GET, status, &mut headers);
        (filter.map(|f| f.is_some()).map_err(|r| r.refusal()), headers)
    }

    #[test]
    fn what_can_be_filtered_is_and_what_cannot_does_not_pass() {
        for (status, kind, wanted) in [
            (200, "application/json", Ok(true)),
            (200, "Application/JSON; charset=UTF-8", Ok(true)),
            (200, "application/problem+json", Ok(true)),
            (404, "application/json", Ok(true)),
            (200, "application/x-ndjson", Ok(true)),
            (200, "application/json; charset=utf-16", Err(Refusal::UpstreamBroken)),
            (101, "", Err(Refusal::UpstreamBroken)),
            (206, "application/json", Err(Refusal::UpstreamBroken)),
            (200, "text/csv", Err(Refusal::FormatRefused)),
            (200, "text/html", Err(Refusal::FormatRefused)),
            (200, "", Err(Refusal::FormatRefused)),
            (200, "application/javascript", Err(Refusal::FormatRefused)),
            (200, "text/event-stream", Err(Refusal::FormatRefused)),
            (200, "application/json-seq", Err(Refusal::FormatRefused)),
            (200, "image/png", Ok(false)),
            (500, "text/html", Ok(false)),
            (304, "application/json", Ok(false)),
            (204, "", Ok(false)),
        ] {
            assert_eq!(treated(status, &[("content-type", kind)]).0, wanted, "{status} {kind}");
        }
        let encoded = [("content-type", "application/json"), ("content-encoding", "gzip")];
        assert_eq!(treated(200, &encoded).0, Err(Refusal::UpstreamBroken));
        let twice = [("content-type", "application/json"), ("content-type", "text/plain")];
        let mut headers = map(&twice[..1]);
        headers.append(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let refused = gates().treat_answer(BOTH, &Method::GET, StatusCode::OK, &mut headers);
        assert_eq!(
            refused.map(|_| ()).map_err(|r| r.refusal()),
            Err(Refusal::UpstreamBroken)
        );
    }

    #[test]
    fn the_head_says_nothing_that_no_longer_holds() {
        let (_, left) = treated(
            200,
            &[
                ("content-type", "application/json"),
                ("content-length", "10"),
                ("etag", "\"v1\""),
                ("last-modified", "Mon, 01 Nov 2026 00:00:00 GMT"),
                ("content-md5", "x"),
                ("digest", "x"),
                ("content-digest", "x"),
                ("repr-digest", "x"),
                ("accept-ranges", "bytes"),
                ("x-own", "1"),
            ],
        );
        let names: Vec<&str> = left.keys().map(HeaderName::as_str).collect();
        assert_eq!(left.len(), 3, "{names:?}");
        assert!(left[header::ETAG].to_str().unwrap().starts_with("W/\"v1-"));
        assert_eq!(left["x-own"], "1");
    }

    /// A copy is compared only with what the same gates leave.
    #[test]
    fn a_tag_comes_back_as_the_upstream_gave_it() {
        let gates = gates();
        let tag = |closed, given: &'static str| {
            let mut headers = map(&[("content-type", "application/json"), ("etag", given)]);
            gates
                .treat_answer(closed, &Method::GET, StatusCode::OK, &mut headers)
                .unwrap();
            headers.remove(header::ETAG)
        };
        let asked = |closed, given: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::try_from(given).unwrap());
            headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-1"));
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
            gates.ask_plainly(closed, &mut headers);
            assert_eq!(
                (headers.get(header::RANGE), &headers[header::ACCEPT_ENCODING]),
                (None, &HeaderValue::from_static("identity"))
            );
            headers
                .remove(header::IF_NONE_MATCH)
                .map(|v| v.to_str().unwrap().to_owned())
        };
        for given in ["\"v1\"", "W/\"v1\""] {
            let told = tag(BOTH, given).unwrap();
            let told = told.to_str().unwrap();
            assert_eq!(asked(BOTH, told).as_deref(), Some("W/\"v1\""));
            assert_eq!(
                asked(BOTH, &format!("\"other\", {told}, *")).as_deref(),
                Some("W/\"v1\"")
            );
            assert_eq!(asked(Closed(0b01), told), None, "another set of fields");
        }
        assert_eq!(asked(BOTH, "\"v1\""), None);
        assert_eq!(asked(BOTH, "*"), None);
        assert_eq!(tag(BOTH, "no tag"), None);
    }
}
