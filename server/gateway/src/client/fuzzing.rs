//! Requests read from bytes alone, for the fuzz targets.

use super::head::{self, Head};
use crate::http1::{Framing, Piece, Scan};
use bytes::BytesMut;
use http::HeaderMap;

/// As large as a connection's bounds are by default.
const LIMITS: (usize, usize) = (32 << 10, 100);

/// Method, target and body of each whole request, and whether everything was good so far.
pub(crate) fn requests<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<(String, String, Vec<u8>)>, bool) {
    let (mut read, mut scan, mut out) = (BytesMut::new(), Scan::default(), Vec::new());
    let mut open: Option<(Head, Framing, Vec<u8>)> = None;
    loop {
        let more = match &mut open {
            None => match head::read(&mut read, &mut scan, LIMITS, &mut HeaderMap::new()) {
                Ok(Some(head)) => {
                    let framing = head.framing.clone();
                    open = Some((head, framing, Vec::new()));
                    false
                }
                Ok(None) => true,
                Err(_) => return (out, false),
            },
            Some((_, framing, body)) => match framing.take(&mut read) {
                Ok(Piece::Data(data)) => {
                    body.extend_from_slice(&data);
                    false
                }
                Ok(Piece::End) => {
                    let done = open.take();
                    out.extend(done.map(|(h, _, body)| (h.parts.method.to_string(), h.parts.uri.to_string(), body)));
                    false
                }
                Ok(Piece::More) => true,
                Err(_) => return (out, false),
            },
        };
        if more {
            match pieces.next() {
                Some(piece) => read.extend_from_slice(piece),
                None => return (out, true),
            }
        }
    }
}
