//! Heads of requests.

use crate::http1::{Framing, Invalid, Scan};
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use std::mem::MaybeUninit;

/// Most header lines that can be asked for; how many are taken is a setting.
const LINES_MOST: usize = 256;
/// Most digits of a `Content-Length`: always fits 64 bits.
const LENGTH_DIGITS: usize = 18;

/// A request's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
    pub(super) framing: Framing,
    /// Whether the client wants the connection for more.
    pub(super) keeps: bool,
    /// Whether it waits for `100 Continue` before it sends the body.
    pub(super) expects: bool,
}

/// Reads a head from the bytes that came, when it is whole. `headers` is empty; it is taken so that its memory serves
/// again.
pub(super) fn read(
    bytes: &mut BytesMut,
    scan: &mut Scan,
    (bytes_most, lines_most): (usize, usize),
    headers: &mut HeaderMap,
) -> Result<Option<Head>, Invalid> {
    while !scan.has_begun() && bytes.starts_with(b"\r\n") {
        // Empty lines before a request are passed over (RFC 9112, section 2.2).
        let _ = bytes.split_to(2);
        scan.pass_over()?;
    }
    if bytes.is_empty() || (bytes.len() == 1 && bytes[0] == b'\r') {
        return Ok(None);
    }
    let Some(end) = scan.end(bytes, bytes_most)? else {
        return Ok(None);
    };
    let head = bytes.split_to(end).freeze();
    let mut lines = [const { MaybeUninit::uninit() }; LINES_MOST];
    let mut parsed = httparse::Request::new(&mut []);
    let lines = &mut lines[..lines_most.min(LINES_MOST)];
    match httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, &head, lines) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Invalid("the head has too many lines")),
        _ => return Err(Invalid("the head is malformed")),
    }
    let (method, path) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    if !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(Invalid("the target holds a character that may not stand there"));
    }
    let mut facts = Facts {
        http_11: parsed.version == Some(1),
        length: None,
        chunked: false,
        keeps: parsed.version == Some(1),
        closes: false,
        expects: false,
    };
    let mut headers = std::mem::take(headers);
    headers.reserve(parsed.headers.len());
    for field in &*parsed.headers {
        facts.field(&head, field, &mut headers)?;
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| Invalid("the method is none"))?;
    let target = Uri::from_maybe_shared(head.slice_ref(path.as_bytes()));
    *request.uri_mut() = target.map_err(|_| Invalid("the target is malformed"))?;
    *request.version_mut() = if facts.http_11 {
        Version::HTTP_11
    } else {
        Version::HTTP_10
    };
    *request.headers_mut() = headers;
    let framing = if facts.chunked {
        Framing::chunked()
    } else {
        Framing::Length(facts.length.unwrap_or(0))
    };
    // An old proxy before us may see the end of a body elsewhere: after one, HTTP/1.0 gets no second request.
    let keeps = facts.keeps && !facts.closes && (facts.http_11 || framing.ended());
    Ok(Some(Head {
        parts: request.into_parts().0,
        framing,
        keeps,
        expects: facts.expects,
    }))
}

/// What a head says about the message itself.
struct Facts {
    http_11: bool,
    length: Option<u64>,
    chunked: bool,
    keeps: bool,
    closes: bool,
    expects: bool,
}

