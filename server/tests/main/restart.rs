//! A process takes over from another under load: no request fails, and each one answered is counted once.

use crate::support::{Connection, LIMIT, LOOK, Program, Serving, Upstream, call, catalogue, say, signal, until};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use sqlx::postgres::PgPool;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use testkit::Database;
use tokio_util::sync::CancellationToken;

/// How often a new process takes over.
const RESTARTS: usize = 6;
/// Clients that keep their connection as long as it lasts.
const KEEPING: usize = 8;
/// Clients with a connection for each request.
const FRESH: usize = 4;
/// Answers between two restarts.
const ANSWERS: u64 = 800;

#[derive(Default)]
struct Seen {
    answered: Mutex<Vec<String>>,
    failed: Mutex<Vec<String>>,
    answers: AtomicU64,
    closed_by_answer: AtomicU64,
}

impl Seen {
    async fn more(&self, count: u64) {
        let than = self.answers.load(Ordering::SeqCst) + count;
        until("more answers", || async {
            (self.answers.load(Ordering::SeqCst) >= than).then_some(())
        })
        .await;
    }
    fn fail(&self, why: String) {
        self.failed.lock().unwrap().push(why);
    }
}

/// Asks as fast as it is answered. Nothing is tried again: whatever goes wrong is a request that failed.
async fn client(gateway: SocketAddr, key: String, seen: Arc<Seen>, stop: CancellationToken, keeps: bool) {
    while !stop.is_cancelled() {
        let mut connection = match Connection::open(gateway).await {
            Ok(connection) => connection,
            Err(error) => return seen.fail(format!("no connection: {error:?}")),
        };
        loop {
            match connection.get("/v1/data", Some(&key)).await {
                Ok(answer) if answer.status.is_success() => {
                    seen.answered
                        .lock()
                        .unwrap()
                        .push(answer.header("x-request-id").to_owned());
                    seen.answers.fetch_add(1, Ordering::SeqCst);
                    if answer.header("connection") == "close" {
                        seen.closed_by_answer.fetch_add(1, Ordering::SeqCst);
                        break;
                    }
                }
                Ok(answer) => return seen.fail(format!("{answer:?}")),
                Err(error) => return seen.fail(format!("no answer: {error:?}")),
            }
            if !keeps || stop.is_cancelled() {
                break;
            }
        }
    }
}

/// The same for pages of the portal and the operators' checks.
async fn reader(address: SocketAddr, path: &'static str, seen: Arc<Seen>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match call(address, path, None).await {
            Ok(answer) if answer.status.is_success() => {}
            Ok(answer) => seen.fail(format!("{path}: {answer:?}")),
            Err(error) => seen.fail(format!("{path}: {error:?}")),
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_that_takes_over_fails_no_request_and_counts_each_once() {
    let database = Database::new().await;
    let upstream = Upstream::start().await;
    let program = Program::new(Some(&database));
    program.publish(&catalogue(upstream.address())).await;
    let consumer = program.consumer("restart@example.com").await;
    let key = program.key(&consumer).await;
    let mut serving = program.serve().await;
    let (seen, stop) = (Arc::new(Seen::default()), CancellationToken::new());
    let mut clients: Vec<_> = (0..KEEPING + FRESH)
        .map(|n| {
            tokio::spawn(client(
                program.gateway(),
                key.clone(),
                seen.clone(),
                stop.clone(),
                n < KEEPING,
            ))
        })
        .collect();
    for (address, path) in [(program.portal(), "/pricing"), (program.operations(), "/healthz")] {
        clients.push(tokio::spawn(reader(address, path, seen.clone(), stop.clone())));
    }
    for _ in 0..RESTARTS {
        seen.more(ANSWERS).await;
        let next = program.spawn_with(&["serve", "--take-over"]);
        let status = serving.ended().await;
        assert!(status.success(), "{status}:\n{}", next.log());
        serving = next;
        serving.assert_alive();
    }
    seen.more(ANSWERS).await;
    stop.cancel();
    for client in clients {
        client.await.unwrap();
    }
    let failed = seen.failed.lock().unwrap().clone();
    assert!(
        failed.is_empty(),
        "{} failed: {:?}\n{}",
        failed.len(),
        failed.first(),
        serving.log()
    );
    assert!(
        seen.closed_by_answer.load(Ordering::SeqCst) > 0,
        "connections were told to close"
    );
    serving.terminate();
    assert!(serving.ended().await.success());

    let answered: HashSet<String> = seen.answered.lock().unwrap().drain(..).collect();
    assert_eq!(
        answered.len() as u64,
        seen.answers.load(Ordering::SeqCst),
        "an id twice"
    );
    let rows: Vec<(String, i64)> = sqlx::query_as("SELECT request_id, units FROM requests")
        .fetch_all(database.pool())
        .await
        .unwrap();
    let counted: HashSet<String> = rows.iter().filter(|(_, n)| *n == 1).map(|(id, _)| id.clone()).collect();
    assert_eq!(rows.len(), counted.len(), "one unit and one row each");
    assert_eq!(counted, answered);
    let total = i64::try_from(answered.len()).unwrap();
    let periods = "SELECT coalesce(sum(units), 0)::bigint FROM usage_periods";
    assert_eq!(count(database.pool(), periods).await, total);
    say(&format!(
        "{RESTARTS} restarts: {total} answered and counted once, 0 failed, {} connections closed by an answer",
        seen.closed_by_answer.load(Ordering::SeqCst)
    ));
}

/// One that cannot start changes nothing for the one that runs; neither does a second one without the flag.
#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_fails_leaves_the_running_process_alone() {
    let database = Database::new().await;
    let upstream = Upstream::start().await;
    let program = Program::new(Some(&database));
    program.publish(&catalogue(upstream.address())).await;
    let consumer = program.consumer("failing@example.com").await;
    let key = program.key(&consumer).await;
    let mut serving = program.serve().await;
    let plain = program.spawn_with(&["serve"]);
    assert!(!plain.ended().await.success(), "the folder is in use");
    let nowhere = ["--gateway-tls-certificate", "/nowhere", "--gateway-tls-key", "/nowhere"];
    let broken = program.spawn_with(&[&["serve", "--take-over"][..], &nowhere].concat());
    assert!(!broken.ended().await.success(), "there is no such certificate");
    serving.assert_alive();
    for _ in 0..20 {
        assert_eq!(
            call(program.gateway(), "/v1/data", Some(&key)).await.unwrap().status,
            200
        );
    }
    let next = program.spawn_with(&["serve", "--take-over"]);
    assert!(serving.ended().await.success());
    assert_eq!(
        call(program.gateway(), "/v1/data", Some(&key)).await.unwrap().status,
        200
    );
    next.terminate();
    assert!(next.ended().await.success());
}

