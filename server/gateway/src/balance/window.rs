//! Two counts over the last seconds in one word.

use std::sync::atomic::{AtomicU64, Ordering};

const COUNT_BITS: u32 = 24;
const COUNT_MOST: u64 = (1 << COUNT_BITS) - 1;
const EPOCH_MASK: u64 = 0xFFFF;

/// Counts all events and those that are marked, over the running window and half of what the one before held.
#[derive(Debug, Default)]
pub(crate) struct Window(AtomicU64);

/// All events and the marked ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) all: u64,
    pub(crate) marked: u64,
}

impl Window {
    /// Counts what `change` makes of the counts so far, unless it makes nothing; the counts after it.
    pub(crate) fn update(
        &self,
        now_ms: u64,
        window_ms: u64,
        mut change: impl FnMut(Counts) -> Option<Counts>,
    ) -> Option<Counts> {
        let epoch = (now_ms / window_ms.max(1)) & EPOCH_MASK;
        let mut after = None;
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let before = unpack(word);
            let counts = match epoch.wrapping_sub(word >> (2 * COUNT_BITS)) & EPOCH_MASK {
                0 => before,
                1 => Counts {
                    all: before.all / 2,
                    marked: before.marked / 2,
                },
                _ => Counts { all: 0, marked: 0 },
            };
            after = change(counts);
            after.map(|c| epoch << (2 * COUNT_BITS) | c.all.min(COUNT_MOST) << COUNT_BITS | c.marked.min(COUNT_MOST))
        });
        after
    }

    /// Begins with nothing.
    pub(crate) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

fn unpack(word: u64) -> Counts {
    Counts {
        all: (word >> COUNT_BITS) & COUNT_MOST,
        marked: word & COUNT_MOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fade_and_go() {
        let window = Window::default();
        let add = |now_ms, marked: u64| {
            let counts = window.update(now_ms, 1000, |c| {
                Some(Counts {
                    all: c.all + 1,
                    marked: c.marked + marked,
                })
            });
            counts.map(|c| (c.all, c.marked))
        };
        for i in 1..=10 {
            assert_eq!(add(500, 1), Some((i, i)));
        }
        assert_eq!(add(1500, 0), Some((6, 5)), "half of the window before, and this one");
        assert_eq!(add(9500, 0), Some((1, 0)), "long silence");
        assert_eq!(window.update(9500, 1000, |_| None), None);
        assert_eq!(
            add(9500, 1),
            Some((2, 1)),
            "nothing was counted by a change that made nothing"
        );
    }
}
