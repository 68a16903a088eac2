//! Kernels compiled by NVRTC on all cores, and kept by the hash of everything that the compiler was given.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use muybridge::runtime::backend::cuda;
use sha2::{Digest, Sha256};

use crate::Outcome;
use crate::launches::Kernel;

/// Options of every kernel here: the language of [`cuda`]'s own, without its line numbers, which are more than half of the
/// code, and with the assembler's word on spilled registers.
const OPTIONS: [&str; 2] = ["--std=c++17", "--ptxas-options=--verbose"];

/// A text to compile, and for what.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// `sm_90a` for machine code, `compute_80` for portable code.
    pub architecture: String,
    /// The text.
    pub kernel: &'a Kernel,
}

/// What the compiler made of it.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Machine code, or portable code that ends in a zero byte.
    pub code: Vec<u8>,
    /// The compiler's and assembler's log.
    pub log: String,
    /// Where the code is kept.
    pub file: PathBuf,
}

/// A folder of compiled kernels.
#[derive(Clone, Debug)]
pub struct Kept(PathBuf);

impl Kept {
    /// In this folder, which need not be there.
    pub fn at(folder: impl Into<PathBuf>) -> Kept {
        Kept(folder.into())
    }

    fn file(&self, wanted: &Wanted<'_>, compiler: u32) -> PathBuf {
        let mut hash = Sha256::new();
        for part in [&compiler.to_string(), &OPTIONS.join(" "), wanted.kernel.file, &wanted.kernel.text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut name = format!("{}-", wanted.architecture);
        for byte in &hash.finalize()[..16] {
            // Writing to a String cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        self.0.join(name + ".code")
    }

    fn load(file: &Path) -> Option<Compiled> {
        // The log is written last, so that both are whole where it is there.
        let log = std::fs::read_to_string(file.with_extension("log")).ok()?;
        Some(Compiled { code: std::fs::read(file).ok()?, log, file: file.into() })
    }

    fn store(file: &Path, code: &[u8], log: &str) -> Outcome<()> {
        write(file, code)?;
        write(&file.with_extension("log"), log.as_bytes())
    }
}

/// Writes beside the file and renames, so that no reader sees a part.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &Path, bytes: &[u8]) -> Outcome<()> {
    static SERIAL: AtomicUsize = AtomicUsize::new(0);
    let named = |e: std::io::Error| format!("{}: {e}", file.display());
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(named)?;
    }
    let part = format!("{}-{}.part", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
    let part = file.with_file_name(part);
    std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, file)).map_err(named)?;
    Ok(())
}

/// Compiles all of them on all cores, or takes what is kept. The results are in the order of `wanted`.
///
/// # Errors
/// There is no NVRTC, or it refuses a text: says which, for what.
pub fn all(wanted: &[Wanted<'_>], kept: &Kept) -> Outcome<Vec<Compiled>> {
    let compiler = cuda::compiler().ok_or("NVRTC was not found: `tests/compilers` fetches it")?;
    on_all_cores(wanted, |one| {
        let file = kept.file(one, compiler);
        if let Some(found) = Kept::load(&file) {
            return Ok(found);
        }
        let kernel = one.kernel;
        let made = cuda::compile(&kernel.text, kernel.file, &one.architecture, &OPTIONS);
        let (code, log) = made.map_err(|e| format!("{}: {e}", one.architecture))?;
        Kept::store(&file, &code, &log)?;
        Ok(Compiled { code, log, file })
    })
}

/// The results of `work` in the order of `items`, or the first error.
pub fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Outcome<R> + Sync) -> Outcome<Vec<R>> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len())));
    let one_thread = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { return };
            let result = work(item);
            if result.is_err() {
                // Nobody need go on.
                next.store(items.len(), Ordering::Relaxed);
            }
            done.lock().unwrap_or_else(|e| e.into_inner()).push((i, result));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(one_thread))));
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}
