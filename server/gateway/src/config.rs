//! What a gateway is started with.

use crate::ledger::BeforeSync;
use crate::listen::TlsFiles;
use crate::sharing::{self, RedisConfig};
use crate::trace::TraceConfig;
use hmac::{Hmac, KeyInit, Mac};
use model::policy::AddressRange;
use sha2::Sha256;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where to listen, where to keep the ledger and the snapshot, and every bound.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address for the provider's APIs; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Sockets of a process that this one takes over from. They are used in place of [`Config::listen`] where there are
    /// some, one thread each; nobody is accepted before [`crate::Running::open`], and no stored snapshot is loaded.
    pub take_over: Option<Vec<Arc<TcpListener>>>,
    /// Folder of this gateway alone: ledger segments and the copy of the snapshot.
    pub data_dir: PathBuf,
    /// Worker threads, each with its own listening socket; at least 1.
    pub threads: usize,
    /// Certificate and key; none serves without TLS, for use behind a proxy that has them.
    pub tls: Option<TlsFiles>,
    /// Proxies whose word for the client's address and scheme is taken (`X-Forwarded-For`, `X-Forwarded-Proto`).
    pub trusted_proxies: Vec<AddressRange>,
    /// Connections from trusted proxies begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Addresses whose connections are not counted against [`Limits::connections_per_address`], because one of them
    /// speaks for many: this machine and private networks, where proxies and load balancers live. Trusted proxies are
    /// not counted either; where they say in a PROXY header whose a connection is, it is counted by that address.
    pub uncounted: Vec<AddressRange>,
    /// Where requests are written down one by one; none switches that off.
    pub access_log: Option<AccessLogConfig>,
    /// Where traces of requests are sent; none switches that off.
    pub trace: Option<TraceConfig>,
    /// Where rate limits are shared with other gateways; none counts them here alone.
    pub redis: Option<RedisConfig>,
    /// Hard limits are spent from leases: for several gateways on one control plane, of which all must do so.
    pub leases: bool,
    /// What comes before every sync of the ledger, in tests of disks that fail.
    pub before_sync: Option<BeforeSync>,
    /// Bounds on time and size.
    pub limits: Limits,
}

/// The access log.
#[derive(Debug, Clone)]
pub struct AccessLogConfig {
    /// Where lines go.
    pub to: AccessLogTo,
    /// Of requests that were neither refused nor failed; the others are always written.
    pub sample: Share,
}

/// Where lines of the access log go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTo {
    /// Standard output.
    Stdout,
    /// The end of a file, which is made when it is not there, and looked for anew when it was moved.
    File(PathBuf),
}

/// A part of a whole, from none (0) to all (1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(f64);

impl Share {
    /// All of it.
    pub const ALL: Self = Self(1.0);

    /// How many of 2 to the power of 32 lots win.
    pub(crate) fn lots(self) -> u64 {
        // A product of two that are not negative, and less than 2 to the power of 53.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
        let part = (self.0 * f64::from(u32::MAX)) as u64;
        part + u64::from(self == Self::ALL)
    }
}

impl std::str::FromStr for AccessLogTo {
    type Err = &'static str;

    /// `-` is standard output, everything else a path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("a path is wanted, or - for standard output"),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl std::fmt::Display for AccessLogTo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl std::str::FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse().ok().filter(|n| (0.0..=1.0).contains(n));
        number.map(Self).ok_or("a number from 0 to 1 is wanted")
    }
}

/// Loopback, private networks (RFC 1918), link-local and unique local addresses.
const PRIVATE: [&str; 8] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

impl Config {
    /// Defaults: a thread per core.
    pub fn new(listen: SocketAddr, data_dir: PathBuf) -> Self {
        Self {
            listen,
            take_over: None,
            data_dir,
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            tls: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            uncounted: PRIVATE.iter().filter_map(|range| range.parse().ok()).collect(),
            access_log: None,
            trace: None,
            redis: None,
            leases: false,
            before_sync: None,
            limits: Limits::default(),
        }
    }
}

