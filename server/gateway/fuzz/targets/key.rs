//! What passes as a key has its form and its checksum, and no neighbour of it does.
#![no_main]
use libfuzzer_sys::fuzz_target;
use model::access::Environment;
use model::key::{PlainKey, parse};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Randomness from the input, again and again.
struct Given<'a>(&'a [u8], AtomicUsize);
impl model::Random for Given<'_> {
    fn fill(&self, out: &mut [u8]) {
        for byte in out {
            let at = self.1.fetch_add(1, Ordering::Relaxed);
            *byte = self.0.get(at % self.0.len().max(1)).copied().unwrap_or_default() ^ u8::try_from(at % 251).unwrap_or_default();
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Some((environment, _)) = parse(bytes) {
        let text = std::str::from_utf8(bytes).expect("a key is text");
        let word = if environment == Environment::Live { "_live_" } else { "_test_" };
        assert!(text.contains(word) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{text}");
        for at in 0..bytes.len() {
            let mut near = bytes.to_vec();
            near[at] ^= 1;
            assert!(parse(&near).is_none(), "{text} differs from a key in one bit at {at}");
        }
    }
    let made = PlainKey::generate("tp", Environment::Live, &Given(bytes, AtomicUsize::new(0)));
    assert_eq!(parse(made.reveal().as_bytes()), Some((Environment::Live, made.lookup())));
});
