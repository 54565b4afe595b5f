//! A ledger whose last two segments (all that can be unsynced) were damaged opens with what was whole before the damage,
//! goes on without a gap, and keeps at the next start what it kept at this one.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Records in a segment: few, so that damage crosses segments.
const CAPACITY: u32 = 4;

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "ledger")).collect();
    paths.sort();
    paths
}

fuzz_target!(|input: (u8, Vec<(u8, u16, Vec<u8>)>)| {
    let folder = PathBuf::from(format!("/dev/shm/turnpike-fuzz-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let mut kept = 0;
    for _ in 0..1 + input.0 % 11 {
        let (found, before) = gateway::fuzzing::ledger_folder(&folder, CAPACITY).expect("a good ledger opens");
        assert_eq!(before, kept);
        kept = found.len() as u64;
    }
    for (file, at, bytes) in &input.1 {
        let paths = segments(&folder);
        let path = &paths[paths.len() - 1 - usize::from(*file) % paths.len().min(2)];
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("it is there");
        // Heads are written and synced before they are named; a cut does not reach them.
        let at = 128 + u64::from(*at) % (128 * u64::from(CAPACITY));
        let room = usize::try_from(128 * (u64::from(CAPACITY) + 1) - at).unwrap_or(0);
        file.write_all_at(&bytes[..bytes.len().min(room)], at).expect("it can be written");
    }
    if let Ok((found, before)) = gateway::fuzzing::ledger_folder(&folder, CAPACITY) {
        assert!(before <= kept, "{before} records out of {kept}");
        assert!(found.iter().copied().eq(1..=before + 1), "{found:?} after {before}");
        let (again, then) = gateway::fuzzing::ledger_folder(&folder, CAPACITY).expect("a mended ledger opens");
        assert_eq!((again.len() as u64, then), (before + 2, before + 1));
    }
    let _ = std::fs::remove_dir_all(&folder);
});
