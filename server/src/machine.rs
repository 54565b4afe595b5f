//! What the machine lends: room on the disk of the data folder, file descriptors, and a clock. Looked at from time to time, so
//! that operators hear of trouble before requests do.

use crate::clock::MachineClock;
use domain::Domain;
use rustix::fs::statvfs;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(10);
/// Longest wait for the database's clock.
const CLOCK_LIMIT: Duration = Duration::from_secs(5);
/// Shortest time between two words about the same trouble.
const TELL_EVERY: Duration = Duration::from_secs(600);
/// Parts of a hundred in use from which the disk and the descriptors are trouble.
const DISK_ALARM: u64 = 80;
const FILES_ALARM: u64 = 90;
/// A clock that differs by more than this is trouble, in milliseconds.
const SKEW_ALARM_MS: i64 = 30_000;

/// How much of something there is, and how much of it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    used: u64,
    of: u64,
}

impl Share {
    fn is_beyond(self, percent: u64) -> bool {
        u128::from(self.used) * 100 > u128::from(self.of) * u128::from(percent)
    }
}

/// Bytes of the file system that holds a folder; what is kept for root counts as used.
fn disk(folder: &Path) -> Option<Share> {
    let stat = statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let (of, free) = (bytes(stat.f_blocks), bytes(stat.f_bavail));
    Some(Share {
        used: of.saturating_sub(free),
        of,
    })
}

/// Open descriptors of this process; none where that cannot be told, or there may be any number.
fn files() -> Option<Share> {
    let of = getrlimit(Resource::Nofile).current?;
    let folder = Path::new("/proc/self/fd");
    // Linux 6.2 and later say it without a descriptor of its own.
    let told = std::fs::metadata(folder).ok()?.len();
    let used = match told {
        0 => match std::fs::read_dir(folder) {
            // The folder itself is open meanwhile.
            Ok(open) => u64::try_from(open.count()).ok()?.saturating_sub(1),
            Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => of,
            Err(_) => return None,
        },
        told => told,
    };
    Some(Share { used, of })
}

/// Adds the gauges to the metrics.
pub(crate) fn render(text: &mut String, data_dir: &Path, skew_ms: i64) {
    let mut say = |name: &str, help: &str, value: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    };
    if let Some(Share { used, of }) = disk(data_dir) {
        let free = of.saturating_sub(used);
        say(
            "turnpike_data_free_bytes",
            "Room left on the disk of the data folder.",
            &free,
        );
        say("turnpike_data_size_bytes", "Size of the disk of the data folder.", &of);
    }
    if let Some(Share { used, of }) = files() {
        say("turnpike_open_files", "Open file descriptors of this process.", &used);
        say(
            "turnpike_open_files_limit",
            "File descriptors that this process may open.",
            &of,
        );
    }
    say(
        "turnpike_clock_skew_milliseconds",
        "How far this machine's clock is ahead of the database's.",
        &skew_ms,
    );
}

/// Trouble of one kind, told when it begins, from time to time while it lasts, and when it is over.
#[derive(Default)]
struct Trouble {
    told: Option<Instant>,
}

/// What is to be told of it now.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    Nothing,
    Lasts,
    Over,
}

impl Trouble {
    fn look(&mut self, there: bool, now: Instant) -> Word {
        match (there, self.told) {
            (true, Some(then)) if now - then < TELL_EVERY => Word::Nothing,
            (true, _) => {
                self.told = Some(now);
                Word::Lasts
            }
            (false, Some(_)) => {
                self.told = None;
                Word::Over
            }
            (false, None) => Word::Nothing,
        }
    }
}

/// Looks until the pool is closed.
pub(crate) async fn watch(domain: Domain, clock: Arc<MachineClock>, data_dir: PathBuf) {
    let (mut full, mut many, mut wrong) = (Trouble::default(), Trouble::default(), Trouble::default());
    while !domain.pool.is_closed() {
        // While the database is away, what was measured last holds.
        if let Ok(Ok(skew_ms)) = tokio::time::timeout(CLOCK_LIMIT, domain::skew::measure(&domain)).await {
            clock.note_skew(skew_ms);
            match wrong.look(skew_ms.abs() > SKEW_ALARM_MS, Instant::now()) {
                Word::Lasts => tracing::warn!(
                    skew_ms,
                    "this machine's clock differs from the database's: set it right. Beyond four minutes tokens get no leeway \
                     and no usage goes to Stripe"
                ),
                Word::Over => tracing::info!(skew_ms, "this machine's clock agrees with the database's again"),
                Word::Nothing => {}
            }
        }
        if let Some(Share { used, of }) = disk(&data_dir) {
            let free = of.saturating_sub(used);
            match full.look(Share { used, of }.is_beyond(DISK_ALARM), Instant::now()) {
                Word::Lasts => tracing::warn!(
                    free_bytes = free,
                    size_bytes = of,
                    folder = %data_dir.display(),
                    "the disk of the data folder is nearly full; once it is, calls that are paid for are refused"
                ),
                Word::Over => tracing::info!(free_bytes = free, "the disk of the data folder has room again"),
                Word::Nothing => {}
            }
        }
        if let Some(share) = files() {
            let Share { used, of } = share;
            match many.look(share.is_beyond(FILES_ALARM), Instant::now()) {
                Word::Lasts => tracing::warn!(
                    open = used,
                    limit = of,
                    "nearly all file descriptors are in use: raise the limit (ulimit -n, LimitNOFILE)"
                ),
                Word::Over => tracing::info!(open = used, limit = of, "there are file descriptors again"),
                Word::Nothing => {}
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_at_its_beginning_now_and_then_and_at_its_end() {
        let (mut trouble, begin) = (Trouble::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(trouble.look(false, begin), Word::Nothing);
        assert_eq!(trouble.look(true, at(10)), Word::Lasts);
        assert_eq!(trouble.look(true, at(20)), Word::Nothing);
        assert_eq!(trouble.look(true, at(610)), Word::Lasts);
        assert_eq!(trouble.look(false, at(620)), Word::Over);
        assert_eq!(trouble.look(false, at(630)), Word::Nothing);
        assert_eq!(trouble.look(true, at(640)), Word::Lasts);
    }

    #[test]
    fn a_share_is_beyond_what_it_passes() {
        let share = |used, of| Share { used, of };
        assert!(!share(80, 100).is_beyond(DISK_ALARM) && share(81, 100).is_beyond(DISK_ALARM));
        assert!(share(u64::MAX, u64::MAX).is_beyond(FILES_ALARM));
        assert!(!share(0, 0).is_beyond(FILES_ALARM));
    }

    #[test]
    fn the_machine_can_be_asked() {
        let (room, open) = (disk(Path::new("/")).unwrap(), files().unwrap());
        assert!(room.of > 0 && room.used <= room.of && open.used > 2 && open.used < open.of);
        let held: Vec<_> = (0..50)
            .map(|_| std::fs::File::open("/proc/self/stat").unwrap())
            .collect();
        // Other tests open and close some meanwhile.
        assert!(files().unwrap().used >= open.used + 30);
        drop(held);
        assert_eq!(disk(Path::new("/nowhere/at/all")), None);
    }
}
