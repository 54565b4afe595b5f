//! One answer read from bytes alone, for the fuzz targets.

use super::head;
use crate::http1::{Framing, Piece, Scan};
use bytes::BytesMut;
use http::HeaderMap;

/// Status and body of the answer that begins in `read`, where `more` gives what comes next; `None` when it is refused
/// or not whole.
pub(crate) fn answer<'a>(
    read: &mut BytesMut,
    head_request: bool,
    mut more: impl FnMut() -> Option<&'a [u8]>,
) -> Option<(u16, Vec<u8>)> {
    let (mut scan, mut headers) = (Scan::default(), HeaderMap::new());
    let head = loop {
        match head::read(read, &mut scan, head_request, &mut headers) {
            Ok(Some(head)) if head.status.is_informational() => {}
            Ok(Some(head)) => break head,
            Ok(None) => read.extend_from_slice(more()?),
            Err(_) => return None,
        }
    };
    let (mut framing, mut body) = (head.framing, Vec::new());
    loop {
        match framing.take(read) {
            Ok(Piece::Data(data)) => body.extend_from_slice(&data),
            Ok(Piece::End) => return Some((head.status.as_u16(), body)),
            Ok(Piece::More) => match more() {
                Some(bytes) => read.extend_from_slice(bytes),
                None if framing.ends_at_close() => framing = Framing::Length(0),
                None => return None,
            },
            Err(_) => return None,
        }
    }
}
