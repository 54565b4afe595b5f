//! The script against the limits that one gateway keeps for itself, and what a connection does with a server's moods.

use super::redis_server::RedisServer;
use super::server::{Connection, Server};
use super::*;
use crate::rate::Gcra;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use std::sync::atomic::AtomicU64;
use tokio::task::JoinHandle;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection, and the task that drives it.
struct Connected(Connection, JoinHandle<()>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.1.abort();
    }
}

fn config(url: &str) -> RedisConfig {
    RedisConfig {
        url: url.parse().unwrap(),
        ca_file: None,
    }
}

async fn connect(url: &str) -> Connected {
    let server = Server::new(&config(url)).unwrap();
    let (connection, driver) = server.connect(PATIENCE).await.unwrap();
    Connected(connection, tokio::spawn(driver))
}

/// Limits of very different sizes: seconds and days, a request a day and a thousand million a second, a century of burst.
fn limit() -> impl Strategy<Value = Gcra> {
    let requests = prop_oneof![1u32..20, 1u32..5_000, Just(1_000_000_000), Just(u32::MAX)];
    let window = prop_oneof![Just(1u32), Just(60), Just(3_600), Just(86_400), 1u32..1_000_000];
    let burst = prop_oneof![1u32..10, 1u32..10_000, Just(u32::MAX)];
    (requests, window, burst).prop_map(|(requests, window, burst)| Gcra::new(requests, window, burst))
}

#[derive(Debug, Clone)]
struct Step {
    /// Since the step before; in a unit that fits the first limit.
    gap: (u64, u64),
    /// Which limits hold, as bits.
    holding: u32,
    /// Limits that are others from now on, under the same names.
    changed: Option<(usize, Gcra)>,
    /// The clock is put back by as much.
    back: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let gap = (0u64..4, 0u64..2_000_000_000);
    let changed = prop_oneof![9 => Just(None), 1 => (0usize..4, limit()).prop_map(Some)];
    let back = prop_oneof![19 => Just(false), 1 => Just(true)];
    (gap, 1u32..16, changed, back).prop_map(|(gap, holding, changed, back)| Step {
        gap,
        holding,
        changed,
        back,
    })
}

/// What the gateway's own limits say: whether all pass, what each says, and where they stand then.
fn own(limits: &[(Gcra, AtomicU64)], holding: &[usize], now_ns: u64) -> (bool, Vec<crate::rate::Rate>) {
    let rates: Vec<_> = holding
        .iter()
        .map(|i| limits[*i].0.peek(&limits[*i].1, now_ns))
        .collect();
    let pass = rates.iter().all(|rate| rate.allowed);
    if pass {
        for i in holding {
            assert!(limits[*i].0.take(&limits[*i].1, now_ns).allowed);
        }
    }
    (pass, rates)
}

async fn agrees(connection: &Connection, case: u64, first: Vec<Gcra>, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut limits: Vec<(Gcra, AtomicU64)> = first.into_iter().map(|l| (l, AtomicU64::new(0))).collect();
    let mut now_ns = 1_700_000_000_000_000_000u64;
    for (number, step) in steps.into_iter().enumerate() {
        if let Some((i, limit)) = step.changed
            && let Some(known) = limits.get_mut(i)
        {
            known.0 = limit;
        }
        let gap = limits[0].0.every_ns().saturating_mul(step.gap.0) / 2 + step.gap.1 % limits[0].0.every_ns().max(2);
        now_ns = match step.back {
            true => now_ns.saturating_sub(gap).max(1),
            false => now_ns.saturating_add(gap).min(u64::MAX / 4),
        };
        let holding: Vec<usize> = (0..limits.len()).filter(|i| step.holding & (1 << i) != 0).collect();
        if holding.is_empty() {
            continue;
        }
        let names: Vec<String> = holding.iter().map(|i| format!("case-{case}-{i}")).collect();
        let lines: Vec<_> = names
            .iter()
            .map(String::as_str)
            .zip(holding.iter().map(|i| limits[*i].0))
            .collect();
        let leads = connection.ask(lines.into_iter(), Some(now_ns)).await;
        let leads = leads.map_err(|e| TestCaseError::fail(format!("step {number}: {e}")))?;
        let told: Vec<_> = holding
            .iter()
            .zip(&leads)
            .map(|(i, lead)| limits[*i].0.told(*lead))
            .collect();
        let (pass, rates) = own(&limits, &holding, now_ns);
        prop_assert_eq!(told.iter().all(|rate| rate.allowed), pass, "step {}", number);
        prop_assert_eq!(told, rates, "step {}", number);
    }
    Ok(())
}

/// The same times and limits, the same verdicts, places left and waits, to the nanosecond; also when limits change under
/// their names and when the clock is put back.
#[test]
fn the_script_agrees_with_the_gateways_own_limits() {
    let server = RedisServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let connected = runtime.block_on(connect(&server.url()));
    let case = AtomicU64::new(0);
    let sequences = (
        proptest::collection::vec(limit(), 1..5),
        proptest::collection::vec(step(), 1..80),
    );
    let mut runner = TestRunner::new(ProptestConfig::with_cases(128));
    let ran = runner.run(&sequences, |(limits, steps)| {
        let case = case.fetch_add(1, Ordering::Relaxed);
        runtime.block_on(agrees(&connected.0, case, limits, steps))
    });
    ran.unwrap();
}

