//! Where a body ends (RFC 9112, sections 6 and 7).

use super::Invalid;
use bytes::{Bytes, BytesMut};

/// Longest line of a chunk's size with its extensions, and longest trailer line, in bytes.
const LINE_MOST: usize = 4096;
/// Most bytes of extensions and trailers in a body, which are dropped: many small chunks may not carry more than that
/// beside what they hold.
const EXTRA_MOST: usize = 16 << 10;
/// Most digits of a chunk's size: always fits 64 bits.
const CHUNK_DIGITS: usize = 16;

/// How the rest of a body is delimited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes are still to come; 0 at the end.
    Length(u64),
    /// In chunks.
    Chunked(Chunks),
    /// Until the upstream closes.
    UntilClose,
}

/// A body in chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunks {
    place: Place,
    /// Bytes of extensions and trailers seen so far.
    extra: usize,
}

/// Where in a chunked body the next byte belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// What a decoder found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The next part of the body, never empty.
    Data(Bytes),
    /// Nothing without more bytes.
    More,
    /// The body is through; what is left in the buffer is not part of it.
    End,
}

impl Framing {
    /// A body in chunks, from its first byte.
    pub(crate) fn chunked() -> Self {
        Self::Chunked(Chunks {
            place: Place::Size,
            extra: 0,
        })
    }

    /// Whether the body is through.
    pub(crate) fn ended(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.place == Place::Done,
            Self::UntilClose => false,
        }
    }

    /// Bytes still to come, when that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(chunks) => (chunks.place == Place::Done).then_some(0),
            Self::UntilClose => None,
        }
    }

    /// Whether the end of the stream ends the body too.
    pub(crate) fn ends_at_close(&self) -> bool {
        *self == Self::UntilClose
    }

    /// Takes the next piece from the bytes read.
    pub(crate) fn take(&mut self, read: &mut BytesMut) -> Result<Piece, Invalid> {
        match self {
            Self::Length(0) => Ok(Piece::End),
            Self::Length(left) => Ok(take_up_to(read, left)),
            Self::Chunked(chunks) => chunks.take(read),
            Self::UntilClose => {
                let mut unbounded = u64::MAX;
                Ok(take_up_to(read, &mut unbounded))
            }
        }
    }
}

/// What is there of the `left` bytes that are still wanted.
fn take_up_to(read: &mut BytesMut, left: &mut u64) -> Piece {
    let here = read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    if here == 0 {
        return Piece::More;
    }
    *left -= u64::try_from(here).unwrap_or(*left);
    Piece::Data(read.split_to(here).freeze())
}

impl Chunks {
    fn take(&mut self, read: &mut BytesMut) -> Result<Piece, Invalid> {
        loop {
            match &mut self.place {
                Place::Size => {
                    let Some(line) = line(read)? else {
                        return Ok(Piece::More);
                    };
                    let (size, digits) = size(&line)?;
                    self.passes_over(line.len() - digits)?;
                    self.place = if size == 0 { Place::Trailers } else { Place::Data(size) };
                }
                Place::Data(left) => {
                    let piece = take_up_to(read, left);
                    if *left == 0 {
                        self.place = Place::DataEnd;
                    }
                    return Ok(piece);
                }
                Place::DataEnd => match (read.first(), read.get(1)) {
                    (Some(b'\r'), Some(b'\n')) => {
                        let _ = read.split_to(2);
                        self.place = Place::Size;
                    }
                    (None, _) | (Some(b'\r'), None) => return Ok(Piece::More),
                    _ => return Err(Invalid("a chunk is longer than it says")),
                },
                Place::Trailers => {
                    let Some(line) = line(read)? else {
                        return Ok(Piece::More);
                    };
                    if line.is_empty() {
                        self.place = Place::Done;
                    } else if !is_field(&line) {
                        return Err(Invalid("a trailer is no header line"));
                    }
                    self.passes_over(line.len())?;
                }
                Place::Done => return Ok(Piece::End),
            }
        }
    }

    fn passes_over(&mut self, bytes: usize) -> Result<(), Invalid> {
        self.extra += bytes;
        if self.extra > EXTRA_MOST {
            return Err(Invalid("too many extensions or trailers"));
        }
        Ok(())
    }
}

/// Takes a line without its CRLF; none when it is not whole yet.
fn line(read: &mut BytesMut) -> Result<Option<Bytes>, Invalid> {
    let looked_at = &read[..read.len().min(LINE_MOST)];
    let Some(end) = memchr::memchr(b'\n', looked_at) else {
        return if looked_at.len() == LINE_MOST {
            Err(Invalid("a line in a chunked body is too long"))
        } else {
            Ok(None)
        };
    };
    let line = read.split_to(end + 1).freeze();
    match line.strip_suffix(b"\r\n") {
        Some(text) if text.iter().all(|b| (*b >= b' ' && *b != 0x7f) || *b == b'\t') => Ok(Some(line.slice_ref(text))),
        _ => Err(Invalid("a line in a chunked body holds a control character")),
    }
}

/// The size a chunk's first line gives, and how many digits it has; the rest is an extension.
fn size(line: &[u8]) -> Result<(u64, usize), Invalid> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let ended = line.get(digits).is_none_or(|b| *b == b';');
    if !(1..=CHUNK_DIGITS).contains(&digits) || !ended {
        return Err(Invalid("a chunk has no plain size"));
    }
    let values = line[..digits].iter().filter_map(|b| char::from(*b).to_digit(16));
    Ok((values.fold(0, |n, d| n << 4 | u64::from(d)), digits))
}

