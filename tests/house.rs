//! Rules of the architecture that Cargo cannot prove: who may name what, where `unsafe` may stand, how long a file may be.

use std::path::{Path, PathBuf};

fn sources(under: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(under);
    let (mut folders, mut files) = (vec![root], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() && !entry.ends_with("target") {
                folders.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs" || e == "wgsl" || e == "cu") {
                let text = std::fs::read_to_string(&entry).unwrap();
                files.push((entry, text));
            }
        }
    }
    assert!(!files.is_empty(), "{under} holds no sources");
    files
}

/// Lines of code: without comments, so that prose may name anything.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|l| l.split("//").next().unwrap_or("")).filter(|l| !l.trim().is_empty())
}

fn words(line: &str) -> impl Iterator<Item = String> {
    line.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).filter(|w| !w.is_empty())
}

#[track_caller]
fn no_line(files: &[(PathBuf, String)], what: &str, bad: impl Fn(&str) -> bool) {
    for (path, text) in files {
        if let Some(line) = code(text).find(|l| bad(l)) {
            panic!("{}: {what}: {}", path.display(), line.trim());
        }
    }
}

/// Sources of the crate itself, without its tests and examples.
fn library(under: &str) -> Vec<(PathBuf, String)> {
    let beside = |p: &Path| p.components().any(|c| c.as_os_str() == "tests" || c.as_os_str() == "examples");
    sources(under).into_iter().filter(|(p, _)| !beside(p)).collect()
}

#[test]
fn the_runtime_names_no_op() {
    let ops = ["attention", "conv", "conv2d", "norm", "softmax", "matmul", "gelu", "silu", "upsample", "embedding"];
    no_line(&library("runtime"), "names an op", |l| words(l).any(|w| ops.contains(&w.as_str())));
}

#[test]
fn kernels_call_no_driver() {
    // The build script hashes the sources; it is no kernel.
    let kernels: Vec<_> = library("kernels").into_iter().filter(|(p, _)| !p.ends_with("build.rs")).collect();
    no_line(&kernels, "calls a driver", |l| l.contains("cudarc::") || l.contains("wgpu::") || l.contains("std::fs"));
}

#[test]
fn loaders_know_neither_ops_nor_models() {
    no_line(&sources("loaders"), "knows kernels", |l| l.contains("muybridge_kernels"));
}

#[test]
fn only_models_wire_networks() {
    for below in ["runtime", "kernels", "loaders", "profiling"] {
        no_line(&sources(below), "knows models", |l| l.contains("muybridge::") || l.contains("down_blocks."));
    }
}

#[test]
fn unsafe_stands_only_in_backends_and_the_memory_map() {
    for folder in ["runtime", "kernels", "loaders", "profiling", "synth", "models", "cli", "tests", "benches", "xtask"]
    {
        let files: Vec<_> = sources(folder)
            .into_iter()
            .filter(|(p, _)| !p.to_string_lossy().contains("runtime/backend/") && !p.ends_with("loaders/map.rs"))
            .filter(|(p, _)| !p.ends_with("tests/house.rs"))
            // The peer that CPU kernels are timed against has no other door.
            .filter(|(p, _)| !p.ends_with("examples/cpu_bench/roof.rs"))
            .collect();
        let named = |l: &str| l.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
        no_line(&files, "unsafe", named);
    }
}

#[test]
fn files_stay_short() {
    for folder in ["runtime", "kernels", "loaders", "profiling", "synth", "models", "cli", "tests", "benches", "xtask"]
    {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= 450, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn names_say_what_things_are() {
    let unused = ["manager", "helper", "helpers", "util", "utils", "handler", "impls", "inner"];
    for folder in ["runtime", "kernels", "loaders", "profiling", "synth", "models", "cli", "xtask"] {
        no_line(&sources(folder), "a name that says nothing", |l| {
            let declares = ["fn ", "struct ", "enum ", "trait ", "mod "].iter().any(|d| l.contains(d));
            let name = l.split(['(', '{', '<', ';']).next().unwrap_or("");
            declares && name.split(|c: char| !c.is_alphanumeric()).any(|w| unused.contains(&w.to_lowercase().as_str()))
        });
    }
}

#[test]
fn nothing_is_left_undone() {
    for folder in ["runtime", "kernels", "loaders", "profiling", "synth", "models", "cli", "xtask"] {
        no_line(&sources(folder), "left undone", |l| {
            l.contains(concat!("todo", "!(")) || l.contains(concat!("unimplemented", "!("))
        });
    }
}
