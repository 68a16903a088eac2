//! Gives the crate a hash of its own sources, by which measurements of host kernels are kept apart.

use std::path::{Path, PathBuf};

/// Sources under a folder, in an order that depends on their names alone.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let mut entries: Vec<PathBuf> = entries.collect();
    entries.sort();
    for path in entries {
        let beside = ["tests", "examples", "target"].iter().any(|name| path.ends_with(name));
        if path.is_dir() && !beside {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn main() {
    let mut files = Vec::new();
    sources(Path::new("."), &mut files);
    // FNV-1a in 64 bits.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
        for byte in std::fs::read(file).unwrap_or_default() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    println!("cargo::rustc-env=KERNELS_REVISION={hash:016x}");
}
