//! CUDA without a GPU: builds stand-ins for libcuda and libnvrtc that run kernels on the CPU, and restarts the test program
//! with them on its library path, so that the engine's own CUDA backend runs unchanged.
//!
//! The stand-in driver's eight devices differ in their schedule: the order in which threads go on, and whether asynchronous
//! copies happen as early or as late as they may. Correct kernels give the same on all of them. Inline PTX never runs here:
//! what its wrappers mean on hardware is for a machine with a GPU to show.

use std::path::Path;
use std::process::Command;

/// Set in a process that runs over the stand-ins.
const INSIDE: &str = "MUYBRIDGE_EMULATED";

/// Whether this process runs over the stand-ins.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Restarts this program over the stand-ins, built in `folder` where they are not yet; or says why that cannot be. Returns
/// `Ok` in the restarted program.
pub fn enter(folder: &Path) -> Result<(), String> {
    if is_inside() {
        return Ok(());
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("the emulator needs Linux on x86-64".into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|a| a.join("tests/emulator/build"));
    let script = script.into_iter().find(|s| s.exists()).ok_or("tests/emulator/build is missing")?;
    let built = Command::new("bash").arg(script).arg(folder).output();
    let built = built.map_err(|e| format!("the emulator's build script does not start: {e}"))?;
    if !built.status.success() {
        let log = String::from_utf8_lossy(&built.stderr);
        return Err(format!(
            "the emulator does not build (it takes g++): {}",
            log.lines().next().unwrap_or("no message")
        ));
    }
    restart(folder)
}

#[cfg(unix)]
fn restart(folder: &Path) -> Result<(), String> {
    use std::os::unix::process::CommandExt;
    let own = std::env::current_exe().map_err(|e| format!("the test program has no path: {e}"))?;
    let mut path = folder.as_os_str().to_owned();
    if let Some(before) = std::env::var_os("LD_LIBRARY_PATH") {
        path.push(":");
        path.push(before);
    }
    let mut command = Command::new(own);
    command.args(std::env::args_os().skip(1)).env("LD_LIBRARY_PATH", path).env(INSIDE, "1");
    // Stand-in code is no use to any other process.
    let failed = command.env("MUYBRIDGE_CACHE", folder.join("cache")).exec();
    Err(format!("the test program does not restart: {failed}"))
}

#[cfg(not(unix))]
fn restart(_: &Path) -> Result<(), String> {
    Err("the emulator needs Linux on x86-64".into())
}
