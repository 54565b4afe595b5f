//! SIGKILL under load: what clients were answered is what is counted, each request once.

use crate::support::{Connection, LOOK, Program, Upstream, call, catalogue, say, until};
use sqlx::postgres::PgPool;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::{Database, SeededRandom};
use tokio_util::sync::CancellationToken;

/// Another one comes from `TURNPIKE_SEED`.
const SEED: u64 = 20_261_121;
/// How often the program is killed.
const KILLS: u32 = 20;
/// Clients, each with a connection it keeps.
const CLIENTS: usize = 12;
/// A kill comes after at most so many answers since the start.
const ANSWERS: u64 = 600;
/// One kill in so many does not wait for any answer: it comes while the program starts.
const EARLY: u64 = 4;
/// Longest wait of such a kill, in milliseconds.
const EARLY_MS: u64 = 400;
/// Answers after the last start.
const LAST_ANSWERS: u64 = 300;

/// What the clients saw.
#[derive(Default)]
struct Seen {
    answered: Mutex<Vec<String>>,
    refused: Mutex<Vec<String>>,
    answers: AtomicU64,
    /// Requests sent whose answer did not come, or not whole.
    unanswered: AtomicU64,
}

impl Seen {
    fn answers(&self) -> u64 {
        self.answers.load(Ordering::SeqCst)
    }
    async fn more(&self, than: u64) {
        until("more answers", || async { (self.answers() >= than).then_some(()) }).await;
    }
}

async fn client(gateway: SocketAddr, key: String, seen: Arc<Seen>, stop: CancellationToken, number: usize) {
    let path = ["/v1/data", "/v1/chunked"][number % 2];
    while !stop.is_cancelled() {
        let Ok(mut connection) = Connection::open(gateway).await else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        while !stop.is_cancelled() {
            match connection.get(path, Some(&key)).await {
                Ok(answer) => {
                    let id = answer.header("x-request-id").to_owned();
                    assert!(!id.is_empty(), "{answer:?}");
                    if answer.status.is_success() {
                        assert!(
                            answer.text().ends_with(&id),
                            "the answer to another request: {answer:?}"
                        );
                        seen.answered.lock().unwrap().push(id);
                        seen.answers.fetch_add(1, Ordering::SeqCst);
                    } else {
                        seen.refused.lock().unwrap().push(id);
                    }
                }
                Err(_) => {
                    seen.unanswered.fetch_add(1, Ordering::SeqCst);
                    break;
                }
            }
        }
    }
}

async fn unshipped(operations: SocketAddr) -> Option<u64> {
    let text = call(operations, "/metrics", None).await.ok()?.text();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("turnpike_gateway_ledger_unshipped_records "))?;
    line.trim().parse().ok()
}

/// Units by request id; each id once.
async fn billed(pool: &PgPool) -> HashMap<String, i64> {
    let rows: Vec<(String, i64)> = sqlx::query_as("SELECT request_id, units FROM requests")
        .fetch_all(pool)
        .await
        .unwrap();
    let mut units = HashMap::new();
    for (id, n) in rows {
        assert!(units.insert(id.clone(), n).is_none(), "{id} is in the table twice");
    }
    units
}

async fn sum(pool: &PgPool, table: &str, consumer: &str) -> i64 {
    let sql = format!("SELECT coalesce(sum(units), 0)::bigint FROM {table} WHERE consumer_id = $1");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(consumer)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_under_load_nothing_is_lost_or_counted_twice() {
    let random = SeededRandom::new(SEED);
    let given = std::env::var("TURNPIKE_SEED").unwrap_or_else(|_| SEED.to_string());
    say(&format!("the moments of the kills are those of TURNPIKE_SEED={given}"));
    let database = Database::new().await;
    let upstream = Upstream::start().await;
    let program = Program::new(Some(&database));
    program.publish(&catalogue(upstream.address())).await;
    let consumer = program.consumer("crash@example.com").await;
    let key = program.key(&consumer).await;

    let mut serving = program.serve().await;
    let (seen, stop) = (Arc::new(Seen::default()), CancellationToken::new());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| tokio::spawn(client(program.gateway(), key.clone(), seen.clone(), stop.clone(), n)))
        .collect();
    for round in 0..KILLS {
        if random.below(EARLY) == 0 && round > 0 {
            tokio::time::sleep(Duration::from_millis(random.below(EARLY_MS))).await;
        } else {
            seen.more(seen.answers() + 1 + random.below(ANSWERS)).await;
            tokio::time::sleep(Duration::from_micros(random.below(5_000))).await;
        }
        serving.assert_alive();
        serving.kill();
        serving = program.spawn();
    }
    seen.more(seen.answers() + LAST_ANSWERS).await;
    stop.cancel();
    for client in clients {
        client.await.unwrap();
    }
    let operations = program.operations();
    until("an empty ledger", || async move {
        unshipped(operations).await.filter(|n| *n == 0)
    })
    .await;
    serving.terminate();
    assert!(serving.ended().await.success());

    compare(database.pool(), &seen, &upstream.seen(), &consumer).await;
}

/// What clients saw, what the upstream saw, and what is counted.
async fn compare(pool: &PgPool, seen: &Seen, upstream: &HashMap<String, u32>, consumer: &str) {
    let billed = billed(pool).await;
    let answered: HashSet<String> = seen.answered.lock().unwrap().iter().cloned().collect();
    assert_eq!(
        answered.len(),
        seen.answered.lock().unwrap().len(),
        "two answers with one id"
    );
    for id in &answered {
        assert_eq!(billed.get(id), Some(&1), "{id} was answered");
    }
    for id in seen.refused.lock().unwrap().iter() {
        assert!(
            billed.get(id).is_none_or(|units| *units == 0),
            "{id} was refused and is billed"
        );
    }
    let counted: Vec<&String> = billed
        .iter()
        .filter(|(_, units)| **units > 0)
        .map(|(id, _)| id)
        .collect();
    for id in &counted {
        assert_eq!(upstream.get(*id), Some(&1), "{id} is billed");
    }
    let in_flight = u64::try_from(counted.len() - answered.len()).unwrap();
    let unanswered = seen.unanswered.load(Ordering::SeqCst);
    assert!(
        in_flight <= unanswered,
        "{in_flight} billed without an answer, {unanswered} were in flight"
    );
    let total: i64 = billed.values().sum();
    assert_eq!(total, i64::try_from(counted.len()).unwrap(), "one unit each");
    assert_eq!(sum(pool, "usage_periods", consumer).await, total);
    assert_eq!(sum(pool, "usage_hours", consumer).await, total);
    say(&format!(
        "{KILLS} kills: {} answered and counted, 0 lost, 0 twice; {unanswered} in flight, of which {in_flight} had \
         reached their end and count",
        answered.len()
    ));
}
