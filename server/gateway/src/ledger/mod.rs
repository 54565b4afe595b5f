//! The ledger: one append-only sequence of fixed-size records in preallocated, memory-mapped segments.
//!
//! A record is stored by copying it into the mapping while a mutex is held for some tens of nanoseconds, so records
//! come to lie strictly in order: after `kill -9` at most the last one is torn, and the first bad checksum is the end.
//! A thread syncs what was written every [`SYNC_EVERY`]; only synced records are shipped, so the control plane never
//! knows more than the disk does and no sequence number is given out twice, whatever the power does.

mod mapping;
mod record;
mod segment;

use mapping::Mapping;
use model::access::Environment;
use model::usage::UsageRecord;
use model::{ConsumerId, Random, Time};
pub(crate) use record::encode;
use record::{decode, seal};
use segment::Segment;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a power cut may take: records younger than this.
pub(crate) const SYNC_EVERY: Duration = Duration::from_millis(10);
const ID_FILE: &str = "id";
const LOCK_FILE: &str = "lock";

/// Units of a consumer's meter in a period.
pub(crate) type UnitsKey = (ConsumerId, Environment, u16, Time);

/// The ledger of one gateway.
pub(crate) struct Ledger {
    dir: PathBuf,
    id: String,
    capacity: u32,
    writer: Mutex<Writer>,
    segments: Mutex<BTreeMap<u64, Segment>>,
    committed: AtomicU64,
    synced: AtomicU64,
    dirty: AtomicBool,
    broken: AtomicBool,
    syncer: std::sync::OnceLock<std::thread::Thread>,
    stopping: AtomicBool,
    _lock: File,
}

struct Writer {
    next: u64,
    current: Current,
    prepared: Option<Current>,
    /// Filled segments that are not synced yet.
    filled: Vec<Arc<File>>,
}

struct Current {
    segment: Segment,
    mapping: Mapping,
    file: Arc<File>,
}

