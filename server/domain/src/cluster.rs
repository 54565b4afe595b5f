//! A PostgreSQL of our own: used when no `DATABASE_URL` is given, and by the tests.
//!
//! It lives under a data folder, listens on a socket there and on no port, is stopped with the program that started
//! it, and is picked up again where it runs on after that program was killed. PostgreSQL refuses to run as root, so
//! for root it runs as the user `postgres`, or `nobody` where there is none.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longest wait for a start, which may include recovery after a crash.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often the socket is tried meanwhile.
const START_POLL: Duration = Duration::from_millis(50);
/// A socket's path may have 107 bytes; the file's own name takes some.
const MAX_SOCKET_DIR_LEN: usize = 80;
/// The database in it.
const DATABASE: &str = "turnpike";
/// Its superuser.
const SUPERUSER: &str = "turnpike";

/// Why there is no PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The programs were not found.
    #[error(
        "PostgreSQL's programs were not found on PATH or under /usr/lib/postgresql: install PostgreSQL 15 or newer \
         (Debian: apt-get install postgresql), name their folder in TURNPIKE_POSTGRES_BIN, or give DATABASE_URL"
    )]
    NotInstalled,
    /// A program of PostgreSQL failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        output: String,
    },
    /// It did not answer in time; the log says why.
    #[error("PostgreSQL did not answer within {} s; its log is {log}", START_LIMIT.as_secs())]
    NoAnswer {
        /// Where it logs.
        log: String,
    },
    /// A file or process operation failed.
    #[error("{what}")]
    Io {
        /// Which.
        what: String,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ClusterError {
    let what = what.into();
    move |cause| ClusterError::Io { what, cause }
}

/// A running PostgreSQL of our own.
pub struct Cluster {
    bin: PathBuf,
    data: PathBuf,
    socket: PathBuf,
    user: Option<(u32, u32)>,
    started_here: bool,
}

/// How much it may lose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// What a commit promised survives a power cut.
    Full,
    /// Thrown away after the tests: no fsync.
    None,
}

impl Cluster {
    /// Starts the cluster under `folder` (making it first), or takes over the one that runs there.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, cannot be initialised or does not answer.
    pub async fn start(folder: &Path, durability: Durability) -> Result<Self, ClusterError> {
        let bin = find_programs().ok_or(ClusterError::NotInstalled)?;
        let user = other_user()?;
        let home = reachable_home(folder, user.is_some())?;
        make_private(&home, user)?;
        let (data, socket) = (home.join("data"), socket_dir(&home));
        make_private(&socket, user)?;
        let mut cluster = Self {
            bin,
            data,
            socket,
            user,
            started_here: false,
        };
        if cluster.answers().await {
            return Ok(cluster);
        }
        if !cluster.data.join("PG_VERSION").exists() {
            cluster.init(&home)?;
        }
        cluster.launch(&home, durability)?;
        let log = home.join("log").display().to_string();
        let started = tokio::time::timeout(START_LIMIT, async {
            while !cluster.answers().await {
                tokio::time::sleep(START_POLL).await;
            }
        });
        started.await.map_err(|_| ClusterError::NoAnswer { log })?;
        cluster.started_here = true;
        cluster.create_database().await?;
        Ok(cluster)
    }

    /// How to connect to its database.
    pub fn options(&self) -> sqlx::postgres::PgConnectOptions {
        self.connect_to(DATABASE)
    }

    /// How to connect to any database in it.
    pub fn connect_to(&self, database: &str) -> sqlx::postgres::PgConnectOptions {
        sqlx::postgres::PgConnectOptions::new_without_pgpass()
            .socket(&self.socket)
            .username(SUPERUSER)
            .database(database)
    }

    /// Whether this value started it, rather than finding it running.
    pub fn started_here(&self) -> bool {
        self.started_here
    }

    /// Stops it: open transactions are rolled back, everything committed is on disk.
    ///
    /// # Errors
    /// When `pg_ctl` fails.
    pub fn stop(&self) -> Result<(), ClusterError> {
        let mut command = self.command("pg_ctl");
        command.arg("-D").arg(&self.data).args(["-m", "fast", "-w", "stop"]);
        run(command, "pg_ctl")
    }

    async fn answers(&self) -> bool {
        use sqlx::{ConnectOptions as _, Connection as _};
        match self.connect_to("postgres").connect().await {
            Ok(connection) => connection.close().await.is_ok(),
            Err(_) => false,
        }
    }

    fn init(&self, home: &Path) -> Result<(), ClusterError> {
        let mut command = self.command("initdb");
        // The socket's folder can be entered by this user alone, so whoever reaches the socket may come in.
        command.arg("-D").arg(&self.data).args([
            "-U",
            SUPERUSER,
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]);
        command.current_dir(home);
        run(command, "initdb")
    }

