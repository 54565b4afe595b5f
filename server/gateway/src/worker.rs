//! A worker thread: what it has, and its sockets.

use crate::authenticate::{Callers, Known};
use crate::cache::Cache;
use crate::config::{Limits, Peppers};
use crate::date::Date;
use crate::gate::Gate;
use crate::identity::Identities;
use crate::ledger::Ledger;
use crate::listen::{self, Crowd, Listening};
use crate::memory::Room;
use crate::metrics::Metrics;
use crate::once::Once;
use crate::rate::Stand;
use crate::seen::{AccessLog, Entry, Outcome};
use crate::sharing::{Link, Sharing};
use crate::stop::Stop;
use crate::tables::Tables;
use crate::trace::Tracer;
use crate::upstream::Pool;
use model::{Clock, Random};
use socket2::SockRef;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

/// Wait after a failed accept: most often the process is out of descriptors, and asking at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often idle upstream connections are looked through.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// Random bytes fetched at once: enough for 256 request ids.
const RANDOM_BYTES: usize = 4096;

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) tracer: Option<Tracer>,
    pub(crate) limits: Limits,
    pub(crate) tables: Arc<Tables>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) peppers: Peppers,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) callers: Callers,
    pub(crate) identities: Identities,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) listening: Listening,
    pub(crate) cache: Arc<Cache>,
    pub(crate) once: Arc<Once>,
    /// For request bodies that are read whole.
    pub(crate) bodies: Arc<Room>,
    /// Of the worker threads, in their order.
    pub(crate) gates: Vec<Arc<Gate>>,
    /// Where rate limits are shared with other gateways.
    pub(crate) sharing: Option<Arc<Sharing>>,
}

impl Shared {
    /// A request is over.
    pub(crate) fn tell(&self, seen: &Arc<Entry>, outcome: Outcome) {
        if let Some(tracer) = &self.tracer {
            tracer.tell(seen, &outcome);
        }
        if let Some(log) = &self.access_log {
            log.tell(seen, outcome);
        }
    }

    /// How long the control plane was not heard, in nanoseconds, where that is too long for calls that take units of
    /// somebody's. `now_ns` is steady time.
    pub(crate) fn stale_ns(&self, now_ns: u64) -> Option<u64> {
        self.tables.stale_ns(&self.limits, now_ns)
    }

    pub(crate) fn known(&self) -> Known<'_> {
        Known {
            tables: &self.tables,
            peppers: &self.peppers,
            callers: &self.callers,
        }
    }
}

/// What one worker thread has for itself.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) date: Date,
    /// Bounds the requests in flight on this thread.
    pub(crate) gate: Arc<Gate>,
    pub(crate) random: Buffered,
    /// Requests that go on without their client.
    pub(crate) detached: TaskTracker,
    /// Where rate limits are asked about that all gateways share.
    pub(crate) link: Option<Arc<Link>>,
}

impl Worker {
    /// A worker with nothing open.
    pub(crate) fn new(shared: Arc<Shared>, gate: Arc<Gate>, metrics: Arc<Metrics>, random: Arc<dyn Random>) -> Self {
        let link = |sharing: &Arc<Sharing>| Arc::new(Link::new(Arc::clone(sharing)));
        Self {
            gate,
            link: shared.sharing.as_ref().map(link),
            shared,
            pool: Pool::default(),
            metrics,
            date: Date::default(),
            detached: TaskTracker::new(),
            random: Buffered {
                source: random,
                bytes: Mutex::new(Vec::new()),
            },
        }
    }

    /// Who counts rate limits.
    pub(crate) fn stand(&self) -> Stand {
        self.link.as_ref().map_or(Stand::Alone, |link| link.stand())
    }
}

/// Randomness fetched in large pieces: one call of the system for many request ids.
pub(crate) struct Buffered {
    source: Arc<dyn Random>,
    bytes: Mutex<Vec<u8>>,
}

impl Random for Buffered {
    fn fill(&self, out: &mut [u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() < out.len() {
            bytes.resize(RANDOM_BYTES.max(out.len()), 0);
            self.source.fill(&mut bytes);
        }
        let rest = bytes.len() - out.len();
        out.copy_from_slice(&bytes[rest..]);
        bytes.truncate(rest);
    }
}

/// Accepts until told to stop, then waits for open requests for as long as it is told.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    listener: TcpListener,
    mut open: watch::Receiver<bool>,
    mut stop: watch::Receiver<Option<Stop>>,
) {
    if let Some(link) = &worker.link {
        tokio::spawn(Arc::clone(link).keep());
    }
    tokio::select! {
        _ = open.wait_for(|open| *open) => {}
        _ = stop.changed() => return,
    }
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let limit = worker.shared.limits.connections_per_thread;
                    let stall = Some(worker.shared.limits.write_stall);
                    let tuned = stream.set_nodelay(true).and(SockRef::from(&stream).set_tcp_user_timeout(stall));
                    if alive.strong_count() > limit || tuned.is_err() {
                        continue;
                    }
                    let Some(seat) = worker.shared.crowd.seat(peer.ip()) else { continue };
                    let place = (seat, alive.clone());
                    tokio::spawn(listen::connection(Arc::clone(&worker), stream, peer.ip(), stop.clone(), place));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = stop.changed() => break,
            _ = housekeeping.tick() => worker.pool.expire(),
        }
    }
    drop(listener);
    drop(alive);
    let drain = (*stop.borrow()).unwrap_or_default().drain;
    let through = async {
        all_gone.recv().await;
        worker.detached.close();
        worker.detached.wait().await;
    };
    if tokio::time::timeout(drain, through).await.is_err() {
        tracing::warn!("requests were still open at the end of the drain time");
    }
}
