//! Bringing what was written to the disk.

use std::fs::File;
use std::io;
use std::sync::Arc;

/// Called before every sync of a ledger file; an error stands for the disk's, and the sync is not made. For tests of what a
/// disk does that fails or is slow.
#[derive(Clone)]
pub struct BeforeSync(Arc<dyn Fn() -> io::Result<()> + Send + Sync>);

impl BeforeSync {
    /// Calls `before`.
    pub fn new(before: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(before))
    }
}

impl std::fmt::Debug for BeforeSync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BeforeSync")
    }
}

/// How files are synced.
pub(super) struct Syncing(pub(super) Option<BeforeSync>);

impl Syncing {
    fn before(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |before| (before.0)())
    }

    /// What is in the file.
    pub(super) fn data(&self, file: &File) -> io::Result<()> {
        self.before()?;
        file.sync_data()
    }

    /// A new file, its length with it.
    pub(super) fn all(&self, file: &File) -> io::Result<()> {
        self.before()?;
        file.sync_all()
    }
}
