//! Tests of the ledger as a whole.

use super::*;
use model::{KeyId, RequestId};
use std::os::unix::fs::FileExt;

pub(super) struct Counting(pub(super) AtomicU64);
impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes()[0]);
    }
}

pub(super) struct Folder(pub(super) PathBuf);
impl Folder {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ledger-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
    pub(super) fn open(&self, capacity: u32) -> Arc<Ledger> {
        Ledger::open(&self.0, capacity, &Counting(AtomicU64::new(1))).unwrap()
    }
    pub(super) fn segments(&self) -> Vec<Segment> {
        Segment::list(&self.0).unwrap()
    }
}
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn record(n: u64) -> UsageRecord {
    UsageRecord {
        seq: n,
        request: RequestId::from_bits(u128::from(n)),
        continues: false,
        at: Time::from_unix_ms(5),
        consumer: ConsumerId::from_bits(u128::from(n % 3)),
        environment: Environment::Live,
        subscription: None,
        plan_version: None,
        period_start: Time::from_unix_ms(1),
        key: KeyId::from_bits(9),
        route: 1,
        meter: 2,
        units: 2,
        status: 200,
        refusal: 0,
        variants: 0,
        request_bytes: 0,
        response_bytes: 0,
        duration_us: 1,
    }
}

pub(super) fn fill(ledger: &Ledger, from: u64, to: u64) {
    for n in from..=to {
        assert_eq!(ledger.append(encode(&record(n)), [None, None]).unwrap(), n);
    }
}

#[test]
fn many_threads_and_segments_leave_no_gap() {
    let folder = Folder::new("threads");
    let ledger = folder.open(16);
    let syncing = ledger.start_syncing().unwrap();
    let counter = AtomicU64::new(0);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for n in 0..500 {
                    ledger.append(encode(&record(n)), [Some((&counter, 2)), None]).unwrap();
                }
            });
        }
    });
    ledger.stop();
    syncing.join().unwrap();
    assert_eq!((ledger.committed(), ledger.synced()), (2_000, 2_000));
    assert_eq!(ledger.agreed(&[&counter]), (vec![4_000], 2_000));
    let read = ledger.read(1, 5_000).unwrap();
    assert!(read.iter().map(|r| r.seq).eq(1..=2_000));
    assert_eq!(
        ledger.read(100, 7).unwrap().iter().map(|r| r.seq).collect::<Vec<_>>(),
        (100..107).collect::<Vec<_>>()
    );
    let sums = ledger.units_after(1_500, |_| true).unwrap();
    assert_eq!(sums.values().sum::<u64>(), 1_000);
    drop(ledger);
    assert_eq!(folder.open(16).committed(), 2_000);
}

/// Whatever byte a crash tore, what was written before it is there and writing goes on behind it.
#[test]
fn a_torn_tail_is_mended_wherever_it_is() {
    for torn in [1u64, 5, 8, 9, 16, 17, 20] {
        for byte in [0usize, 4, 60, 127] {
            let folder = Folder::new(&format!("torn-{torn}-{byte}"));
            let ledger = folder.open(8);
            fill(&ledger, 1, 20);
            drop(ledger);
            let segment = folder
                .segments()
                .into_iter()
                .find(|s| s.first <= torn && torn <= s.last())
                .unwrap();
            // Only the last two segments can hold what was not synced.
            let reachable = torn >= 9;
            let file = segment.open().unwrap();
            let at = u64::try_from(segment.offset(torn) + byte).unwrap();
            let mut old = [0u8; 1];
            file.read_exact_at(&mut old, at).unwrap();
            file.write_all_at(&[!old[0]], at).unwrap();
            let ledger = folder.open(8);
            if reachable {
                assert_eq!(ledger.committed(), torn - 1, "torn at {torn}");
                fill(&ledger, torn, torn + 30);
                ledger.sync();
                let read = ledger.read(1, 5_000).unwrap();
                assert!(read.iter().map(|r| r.seq).eq(1..=torn + 30));
            } else {
                ledger.sync();
                assert!(
                    ledger.read(1, 5_000).is_err(),
                    "damage to what was synced is never passed over"
                );
            }
        }
    }
}