    fn launch(&self, home: &Path, durability: Durability) -> Result<(), ClusterError> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(home.join("log"))
            .map_err(io("cannot write PostgreSQL's log"))?;
        let errors = log.try_clone().map_err(io("cannot write PostgreSQL's log"))?;
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(&self.data)
            .arg("-k")
            .arg(&self.socket)
            .args(["-c", "listen_addresses="]);
        command.args(["-c", "max_connections=100", "-c", "unix_socket_permissions=0700"]);
        if durability == Durability::None {
            command.args([
                "-c",
                "fsync=off",
                "-c",
                "synchronous_commit=off",
                "-c",
                "full_page_writes=off",
            ]);
        }
        // A group of its own: Ctrl-C in the terminal reaches us first, and we stop it in order.
        command
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        command.spawn().map(drop).map_err(io("cannot start postgres"))
    }

    async fn create_database(&self) -> Result<(), ClusterError> {
        use sqlx::{ConnectOptions as _, Connection as _};
        let failed = |e: sqlx::Error| ClusterError::Program {
            program: "CREATE DATABASE",
            output: e.to_string(),
        };
        let mut connection = self.connect_to("postgres").connect().await.map_err(failed)?;
        let made = sqlx::query("CREATE DATABASE turnpike").execute(&mut connection).await;
        match made {
            // 42P04: it is there already.
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("42P04") => {}
            other => {
                other.map_err(failed)?;
            }
        }
        connection.close().await.map_err(failed)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env_remove("DATABASE_URL").env("LC_ALL", "C.UTF-8");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn run(mut command: Command, program: &'static str) -> Result<(), ClusterError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(io(format!("cannot run {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ClusterError::Program { program, output: said })
}

/// The folder with `postgres`, `initdb` and `pg_ctl`: named, on PATH, or where Debian puts it (newest first).
fn find_programs() -> Option<PathBuf> {
    let complete = |dir: &PathBuf| ["postgres", "initdb", "pg_ctl"].iter().all(|p| dir.join(p).is_file());
    if let Some(named) = std::env::var_os("TURNPIKE_POSTGRES_BIN") {
        return Some(PathBuf::from(named)).filter(complete);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|dirs| dirs.flatten().map(|d| d.path().join("bin")).collect())
        .unwrap_or_default();
    debian.sort_by_key(|dir| std::cmp::Reverse(major_version(dir)));
    std::env::split_paths(&path).chain(debian).find(complete)
}

fn major_version(bin: &Path) -> u32 {
    bin.parent()
        .and_then(Path::file_name)
        .and_then(|v| v.to_str())
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

/// For root, somebody else to run as.
fn other_user() -> Result<Option<(u32, u32)>, ClusterError> {
    let me = std::fs::metadata("/proc/self").map_err(io("cannot read /proc"))?.uid();
    if me != 0 {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(io("cannot read /etc/passwd"))?;
    let find = |name: &str| {
        let mut fields = passwd
            .lines()
            .map(|l| l.split(':'))
            .find_map(|mut f| (f.next() == Some(name)).then_some(f))?;
        let uid = fields.nth(1)?.parse().ok()?;
        Some((uid, fields.next()?.parse().ok()?))
    };
    Ok(find("postgres").or_else(|| find("nobody")))
}

/// The folder itself, or, where the other user cannot get there (below /root, say), one in /var/lib that belongs to it.
fn reachable_home(folder: &Path, other: bool) -> Result<PathBuf, ClusterError> {
    std::fs::create_dir_all(folder).map_err(io(format!("cannot make {}", folder.display())))?;
    let folder = folder
        .canonicalize()
        .map_err(io(format!("cannot open {}", folder.display())))?;
    let open = |dir: &Path| std::fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o001 != 0);
    if !other || folder.ancestors().skip(1).all(open) {
        return Ok(folder);
    }
    let elsewhere = Path::new("/var/lib/turnpike").join(mark(&folder));
    std::fs::write(folder.join("elsewhere"), elsewhere.as_os_str().as_encoded_bytes())
        .map_err(io("cannot note where PostgreSQL lives"))?;
    Ok(elsewhere)
}

fn socket_dir(home: &Path) -> PathBuf {
    let own = home.join("socket");
    if own.as_os_str().len() <= MAX_SOCKET_DIR_LEN {
        own
    } else {
        std::env::temp_dir().join(format!("turnpike-{}", mark(home)))
    }
}

/// A short name for a path.
fn mark(path: &Path) -> String {
    format!("{:08x}", model::key::crc32(path.as_os_str().as_encoded_bytes()))
}

/// Makes a folder that its owner alone can enter.
fn make_private(dir: &Path, owner: Option<(u32, u32)>) -> Result<(), ClusterError> {
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(io(format!("cannot make {}", parent.display())))?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(io(format!("cannot make {}", dir.display()))(e));
        }
        _ => {}
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .map_err(io(format!("cannot close {}", dir.display())))?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(dir, Some(uid), Some(gid))
            .map_err(io(format!("cannot hand over {}", dir.display())))?;
    }
    Ok(())
}