impl Current {
    fn open(segment: Segment) -> io::Result<Self> {
        let file = segment.open()?;
        let mapping = Mapping::new(&file, segment.len())?;
        Ok(Self {
            segment,
            mapping,
            file: Arc::new(file),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked inside leaves whole records behind: nothing here is half-done between two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// Opens the ledger of a folder, or begins one, and mends its tail.
    ///
    /// # Errors
    /// When the folder is another process's, or cannot be read or written.
    pub(crate) fn open(dir: &Path, capacity: u32, random: &dyn Random) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(dir)?;
        let held = File::create(dir.join(LOCK_FILE))?;
        held.try_lock()
            .map_err(|e| io::Error::other(format!("{} belongs to another running gateway: {e}", dir.display())))?;
        let id = read_or_make_id(dir, random)?;
        let (segments, next) = recover(Segment::list(dir)?)?;
        let mut segments: BTreeMap<u64, Segment> = segments.into_iter().map(|s| (s.first, s)).collect();
        let current = match segments.values().find(|s| s.first <= next && next <= s.last()) {
            Some(segment) => segment.clone(),
            None => Segment::create(dir, next, capacity)?,
        };
        segments.insert(current.first, current.clone());
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            id,
            capacity,
            writer: Mutex::new(Writer {
                next,
                current: Current::open(current)?,
                prepared: None,
                filled: Vec::new(),
            }),
            segments: Mutex::new(segments),
            committed: AtomicU64::new(next - 1),
            synced: AtomicU64::new(next - 1),
            dirty: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            syncer: std::sync::OnceLock::new(),
            stopping: AtomicBool::new(false),
            _lock: held,
        }))
    }

    /// The ledger's name, made once.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
    /// The last sequence number that survives the death of the process.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }
    /// The last sequence number that survives a power cut.
    pub(crate) fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }
    /// Whether records can be taken. Asked before a request is forwarded.
    pub(crate) fn writable(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// Appends a record made by [`encode`] and adds its units to `counted` in the same instant. When this returns,
    /// `kill -9` cannot take the record back.
    ///
    /// # Errors
    /// When a new segment is needed and cannot be made.
    pub(crate) fn append(&self, mut record: record::Encoded, counted: Option<(&AtomicU64, u64)>) -> io::Result<u64> {
        let mut writer = lock(&self.writer);
        let seq = writer.next;
        if seq > writer.current.segment.last() {
            self.roll(&mut writer)?;
        }
        seal(&mut record, seq);
        let at = writer.current.segment.offset(seq);
        if !writer.current.mapping.store(at, &record) {
            return Err(io::Error::other("the record lies outside its segment"));
        }
        writer.next = seq + 1;
        if let Some((counter, units)) = counted {
            counter.fetch_add(units, Ordering::Relaxed);
        }
        self.committed.store(seq, Ordering::Release);
        drop(writer);
        if !self.dirty.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.syncer.get()
        {
            thread.unpark();
        }
        Ok(seq)
    }

    /// Reads `counter` at an instant when it agrees with the ledger: (its value, the last sequence number in it).
    pub(crate) fn agreed(&self, counters: &[&AtomicU64]) -> (Vec<u64>, u64) {
        let writer = lock(&self.writer);
        let values = counters.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        (values, writer.next - 1)
    }

    fn roll(&self, writer: &mut Writer) -> io::Result<()> {
        let next = match writer.prepared.take() {
            Some(ready) => ready,
            None => self
                .prepare(writer.next)
                .inspect_err(|_| self.broken.store(true, Ordering::Relaxed))?,
        };
        let old = std::mem::replace(&mut writer.current, next);
        writer.filled.push(old.file);
        Ok(())
    }

    fn prepare(&self, first: u64) -> io::Result<Current> {
        let segment = Segment::create(&self.dir, first, self.capacity)?;
        let current = Current::open(segment.clone())?;
        lock(&self.segments).insert(first, segment);
        Ok(current)
    }

    /// Starts the thread that syncs and that prepares the next segment before it is needed.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start_syncing(self: &Arc<Self>) -> io::Result<std::thread::JoinHandle<()>> {
        let ledger = Arc::clone(self);
        let handle = std::thread::Builder::new().name("ledger".to_owned()).spawn(move || {
            while !ledger.stopping.load(Ordering::Acquire) {
                if !ledger.dirty.load(Ordering::Acquire) {
                    std::thread::park_timeout(Duration::from_secs(1));
                    if !ledger.dirty.load(Ordering::Acquire) && ledger.writable() {
                        continue;
                    }
                }
                std::thread::sleep(SYNC_EVERY);
                ledger.sync();
            }
            ledger.sync();
        })?;
        let _ = self.syncer.set(handle.thread().clone());
        Ok(handle)
    }

    /// Ends the thread after a last sync.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.syncer.get() {
            thread.unpark();
        }
    }

    fn sync(&self) {
        self.dirty.store(false, Ordering::Release);
        let (through, files, prepare) = {
            let mut writer = lock(&self.writer);
            let mut files = std::mem::take(&mut writer.filled);
            files.push(Arc::clone(&writer.current.file));
            let used = writer.next - writer.current.segment.first;
            let wanted = writer.prepared.is_none() && used > u64::from(writer.current.segment.capacity) / 4;
            (
                writer.next - 1,
                files,
                wanted.then(|| writer.current.segment.last() + 1),
            )
        };
        if let Some(error) = files.iter().find_map(|f| f.sync_data().err()) {
            // After a failed sync the kernel may have dropped the pages: the segment is not trusted with more.
            tracing::error!(%error, "the ledger cannot be synced; requests are refused");
            self.broken.store(true, Ordering::Relaxed);
            return;
        }
        self.synced.fetch_max(through, Ordering::AcqRel);
        let first = match prepare {
            Some(first) => first,
            None => return,
        };
        match self.prepare(first) {
            Ok(ready) => {
                let mut writer = lock(&self.writer);
                if writer.prepared.is_none() && writer.current.segment.last() + 1 == first {
                    writer.prepared = Some(ready);
                }
                self.broken.store(false, Ordering::Relaxed);
            }
            Err(error) => tracing::error!(%error, "no room for the next ledger segment"),
        }
    }

    /// Synced records from `from` on, at most `most`.
    ///
    /// # Errors
    /// When a segment cannot be read, or lacks a record that was written.
    pub(crate) fn read(&self, from: u64, most: usize) -> io::Result<Vec<UsageRecord>> {
        let end = self.synced() + 1;
        let mut out = Vec::new();
        self.walk(from, end, |r| {
            out.extend(decode(r));
            out.len() < most
        })?;
        Ok(out)
    }

    /// Units per consumer, meter and period in those records after `seq` that `include` takes.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub(crate) fn units_after(
        &self,
        seq: u64,
        include: impl Fn(&UsageRecord) -> bool,
    ) -> io::Result<HashMap<UnitsKey, u64>> {
        let mut sums: HashMap<UnitsKey, u64> = HashMap::new();
        self.walk(seq + 1, self.committed() + 1, |r| {
            if let Some(r) = decode(r).filter(|r| r.units > 0 && include(r)) {
                let sum = sums
                    .entry((r.consumer, r.environment, r.meter, r.period_start))
                    .or_default();
                *sum += u64::from(r.units);
            }
            true
        })?;
        Ok(sums)
    }

    fn walk(&self, from: u64, end: u64, mut each: impl FnMut(&record::Encoded) -> bool) -> io::Result<()> {
        let held: Vec<Segment> = lock(&self.segments)
            .values()
            .filter(|s| s.last() >= from)
            .cloned()
            .collect();
        let mut more = true;
        for segment in held.iter().filter(|s| s.first < end) {
            let stop = segment.walk(from, end, |r| {
                more = each(r);
                more
            })?;
            if !more {
                break;
            }
            if stop < end.min(segment.last() + 1) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("ledger record {stop} is damaged in {}", segment.path.display()),
                ));
            }
        }
        Ok(())
    }

    /// Removes segments that are shipped whole and older than `retention`.
    pub(crate) fn prune(&self, shipped: u64, retention: Duration, now: Time) {
        let active = lock(&self.writer).current.segment.first;
        let old = |s: &Segment| {
            let modified = std::fs::metadata(&s.path).and_then(|m| m.modified()).ok();
            let since = modified.and_then(|m| m.duration_since(std::time::UNIX_EPOCH).ok());
            since.is_some_and(|d| {
                let age_ms = i128::from(now.unix_ms()) - i128::try_from(d.as_millis()).unwrap_or(i128::MAX);
                age_ms >= i128::try_from(retention.as_millis()).unwrap_or(i128::MAX)
            })
        };
        let mut segments = lock(&self.segments);
        segments.retain(|first, s| {
            let goes = *first < active && s.last() <= shipped && old(s);
            !(goes && std::fs::remove_file(&s.path).is_ok())
        });
    }
}