/// Bounds on time and size.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest request body, in bytes, where its route says nothing else. Streams (see [the crate](crate#upstreams)) have
    /// no such bound.
    pub body_bytes: u64,
    /// Largest request head, in bytes, as it is or would be written over HTTP/1.1; at least 8192.
    pub head_bytes: usize,
    /// Most header lines in a request.
    pub headers: usize,
    /// Longest wait for a request's head, and the longest life of an idle connection.
    pub head_timeout: Duration,
    /// Longest silence inside a request's body that is no stream.
    pub body_idle: Duration,
    /// Slowest body that is no stream, in bytes a second, counted over the time that the client is waited for: a client
    /// that sends one byte now and then breaks no silence for long, and would hold an upstream for hours.
    pub body_bytes_per_second: u64,
    /// Memory for request bodies that are read whole before they go on, to be checked or compared, in bytes. One consumer
    /// may hold as much of it as is free.
    pub whole_bodies_bytes: usize,
    /// Longest time that such a body may take, all in all: it is held until then, and nothing was counted for it.
    pub whole_body_time: Duration,
    /// Longest time that sent bytes stay unacknowledged by a client, or its window stays shut: a client that reads
    /// nothing holds its connection no longer. Half a minute is longer than a network is lost between two cells, and as
    /// long as a body may be silent.
    pub write_stall: Duration,
    /// Longest wait for an upstream to accept a connection.
    pub connect_timeout: Duration,
    /// Requests open at once on one HTTP/2 connection.
    pub streams_per_connection: u32,
    /// Idle connections kept per upstream and thread.
    pub idle_per_upstream: usize,
    /// Time after which the names of upstreams are looked up again, and the files of their TLS read: the system's
    /// resolver does not say how long an answer holds.
    pub upstream_refresh: Duration,
    /// Open client connections per thread; above it new ones are closed at once.
    pub connections_per_thread: usize,
    /// Open connections from one client address (of IPv6 its /64); above it new ones are closed at once. Addresses in
    /// [`Config::uncounted`] have no such bound. A browser opens six, a program's pool some dozens; two hundred leave
    /// room for several of them behind one address, and a hundred attackers less than a thread's connections.
    pub connections_per_address: usize,
    /// Requests in flight per thread; above it plans with a higher priority go first and the others wait or are shed.
    pub in_flight_per_thread: u32,
    /// Longest wait for a place among them.
    pub in_flight_wait: Duration,
    /// Memory for answers that are kept, in bytes; 0 keeps none.
    pub cache_bytes: usize,
    /// Memory for keys of repeats and their answers, in bytes; a key without its answer takes 192, for as long as its
    /// route says. One caller's keys may take as much of it as is left for those of all others.
    pub idempotency_bytes: usize,
    /// Longest wait for an answer about rate limits that all gateways share; a part of them holds here without one.
    pub shared_limits_wait: Duration,
    /// Longest wait for another request that fetches the same answer.
    pub cache_wait: Duration,
    /// Longest time between two questions to the snapshot source.
    pub poll_interval: Duration,
    /// The same while other gateways count, too: what they let through in this time, and until they have shipped it, may
    /// pass a hard quota or a spend cap.
    pub counts_interval: Duration,
    /// Longest wait of a call for units that are leased to others, or that have to be asked for.
    pub lease_wait: Duration,
    /// Time after which what is leased and not used is given back; sooner where others lack it.
    pub lease_idle: Duration,
    /// Time without a word of the control plane after which calls are refused that take units of somebody's: who was
    /// suspended, has cancelled or revoked a key may be served until then. None serves for ever; the program's default is a
    /// quarter of an hour.
    pub stale_after: Option<Duration>,
    /// Longest time a record waits before it is shipped.
    pub ship_interval: Duration,
    /// Records in a ledger segment (128 bytes each).
    pub segment_records: u32,
    /// How long a shipped segment is kept, for audits and for a database restored from a backup.
    pub retention: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 10 << 20,
            head_bytes: 32 << 10,
            headers: 100,
            head_timeout: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            body_bytes_per_second: 1024,
            whole_bodies_bytes: 64 << 20,
            whole_body_time: Duration::from_secs(30),
            write_stall: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            streams_per_connection: 100,
            idle_per_upstream: 128,
            upstream_refresh: Duration::from_secs(30),
            connections_per_thread: 20_000,
            connections_per_address: 200,
            in_flight_per_thread: 8_192,
            in_flight_wait: Duration::from_secs(1),
            cache_bytes: 64 << 20,
            idempotency_bytes: 64 << 20,
            shared_limits_wait: sharing::ANSWER_MOST,
            cache_wait: Duration::from_secs(3),
            poll_interval: Duration::from_secs(2),
            stale_after: None,
            counts_interval: Duration::from_secs(1),
            lease_wait: Duration::from_secs(1),
            lease_idle: Duration::from_secs(30),
            ship_interval: Duration::from_millis(200),
            segment_records: 1 << 16,
            retention: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// The peppers that keys are hashed with, by number. The keyed state is made once: a check costs two blocks of SHA-256.
#[derive(Clone, Default)]
pub struct Peppers(Vec<(u16, Hmac<Sha256>)>);

impl Peppers {
    /// From (number, secret bytes).
    pub fn new<S: AsRef<[u8]>>(peppers: impl IntoIterator<Item = (u16, S)>) -> Self {
        let keyed = |(number, secret): (u16, S)| {
            let state = Hmac::<Sha256>::new_from_slice(secret.as_ref()).ok()?;
            Some((number, state))
        };
        Self(peppers.into_iter().filter_map(keyed).collect())
    }

    /// HMAC-SHA-256 of a whole key under a pepper; `None` when there is no pepper of that number.
    pub fn mac(&self, number: u16, key: &[u8]) -> Option<[u8; 32]> {
        let mut state = self.0.iter().find(|(n, _)| *n == number)?.1.clone();
        state.update(key);
        Some(state.finalize().into_bytes().into())
    }

    /// The numbers of all peppers, in the order given.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().map(|p| p.0)
    }

    /// The number of the first pepper, for the comparison that an unknown key gets.
    pub(crate) fn any(&self) -> u16 {
        self.0.first().map_or(0, |p| p.0)
    }
}

impl std::fmt::Debug for Peppers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Peppers").field(&self.0.len()).finish()
    }
}
