//! The ledger: one append-only sequence of fixed-size records in preallocated, memory-mapped segments.
//!
//! A record is stored by copying it into the mapping while a mutex is held for some tens of nanoseconds, so records
//! come to lie strictly in order: after `kill -9` at most the last one is torn, and the first bad checksum is the end.
//! A thread syncs what was written every [`SYNC_EVERY`]; only synced records are shipped, so the control plane never
//! knows more than the disk does and no sequence number is given out twice, whatever the power does.
//!
//! A sync that failed is never tried again: the second time the kernel may say that all is well, having given up what it
//! could not write. The segment ends behind the last record that is known to be on the disk, and what came after it goes
//! from memory into a new one. While there is none, and while there is no room for a next one, nothing is taken.

mod mapping;
mod mark;
pub(crate) mod record;
mod recover;
mod rescue;
mod segment;
mod sync;
#[cfg(test)]
mod tests;

use mapping::Mapping;
use model::access::Environment;
use model::usage::UsageRecord;
use model::{ConsumerId, KeyId, Random, Time};
pub(crate) use record::encode;
use record::{decode, seal};
use segment::Segment;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
pub use sync::BeforeSync;
use sync::Syncing;

/// What a power cut may take: records younger than this.
pub(crate) const SYNC_EVERY: Duration = Duration::from_millis(10);
/// Time after which a segment that could not be made is tried again: each try writes all of one.
const MAKE_RETRY: Duration = Duration::from_millis(500);
/// Shortest time between two words about the same trouble.
const TELL_EVERY: Duration = Duration::from_secs(60);
const ID_FILE: &str = "id";
pub(crate) const LOCK_FILE: &str = "lock";

/// Units of a consumer's meter in a period.
pub(crate) type UnitsKey = (ConsumerId, Environment, u16, Time);

/// The ledger of one gateway.
pub(crate) struct Ledger {
    dir: PathBuf,
    id: String,
    capacity: u32,
    writer: Mutex<Writer>,
    segments: Mutex<BTreeMap<u64, Segment>>,
    /// The next segment, made ahead of need. Held while one is made, so that none is ever made twice; taken after
    /// `writer`, never before it.
    prepared: Mutex<Option<Current>>,
    committed: AtomicU64,
    synced: AtomicU64,
    dirty: AtomicBool,
    /// No room for a next segment, or none after one that could not be synced; mended when there is.
    broken: AtomicBool,
    /// A sync failed, and what it was for is in no new segment yet.
    leaving: AtomicBool,
    /// What was not synced cannot be read any more; for good.
    failed: AtomicBool,
    /// Requests that cost nothing and that it did not take.
    unrecorded: AtomicU64,
    syncing: Syncing,
    trouble: Mutex<Trouble>,
    syncer: std::sync::OnceLock<std::thread::Thread>,
    stopping: AtomicBool,
    held: File,
}

/// When a segment could not be made, and when that was last told.
#[derive(Default)]
struct Trouble {
    failed: Option<Instant>,
    told: Option<Instant>,
}

