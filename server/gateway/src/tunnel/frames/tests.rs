use super::*;
use proptest::prelude::*;

const CLIENT: Rules = Rules {
    side: Side::Client,
    frame_bytes: 1_000,
    message_bytes: 1_500,
    compressed: false,
};
const UPSTREAM: Rules = Rules {
    side: Side::Upstream,
    ..CLIENT
};

/// A frame with a payload of so many zeros; `first` is its first byte.
fn frame(rules: Rules, first: u8, bytes: usize) -> Vec<u8> {
    let masked = if rules.side == Side::Client { MASKED } else { 0 };
    let mut out = vec![first];
    match bytes {
        0..126 => out.push(masked | u8::try_from(bytes).unwrap()),
        126..0x1_0000 => {
            out.push(masked | 126);
            out.extend(u16::try_from(bytes).unwrap().to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend(u64::try_from(bytes).unwrap().to_be_bytes());
        }
    }
    if masked != 0 {
        out.extend([1, 2, 3, 4]);
    }
    out.resize(out.len() + bytes, 0);
    out
}

/// The bytes that pass of pieces, the idle frames among them, what is wrong, and whether a close frame could follow.
fn through<'a>(rules: Rules, pieces: impl IntoIterator<Item = &'a [u8]>) -> (usize, u32, Option<Violation>, bool) {
    let (mut frames, mut held, mut sum) = (Frames::new(rules), Vec::new(), (0, 0));
    for piece in pieces {
        held.extend_from_slice(piece);
        let passed = frames.pass(&held);
        sum = (sum.0 + passed.bytes, sum.1 + passed.idle);
        held.drain(..passed.bytes);
        if passed.violation.is_some() {
            return (sum.0, sum.1, passed.violation, frames.may_be_closed());
        }
        assert!(held.len() < 14, "no more than a head waits");
    }
    (sum.0, sum.1, None, frames.may_be_closed())
}

fn verdict(rules: Rules, bytes: &[u8]) -> Option<Violation> {
    through(rules, [bytes]).2
}

#[test]
fn what_is_well_formed_passes_whole() {
    for rules in [CLIENT, UPSTREAM] {
        let all: Vec<u8> = [
            frame(rules, 0x81, 0),
            frame(rules, 0x82, 125),
            frame(rules, 0x82, 126),
            frame(rules, 0x01, 10),
            frame(rules, 0x89, 125),
            frame(rules, 0x00, 0),
            frame(rules, 0x8A, 0),
            frame(rules, 0x80, 1_000),
            frame(rules, 0x88, 2),
        ]
        .concat();
        assert_eq!(
            through(rules, [&all[..]]),
            (all.len(), 4, None, false),
            "closed by itself"
        );
        let all = &all[..all.len() - 1];
        assert!(!through(rules, [all]).3, "inside a frame");
    }
    assert!(
        through(CLIENT, [&frame(CLIENT, 0x01, 10)[..]]).3,
        "between the frames of a message"
    );
}

#[test]
fn what_is_not_is_stopped_before_its_head() {
    let other = |rules: Rules, first| frame(if rules.side == Side::Client { UPSTREAM } else { CLIENT }, first, 1);
    for rules in [CLIENT, UPSTREAM] {
        let protocol = |bytes: Vec<u8>| match verdict(rules, &bytes) {
            Some(Violation::Protocol(words)) => words,
            other => panic!("{bytes:?}: {other:?}"),
        };
        for first in [0x83, 0x87, 0x8B, 0x8F] {
            assert!(protocol(frame(rules, first, 0)).contains("opcode"), "{first:x}");
        }
        for first in [0xC1, 0xA1, 0x91, 0xC9, 0xA8] {
            assert!(protocol(frame(rules, first, 2)).contains("reserved bit"), "{first:x}");
        }
        for first in [0x08, 0x09, 0x0A] {
            assert!(protocol(frame(rules, first, 0)).contains("fragmented"), "{first:x}");
        }
        for first in [0x88, 0x89, 0x8A] {
            assert!(protocol(frame(rules, first, 126)).contains("125 bytes"), "{first:x}");
        }
        assert!(protocol(other(rules, 0x81)).contains("masked"));
        assert!(protocol(frame(rules, 0x88, 1)).contains("close frame"));
        assert!(protocol(frame(rules, 0x80, 1)).contains("no message"));
        let twice = [frame(rules, 0x01, 1), frame(rules, 0x81, 1)].concat();
        assert!(protocol(twice).contains("has not ended"));
        let behind = [frame(rules, 0x88, 0), frame(rules, 0x8A, 0)].concat();
        assert!(protocol(behind.clone()).contains("follows a close"));
        assert_eq!(
            through(rules, [&behind[..]]).0,
            frame(rules, 0x88, 0).len(),
            "what was before it passes"
        );
    }
}

#[test]
fn lengths_have_one_form() {
    for length in [
        &[126, 0, 125][..],
        &[127, 0, 0, 0, 0, 0, 0, 255, 255],
        &[127, 128, 0, 0, 0, 0, 1, 0, 0],
    ] {
        let bytes = [&[0x82], length, &[0; 200]].concat();
        assert!(matches!(verdict(UPSTREAM, &bytes), Some(Violation::Protocol(words)) if words.contains("length")));
    }
}

