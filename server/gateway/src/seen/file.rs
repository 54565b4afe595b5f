//! Where lines go: standard output, or a file that may be moved away while it is written to.

use crate::config::AccessLogTo;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// An open place for lines.
pub(super) struct Place {
    to: AccessLogTo,
    file: Option<File>,
}

fn open(path: &Path) -> io::Result<File> {
    // With the right to read, too: the other end of a pipe need not be there yet. A file is written to at its end, so
    // one that was cut short (copytruncate) goes on from its new end.
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

impl Place {
    pub(super) fn open(to: &AccessLogTo) -> io::Result<Self> {
        let file = match to {
            AccessLogTo::Stdout => None,
            AccessLogTo::File(path) => Some(open(path)?),
        };
        Ok(Self { to: to.clone(), file })
    }

    /// Writes whole lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(lines),
            None => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
        }
    }

    /// Opens the file anew, when `asked` to or when another one, or none, is at its path by now.
    pub(super) fn follow(&mut self, asked: bool) -> io::Result<()> {
        let (AccessLogTo::File(path), Some(file)) = (&self.to, &self.file) else {
            return Ok(());
        };
        let held = file.metadata()?;
        let same = |there: std::fs::Metadata| (there.dev(), there.ino()) == (held.dev(), held.ino());
        if asked || !std::fs::metadata(path).is_ok_and(same) {
            self.file = Some(open(path)?);
        }
        Ok(())
    }
}
