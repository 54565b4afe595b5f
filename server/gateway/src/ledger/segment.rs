//! Segment files: a head of one record's length, then records, all preallocated with zeros.

use super::record::{Encoded, RECORD_LEN, check};
use super::sync::Syncing;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Begins every segment; the last character is the version of the record's form.
const MAGIC: &[u8; 8] = b"TPLEDGR1";
const EXTENSION: &str = "ledger";
/// Records read at once when a segment is walked: 64 KiB.
const WALK: usize = 512;

/// A segment on disk.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// Sequence number of its first record.
    pub(super) first: u64,
    /// Records it has room for.
    pub(super) capacity: u32,
}

impl Segment {
    /// Sequence number of the last record it has room for.
    pub(super) fn last(&self) -> u64 {
        self.first + u64::from(self.capacity) - 1
    }
    /// Bytes of the file.
    pub(super) fn len(&self) -> usize {
        (usize::try_from(self.capacity).unwrap_or(0) + 1) * RECORD_LEN
    }
    /// Where a record lies in the file.
    pub(super) fn offset(&self, seq: u64) -> usize {
        (usize::try_from(seq.saturating_sub(self.first)).unwrap_or(usize::MAX / RECORD_LEN - 1) + 1) * RECORD_LEN
    }
    /// Opens it for reading and writing.
    pub(super) fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(&self.path)
    }

    /// Makes a segment: filled with zeros and synced, so that later stores need no new blocks, then renamed into
    /// place, so that a half-made one is never seen.
    pub(super) fn create(dir: &Path, first: u64, capacity: u32, syncing: &Syncing) -> io::Result<Self> {
        let segment = Self {
            path: dir.join(format!("{first:020}.{EXTENSION}")),
            first,
            capacity,
        };
        let made = dir.join(format!("{first:020}.new"));
        let filled = segment.fill(&made, syncing);
        if filled.is_err() {
            // What it takes may be the last room there is, and others need some, too.
            let _ = std::fs::remove_file(&made);
        }
        filled?;
        std::fs::rename(&made, &segment.path)?;
        File::open(dir)?.sync_all()?;
        Ok(segment)
    }

    /// Writes the head and zeros.
    fn fill(&self, made: &Path, syncing: &Syncing) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(made)?;
        let mut head = [0u8; RECORD_LEN];
        head[4..12].copy_from_slice(MAGIC);
        head[12..20].copy_from_slice(&self.first.to_le_bytes());
        head[20..24].copy_from_slice(&self.capacity.to_le_bytes());
        let crc = crc32fast::hash(&head[4..]);
        head[..4].copy_from_slice(&crc.to_le_bytes());
        file.write_all(&head)?;
        let zeros = vec![0u8; 1 << 16];
        let mut left = self.len() - RECORD_LEN;
        while left > 0 {
            let now = left.min(zeros.len());
            file.write_all(&zeros[..now])?;
            left -= now;
        }
        syncing.all(&file)
    }

    /// Ends it where another begins.
    pub(super) fn end_before(&mut self, first: u64) {
        let kept = u32::try_from(first.saturating_sub(self.first)).unwrap_or(u32::MAX);
        self.capacity = self.capacity.min(kept);
    }

    /// Reads a segment's head; `None` when the file is not a whole segment.
    fn read(path: PathBuf) -> io::Result<Option<Self>> {
        let file = File::open(&path)?;
        let mut head = [0u8; RECORD_LEN];
        if file.read_exact_at(&mut head, 0).is_err() {
            return Ok(None);
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if word(0) != crc32fast::hash(&head[4..]) || head[4..12] != *MAGIC {
            return Ok(None);
        }
        let segment = Self {
            path,
            first: u64::from(word(12)) | (u64::from(word(16)) << 32),
            capacity: word(20),
        };
        let whole = file.metadata()?.len() >= u64::try_from(segment.len()).unwrap_or(u64::MAX);
        Ok((whole && segment.capacity > 0 && segment.first > 0).then_some(segment))
    }

    /// Every whole segment of a folder, oldest first; files left half-made are removed. One that could not be synced was left
    /// in its midst, and ends where the next begins.
    pub(super) fn list(dir: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some(EXTENSION) => match Self::read(path.clone())? {
                    Some(segment) => found.push(segment),
                    None => {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            format!("{} is not a ledger segment", path.display()),
                        ));
                    }
                },
                Some("new") => std::fs::remove_file(&path)?,
                _ => {}
            }
        }
        found.sort_by_key(|s| s.first);
        let begins: Vec<u64> = found.iter().skip(1).map(|s| s.first).collect();
        for (segment, next) in found.iter_mut().zip(begins) {
            segment.end_before(next);
        }
        Ok(found)
    }

    /// Calls `each` with every good record from `seq` on, in order, and returns the sequence number after the last.
    /// Stops at the first place that is empty or torn, at `end` (not included), or when `each` says so.
    pub(super) fn walk(&self, seq: u64, end: u64, mut each: impl FnMut(&Encoded) -> bool) -> io::Result<u64> {
        let file = File::open(&self.path)?;
        let mut buffer = vec![0u8; WALK * RECORD_LEN];
        let end = end.min(self.last() + 1);
        let mut next = seq.max(self.first);
        while next < end {
            let count = usize::try_from(end - next).unwrap_or(WALK).min(WALK);
            let bytes = &mut buffer[..count * RECORD_LEN];
            file.read_exact_at(bytes, u64::try_from(self.offset(next)).unwrap_or(u64::MAX))?;
            for record in bytes.as_chunks::<RECORD_LEN>().0 {
                if check(record) != Some(next) {
                    return Ok(next);
                }
                next += 1;
                if !each(record) {
                    return Ok(next);
                }
            }
        }
        Ok(next)
    }

    /// Zeroes everything from `seq` on, so that a record that lost its predecessors can never be taken for a later one.
    pub(super) fn clear_from(&self, seq: u64) -> io::Result<()> {
        let file = self.open()?;
        let zeros = vec![0u8; 1 << 16];
        let mut at = self.offset(seq);
        // All of the file, also where the segment ends before it does.
        let end = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        while at < end {
            let now = (end - at).min(zeros.len());
            file.write_all_at(&zeros[..now], u64::try_from(at).unwrap_or(u64::MAX))?;
            at += now;
        }
        file.sync_all()
    }
}