struct Writer {
    next: u64,
    current: Current,
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
        Self::open_on(dir, capacity, random, None)
    }

    /// The same, with what comes before every sync.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub(crate) fn open_on(
        dir: &Path,
        capacity: u32,
        random: &dyn Random,
        before: Option<BeforeSync>,
    ) -> io::Result<Arc<Self>> {
        let syncing = Syncing(before);
        std::fs::create_dir_all(dir)?;
        let held = File::create(dir.join(LOCK_FILE))?;
        held.try_lock().map_err(|e| {
            let why = format!("{} belongs to another running gateway: {e}", dir.display());
            io::Error::new(io::ErrorKind::WouldBlock, why)
        })?;
        let id = read_or_make_id(dir, random)?;
        let (segments, next) = recover::recover(Segment::list(dir)?, mark::read(dir))?;
        let mut segments: BTreeMap<u64, Segment> = segments.into_iter().map(|s| (s.first, s)).collect();
        let current = match segments.values().find(|s| s.first <= next && next <= s.last()) {
            Some(segment) => segment.clone(),
            None => Segment::create(dir, next, capacity, &syncing)?,
        };
        segments.insert(current.first, current.clone());
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            id,
            capacity,
            writer: Mutex::new(Writer {
                next,
                current: Current::open(current)?,
                filled: Vec::new(),
            }),
            segments: Mutex::new(segments),
            prepared: Mutex::new(None),
            committed: AtomicU64::new(next - 1),
            synced: AtomicU64::new(next - 1),
            dirty: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            unrecorded: AtomicU64::new(0),
            syncing,
            trouble: Mutex::default(),
            syncer: std::sync::OnceLock::new(),
            stopping: AtomicBool::new(false),
            held,
        }))
    }

    /// The ledger's name, made once.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
    /// The first sequence number that is still there, or will be the first.
    pub(crate) fn first(&self) -> u64 {
        lock(&self.segments).keys().next().copied().unwrap_or(1)
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
        !self.broken.load(Ordering::Relaxed) && !self.failed.load(Ordering::Relaxed)
    }

    /// Requests that cost nothing and that it did not take.
    pub(crate) fn unrecorded(&self) -> u64 {
        self.unrecorded.load(Ordering::Relaxed)
    }
    /// A request that costs nothing goes on without a record.
    pub(crate) fn pass_unrecorded(&self) {
        self.unrecorded.fetch_add(1, Ordering::Relaxed);
    }

    /// Appends a record made by [`encode`] and adds its units to `counted` in the same instant. When this returns,
    /// `kill -9` cannot take the record back.
    ///
    /// # Errors
    /// When a new segment is needed and cannot be made; from then on until there is one, at once.
    pub(crate) fn append(
        &self,
        mut record: record::Encoded,
        counted: [Option<(&AtomicU64, u64)>; 2],
    ) -> io::Result<u64> {
        let mut writer = lock(&self.writer);
        if !self.writable() {
            return Err(io::Error::other("the ledger takes nothing just now"));
        }
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
        for (counter, units) in counted.into_iter().flatten() {
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
        let mut prepared = lock(&self.prepared);
        let next = match prepared.take().filter(|p| p.segment.first == writer.next) {
            Some(ready) => ready,
            None => self
                .make(writer.next)
                .inspect_err(|_| self.broken.store(true, Ordering::Relaxed))?,
        };
        let old = std::mem::replace(&mut writer.current, next);
        writer.filled.push(old.file);
        Ok(())
    }

    /// Makes a segment; to be called with `prepared` held.
    fn make(&self, first: u64) -> io::Result<Current> {
        let segment = Segment::create(&self.dir, first, self.capacity, &self.syncing)?;
        let current = Current::open(segment.clone())?;
        lock(&self.segments).insert(first, segment);
        Ok(current)
    }

    /// Makes the segment that begins at `first`, unless it is there.
    fn prepare(&self, first: u64) -> io::Result<()> {
        let mut prepared = lock(&self.prepared);
        if !lock(&self.segments).contains_key(&first) {
            *prepared = Some(self.make(first)?);
        }
        Ok(())
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

    /// Lets another gateway have the folder, whoever still has this ledger in hand: nothing is written any more. A child
    /// process that has the lock's descriptor from us holds it no longer, either.
    pub(crate) fn release(&self) {
        if let Err(error) = self.held.unlock() {
            tracing::error!(%error, "the ledger's folder cannot be let go before this process ends");
        }
    }

    fn sync(&self) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        if self.leaving.load(Ordering::Relaxed) {
            return self.leave();
        }
        self.dirty.store(false, Ordering::Release);
        let (through, files, filled, prepare) = {
            let mut writer = lock(&self.writer);
            let mut files = std::mem::take(&mut writer.filled);
            let filled = (!files.is_empty()).then(|| writer.current.segment.first - 1);
            files.push(Arc::clone(&writer.current.file));
            let used = writer.next - writer.current.segment.first;
            let wanted = used > u64::from(writer.current.segment.capacity) / 4;
            (
                writer.next - 1,
                files,
                filled,
                wanted.then(|| writer.current.segment.last() + 1),
            )
        };
        if let Some(error) = files.iter().find_map(|f| self.syncing.data(f).err()) {
            tracing::error!(%error, "a ledger segment cannot be synced; it is left for a new one");
            self.leaving.store(true, Ordering::Relaxed);
            return self.leave();
        }
        self.synced.fetch_max(through, Ordering::AcqRel);
        if let Some(filled) = filled
            && let Err(error) = mark::write(&self.dir, filled)
        {
            // Without it the next start looks for a torn end further back than it must.
            tracing::warn!(%error, "cannot note how far the ledger is whole");
        }
        if let Some(first) = prepare.filter(|_| self.may_make()) {
            let prepared = self.prepare(first);
            if self.made(prepared, "no room for the next ledger segment").is_some() {
                self.broken.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Whether enough time has gone by since a segment could not be made.
    fn may_make(&self) -> bool {
        let trouble = lock(&self.trouble);
        trouble.failed.is_none_or(|then| then.elapsed() >= MAKE_RETRY)
    }

    /// Notes whether a segment could be made; says so from time to time when it could not.
    fn made<T>(&self, made: io::Result<T>, otherwise: &'static str) -> Option<T> {
        let mut trouble = lock(&self.trouble);
        match made {
            Ok(made) => {
                *trouble = Trouble::default();
                Some(made)
            }
            Err(error) => {
                let now = Instant::now();
                trouble.failed = Some(now);
                if trouble.told.is_none_or(|then| now - then >= TELL_EVERY) {
                    trouble.told = Some(now);
                    tracing::error!(%error, otherwise);
                }
                None
            }
        }
    }

    /// Synced records from `from` on, at most `most`.
    ///
    /// # Errors
    /// When a segment cannot be read, lacks a record that was written, or is gone.
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

    /// When some counts reached so many units more, each counted in the records after a sequence number: the time of the
    /// request that made it so.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub(crate) fn reached(&self, mut lacking: HashMap<UnitsKey, (u64, u64)>) -> io::Result<HashMap<UnitsKey, Time>> {
        let mut reached = HashMap::new();
        let Some(oldest) = lacking.values().map(|(seq, _)| *seq).min() else {
            return Ok(reached);
        };
        self.walk(oldest + 1, self.committed() + 1, |r| {
            let Some(r) = decode(r).filter(|r| r.units > 0) else {
                return true;
            };
            let key = (r.consumer, r.environment, r.meter, r.period_start);
            if let Some((_, left)) = lacking.get_mut(&key).filter(|(seq, _)| r.seq > *seq) {
                *left = left.saturating_sub(r.units.into());
                if *left == 0 {
                    reached.insert(key, r.at);
                    lacking.remove(&key);
                }
            }
            !lacking.is_empty()
        })?;
        Ok(reached)
    }

    /// Units of some chains of keys in records after what is known of each chain, by its first key, meter and period.
    ///
    /// `chains` has, for every key, the first key of its chain and the sequence number.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub(crate) fn key_units_after(
        &self,
        chains: &HashMap<KeyId, (KeyId, u64)>,
    ) -> io::Result<HashMap<(KeyId, u16, Time), u64>> {
        let mut sums: HashMap<(KeyId, u16, Time), u64> = HashMap::new();
        let Some(oldest) = chains.values().map(|(_, through)| *through).min() else {
            return Ok(sums);
        };
        self.walk(oldest + 1, self.committed() + 1, |r| {
            if let Some(r) = decode(r).filter(|r| r.units > 0)
                && let Some((root, through)) = chains.get(&r.key)
                && r.seq > *through
            {
                *sums.entry((*root, r.meter, r.period_start)).or_default() += u64::from(r.units);
            }
            true
        })?;
        Ok(sums)
    }

    /// Calls `each` with every record after `seq` that counted units.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub(crate) fn each_counted_after(&self, seq: u64, mut each: impl FnMut(&UsageRecord)) -> io::Result<()> {
        self.walk(seq + 1, self.committed() + 1, |r| {
            if let Some(r) = decode(r).filter(|r| r.units > 0) {
                each(&r);
            }
            true
        })
    }

    fn walk(&self, from: u64, end: u64, mut each: impl FnMut(&record::Encoded) -> bool) -> io::Result<()> {
        let held: Vec<Segment> = lock(&self.segments)
            .values()
            .filter(|s| s.last() >= from)
            .cloned()
            .collect();
        let mut more = true;
        let mut next = from;
        for segment in held.iter().filter(|s| s.first < end) {
            if segment.first > next {
                let gone = format!("ledger records {next} to {} are gone", segment.first - 1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, gone));
            }
            next = segment.last() + 1;
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
