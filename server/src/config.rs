//! Every option: a flag, a variable, a default, and what it means. `turnpike serve --help` is the reference.

use crate::output::Failure;
use clap::{Args, ValueEnum};
use domain::settings::{DisputePolicy, Secret, Settings};
use model::policy::AddressRange;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the data is and how to reach it: for every command.
#[derive(Args, Clone)]
pub(crate) struct Storage {
    /// Folder for the private PostgreSQL, the gateway's ledger and the secrets made at first start.
    #[arg(
        long,
        env = "TURNPIKE_DATA_DIR",
        default_value = "turnpike-data",
        value_name = "DIR",
        global = true
    )]
    pub(crate) data_dir: PathBuf,
    /// PostgreSQL to use (postgres://user:password@host/database). Without it a private one runs under the data folder.
    #[arg(
        long,
        env = "DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        global = true
    )]
    pub(crate) database_url: Option<String>,
    /// Variable-only spelling of --database-url, for setups that name everything alike.
    #[arg(
        long = "turnpike-database-url",
        env = "TURNPIKE_DATABASE_URL",
        hide = true,
        hide_env_values = true,
        global = true
    )]
    pub(crate) turnpike_database_url: Option<String>,
}

impl Storage {
    /// The PostgreSQL given, if any.
    pub(crate) fn url(&self) -> Option<&str> {
        self.database_url
            .as_deref()
            .or(self.turnpike_database_url.as_deref())
            .filter(|u| !u.is_empty())
    }
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum ServeRole {
    /// Portal, gateway and worker.
    All,
    /// Pages, webhooks.
    Portal,
    /// The provider's APIs.
    Gateway,
    /// Jobs.
    Worker,
}

/// What an open dispute of a payment does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum OnDispute {
    /// Keys are refused until the bank has decided.
    Suspend,
    /// The provider sees it, and nothing else happens.
    Flag,
}

/// How logs are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Addresses, names and secrets of the control plane: for commands that make keys or publish plans, and for `serve`.
#[derive(Args, Clone)]
pub(crate) struct Portal {
    /// Address of the portal as browsers see it.
    #[arg(long, env = "TURNPIKE_PORTAL_URL", default_value = "http://127.0.0.1:3000", value_name = "URL", value_parser = origin, global = true)]
    pub(crate) portal_url: String,
    /// Address of the gateway as developers see it.
    #[arg(long, env = "TURNPIKE_GATEWAY_URL", default_value = "http://127.0.0.1:8080", value_name = "URL", value_parser = origin, global = true)]
    pub(crate) gateway_url: String,
    /// The provider's name, at the top of every page.
    #[arg(
        long,
        env = "TURNPIKE_BRAND",
        default_value = "Turnpike",
        value_name = "NAME",
        global = true
    )]
    pub(crate) brand: String,
    /// What keys begin with: 1 to 12 letters or digits.
    #[arg(long, env = "TURNPIKE_KEY_PREFIX", default_value = "tp", value_name = "PREFIX", value_parser = key_prefix, global = true)]
    pub(crate) key_prefix: String,
    /// Secrets that keys' MACs are made with, `1:secret` or `1:old,2:new`; at least 32 characters each. Made at first
    /// start and kept in the data folder when not given.
    #[arg(
        long,
        env = "TURNPIKE_PEPPERS",
        hide_env_values = true,
        value_name = "N:SECRET,..",
        global = true
    )]
    pub(crate) peppers: Option<String>,
    /// Sender of mail.
    #[arg(
        long,
        env = "TURNPIKE_MAIL_FROM",
        default_value = "Turnpike <turnpike@localhost>",
        value_name = "ADDRESS",
        global = true
    )]
    pub(crate) mail_from: String,
    /// SMTP server (smtp://user:password@host:587). Without it mail stays in the outbox.
    #[arg(
        long,
        env = "TURNPIKE_SMTP_URL",
        hide_env_values = true,
        value_name = "URL",
        global = true
    )]
    pub(crate) smtp_url: Option<String>,
    /// Stripe's secret key (sk_live_..., sk_test_..., or a restricted rk_...). Without it paid plans cannot be bought.
    #[arg(
        long,
        env = "TURNPIKE_STRIPE_SECRET_KEY",
        hide_env_values = true,
        value_name = "KEY",
        global = true
    )]
    pub(crate) stripe_secret_key: Option<String>,
    /// Another address for Stripe's API, for development.
    #[arg(long, env = "TURNPIKE_STRIPE_URL", value_name = "URL", value_parser = origin, global = true)]
    pub(crate) stripe_url: Option<String>,
    /// What happens to keys while a cardholder contests a payment at the bank; holds for disputes from now on.
    #[arg(
        long,
        env = "TURNPIKE_ON_DISPUTE",
        value_enum,
        default_value = "suspend",
        global = true
    )]
    pub(crate) on_dispute: OnDispute,
    /// File with the seconds that business time is ahead of the machine's, for trying with Stripe's test clocks.
    #[arg(long, env = "TURNPIKE_CLOCK_OFFSET_FILE", value_name = "FILE", global = true)]
    pub(crate) clock_offset_file: Option<PathBuf>,
    /// Shows the mail outbox to everybody. Development only.
    #[arg(long, env = "TURNPIKE_DEVELOPMENT", global = true)]
    pub(crate) development: bool,
}