fn is_field(line: &[u8]) -> bool {
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    memchr::memchr(b':', line).is_some_and(|colon| colon > 0 && line[..colon].iter().all(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a body that comes in pieces cut at these lengths; its data and what was left behind its end.
    fn read(mut framing: Framing, bytes: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Option<Vec<u8>>), Invalid> {
        let (mut buffer, mut out, mut rest) = (BytesMut::new(), Vec::new(), bytes);
        let mut cuts = cuts.iter().copied().chain([usize::MAX]);
        loop {
            match framing.take(&mut buffer)? {
                Piece::Data(data) => {
                    assert!(!data.is_empty());
                    out.extend_from_slice(&data);
                }
                Piece::End => {
                    assert!(framing.ended());
                    return Ok((out, Some([&buffer[..], rest].concat())));
                }
                Piece::More if rest.is_empty() => return Ok((out, None)),
                Piece::More => {
                    let (now, later) = rest.split_at(cuts.next().unwrap_or(usize::MAX).min(rest.len()));
                    buffer.extend_from_slice(now);
                    rest = later;
                }
            }
        }
    }

    #[test]
    fn a_chunked_body_is_read_to_its_end_and_no_further() {
        let bytes = b"3;x=\"1\"\r\nabc\r\n0000000000000001\r\n\n\r\n0\r\nX-T: 1\r\n\r\nHTTP/1.1 200";
        let whole = read(Framing::chunked(), bytes, &[]);
        assert_eq!(whole, Ok((b"abc\n".to_vec(), Some(b"HTTP/1.1 200".to_vec()))));
    }

    #[test]
    fn odd_chunks_are_refused() {
        for bad in [
            "0x3\r\nabc\r\n0\r\n\r\n",
            "+3\r\nabc\r\n0\r\n\r\n",
            " 3\r\nabc\r\n0\r\n\r\n",
            "3 \r\nabc\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabc\r\n\r\n0\r\n\r\n",
            "00000000000000003\r\nabc\r\n0\r\n\r\n",
            "-1\r\n\r\n",
            "\r\n0\r\n\r\n",
            "3;\x01\r\nabc\r\n0\r\n\r\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
            "0\r\nX: 1\n\r\n",
        ] {
            assert!(read(Framing::chunked(), bad.as_bytes(), &[]).is_err(), "{bad:?}");
        }
        let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(LINE_MOST));
        assert!(read(Framing::chunked(), long.as_bytes(), &[]).is_err());
        let many = format!("0\r\n{}\r\n", "X: 1\r\n".repeat(EXTRA_MOST / 4 + 1));
        assert!(read(Framing::chunked(), many.as_bytes(), &[]).is_err());
        let small = format!("{}0\r\n\r\n", "1;ee\r\nx\r\n".repeat(EXTRA_MOST / 3 + 1));
        assert!(read(Framing::chunked(), small.as_bytes(), &[]).is_err());
        let none = format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(EXTRA_MOST));
        assert!(read(Framing::chunked(), none.as_bytes(), &[]).is_ok());
    }

    #[test]
    fn a_counted_body_ends_where_it_says() {
        assert_eq!(
            read(Framing::Length(3), b"abcd", &[1]),
            Ok((b"abc".to_vec(), Some(b"d".to_vec())))
        );
        assert_eq!(
            read(Framing::Length(0), b"d", &[]),
            Ok((Vec::new(), Some(b"d".to_vec())))
        );
        assert_eq!(read(Framing::Length(5), b"abcd", &[]), Ok((b"abcd".to_vec(), None)));
        assert_eq!(read(Framing::UntilClose, b"abcd", &[2]), Ok((b"abcd".to_vec(), None)));
    }

    proptest! {
        /// Where reads are cut makes no difference, for good bodies and bad ones.
        #[test]
        fn pieces_read_like_the_whole(
            bytes in "([0-9a-f]{0,3}[;x ]{0,2}\r?\n[ab\r\n]{0,4}\r?\n?){0,4}(0\r\n(X: 1\r\n){0,2}\r\n)?[a-z]{0,3}",
            cuts in proptest::collection::vec(1usize..6, 0..60),
        ) {
            let whole = read(Framing::chunked(), bytes.as_bytes(), &[]);
            let pieces = read(Framing::chunked(), bytes.as_bytes(), &cuts);
            match (whole, pieces) {
                (Ok(whole), Ok(pieces)) => prop_assert_eq!(whole, pieces),
                (whole, pieces) => prop_assert_eq!(whole.is_err(), pieces.is_err()),
            }
        }

        /// What a chunked body says is what comes out, whatever its chunks are.
        #[test]
        fn chunks_add_up(chunks in proptest::collection::vec("[ -~]{1,20}", 0..6), cuts in proptest::collection::vec(1usize..9, 0..60)) {
            let mut bytes: String = chunks.iter().map(|c| format!("{:x}\r\n{c}\r\n", c.len())).collect();
            bytes.push_str("0\r\n\r\nrest");
            let wanted = (chunks.concat().into_bytes(), Some(b"rest".to_vec()));
            prop_assert_eq!(read(Framing::chunked(), bytes.as_bytes(), &cuts), Ok(wanted));
        }

        /// Whatever comes, nothing panics.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), cuts in proptest::collection::vec(1usize..40, 0..9)) {
            let _ = read(Framing::chunked(), &bytes, &cuts);
        }
    }
}
