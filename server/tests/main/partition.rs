//! The way to the database goes silent: nothing is refused or reset, nothing comes any more.

use crate::support::{Connection, Program, Upstream, accepted, call, catalogue, until};
use model::access::Environment;
use model::key::PlainKey;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use testkit::{Database, SeededRandom};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Requests made in each phase.
const CALLS: usize = 50;

/// A wire to the test's PostgreSQL that can swallow what goes over it.
#[derive(Clone, Default)]
struct Wire {
    /// Connections made so far.
    made: Arc<AtomicU64>,
    /// Connections up to this one carry nothing.
    silent_through: Arc<AtomicU64>,
    /// New connections carry nothing either.
    silent: Arc<AtomicBool>,
}

impl Wire {
    async fn lay(database: &Database) -> (Self, String) {
        let options = database.options();
        let folder = options.get_socket().expect("tests use a socket").clone();
        let socket = folder.join(format!(".s.PGSQL.{}", options.get_port()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let wire = Self::default();
        tokio::spawn(wire.clone().carry(listener, socket));
        let (user, name) = (options.get_username(), options.get_database().unwrap());
        (wire, format!("postgres://{user}@{addr}/{name}?sslmode=disable"))
    }

    async fn carry(self, listener: TcpListener, socket: PathBuf) {
        loop {
            let client = accepted(&listener).await;
            let number = self.made.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::spawn(self.clone().connection(number, client, socket.clone()));
        }
    }

    async fn connection(self, number: u64, client: TcpStream, socket: PathBuf) {
        let Ok(server) = UnixStream::connect(socket).await else {
            return;
        };
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        tokio::join!(
            self.one_way(number, client_read, server_write),
            self.one_way(number, server_read, client_write)
        );
    }

    async fn one_way(&self, number: u64, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut chunk = vec![0u8; 16 << 10];
        while let Ok(n @ 1..) = from.read(&mut chunk).await {
            if self.silent.load(Ordering::SeqCst) || number <= self.silent_through.load(Ordering::SeqCst) {
                // Held open, and nothing more comes of it.
                std::future::pending::<()>().await;
            }
            if to.write_all(&chunk[..n]).await.is_err() {
                return;
            }
        }
    }

    /// Every connection there is goes silent; new ones work.
    fn swallow(&self) {
        self.silent_through
            .store(self.made.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

async fn let_in(gateway: SocketAddr, key: &str) {
    until("the key's acceptance", || async move {
        let answer = call(gateway, "/v1/data", Some(key)).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// F04, F05, F14: connections to the database, the one that listens among them, are swallowed without a reset. Known
/// keys go on without one error; what changes meanwhile arrives, by new connections; usage is counted once.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_wire_to_the_database_is_found_out() {
    let (database, upstream) = (Database::new().await, Upstream::start().await);
    let (wire, url) = Wire::lay(&database).await;
    // Commands go the straight way.
    let beside = Program::new(Some(&database));
    let program = Program::new(Some(&database)).with("DATABASE_URL", &url);
    beside.publish(&catalogue(upstream.address())).await;
    let consumer = beside.consumer("wire@example.com").await;
    let key = beside.key(&consumer).await;
    let serving = program.serve().await;
    let_in(program.gateway(), &key).await;

    let gateway = program.gateway();
    // A connection each time: between two phases the gateway may have closed an idle one.
    let ask_often = async || {
        let mut connection = Connection::open(gateway).await.unwrap();
        for _ in 0..CALLS {
            assert_eq!(connection.get("/v1/data", Some(&key)).await.unwrap().status, 200);
        }
    };
    // Old connections silent, new ones good.
    wire.swallow();
    ask_often().await;
    let newer = beside.key(&consumer).await;
    let_in(program.gateway(), &newer).await;

    // All silent.
    wire.silent.store(true, Ordering::SeqCst);
    ask_often().await;
    let random = SeededRandom::new(12);
    let unknown = PlainKey::generate("tp", Environment::Live, &*random);
    until("the gateway's notice", || async {
        let answer = call(program.gateway(), "/v1/data", Some(unknown.reveal()))
            .await
            .unwrap();
        (answer.status == 503).then_some(())
    })
    .await;
    ask_often().await;
    // What was opened meanwhile stays silent.
    wire.swallow();
    wire.silent.store(false, Ordering::SeqCst);
    let newer = beside.key(&consumer).await;
    let_in(program.gateway(), &newer).await;
    let all = u64::try_from(upstream.seen().len()).unwrap();
    until("the usage's arrival", || async {
        let output = beside.run(&["--json", "usage", "--consumer", &consumer]).await;
        let counted = output.json()["meters"][0]["units"].as_u64();
        (counted >= Some(all)).then_some(())
    })
    .await;
    serving.terminate();
    let log = serving.log();
    assert!(serving.ended().await.success(), "{log}");
}