/// What `serve` alone needs.
#[derive(Args, Clone)]
pub(crate) struct Serving {
    /// What this process does.
    #[arg(long, env = "TURNPIKE_ROLE", value_enum, default_value = "all")]
    pub(crate) role: ServeRole,
    /// Takes the listening sockets from the process that runs on this data folder with this role, and lets it end; starts
    /// as always where there is none. SIGUSR2 makes a running process start its successor so.
    #[arg(long)]
    pub(crate) take_over: bool,
    /// Where the portal listens.
    #[arg(
        long,
        env = "TURNPIKE_PORTAL_LISTEN",
        default_value = "127.0.0.1:3000",
        value_name = "ADDRESS"
    )]
    pub(crate) portal_listen: SocketAddr,
    /// Where the gateway listens.
    #[arg(
        long,
        env = "TURNPIKE_GATEWAY_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS"
    )]
    pub(crate) gateway_listen: SocketAddr,
    /// Certificate chain in PEM: the gateway serves TLS and HTTP/2 with it. Read again when it changes.
    #[arg(
        long,
        env = "TURNPIKE_GATEWAY_TLS_CERTIFICATE",
        value_name = "FILE",
        requires = "gateway_tls_key"
    )]
    pub(crate) gateway_tls_certificate: Option<PathBuf>,
    /// The certificate's private key in PEM.
    #[arg(
        long,
        env = "TURNPIKE_GATEWAY_TLS_KEY",
        value_name = "FILE",
        requires = "gateway_tls_certificate"
    )]
    pub(crate) gateway_tls_key: Option<PathBuf>,
    /// Addresses or ranges, separated by commas, of proxies in front of the gateway: what they say of the client's
    /// address and scheme is believed (X-Forwarded-For, X-Forwarded-Proto).
    #[arg(
        long,
        env = "TURNPIKE_GATEWAY_TRUSTED_PROXIES",
        value_name = "RANGES",
        value_delimiter = ','
    )]
    pub(crate) gateway_trusted_proxies: Vec<AddressRange>,
    /// Connections of trusted proxies begin with a PROXY header, version 1 or 2.
    #[arg(long, env = "TURNPIKE_GATEWAY_PROXY_PROTOCOL", requires = "gateway_trusted_proxies")]
    pub(crate) gateway_proxy_protocol: bool,
    /// Where /healthz, /readyz and /metrics are.
    #[arg(
        long,
        env = "TURNPIKE_OPERATIONS_LISTEN",
        default_value = "127.0.0.1:9090",
        value_name = "ADDRESS"
    )]
    pub(crate) operations_listen: SocketAddr,
    /// Threads of the gateway; 0 means one per core.
    #[arg(long, env = "TURNPIKE_GATEWAY_THREADS", default_value_t = 0, value_name = "N")]
    pub(crate) gateway_threads: usize,
    /// Requests in flight per gateway thread; above it plans with a higher priority go first and the others wait.
    #[arg(long, env = "TURNPIKE_GATEWAY_IN_FLIGHT", default_value_t = 8192, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) gateway_in_flight: u32,
    /// Connections from one address (an IPv6 /64); above it new ones are closed at once. Private networks and trusted proxies
    /// are not counted.
    #[arg(long, env = "TURNPIKE_GATEWAY_CONNECTIONS_PER_ADDRESS", default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) gateway_connections_per_address: u32,
    /// Memory for answers that routes with a cache keep, in bytes; 0 keeps none.
    #[arg(long, env = "TURNPIKE_GATEWAY_CACHE_BYTES", default_value_t = 64 << 20, value_name = "BYTES")]
    pub(crate) gateway_cache_bytes: usize,
    /// Memory for idempotency keys and their answers, in bytes. A key takes 192 for as long as its route keeps it; where
    /// there is no room for another, requests with new keys are refused.
    #[arg(long, env = "TURNPIKE_GATEWAY_IDEMPOTENCY_BYTES", default_value_t = 64 << 20, value_name = "BYTES")]
    pub(crate) gateway_idempotency_bytes: usize,
    /// Seconds without a word of the database after which the gateway refuses calls that are paid for or take of an
    /// allowance, because a key may have been revoked meanwhile; 0 never does.
    #[arg(
        long,
        env = "TURNPIKE_GATEWAY_STALE_AFTER_S",
        default_value_t = 900,
        value_name = "SECONDS"
    )]
    pub(crate) gateway_stale_after_s: u32,
    /// Redis or Valkey through which all gateways of this installation share their rate limits
    /// (redis://user:password@host:6379/0; rediss:// for TLS). Without it each gateway counts its own.
    #[arg(long, env = "TURNPIKE_GATEWAY_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) gateway_redis_url: Option<String>,
    /// Authorities in PEM that its certificate is checked against, in place of those that browsers trust.
    #[arg(
        long,
        env = "TURNPIKE_GATEWAY_REDIS_CA_FILE",
        value_name = "FILE",
        requires = "gateway_redis_url"
    )]
    pub(crate) gateway_redis_ca_file: Option<PathBuf>,
    /// Spends hard quotas, spend caps and keys' own limits from leases that the database grants, so that several gateways
    /// on one database never pass them together. Must be set on all of them or on none; one gateway needs none.
    #[arg(long, env = "TURNPIKE_GATEWAY_LEASES")]
    pub(crate) gateway_leases: bool,
    /// Longest time that requests in flight get at the end, in seconds.
    #[arg(long, env = "TURNPIKE_DRAIN_SECONDS", default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) drain_seconds: u64,
    /// A file for the access log, a line of JSON for each request of the gateway; - is standard output.
    #[arg(long, env = "TURNPIKE_ACCESS_LOG", value_name = "FILE")]
    pub(crate) access_log: Option<gateway::AccessLogTo>,
    /// Part of the requests that have a line, from 0 to 1; those refused or failed always have one.
    #[arg(
        long,
        env = "TURNPIKE_ACCESS_LOG_SAMPLE",
        default_value = "1",
        value_name = "SHARE",
        allow_negative_numbers = true
    )]
    pub(crate) access_log_sample: gateway::Share,
    /// An OpenTelemetry collector that takes traces of the gateway's requests (OTLP over HTTP, http://127.0.0.1:4318).
    #[arg(long, env = "TURNPIKE_TRACE_ENDPOINT", hide_env_values = true, value_name = "URL")]
    pub(crate) trace_endpoint: Option<String>,
    /// What the collector is told with everything, `name=value,..`; a comma in a value is written %2C.
    #[arg(
        long,
        env = "TURNPIKE_TRACE_HEADERS",
        hide_env_values = true,
        value_name = "HEADERS",
        requires = "trace_endpoint"
    )]
    pub(crate) trace_headers: Option<String>,
    /// Part of the requests that are recorded, from 0 to 1.
    #[arg(
        long,
        env = "TURNPIKE_TRACE_SAMPLE",
        default_value = "1",
        value_name = "SHARE",
        allow_negative_numbers = true
    )]
    pub(crate) trace_sample: gateway::Share,
    /// Callers that send a traceparent decide by its flag whether their requests are recorded. Only where every caller is
    /// trusted, such as behind a proxy that begins the traces.
    #[arg(long, env = "TURNPIKE_TRACE_TRUST_PARENT")]
    pub(crate) trace_trust_parent: bool,
    /// How logs are written.
    #[arg(long, env = "TURNPIKE_LOG_FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// What is logged: error, warn, info, debug, or a filter such as info,domain=debug.
    #[arg(long, env = "TURNPIKE_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
}

