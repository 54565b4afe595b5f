//! A running emulator: its listener, its clock, the delivery of webhooks, its files.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::settings::{Fault, Settings};
use crate::state::State;
use crate::webhooks::{Parcel, record, take_due};

/// How an emulator is to run.
pub struct Config {
    /// Real time in unix seconds; the emulator's own clock is this plus what it was advanced by.
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// Decides the ids, so that two emulators with different seeds never give the same one.
    pub seed: u64,
    /// A file that gets each API request as a JSON line.
    pub record: Option<PathBuf>,
    /// A file that holds the state across restarts.
    pub state: Option<PathBuf>,
    /// A file that always says by how many seconds the emulator's clock is ahead of real time.
    pub clock_offset_file: Option<PathBuf>,
    /// How long a meter event stays uncounted, in real time; it may take twice as long.
    pub aggregation_lag: Duration,
    /// Whether what falls due as real time passes is done by itself, as the program does; otherwise only
    /// [`Running::advance_to`] does it.
    pub ticks: bool,
    /// What the control page would set.
    pub settings: Settings,
}

/// The environment variable that names a folder for records: see [`Config::for_tests`].
pub const RECORD_VARIABLE: &str = "TURNPIKE_STRIPE_RECORD";

/// A file of its own for each emulator of each process, in the folder that [`RECORD_VARIABLE`] names.
fn record_of_tests() -> Option<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = std::env::var_os(RECORD_VARIABLE).filter(|folder| !folder.is_empty())?;
    let name = format!("{}-{}.jsonl", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    Some(PathBuf::from(folder).join(name))
}

impl Config {
    /// For tests: any port of this machine, a clock of the caller, no ticking, and nothing on disk but the requests, where
    /// [`RECORD_VARIABLE`] asks for them.
    pub fn for_tests(clock: Arc<dyn Fn() -> i64 + Send + Sync>, seed: u64) -> Self {
        Self {
            clock,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed,
            record: record_of_tests(),
            state: None,
            clock_offset_file: None,
            aggregation_lag: Duration::from_millis(500),
            ticks: false,
            settings: Settings::default(),
        }
    }
}

/// Why an emulator did not start.
#[derive(Debug)]
pub struct StartError(String);

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// Starts emulators.
pub struct Emulator;

/// A webhook endpoint has so long to answer.
const ANSWER_SECONDS: u64 = 10;
/// How often the queue is looked at when nothing calls.
const QUEUE_LOOK: Duration = Duration::from_millis(100);
/// How long a batch is gathered before it is sent backwards.
const REORDER_GATHER: Duration = Duration::from_millis(150);
/// The longest that draining the queue waits.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// Changes reach the state file this long after they were made.
const SAVE_EVERY: Duration = Duration::from_millis(250);
/// How long a program that follows the offset file may take to see it: Turnpike looks every 200 ms.
const FOLLOWING: Duration = Duration::from_millis(300);

/// What the tasks of an emulator share.
pub(crate) struct Shared {
    state: Mutex<State>,
    clock: Arc<dyn Fn() -> i64 + Send + Sync>,
    record: Option<Mutex<File>>,
    offset_file: Option<PathBuf>,
    http: reqwest::Client,
    changed: Notify,
    version: AtomicU64,
    advancing: tokio::sync::Mutex<()>,
    /// Idempotency keys and meter lanes that a request is working on.
    busy: Mutex<HashSet<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Marks a name as busy until it is dropped.
pub(crate) struct Busy<'a> {
    shared: &'a Shared,
    name: String,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        locked(&self.shared.busy).remove(&self.name);
    }
}

