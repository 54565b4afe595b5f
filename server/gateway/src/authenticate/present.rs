//! Looks for the credential in a request and takes it out, so that nothing behind this sees it.

use super::accepted::Accepted;
use super::query;
use crate::refusal::{Refusal, Refused};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, COOKIE, Entry, HeaderMap, HeaderName, HeaderValue, REFERER};
use http::request::Parts;
use model::key;
use percent_encoding::percent_decode;

/// Longest user name and password of basic authentication, in base 64: a key is far shorter.
const BASIC_MOST: usize = 512;

/// What a caller gives to say who is asking.
pub(super) enum Presented {
    /// A key, as text that may be one.
    Key(Text),
    /// A signed token, as text that may be one.
    Token(Text),
    /// Nothing.
    Nothing,
}

/// Text of a request, where it lies.
pub(super) enum Text {
    /// A header's value from a place on.
    Header(HeaderValue, usize),
    /// Decoded from something.
    Made(Vec<u8>),
}

impl Text {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Text::Header(value, start) => value.as_bytes().get(*start..).unwrap_or_default().trim_ascii(),
            Text::Made(bytes) => bytes,
        }
    }
}

/// Takes the one credential out of a request.
pub(super) fn take(parts: &mut Parts, accepted: &Accepted) -> Result<Presented, Refused> {
    let in_query = match &accepted.query {
        Some(name) => from_query(parts, name),
        None => Vec::new(),
    };
    let mut given = in_query.len();
    let mut found = in_query.into_iter().next().map(|v| Ok(Presented::Key(Text::Made(v))));
    for name in &accepted.key_headers {
        let (count, value) = take_out(&mut parts.headers, name);
        given += count;
        found = value.map(|value| Ok(Presented::Key(Text::Header(value, 0)))).or(found);
    }
    if accepted.reads_authorization() {
        let (count, value) = take_out(&mut parts.headers, &AUTHORIZATION);
        given += count;
        found = value.map(|value| authorization(value, accepted)).or(found);
    }
    if given > 1 {
        let detail = "The request carries more than one credential, so it is unclear who asks. Send one.";
        return Err(Refused::new(Refusal::TwoCredentials, detail));
    }
    match found {
        Some(found) => found,
        None => elsewhere(parts, accepted).map_or(Ok(Presented::Nothing), Err),
    }
}

/// Takes a header out of a request: how many there were, two standing for more, and the first.
fn take_out(headers: &mut HeaderMap, name: &HeaderName) -> (usize, Option<HeaderValue>) {
    let Entry::Occupied(found) = headers.entry(name) else {
        return (0, None);
    };
    let (_, mut values) = found.remove_entry_mult();
    let first = values.next();
    (1 + values.take(1).count(), first)
}

/// The values of the parameter. A page that was asked for with a key in its address says that address to the next one.
fn from_query(parts: &mut Parts, name: &str) -> Vec<Vec<u8>> {
    let values = query::take(&mut parts.uri, name);
    let told = |referer: &HeaderValue| {
        let read: Vec<u8> = percent_decode(referer.as_bytes()).collect();
        let holds = |value: &Vec<u8>| read.windows(value.len().max(1)).any(|w| w == value);
        values.iter().any(holds)
    };
    if parts.headers.get(REFERER).is_some_and(told) {
        parts.headers.remove(REFERER);
    }
    values
}

fn authorization(value: HeaderValue, accepted: &Accepted) -> Result<Presented, Refused> {
    let bytes = value.as_bytes();
    let end = bytes.iter().position(|b| *b == b' ').unwrap_or(bytes.len());
    let (scheme, rest) = bytes.split_at(end);
    if scheme.eq_ignore_ascii_case(b"bearer") {
        // No key holds a dot, and every token does.
        let is_token = rest.contains(&b'.');
        return match (is_token, accepted.jwt, accepted.bearer) {
            (true, true, _) => Ok(Presented::Token(Text::Header(value, end))),
            (_, _, true) => Ok(Presented::Key(Text::Header(value, end))),
            _ => Err(misplaced("Authorization: Bearer", accepted)),
        };
    }
    if scheme.eq_ignore_ascii_case(b"basic") {
        return if accepted.basic {
            basic(rest.trim_ascii())
        } else {
            Err(misplaced("Basic authentication", accepted))
        };
    }
    Err(missing(accepted))
}

/// The key as the user name, the password empty.
fn basic(rest: &[u8]) -> Result<Presented, Refused> {
    let wrong = |detail| Refused::new(Refusal::KeyUnknown, detail);
    let pair = Some(rest).filter(|r| r.len() <= BASIC_MOST);
    let pair = pair.and_then(|r| STANDARD.decode(r).ok());
    let Some(pair) = pair else {
        return Err(wrong("Basic authentication is base 64 of the key and a colon."));
    };
    let colon = pair.iter().position(|b| *b == b':').unwrap_or(pair.len());
    if colon + 1 < pair.len() {
        return Err(wrong("The key is the user name, and the password must be empty."));
    }
    Ok(Presented::Key(Text::Made(pair[..colon].to_vec())))
}

/// No credential where one belongs. A key in another place is refused by name even where none is needed: it would go
/// on to the upstream and into its logs.
fn elsewhere(parts: &Parts, accepted: &Accepted) -> Option<Refused> {
    let is_key = |text: &[u8]| key::parse(text).is_some();
    if query::values(&parts.uri).any(|v| is_key(&v)) {
        return Some(misplaced("The query", accepted));
    }
    let cookies = parts.headers.get_all(COOKIE).iter();
    let pairs = cookies.flat_map(|c| c.as_bytes().split(|b| *b == b';'));
    let value = |pair: &[u8]| {
        let at = pair.iter().position(|b| *b == b'=')?;
        Some(pair[at + 1..].trim_ascii().to_vec())
    };
    if pairs.filter_map(value).any(|v| is_key(&v)) {
        return Some(misplaced("A cookie", accepted));
    }
    None
}

fn misplaced(place: &str, accepted: &Accepted) -> Refused {
    let detail = format!("{place} is no place for a credential here. {}", accepted.places());
    Refused::new(Refusal::CredentialMisplaced, detail)
}

/// Nothing was given.
pub(super) fn missing(accepted: &Accepted) -> Refused {
    Refused::new(Refusal::KeyMissing, accepted.places())
}
