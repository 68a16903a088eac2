//! NVRTC, the compiler from CUDA C++ to machine code, which need not be there.

use std::ffi::{CStr, CString, c_char};

use cudarc::nvrtc::result::{self, NvrtcError};
use cudarc::nvrtc::sys;

use crate::error::Error;

/// Whether the library is found.
pub(super) fn is_present() -> bool {
    // SAFETY: loads a library by name and runs its initialisers, which is what using a compiler means.
    unsafe { sys::is_culib_present() }
}

/// The library's version, as 1000 · major + minor; `None` where there is none.
pub(super) fn version() -> Option<u32> {
    let (mut major, mut minor) = (0, 0);
    if !is_present() {
        return None;
    }
    // SAFETY: the library is loaded, and the pointers are to locals.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result().ok()?;
    Some((1000 * major + minor).max(0) as u32)
}

/// Why there is no compiler, and what to do about it.
pub(super) const MISSING: &str = "compiling CUDA kernels: NVRTC was not found, and the kernel is neither in the cache nor in a pack (kernels.pack). Install \
     the CUDA toolkit or `pip install nvidia-cuda-nvrtc`, and put the folder of libnvrtc.so (nvrtc64_*.dll) on the library path";

/// A version of [`version`] for people: 13.5.
pub(super) fn named(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000)
}

/// Why a kernel was not compiled.
pub(super) enum Refusal {
    /// There is no NVRTC.
    Missing,
    /// The compiler's log.
    Log(String),
}

impl Refusal {
    /// The refusal of the kernel in this file.
    pub fn into_error(self, file: &'static str) -> Error {
        match self {
            Refusal::Missing => Error::Unsupported(MISSING.into()),
            Refusal::Log(message) => Error::Compile { file, message },
        }
    }
}

/// The name of a capability's machine code. The letter opens what only this architecture has: on 90 wgmma and setmaxnreg, which
/// kernels use. On later ones they use nothing of the kind, and code without the letter also runs on their relatives.
pub(super) fn machine(capability: (u32, u32)) -> String {
    let own = capability.0 * 10 + capability.1;
    format!("sm_{own}{}", if own == 90 { "a" } else { "" })
}

/// Names of machine code that runs on a capability, the best first: its own, then that of lower minor versions of the same major
/// one ("Binary Compatibility" in the CUDA C++ Programming Guide), but for 90's, which promises nothing.
pub(super) fn machines(capability: (u32, u32)) -> Vec<String> {
    let (major, minor) = capability;
    (0..=minor).rev().map(|m| (major, m)).filter(|c| *c == capability || *c != (9, 0)).map(machine).collect()
}

/// The architecture to compile for, as the compiler's option names it.
fn architecture(capability: (u32, u32)) -> String {
    let own = capability.0 * 10 + capability.1;
    let known = supported();
    if known.contains(&own) {
        return machine(capability);
    }
    // A device newer than the compiler takes portable code, which its driver finishes.
    let newest = known.into_iter().filter(|a| *a < own).max().unwrap_or(own);
    format!("compute_{newest}")
}

fn supported() -> Vec<u32> {
    let mut count = 0;
    // SAFETY: the library is loaded (`compile` checks), and the pointer is to a local.
    if unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) }.result().is_err() {
        return Vec::new();
    }
    let mut found = vec![0; count.max(0) as usize];
    // SAFETY: there is room for as many as the library just counted.
    if unsafe { sys::nvrtcGetSupportedArchs(found.as_mut_ptr()) }.result().is_err() {
        return Vec::new();
    }
    found.into_iter().map(|a| a as u32).collect()
}

/// A program of the library, destroyed when dropped.
struct Compilation(sys::nvrtcProgram);

impl Drop for Compilation {
    fn drop(&mut self) {
        // SAFETY: created in `compile`, destroyed once.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// Options that are the same for every kernel. `--fmad` stays on; fast division is a matter of the source.
pub(super) const OPTIONS: [&str; 2] = ["--std=c++17", "--generate-line-info"];

/// Compiles a text to an image that the driver loads: machine code, or portable code that ends in a zero byte.
pub(super) fn compile(text: &str, file: &str, capability: (u32, u32)) -> Result<Vec<u8>, Refusal> {
    if !is_present() {
        return Err(Refusal::Missing);
    }
    compile_for(text, file, &architecture(capability), &OPTIONS).map(|(code, _)| code)
}

/// Compiles a text for an architecture by name, `sm_90a` (machine code) or `compute_80` (portable code). The second value is
/// the compiler's log.
pub(super) fn compile_for(text: &str, file: &str, arch: &str, more: &[&str]) -> Result<(Vec<u8>, String), Refusal> {
    if !is_present() {
        return Err(Refusal::Missing);
    }
    let refuse = |what: &'static str| move |e: NvrtcError| Refusal::Log(format!("{what}: {e:?}"));
    let zero = |_| Refusal::Log("the source holds a zero byte".into());
    let (source, name) = (CString::new(text).map_err(zero)?, CString::new(file).map_err(zero)?);
    let program = Compilation(result::create_program(&source, Some(&name)).map_err(refuse("creating"))?);
    let mut options = vec![format!("--gpu-architecture={arch}")];
    options.extend(more.iter().map(ToString::to_string));
    // SAFETY: the program was just created.
    let compiled = unsafe { result::compile_program(program.0, &options) };
    // SAFETY: as above.
    let log = unsafe { result::get_program_log(program.0) }.map(|l| text_of(&l)).unwrap_or_default();
    if let Err(e) = compiled {
        return Err(Refusal::Log(if log.is_empty() { format!("{e:?} for {arch}") } else { log }));
    }
    if arch.starts_with("sm_") {
        return Ok((machine_code(&program).map_err(refuse("reading the machine code"))?, log));
    }
    // SAFETY: as above, and it compiled.
    let portable = unsafe { result::get_ptx(program.0) }.map_err(refuse("reading the portable code"))?;
    Ok((portable.into_iter().map(|c| c as u8).collect(), log))
}

fn machine_code(program: &Compilation) -> Result<Vec<u8>, NvrtcError> {
    let mut size = 0;
    // SAFETY: the program compiled, and the pointer is to a local.
    unsafe { sys::nvrtcGetCUBINSize(program.0, &mut size) }.result()?;
    let mut code = vec![0u8; size];
    // SAFETY: there is room for as many bytes as the library just said.
    unsafe { sys::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast()) }.result()?;
    Ok(code)
}

fn text_of(log: &[c_char]) -> String {
    let bytes: Vec<u8> = log.iter().map(|&c| c as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map(|t| t.to_string_lossy().trim().to_string()).unwrap_or_default()
}
