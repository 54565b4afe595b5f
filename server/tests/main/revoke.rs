//! How long a revoked key goes on working.

use crate::support::{Connection, LIMIT, Program, Upstream, catalogue, say, until};
use domain::keys::NewKey;
use domain::settings::{Secret, Settings};
use domain::{Domain, Inner, Provider};
use model::ConsumerId;
use model::access::Environment;
use sqlx::postgres::PgListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::{Database, FixedClock, SeededRandom};

const REVOCATIONS: usize = 20;

/// The rules over the program's database, as another process of it would hold them.
fn beside(database: &Database) -> Domain {
    let payments = payments::Config {
        secret_key: Secret::new(""),
        base_url: None,
    };
    Domain::new(Inner {
        pool: database.pool().clone(),
        clock: FixedClock::start(),
        random: SeededRandom::new(7),
        payments: Arc::new(payments::Stripe::new(&payments).unwrap()),
        settings: Settings {
            peppers: vec![(1, Secret::new(crate::support::PEPPER))],
            ..testkit::settings()
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_soon() {
    let database = Database::new().await;
    let upstream = Upstream::start().await;
    let program = Program::new(Some(&database));
    program.publish(&catalogue(upstream.address())).await;
    let consumer: ConsumerId = program.consumer("revoke@example.com").await.parse().unwrap();
    let _serving = program.serve().await;
    let domain = beside(&database);
    let manager = Provider::console().key_manager(consumer);

    let mut took = Vec::new();
    for number in 0..REVOCATIONS {
        let new = NewKey {
            name: format!("key {number}"),
            environment: Environment::Live,
            expires_at: None,
            routes: None,
        };
        let made = domain::keys::create(&domain, &manager, new).await.unwrap();
        let key = made.plain.reveal();
        until("the new key's acceptance", || async {
            let answer = crate::support::call(program.gateway(), "/v1/data", Some(key))
                .await
                .ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        let mut connection = Connection::open(program.gateway()).await.unwrap();
        domain::keys::revoke(&domain, &manager, made.id).await.unwrap();
        let revoked = Instant::now();
        loop {
            let answer = connection.get("/v1/data", Some(key)).await.unwrap();
            if answer.status == 401 {
                assert!(answer.text().contains("/problems/key-revoked"), "{}", answer.text());
                break;
            }
            assert_eq!(answer.status, 200);
            assert!(revoked.elapsed() < LIMIT, "the revoked key goes on working");
        }
        took.push(revoked.elapsed());
    }
    took.sort();
    // Of twenty the 99th percentile is the longest.
    let (median, p99) = (took[REVOCATIONS / 2], took[REVOCATIONS - 1]);
    say(&format!(
        "revoked -> refused over {REVOCATIONS}: median {median:?}, p99 {p99:?}"
    ));
}

/// Keys of one consumer; ten times as many with `TURNPIKE_LONG_TESTS=1`.
const MANY: i64 = 10_000;
/// Of these, keys that are asked with.
const ASKED: usize = 20;
/// Memory that the news of them may take, in KiB.
const GROWN_MOST_KIB: u64 = 50 << 10;

/// The channel on which a test says that it counts.
const SO_FAR: &str = "so_far";

/// Resident memory of a process, in KiB.
fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Asks with each of these keys until it gets this problem (none: until it is let in), each for [`LIMIT`] at most; how long it
/// took in all.
async fn all_get(program: &Program, keys: &[String], problem: Option<&str>) -> Duration {
    let begun = Instant::now();
    for key in keys {
        until("the same answer for every key", || async {
            let answer = crate::support::call(program.gateway(), "/v1/data", Some(key))
                .await
                .ok()?;
            let got = match problem {
                None => answer.status == 200,
                Some(slug) => answer.text().contains(&format!("/problems/{slug}")),
            };
            got.then_some(())
        })
        .await;
    }
    begun.elapsed()
}

/// Notifications of news so far: those before one that is sent now.
async fn heard(database: &Database, listener: &mut PgListener) -> usize {
    sqlx::query("SELECT pg_notify($1, '')")
        .bind(SO_FAR)
        .execute(database.pool())
        .await
        .unwrap();
    let mut count = 0;
    while listener.recv().await.unwrap().channel() != SO_FAR {
        count += 1;
    }
    count
}

/// Gives a consumer many keys, and waits until the gateway knows them; some to ask with.
async fn put_keys(
    (program, database, domain): (&Program, &Database, &domain::Domain),
    consumer: ConsumerId,
    many: i64,
) -> Vec<String> {
    let manager = Provider::console().key_manager(consumer);
    let mut keys = Vec::new();
    for number in 0..ASKED {
        let new = NewKey {
            name: format!("key {number}"),
            environment: Environment::Live,
            expires_at: None,
            routes: None,
        };
        let made = domain::keys::create(domain, &manager, new).await.unwrap();
        keys.push(made.plain.reveal().to_owned());
    }
    sqlx::query(
        "INSERT INTO keys (id, consumer_id, environment, name, lookup, mac, pepper, shown_prefix, last4, created_at)
         SELECT 'key_' || lpad(n::text, 24, '0'), $1, 'live', 'k', n, sha256(n::text::bytea), 1, 'x', 'y', now()
         FROM generate_series(1, $2) n",
    )
    .bind(consumer)
    .bind(many)
    .execute(database.pool())
    .await
    .unwrap();
    until("all keys' arrival", || async {
        let metrics = crate::support::call(program.operations(), "/metrics", None)
            .await
            .ok()?
            .text();
        let known = metrics.lines().find_map(|l| l.strip_prefix("turnpike_gateway_keys "))?;
        (known.parse::<i64>().ok()? > many).then_some(())
    })
    .await;
    keys
}

/// F21: a consumer with very many keys is suspended, and then all its keys are revoked by one statement.
#[tokio::test(flavor = "multi_thread")]
async fn very_many_keys_are_refused_soon() {
    let long = std::env::var_os("TURNPIKE_LONG_TESTS").is_some();
    let many = if long { MANY * 10 } else { MANY };
    let database = Database::new().await;
    let upstream = Upstream::start().await;
    let program = Program::new(Some(&database)).with("TURNPIKE_ROLE", "gateway");
    program.publish(&catalogue(upstream.address())).await;
    let consumer: ConsumerId = program.consumer("many@example.com").await.parse().unwrap();
    let other = program.consumer("other@example.com").await;
    let other = program.key(&other).await;
    let serving = program.serve().await;
    let domain = beside(&database);
    let keys = put_keys((&program, &database, &domain), consumer, many).await;
    all_get(&program, &keys, None).await;
    let before_kib = memory_kib(serving.id());
    let mut listener = PgListener::connect_with(database.pool()).await.unwrap();
    listener.listen_all(["snapshot", SO_FAR]).await.unwrap();

    let provider = Provider::console();
    domain::consumers::suspend(&domain, &provider, consumer, "a test")
        .await
        .unwrap();
    let suspended = all_get(&program, &keys, Some("suspended")).await;
    domain::consumers::restore(&domain, &provider, consumer).await.unwrap();
    all_get(&program, &keys, None).await;
    let of_suspension = heard(&database, &mut listener).await;

    sqlx::query("UPDATE keys SET revoked_at = now() WHERE consumer_id = $1")
        .bind(consumer)
        .execute(database.pool())
        .await
        .unwrap();
    let revoked = all_get(&program, &keys, Some("key-revoked")).await;
    let of_revocation = heard(&database, &mut listener).await;
    let grown_kib = memory_kib(serving.id()).saturating_sub(before_kib);
    say(&format!(
        "{many} keys: suspended -> refused {suspended:?}, {of_suspension} notifications with the restoring; revoked -> refused \
         {revoked:?}, {of_revocation} notifications; {grown_kib} KiB more"
    ));
    // One for each transaction. No worker runs here that would add its own, the more the longer this takes.
    assert_eq!((of_suspension, of_revocation), (2, 1));
    assert!(grown_kib < GROWN_MOST_KIB, "{grown_kib} KiB");
    all_get(&program, &[other], None).await;
}
