//! The private PostgreSQL: commands beside a running `serve`, a stop in order, and a crash of the database.

use crate::support::{Connection, Program, Serving, Upstream, call, catalogue, until};
use domain::cluster::{Cluster, Durability};
use http_body_util::BodyExt as _;
use model::access::Environment;
use model::key::PlainKey;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use testkit::{Database, SeededRandom};

/// Requests made while the database is away.
const CALLS_AWAY: u64 = 50;

/// Units of the consumer's only meter, as `turnpike usage` tells them.
async fn units(program: &Program, consumer: &str) -> Option<u64> {
    let output = program.run(&["--json", "usage", "--consumer", consumer]).await;
    assert!(output.status.success(), "{output:?}");
    output.json()["meters"][0]["units"].as_u64()
}

async fn accepted(program: &Program, key: &str) {
    until("the key's acceptance", || async {
        call(program.gateway(), "/v1/data", Some(key))
            .await
            .ok()
            .filter(|a| a.status == 200)
            .map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_beside_serve_and_sigterm_finishes_what_is_open() {
    let upstream = Upstream::start().await;
    let program = Program::new(None);
    let serving = program.serve().await;
    let postmaster = program.folder.postmaster().expect("a private PostgreSQL runs");
    program.publish(&catalogue(upstream.address())).await;
    let consumer = program.consumer("beside@example.com").await;
    let key = program.key(&consumer).await;
    assert_eq!(
        program.folder.postmaster(),
        Some(postmaster),
        "a command leaves serve's database running"
    );
    accepted(&program, &key).await;

    let mut connection = Connection::open(program.gateway()).await.unwrap();
    let mut answer = connection.begin("/v1/gated", Some(&key)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    let first = answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first.as_ref(), b"first ");

    serving.terminate();
    let (operations, gateway) = (program.operations(), program.gateway());
    until("readiness' end", || async move {
        call(operations, "/readyz", None)
            .await
            .map_or(Some(()), |a| (a.status != 200).then_some(()))
    })
    .await;
    until("a closed door", || async move {
        Connection::open(gateway).await.err().map(drop)
    })
    .await;
    assert_eq!(upstream.seen().get(&id), Some(&1));
    upstream.open_gate();
    let rest = answer
        .into_body()
        .collect()
        .await
        .expect("the open answer comes to its end")
        .to_bytes();
    assert_eq!(rest.as_ref(), b"last");
    let log = serving.log();
    let status = serving.ended().await;
    assert!(status.success(), "{status}:\n{log}");
    assert_eq!(
        program.folder.postmaster(),
        None,
        "the private PostgreSQL is stopped with serve"
    );

    // Alone, a command brings the database up and takes it down again.
    let counted = units(&program, &consumer).await;
    assert_eq!(counted, u64::try_from(upstream.seen().len()).ok());
    assert_eq!(program.folder.postmaster(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn known_keys_work_while_the_database_is_away_and_usage_arrives_later() {
    let upstream = Upstream::start().await;
    let program = Program::new(None);
    let serving = program.serve().await;
    program.publish(&catalogue(upstream.address())).await;
    let consumer = program.consumer("away@example.com").await;
    let key = program.key(&consumer).await;
    accepted(&program, &key).await;
    let random = SeededRandom::new(11);
    let unknown = PlainKey::generate("tp", Environment::Live, &*random);
    let refused = call(program.gateway(), "/v1/data", Some(unknown.reveal()))
        .await
        .unwrap();
    assert_eq!(refused.status, 401, "{}", refused.text());

    program.folder.crash_postgres();
    until("the gateway's notice", || async {
        let answer = call(program.gateway(), "/v1/data", Some(unknown.reveal()))
            .await
            .unwrap();
        (answer.status == 503).then_some(())
    })
    .await;
    let mut connection = Connection::open(program.gateway()).await.unwrap();
    for _ in 0..CALLS_AWAY {
        let answer = connection.get("/v1/data", Some(&key)).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = connection.get("/v1/data", Some(unknown.reveal())).await.unwrap();
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(
            answer.text().contains("/problems/keys-unavailable"),
            "{}",
            answer.text()
        );
        assert!(!answer.header("retry-after").is_empty());
    }
    let health = call(program.operations(), "/healthz", None).await.unwrap();
    assert_eq!(health.status, 200, "the process lives without its database");
    let page = call(program.portal(), "/login", None).await.unwrap();
    assert!(page.status == 200 || page.status.is_server_error(), "{}", page.status);

    let cluster = Cluster::start(&program.folder.path().join("postgres"), Durability::Full)
        .await
        .unwrap();
    let all = u64::try_from(upstream.seen().len()).unwrap();
    assert!(all > CALLS_AWAY);
    until("the usage's arrival", || async {
        units(&program, &consumer).await.filter(|n| *n == all)
    })
    .await;
    until("the unknown key's 401", || async {
        let answer = call(program.gateway(), "/v1/data", Some(unknown.reveal()))
            .await
            .unwrap();
        (answer.status == 401).then_some(())
    })
    .await;
    let newer = program.key(&consumer).await;
    accepted(&program, &newer).await;
    serving.terminate();
    let log = serving.log();
    assert!(serving.ended().await.success(), "{log}");
    assert_eq!(program.folder.postmaster(), None);
    drop(cluster);
}

/// A database that takes connections and says nothing, and whether somebody has given up waiting for it.
struct Silent {
    address: std::net::SocketAddr,
    given_up: Arc<AtomicBool>,
    listening: tokio::task::JoinHandle<()>,
}

impl Silent {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let given_up = Arc::new(AtomicBool::new(false));
        let flag = given_up.clone();
        let listening = tokio::spawn(async move {
            loop {
                let mut connection = crate::support::accepted(&listener).await;
                let flag = flag.clone();
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut connection, &mut tokio::io::sink()).await;
                    flag.store(true, Ordering::SeqCst);
                });
            }
        });
        Self {
            address,
            given_up,
            listening,
        }
    }
}

/// Starts over a silent database, and waits until the key is let in, which it must be before that database is given up. A
/// machine that stands still for as long says nothing of that; then it is started again.
async fn before_given_up(mut program: Program, key: &str) -> (Program, Serving, Silent) {
    const TRIES: usize = 3;
    for _ in 0..TRIES {
        let silent = Silent::start().await;
        let url = format!("postgres://turnpike@{}/turnpike", silent.address);
        program = program.with("DATABASE_URL", &url);
        program.folder.write("serve.log", "");
        let serving = program.spawn();
        accepted(&program, key).await;
        if !silent.given_up.load(Ordering::SeqCst) {
            return (program, serving, silent);
        }
        serving.kill();
    }
    panic!("{TRIES} times the gateway waited for the database");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_comes_up_from_its_own_copy_before_the_database_is_given_up() {
    let upstream = Upstream::start().await;
    let database = Database::new().await;
    let program = Program::new(Some(&database));
    let serving = program.serve().await;
    program.publish(&catalogue(upstream.address())).await;
    let consumer = program.consumer("away@example.com").await;
    let key = program.key(&consumer).await;
    accepted(&program, &key).await;
    serving.terminate();
    assert!(serving.ended().await.success());

    let (program, mut serving, silent) = before_given_up(program, &key).await;
    // Now nobody listens there at all.
    silent.listening.abort();
    let gave_up = "the database is not ready";
    until("the first try's end", || {
        serving.assert_alive();
        let said = serving.log().contains(gave_up);
        async move { said.then_some(()) }
    })
    .await;
    accepted(&program, &key).await;
    serving.terminate();
    let log = serving.log();
    assert!(serving.ended().await.success(), "{log}");
}
