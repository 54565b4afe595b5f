//! A gateway in a process of its own (this test binary again, see [`child`]): it can be killed, starved and measured.
//! Its sink is a folder in which each batch is one file put there by a rename, the stand-in for one transaction.

use crate::support::*;
use async_trait::async_trait;
use gateway::{Gateway, Peppers, SnapshotSource, SourceError, UsageSink};
use model::access::Environment;
use model::catalogue::RateLimit;
use model::key::PlainKey;
use model::usage::{UsageBatch, UsageRecord};
use model::{Clock, ConsumerId, Random};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

const SEED: u64 = 20_261_121;
const FOLDER: &str = "GATEWAY_CHILD_FOLDER";
const UPSTREAM: &str = "GATEWAY_CHILD_UPSTREAM";
const LIFE: &str = "GATEWAY_CHILD_LIFE";
const LISTEN: &str = "GATEWAY_CHILD_LISTEN";
const LIMITS: &str = "GATEWAY_CHILD_LIMITS";

/// The key that every such gateway knows.
pub(crate) fn key() -> PlainKey {
    PlainKey::generate("tp", Environment::Live, &Seeded(AtomicU64::new(SEED)))
}

/// Batches as files, named by their first record.
pub(crate) struct Files(pub(crate) PathBuf);

impl Files {
    pub(crate) fn rows(&self) -> Vec<UsageRecord> {
        let mut names: Vec<_> = std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().path()).collect();
        names.retain(|n| n.extension().is_some_and(|e| e == "json"));
        names.sort();
        let batch = |n: &PathBuf| serde_json::from_slice::<UsageBatch>(&std::fs::read(n).unwrap()).unwrap();
        names.iter().flat_map(|n| batch(n).records).collect()
    }
    pub(crate) fn last(&self) -> u64 {
        self.rows().last().map_or(0, |r| r.seq)
    }
}

#[async_trait]
impl UsageSink for Files {
    async fn ship(&self, batch: UsageBatch) -> Result<(), SourceError> {
        let name = format!("{:020}", batch.records[0].seq);
        let made = self.0.join(format!("{name}.new"));
        let failed = |e: std::io::Error| SourceError(e.to_string());
        std::fs::write(&made, serde_json::to_vec(&batch).unwrap()).map_err(failed)?;
        std::fs::rename(&made, self.0.join(format!("{name}.json"))).map_err(failed)
    }
    async fn shipped_through(&self, _: &str) -> Result<u64, SourceError> {
        // Without descriptors there is no answer.
        std::fs::read_dir(&self.0).map_err(|e| SourceError(e.to_string()))?;
        Ok(self.last())
    }
}

/// Not a test by itself: the gateway that others start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER).map(PathBuf::from) else {
        return;
    };
    let variable = |name| std::env::var(name).unwrap();
    let life: u64 = variable(LIFE).parse().unwrap();
    let plane = Arc::new(Plane::default());
    let consumer = ConsumerId::from_bits(1 << 80);
    let mut e = entitlement(consumer);
    e.rate_limit = RateLimit {
        per_second: 1_000_000,
        burst: 1_000_000,
    };
    plane.put_routing(routing(variable(UPSTREAM).parse().unwrap()));
    plane.put_entitlement(e);
    plane.put_key(key_record(&key(), consumer));
    let mut config = config(&folder.join("data"));
    config.listen = variable(LISTEN).parse().unwrap();
    config.limits.segment_records = 512;
    config.limits.body_bytes = 10 << 20;
    for (name, value) in variable(LIMITS).split_whitespace().filter_map(|w| w.split_once('=')) {
        let value: u64 = value.parse().unwrap();
        match name {
            "body_bytes" => config.limits.body_bytes = value,
            "head_timeout_ms" => config.limits.head_timeout = Duration::from_millis(value),
            "body_idle_ms" => config.limits.body_idle = Duration::from_millis(value),
            "write_stall_ms" => config.limits.write_stall = Duration::from_millis(value),
            "connections_per_thread" => config.limits.connections_per_thread = usize::try_from(value).unwrap(),
            other => panic!("no limit is called {other}"),
        }
    }
    let running = Gateway::start(
        config,
        plane as Arc<dyn SnapshotSource>,
        Arc::new(Files(folder.join("sink"))) as Arc<dyn UsageSink>,
        Arc::new(TestClock::at(START_MS + i64::try_from(life).unwrap())) as Arc<dyn Clock>,
        Arc::new(Seeded(AtomicU64::new(SEED + life))) as Arc<dyn Random>,
        Peppers::new([(1, PEPPER)]),
    )
    .unwrap();
    until(|| running.ready()).await;
    let made = folder.join("addr.new");
    std::fs::write(&made, running.local_addr().to_string()).unwrap();
    std::fs::rename(&made, folder.join(format!("addr-{life}"))).unwrap();
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    term.recv().await;
    running.shutdown(Duration::from_secs(10)).await;
}

/// A running child.
pub(crate) struct Process {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Process {
    /// Starts a gateway with its ledger and its sink in `folder`. `life` counts the starts in one folder. `limits` are
    /// words like `head_timeout_ms=500`; `shell` is run before it, for bounds on the process.
    pub(crate) async fn start(folder: &Path, upstream: SocketAddr, life: u64, limits: &str, shell: &str) -> Self {
        Self::start_at(folder, upstream, life, limits, shell, "127.0.0.1:0").await
    }

    pub(crate) async fn start_at(
        folder: &Path,
        upstream: SocketAddr,
        life: u64,
        limits: &str,
        shell: &str,
        listen: &str,
    ) -> Self {
        std::fs::create_dir_all(folder.join("sink")).unwrap();
        let child = Command::new("sh")
            .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["process::child", "--exact", "--nocapture"])
            .env(FOLDER, folder)
            .env(UPSTREAM, upstream.to_string())
            .env(LIFE, life.to_string())
            .env(LISTEN, listen)
            .env(LIMITS, limits)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let path = folder.join(format!("addr-{life}"));
        until(|| path.exists()).await;
        let addr = std::fs::read_to_string(path).unwrap().parse().unwrap();
        Self { child, addr }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to finish what is open and to end.
    pub(crate) fn terminate(&self) {
        let killed = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(killed.unwrap().success());
    }

    /// Bounds the length of files that it writes, in bytes: beyond it is as a full disk.
    pub(crate) fn bound_files(&self, most: &str) {
        let pid = self.child.id().to_string();
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--fsize={most}:")])
            .status();
        assert!(set.unwrap().success());
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) {
        until(|| self.child.try_wait().unwrap().is_some()).await;
    }

    /// Resident memory, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// Asks once on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        let text = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
            key().reveal()
        );
        Reply::parse(&raw(self.addr, text.as_bytes()).await)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
