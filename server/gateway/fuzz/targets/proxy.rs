//! A PROXY header takes its own bytes and no more, and is bounded.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok((_, used)) = gateway::fuzzing::proxy(bytes) else { return };
    assert!(used <= bytes.len() && used < 2200);
    let mut more = bytes[..used].to_vec();
    more.extend_from_slice(b"GET / HTTP/1.1\r\n");
    let (_, again) = gateway::fuzzing::proxy(&more).expect("what follows makes no difference");
    assert_eq!(again, used);
});
