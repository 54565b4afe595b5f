//! A clock that moves only when told.

use model::{Clock, Time};
use std::sync::atomic::{AtomicI64, Ordering};

/// Stands still until [`FixedClock::advance_s`] or [`FixedClock::set`].
pub struct FixedClock(AtomicI64);

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
        std::sync::Arc::new(Self(AtomicI64::new(time.unix_ms())))
    }
    /// Moves it forward.
    pub fn advance_s(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
    /// Sets it.
    pub fn set(&self, time: Time) {
        self.0.store(time.unix_ms(), Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Time {
        Time::from_unix_ms(self.0.load(Ordering::SeqCst))
    }
}