impl Serving {
    /// What the gateway is started with.
    pub(crate) fn gateway(&self, folder: PathBuf) -> Result<gateway::Config, Failure> {
        let mut config = gateway::Config::new(self.gateway_listen, folder);
        if self.gateway_threads > 0 {
            config.threads = self.gateway_threads;
        }
        config.limits.in_flight_per_thread = self.gateway_in_flight;
        config.limits.connections_per_address =
            usize::try_from(self.gateway_connections_per_address).unwrap_or(usize::MAX);
        config.limits.cache_bytes = self.gateway_cache_bytes;
        config.limits.idempotency_bytes = self.gateway_idempotency_bytes;
        let stale_after = Duration::from_secs(self.gateway_stale_after_s.into());
        config.limits.stale_after = (!stale_after.is_zero()).then_some(stale_after);
        config.leases = self.gateway_leases;
        config.tls = self.gateway_tls();
        config.access_log = self.access_log.clone().map(|to| gateway::AccessLogConfig {
            to,
            sample: self.access_log_sample,
        });
        config.trace = self.trace()?;
        config.redis = self.redis()?;
        config.trusted_proxies.clone_from(&self.gateway_trusted_proxies);
        config.proxy_protocol = self.gateway_proxy_protocol;
        Ok(config)
    }

