//! What needs no device, against recorded cases of other implementations: samplers, noise, pictures, context windows, formulas.
//!
//! Cases lie in `tests/golden`; `MUYBRIDGE_GOLDEN` names a folder with more of them.

use std::path::{Path, PathBuf};

use muybridge::case::Case;
use muybridge::runtime::{DType, Device};

#[test]
fn samplers() {
    run("scheduler");
}

#[test]
fn noise() {
    run("rng");
}

#[test]
fn pictures() {
    run("resize");
}

#[test]
fn context_windows() {
    run("aa_context");
}

#[test]
fn formulas() {
    run("formulas");
}

/// Runs every call of every case of a kind, and says all that failed.
#[track_caller]
fn run(kind: &str) {
    let (mut passed, mut failed) = (0, String::new());
    for dir in folders() {
        match Case::open(&dir) {
            Ok(case) if case.kind() == kind => {
                for call in case.calls() {
                    match check(&case, call) {
                        Ok(()) => passed += 1,
                        Err(reason) => failed.push_str(&format!("\n{reason}")),
                    }
                }
            }
            Ok(_) => {}
            Err(e) => failed.push_str(&format!("\n{e}")),
        }
    }
    assert!(failed.is_empty(), "{passed} calls passed; failed:{failed}");
    assert!(passed > 0, "there is no case of kind {kind}");
    println!("{passed} calls of kind {kind}");
}

fn check(case: &Case, call: &str) -> Result<(), String> {
    let device = Device::open("cpu").map_err(|e| e.to_string())?;
    let report = case.check(call, &device, DType::F32).map_err(|e| e.to_string())?;
    if report.passed() && report.judged() { Ok(()) } else { Err(report.to_string()) }
}

fn folders() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let more = std::env::var_os("MUYBRIDGE_GOLDEN").map(PathBuf::from);
    let folders = [own].into_iter().chain(more).filter_map(|dir| std::fs::read_dir(dir).ok());
    let entries = folders.flat_map(|entries| entries.filter_map(|e| e.ok().map(|e| e.path())));
    let mut cases: Vec<PathBuf> = entries.filter(|dir| dir.join("case.json").exists()).collect();
    cases.sort();
    cases
}
