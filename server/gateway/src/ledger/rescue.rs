//! Going on after a sync that failed.

use super::record::{Encoded, check};
use super::segment::Segment;
use super::{Current, Ledger, Writer, lock};
use std::io;
use std::sync::atomic::Ordering;

impl Ledger {
    /// Takes nothing more until what is not on the disk for certain is in a new segment that is.
    pub(super) fn leave(&self) {
        self.broken.store(true, Ordering::Relaxed);
        if !self.may_make() {
            return;
        }
        // Whoever appends looks at `broken` with the writer in hand: from here on nothing is added.
        let next = lock(&self.writer).next;
        let from = self.synced() + 1;
        let mut records: Vec<Encoded> = Vec::new();
        let read = self.walk(from, next, |record| {
            records.push(*record);
            true
        });
        if let Err(error) = read {
            tracing::error!(%error, from, next, "what was not synced cannot be read any more: start the gateway anew");
            self.failed.store(true, Ordering::Relaxed);
            return;
        }
        let rescued = self.rescue(from, &records);
        let Some(current) = self.made(
            rescued,
            "no ledger segment takes the place of one that cannot be synced",
        ) else {
            return;
        };
        self.go_on(&mut lock(&self.writer), current, next);
        tracing::warn!(records = records.len(), "the ledger goes on in a new segment");
    }

    /// A new segment with these records, synced.
    fn rescue(&self, from: u64, records: &[Encoded]) -> io::Result<Current> {
        // Room for one more, so that the writer need not look for another at once.
        let least = u32::try_from(records.len() + 1).map_err(io::Error::other)?;
        let segment = Segment::create(&self.dir, from, self.capacity.max(least), &self.syncing)?;
        let mut current = Current::open(segment)?;
        for record in records {
            let place = check(record).map(|seq| current.segment.offset(seq));
            if !place.is_some_and(|at| current.mapping.store(at, record)) {
                return Err(io::Error::other("the record lies outside its segment"));
            }
        }
        self.syncing.data(&current.file)?;
        Ok(current)
    }

