//! A Redis of a test's own: on a free port of this machine, without persistence, gone with the test.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// Tries to find a port that nobody takes meanwhile.
const TRIES: usize = 10;

/// An address that nobody listens at, below the ports that the kernel gives: a server that is killed has it again later.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 300).unwrap() * 30;
    loop {
        let port = 10_000 + (start + NEXT.fetch_add(1, Ordering::SeqCst)) % 10_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A running `redis-server`.
pub(crate) struct RedisServer {
    process: Option<Child>,
    addr: SocketAddr,
    folder: PathBuf,
    options: Vec<String>,
}

impl RedisServer {
    /// One that lets everybody in.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// One with these options of `redis-server`.
    pub(crate) fn with(options: &[&str]) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("turnpike-redis-{}-{n}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let mut server = Self {
            process: None,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            folder,
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        };
        for _ in 0..TRIES {
            server.addr = free_address();
            if server.try_run() {
                return server;
            }
        }
        panic!("no redis-server could be started: is Debian's package redis-server installed?");
    }

    /// Runs it; whether it listens.
    fn try_run(&mut self) -> bool {
        let port = self.addr.port().to_string();
        // With TLS the port is that of the option.
        let plain = if self.options.iter().any(|o| o == "--tls-port") {
            "0"
        } else {
            &port
        };
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            plain,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.args(self.options.iter().map(|o| if o == "PORT" { &port } else { o }));
        command.arg("--dir").arg(&self.folder);
        let process = command.stdout(Stdio::null()).spawn();
        let mut process = process.unwrap_or_else(|e| panic!("redis-server, Debian's package of that name: {e}"));
        for _ in 0..1_000 {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(self.addr).is_ok() {
                self.process = Some(process);
                return true;
            }
            sleep(Duration::from_millis(10));
        }
        let _ = process.kill();
        let _ = process.wait();
        false
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address as a setting, without user and password.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Dies at once.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Runs again at the same address after it was killed, with nothing in it.
    pub(crate) fn run_again(&mut self) {
        for _ in 0..TRIES {
            if self.try_run() {
                return;
            }
        }
        panic!("it does not listen again at {}", self.addr);
    }

    /// Forgets everything it holds.
    pub(crate) fn forget(&self) {
        let port = self.addr.port().to_string();
        let told = Command::new("redis-cli")
            .args(["-p", &port, "flushall"])
            .stdout(Stdio::null())
            .status();
        assert!(told.unwrap().success());
    }

    /// Answers nothing from now on, with its connections open.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Goes on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
