//! The binary: its commands, and `serve` as a process.

use super::folder::signal;
use super::{Folder, LIMIT, LOOK, call, until};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use testkit::Database;

/// What keys of these tests are hashed with.
pub(crate) const PEPPER: &str = "a pepper for tests of 32 characters or more";
/// Lines of the log that a failure shows.
const LOG_LINES: usize = 40;

/// A `turnpike` with a data folder and addresses of its own.
pub(crate) struct Program {
    pub(crate) folder: Folder,
    database: Option<String>,
    portal: SocketAddr,
    gateway: SocketAddr,
    operations: SocketAddr,
    more: Vec<(String, String)>,
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// What it printed, after a success.
    pub(crate) fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.stdout
    }
    /// The one JSON object it printed, whatever came of it.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.stdout.lines().count(), 1, "one line: {self:?}");
        let value: serde_json::Value = serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert!(value.is_object(), "{self:?}");
        value
    }
}

/// Ports below those that the kernel gives to outgoing connections, so that a port stays free while a process is
/// started again. Each test process begins elsewhere.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 400).unwrap() * 30;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::SeqCst)) % 12_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// The address of a test's database, for the program.
fn url_of(database: &Database) -> String {
    let options = database.options();
    let folder = options.get_socket().expect("tests use a socket").display().to_string();
    let (user, name) = (
        options.get_username().to_owned(),
        options.get_database().unwrap().to_owned(),
    );
    format!("postgres://{user}@localhost/{name}?host={folder}")
}

impl Program {
    /// On a database of the test's, or on a private one.
    pub(crate) fn new(database: Option<&Database>) -> Self {
        Self {
            folder: Folder::new(),
            database: database.map(url_of),
            portal: free_address(),
            gateway: free_address(),
            operations: free_address(),
            more: Vec::new(),
        }
    }

    /// With another variable.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.more.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where the gateway listens.
    pub(crate) fn gateway(&self) -> SocketAddr {
        self.gateway
    }
    /// Where the portal listens.
    pub(crate) fn portal(&self) -> SocketAddr {
        self.portal
    }
    /// Where the operators' listener is.
    pub(crate) fn operations(&self) -> SocketAddr {
        self.operations
    }

    /// The binary with these arguments, and nothing of the environment that could mean something to it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turnpike"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if (text.starts_with("TURNPIKE_") && text != "TURNPIKE_POSTGRES_BIN") || text == "DATABASE_URL" {
                command.env_remove(&name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("TURNPIKE_DATA_DIR", self.folder.path())
            .env("TURNPIKE_PEPPERS", format!("1:{PEPPER}"))
            .env("TURNPIKE_PORTAL_LISTEN", self.portal.to_string())
            .env("TURNPIKE_GATEWAY_LISTEN", self.gateway.to_string())
            .env("TURNPIKE_OPERATIONS_LISTEN", self.operations.to_string())
            .env("TURNPIKE_GATEWAY_THREADS", "2")
            .stdin(Stdio::null());
        if let Some(url) = &self.database {
            command.env("DATABASE_URL", url);
        }
        command.envs(self.more.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        Output {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Puts a catalogue on sale.
    pub(crate) async fn publish(&self, catalogue: &str) {
        let file = self.folder.write("catalogue.toml", catalogue);
        self.run(&["plan", "publish", &file.display().to_string()]).await.ok();
    }

    /// A consumer on the plan `open`, as a gift; its id.
    pub(crate) async fn consumer(&self, email: &str) -> String {
        let made = self
            .run(&[
                "--json",
                "consumer",
                "create",
                "--email",
                email,
                "--plan",
                "open",
                "--complimentary",
            ])
            .await;
        assert!(made.status.success(), "{made:?}");
        made.json()["consumer_id"].as_str().unwrap().to_owned()
    }

    /// A key of that consumer.
    pub(crate) async fn key(&self, consumer: &str) -> String {
        self.run(&["key", "create", "--consumer", consumer])
            .await
            .ok()
            .trim()
            .to_owned()
    }

    /// Starts `serve` and waits until it is ready.
    pub(crate) async fn serve(&self) -> Serving {
        let mut serving = self.spawn();
        let operations = self.operations;
        until("serve's readiness", || {
            serving.assert_alive();
            async move {
                call(operations, "/readyz", None)
                    .await
                    .ok()
                    .filter(|a| a.status == 200)
                    .map(drop)
            }
        })
        .await;
        serving
    }

    /// The one process that runs on this folder, whoever started it.
    pub(crate) fn only_process(&self) -> u32 {
        let wanted = format!("TURNPIKE_DATA_DIR={}\0", self.folder.path().display());
        let ours = |pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "turnpike" && environment.windows(wanted.len()).any(|part| part == wanted.as_bytes())
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let found: Vec<u32> = pids.filter(ours).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0]
    }

    /// Starts `serve`.
    pub(crate) fn spawn(&self) -> Serving {
        self.spawn_with(&["serve"])
    }

    /// Starts `serve` with more arguments.
    pub(crate) fn spawn_with(&self, arguments: &[&str]) -> Serving {
        let path = self.folder.path().join("serve.log");
        let log = std::fs::File::options().create(true).append(true).open(&path).unwrap();
        let child = self
            .command(arguments)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Serving {
            child: child.unwrap(),
            log: path.into(),
        }
    }
}

/// A `serve` that runs; killed with the value.
pub(crate) struct Serving {
    child: Child,
    log: Box<Path>,
}

impl Serving {
    /// Fails with the end of the log when the process is gone.
    pub(crate) fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("serve ended with {status}:\n{}", self.log());
        }
    }

    /// The end of what it logged.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// SIGKILL: it does nothing more.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM: asks it to end.
    pub(crate) fn terminate(&self) {
        signal(self.child.id(), "-TERM");
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let begun = tokio::time::Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "serve did not end:\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            super::say(&format!("serve's log ended:\n{}", self.log()));
        }
    }
}
