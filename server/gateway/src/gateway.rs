//! Starts and stops a gateway.

use crate::authenticate::{Arrival, Callers};
use crate::balance as targets;
use crate::cache::Cache;
use crate::config::{AccessLogConfig, AccessLogTo, Config, Peppers};
use crate::disk;
use crate::explain::{Explanation, Knowledge, Question, explain};
use crate::gate::Gate;
use crate::identity::Identities;
use crate::leases::{Desk, keeper};
use crate::ledger::Ledger;
use crate::listen::{Crowd, Listening, TlsError};
use crate::memory::Room;
use crate::metrics::{self, Metrics, Series, Text};
use crate::once::Once;
use crate::seen::AccessLog;
use crate::sharing::{self, Sharing};
use crate::source::{SnapshotSource, UsageSink};
use crate::stop::Stop;
use crate::tables::Tables;
use crate::trace::Tracer;
use crate::worker::{self, Shared, Worker};
use crate::{shipper, sync, token};
use model::{Clock, Random};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Connections waiting to be accepted, per thread.
const BACKLOG: i32 = 4096;
/// Tasks polled before sockets are looked at again; enough for all that one look found, so that they take turns.
const POLLS_BETWEEN_EVENTS: u32 = 512;
pub(crate) const LEDGER_FOLDER: &str = "ledger";

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The data folder cannot be used.
    #[error("cannot use the data folder {0}: {1}")]
    Data(String, io::Error),
    /// The access log cannot be written.
    #[error("cannot write the access log to {0}: {1}")]
    AccessLog(AccessLogTo, io::Error),
    /// No thread can be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The certificate cannot be used.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// The place where rate limits are shared cannot be used, whatever answers there.
    #[error("Redis: {0}")]
    Redis(String),
}

/// The way to a [`Running`] gateway.
#[derive(Debug)]
pub struct Gateway;

impl Gateway {
    /// Opens the ledger, loads the stored snapshot when there is one, and listens. Returns at once: [`Running::ready`]
    /// says when there is a snapshot to serve from. To be called in a tokio runtime, which then asks the source and
    /// ships to the sink; requests are served by threads of their own.
    ///
    /// # Errors
    /// When the address or the data folder cannot be used.
    pub fn start(
        config: Config,
        source: Arc<dyn SnapshotSource>,
        sink: Arc<dyn UsageSink>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        peppers: Peppers,
    ) -> Result<Running, StartError> {
        let data = |e| StartError::Data(config.data_dir.display().to_string(), e);
        let segment = config.limits.segment_records.max(1);
        let folder = config.data_dir.join(LEDGER_FOLDER);
        let ledger = Ledger::open_on(&folder, segment, &*random, config.before_sync.clone()).map_err(data)?;
        let tables = tables(&config, &ledger, &*clock, &*random).map_err(data)?;
        let listening_on = sockets(&config).and_then(|(all, at)| Ok((copies(&all)?, all, at)));
        let (kept, listeners, local_addr) = listening_on.map_err(|e| StartError::Listen(config.listen, e))?;
        let listening = Listening::new(&config)?;
        let syncing = ledger.start_syncing().map_err(StartError::Thread)?;
        let gates = listeners.iter().map(|_| Gate::new(config.limits.in_flight_per_thread));
        let open = |log: &AccessLogConfig| AccessLog::start(log).map_err(|e| StartError::AccessLog(log.to.clone(), e));
        let access_log = config.access_log.as_ref().map(open).transpose()?;
        let sharing = share(&config, &peppers, listeners.len()).map_err(StartError::Redis)?;
        let shared = Arc::new(Shared {
            tracer: Tracer::start(&config, ledger.id()),
            access_log,
            crowd: Crowd::new(&config),
            gates: gates.collect(),
            cache: Cache::new(config.limits.cache_bytes, config.limits.cache_wait),
            once: Once::new(config.limits.idempotency_bytes),
            bodies: Room::for_bodies(config.limits.whole_bodies_bytes),
            limits: config.limits,
            tables,
            ledger,
            identities: Identities::new(peppers.clone()),
            peppers,
            callers: Callers::new(),
            clock,
            listening,
            sharing,
        });
        let stop = watch::Sender::new(None);
        follow_the_world(&shared, &stop);
        let stop_shipping = watch::Sender::new(false);
        let open = watch::Sender::new(config.take_over.is_none());
        let (metrics, workers) = start_workers(&shared, listeners, (&open, &stop), &random)?;
        let shipped = Arc::new(AtomicU64::new(0));
        let through = watch::Sender::new(false);
        let leasing = keep_leases(&shared, &source, &through);
        let snapshots = sync::run(
            Arc::clone(&shared),
            source,
            config.data_dir,
            stop.subscribe(),
            through.subscribe(),
        );
        let stopped = stop_shipping.subscribe();
        let shipping = shipper::run(Arc::clone(&shared), sink, Arc::clone(&shipped), stopped);
        Ok(Running {
            local_addr,
            sockets: kept,
            shared,
            metrics,
            shipped,
            open,
            stop,
            through,
            stop_shipping,
            workers,
            leasing,
            snapshots: tokio::spawn(snapshots),
            shipping: tokio::spawn(shipping),
            syncing,
        })
    }
}