impl Facts {
    fn field(&mut self, head: &Bytes, field: &httparse::Header<'_>, headers: &mut HeaderMap) -> Result<(), Invalid> {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Invalid("a header has no name"))?;
        match name {
            header::CONTENT_LENGTH => {
                let length = content_length(field.value)?;
                if self.chunked || self.length.is_some_and(|before| before != length) {
                    return Err(Invalid("two lengths"));
                }
                if self.length.replace(length).is_some() {
                    return Ok(());
                }
            }
            header::TRANSFER_ENCODING => {
                let plain = field.value.eq_ignore_ascii_case(b"chunked") && is_bare(head, field);
                if self.chunked || self.length.is_some() || !self.http_11 || !plain {
                    return Err(Invalid("a transfer coding other than one chunked"));
                }
                self.chunked = true;
            }
            header::CONNECTION => {
                for token in field.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    self.closes |= token.eq_ignore_ascii_case(b"close");
                    self.keeps |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            header::EXPECT => self.expects = self.http_11 && field.value.eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
        headers.append(
            name,
            value.map_err(|_| Invalid("a header's value holds a control character"))?,
        );
        Ok(())
    }
}

/// Digits and nothing else: no sign, no list, no blank, no leading zero.
fn content_length(value: &[u8]) -> Result<u64, Invalid> {
    let plain = (1..=LENGTH_DIGITS).contains(&value.len())
        && value.iter().all(u8::is_ascii_digit)
        && (value.len() == 1 || value[0] != b'0');
    if !plain {
        return Err(Invalid("the length is no plain number"));
    }
    Ok(value.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

/// Whether a value stands behind its colon with at most one space before it and nothing after it.
fn is_bare(head: &Bytes, field: &httparse::Header<'_>) -> bool {
    let start = field.value.as_ptr().addr() - head.as_ptr().addr();
    let before = &head[..start];
    let before = before.strip_suffix(b" ").unwrap_or(before);
    before.ends_with(b":") && head[start + field.value.len()..].starts_with(b"\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::Piece;
    use proptest::prelude::*;

    const LIMITS: (usize, usize) = (32 << 10, 100);

    /// What a connection's bytes say, cut at these lengths: each request's line and body, and whether all was good.
    fn messages(bytes: &[u8], cuts: &[usize]) -> (Vec<String>, bool) {
        let (mut buffer, mut rest, mut scan, mut out) = (BytesMut::new(), bytes, Scan::default(), Vec::new());
        let mut cuts = cuts.iter().copied().chain([usize::MAX]);
        let mut open: Option<(String, Framing)> = None;
        loop {
            let more = match &mut open {
                None => match read(&mut buffer, &mut scan, LIMITS, &mut HeaderMap::new()) {
                    Ok(Some(head)) => {
                        let line = format!("{} {} {:?}", head.parts.method, head.parts.uri, head.parts.headers);
                        open = Some((line, head.framing));
                        false
                    }
                    Ok(None) => true,
                    Err(_) => return (out, false),
                },
                Some((text, framing)) => match framing.take(&mut buffer) {
                    Ok(Piece::Data(data)) => {
                        text.push_str(&String::from_utf8_lossy(&data));
                        false
                    }
                    Ok(Piece::End) => {
                        out.extend(open.take().map(|(text, _)| text));
                        false
                    }
                    Ok(Piece::More) => true,
                    Err(_) => return (out, false),
                },
            };
            if more {
                if rest.is_empty() {
                    return (out, true);
                }
                let (now, later) = rest.split_at(cuts.next().unwrap_or(usize::MAX).min(rest.len()));
                buffer.extend_from_slice(now);
                rest = later;
            }
        }
    }

    const GOOD: &[u8] = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
        GET / HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n1\r\n\n\r\n0\r\nX-T: 1\r\n\r\n\
        \r\nGET /c HTTP/1.0\r\nHost: a\r\n\r\n";

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for lines in [
            "Content-Length: 6\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 6",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: 05",
            "Content-Length:",
            "Content-Length: 18446744073709551616",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: chunked,chunked",
            "Transfer-Encoding:\tchunked",
            "Transfer-Encoding:  chunked",
            "Transfer-Encoding: chunked ",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding:\r\n chunked",
            "X-A: 1\r\n folded",
            "X-A : 1",
            ": 1",
            "no colon",
            "X-(A): 1",
            "X-A: b\rc",
            "X-A: b\nc",
            "X-A: b\0c",
            "X-A: b\x7fc",
        ] {
            let text = format!("POST /a HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
            assert_eq!(messages(text.as_bytes(), &[]), (Vec::new(), false), "{lines:?}");
        }
        for line in [
            "GET  / HTTP/1.1",
            "GET / HTTP/2.0",
            "GET /#a HTTP/1.1",
            "GET /\x7f HTTP/1.1",
            "GET /\u{e9} HTTP/1.1",
            "GET /",
            "G\tET / HTTP/1.1",
        ] {
            assert_eq!(
                messages(format!("{line}\r\nHost: a\r\n\r\n").as_bytes(), &[]).0,
                Vec::<String>::new(),
                "{line:?}"
            );
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        assert_eq!(messages(old.as_bytes(), &[]), (Vec::new(), false));
        let long = format!("GET / HTTP/1.1\r\nX-A: {}", "y".repeat(LIMITS.0));
        assert!(!messages(long.as_bytes(), &[]).1, "before it is whole");
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X-A: 1\r\n".repeat(LIMITS.1 + 1));
        assert!(!messages(many.as_bytes(), &[]).1);
    }

    #[test]
    fn whether_the_connection_stays_is_the_clients_to_say() {
        for (text, keeps) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n", false),
            (
                "GET / HTTP/1.1\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n",
                false,
            ),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
            (
                "POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
                false,
            ),
        ] {
            let head = read(
                &mut BytesMut::from(text),
                &mut Scan::default(),
                LIMITS,
                &mut HeaderMap::new(),
            );
            assert_eq!(head.unwrap().unwrap().keeps, keeps, "{text}");
        }
    }

    proptest! {
        /// Where reads are cut makes no difference.
        #[test]
        fn pieces_read_like_the_whole(cuts in proptest::collection::vec(1usize..20, 0..80)) {
            let whole = messages(GOOD, &[]);
            prop_assert_eq!(whole.0.len(), 4);
            prop_assert_eq!(messages(GOOD, &cuts), whole);
        }

        /// Whatever comes in whatever pieces, nothing panics, and the verdict is the same.
        #[test]
        fn any_bytes_in_any_pieces(
            bytes in "(GET|POST) /[ -~]{0,5} HTTP/1.1\r\n(Content-Length: [0-9]\r\n|Transfer-Encoding: chunked\r\n|[ -~\r\n\t:;0-9a-f]{0,20}\r\n){0,4}\r\n[ -~\r\n0-9a-f]{0,60}",
            cuts in proptest::collection::vec(1usize..30, 0..20),
        ) {
            prop_assert_eq!(messages(bytes.as_bytes(), &cuts), messages(bytes.as_bytes(), &[]));
        }

        /// The same for bytes that are no text.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), cuts in proptest::collection::vec(1usize..40, 0..9)) {
            prop_assert_eq!(messages(&bytes, &cuts), messages(&bytes, &[]));
        }
    }
}
