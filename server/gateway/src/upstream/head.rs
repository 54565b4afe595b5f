//! Heads of HTTP/1.1 messages: requests written, answers read.

use crate::edits::Edits;
use crate::headers;
use crate::http1::{self, Framing, Invalid, Scan};
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Scheme;
use http::{Method, Request, StatusCode, Uri, Version};
use std::mem::MaybeUninit;

/// Largest head of an answer, in bytes.
const HEAD_MOST: usize = 64 << 10;
/// Most header lines in an answer.
const LINES_MOST: usize = 100;

/// How long a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// There is none, and nothing was said about it.
    Absent,
    /// So many bytes.
    Exact(u64),
    /// Known at its end.
    Chunked,
}

/// A request's head as the upstream shall see it.
pub(crate) struct RequestHead<'a> {
    pub(crate) method: &'a Method,
    /// Path and query.
    pub(crate) target: &'a str,
    /// The client's headers; those that are not the client's to say are passed over.
    pub(crate) client: &'a HeaderMap,
    /// What the gateway says, names in lower case. A value must be one of a `HeaderValue`.
    pub(crate) own: &'a [(&'static str, &'a [u8])],
    /// What the route changes in the client's headers.
    pub(crate) edits: &'a Edits,
    pub(crate) length: BodyLength,
    /// Whether it is a WebSocket handshake.
    pub(crate) websocket: bool,
}

impl RequestHead<'_> {
    /// Writes it in the form of HTTP/1.1.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for part in [
            self.method.as_str().as_bytes(),
            b" ",
            self.target.as_bytes(),
            b" HTTP/1.1\r\n",
        ] {
            out.extend_from_slice(part);
        }
        for (name, value) in self.own {
            line(out, name, value);
        }
        for (name, value) in self.passed_on() {
            line(out, name.as_str(), value.as_bytes());
        }
        for (name, value) in self.edits.written() {
            line(out, name.as_str(), value.as_bytes());
        }
        if self.websocket {
            line(out, "connection", b"upgrade");
            line(out, "upgrade", b"websocket");
        }
        match self.length {
            BodyLength::Exact(length) => {
                line(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
            }
            BodyLength::Chunked => line(out, "transfer-encoding", b"chunked"),
            // A method that means to send something says that it sends nothing (RFC 9110, section 8.6).
            BodyLength::Absent if matches!(*self.method, Method::POST | Method::PUT | Method::PATCH) => {
                line(out, "content-length", b"0");
            }
            BodyLength::Absent => {}
        }
        out.extend_from_slice(b"\r\n");
    }
}