/// A gateway that serves. Dropped without [`Running::shutdown`] it goes on serving until the process ends.
pub struct Running {
    local_addr: SocketAddr,
    /// To be handed over.
    sockets: Vec<TcpListener>,
    shared: Arc<Shared>,
    metrics: Vec<Arc<Metrics>>,
    shipped: Arc<AtomicU64>,
    /// Whether clients are accepted.
    open: watch::Sender<bool>,
    stop: watch::Sender<Option<Stop>>,
    /// Whether the last request is over.
    through: watch::Sender<bool>,
    stop_shipping: watch::Sender<bool>,
    workers: Vec<oneshot::Receiver<()>>,
    leasing: Option<JoinHandle<()>>,
    snapshots: JoinHandle<()>,
    shipping: JoinHandle<()>,
    syncing: std::thread::JoinHandle<()>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

impl Running {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Whether it has routes to serve by and a ledger to write to, and is not shutting down.
    pub fn ready(&self) -> bool {
        self.shared.tables.routes.load().is_some() && self.shared.ledger.writable() && self.stop.borrow().is_none()
    }

    /// Whether the control plane answered the last question, so that everything it knows is known here.
    pub fn informed(&self) -> bool {
        self.ready() && self.shared.tables.connected()
    }

    /// Accepts clients from now on, where it takes over from another process.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// The listening sockets, for a process that takes over.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub fn sockets(&self) -> io::Result<Vec<TcpListener>> {
        copies(&self.sockets)
    }

    /// Asks the control plane for everything again, with what other gateways counted.
    pub fn ask_all_anew(&self) {
        self.shared.tables.ask_all_anew(true);
    }

    /// The name of its ledger.
    pub fn ledger_id(&self) -> &str {
        self.shared.ledger.id()
    }

    /// Other gateways heard of lately that lease limits where this one does not, or the other way round.
    pub fn unlike_leases(&self) -> u64 {
        self.shared.tables.unlike.load(Ordering::Relaxed)
    }

    /// The last version applied.
    pub fn snapshot_version(&self) -> i64 {
        self.shared.tables.version()
    }

    /// Ledger records that the sink has not taken yet.
    pub fn unshipped(&self) -> u64 {
        self.shared
            .ledger
            .committed()
            .saturating_sub(self.shipped.load(Ordering::Relaxed))
    }

