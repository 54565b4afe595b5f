//! `kill -9` twenty times under load, at seeded moments: what a client saw answered is in the ledger, once.
//!
//! The gateway runs in a child process (this test binary again, see [`child`]); its sink is a folder in which each
//! batch is one file put there by a rename, the stand-in for one transaction. Clients and the upstream live here and
//! keep their own accounts. A failing run prints its seed.

use crate::support::*;
use async_trait::async_trait;
use gateway::{Gateway, Peppers, SnapshotSource, SourceError, UsageSink};
use model::access::Environment;
use model::catalogue::RateLimit;
use model::key::PlainKey;
use model::usage::{UsageBatch, UsageRecord};
use model::{Clock, ConsumerId, Random};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const KILLS: u64 = 20;
const CLIENTS: usize = 8;
/// Answers in a life before the moment at which it ends is chosen.
const ANSWERS_LEAST: usize = 10;
const SEED: u64 = 20_261_121;
const FOLDER: &str = "GATEWAY_KILL_FOLDER";
const UPSTREAM: &str = "GATEWAY_KILL_UPSTREAM";
const LIFE: &str = "GATEWAY_KILL_LIFE";

fn key() -> PlainKey {
    PlainKey::generate("tp", Environment::Live, &Seeded(AtomicU64::new(SEED)))
}

/// Batches as files, named by their first record.
struct Files(PathBuf);

impl Files {
    fn rows(&self) -> Vec<UsageRecord> {
        let mut names: Vec<_> = std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().path()).collect();
        names.retain(|n| n.extension().is_some_and(|e| e == "json"));
        names.sort();
        let batch = |n: &PathBuf| serde_json::from_slice::<UsageBatch>(&std::fs::read(n).unwrap()).unwrap();
        names.iter().flat_map(|n| batch(n).records).collect()
    }
    fn last(&self) -> u64 {
        self.rows().last().map_or(0, |r| r.seq)
    }
}

#[async_trait]
impl UsageSink for Files {
    async fn ship(&self, batch: UsageBatch) -> Result<(), SourceError> {
        let name = format!("{:020}", batch.records[0].seq);
        let made = self.0.join(format!("{name}.new"));
        std::fs::write(&made, serde_json::to_vec(&batch).unwrap()).unwrap();
        std::fs::rename(&made, self.0.join(format!("{name}.json"))).unwrap();
        Ok(())
    }
    async fn shipped_through(&self, _: &str) -> Result<u64, SourceError> {
        Ok(self.last())
    }
}

/// Not a test by itself: the gateway that [`nothing_is_lost_or_billed_twice`] kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER).map(PathBuf::from) else {
        return;
    };
    let upstream: SocketAddr = std::env::var(UPSTREAM).unwrap().parse().unwrap();
    let life: u64 = std::env::var(LIFE).unwrap().parse().unwrap();
    let plane = Arc::new(Plane::default());
    let consumer = ConsumerId::from_bits(1 << 80);
    let mut e = entitlement(consumer);
    e.rate_limit = RateLimit {
        per_second: 1_000_000,
        burst: 1_000_000,
    };
    plane.put_routing(routing(upstream));
    plane.put_entitlement(e);
    plane.put_key(key_record(&key(), consumer));
    let mut config = config(&folder.join("data"));
    config.limits.segment_records = 512;
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
    std::future::pending::<()>().await;
}

