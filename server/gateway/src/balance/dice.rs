//! Randomness for choices that need no secrecy.

use std::sync::atomic::{AtomicU64, Ordering};

/// The SplitMix64 sequence from a seed.
#[derive(Debug)]
pub(crate) struct Dice(AtomicU64);

/// Spreads a number over all bits.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Dice {
    /// Always the same sequence for a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A number below `most`; 0 when that is 0.
    pub(crate) fn below(&self, most: u64) -> u64 {
        let step = 0x9E37_79B9_7F4A_7C15;
        let drawn = mix(self.0.fetch_add(step, Ordering::Relaxed).wrapping_add(step));
        u64::try_from((u128::from(drawn) * u128::from(most)) >> 64).unwrap_or(0)
    }
}
