//! Loaded kernels, one per device for equal texts.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::driver::result::{DriverError, function, module};
use cudarc::driver::sys::{self, CUfunction_attribute as Attribute, CUresult};

use super::cache::Cache;
use super::gpu::{Context, Gpu};
use super::nvrtc;
use super::pack;
use crate::backend::BoundLaunch;
use crate::error::{Error, Result};
use crate::op::Code;
use crate::source;

/// Shared memory that every kernel may have without asking for more.
const USUAL_SHARED: u32 = 48 << 10;

/// What makes two kernels equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    text: String,
    entry: &'static str,
    file: &'static str,
}

impl Key {
    /// The key of a launch, or `None` for host code.
    pub fn of(launch: &BoundLaunch) -> Option<Key> {
        let Code::Kernel(kernel) = &launch.launch.code else { return None };
        let text = source::cuda(kernel, &launch.launch.args);
        Some(Key { text, entry: kernel.entry, file: kernel.file })
    }
}

/// A kernel in its module.
pub(super) struct Kernel {
    pub function: sys::CUfunction,
    module: sys::CUmodule,
    /// Dynamic shared memory that it may have so far.
    shared: Mutex<u32>,
    most_threads: u32,
    file: &'static str,
    context: Arc<Context>,
}

// SAFETY: opaque handles that the driver lets any thread use; valid until `drop`.
unsafe impl Send for Kernel {}
// SAFETY: as for `Send`.
unsafe impl Sync for Kernel {}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: loaded once, unloaded once; programs hold the kernel as long as their graph refers to it.
            let _ = unsafe { module::unload(self.module) };
        }
    }
}

impl Kernel {
    /// Prepares for launches of this many threads with this much dynamic shared memory.
    pub fn prepare(&self, gpu: &Gpu, threads: u32, shared: u32) -> Result<()> {
        if threads > self.most_threads {
            let most = self.most_threads;
            let reason = format!("{}: {threads} threads per block, and its registers allow {most}", self.file);
            return Err(Error::Driver { device: gpu.name.clone(), reason });
        }
        // Held until the driver knows, so that nobody sets less after it.
        let mut allowed = self.shared.lock().unwrap_or_else(|e| e.into_inner());
        if shared <= *allowed {
            return Ok(());
        }
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to a loaded module.
        let set = unsafe { function::set_function_attribute(self.function, attribute, shared as i32) };
        gpu.checked(set, self.file, u64::from(shared))?;
        *allowed = shared;
        Ok(())
    }
}

/// Everything loaded on a device so far.
pub(super) struct Kernels {
    capability: (u32, u32),
    cache: Cache,
    loaded: Mutex<HashMap<Key, Arc<Kernel>>>,
}

impl Kernels {
    pub fn new(capability: (u32, u32)) -> Kernels {
        Kernels { capability, cache: Cache::from_env(), loaded: Mutex::default() }
    }
}

impl Gpu {
    /// The kernels of these keys, in order. What was not loaded before is compiled on all cores.
    pub fn load_all(&self, keys: &[Key]) -> Result<Vec<Arc<Kernel>>> {
        let missing: Vec<&Key> = {
            let loaded = self.kernels.loaded.lock().unwrap_or_else(|e| e.into_inner());
            let mut seen = HashSet::new();
            keys.iter().filter(|k| !loaded.contains_key(k) && seen.insert(*k)).collect()
        };
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(Key, Arc<Kernel>)>> {
            self.enter()?;
            let mut done = Vec::new();
            while let Some(key) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push(((*key).clone(), Arc::new(self.load(key)?)));
            }
            Ok(done)
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        let made: Vec<_> = std::thread::scope(|scope| {
            let started: Vec<_> = (0..threads).map(|_| std::thread::Builder::new().spawn_scoped(scope, work)).collect();
            started.into_iter().map(|t| self.joined(t)).collect::<Result<_>>()
        })?;
        if !missing.is_empty() {
            self.kernels.cache.sweep();
        }
        let mut loaded = self.kernels.loaded.lock().unwrap_or_else(|e| e.into_inner());
        loaded.extend(made.into_iter().flatten());
        Ok(keys.iter().filter_map(|k| loaded.get(k).cloned()).collect())
    }

    fn joined<T>(&self, thread: std::io::Result<std::thread::ScopedJoinHandle<'_, Result<T>>>) -> Result<T> {
        let thread = thread.map_err(|e| self.failed(format!("no thread to compile on: {e}")))?;
        thread.join().map_err(|_| self.failed("compiling panicked".into()))?
    }

