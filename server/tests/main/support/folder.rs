//! A data folder of a test, and the private PostgreSQL that may live in it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Looks at a process that was told to end, before the folder is removed under it.
const ENDING_LOOKS: u32 = 500;

/// Removed with the value, after the PostgreSQL in it was ended.
pub(crate) struct Folder(PathBuf);

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Folder {
    /// An empty one that PostgreSQL's user can reach.
    pub(crate) fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("turnpike-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    /// The process of the private PostgreSQL, while it runs. The number alone may be another's by now.
    pub(crate) fn postmaster(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.0.join("postgres/data/postmaster.pid")).ok()?;
        let pid: u32 = text.lines().next()?.trim().parse().ok()?;
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let folder = self.0.as_os_str().as_encoded_bytes();
        words.windows(folder.len()).any(|part| part == folder).then_some(pid)
    }

    /// Ends the private PostgreSQL as `pg_ctl stop -m immediate` does: without a word to anybody, as a crash would.
    pub(crate) fn crash_postgres(&self) {
        let pid = self.postmaster().expect("the private PostgreSQL runs");
        signal(pid, "-QUIT");
        self.wait_for_end(pid);
    }

    fn wait_for_end(&self, pid: u32) {
        for _ in 0..ENDING_LOOKS {
            if self.postmaster() != Some(pid) {
                return;
            }
            std::thread::sleep(super::LOOK);
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(pid) = self.postmaster() {
            signal(pid, "-QUIT");
            self.wait_for_end(pid);
        }
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Sends a signal to one process.
pub(crate) fn signal(pid: u32, which: &str) {
    let sent = Command::new("kill").arg(which).arg(pid.to_string()).status();
    assert!(sent.is_ok_and(|s| s.success()), "cannot send {which} to {pid}");
}