impl Shared {
    /// Works on the state, at the emulator's time. Nothing is awaited meanwhile.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = locked(&self.state);
        state.wall = (self.clock)() + state.offset;
        state.now = state.wall;
        state.request = Value::Null;
        let answer = work(&mut state);
        drop(state);
        self.version.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_waiters();
        answer
    }

    /// Reads the state, at the emulator's time.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&State) -> T) -> T {
        let mut state = locked(&self.state);
        state.wall = (self.clock)() + state.offset;
        state.now = state.wall;
        work(&state)
    }

    /// Claims a name; none when another request holds it.
    pub(crate) fn claim(&self, name: String) -> Option<Busy<'_>> {
        let fresh = locked(&self.busy).insert(name.clone());
        // Not `then_some`: a `Busy` that is made and dropped would free the other request's name.
        fresh.then(|| Busy { shared: self, name })
    }

    /// Appends a line to the record file, if there is one.
    pub(crate) fn record(&self, line: &Value) {
        if let Some(file) = &self.record {
            // A full disk must not stop the requests that are being recorded.
            let _lost = writeln!(locked(file), "{line}");
        }
    }

    async fn move_clock(&self, to: i64) {
        let offset = self.with(|state| {
            state.offset = state.offset.max(to - (self.clock)());
            state.offset
        });
        if let Some(path) = &self.offset_file {
            // The next move writes it again.
            let _lost = replace(path, offset.to_string().as_bytes());
            // What follows the file has seen it before the first delivery of the new time arrives.
            tokio::time::sleep(FOLLOWING).await;
        }
    }

    /// Does in order all that falls due until an instant, and delivers after each step.
    pub(crate) async fn advance_to(&self, to: i64) {
        let _alone = self.advancing.lock().await;
        self.settle().await;
        loop {
            let next = self.read(|state| {
                let retry = state.deliveries.iter().filter_map(|delivery| delivery.next).min();
                crate::clock::next_due(state, "").into_iter().chain(retry).min()
            });
            let Some(next) = next.filter(|next| *next <= to) else {
                break;
            };
            self.move_clock(next).await;
            let drafted = self.with(|state| {
                let drafts = |state: &State| state.of_kind("invoice").filter(|i| i["status"] == "draft").count();
                let before = drafts(state);
                while crate::clock::step(state, "", next).is_some() {}
                drafts(state) > before
            });
            self.settle().await;
            let pause = self.read(|state| state.settings.pause_ms);
            if drafted && pause > 0 {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                self.settle().await;
            }
        }
        self.move_clock(to).await;
        self.settle().await;
    }

    /// Counts all usage and waits until every delivery that is due was tried.
    pub(crate) async fn settle(&self) {
        self.with(|state| {
            let waiting = state.waiting.len();
            crate::meters::aggregate(state, waiting);
        });
        let drained = async {
            loop {
                let idle = self.read(|state| {
                    let wall = state.wall;
                    !state
                        .deliveries
                        .iter()
                        .any(|d| d.in_flight || d.next.is_some_and(|next| next <= wall))
                });
                if idle {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // An endpoint that never answers must not hold the clock for ever.
        let _late = tokio::time::timeout(DRAIN_LIMIT, drained).await;
    }

    /// Waits until an event was delivered everywhere, at most so long.
    pub(crate) async fn delivered(&self, event: &str, limit: Duration) {
        let arrived = async {
            while self.read(|state| crate::webhooks::outstanding(state, event)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _late = tokio::time::timeout(limit, arrived).await;
    }

    async fn deliver_forever(self: Arc<Self>) {
        loop {
            let mischief = self.read(|state| state.settings.webhooks.clone());
            let waiting = self.read(|state| {
                let wall = state.wall;
                state
                    .deliveries
                    .iter()
                    .any(|d| !d.in_flight && d.next.is_some_and(|next| next <= wall))
            });
            if !waiting {
                let changed = self.changed.notified();
                // A change that came between the look and the wait is met by the next look.
                let _either = tokio::time::timeout(QUEUE_LOOK, changed).await;
                continue;
            }
            if mischief.reorder {
                tokio::time::sleep(REORDER_GATHER).await;
            }
            let mut parcels = self.with(take_due);
            if mischief.reorder {
                parcels.reverse();
            }
            if mischief.duplicate {
                parcels = parcels
                    .into_iter()
                    .flat_map(|parcel| [parcel.clone(), parcel])
                    .collect();
            }
            let mut by_endpoint: std::collections::BTreeMap<String, Vec<Parcel>> = std::collections::BTreeMap::new();
            for parcel in parcels {
                by_endpoint.entry(parcel.endpoint.clone()).or_default().push(parcel);
            }
            let wait = Duration::from_millis(mischief.delay_ms);
            let sends = by_endpoint
                .into_values()
                .map(|parcels| self.send_all(parcels, wait, mischief.drop));
            futures::future::join_all(sends).await;
        }
    }

    async fn send_all(&self, parcels: Vec<Parcel>, wait: Duration, lost: bool) {
        for parcel in parcels {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let status = if lost { 0 } else { self.send(&parcel).await };
            self.with(|state| record(state, &parcel.event, &parcel.endpoint, status, lost));
        }
    }

    async fn send(&self, parcel: &Parcel) -> u16 {
        let request = self
            .http
            .post(&parcel.url)
            .header("Stripe-Signature", &parcel.signature);
        let request = request
            .header("Content-Type", "application/json; charset=utf-8")
            .body(parcel.body.clone());
        request.send().await.map_or(0, |answer| answer.status().as_u16())
    }

    async fn count_forever(self: Arc<Self>, lag: Duration) {
        loop {
            let waiting = self.read(|state| state.waiting.len());
            tokio::time::sleep(lag).await;
            if waiting > 0 {
                self.with(|state| crate::meters::aggregate(state, waiting));
            }
        }
    }

    async fn tick_forever(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let Ok(_alone) = self.advancing.try_lock() else {
                continue;
            };
            let due = self.read(|state| crate::clock::next_due(state, "").is_some_and(|due| due <= state.wall));
            if due {
                self.with(|state| {
                    let wall = state.wall;
                    while crate::clock::step(state, "", wall).is_some() {}
                });
            }
        }
    }

    async fn save_forever(self: Arc<Self>, path: PathBuf) {
        let mut saved = 0;
        loop {
            tokio::time::sleep(SAVE_EVERY).await;
            saved = self.save(&path, saved);
        }
    }

    fn save(&self, path: &Path, saved: u64) -> u64 {
        let version = self.version.load(Ordering::Relaxed);
        if version == saved {
            return saved;
        }
        let text = { serde_json::to_vec(&*locked(&self.state)) };
        match text.map(|text| replace(path, &text)) {
            Ok(Ok(())) => version,
            _ => saved,
        }
    }
}

/// Writes a whole file so that a reader, or a restart after `kill -9`, sees the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes)?;
    std::fs::rename(&beside, path)
}

/// Opens a record file to append to, and makes the folder it is in.
fn open_record(path: &Path) -> std::io::Result<Mutex<File>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(Mutex::new(OpenOptions::new().create(true).append(true).open(path)?))
}

fn load(config: &Config) -> Result<State, StartError> {
    let fresh = || {
        let mut state = State::default();
        state.seed = config.seed;
        state.settings = config.settings.clone();
        state
    };
    let Some(path) = config.state.as_ref().filter(|path| path.exists()) else {
        return Ok(fresh());
    };
    let bytes = std::fs::read(path).map_err(|error| StartError(format!("cannot read {}: {error}", path.display())))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| StartError(format!("{} is no state of this emulator: {error}", path.display())))
}