/// SIGUSR2 starts the successor; the private PostgreSQL runs on, and ends with the last process.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_enough_and_the_private_database_stays() {
    let program = Program::new(None);
    let serving = program.serve().await;
    let before = program.folder.postmaster().unwrap();
    signal(serving.id(), "-USR2");
    assert!(serving.ended().await.success());
    assert_eq!(call(program.operations(), "/readyz", None).await.unwrap().status, 200);
    assert_eq!(program.folder.postmaster(), Some(before));
    let next = program.only_process();
    signal(next, "-TERM");
    let folder = &program.folder;
    until("the end of the private database", || async move {
        folder.postmaster().is_none().then_some(())
    })
    .await;
}

/// Answers that do not come to their end.
struct Open(Vec<tokio::task::JoinHandle<(Option<Bytes>, Instant)>>);

impl Open {
    /// Begins so many.
    async fn begin(program: &Program, key: &str, count: usize) -> Self {
        let mut open = Vec::new();
        for _ in 0..count {
            let mut connection = Connection::open(program.gateway()).await.unwrap();
            let answer = connection.begin("/v1/gated", Some(key)).await.unwrap();
            open.push(tokio::spawn(async move {
                let whole = answer.into_body().collect().await.map(|b| b.to_bytes());
                drop(connection);
                (whole.ok(), Instant::now())
            }));
        }
        Self(open)
    }
}

/// Starts a process that takes over, and waits until the one before says with an answer that it ends; how many answers that
/// took.
async fn taken_over(program: &Program, key: &str, arguments: &[&str]) -> (Serving, usize) {
    let mut kept = Connection::open(program.gateway()).await.unwrap();
    let begun = Instant::now();
    let next = program.spawn_with(arguments);
    let mut asked = 0;
    loop {
        let answer = kept.get("/v1/data", Some(key)).await.unwrap();
        asked += 1;
        if answer.header("connection") == "close" {
            return (next, asked);
        }
        assert!(begun.elapsed() < LIMIT, "nobody takes over:\n{}", next.log());
        tokio::time::sleep(LOOK).await;
    }
}

/// F17: answers that still come when a process takes over have the drain time. Those that end within it are whole, and the
/// others are cut at its end, not before. One process has more time than anything here takes, the next one little.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn open_answers_have_the_drain_time_of_the_process_before() {
    const DRAIN_S: &str = "3";
    const DRAIN: Duration = Duration::from_secs(3);
    let long = std::env::var_os("TURNPIKE_LONG_TESTS").is_some();
    let count: usize = if long { 250 } else { 30 };
    let database = Database::new().await;
    let upstream = Upstream::start().await;
    let program = Program::new(Some(&database)).with("TURNPIKE_DRAIN_SECONDS", "120");
    program.publish(&catalogue(upstream.address())).await;
    let consumer = program.consumer("streams@example.com").await;
    let key = program.key(&consumer).await;
    let serving = program.serve().await;
    let in_time = Open::begin(&program, &key, count).await;
    let hurried = ["serve", "--take-over", "--drain-seconds", DRAIN_S];
    let (next, first_asked) = taken_over(&program, &key, &hurried).await;
    for _ in 0..count {
        upstream.open_gate();
    }
    for answer in in_time.0 {
        let whole = answer.await.unwrap().0;
        assert_eq!(whole.as_deref(), Some(&b"first last"[..]));
    }
    assert!(serving.ended().await.success());

    let cut = Open::begin(&program, &key, count).await;
    let begun = Instant::now();
    let (last, then_asked) = taken_over(&program, &key, &["serve", "--take-over"]).await;
    for answer in cut.0 {
        let (whole, at) = answer.await.unwrap();
        assert_eq!(whole, None);
        assert!(at >= begun + DRAIN, "cut {:?} before its time", begun + DRAIN - at);
    }
    assert!(next.ended().await.success());
    assert_eq!(
        call(program.gateway(), "/v1/data", Some(&key)).await.unwrap().status,
        200
    );
    last.terminate();
    assert!(last.ended().await.success());
    let rows: (i64, i64) = sqlx::query_as("SELECT count(*), sum(units)::bigint FROM requests")
        .fetch_one(database.pool())
        .await
        .unwrap();
    let total = i64::try_from(2 * count + first_asked + then_asked + 1).unwrap();
    assert_eq!(rows, (total, total), "one row and one unit each");
    say(&format!(
        "{} open answers: {count} ended in time, {count} were cut at the end of the drain time",
        2 * count
    ));
}
