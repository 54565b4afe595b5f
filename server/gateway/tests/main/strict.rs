//! A strict reader of HTTP/1.1 requests, written from RFC 9112 alone and sharing nothing with the gateway: the judge of
//! what a client may have meant and of what the gateway may forward. The fuzz targets use it too.

/// One request as the strict reader sees it; the body without its framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// Every value of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|h| h.0 == name);
        named.map(|h| h.1.as_str()).collect()
    }
}

/// What the beginning of some bytes is.
pub(crate) enum Read {
    /// A request of so many bytes.
    Whole(Request, usize),
    /// The beginning of one.
    Part,
    /// No request that everybody reads alike.
    Broken(&'static str),
}

fn token(bytes: &[u8]) -> bool {
    let mark = |b: u8| b"!#$%&'*+-.^_`|~".contains(&b) || b.is_ascii_alphanumeric();
    !bytes.is_empty() && bytes.iter().all(|b| mark(*b))
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

/// Name in lower case and value of a header line.
fn field(line: &[u8]) -> Result<(String, String), &'static str> {
    let colon = line.iter().position(|b| *b == b':').ok_or("a line without a colon")?;
    if !token(&line[..colon]) {
        return Err("a header's name");
    }
    let value = text(&line[colon + 1..]);
    Ok((
        text(&line[..colon]).to_ascii_lowercase(),
        value.trim_matches([' ', '\t']).to_owned(),
    ))
}

/// Reads one request, of HTTP/1.1 or, without chunks, HTTP/1.0.
pub(crate) fn read(bytes: &[u8]) -> Read {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Read::Part;
    };
    let mut lines = Vec::new();
    for line in bytes[..end].split(|b| *b == b'\n') {
        lines.push(line.strip_suffix(b"\r").unwrap_or(line));
    }
    let clean = |l: &[u8]| l.iter().all(|b| *b == b'\t' || (*b >= 0x20 && *b != 0x7f));
    let newlines = bytes[..end].iter().filter(|b| **b == b'\n').count();
    if newlines != bytes[..end].windows(2).filter(|w| w == b"\r\n").count() || !lines.iter().all(|l| clean(l)) {
        return Read::Broken("a control byte");
    }
    let parts: Vec<_> = lines[0].split(|b| *b == b' ').collect();
    if parts.len() != 3
        || !token(parts[0])
        || parts[1].is_empty()
        || ![&b"HTTP/1.1"[..], b"HTTP/1.0"].contains(&parts[2])
    {
        return Read::Broken("the request line");
    }
    let headers = match lines[1..].iter().map(|l| field(l)).collect() {
        Ok(headers) => headers,
        Err(why) => return Read::Broken(why),
    };
    let mut request = Request {
        method: text(parts[0]),
        target: text(parts[1]),
        headers,
        body: Vec::new(),
    };
    let rest = &bytes[end + 4..];
    let length = match (
        request.all("content-length")[..].split_first(),
        &request.all("transfer-encoding")[..],
    ) {
        (None, []) => Some(0),
        (Some((first, others)), []) => {
            let plain = !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit());
            let one = others.iter().all(|o| o == first);
            let Some(length) = first.parse::<usize>().ok().filter(|_| plain && one) else {
                return Read::Broken("its length");
            };
            Some(length)
        }
        (None, [coding]) if coding.eq_ignore_ascii_case("chunked") && parts[2] == b"HTTP/1.1" => None,
        _ => return Read::Broken("its framing"),
    };
    match length {
        Some(length) if rest.len() < length => Read::Part,
        Some(length) => {
            request.body = rest[..length].to_vec();
            Read::Whole(request, end + 4 + length)
        }
        None => match chunks(rest) {
            Chunks::Whole(body, used) => {
                request.body = body;
                Read::Whole(request, end + 4 + used)
            }
            Chunks::Part => Read::Part,
            Chunks::Broken => Read::Broken("a chunk"),
        },
    }
}

enum Chunks {
    Whole(Vec<u8>, usize),
    Part,
    Broken,
}

fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|w| w == b"\r\n")?;
    Some(&bytes[..end])
}

fn chunks(bytes: &[u8]) -> Chunks {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(head) = line(&bytes[at..]) else {
            return Chunks::Part;
        };
        let digits = head.split(|b| *b == b';').next().unwrap_or_default();
        let plain = (1..=16).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
        let size = std::str::from_utf8(digits)
            .ok()
            .and_then(|d| usize::from_str_radix(d, 16).ok());
        let Some(size) = size.filter(|_| plain && head.iter().all(|b| *b == b'\t' || (*b >= 0x20 && *b != 0x7f)))
        else {
            return Chunks::Broken;
        };
        at += head.len() + 2;
        if size == 0 {
            break;
        }
        if bytes.len() - at < size.saturating_add(2) {
            return Chunks::Part;
        }
        body.extend_from_slice(&bytes[at..at + size]);
        if &bytes[at + size..at + size + 2] != b"\r\n" {
            return Chunks::Broken;
        }
        at += size + 2;
    }
    loop {
        let Some(trailer) = line(&bytes[at..]) else {
            return Chunks::Part;
        };
        at += trailer.len() + 2;
        if trailer.is_empty() {
            return Chunks::Whole(body, at);
        }
    }
}