impl Emulator {
    /// Starts an emulator on the current Tokio runtime.
    ///
    /// # Errors
    /// When the address is taken, or a file cannot be read or written.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        let cannot = |what: &str, error: &dyn std::fmt::Display| StartError(format!("cannot {what}: {error}"));
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|error| cannot("listen", &error))?;
        let address = listener.local_addr().map_err(|error| cannot("listen", &error))?;
        let mut state = load(&config)?;
        state.base_url = format!("http://{address}");
        let record = config.record.as_deref().map(open_record).transpose();
        let record = record.map_err(|error| cannot("open the record file", &error))?;
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(ANSWER_SECONDS))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| cannot("make a client", &error))?;
        let offset = state.offset;
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            clock: config.clock,
            record,
            offset_file: config.clock_offset_file,
            http,
            changed: Notify::new(),
            version: AtomicU64::new(1),
            advancing: tokio::sync::Mutex::new(()),
            busy: Mutex::new(HashSet::new()),
        });
        if let Some(path) = &shared.offset_file {
            replace(path, offset.to_string().as_bytes())
                .map_err(|error| cannot("write the clock offset file", &error))?;
        }
        let app = crate::pages::router(shared.clone());
        let mut tasks = vec![
            tokio::spawn(async move {
                // The listener ends with the task.
                let _ended = axum::serve(listener, app).await;
            }),
            tokio::spawn(shared.clone().deliver_forever()),
            tokio::spawn(shared.clone().count_forever(config.aggregation_lag)),
        ];
        if config.ticks {
            tasks.push(tokio::spawn(shared.clone().tick_forever()));
        }
        if let Some(path) = &config.state {
            tasks.push(tokio::spawn(shared.clone().save_forever(path.clone())));
        }
        Ok(Running {
            base_url: format!("http://{address}/"),
            address,
            shared,
            tasks,
            state_file: config.state,
        })
    }
}