impl RequestHead<'_> {
    /// The same in HTTP/2, its `Host` as authority; none when the target is no path.
    pub(super) fn http2(&self, tls: bool) -> Option<Request<()>> {
        let mut own = self.own.iter();
        let authority = own.find(|(name, _)| *name == "host")?.1;
        let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(self.target);
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri.build().ok()?;
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        headers.reserve(self.client.len() + self.own.len() + 1);
        for (name, value) in self.own.iter().filter(|(name, _)| *name != "host") {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).ok()?);
        }
        for (name, value) in self.passed_on() {
            headers.append(name, value.clone());
        }
        for (name, value) in self.edits.written() {
            headers.append(name, value.clone());
        }
        // The one thing that may be said with it in HTTP/2, and gRPC insists on it (RFC 9113, section 8.2.2).
        let te = self.client.get_all(header::TE).iter();
        let mut codings = te.flat_map(|v| v.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii));
        if codings.any(|c| c.eq_ignore_ascii_case(b"trailers")) {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if let BodyLength::Exact(length) = self.length {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Some(request)
    }

    /// The client's headers that go on. The upstream's own host and the framing of the body as it is sent are ours.
    pub(crate) fn passed_on(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let nominated = headers::nominated(self.client);
        self.client.iter().filter(move |(name, _)| {
            let own = **name == header::HOST || **name == header::CONTENT_LENGTH;
            let passes = !own && headers::reaches_upstream(name.as_str()) && !nominated.contains(name);
            passes && !self.edits.drops(name)
        })
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct AnswerHead {
    pub(super) status: StatusCode,
    /// Without what an upstream may not say to the client.
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// Whether it speaks of switching to WebSocket.
    pub(super) websocket: bool,
    /// Whether the connection can serve another request once the body is through.
    pub(super) keeps: bool,
}

/// Reads a head from the bytes that came, when it is whole. `headers` is empty; it is taken so that its memory serves
/// again.
pub(super) fn read(
    bytes: &mut BytesMut,
    scan: &mut Scan,
    head_request: bool,
    headers: &mut HeaderMap,
) -> Result<Option<AnswerHead>, Invalid> {
    let Some(end) = scan.end(bytes, HEAD_MOST)? else {
        return Ok(None);
    };
    let head = bytes.split_to(end).freeze();
    let mut lines = [const { MaybeUninit::uninit() }; LINES_MOST];
    let mut parsed = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, &head, &mut lines) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Invalid("the head is not one head")),
        Err(httparse::Error::TooManyHeaders) => return Err(Invalid("the head has too many lines")),
        Err(_) => return Err(Invalid("the head is malformed")),
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Invalid("the status is none"))?;
    let mut facts = Facts::new(parsed.version == Some(1));
    let mut headers = std::mem::take(headers);
    headers.reserve(parsed.headers.len() + headers::ADDED_TO_ANSWERS);
    for field in &*parsed.headers {
        facts.field(&head, field, &mut headers)?;
    }
    for name in &facts.nominated {
        headers.remove(name);
    }
    let framing = facts.framing(status, head_request, &mut headers)?;
    Ok(Some(AnswerHead {
        status,
        keeps: facts.keeps && framing != Framing::UntilClose,
        framing,
        websocket: facts.websocket,
        headers,
    }))
}

/// What a head says about the message itself.
struct Facts {
    http_11: bool,
    length: Option<u64>,
    chunked: bool,
    keeps: bool,
    closes: bool,
    websocket: bool,
    nominated: Vec<HeaderName>,
}

impl Facts {
    fn new(http_11: bool) -> Self {
        Self {
            http_11,
            length: None,
            chunked: false,
            keeps: http_11,
            closes: false,
            websocket: false,
            nominated: Vec::new(),
        }
    }

