//! A ledger record is whole or none, and a whole one is written again as it was.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: ([u8; 32], [u8; 32], [u8; 32], [u8; 32], u64)| {
    let mut bytes = [0u8; 128];
    for (at, part) in [&input.0, &input.1, &input.2, &input.3].into_iter().enumerate() {
        bytes[at * 32..][..32].copy_from_slice(part);
    }
    let _ = gateway::fuzzing::ledger_record(&bytes);
    gateway::fuzzing::seal(&mut bytes, input.4);
    let Some((found, again)) = gateway::fuzzing::ledger_record(&bytes) else { return };
    assert_eq!(found.seq, input.4);
    let (same, twice) = gateway::fuzzing::ledger_record(&again).expect("what was decoded can be encoded");
    assert_eq!((same, twice), (found, again));
});
