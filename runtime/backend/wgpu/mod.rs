//! Any vendor's GPU through wgpu: WGSL kernels over Vulkan, Metal or Direct3D 12, whose libraries are loaded at run time.
//!
//! A kernel sees one bind group: its arguments as storage buffers 0..n in the launch's order, then, where the launch has
//! parameters, one uniform struct at index n. A weight is bound `var<storage, read>`; everything else is bound
//! `var<storage, read_write>` even where it is only read, because one buffer may not be bound both ways in one dispatch
//! and activations share one buffer.
//!
//! Kernels are trusted: shapes and ranges are proved by `infer` and by the plan, so the compiler's bounds and loop checks
//! and the zeroing of workgroup memory are left out. [`DeviceOptions::checked`] brings all three back.
//!
//! No error of wgpu panics here. Errors are caught by scopes round each call; what arrives between calls, and the loss of
//! the device, is recorded and returned by the next call.

mod adapter;
mod fault;
mod gpu;
mod pipeline;
mod program;
mod stamps;
mod transfer;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use self::gpu::Gpu;
use super::{Backend, BoundNode, Buffer, Caps, MemoryCounter, MemoryUse, Program};
use crate::device::{DeviceOptions, Found};
use crate::error::{Error, Result};

/// Opens the adapter of this index in the order of [`list`].
///
/// # Errors
/// [`Error::NoDevice`] says why it cannot be had.
pub fn open(index: usize, options: &DeviceOptions) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(WgpuBackend::new(index, options)?))
}

/// Every adapter, the fastest kind first; or one entry that says why there is none.
pub fn list() -> Vec<Found> {
    let name = |i: usize| format!("wgpu:{i}");
    match adapter::enumerate(false) {
        Err(reason) => vec![Found { name: name(0), caps: Err(reason) }],
        Ok(adapters) => {
            let caps = |a: &wgpu::Adapter| adapter::Request::new(a, &DeviceOptions::default()).map(|r| r.caps);
            adapters.iter().enumerate().map(|(i, a)| Found { name: name(i), caps: caps(a) }).collect()
        }
    }
}

/// Index of the fastest adapter that is hardware, if there is one.
pub fn best_adapter() -> Option<usize> {
    // The order of `enumerate` puts hardware first.
    adapter::enumerate(false).ok()?.first().filter(|a| adapter::is_hardware(&a.get_info())).map(|_| 0)
}

/// A wgpu device and its queue.
pub struct WgpuBackend(Arc<Gpu>);

impl WgpuBackend {
    /// Opens the adapter of this index in the order of [`list`].
    ///
    /// # Errors
    /// [`Error::NoDevice`] says why it cannot be had.
    pub fn new(index: usize, options: &DeviceOptions) -> Result<WgpuBackend> {
        Gpu::open(index, options).map(|gpu| WgpuBackend(Arc::new(gpu)))
    }

    /// Gives the device up at once: its memory is freed, and every later call returns [`Error::DeviceLost`].
    pub fn destroy(&self) {
        self.0.destroy();
    }
}

impl fmt::Debug for WgpuBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WgpuBackend({}: {})", self.0.name, self.0.caps.name)
    }
}

/// Device memory. `bytes` is what was asked for; the driver's buffer is a whole number of 16-byte units.
struct WgpuBuffer {
    raw: wgpu::Buffer,
    bytes: u64,
    /// Nothing was written yet, so that the rest of a partly written word may become anything.
    fresh: AtomicBool,
    memory: Arc<MemoryCounter>,
}

impl Buffer for WgpuBuffer {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for WgpuBuffer {
    fn drop(&mut self) {
        self.memory.remove(self.raw.size());
    }
}

impl Backend for WgpuBackend {
    fn caps(&self) -> &Caps {
        &self.0.caps
    }

    fn allocate(&self, bytes: u64, what: &str) -> Result<Arc<dyn Buffer>> {
        use wgpu::BufferUsages as Usage;
        let gpu = &*self.0;
        gpu.faults.check()?;
        let oom = || Error::OutOfMemory {
            device: gpu.name.clone(),
            what: what.into(),
            wanted: bytes,
            limit: Some(gpu.caps.max_buffer),
        };
        let size = bytes.max(1).checked_next_multiple_of(16).filter(|&s| s <= gpu.caps.max_buffer).ok_or_else(oom)?;
        let usage = Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST;
        let create = || gpu.create_buffer(size, usage, what);
        let raw = match create() {
            // What was freed is given back when the device is next polled: once more, with nothing pending.
            Err(Error::OutOfMemory { .. }) => {
                gpu.wait(None)?;
                create()?
            }
            other => other?,
        };
        self.0.memory.add(size);
        Ok(Arc::new(WgpuBuffer { raw, bytes, fresh: AtomicBool::new(true), memory: gpu.memory.clone() }))
    }

    fn write(&self, buffer: &dyn Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        self.0.write(buffer, offset, bytes)
    }

    fn read(&self, buffer: &dyn Buffer, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.0.read(buffer, offset, bytes)
    }

    fn compile(&self, nodes: Vec<BoundNode>) -> Result<Box<dyn Program>> {
        Ok(Box::new(program::WgpuProgram::new(self.0.clone(), nodes)?))
    }

    fn memory(&self) -> MemoryUse {
        self.0.memory.get()
    }
}
