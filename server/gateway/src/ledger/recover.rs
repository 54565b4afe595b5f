//! Finding the end of what a process that died left behind.

use super::segment::Segment;
use std::io;

/// Finds the end: the first empty or torn place behind what is known to be whole (`mark`), in the last two segments that
/// hold anything (what is not synced spans no more than two). Everything behind it is cleared. Damage before the mark is
/// the disk's, not a torn end: it stays, and whoever reads there is told.
pub(super) fn recover(mut segments: Vec<Segment>, mark: u64) -> io::Result<(Vec<Segment>, u64)> {
    let open = segments.iter().position(|s| s.last() > mark).unwrap_or(segments.len());
    let behind = segments.split_off(open);
    let mut kept = segments;
    let first = match (behind.first(), kept.last()) {
        (Some(segment), _) => segment.first,
        (None, Some(segment)) => segment.last() + 1,
        (None, None) => 1,
    };
    let mut used = 0;
    for (i, s) in behind.iter().enumerate() {
        if s.walk(s.first, s.first + 1, |_| false)? > s.first {
            used = i;
        }
    }
    let mut next = first;
    for s in behind.iter().take(used + 1).skip(used.saturating_sub(1)) {
        next = s.walk(s.first, u64::MAX, |_| true)?;
        if next <= s.last() {
            break;
        }
    }
    for s in behind {
        if s.first > next {
            std::fs::remove_file(&s.path)?;
            continue;
        }
        if next <= s.last() {
            s.clear_from(next)?;
        }
        kept.push(s);
    }
    Ok((kept, next))
}