fn read_or_make_id(dir: &Path, random: &dyn Random) -> io::Result<String> {
    let path = dir.join(ID_FILE);
    match std::fs::read_to_string(&path) {
        Ok(id) if id.len() == 32 => return Ok(id),
        Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "the ledger's id is damaged")),
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Err(_) => {}
    }
    let mut bytes = [0u8; 16];
    random.fill(&mut bytes);
    let id = format!("{:032x}", u128::from_be_bytes(bytes));
    let made = dir.join("id.new");
    std::fs::write(&made, &id)?;
    File::open(&made)?.sync_all()?;
    std::fs::rename(&made, &path)?;
    File::open(dir)?.sync_all()?;
    Ok(id)
}

/// Finds the end: the first empty or torn place in the last two segments that hold anything (what is not synced spans
/// no more than two). Everything behind it is cleared.
fn recover(segments: Vec<Segment>) -> io::Result<(Vec<Segment>, u64)> {
    let Some(first) = segments.first().map(|s| s.first) else {
        return Ok((segments, 1));
    };
    let mut used = 0;
    for (i, s) in segments.iter().enumerate() {
        if s.walk(s.first, s.first + 1, |_| false)? > s.first {
            used = i;
        }
    }
    let mut next = first;
    for s in &segments[used.saturating_sub(1)..=used] {
        next = s.walk(s.first, u64::MAX, |_| true)?;
        if next <= s.last() {
            break;
        }
    }
    let mut kept = Vec::new();
    for s in segments {
        if s.first > next {
            std::fs::remove_file(&s.path)?;
            continue;
        }
        if next <= s.last() {
            s.clear_from(next)?;
        }
        kept.push(s);
    }
    Ok((kept, next))
}