/// A running emulator. Dropping it stops it.
pub struct Running {
    /// What the client's `ClientBuilder::url` takes; ends in a slash.
    pub base_url: String,
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    state_file: Option<PathBuf>,
}

impl Running {
    /// The emulator's time, in unix seconds.
    pub fn now(&self) -> i64 {
        self.shared.read(|state| state.wall)
    }

    /// Moves the clock forward to an instant (unix seconds) and does, in order, all that falls due on the way: renewals,
    /// finalization, collection and its retries, schedules, expiries, webhook retries. Deliveries are made after each step.
    pub async fn advance_to(&self, instant: i64) {
        self.shared.advance_to(instant).await;
    }

    /// [`Self::advance_to`], by seconds.
    pub async fn advance(&self, seconds: i64) {
        self.advance_to(self.now() + seconds).await;
    }

    /// Counts all accepted usage and waits until every delivery that is due was tried.
    pub async fn settle(&self) {
        self.shared.settle().await;
    }

    /// The next charge fails with this code, such as `card_declined`, `insufficient_funds` or `authentication_required`.
    pub fn fail_next_charge(&self, code: &str) {
        self.set(|settings| settings.fail_next_charge = Some(code.to_owned()));
    }

    /// Adds a fault for coming API requests.
    pub fn fault(&self, fault: Fault) {
        self.set(|settings| settings.faults.push(fault));
    }

    /// Changes what the control page can change.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        self.shared.with(|state| change(&mut state.settings));
    }

    /// The cardholder contests a charge, as `fraudulent` for example; gives the dispute's id. None when it cannot be
    /// contested. An inquiry takes no money yet.
    pub fn dispute(&self, charge: &str, reason: &str, inquiry: bool) -> Option<String> {
        let opened = |state: &mut State| crate::disputes::open(state, charge, reason, inquiry).ok();
        self.shared.with(opened)
    }

    /// The bank decides a dispute: `won`, `lost`, or `warning_closed` for an inquiry; false when it cannot.
    pub fn close_dispute(&self, dispute: &str, outcome: &str) -> bool {
        self.shared
            .with(|state| crate::disputes::close(state, dispute, outcome).is_ok())
    }

    /// Sends an event again to every endpoint that wants it; false when there is no such event.
    pub fn resend(&self, event: &str) -> bool {
        self.shared.with(|state| crate::webhooks::resend(state, event).is_ok())
    }

    /// Adds a webhook endpoint for all events and gives its signing secret.
    ///
    /// # Errors
    /// When the address is none.
    pub fn add_webhook(&self, url: &str) -> Result<String, StartError> {
        let params = json!({"url": url, "enabled_events": ["*"]});
        let made = self.shared.with(|state| crate::webhooks::create(state, &params));
        made.map(|endpoint| endpoint["secret"].as_str().unwrap_or_default().to_owned())
            .map_err(|error| StartError(error.message().to_owned()))
    }

    /// The stored object with an id as the API shows it, null when there is none.
    pub fn object(&self, id: &str) -> Value {
        self.shared.read(|state| crate::views::view(state, id))
    }

    /// Every event since the start, oldest first.
    pub fn events(&self) -> Vec<Value> {
        self.shared.read(|state| {
            state
                .of_kind("event")
                .map(|event| crate::views::compose(state, event.clone()))
                .collect()
        })
    }

    /// Stops the emulator and saves its state.
    pub fn shutdown(self) {
        if let Some(path) = &self.state_file {
            self.shared.save(path, 0);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
