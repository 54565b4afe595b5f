//! The one place with `unsafe`: a ledger segment mapped into memory.

use memmap2::{MmapMut, MmapOptions};
use std::fs::File;
use std::io;

/// A segment mapped shared and writable. A store into it is in the kernel's page cache at once, so it survives the
/// death of the process at the next instruction; only a power cut needs the file to be synced.
pub(super) struct Mapping(MmapMut);

impl Mapping {
    /// Maps the first `len` bytes of a file that is at least that long.
    #[expect(unsafe_code, reason = "mapping a file is unsafe by nature; the proof is below")]
    pub(super) fn new(file: &File, len: usize) -> io::Result<Self> {
        if file.metadata()?.len() < u64::try_from(len).unwrap_or(u64::MAX) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "segment is shorter than its mapping",
            ));
        }
        // SAFETY: a mapping is unsound when the bytes behind a `&[u8]` change under it, and a store faults when the
        // file has become shorter. Neither can happen to a segment:
        // 1. The ledger folder is locked (`lock` file, held for the life of the `Ledger`), so no other Turnpike
        //    process opens it, and inside this process only the `Writer`, which sits in a mutex, holds a `Mapping`.
        // 2. This type never hands out a slice: `store` copies in through `&mut self`, and the ledger is read with
        //    `pread` on another descriptor, never through the mapping.
        // 3. Segments are written full of zeros and synced before they are mapped, so every page has its block (no
        //    fault for want of disk space) and nobody ever truncates one; removing the file leaves the inode alive
        //    until the mapping goes.
        let map = unsafe { MmapOptions::new().len(len).map_mut(file)? };
        Ok(Self(map))
    }

    /// Copies `bytes` to the place `at`; false when it lies outside.
    pub(super) fn store(&mut self, at: usize, bytes: &[u8]) -> bool {
        match self.0.get_mut(at..at.saturating_add(bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}
