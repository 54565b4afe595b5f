//! Heads of answers, and how their bodies are framed.

use http::header::{self, HeaderMap};
use http::{Method, StatusCode, Version};
use http_body::SizeHint;
use std::io::Write as _;

/// How the body that follows is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// None follows.
    Nothing,
    /// Counted in the head.
    Counted,
    Chunked,
    /// The connection's end is its end.
    UntilClose,
}

/// What the request says about its answer.
pub(super) struct Asked {
    pub(super) version: Version,
    pub(super) head_only: bool,
    /// Whether the connection is to serve another request.
    pub(super) keeps: bool,
}

impl Asked {
    pub(super) fn new(method: &Method, version: Version, keeps: bool) -> Self {
        Self {
            version,
            head_only: *method == Method::HEAD,
            keeps,
        }
    }
}

/// Writes a head; how its body is sent, and whether the connection stays. `date` is now, as `Date` has it.
pub(super) fn write(
    out: &mut Vec<u8>,
    asked: &Asked,
    (status, headers): (StatusCode, &HeaderMap),
    body: &SizeHint,
    date: &[u8],
) -> (Sent, bool) {
    let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT;
    let sent = if bodiless || asked.head_only || status == StatusCode::NOT_MODIFIED {
        Sent::Nothing
    } else if body.exact().is_some() {
        Sent::Counted
    } else if asked.version == Version::HTTP_11 {
        Sent::Chunked
    } else {
        Sent::UntilClose
    };
    start(out, status);
    let (mut dated, mut closes) = (false, false);
    for (name, value) in headers {
        let ours = *name == header::CONNECTION
            || *name == header::TRANSFER_ENCODING
            || (*name == header::CONTENT_LENGTH && (sent != Sent::Nothing || bodiless));
        closes |= *name == header::CONNECTION && value.as_bytes() == b"close";
        if !ours {
            dated |= *name == header::DATE;
            line(out, name.as_str(), value.as_bytes());
        }
    }
    let keeps = asked.keeps && !closes && sent != Sent::UntilClose;
    if !dated {
        line(out, "date", date);
    }
    let length = body.exact().filter(|length| {
        // An answer to HEAD says what GET would have got, if that is known here.
        sent == Sent::Counted
            || (asked.head_only && !bodiless && *length > 0 && !headers.contains_key(header::CONTENT_LENGTH))
    });
    if let Some(length) = length {
        line(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
    }
    if sent == Sent::Chunked {
        line(out, "transfer-encoding", b"chunked");
    }
    match (keeps, asked.version) {
        _ if status == StatusCode::SWITCHING_PROTOCOLS => {
            line(out, "connection", b"upgrade");
            line(out, "upgrade", b"websocket");
        }
        (false, _) => line(out, "connection", b"close"),
        (true, Version::HTTP_10) => line(out, "connection", b"keep-alive"),
        (true, _) => {}
    }
    out.extend_from_slice(b"\r\n");
    (sent, keeps)
}

fn start(out: &mut Vec<u8>, status: StatusCode) {
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    let reason = status.canonical_reason().unwrap_or_default();
    // Writing to a vector cannot fail.
    let _ = write!(out, "HTTP/1.1 {} {reason}\r\n", status.as_str());
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