#[test]
fn bounds_hold_for_what_is_announced() {
    let gibibyte = [0x82, 127, 0, 0, 0, 0, 0x40, 0, 0, 0];
    assert_eq!(
        verdict(UPSTREAM, &gibibyte),
        Some(Violation::FrameTooLarge),
        "no byte of it came"
    );
    assert_eq!(verdict(UPSTREAM, &frame(UPSTREAM, 0x82, 1_000)), None);
    assert_eq!(
        verdict(UPSTREAM, &frame(UPSTREAM, 0x82, 1_001)),
        Some(Violation::FrameTooLarge)
    );
    let parts = |last| {
        [
            frame(UPSTREAM, 0x02, 1_000),
            frame(UPSTREAM, 0x89, 9),
            frame(UPSTREAM, 0x80, last),
        ]
        .concat()
    };
    assert_eq!(verdict(UPSTREAM, &parts(500)), None);
    assert_eq!(verdict(UPSTREAM, &parts(501)), Some(Violation::MessageTooLarge));
    let whole = frame(UPSTREAM, 0x82, 1_000);
    assert_eq!(
        verdict(UPSTREAM, &[whole.clone(), whole].concat()),
        None,
        "each message by itself"
    );
}

#[test]
fn a_compressed_message_begins_with_one_bit() {
    let agreed = Rules {
        compressed: true,
        ..UPSTREAM
    };
    let fine = [
        frame(agreed, 0x41, 3),
        frame(agreed, 0x80, 3),
        frame(agreed, 0xC2, 3),
        frame(agreed, 0x82, 3),
    ];
    assert_eq!(verdict(agreed, &fine.concat()), None);
    for wrong in [
        frame(agreed, 0xE1, 3),
        frame(agreed, 0xC9, 3),
        [frame(agreed, 0x41, 3), frame(agreed, 0xC0, 3)].concat(),
    ] {
        assert!(
            matches!(verdict(agreed, &wrong), Some(Violation::Protocol(_))),
            "{wrong:?}"
        );
    }
}

#[test]
fn a_close_frame_is_one_to_both_sides() {
    let long = "\u{e9}".repeat(100);
    for reason in ["", "used up", &long] {
        let plain = close(1008, reason, None);
        assert_eq!(through(UPSTREAM, [&plain[..]]), (plain.len(), 1, None, false));
        let masked = close(1008, reason, Some([9, 8, 7, 6]));
        assert_eq!(through(CLIENT, [&masked[..]]), (masked.len(), 1, None, false));
        assert_eq!(plain[2..4], [3, 240]);
        assert!(long.starts_with(std::str::from_utf8(&plain[4..]).unwrap()) || plain[4..] == *reason.as_bytes());
        let open: Vec<u8> = masked[6..]
            .iter()
            .zip([9, 8, 7, 6].iter().cycle())
            .map(|(b, m)| b ^ m)
            .collect();
        assert_eq!(open, plain[2..]);
    }
}

/// Frames that are well formed most of the time, and anything.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        4 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x00, 0x80, 0x89, 0x8A]),
        1 => any::<u8>(),
    ];
    let bytes = prop_oneof![4 => 0usize..200, 1 => 900usize..1_100];
    let one = (first, bytes, any::<bool>())
        .prop_map(|(first, bytes, client)| frame(if client { CLIENT } else { UPSTREAM }, first, bytes));
    let alike = (prop::collection::vec((0usize..7, 0usize..300), 0..12), any::<bool>()).prop_map(|(all, client)| {
        let rules = if client { CLIENT } else { UPSTREAM };
        let kinds = [0x81, 0x82, 0x01, 0x00, 0x80, 0x89, 0x88];
        all.iter()
            .flat_map(|(kind, bytes)| frame(rules, kinds[*kind], *bytes % 126))
            .collect::<Vec<u8>>()
    });
    prop_oneof![
        prop::collection::vec(one, 0..8).prop_map(|all| all.concat()),
        alike,
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    /// However the bytes are cut, the same pass and the same is wrong with what does not.
    #[test]
    fn any_cut_gives_the_same_verdict(
        bytes in streams(), mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        client: bool, compressed: bool,
    ) {
        let rules = Rules { compressed, ..if client { CLIENT } else { UPSTREAM } };
        let whole = through(rules, [&bytes[..]]);
        prop_assert_eq!(through(rules, bytes.chunks(1)), whole);
        let mut places: Vec<usize> = cuts.drain(..).map(|cut| cut.index(bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        prop_assert_eq!(through(rules, places.windows(2).map(|cut| &bytes[cut[0]..cut[1]])), whole);
    }

    /// What passes is what a reader that has all the bytes finds good.
    #[test]
    fn what_passes_is_a_row_of_good_frames(bytes in streams(), client: bool) {
        let rules = if client { CLIENT } else { UPSTREAM };
        let (passed, ..) = through(rules, [&bytes[..]]);
        let mut rest = &bytes[..passed];
        while !rest.is_empty() {
            let (length, size) = match rest[1] & 0x7F {
                126 => (usize::from(rest[2]) << 8 | usize::from(rest[3]), 4),
                short => (usize::from(short), 2),
            };
            prop_assert_eq!(rest[1] & MASKED != 0, client);
            prop_assert!(length <= 1_000 && (rest[0] & 0x8 == 0 || length <= 125 && rest[0] & FINAL != 0));
            let end = size + if client { 4 } else { 0 } + length;
            rest = rest.get(end..).unwrap_or_default();
        }
    }
}
