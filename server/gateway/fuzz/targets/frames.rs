//! What passes of WebSocket frames is the same wherever the bytes are cut, and a row of frames that a plain reader finds good.
#![no_main]
use libfuzzer_sys::fuzz_target;

/// The bounds of [`gateway::fuzzing::frames`].
const FRAME_MOST: u64 = 1_000;
const MESSAGE_MOST: u64 = 1_500;

/// Reads frames from the beginning: how many bytes of whole frames and of payloads are good, and whether what follows is
/// wrong. Written from RFC 6455, 5.2, for a reader that has everything.
fn plainly(bytes: &[u8], of_client: bool, compressed: bool) -> (usize, bool) {
    let (mut at, mut message, mut closed) = (0usize, None::<u64>, false);
    loop {
        let rest = &bytes[at..];
        if rest.len() < 2 {
            return (at, false);
        }
        let (fin, rsv, opcode) = (rest[0] >> 7 == 1, rest[0] >> 4 & 7, rest[0] & 15);
        let (masked, short) = (rest[1] >> 7 == 1, u64::from(rest[1] & 127));
        let control = opcode >= 8;
        let bits_good = rsv == 0 || (rsv == 4 && compressed && (opcode == 1 || opcode == 2));
        let kind_good = match opcode {
            0 => message.is_some(),
            1 | 2 => message.is_none(),
            8 => fin && short <= 125 && short != 1,
            9 | 10 => fin && short <= 125,
            _ => false,
        };
        if closed || !bits_good || !kind_good || masked != of_client {
            return (at, true);
        }
        let long = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(digits) = rest.get(2..2 + long) else { return (at, false) };
        let length = match long {
            0 => short,
            _ => digits.iter().fold(0u64, |sum, digit| sum << 8 | u64::from(*digit)),
        };
        let shortest = match long {
            0 => true,
            2 => length > 125,
            _ => length > 65_535 && length >> 63 == 0,
        };
        let whole = message.unwrap_or(0).saturating_add(length);
        if !shortest || (!control && (length > FRAME_MOST || whole > MESSAGE_MOST)) {
            return (at, true);
        }
        let head = 2 + long + if masked { 4 } else { 0 };
        if rest.len() < head {
            return (at, false);
        }
        closed |= opcode == 8;
        if !control {
            message = (!fin).then_some(whole);
        }
        let end = usize::try_from(length).map_or(usize::MAX, |length| head + length);
        if rest.len() < end {
            return (bytes.len(), false);
        }
        at += end;
    }
}

// The first byte says whose frames they are, whether they may be compressed, and how large the pieces are.
fuzz_target!(|input: &[u8]| {
    let &[said, ref bytes @ ..] = input else { return };
    let (of_client, compressed, piece) = (said & 1 == 1, said & 2 == 2, usize::from(said >> 2));
    let frames = |piece| gateway::fuzzing::frames(bytes, piece, of_client, compressed);
    let whole = frames(usize::MAX);
    assert_eq!(frames(piece), whole, "pieces of {piece}");
    assert_eq!((whole.0, whole.2), plainly(bytes, of_client, compressed));
});
