//! A tool that watches is told the paths of nodes while they are timed, and nothing when they only run.

use std::path::Path;
use std::process::Command;

use libtest_mimic::{Failed, Trial};
use muybridge::runtime::Device;
use muybridge::runtime::backend::cuda;

use super::{COUNT, DOUBLE, FOLDER, numbers, plan};

/// Set in a child process that is watched.
const WATCHED: &str = "MUYBRIDGE_WATCHED";

/// The variable by which tools say what is to be loaded.
const INJECTION: &str = "NVTX_INJECTION64_PATH";

pub fn is_child() -> bool {
    std::env::var_os(WATCHED).is_some()
}

/// Times a plan of two nodes once, and runs it once; says whether a tool watches.
pub fn child() -> Result<(), Failed> {
    let device = Device::open("cuda:0")?;
    let plan = plan(&device, [DOUBLE, DOUBLE])?;
    let outputs = plan.empty_outputs()?;
    plan.profile(&[&device.tensor(&numbers(1.0))?], &outputs)?;
    let after = plan.run_host(&[&numbers(1.0)])?[0].to_f32();
    if after.len() != COUNT || after[0] != 4.0 {
        return Err("another result".into());
    }
    println!("{}", cuda::watched().err().unwrap_or_else(|| "watched".into()));
    Ok(())
}

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("a_tool_that_watches_is_told_paths", told),
        Trial::test("without_a_tool_it_is_said_why", unwatched),
    ]
}

fn run(library: Option<&Path>, log: &Path) -> Result<String, Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(WATCHED, "1").env("WATCHER_LOG", log).env_remove(INJECTION);
    if let Some(library) = library {
        command.env(INJECTION, library);
    }
    super::report(&mut command)
}

fn told() -> Result<(), Failed> {
    let folder = super::folder("ranges")?;
    let (library, log) = (folder.join("watcher.so"), folder.join("log"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/watcher.cpp");
    let built = Command::new("g++").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output()?;
    if !built.status.success() {
        return Err(String::from_utf8_lossy(&built.stderr).into_owned().into());
    }
    let said = run(Some(&library), &log)?;
    let ranges = std::fs::read_to_string(&log)?;
    // Once each, when they were timed.
    let want = "push 0 a.b\npop 0\npush 0 a.b\npop 0\n";
    if said.trim() == "watched" && ranges == want { Ok(()) } else { Err(format!("{said:?} {ranges:?}").into()) }
}

fn unwatched() -> Result<(), Failed> {
    let folder = super::folder("unwatched")?;
    let none = run(None, &folder.join("log"))?;
    let wrong = run(Some(&Path::new(FOLDER).join("libcuda.so.1")), &folder.join("log"))?;
    let absent = run(Some(Path::new("/nonexistent/tool.so")), &folder.join("log"))?;
    let right = none.contains("NVTX_INJECTION64_PATH is not set")
        && wrong.contains("InitializeInjectionNvtx2")
        && absent.contains("/nonexistent/tool.so");
    if right { Ok(()) } else { Err(format!("{none:?} {wrong:?} {absent:?}").into()) }
}
