//! The machine's clock and randomness: the one place that reads them.

use model::{Clock, Random, Reading, Time};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How often the offset file is read.
const OFFSET_POLL: Duration = Duration::from_millis(200);

/// What steady time begins with: what looks back from the first moment sees no time before zero.
const STEADY_BEGIN: Duration = Duration::from_secs(400 * 86_400);

/// Business time is the machine's time plus an offset that follows a file; security time is the machine's.
pub(crate) struct MachineClock {
    offset_ms: AtomicI64,
    /// How far it was ahead of the database's when that was last looked at.
    skew_ms: AtomicI64,
    began: Instant,
}

impl MachineClock {
    /// With the offset in `file` (seconds ahead, a number), followed as it changes. Without a file business time is
    /// the machine's.
    pub(crate) fn start(file: Option<PathBuf>) -> Arc<Self> {
        let clock = Arc::new(Self {
            offset_ms: AtomicI64::new(0),
            skew_ms: AtomicI64::new(0),
            began: Instant::now(),
        });
        if let Some(file) = file {
            clock.read(&file);
            let follower = clock.clone();
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(OFFSET_POLL).await;
                    follower.read(&file);
                }
            });
        }
        clock
    }

    /// Notes how far it is ahead of the database's.
    pub(crate) fn note_skew(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::Relaxed);
    }

    fn read(&self, file: &std::path::Path) {
        let seconds = std::fs::read_to_string(file)
            .ok()
            .and_then(|text| text.trim().parse::<i64>().ok());
        if let Some(seconds) = seconds {
            self.offset_ms.store(seconds.saturating_mul(1000), Ordering::Relaxed);
        }
    }
}

fn machine_now() -> Time {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that everything else is given"
    )]
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Time::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl Clock for MachineClock {
    fn reading(&self) -> Reading {
        let security_now = machine_now();
        Reading {
            now: security_now.plus_ms(self.offset_ms.load(Ordering::Relaxed)),
            security_now,
            steady_ns: self.steady_ns(),
        }
    }
    fn now(&self) -> Time {
        machine_now().plus_ms(self.offset_ms.load(Ordering::Relaxed))
    }
    fn security_now(&self) -> Time {
        machine_now()
    }
    fn skew_ms(&self) -> i64 {
        self.skew_ms.load(Ordering::Relaxed)
    }
    fn steady_ns(&self) -> u64 {
        let since = STEADY_BEGIN.saturating_add(self.began.elapsed());
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The operating system's randomness.
pub(crate) struct MachineRandom;

impl Random for MachineRandom {
    fn fill(&self, bytes: &mut [u8]) {
        // Without randomness no secret may be made, and the system call fails only where the kernel has none.
        if getrandom::fill(bytes).is_err() {
            std::process::abort();
        }
    }
}