    /// Where traces are sent, if anywhere. Read here and not by clap, which would print what is wrong with its secrets.
    pub(crate) fn trace(&self) -> Result<Option<gateway::TraceConfig>, Failure> {
        let Some(endpoint) = &self.trace_endpoint else {
            return Ok(None);
        };
        let wrong = |name: &str, why: &str| Failure(format!("{name}: {why}"));
        let headers = match &self.trace_headers {
            Some(text) => text.parse().map_err(|why| wrong("TURNPIKE_TRACE_HEADERS", why))?,
            None => gateway::CollectorHeaders::default(),
        };
        Ok(Some(gateway::TraceConfig {
            endpoint: endpoint.parse().map_err(|why| wrong("TURNPIKE_TRACE_ENDPOINT", why))?,
            headers,
            sample: self.trace_sample,
            trust_parent: self.trace_trust_parent,
        }))
    }

    /// Where rate limits are shared, if anywhere. Read here and not by clap, which would print a wrong one with its
    /// password.
    pub(crate) fn redis(&self) -> Result<Option<gateway::RedisConfig>, Failure> {
        let read = |url: &String| {
            let url = url.parse();
            let url = url.map_err(|why| Failure(format!("TURNPIKE_GATEWAY_REDIS_URL: {why}")))?;
            let ca_file = self.gateway_redis_ca_file.clone();
            Ok(gateway::RedisConfig { url, ca_file })
        };
        self.gateway_redis_url.as_ref().map(read).transpose()
    }

    /// The gateway's certificate and key, where it serves TLS.
    pub(crate) fn gateway_tls(&self) -> Option<gateway::TlsFiles> {
        let (certificate, key) = self.gateway_tls_certificate.clone().zip(self.gateway_tls_key.clone())?;
        Some(gateway::TlsFiles { certificate, key })
    }
}

