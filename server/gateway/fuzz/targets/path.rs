//! A path that is let through has one reading, for the strictest server and the kindest.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &str| {
    let Some(read) = gateway::fuzzing::path(raw) else { return };
    assert!(raw.is_ascii() && raw.starts_with('/'));
    assert_eq!(read.matches('/').count(), raw.matches('/').count(), "an escape made a slash");
    assert!(!read.contains(['\\', ';', '\0', '\r', '\n']) && !read.contains("//"));
    assert!(read.split('/').all(|s| s != "." && s != ".."));
    // Decoding once more changes nothing: there is no escape left.
    let again = read.as_bytes().windows(3);
    assert!(!again.clone().any(|w| w[0] == b'%' && w[1].is_ascii_hexdigit() && w[2].is_ascii_hexdigit()));
});
