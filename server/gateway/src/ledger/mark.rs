//! How far a ledger is known to be whole: the last record of the last segment that was filled and synced.
//!
//! Only a hint, written after the sync and not synced itself: where it is missing or damaged, recovery looks further back.

use std::io;
use std::path::Path;

const FILE: &str = "whole";

/// The last sequence number known to be on the disk; 0 when nothing is known.
pub(super) fn read(dir: &Path) -> u64 {
    let Ok(bytes) = std::fs::read(dir.join(FILE)) else {
        return 0;
    };
    match (
        bytes.get(..8).map(<[u8; 8]>::try_from),
        bytes.get(8..).map(<[u8; 4]>::try_from),
    ) {
        (Some(Ok(seq)), Some(Ok(crc))) if crc32fast::hash(&seq) == u32::from_le_bytes(crc) => u64::from_le_bytes(seq),
        _ => 0,
    }
}

/// Notes that everything up to `seq` is on the disk.
pub(super) fn write(dir: &Path, seq: u64) -> io::Result<()> {
    let seq = seq.to_le_bytes();
    let crc = crc32fast::hash(&seq).to_le_bytes();
    let made = dir.join("whole.made");
    std::fs::write(&made, [&seq[..], &crc[..]].concat())?;
    std::fs::rename(&made, dir.join(FILE))
}
