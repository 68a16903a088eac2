//! A folder that checks and times the engine on a machine with an NVIDIA GPU and no Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use muybridge::case::Case;
use serde_json::Value;

use crate::Outcome;

/// Most bytes of the folder.
pub const MOST: u64 = 60_000_000;

/// What is copied from `benches/gpu`.
const SCRIPTS: [&str; 3] = ["run.sh", "peers.py", "networks.py"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).map(Path::to_path_buf).unwrap_or_default()
}

/// The program to bundle: this file, or what `cargo build --release` makes.
fn program(own: Option<PathBuf>) -> Outcome<PathBuf> {
    if let Some(file) = own {
        return Ok(file);
    }
    let done = Command::new("cargo").args(["build", "--release"]).current_dir(root()).status()?;
    if !done.success() {
        return Err("cargo build --release failed".into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("release/muybridge"))
}

/// Fills `folder` with the program, this kernel pack, the recorded cases that run there and the scripts; returns its bytes. What was there
/// under these names is replaced.
///
/// # Errors
/// A file is missing or cannot be copied, or the folder is larger than [`MOST`].
pub fn make(folder: &Path, own: Option<PathBuf>, pack: &Path) -> Outcome<u64> {
    let program = program(own)?;
    if !pack.exists() {
        return Err(format!("{}: `cargo xtask kernel-pack` writes it", pack.display()).into());
    }
    fs::create_dir_all(folder)?;
    copy(&program, &folder.join("muybridge"))?;
    copy(pack, &folder.join("kernels.pack"))?;
    for name in SCRIPTS {
        copy(&root().join("benches/gpu").join(name), &folder.join(name))?;
    }
    let golden = folder.join("golden");
    if golden.exists() {
        fs::remove_dir_all(&golden)?;
    }
    for case in fs::read_dir(root().join("tests/golden"))? {
        let case = case?.path();
        if let (true, Some(name)) = (case.join("case.json").exists(), case.file_name())
            && runs_there(&case)?
        {
            copy_all(&case, &golden.join(name))?;
        }
    }
    let bytes = size(folder)?;
    match bytes <= MOST {
        true => Ok(bytes),
        false => Err(format!("{}: {bytes} bytes, and {MOST} are the most", folder.display()).into()),
    }
}

/// Whether a case asks something of a device, and has its networks among the cases: those of the built-in model are in the program.
fn runs_there(case: &Path) -> Outcome<bool> {
    let record: Value = serde_json::from_slice(&fs::read(case.join("case.json"))?)?;
    let elsewhere = |c: &Value| c["dir"].as_str().is_some_and(|dir| dir.starts_with("../.."));
    let outside = record["components"].as_object().is_some_and(|all| all.values().any(elsewhere));
    Ok(!outside && !Case::HOST_KINDS.iter().any(|kind| record["kind"] == *kind))
}

fn copy(from: &Path, to: &Path) -> Outcome<()> {
    fs::copy(from, to).map_err(|e| format!("{}: {e}", from.display()))?;
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy_all(&path, &to)? } else { copy(&path, &to)? }
    }
    Ok(())
}

fn size(folder: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.path().is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
