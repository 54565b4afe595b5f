//! What a paid plan feels of an overload, and what the overload leaves of the upstream's capacity.
//!
//! `bench_overload FOLDER [SECONDS]` starts an upstream that serves a fixed number of requests at once, each in a fixed
//! time, and a gateway before it that knows that number. Then, in one run:
//!
//! 1. the capacity: the lower plan alone, just saturating;
//! 2. the higher plan alone, at a fifth of the capacity;
//! 3. the same with the lower plan asking for five times the capacity beside it;
//! 4. the higher plan alone again, right after it;
//! 5. the third again without the bound: what the upstream's own queue does to both.
//!
//! Printed are latencies of the higher plan, what was served, and the ratios between them. It fails when the bound does not
//! keep the upstream busy, or lets the higher plan lose by the load, or be slow when the load is over.

mod load;
mod plane;

use gateway::{Config, Gateway, Peppers, Running};
use load::{Tally, offer};
use plane::{Machine, Plane, Seeded};
use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Requests the upstream serves at once.
const AT_ONCE: u32 = 16;
/// How long it takes for each.
const SERVICE: Duration = Duration::from_millis(20);
/// Connections of the lower plan: more than can wait, so that it asks on while others wait.
const LOWER_CONNECTIONS: usize = 2_400;
const HIGHER_CONNECTIONS: usize = 64;
/// Least part of the capacity that is served in an overload.
const GOODPUT_LEAST: f64 = 0.9;
/// Most that the higher plan's p99 may grow by an overload, and once it is over, in relation to quiet.
const SLOWER_MOST: f64 = 3.0;

async fn upstream() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let places = Arc::new(Semaphore::new(usize::try_from(AT_ONCE).unwrap_or(1)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&places)));
        }
    });
    Ok(addr)
}

async fn serve(mut stream: TcpStream, places: Arc<Semaphore>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        while !buffer.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        buffer.clear();
        if let Ok(_place) = places.acquire().await {
            tokio::time::sleep(SERVICE).await;
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await?;
    }
}

fn start(upstream: SocketAddr, folder: &str, bound: Option<u32>) -> Result<(Running, Arc<Plane>), Box<dyn Error>> {
    let plane = Arc::new(Plane::new(upstream, bound));
    let mut config = Config::new(
        SocketAddr::from(([127, 0, 0, 1], 0)),
        format!("{folder}/{bound:?}").into(),
    );
    config.threads = 1;
    let running = Gateway::start(
        config,
        Arc::clone(&plane) as Arc<dyn gateway::SnapshotSource>,
        Arc::clone(&plane) as Arc<dyn gateway::UsageSink>,
        Arc::new(Machine),
        Arc::new(Seeded::new(3)),
        Peppers::new([(1, b"bench")]),
    )?;
    Ok((running, plane))
}

async fn ready(running: &Running) {
    while running.snapshot_version() < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

struct Overload {
    higher: Tally,
    lower: Tally,
}

impl Overload {
    /// Whether the upstream was kept busy, and the higher plan noticed little.
    fn keeps(&self, capacity: f64, alone: &Tally) -> bool {
        let goodput = self.lower.served() + self.higher.served();
        let slower = self.higher.at(0.99) / alone.at(0.99);
        goodput >= GOODPUT_LEAST * capacity && self.higher.shed == 0 && slower <= SLOWER_MOST
    }
}

async fn overload(addr: SocketAddr, plane: &Plane, capacity: f64, length: Duration) -> Overload {
    let lower = tokio::spawn(offer(
        addr,
        plane.lower.clone(),
        LOWER_CONNECTIONS,
        capacity * 5.0,
        length,
    ));
    let higher = tokio::spawn(offer(
        addr,
        plane.higher.clone(),
        HIGHER_CONNECTIONS,
        capacity / 5.0,
        length,
    ));
    Overload {
        lower: lower.await.unwrap_or_default(),
        higher: higher.await.unwrap_or_default(),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let folder = args.get(1).ok_or("bench_overload FOLDER [SECONDS]")?.clone();
    let length = Duration::from_secs(args.get(2).map_or(Ok(5), |s| s.parse())?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(&folder, length))
}

async fn run(folder: &str, length: Duration) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let upstream = upstream().await?;
    let (running, plane) = start(upstream, folder, Some(AT_ONCE))?;
    ready(&running).await;
    let addr = running.local_addr();
    // Three times the places: enough waits that none is ever free, and nothing is shed.
    let connections = usize::try_from(AT_ONCE * 3)?;
    offer(
        addr,
        plane.lower.clone(),
        connections,
        f64::INFINITY,
        Duration::from_secs(1),
    )
    .await;
    let saturated = offer(addr, plane.lower.clone(), connections, f64::INFINITY, length).await;
    let capacity = saturated.served();
    writeln!(out, "capacity: {capacity:.0}/s, {} shed", saturated.shed)?;
    let alone = offer(addr, plane.higher.clone(), HIGHER_CONNECTIONS, capacity / 5.0, length).await;
    writeln!(out, "higher plan alone: {}", alone.words())?;
    let bounded = overload(addr, &plane, capacity, length).await;
    let after = offer(addr, plane.higher.clone(), HIGHER_CONNECTIONS, capacity / 5.0, length).await;
    writeln!(out, "higher plan right after the overload: {}", after.words())?;
    let kept = bounded.keeps(capacity, &alone) && after.at(0.99) <= alone.at(0.99) * SLOWER_MOST;
    running.shutdown(Duration::from_secs(5)).await;
    let (running, plane) = start(upstream, folder, None)?;
    ready(&running).await;
    let free = overload(running.local_addr(), &plane, capacity, length).await;
    running.shutdown(Duration::from_secs(5)).await;
    for (name, run) in [("with the bound", &bounded), ("without", &free)] {
        let offered = run.lower.offered() + run.higher.offered();
        let goodput = run.lower.served() + run.higher.served();
        writeln!(
            out,
            "{name}: {offered:.0}/s offered ({:.1} x capacity)",
            offered / capacity
        )?;
        writeln!(out, "  higher plan: {}", run.higher.words())?;
        writeln!(out, "  lower plan: {}", run.lower.words())?;
        writeln!(
            out,
            "  higher plan's p50 {:.2}, p99 {:.2} of that alone; goodput {:.2} of capacity",
            run.higher.at(0.5) / alone.at(0.5),
            run.higher.at(0.99) / alone.at(0.99),
            goodput / capacity
        )?;
    }
    kept.then_some(())
        .ok_or_else(|| "the bound does not keep what it promises".into())
}
