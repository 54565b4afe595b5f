//! Frames read from bytes alone, for the fuzz targets.

use super::frames::{Frames, Rules, Side};

/// Bounds that a small input can pass.
const FRAME_BYTES: u64 = 1_000;
const MESSAGE_BYTES: u64 = 1_500;

/// How many bytes pass, how many of the frames are idle, and whether what follows them is wrong.
pub(crate) fn frames<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    of_client: bool,
    compressed: bool,
) -> (usize, u32, bool) {
    let mut frames = Frames::new(Rules {
        side: if of_client { Side::Client } else { Side::Upstream },
        frame_bytes: FRAME_BYTES,
        message_bytes: MESSAGE_BYTES,
        compressed,
    });
    let (mut held, mut bytes, mut idle) = (Vec::new(), 0, 0);
    for piece in pieces {
        held.extend_from_slice(piece);
        let passed = frames.pass(&held);
        held.drain(..passed.bytes);
        (bytes, idle) = (bytes + passed.bytes, idle + passed.idle);
        if passed.violation.is_some() {
            return (bytes, idle, true);
        }
    }
    (bytes, idle, false)
}