/// `http://host` or `https://host:port`, given back without a slash at the end.
fn origin(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let rest = rest
        .map(|r| r.trim_end_matches('/'))
        .filter(|r| !r.is_empty() && !r.contains(['/', '?', '#', '@', ' ']));
    rest.map(|_| text.trim_end_matches('/').to_owned())
        .ok_or_else(|| "http://host or https://host:port is wanted, without a path".to_owned())
}

fn key_prefix(text: &str) -> Result<String, String> {
    let good =
        (1..=model::key::MAX_PREFIX_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if good {
        Ok(text.to_owned())
    } else {
        Err("1 to 12 letters or digits are wanted".to_owned())
    }
}

/// Shortest pepper, in characters.
const MIN_PEPPER_LEN: usize = 32;

impl Portal {
    /// Checks what clap cannot, and makes the pepper at first start.
    pub(crate) fn settings(&self, data_dir: &Path) -> Result<Settings, Failure> {
        let peppers = match &self.peppers {
            Some(text) => parse_peppers(text)?,
            None => parse_peppers(&kept_pepper(data_dir)?)?,
        };
        if let Some(key) = &self.stripe_secret_key
            && !key.starts_with("sk_")
            && !key.starts_with("rk_")
        {
            return Err(Failure(
                "TURNPIKE_STRIPE_SECRET_KEY: a key that begins with sk_ or rk_ is wanted".to_owned(),
            ));
        }
        if let Some(url) = &self.smtp_url
            && !url.starts_with("smtp://")
            && !url.starts_with("smtps://")
        {
            return Err(Failure(
                "TURNPIKE_SMTP_URL: smtp://user:password@host:port or smtps://... is wanted".to_owned(),
            ));
        }
        Ok(Settings {
            portal_url: self.portal_url.clone(),
            gateway_url: self.gateway_url.clone(),
            key_prefix: self.key_prefix.clone(),
            mail_from: self.mail_from.clone(),
            smtp_url: self.smtp_url.clone().map(Secret::new),
            peppers,
            dispute_policy: match self.on_dispute {
                OnDispute::Suspend => DisputePolicy::Suspend,
                OnDispute::Flag => DisputePolicy::Flag,
            },
            development: self.development,
        })
    }
}

fn parse_peppers(text: &str) -> Result<Vec<(i16, Secret)>, Failure> {
    let wrong = || {
        Failure(format!(
            "TURNPIKE_PEPPERS: N:SECRET[,N:SECRET] is wanted, N from 1, a secret of at least {MIN_PEPPER_LEN} characters"
        ))
    };
    text.trim()
        .split(',')
        .map(|one| {
            let (number, secret) = one.split_once(':').ok_or_else(wrong)?;
            let number: i16 = number.trim().parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
            if secret.len() < MIN_PEPPER_LEN {
                Err(wrong())
            } else {
                Ok((number, Secret::new(secret)))
            }
        })
        .collect()
}

/// The pepper in the data folder, made when there is none. Lost with it, no key works any more: it belongs in backups.
fn kept_pepper(data_dir: &Path) -> Result<String, Failure> {
    use model::Random as _;
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = data_dir.join("peppers");
    let failed = |e: std::io::Error| Failure(format!("cannot keep the peppers in {}: {e}", file.display()));
    std::fs::create_dir_all(data_dir).map_err(failed)?;
    if !file.exists() {
        let mut bytes = [0u8; 32];
        crate::clock::MachineRandom.fill(&mut bytes);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let part = file.with_extension(format!("{}", std::process::id()));
        let mut out = std::fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&part)
            .map_err(failed)?;
        out.write_all(format!("1:{hex}\n").as_bytes())
            .and_then(|()| out.sync_all())
            .map_err(failed)?;
        // Of two processes that start at once, one link wins and both read the same file.
        let linked = std::fs::hard_link(&part, &file);
        std::fs::remove_file(&part).map_err(failed)?;
        if let Err(e) = linked
            && e.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(failed(e));
        }
    }
    std::fs::read_to_string(&file).map_err(failed)
}