    /// Counters in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let mut text = Text::default();
        metrics::render(
            &mut text,
            &self.metrics,
            &self.shared,
            self.shipped.load(Ordering::Relaxed),
        );
        if let Some(routes) = self.shared.tables.routes.load_full() {
            targets::render(&mut text, &routes, Instant::now());
        }
        if let Some(log) = &self.shared.access_log {
            log.render(&mut text);
        }
        if let Some(tracer) = &self.shared.tracer {
            tracer.render(&mut text);
        }
        if let Some(sharing) = &self.shared.sharing {
            sharing::render(&mut text, sharing);
        }
        text.finish()
    }

    /// What would become of a request, with the limits as they are now; nothing is sent and nothing is taken.
    ///
    /// # Errors
    /// When the question is none, or there are no routes yet; in words.
    pub fn explain(&self, question: &Question) -> Result<Explanation, String> {
        let shared = &self.shared;
        let knowledge = Knowledge {
            known: shared.known(),
            trusted: &shared.listening.trusted,
            limits: &shared.limits,
            ledger: &shared.ledger,
            gates: &shared.gates,
            sharing: shared.sharing.as_deref(),
            arrival: Arrival {
                client: IpAddr::V4(Ipv4Addr::LOCALHOST),
                now: shared.clock.now(),
                machine_now: shared.clock.security_now(),
                skew_ms: shared.clock.skew_ms(),
                now_ns: shared.clock.steady_ns(),
            },
            live: true,
        };
        explain(&knowledge, question)
    }

    /// Opens the file of the access log anew, as after it was moved.
    pub fn reopen_access_log(&self) {
        if let Some(log) = &self.shared.access_log {
            log.reopen();
        }
    }

    /// Stops accepting, lets open requests finish for at most `drain`, then syncs and ships the ledger and stores the
    /// snapshot.
    pub async fn shutdown(self, drain: Duration) {
        self.end(Stop {
            drain,
            handed_over: false,
        })
        .await;
    }

    /// The same where another process serves the same sockets from now on: idle connections stay for one more request,
    /// and the stored snapshot is removed, because that process knows more.
    pub async fn hand_over(self, drain: Duration) {
        self.end(Stop {
            drain,
            handed_over: true,
        })
        .await;
    }

    async fn end(self, stop: Stop) {
        drop(self.sockets);
        let drained = Instant::now() + stop.drain;
        self.stop.send_replace(Some(stop));
        for worker in self.workers {
            // A worker that panicked has dropped its end: it is gone, too.
            let _ = worker.await;
        }
        self.through.send_replace(true);
        let _ = self.snapshots.await;
        if let Some(leasing) = self.leasing {
            let _ = leasing.await;
        }
        self.shared.ledger.stop();
        let syncing = self.syncing;
        let _ = tokio::task::spawn_blocking(move || syncing.join().is_ok()).await;
        self.stop_shipping.send_replace(true);
        let shared = self.shared;
        let sending = async {
            if let Some(tracer) = &shared.tracer {
                tracer.stop(drained).await;
            }
        };
        let _ = tokio::join!(self.shipping, sending);
        shared.ledger.release();
        let stop = move || shared.access_log.as_ref().map(AccessLog::stop);
        let _ = tokio::task::spawn_blocking(stop).await;
    }
}

/// The place where rate limits are shared with other gateways, if there is one.
fn share(config: &Config, peppers: &Peppers, threads: usize) -> Result<Option<Arc<Sharing>>, String> {
    let each = (threads, config.limits.shared_limits_wait);
    let share = |redis| Sharing::new(redis, peppers, each).map(Arc::new);
    config.redis.as_ref().map(share).transpose()
}

type Workers = (Vec<Arc<Metrics>>, Vec<oneshot::Receiver<()>>);

/// A worker for each listening socket; their counters, and what tells that they have ended.
fn start_workers(
    shared: &Arc<Shared>,
    listeners: Vec<TcpListener>,
    (open, stop): (&watch::Sender<bool>, &watch::Sender<Option<Stop>>),
    random: &Arc<dyn Random>,
) -> Result<Workers, StartError> {
    let (mut metrics, mut workers) = (Vec::new(), Vec::new());
    let series = Arc::new(Series::default());
    for (i, (listener, gate)) in listeners.into_iter().zip(&shared.gates).enumerate() {
        let counters = Arc::new(Metrics::new(Arc::clone(&series)));
        metrics.push(Arc::clone(&counters));
        let worker = Worker::new(Arc::clone(shared), Arc::clone(gate), counters, Arc::clone(random));
        let told = (open.subscribe(), stop.subscribe());
        workers.push(spawn_worker(i, worker, listener, told).map_err(StartError::Thread)?);
    }
    Ok((metrics, workers))
}

/// What is looked at from time to time: certificate files, issuers' keys, and targets' names and health.
fn follow_the_world(shared: &Arc<Shared>, stop: &watch::Sender<Option<Stop>>) {
    if let Some(certificates) = shared.listening.certificates() {
        tokio::spawn(certificates.follow(stop.subscribe()));
    }
    tokio::spawn(token::keep(Arc::clone(shared), stop.subscribe()));
    tokio::spawn(targets::watch(Arc::clone(shared), stop.subscribe()));
}

