//! Strict framing under the parser: reads every byte of a client's connection before hyper does and lets nothing pass
//! that two parsers could frame differently.
//!
//! hyper is lenient where RFC 9112 lets it be: it drops a `Content-Length` beside `Transfer-Encoding`, takes a bare LF
//! as the end of a line, and so on. This is a second, smaller parser that knows only where messages begin and end. At
//! the first byte out of place it hands on a NUL instead and then the end of the stream: hyper answers 400 (or gives up
//! the body) and closes, and nothing behind that byte is ever read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest line looked at; hyper's own bound on heads is smaller.
const LINE_MOST: usize = 128 << 10;
/// Most digits of a chunk's size.
const CHUNK_DIGITS: usize = 16;
/// Most digits of a `Content-Length`: always fits 64 bits.
const LENGTH_DIGITS: usize = 18;

/// Something stands where it may not.
#[derive(Debug, PartialEq, Eq)]
struct Violation;

/// Where in a message the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    RequestLine,
    Header,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
}

/// Follows the framing of one connection.
#[derive(Debug)]
struct Framing {
    place: Place,
    /// The part of a line that came in an earlier read.
    partial: Vec<u8>,
    length: Option<u64>,
    chunked: bool,
}

impl Framing {
    fn new() -> Self {
        Self {
            place: Place::RequestLine,
            partial: Vec::new(),
            length: None,
            chunked: false,
        }
    }

    /// Takes the next bytes; the index of the first that is out of place.
    fn take(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.place {
                Place::Body(left) => self.skip(left, rest, Place::RequestLine, Place::Body),
                Place::Chunk(left) => self.skip(left, rest, Place::ChunkEnd, Place::Chunk),
                _ => self.line(rest).map_err(|i| at + i)?,
            };
        }
        Ok(())
    }

    fn skip(&mut self, left: u64, rest: &[u8], then: Place, more: fn(u64) -> Place) -> usize {
        let here = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        let taken = left.min(here);
        self.place = if taken == left { then } else { more(left - taken) };
        usize::try_from(taken).unwrap_or(rest.len())
    }

    /// Takes a line, or the part of one that is there; how many bytes that was.
    fn line(&mut self, rest: &[u8]) -> Result<usize, usize> {
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            if self.partial.len() + rest.len() > LINE_MOST {
                return Err(0);
            }
            self.partial.extend_from_slice(rest);
            return Ok(rest.len());
        };
        let taken = if self.partial.is_empty() {
            self.whole(&rest[..end])
        } else {
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&rest[..end]);
            let taken = self.whole(&line);
            line.clear();
            self.partial = line;
            taken
        };
        taken.map(|()| end + 1).map_err(|Violation| end)
    }

    /// Takes a line without its LF.
    fn whole(&mut self, line: &[u8]) -> Result<(), Violation> {
        let line = line.strip_suffix(b"\r").ok_or(Violation)?;
        if line.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
            return Err(Violation);
        }
        match self.place {
            Place::RequestLine => {
                if !line.is_empty() {
                    let plain = line.iter().all(|b| (b' '..0x7f).contains(b) && *b != b'#');
                    plain.then_some(()).ok_or(Violation)?;
                    (self.length, self.chunked) = (None, false);
                    self.place = Place::Header;
                }
                Ok(())
            }
            Place::Header if line.is_empty() => {
                self.place = match (self.chunked, self.length) {
                    (true, _) => Place::ChunkSize,
                    (false, Some(length)) if length > 0 => Place::Body(length),
                    _ => Place::RequestLine,
                };
                Ok(())
            }
            Place::Header => self.header(line),
            Place::ChunkSize => self.chunk_size(line),
            Place::ChunkEnd => {
                self.place = Place::ChunkSize;
                line.is_empty().then_some(()).ok_or(Violation)
            }
            Place::Trailer if line.is_empty() => {
                self.place = Place::RequestLine;
                Ok(())
            }
            Place::Trailer => split(line).map(drop),
            Place::Body(_) | Place::Chunk(_) => Err(Violation),
        }
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Violation> {
        let (name, value) = split(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = value.trim_ascii();
            let plain = (1..=LENGTH_DIGITS).contains(&value.len())
                && value.iter().all(u8::is_ascii_digit)
                && (value.len() == 1 || value[0] != b'0');
            plain.then_some(()).ok_or(Violation)?;
            let length = value.iter().fold(0u64, |n, d| n * 10 + u64::from(d - b'0'));
            if self.chunked || self.length.is_some_and(|l| l != length) {
                return Err(Violation);
            }
            self.length = Some(length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            if self.chunked || self.length.is_some() || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Violation);
            }
            self.chunked = true;
        }
        Ok(())
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), Violation> {
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let ended = line.get(digits).is_none_or(|b| *b == b';');
        if !(1..=CHUNK_DIGITS).contains(&digits) || !ended {
            return Err(Violation);
        }
        let size = line[..digits].iter().filter_map(|b| char::from(*b).to_digit(16));
        let size = size.fold(0u64, |n, d| n << 4 | u64::from(d));
        self.place = if size == 0 { Place::Trailer } else { Place::Chunk(size) };
        Ok(())
    }
}

/// Name and value of a header line; no folding, no space before the colon.
fn split(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    let colon = line.iter().position(|b| *b == b':').ok_or(Violation)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    if name.is_empty() || !name.iter().all(token) {
        return Err(Violation);
    }
    Ok((name, value))
}

/// A client's connection, its framing checked.
pub(crate) struct Guard<S> {
    inner: S,
    framing: Framing,
    ended: bool,
}

impl<S> Guard<S> {
    /// Guards a connection from its first byte on.
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            framing: Framing::new(),
            ended: false,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if let Err(index) = self.framing.take(&buf.filled()[before..]) {
            self.ended = true;
            let bad = before + index;
            buf.filled_mut()[bad] = 0;
            buf.set_filled(bad + 1);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &[u8] = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
        GET / HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n1\r\n\n\r\n0\r\nX-T: 1\r\n\r\n\
        \r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n";

    proptest! {
        /// Where reads are cut makes no difference.
        #[test]
        fn pieces_read_like_the_whole(cuts in proptest::collection::vec(1usize..20, 0..80)) {
            let mut framing = Framing::new();
            let mut rest = GOOD;
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                prop_assert_eq!(framing.take(now), Ok(()));
                rest = later;
            }
            prop_assert_eq!(framing.take(rest), Ok(()));
            prop_assert_eq!(framing.place, Place::RequestLine);
        }

        /// Whatever comes in whatever pieces, nothing panics, and the verdict is the same.
        #[test]
        fn any_bytes_in_any_pieces(bytes in "[ -~\r\n\t:;0-9a-f]{0,200}", cut in 0usize..200) {
            let bytes = bytes.as_bytes();
            let cut = cut.min(bytes.len());
            let whole = Framing::new().take(bytes);
            let mut framing = Framing::new();
            let pieces = framing.take(&bytes[..cut]).and_then(|()| framing.take(&bytes[cut..]).map_err(|i| i + cut));
            prop_assert_eq!(pieces, whole);
        }
    }
}
