//! Asks at a steady rate whatever the answers do, and prints how long they took: what a proxy adds when it is not busy.
//!
//! `steady ADDRESS PATH KEYS RATE SECONDS CONNECTIONS` asks `RATE` times a second in the mean, at random moments (a Poisson
//! process, the same one in every run), with the keys of a file in turn. An answer's time counts from the moment when its
//! request was due, also when no connection was free then, so that a pause of the proxy is seen by all who came in it.
//! The process is meant to be pinned to a core.

use std::error::Error;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What happens before this is not counted: connections are made, and pools filled.
const WARM_UP: Duration = Duration::from_secs(1);

/// What is asked, and what came of it.
struct Load {
    requests: Vec<String>,
    /// When the next requests were due, first come first served.
    due: Mutex<UnboundedReceiver<(Instant, usize)>>,
    counted_from: Instant,
    /// In microseconds.
    took_us: std::sync::Mutex<Vec<u64>>,
    failed: AtomicU64,
}

impl Load {
    async fn client(&self, address: &str) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut answer = Vec::with_capacity(8 << 10);
        loop {
            let Some((due, at)) = self.due.lock().await.recv().await else {
                return Ok(());
            };
            let request = &self.requests[at % self.requests.len()];
            stream.write_all(request.as_bytes()).await?;
            answer.clear();
            while !is_whole(&answer) {
                if stream.read_buf(&mut answer).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
            if answer.get(9..12) != Some(b"200") {
                self.failed.fetch_add(1, Ordering::Relaxed);
            } else if due >= self.counted_from {
                let took_us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                let mut all = self.took_us.lock().unwrap_or_else(PoisonError::into_inner);
                all.push(took_us);
            }
        }
    }
}

/// Whether an answer with a length is there whole.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let mut lengths = head.lines().filter_map(|l| l.strip_prefix("content-length: "));
    let length = lengths.next().and_then(|l| l.parse::<usize>().ok()).unwrap_or(0);
    answer.len() >= end + 4 + length
}

/// The time to the next request, in seconds: exponentially distributed.
fn gap_s(state: &mut u64, rate: f64) -> f64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let high = u32::try_from(*state >> 32).unwrap_or(0);
    -((f64::from(high) + 1.0) / 4_294_967_297.0).ln() / rate
}

/// Says when requests are due, from a thread of its own: the runtime's timer may be a millisecond late.
fn pace(due: &UnboundedSender<(Instant, usize)>, rate: f64, end: Instant) {
    let (mut state, mut at, mut next) = (1, 0, Instant::now());
    while next < end {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        if due.send((Instant::now(), at)).is_err() {
            return;
        }
        at += 1;
        next += Duration::from_secs_f64(gap_s(&mut state, rate));
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, address, path, keys, rate, seconds, connections] = args.as_slice() else {
        return Err("steady ADDRESS PATH KEYS RATE SECONDS CONNECTIONS".into());
    };
    let listed = std::fs::read_to_string(keys)?;
    let request = |key: &str| format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {key}\r\n\r\n");
    let (send, due) = unbounded_channel();
    let begun = Instant::now();
    let load = Arc::new(Load {
        requests: listed.lines().map(request).collect(),
        due: Mutex::new(due),
        counted_from: begun + WARM_UP,
        took_us: std::sync::Mutex::default(),
        failed: AtomicU64::new(0),
    });
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..connections.parse::<usize>()? {
        let (load, address) = (Arc::clone(&load), address.clone());
        clients.spawn(async move { load.client(&address).await });
    }
    let end = begun + WARM_UP + Duration::from_secs(seconds.parse()?);
    let rate: f64 = rate.parse()?;
    let pacer = std::thread::spawn(move || pace(&send, rate, end));
    let mut broken = 0;
    while let Some(ended) = clients.join_next().await {
        broken += u64::from(!matches!(ended, Ok(Ok(()))));
    }
    pacer.join().map_err(|_| "the pacer broke")?;
    let mut took = std::mem::take(&mut *load.took_us.lock().unwrap_or_else(PoisonError::into_inner));
    took.sort_unstable();
    let at = |thousandths: usize| took.get(took.len() * thousandths / 1000).copied().unwrap_or(0);
    let mut out = std::io::stdout();
    let failed = load.failed.load(Ordering::Relaxed) + broken;
    writeln!(out, "answers {} failed {failed}", took.len())?;
    writeln!(
        out,
        "p50_us {} p90_us {} p99_us {} p999_us {}",
        at(500),
        at(900),
        at(990),
        at(999)
    )?;
    Ok(())
}
