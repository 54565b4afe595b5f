//! The access log's thread.

use super::file::Place;
use super::{Entry, Outcome, line};
use crate::config::AccessLogConfig;
use crate::metrics::Text;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests that wait to be written; what comes while so many wait is dropped. At most about 25 megabytes.
const WAITING_MOST: usize = 16_384;
/// Bytes written at once.
const PIECE_BYTES: usize = 64 << 10;
/// How often it is looked for lines. The thread is not woken for each: that would be a system call per request.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it is looked whether the file was moved.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// Longest time between two words about a log that cannot be written.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// Longest wait, at the end, for what takes the lines.
const END_MOST: Duration = Duration::from_secs(2);

type Told = (Arc<Entry>, Outcome);

/// The way to the log.
pub(crate) struct AccessLog {
    lines: SyncSender<Told>,
    /// Requests of 2 to the power of 32 that are written when nothing was wrong with them.
    sample: u64,
    counts: Arc<Counts>,
    /// Ends when the thread does.
    ended: Mutex<Receiver<()>>,
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
    reopen: AtomicBool,
    stop: AtomicBool,
}

impl AccessLog {
    /// Opens the place and starts the thread.
    pub(crate) fn start(config: &AccessLogConfig) -> io::Result<Self> {
        let place = Place::open(&config.to)?;
        let (lines, waiting) = sync_channel(WAITING_MOST);
        let (alive, ended) = sync_channel(0);
        let counts = Arc::<Counts>::default();
        let mut writer = Writer {
            waiting,
            place,
            counts: Arc::clone(&counts),
            bytes: Vec::with_capacity(PIECE_BYTES),
            held: 0,
            complained: None,
        };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                writer.run();
                drop(alive);
            })?;
        Ok(Self {
            lines,
            sample: config.sample.lots(),
            counts,
            ended: Mutex::new(ended),
        })
    }

    /// Takes a request that is over. Refusals and failures are always written, the others by lot.
    pub(crate) fn tell(&self, entry: &Arc<Entry>, outcome: Outcome) {
        let wrong = outcome.refusal.is_some() || outcome.status >= 500;
        // The low half of the id is random.
        let lot = entry.request.to_bits() & u128::from(u32::MAX);
        if !wrong && lot >= u128::from(self.sample) {
            return;
        }
        if self.lines.try_send((Arc::clone(entry), outcome)).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The file is opened anew before the next line.
    pub(crate) fn reopen(&self) {
        self.counts.reopen.store(true, Ordering::Relaxed);
    }

    /// Writes what waits, and ends; does not wait for a pipe that nobody reads.
    pub(crate) fn stop(&self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(END_MOST) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the access log takes no lines; the last ones are lost");
        }
    }

    /// How many lines were written, and how many were not.
    pub(crate) fn render(&self, text: &mut Text) {
        let written = self.counts.written.load(Ordering::Relaxed);
        text.family("access_log_lines_total", "counter", "Lines written to the access log.")
            .sample(&[], written);
        let dropped = self.counts.dropped.load(Ordering::Relaxed);
        let help = "Lines dropped because the access log was not written fast enough, or not at all.";
        text.family("access_log_dropped_total", "counter", help)
            .sample(&[], dropped);
    }
}

struct Writer {
    waiting: Receiver<Told>,
    place: Place,
    counts: Arc<Counts>,
    bytes: Vec<u8>,
    /// Lines in `bytes`.
    held: u64,
    complained: Option<Instant>,
}

impl Writer {
    fn run(&mut self) {
        let mut followed = Instant::now();
        loop {
            let stop = self.counts.stop.load(Ordering::Relaxed);
            let asked = self.counts.reopen.swap(false, Ordering::Relaxed);
            if asked || followed.elapsed() >= FOLLOW_EVERY {
                followed = Instant::now();
                if let Err(error) = self.place.follow(asked) {
                    self.complain(&error);
                }
            }
            self.drain();
            if stop {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn drain(&mut self) {
        while let Ok((entry, outcome)) = self.waiting.try_recv() {
            line::write(&mut self.bytes, &entry, &outcome);
            self.held += 1;
            if self.bytes.len() >= PIECE_BYTES {
                self.flush();
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let count = match self.place.write(&self.bytes) {
            Ok(()) => &self.counts.written,
            Err(error) => {
                self.complain(&error);
                &self.counts.dropped
            }
        };
        count.fetch_add(self.held, Ordering::Relaxed);
        self.bytes.clear();
        self.held = 0;
    }

    fn complain(&mut self, error: &io::Error) {
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::warn!(%error, "the access log cannot be written");
        }
    }
}
