//! An upstream's answer is the same wherever its bytes are cut, and takes no more than its frame says.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (piece, head_request, bytes) = input;
    let whole = gateway::fuzzing::answer(bytes, usize::MAX, head_request);
    assert_eq!(gateway::fuzzing::answer(bytes, usize::from(piece), head_request), whole, "pieces of {piece}");
    let Some((status, body, rest)) = whole else { return };
    assert!((200..1000).contains(&status));
    assert!(body.len() + rest.len() < bytes.len(), "the head is part of what came");
    assert!(bytes.ends_with(&rest), "what follows an answer is left as it was");
    assert!(!head_request || body.is_empty());
});