    /// Takes a line over into `headers`, or what it means into account, or both.
    fn field(&mut self, head: &Bytes, field: &httparse::Header<'_>, headers: &mut HeaderMap) -> Result<(), Invalid> {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Invalid("a header has no name"))?;
        match name {
            header::CONTENT_LENGTH => {
                let length = http1::content_length(field.value)?;
                if self.length.replace(length).is_some_and(|before| before != length) {
                    return Err(Invalid("two lengths"));
                }
                if headers.contains_key(header::CONTENT_LENGTH) {
                    return Ok(());
                }
            }
            header::TRANSFER_ENCODING => {
                if self.chunked || !self.http_11 || !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Invalid("a transfer coding other than one chunked"));
                }
                self.chunked = true;
                return Ok(());
            }
            header::CONNECTION => {
                self.connection(field.value);
                return Ok(());
            }
            header::UPGRADE => {
                self.websocket = field.value.eq_ignore_ascii_case(b"websocket");
                return Ok(());
            }
            _ if !headers::reaches_client(name.as_str()) => return Ok(()),
            _ => {}
        }
        http1::append(headers, name, head, field.value)
    }

    fn connection(&mut self, value: &[u8]) {
        for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.closes = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keeps = true;
            } else {
                self.nominated.extend(headers::nominable(token));
            }
        }
        self.keeps &= !self.closes;
    }

    /// How the body is framed (RFC 9112, section 6.3).
    fn framing(&mut self, status: StatusCode, head_request: bool, headers: &mut HeaderMap) -> Result<Framing, Invalid> {
        if self.chunked && self.length.is_some() {
            // RFC 9112 lets the coding win; who sends both may mean to smuggle, and somebody behind us may read the other.
            return Err(Invalid("a length beside a transfer coding"));
        }
        if status == StatusCode::NO_CONTENT || status.is_informational() {
            headers.remove(header::CONTENT_LENGTH);
            return Ok(Framing::Length(0));
        }
        if head_request || status == StatusCode::NOT_MODIFIED {
            return Ok(Framing::Length(0));
        }
        Ok(match (self.chunked, self.length) {
            (true, _) => Framing::chunked(),
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::UntilClose,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8], cuts: &[usize]) -> Result<Option<(AnswerHead, Vec<u8>)>, Invalid> {
        let (mut buffer, mut rest, mut scan) = (BytesMut::new(), bytes, Scan::default());
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            buffer.extend_from_slice(now);
            rest = later;
            if let Some(head) = read(&mut buffer, &mut scan, false, &mut HeaderMap::new())? {
                return Ok(Some((head, [&buffer[..], rest].concat())));
            }
        }
        Ok(None)
    }

    fn whole(text: &str) -> Result<AnswerHead, Invalid> {
        parse(text.as_bytes(), &[]).map(|h| h.unwrap().0)
    }

    #[test]
    fn framing_follows_the_rules() {
        for (lines, framing, keeps) in [
            ("Content-Length: 5", Framing::Length(5), true),
            ("Content-Length: 05", Framing::Length(5), true),
            ("Content-Length: 5\r\nContent-Length: 5", Framing::Length(5), true),
            ("Transfer-Encoding: chunked", Framing::chunked(), true),
            ("Transfer-Encoding:  Chunked\t", Framing::chunked(), true),
            ("X-A: 1", Framing::UntilClose, false),
            ("Content-Length: 5\r\nConnection: close", Framing::Length(5), false),
            (
                "Content-Length: 5\r\nConnection: x, Close, keep-alive",
                Framing::Length(5),
                false,
            ),
            (
                "Content-Length: 5\r\nConnection: close\r\nConnection: keep-alive",
                Framing::Length(5),
                false,
            ),
        ] {
            let head = whole(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n")).unwrap();
            assert_eq!((&head.framing, head.keeps), (&framing, keeps), "{lines}");
            let both = head.headers.contains_key("content-length") && head.framing == Framing::chunked();
            assert!(
                !both && head.headers.get_all("content-length").iter().count() <= 1,
                "{lines}"
            );
            assert!(!head.headers.contains_key("transfer-encoding") && !head.headers.contains_key("connection"));
        }
        for (start, keeps) in [
            ("HTTP/1.0 200 OK\r\nContent-Length: 1", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive", true),
            ("HTTP/1.1 200\r\nContent-Length: 1", true),
        ] {
            assert_eq!(whole(&format!("{start}\r\n\r\n")).unwrap().keeps, keeps, "{start}");
        }
        for start in [
            "204 No Content\r\nContent-Length: 5",
            "304 Not Modified\r\nContent-Length: 5",
        ] {
            let head = whole(&format!("HTTP/1.1 {start}\r\n\r\n")).unwrap();
            assert_eq!((head.framing, head.keeps), (Framing::Length(0), true), "{start}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for lines in [
            "Content-Length: +5",
            "Content-Length: -1",
            "Content-Length: 5, 5",
            "Content-Length: 5 5",
            "Content-Length: 0x5",
            "Content-Length:",
            "Content-Length: 18446744073709551616",
            "Content-Length: 5\r\nContent-Length: 6",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: \x0bchunked",
            "X-A: 1\r\n folded",
            "X-A : 1",
            ": 1",
            "no colon",
            "X-A: b\rX-Evil: 1",
            "X-A: b\0c",
            "X-A: 1\nX-B: 2",
            "X-(A): 1",
        ] {
            assert!(
                whole(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n")).is_err(),
                "{lines:?}"
            );
        }
        for text in [
            "HTTP/1.1 200 OK\nX-A: 1\n\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 99 No\r\n\r\n",
            "HTTP/1.1 2000 No\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
        ] {
            assert!(whole(text).is_err(), "{text:?}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: 1\r\n".repeat(LINES_MOST + 1));
        assert!(whole(&many).is_err());
        let long = format!("HTTP/1.1 200 OK\r\nX-A: {}", "y".repeat(HEAD_MOST));
        assert!(parse(long.as_bytes(), &[]).is_err(), "before it is whole");
    }

    #[test]
    fn what_is_not_the_upstreams_to_say_stays_behind() {
        let head = whole(
            "HTTP/1.1 200 OK\r\nX-Own: 1\r\nConnection: X-Own, content-length, host\r\nX-Request-Id: forged\r\n\
             RateLimit: forged\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nTrailer: X-T\r\nContent-Length: 2\r\n\
             X-Kept: a\r\nX-Kept: b\r\n\r\n",
        )
        .unwrap();
        let mut left: Vec<_> = head
            .headers
            .iter()
            .map(|(n, v)| format!("{n}={}", v.to_str().unwrap()))
            .collect();
        left.sort();
        assert_eq!(left, ["content-length=2", "x-kept=a", "x-kept=b"]);
    }

    #[test]
    fn a_request_is_written_as_the_upstream_shall_see_it() {
        let pairs = [
            ("accept", "*/*"),
            ("connection", "X-Gone"),
            ("x-gone", "1"),
            ("content-length", "7"),
            ("x-plan", "pro"),
        ];
        let client: HeaderMap = pairs
            .iter()
            .map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap()))
            .collect();
        for (method, length, framing) in [
            (Method::GET, BodyLength::Absent, ""),
            (Method::POST, BodyLength::Absent, "content-length: 0\r\n"),
            (Method::DELETE, BodyLength::Exact(7), "content-length: 7\r\n"),
            (Method::PUT, BodyLength::Chunked, "transfer-encoding: chunked\r\n"),
        ] {
            let mut out = Vec::new();
            let own: &[(&str, &[u8])] = &[("host", b"up:1"), ("x-plan", b"free")];
            RequestHead {
                method: &method,
                target: "/a?b",
                client: &client,
                own,
                edits: &Edits::default(),
                length,
                websocket: false,
            }
            .write(&mut out);
            let wanted =
                format!("{method} /a?b HTTP/1.1\r\nhost: up:1\r\nx-plan: free\r\naccept: */*\r\n{framing}\r\n");
            assert_eq!(String::from_utf8(out).unwrap(), wanted);
        }
    }

    proptest! {
        /// Where reads are cut makes no difference, for good heads and bad ones.
        #[test]
        fn pieces_read_like_the_whole(
            text in "HTTP/1\\.[01] [12][0-9]{2}( [A-Z]{0,3})?\r\n(Content-Length: ?[0-9]{1,2}\r?\n|Transfer-Encoding: chunked\r\n|X-[A-C]: [ -~]{0,5}\r\n|Connection: (close|x-a)\r\n){0,4}\r?\n[a-z]{0,5}",
            cuts in proptest::collection::vec(1usize..30, 0..40),
        ) {
            let shown = |parsed: Result<Option<(AnswerHead, Vec<u8>)>, Invalid>| match parsed {
                Ok(head) => format!("{head:?}"),
                Err(_) => "refused".to_owned(),
            };
            prop_assert_eq!(shown(parse(text.as_bytes(), &[])), shown(parse(text.as_bytes(), &cuts)));
        }

        /// Whatever comes, nothing panics.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), cuts in proptest::collection::vec(1usize..40, 0..9)) {
            let _ = parse(&bytes, &cuts);
            let _ = parse(&[b"HTTP/1.1 200 OK\r\n", &bytes[..], b"\r\n\r\n"].concat(), &cuts);
        }
    }
}