fn spawn(folder: &Path, upstream: SocketAddr, life: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["kill::child", "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .env(UPSTREAM, upstream.to_string())
        .env(LIFE, life.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

async fn address(folder: &Path, life: u64) -> SocketAddr {
    let path = folder.join(format!("addr-{life}"));
    until(|| path.exists()).await;
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

/// Asks again and again on one connection; notes the id of every answer that came whole.
async fn client(addr: SocketAddr, path: &'static str, answered: Arc<Mutex<Vec<String>>>, stop: Arc<AtomicBool>) {
    let text = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        key().reveal()
    );
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(addr).await else {
            return;
        };
        let mut out = Vec::new();
        while stream.write_all(text.as_bytes()).await.is_ok() {
            let reply = loop {
                let mut chunk = [0u8; 4096];
                match stream.read(&mut chunk).await {
                    Ok(n) if n > 0 => out.extend_from_slice(&chunk[..n]),
                    _ => break None,
                }
                let end: &[u8] = if path.ends_with("chunked") {
                    b"0\r\n\r\n"
                } else {
                    b"\r\n\r\nok"
                };
                if out.ends_with(end) {
                    break Some(Reply::parse(&out));
                }
            };
            let Some(reply) = reply else { break };
            assert_eq!(reply.status, 200);
            answered
                .lock()
                .unwrap()
                .push(reply.header("x-request-id").unwrap().to_owned());
            out.clear();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_billed_twice() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.0.join("sink")).unwrap();
    let upstream = Upstream::start().await;
    let answered = Arc::new(Mutex::new(Vec::new()));
    let seeds = Seeded(AtomicU64::new(SEED));
    for life in 0..KILLS {
        let mut process = spawn(&folder.0, upstream.addr, life);
        let addr = address(&folder.0, life).await;
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|i| {
                let path = if i % 4 == 3 { "/v1/chunked" } else { "/v1/ok" };
                tokio::spawn(client(addr, path, Arc::clone(&answered), Arc::clone(&stop)))
            })
            .collect();
        // However slow this machine is, there is load.
        let before = answered.lock().unwrap().len();
        until(|| answered.lock().unwrap().len() >= before + ANSWERS_LEAST).await;
        let mut moment = [0u8; 2];
        seeds.fill(&mut moment);
        let wait = 20 + u64::from(u16::from_le_bytes(moment)) % 250;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        process.kill().unwrap();
        process.wait().unwrap();
        stop.store(true, Ordering::Relaxed);
        for c in clients {
            c.await.unwrap();
        }
    }
    // A last life, left alone until everything is shipped: its own request stands behind all that went before.
    let sink = Files(folder.0.join("sink"));
    let mut process = spawn(&folder.0, upstream.addr, KILLS);
    let addr = address(&folder.0, KILLS).await;
    let text = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
        key().reveal()
    );
    let reply = Reply::parse(&raw(addr, text.as_bytes()).await);
    let last = reply.header("x-request-id").unwrap();
    until(|| sink.rows().iter().any(|r| r.request.to_string() == last)).await;
    process.kill().unwrap();
    process.wait().unwrap();

    let rows = sink.rows();
    assert!(
        (1..).zip(&rows).all(|(seq, r)| r.seq == seq),
        "seed {SEED}: the sequence has a gap or a repeat"
    );
    let mut billed: HashMap<String, u32> = HashMap::new();
    for r in rows.iter().filter(|r| r.units > 0) {
        *billed.entry(r.request.to_string()).or_default() += r.units;
    }
    let answered = answered.lock().unwrap().clone();
    let lost: Vec<_> = answered.iter().filter(|id| !billed.contains_key(*id)).collect();
    let twice: Vec<_> = billed.iter().filter(|(_, units)| **units != 1).collect();
    let seen: HashSet<String> = upstream.requests().iter().map(|r| request_id(r)).collect();
    let invented: Vec<_> = billed.keys().filter(|id| !seen.contains(*id)).collect();
    println!(
        "answered {}, billed {}, seen by the upstream {}",
        answered.len(),
        billed.len(),
        seen.len()
    );
    assert!(
        lost.is_empty() && twice.is_empty() && invented.is_empty(),
        "seed {SEED}: {lost:?} {twice:?} {invented:?}"
    );
    assert!(answered.len() >= 200, "there was load: {}", answered.len());
}

fn request_id(request: &str) -> String {
    let line = request
        .lines()
        .find_map(|l| l.to_ascii_lowercase().strip_prefix("x-request-id: ").map(str::to_owned));
    line.unwrap()
}
