//! Clients that ask at a rate, whatever the answers do.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What became of the requests of one kind.
#[derive(Default)]
pub(crate) struct Tally {
    /// Of those served, in milliseconds; sorted at the end.
    latencies_ms: Vec<f64>,
    pub(crate) shed: usize,
    /// Neither 200 nor 503.
    failed: usize,
    seconds: f64,
}

#[expect(clippy::cast_precision_loss, reason = "a bench's counts are far below 2^53")]
fn float(n: usize) -> f64 {
    n as f64
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.latencies_ms.extend(other.latencies_ms);
        self.shed += other.shed;
        self.failed += other.failed;
    }
    /// Requests made a second.
    pub(crate) fn offered(&self) -> f64 {
        float(self.latencies_ms.len() + self.shed + self.failed) / self.seconds
    }
    /// Requests served a second.
    pub(crate) fn served(&self) -> f64 {
        float(self.latencies_ms.len()) / self.seconds
    }
    /// A quantile of the latencies, in milliseconds.
    pub(crate) fn at(&self, quantile: f64) -> f64 {
        let n = self.latencies_ms.len();
        let place = (0..n).find(|i| float(i + 1) >= quantile * float(n));
        place.map_or(f64::NAN, |i| self.latencies_ms[i])
    }
    /// In a line.
    pub(crate) fn words(&self) -> String {
        format!(
            "{:.0}/s served, {} shed, {} failed, p50 {:.1} ms, p99 {:.1} ms",
            self.served(),
            self.shed,
            self.failed,
            self.at(0.5),
            self.at(0.99)
        )
    }
}

/// Asks `rate` times a second over so many connections; each goes on when its answer is there, and catches up.
pub(crate) async fn offer(addr: SocketAddr, key: String, connections: usize, rate: f64, length: Duration) -> Tally {
    let start = Instant::now() + Duration::from_millis(500);
    let every = Duration::from_secs_f64(float(connections) / rate);
    let tasks: Vec<_> = (0..connections)
        .map(|i| {
            let first = start + every.mul_f64(float(i) / float(connections));
            tokio::spawn(client(addr, key.clone(), first, every, start + length))
        })
        .collect();
    let mut all = Tally {
        seconds: length.as_secs_f64(),
        ..Tally::default()
    };
    for task in tasks {
        match task.await {
            Ok(Ok(tally)) => all.add(tally),
            _ => all.failed += 1,
        }
    }
    all.latencies_ms.sort_by(f64::total_cmp);
    all
}

async fn client(
    addr: SocketAddr,
    key: String,
    first: Instant,
    every: Duration,
    end: Instant,
) -> std::io::Result<Tally> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let request = format!("GET /bench HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n");
    let mut tally = Tally::default();
    let mut due = first;
    let mut buffer = Vec::new();
    loop {
        tokio::time::sleep_until(due).await;
        let begun = Instant::now();
        if begun >= end {
            return Ok(tally);
        }
        stream.write_all(request.as_bytes()).await?;
        buffer.clear();
        while !whole(&buffer) {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        match buffer.get(9..12) {
            Some(b"200") => tally.latencies_ms.push(begun.elapsed().as_secs_f64() * 1000.0),
            Some(b"503") => tally.shed += 1,
            _ => tally.failed += 1,
        }
        due += every;
    }
}

/// Whether an answer with a length is there whole.
fn whole(buffer: &[u8]) -> bool {
    let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_none_or(|l| buffer.len() >= end + 4 + l)
}
