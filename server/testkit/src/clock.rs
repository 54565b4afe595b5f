//! A clock that moves only when told.

use model::{Clock, Time};
use std::sync::atomic::{AtomicI64, Ordering};

/// Stands still until [`FixedClock::advance_s`] or [`FixedClock::set`].
pub struct FixedClock {
    now_ms: AtomicI64,
    skew_ms: AtomicI64,
}

impl FixedClock {
    /// 15 November 2026, 10:00 UTC, unless a test wants another time.
    pub const START_S: i64 = 1_794_736_800;

    /// At [`FixedClock::START_S`].
    #[must_use]
    pub fn start() -> std::sync::Arc<Self> {
        Self::at(Time::from_unix_s(Self::START_S))
    }
    /// At an instant.
    #[must_use]
    pub fn at(time: Time) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self {
            now_ms: AtomicI64::new(time.unix_ms()),
            skew_ms: AtomicI64::new(0),
        })
    }
    /// Moves it forward.
    pub fn advance_s(&self, seconds: i64) {
        self.now_ms.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
    /// Says that it is so far ahead of the database's.
    pub fn set_skew_ms(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::SeqCst);
    }
    /// Sets it.
    pub fn set(&self, time: Time) {
        self.now_ms.store(time.unix_ms(), Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Time {
        Time::from_unix_ms(self.now_ms.load(Ordering::SeqCst))
    }
    fn skew_ms(&self) -> i64 {
        self.skew_ms.load(Ordering::SeqCst)
    }
}
