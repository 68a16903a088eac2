//! Files that are kept from process to process: where they lie, and how they are replaced.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The folder of `MUYBRIDGE_CACHE` (`None` where that is set and empty), or the engine's in the user's folder for caches.
pub(crate) fn folder() -> Option<PathBuf> {
    match std::env::var_os("MUYBRIDGE_CACHE") {
        Some(own) if own.is_empty() => None,
        Some(own) => Some(PathBuf::from(own)),
        None => {
            let path = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
            let home = || path("HOME").map(|h| h.join(".cache"));
            let users = path("XDG_CACHE_HOME").or_else(|| path("LOCALAPPDATA")).or_else(home);
            users.map(|u| u.join("muybridge"))
        }
    }
}

/// Writes beside the file and renames. The name of the temporary is this process's own, and a process that is killed leaves
/// at most one behind.
pub(crate) fn replace(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    // Processes in different containers may share both the folder and a process id.
    let temporary = folder.join(format!("{}-{serial}-{clock:x}.part", std::process::id()));
    let mut out = fs::OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    let done = out.write_all(bytes).and_then(|()| {
        drop(out);
        fs::rename(&temporary, file)
    });
    if done.is_err() {
        // What could not be renamed is of no use; if it cannot be removed either, it is only litter.
        drop(fs::remove_file(&temporary));
    }
    done
}

/// What [`hash_on`] begins with.
pub(crate) const START: u128 = 0x6c62272e07bb014262b821756295c58d;

/// FNV-1a in 128 bits (Fowler, Noll, Vo), going on from the hash of what came before: against accidents, not adversaries.
pub(crate) fn hash_on(before: u128, bytes: &[u8]) -> u128 {
    const PRIME: u128 = 0x0000000001000000000000000000013B;
    bytes.iter().fold(before, |h, &b| (h ^ u128::from(b)).wrapping_mul(PRIME))
}
