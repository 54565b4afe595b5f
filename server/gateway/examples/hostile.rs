//! Clients that cost, against a gateway in a process of its own, and what everybody else notices of them.
//!
//! `hostile GATEWAY FOLDER [SECONDS]` starts the example `bench_gateway` (its program is GATEWAY) with its default limits and
//! prints, for each attack: connections it held, the gateway's memory at its largest, and the other clients' latencies as
//! ratios to those without an attack. Attackers, others and upstream share this machine with the gateway, so a ratio is an
//! upper bound of what the gateway adds.

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Bytes of the large answer.
const LARGE: usize = 16 << 20;
/// Connections of the others.
const OTHERS: usize = 8;
/// Idle connections wanted.
const IDLE: usize = 20_000;
/// Descriptors left for everything but attackers.
const SPARE: usize = 300;

/// Answers `/bench/large` with [`LARGE`] bytes and everything else with two.
async fn upstream(listener: TcpListener) {
    let large: Arc<[u8]> = {
        let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").into_bytes();
        bytes.resize(bytes.len() + LARGE, b'z');
        bytes.into()
    };
    while let Ok((mut stream, _)) = listener.accept().await {
        let large = Arc::clone(&large);
        tokio::spawn(async move {
            let mut chunk = vec![0u8; 16 << 10];
            while let Ok(n @ 1..) = stream.read(&mut chunk).await {
                let begun = &chunk[..n];
                let small: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                let answer = if begun.starts_with(b"GET /bench/large") {
                    &large
                } else {
                    small
                };
                if begun.starts_with(b"GET ") && stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A running gateway.
struct Gateway {
    child: Child,
    addr: SocketAddr,
    key: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Gateway {
    async fn start(program: &str, folder: &str, upstream: SocketAddr) -> Outcome<Self> {
        let addr = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(program)
            .args([&addr.to_string(), &upstream.to_string(), folder, "1000", "1"])
            .stdout(Stdio::null())
            .spawn()?;
        let mut gateway = Self {
            child,
            addr,
            key: String::new(),
        };
        for _ in 0..500 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let keys = std::fs::read_to_string(format!("{folder}/keys")).unwrap_or_default();
            gateway.key = keys.lines().next().unwrap_or_default().to_owned();
            if ask(&mut TcpStream::connect(addr).await.ok(), &gateway).await.is_some() {
                return Ok(gateway);
            }
        }
        Err("the gateway does not answer".into())
    }

    fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    }

    fn head(&self, target: &str, lines: &str) -> String {
        format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n{lines}\r\n",
            self.key
        )
    }
}

/// One small request on a kept connection; how long it took.
async fn ask(stream: &mut Option<TcpStream>, gateway: &Gateway) -> Option<Duration> {
    let open = stream.as_mut()?;
    let begun = Instant::now();
    open.write_all(gateway.head("/bench/ok", "").as_bytes()).await.ok()?;
    let (mut chunk, mut out) = ([0u8; 2048], Vec::new());
    while !out.ends_with(b"ok") {
        match open.read(&mut chunk).await {
            Ok(n @ 1..) => out.extend_from_slice(&chunk[..n]),
            _ => return None,
        }
    }
    out.starts_with(b"HTTP/1.1 200 ").then(|| begun.elapsed())
}

/// What the others saw.
struct Seen {
    answered: usize,
    failed: u64,
    p50: Duration,
    p99: Duration,
}

/// Others ask for a while on connections they keep.
async fn others(gateway: &Arc<Gateway>, connections: usize, time: Duration) -> Seen {
    let failed = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let (gateway, failed) = (Arc::clone(gateway), Arc::clone(&failed));
        clients.spawn(async move {
            let (begun, mut took, mut stream) = (Instant::now(), Vec::new(), None);
            while begun.elapsed() < time {
                if stream.is_none() {
                    stream = TcpStream::connect(gateway.addr).await.ok();
                }
                match ask(&mut stream, &gateway).await {
                    Some(one) => took.push(one),
                    None => {
                        failed.fetch_add(1, Ordering::Relaxed);
                        stream = None;
                    }
                }
            }
            took
        });
    }
    let mut took: Vec<Duration> = clients.join_all().await.concat();
    took.sort();
    let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
    Seen {
        answered: took.len(),
        failed: failed.load(Ordering::Relaxed),
        p50: at(50),
        p99: at(99),
    }
}

/// An attack: how many attackers at once, what each sends first, what it goes on sending, how long it waits between,
/// and whether it reads.
struct Attack {
    name: &'static str,
    attackers: usize,
    first: String,
    then: String,
    pause: Duration,
    reads: bool,
}

/// One attacker, again and again until told to stop.
async fn attacker(gateway: Arc<Gateway>, attack: Arc<Attack>, stop: Arc<AtomicBool>, held: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(stream) = TcpStream::connect(gateway.addr).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        held.fetch_add(1, Ordering::Relaxed);
        let (mut reading, mut writing) = stream.into_split();
        let reads = attack.reads;
        let sink = async move {
            let mut chunk = vec![0u8; 16 << 10];
            while reads && matches!(reading.read(&mut chunk).await, Ok(1..)) {}
            if !reads {
                std::future::pending::<()>().await;
            }
        };
        let sending = async {
            if writing.write_all(attack.first.as_bytes()).await.is_err() {
                return;
            }
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(attack.pause).await;
                if !attack.then.is_empty() && writing.write_all(attack.then.as_bytes()).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = sink => {}, () = sending => {}, () = told(&stop) => {} }
        held.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn told(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn attacks(gateway: &Gateway, idle: usize) -> Vec<Attack> {
    let (second, none) = (Duration::from_secs(1), Duration::ZERO);
    let post = gateway.head("/bench/ok", "Content-Length: 1000000\r\n");
    let chunked = gateway.head("/bench/ok", "Transfer-Encoding: chunked\r\n");
    let attack = |name, attackers, first: &str, then: &str, pause, reads| Attack {
        name,
        attackers,
        first: first.to_owned(),
        then: then.to_owned(),
        pause,
        reads,
    };
    vec![
        attack(
            "slow heads",
            2_000,
            "GET /bench/ok HTTP/1.1\r\nX-A: ",
            "x",
            second,
            true,
        ),
        attack("slow bodies", 1_000, &post, "x", second, true),
        attack(
            "deaf readers",
            200,
            &gateway.head("/bench/large", ""),
            "",
            second,
            false,
        ),
        attack(
            "deaf pipeliners",
            50,
            &gateway.head("/bench/ok", "").repeat(500),
            &gateway.head("/bench/ok", ""),
            none,
            false,
        ),
        attack(
            "head bombs",
            16,
            "GET /bench/ok HTTP/1.1\r\n",
            &"X-A: 1\r\n".repeat(100),
            none,
            true,
        ),
        attack(
            "body bombs",
            16,
            &chunked,
            &format!("4000\r\n{}\r\n", "x".repeat(16 << 10)),
            none,
            true,
        ),
        attack("small chunks", 16, &chunked, &"1\r\nx\r\n".repeat(500), none, true),
        attack("empty lines", 16, "\r\n", &"\r\n".repeat(500), none, true),
        attack("garbage", 16, "\0\0\0\0\r\n\r\n", "", none, true),
        attack(
            "idle connections",
            idle,
            &gateway.head("/bench/ok", ""),
            "",
            second,
            true,
        ),
    ]
}

/// Runs one attack for as long as the others ask; what they saw, connections held, and the largest memory.
async fn run(gateway: &Arc<Gateway>, attack: Attack, time: Duration) -> (Seen, u64, u64) {
    let (stop, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (attack, mut attackers) = (Arc::new(attack), JoinSet::new());
    for _ in 0..attack.attackers {
        attackers.spawn(attacker(
            Arc::clone(gateway),
            Arc::clone(&attack),
            Arc::clone(&stop),
            Arc::clone(&held),
        ));
    }
    // Until all that can be there are there.
    let (mut before, begun) = (u64::MAX, Instant::now());
    while held.load(Ordering::Relaxed) != before && begun.elapsed() < Duration::from_secs(30) {
        before = held.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let watch = {
        let (gateway, stop) = (Arc::clone(gateway), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut largest = 0;
            while !stop.load(Ordering::Relaxed) {
                largest = largest.max(gateway.memory_kib());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            largest
        })
    };
    let seen = others(gateway, OTHERS, time).await;
    let count = held.load(Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    let largest = watch.await.unwrap_or(0);
    attackers.join_all().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    (seen, count, largest)
}

/// Soft limit of descriptors of this process.
fn descriptors() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|l| l.starts_with("Max open files"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(3)
        .and_then(|n| n.parse().ok())
        .unwrap_or(1024)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, program, folder, rest @ ..] = args.as_slice() else {
        return Err("hostile GATEWAY FOLDER [SECONDS]".into());
    };
    let time = Duration::from_secs(rest.first().map_or(Ok(4), |s| s.parse())?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(upstream(listener));
    let gateway = Arc::new(Gateway::start(program, folder, addr).await?);
    let mut out = std::io::stdout();
    let idle = IDLE.min(descriptors().saturating_sub(SPARE));
    let attacks = attacks(&gateway, idle);
    others(&gateway, OTHERS, Duration::from_secs(1)).await;
    let calm = others(&gateway, OTHERS, time).await;
    let memory = gateway.memory_kib();
    writeln!(
        out,
        "calm: {} answered, p50 {:?}, p99 {:?}, {} KiB",
        calm.answered, calm.p50, calm.p99, memory
    )?;
    if idle < IDLE {
        writeln!(
            out,
            "(descriptors here allow {idle} idle connections of {IDLE} wanted: ulimit -n)"
        )?;
    }
    writeln!(
        out,
        "{:18} {:>6} {:>9} {:>9} {:>7} {:>7} {:>7}",
        "attack", "held", "KiB more", "answered", "failed", "p50 x", "p99 x"
    )?;
    for attack in attacks {
        let name = attack.name;
        let (seen, held, largest) = run(&gateway, attack, time).await;
        let times = |now: Duration, then: Duration| now.as_secs_f64() / then.as_secs_f64().max(1e-9);
        writeln!(
            out,
            "{name:18} {held:>6} {:>9} {:>9} {:>7} {:>7.2} {:>7.2}",
            largest.saturating_sub(memory),
            seen.answered,
            seen.failed,
            times(seen.p50, calm.p50),
            times(seen.p99, calm.p99)
        )?;
    }
    let five = others(&gateway, OTHERS * 8, time).await;
    let more = others(&gateway, OTHERS * 40, time).await;
    let goodput = f64::from(u32::try_from(more.answered)?) / f64::from(u32::try_from(five.answered.max(1))?);
    writeln!(
        out,
        "overload: {} connections answered {}, five times as many {}: goodput {goodput:.2}, failed {}",
        OTHERS * 8,
        five.answered,
        more.answered,
        more.failed
    )?;
    Ok(())
}
