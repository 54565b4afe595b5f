//! How often a client may send frames that bring no message further. Each is cheap to make and wakes the upstream, and a
//! ping makes it answer.

use std::time::{Duration, Instant};

/// Such frames a second in the long run. Programs ping every few seconds and answer each ping of the upstream's; the fastest
/// that measure the way ping some times a second.
const PER_SECOND: u32 = 20;
/// Such frames at once: what gathered while the way was blocked for a few seconds comes in one go.
const BURST: u32 = 60;

/// The frames of one client, counted as rate limits are (`rate::gcra`): by the time at which the next would be due.
#[derive(Debug, Default)]
pub(super) struct Flood {
    due: Option<Instant>,
}

impl Flood {
    /// Counts frames; whether there are too many by now.
    pub(super) fn is_over(&mut self, frames: u32, now: Instant) -> bool {
        if frames == 0 {
            return false;
        }
        let every = Duration::from_secs(1) / PER_SECOND;
        let due = self.due.map_or(now, |due| due.max(now)) + every.saturating_mul(frames);
        self.due = Some(due);
        due - now > every * BURST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_a_steady_rate_pass_and_no_more() {
        let begun = Instant::now();
        let mut flood = Flood::default();
        assert!(!flood.is_over(BURST, begun));
        assert!(!flood.is_over(0, begun), "messages are not counted");
        for second in 1..100 {
            assert!(
                !flood.is_over(PER_SECOND, begun + Duration::from_secs(second)),
                "{second}"
            );
        }
        assert!(flood.is_over(1, begun + Duration::from_secs(99)));
        let mut flood = Flood::default();
        assert!((0..BURST).all(|_| !flood.is_over(1, begun)) && flood.is_over(1, begun));
        assert!(Flood::default().is_over(u32::MAX, begun), "however many");
    }
}
