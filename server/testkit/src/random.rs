//! Randomness that repeats: the seed is printed when a test fails, and `TURNPIKE_SEED` sets it.

use model::Random;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Mutex;

/// ChaCha from a seed.
pub struct SeededRandom {
    seed: u64,
    state: Mutex<rand_chacha::ChaCha8Rng>,
}

impl SeededRandom {
    /// From `TURNPIKE_SEED`, or from the seed given.
    #[must_use]
    pub fn new(seed: u64) -> std::sync::Arc<Self> {
        let seed = std::env::var("TURNPIKE_SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(seed);
        std::sync::Arc::new(Self {
            seed,
            state: Mutex::new(rand_chacha::ChaCha8Rng::seed_from_u64(seed)),
        })
    }

    /// A number below `bound`.
    pub fn below(&self, bound: u64) -> u64 {
        self.state.lock().unwrap().next_u64() % bound.max(1)
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.state.lock().unwrap().fill_bytes(bytes);
    }
}

impl Drop for SeededRandom {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.seed;
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("the seed was TURNPIKE_SEED={seed}\n").as_bytes(),
            );
        }
    }
}