    /// Writes into `current` from now on. Segments that it takes the place of go, and the one before it ends where it begins.
    fn go_on(&self, writer: &mut Writer, current: Current, next: u64) {
        let from = current.segment.first;
        *lock(&self.prepared) = None;
        let mut segments = lock(&self.segments);
        segments.retain(|first, old| {
            if *first > from
                && let Err(error) = std::fs::remove_file(&old.path)
            {
                tracing::error!(%error, "a ledger segment that is not needed any more stays");
            }
            *first <= from
        });
        if let Some((_, before)) = segments.range_mut(..from).next_back() {
            before.end_before(from);
        }
        segments.insert(from, current.segment.clone());
        writer.current = current;
        writer.filled.clear();
        self.synced.fetch_max(next - 1, Ordering::AcqRel);
        self.leaving.store(false, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::encode;
    use super::super::tests::{Counting, Folder, fill, record};
    use super::super::{BeforeSync, Ledger};
    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, mpsc};
    use std::time::{Duration, Instant};

    /// How long a sync that nobody lets end goes on: longer than a machine stands still.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A disk whose syncs fail while it is told to; it counts them.
    #[derive(Default)]
    struct Disk {
        sick: AtomicBool,
        syncs: AtomicUsize,
    }

    impl Disk {
        fn ledger(self: &Arc<Self>, folder: &Folder, capacity: u32) -> Arc<Ledger> {
            let disk = Arc::clone(self);
            let before = BeforeSync::new(move || {
                disk.syncs.fetch_add(1, Ordering::Relaxed);
                match disk.sick.load(Ordering::Relaxed) {
                    true => Err(io::Error::from_raw_os_error(5)),
                    false => Ok(()),
                }
            });
            Ledger::open_on(&folder.0, capacity, &Counting(AtomicU64::new(1)), Some(before)).unwrap()
        }
    }

    /// Wherever in its segment, and in whichever, the sync fails: nothing is lost, nothing comes twice, also for who starts
    /// after `kill -9`.
    #[test]
    fn a_segment_that_cannot_be_synced_is_left_for_a_new_one() {
        for (synced, unsynced) in [(0, 3), (3, 2), (5, 9), (8, 4), (7, 1), (16, 0), (20, 21), (6, 40)] {
            let folder = Folder::new(&format!("left-{synced}-{unsynced}"));
            let disk = Arc::new(Disk::default());
            let ledger = disk.ledger(&folder, 8);
            fill(&ledger, 1, synced);
            ledger.sync();
            fill(&ledger, synced + 1, synced + unsynced);
            disk.sick.store(true, Ordering::Relaxed);
            ledger.sync();
            assert!(!ledger.writable() && ledger.synced() == synced, "{synced}, {unsynced}");
            assert!(ledger.append(encode(&record(1)), [None, None]).is_err());
            assert_eq!(ledger.read(1, 100).unwrap().len(), usize::try_from(synced).unwrap());
            disk.sick.store(false, Ordering::Relaxed);
            std::thread::sleep(super::super::MAKE_RETRY);
            ledger.sync();
            let end = synced + unsynced;
            assert!(ledger.writable(), "{synced}, {unsynced}");
            assert_eq!(ledger.synced(), end);
            fill(&ledger, end + 1, end + 30);
            ledger.sync();
            let all = |ledger: &Ledger| ledger.read(1, 500).unwrap().iter().map(|r| r.seq).collect::<Vec<_>>();
            assert_eq!(all(&ledger), (1..=end + 30).collect::<Vec<_>>(), "{synced}, {unsynced}");
            drop(ledger);
            let again = folder.open(8);
            assert_eq!(again.committed(), end + 30, "{synced}, {unsynced}");
            fill(&again, end + 31, end + 40);
            again.sync();
            assert_eq!(all(&again), (1..=end + 40).collect::<Vec<_>>(), "{synced}, {unsynced}");
        }
    }

    /// The file that failed is not synced again: every sync after the failure is of a new one.
    #[test]
    fn a_sync_that_failed_is_not_tried_again() {
        let folder = Folder::new("once");
        let disk = Arc::new(Disk::default());
        let ledger = disk.ledger(&folder, 64);
        fill(&ledger, 1, 5);
        ledger.sync();
        fill(&ledger, 6, 9);
        disk.sick.store(true, Ordering::Relaxed);
        let old = folder.segments()[0].path.clone();
        let (before, begun) = (disk.syncs.load(Ordering::Relaxed), Instant::now());
        for _ in 0..50 {
            ledger.sync();
        }
        let tries = disk.syncs.load(Ordering::Relaxed) - before;
        // Each pause ends with one more try, should this machine stand still for as long.
        let pauses = begun.elapsed().as_millis() / super::super::MAKE_RETRY.as_millis();
        assert!(
            (2..=2 + pauses).contains(&(tries as u128)),
            "the segment's, and that of one new file; the next comes after a pause: {tries} with {pauses} of them"
        );
        disk.sick.store(false, Ordering::Relaxed);
        std::thread::sleep(super::super::MAKE_RETRY);
        ledger.sync();
        let segments = folder.segments();
        assert_eq!(segments[0].path, old);
        assert_eq!((segments[0].last(), segments[1].first), (5, 6));
    }

    /// With every sync taking as long as it likes, requests are written down all the same.
    #[test]
    fn a_slow_disk_holds_up_nobody() {
        const RECORDS: u64 = 75;
        let folder = Folder::new("slow");
        let (begun, begins) = mpsc::channel();
        let (let_go, goes) = mpsc::channel();
        let (goes, ended) = (Mutex::new(goes), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&ended);
        let slow = BeforeSync::new(move || {
            let _ = begun.send(());
            let _ = goes.lock().unwrap().recv_timeout(PATIENCE);
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        // The first segment is synced when it is made.
        let_go.send(()).unwrap();
        let ledger = Ledger::open_on(&folder.0, 512, &Counting(AtomicU64::new(1)), Some(slow)).unwrap();
        begins.recv_timeout(PATIENCE).unwrap();
        let syncing = ledger.start_syncing().unwrap();
        // What is written down during one sync asks for the next; among them is that of a new segment.
        for round in 0..4 {
            let first = round * RECORDS + 1;
            fill(&ledger, first, first);
            begins.recv_timeout(PATIENCE).unwrap();
            let before = ended.load(Ordering::SeqCst);
            fill(&ledger, first + 1, first + RECORDS - 1);
            assert_eq!(ended.load(Ordering::SeqCst), before, "it waited for the disk");
            let_go.send(()).unwrap();
        }
        ledger.stop();
        drop(let_go);
        syncing.join().unwrap();
        assert_eq!(ledger.synced(), 4 * RECORDS);
    }
}
