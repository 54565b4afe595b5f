//! Which answers count.

/// Which HTTP statuses a meter counts: one bit for each of 100 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusSet([u64; 8]);

impl StatusSet {
    pub(super) fn bit_range(word: &str) -> Option<std::ops::Range<u16>> {
        if let Some(class) = word.strip_suffix("xx") {
            let class: u16 = class.parse().ok().filter(|c| (1..=5).contains(c))?;
            return Some(class * 100..class * 100 + 100);
        }
        let status: u16 = word.parse().ok().filter(|s| (100..600).contains(s))?;
        Some(status..status + 1)
    }

    /// From the words of a catalogue file; a word that is none is left out (the file's check refuses it).
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut set = [0u64; 8];
        for status in words.into_iter().filter_map(Self::bit_range).flatten() {
            let bit = status - 100;
            set[usize::from(bit / 64)] |= 1 << (bit % 64);
        }
        Self(set)
    }

    /// Whether the status counts.
    pub fn contains(&self, status: u16) -> bool {
        (100..600).contains(&status) && {
            let bit = status - 100;
            self.0[usize::from(bit / 64)] & (1 << (bit % 64)) != 0
        }
    }
}