    /// From the cache, from a pack, or by compiling. Code that the driver refuses (made for another driver, say) is looked for
    /// further on.
    fn load(&self, key: &Key) -> Result<Kernel> {
        let capability = self.kernels.capability;
        let (major, minor) = capability;
        let name = format!("{major}.{minor} {} {}\n{}", nvrtc::OPTIONS.join(" "), key.file, key.text);
        let compiler = nvrtc::version();
        let mut refused = Vec::new();
        if let Some(code) = self.kernels.cache.load(&name, compiler)
            && let Some(kernel) = self.try_code(key, &code, "the cache", &mut refused)?
        {
            return Ok(kernel);
        }
        for portable in [false, true] {
            // A compiler makes better code than the driver makes of portable code, and can do without a pack.
            if portable && compiler.is_some() {
                continue;
            }
            let packed = match pack::find(capability, portable, &key.text) {
                Ok(packed) => packed,
                Err(reason) if compiler.is_none() => return Err(self.failed(reason)),
                Err(reason) => {
                    tracing::warn!(reason, "kernels are compiled instead");
                    Vec::new()
                }
            };
            for code in packed {
                if let Some(kernel) = self.try_code(key, &code, "the pack", &mut refused)? {
                    return Ok(kernel);
                }
            }
        }
        let because = |refused: &[String]| refused.iter().map(|r| format!("; {r}")).collect::<String>();
        let Some(compiler) = compiler else {
            return Err(Error::Unsupported(format!("{}: {}{}", key.file, nvrtc::MISSING, because(&refused))));
        };
        let code = nvrtc::compile(&key.text, key.file, capability).map_err(|refusal| refusal.into_error(key.file))?;
        let kernel = self.load_code(key, &code).map_err(|e| match e {
            // Most often a compiler of a later CUDA than the driver's.
            Error::Driver { device, reason } => {
                let (driver, made) = (&self.caps.driver, nvrtc::named(compiler));
                let reason = format!("{reason} (the code is NVRTC {made}'s, the driver {driver}{})", because(&refused));
                Error::Driver { device, reason }
            }
            other => other,
        })?;
        self.kernels.cache.store(&name, compiler, &code);
        Ok(kernel)
    }

    fn failed(&self, reason: String) -> Error {
        Error::Driver { device: self.name.clone(), reason }
    }

    /// The kernel in this code, unless the driver refuses it, which is added to what was `refused`.
    fn try_code(&self, key: &Key, code: &[u8], from: &str, refused: &mut Vec<String>) -> Result<Option<Kernel>> {
        match self.load_code(key, code) {
            Ok(kernel) => Ok(Some(kernel)),
            Err(lost @ Error::DeviceLost { .. }) => Err(lost),
            Err(e) => {
                tracing::debug!(file = key.file, error = %e, from, "a kept kernel is not taken");
                refused.push(format!("the code of {from} is refused: {e}"));
                Ok(None)
            }
        }
    }

    fn load_code(&self, key: &Key, code: &[u8]) -> Result<Kernel> {
        // The driver is given no length: machine code says its own, portable code ends at a zero byte.
        let whole = code.starts_with(b"\x7fELF") || code.ends_with(&[0]);
        let entry = CString::new(key.entry).ok().filter(|_| whole);
        let entry = entry.ok_or_else(|| Error::Compile { file: key.file, message: "not an image of code".into() })?;
        // SAFETY: an image of one of the two forms above, which the driver checks further.
        let module = self.checked(unsafe { module::load_data(code.as_ptr().cast()) }, key.file, code.len() as u64)?;
        // Owns the module from here on, so that an early return unloads it.
        let mut kernel = Kernel {
            function: std::ptr::null_mut(),
            module,
            shared: Mutex::new(USUAL_SHARED),
            most_threads: 0,
            file: key.file,
            context: self.context.clone(),
        };
        // SAFETY: the module was just loaded.
        let found = unsafe { module::get_function(module, entry) };
        if let Err(DriverError(CUresult::CUDA_ERROR_NOT_FOUND)) = found {
            return Err(Error::Compile { file: key.file, message: format!("it has no kernel {}", key.entry) });
        }
        kernel.function = self.checked(found, key.file, 0)?;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
        // SAFETY: the function belongs to the module.
        let most = unsafe { function::get_function_attribute(kernel.function, attribute) };
        kernel.most_threads = self.checked(most, key.file, 0)?.max(0) as u32;
        // What the kernel has of its own counts, too.
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to the module.
        let own = unsafe { function::get_function_attribute(kernel.function, attribute) };
        let own = self.checked(own, key.file, 0)?.max(0) as u32;
        kernel.shared = Mutex::new(USUAL_SHARED.saturating_sub(own));
        Ok(kernel)
    }
}