fn lines(names: &[&'static str], limit: Gcra) -> impl ExactSizeIterator<Item = (&'static str, Gcra)> + Clone {
    names
        .iter()
        .map(move |name| (*name, limit))
        .collect::<Vec<_>>()
        .into_iter()
}

#[tokio::test]
async fn many_at_once_get_the_burst_and_no_more() {
    let server = RedisServer::start();
    let (one, other) = (connect(&server.url()).await, connect(&server.url()).await);
    let day = Gcra::new(50, 86_400, 50);
    let asked = (0..200).map(|n| {
        let connection = if n % 2 == 0 { &one.0 } else { &other.0 };
        connection.ask(lines(&["x"], day), None)
    });
    let passed = futures(asked)
        .await
        .into_iter()
        .filter(|leads| day.told(leads[0]).allowed)
        .count();
    assert_eq!(passed, 50);
}

/// All of them at once, in order.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = Result<T, server::Unanswered>>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in all.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(answer) = future.as_mut().poll(cx) {
                *done = Some(answer.unwrap());
            }
        }
        match done.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_script_that_was_forgotten_is_sent_again() {
    let server = RedisServer::start();
    let connected = connect(&server.url()).await;
    let day = Gcra::new(2, 86_400, 2);
    assert_eq!(connected.0.ask(lines(&["x"], day), None).await.unwrap(), [0]);
    raw(&server, "SCRIPT FLUSH").await;
    let leads = connected.0.ask(lines(&["x"], day), None).await.unwrap();
    assert!(
        leads[0] > 0 && day.told(leads[0]).allowed,
        "what was counted is there: {leads:?}"
    );
}

/// Sends a command in its inline form; what is answered.
async fn raw(server: &RedisServer, command: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    stream
        .write_all(format!("{command}\r\nQUIT\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn what_says_nothing_any_more_goes_by_itself() {
    let server = RedisServer::start();
    let connected = connect(&server.url()).await;
    let limits = [("short", Gcra::new(1_000, 1, 1)), ("day", Gcra::new(1, 86_400, 1))];
    connected.0.ask(limits.into_iter(), None).await.unwrap();
    let left = |name: &str, told: &str| -> i64 {
        let ms: i64 = told.lines().next().unwrap().strip_prefix(':').unwrap().parse().unwrap();
        assert!(ms > 0, "{name} goes by itself: {told}");
        ms
    };
    assert!(left("short", &raw(&server, "PTTL short").await) <= 1_001);
    let day = left("day", &raw(&server, "PTTL day").await);
    assert!((86_400_000 - 60_000..=86_401_000).contains(&day), "{day}");
}

#[tokio::test]
async fn what_keeps_limits_from_being_shared_is_said() {
    let closed = RedisServer::with(&["--requirepass", "s3cret"]);
    let addr = closed.addr();
    for (url, wanted) in [
        (format!("redis://:wrong-s3cret@{addr}"), "lets nobody in so"),
        (format!("redis://nobody:s3cret@{addr}"), "lets nobody in so"),
        (format!("redis://{addr}"), "NOAUTH"),
        (format!("redis://:s3cret@{addr}/99"), "lets nobody in so"),
        ("redis://127.0.0.1:1".to_owned(), "cannot be reached"),
        ("redis://nowhere.invalid".to_owned(), "cannot be reached"),
        (format!("rediss://:s3cret@{addr}"), "does not answer within"),
    ] {
        let error = config(&url).check().await.unwrap_err();
        assert!(error.contains(wanted) && !error.contains("s3cret"), "{url}: {error}");
    }
    let config = config(&format!("redis://:s3cret@{addr}"));
    Server::new(&config).unwrap().connect(PATIENCE).await.map(drop).unwrap();
    raw(&closed, "AUTH s3cret\r\nREPLICAOF 127.0.0.1 1").await;
    let error = Server::new(&config)
        .unwrap()
        .connect(PATIENCE)
        .await
        .map(drop)
        .unwrap_err();
    assert!(
        error.contains("cannot be asked") && error.contains("read only replica"),
        "{error}"
    );
}

/// A certificate is checked, against the authority that is named.
#[tokio::test]
async fn with_tls_the_certificate_is_checked() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let folder = std::env::temp_dir().join(format!("turnpike-redis-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (certificate_file, key_file) = (folder.join("certificate.pem"), folder.join("key.pem"));
    std::fs::write(&certificate_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let [certificate, key] = [&certificate_file, &key_file].map(|file| file.to_str().unwrap());
    let server = RedisServer::with(&[
        "--tls-port",
        "PORT",
        "--tls-cert-file",
        certificate,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        certificate,
        "--tls-auth-clients",
        "no",
    ]);
    let url = server.url().replace("redis:", "rediss:");
    let error = config(&url).check().await.unwrap_err();
    assert!(error.contains("certificate"), "{error}");
    let trusted = RedisConfig {
        ca_file: Some(certificate_file.clone()),
        ..config(&url)
    };
    Server::new(&trusted)
        .unwrap()
        .connect(PATIENCE)
        .await
        .map(drop)
        .unwrap();
    let wrong = RedisConfig {
        ca_file: Some(key_file),
        ..config(&url)
    };
    assert!(wrong.check().await.unwrap_err().contains("no certificate in PEM"));
    std::fs::remove_dir_all(&folder).unwrap();
}