/// Damage to what is known to be on the disk is the disk's: it takes nothing that lies behind it, even when the end is
/// torn so far back that the damage lies in the last two segments that hold anything.
#[test]
fn damage_to_a_whole_segment_costs_nothing_behind_it() {
    for torn in 17..=20 {
        let folder = Folder::new(&format!("whole-{torn}"));
        let ledger = folder.open(8);
        fill(&ledger, 1, 20);
        ledger.sync();
        drop(ledger);
        for damaged in [12, torn] {
            let segments = folder.segments();
            let segment = segments
                .iter()
                .find(|s| s.first <= damaged && damaged <= s.last())
                .unwrap();
            let at = u64::try_from(segment.offset(damaged)).unwrap();
            segment
                .open()
                .unwrap()
                .write_all_at(&[0; record::RECORD_LEN], at)
                .unwrap();
        }
        for start in 0..3 {
            let ledger = folder.open(8);
            assert_eq!(ledger.committed(), torn - 1 + start, "torn at {torn}, start {start}");
            ledger.append(encode(&record(1)), [None, None]).unwrap();
            ledger.sync();
            assert!(ledger.read(1, 50).is_err(), "damage is never passed over");
            let behind = ledger.read(13, 50).unwrap();
            assert!(behind.iter().map(|r| r.seq).eq(13..=torn + start));
        }
    }
}

#[test]
fn the_record_that_reaches_a_count_is_found() {
    let folder = Folder::new("reached");
    let ledger = folder.open(8);
    for n in 1..=20 {
        let at = Time::from_unix_ms(100 + i64::try_from(n).unwrap());
        let record = UsageRecord { at, ..record(n) };
        ledger.append(encode(&record), [None, None]).unwrap();
    }
    let key = |consumer| {
        (
            ConsumerId::from_bits(consumer),
            Environment::Live,
            2,
            Time::from_unix_ms(1),
        )
    };
    // Two units each: of the first consumer in 3, 6, 9 ..., of the second in 1, 4, 7 ...
    let lacking = HashMap::from([(key(0), (3, 5)), (key(1), (0, 2)), (key(2), (0, 100))]);
    let reached = ledger.reached(lacking).unwrap();
    let expected = HashMap::from([(key(0), Time::from_unix_ms(112)), (key(1), Time::from_unix_ms(101))]);
    assert_eq!(reached, expected);
}

#[test]
fn only_synced_records_are_shipped() {
    let folder = Folder::new("synced");
    let ledger = folder.open(8);
    fill(&ledger, 1, 3);
    assert!(ledger.read(1, 10).unwrap().is_empty());
    ledger.sync();
    assert_eq!(ledger.read(1, 10).unwrap().len(), 3);
}

#[test]
fn a_folder_has_one_ledger_and_one_owner() {
    let folder = Folder::new("owner");
    let ledger = folder.open(8);
    let id = ledger.id().to_owned();
    assert!(Ledger::open(&folder.0, 8, &Counting(AtomicU64::new(7))).is_err());
    drop(ledger);
    assert_eq!(
        Ledger::open(&folder.0, 8, &Counting(AtomicU64::new(7))).unwrap().id(),
        id
    );
}

#[test]
fn shipped_and_old_segments_go() {
    let folder = Folder::new("prune");
    let ledger = folder.open(8);
    fill(&ledger, 1, 30);
    ledger.sync();
    let far = Time::from_unix_ms(i64::from(u32::MAX) * 1_000);
    ledger.prune(20, Duration::from_secs(1), Time::from_unix_ms(0));
    assert_eq!(folder.segments()[0].first, 1, "too young");
    ledger.prune(20, Duration::from_secs(1), far);
    assert_eq!(folder.segments()[0].first, 17, "the third is not shipped whole");
    ledger.prune(30, Duration::from_secs(1), far);
    assert_eq!(folder.segments()[0].first, 25, "the one in use stays");
    assert_eq!(ledger.read(25, 10).unwrap().len(), 6);
    assert_eq!(ledger.first(), 25);
    assert!(ledger.units_after(24, |_| true).is_ok() && ledger.units_after(30, |_| true).is_ok());
    for seq in [0, 16, 23] {
        assert!(
            ledger.units_after(seq, |_| true).is_err(),
            "units after {seq} are not known"
        );
        assert!(ledger.read(seq + 1, 10).is_err());
    }
    drop(ledger);
    assert_eq!(folder.open(8).committed(), 30);
}
