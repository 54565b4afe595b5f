//! What the gateway reads from a client is what a strict reader reads, wherever the bytes are cut.
#![no_main]
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/main/strict.rs"]
mod strict;
use strict::{Read, read};

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let (found, good) = gateway::fuzzing::requests(bytes, usize::MAX);
    assert_eq!(gateway::fuzzing::requests(bytes, usize::from(piece)), (found.clone(), good), "pieces of {piece}");
    let mut rest = bytes;
    for (method, target, body) in found {
        while let Some(more) = rest.strip_prefix(b"\r\n") {
            rest = more;
        }
        let Read::Whole(request, used) = read(rest) else {
            panic!("{method} {target} is no request for the strict reader");
        };
        assert_eq!((&request.method, &request.body), (&method, &body));
        // The target is printed anew, so only plain ones compare.
        if request.target.starts_with('/') && !request.target.contains('?') {
            assert_eq!(request.target, target);
        }
        rest = &rest[used..];
    }
});