/// Asks for leases, where limits are leased.
fn keep_leases(
    shared: &Arc<Shared>,
    source: &Arc<dyn SnapshotSource>,
    through: &watch::Sender<bool>,
) -> Option<JoinHandle<()>> {
    let desk = shared.tables.desk.clone()?;
    let keeping = keeper::run(Arc::clone(shared), desk, Arc::clone(source), through.subscribe());
    Some(tokio::spawn(keeping))
}

/// What is known at the start.
fn tables(config: &Config, ledger: &Ledger, clock: &dyn Clock, random: &dyn Random) -> io::Result<Arc<Tables>> {
    let mut tables = Tables::new();
    let limits = &config.limits;
    let desk = || Desk::new(ledger.committed(), limits.lease_wait, limits.lease_idle);
    tables.desk = config.leases.then(desk);
    tables.seed.store(seed(random), Ordering::Relaxed);
    begin_tables(config, &tables, ledger, clock)?;
    Ok(Arc::new(tables))
}

/// The stored snapshot, except where the process that is taken over from knows more. It is as old as its last confirmation,
/// and good for the time until the control plane answers, which is asked for everything: what is counted since is in no
/// change that it would tell.
fn begin_tables(config: &Config, tables: &Tables, ledger: &Ledger, clock: &dyn Clock) -> io::Result<()> {
    let mut heard_ns = clock.steady_ns();
    match config.take_over {
        None => {
            let loaded = disk::load(&config.data_dir, tables, ledger, clock.now())?;
            tables.ask_all_anew(loaded);
            if let Some(confirmed) = disk::confirmed(&config.data_dir) {
                let age_ms = confirmed.ms_until(clock.security_now());
                let age_ns = u64::try_from(age_ms).unwrap_or(0).saturating_mul(1_000_000);
                heard_ns = heard_ns.saturating_sub(age_ns);
            }
        }
        Some(_) => disk::forget(&config.data_dir)?,
    }
    tables.heard_ns.store(heard_ns, Ordering::Relaxed);
    Ok(())
}

fn seed(random: &dyn Random) -> u64 {
    let mut seed = [0; 8];
    random.fill(&mut seed);
    u64::from_le_bytes(seed)
}

fn copies(sockets: &[TcpListener]) -> io::Result<Vec<TcpListener>> {
    sockets.iter().map(TcpListener::try_clone).collect()
}

/// Those of the process that is taken over from, or new ones.
fn sockets(config: &Config) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
    match config.take_over.as_deref() {
        Some([first, ..]) => {
            let all = config
                .take_over
                .iter()
                .flatten()
                .map(|s| s.try_clone())
                .collect::<Result<_, _>>()?;
            Ok((all, first.local_addr()?))
        }
        _ => listen(config.listen, config.threads.max(1)),
    }
}

/// A listening socket per thread on one port: the kernel spreads connections over them. The first is made without
/// sharing, so that an address in use is an error and a port chosen by the kernel is nobody else's; where the kernel
/// chose the port, all threads share that first socket.
fn listen(addr: SocketAddr, count: usize) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
    let alone = bind(addr, false)?;
    let local_addr = alone.local_addr()?;
    let mut listeners = Vec::new();
    if addr.port() == 0 {
        for _ in 1..count {
            listeners.push(alone.try_clone()?);
        }
        listeners.push(alone);
    } else {
        drop(alone);
        for _ in 0..count {
            listeners.push(bind(addr, true)?);
        }
    }
    Ok((listeners, local_addr))
}

fn bind(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from(socket))
}

fn spawn_worker(
    index: usize,
    worker: Worker,
    listener: TcpListener,
    (open, stop): (watch::Receiver<bool>, watch::Receiver<Option<Stop>>),
) -> io::Result<oneshot::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(POLLS_BETWEEN_EVENTS)
        .build()?;
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name(format!("gateway-{index}"))
        .spawn(move || {
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => worker::serve(Arc::new(worker), listener, open, stop).await,
                    Err(error) => tracing::error!(%error, "cannot listen"),
                }
            });
            runtime.shutdown_background();
            let _ = done.send(());
        })?;
    Ok(ended)
}
