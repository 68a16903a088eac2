//! NVIDIA GPUs through the CUDA driver, whose library is loaded at run time: nothing of CUDA is needed to build or to start.
//!
//! Everything runs on one stream in the order of the calls. A plan is captured once into a CUDA graph; a run copies its
//! operands in, launches the graph, and copies the results out, all without waiting. What changes from run to run (timestep,
//! noise, conditioning) changes in device buffers, so that the graph is never captured again. Uploads pass through two buffers of
//! pinned memory, so that the bus moves one part while the host reads the next from its file.
//!
//! Kernels are CUDA C++ (see [`source::cuda`](crate::source::cuda)), compiled when a plan is made by NVRTC where that is
//! found, and kept on disk as machine code (module `cache`). cudarc is built for the newest CUDA, so that its lists of errors are
//! complete, but only symbols that every driver since CUDA 12.0 has are called; node times need the driver of CUDA 12.8.
//!
//! After a kernel crashes, the driver refuses everything in the device's context. That is [`Error::DeviceLost`]: every later
//! call on the device returns it, and the process and its other devices go on. NVIDIA promises a working device to a new process only;
//! once all that refers to the lost one is dropped, this one may try to open it again.

mod cache;
mod gpu;
mod kernel;
mod nvrtc;
mod nvtx;
pub mod pack;
mod program;
mod staging;
mod tensor_map;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys;

use self::gpu::Gpu;
use super::{Backend, BoundNode, Buffer, Caps, MemoryUse, Program, Span};
use crate::device::{DeviceOptions, Found};
use crate::error::{Error, Result};

/// Opens the device of this index in the driver's order.
///
/// # Errors
/// [`Error::NoDevice`] says why it cannot be had.
pub fn open(index: usize, options: &DeviceOptions) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(CudaBackend(Arc::new(Gpu::open(index, options)?))))
}

/// Every device of the driver; or one entry that says why there is none.
pub fn list() -> Vec<Found> {
    match gpu::devices() {
        Err(reason) => vec![Found { name: "cuda:0".into(), caps: Err(reason) }],
        Ok(count) => (0..count).map(|i| Found { name: format!("cuda:{i}"), caps: gpu::describe(i) }).collect(),
    }
}

/// Whether kernels can be compiled here or were packed, so that a plan made on such a device will not fail for want of a compiler.
pub fn compiles() -> bool {
    nvrtc::is_present() || pack::file().is_some()
}

/// Compiles a kernel's text ([`source::cuda`](crate::source::cuda)) without a device, for an architecture by name: machine
/// code for `sm_90a`, portable code that ends in a zero byte for `compute_80`. `options` are NVRTC's. The second value is its log.
///
/// # Errors
/// There is no NVRTC, or it refuses the text.
pub fn compile(text: &str, file: &'static str, architecture: &str, options: &[&str]) -> Result<(Vec<u8>, String)> {
    nvrtc::compile_for(text, file, architecture, options).map_err(|refusal| refusal.into_error(file))
}

/// The name of a capability's machine code: `sm_90a` for (9, 0).
pub fn architecture(capability: (u32, u32)) -> String {
    nvrtc::machine(capability)
}

/// NVRTC's version as 1000 · major + minor, or `None` where it is not found.
pub fn compiler() -> Option<u32> {
    nvrtc::version()
}

/// Whether a tool (nsys, ncu) watches this process and is told the paths of nodes as NVTX ranges while they are timed.
///
/// # Errors
/// Why not: no tool asked for it, or its library does not load.
pub fn watched() -> std::result::Result<(), String> {
    nvtx::tool().as_ref().map(|_| ()).map_err(Clone::clone)
}

/// A CUDA device.
pub struct CudaBackend(Arc<Gpu>);

impl fmt::Debug for CudaBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaBackend({}: {})", self.0.name, self.0.caps.name)
    }
}

/// Device memory. `bytes` is what was asked for; the driver's is a whole number of 16-byte units.
struct CudaBuffer {
    gpu: Arc<Gpu>,
    address: sys::CUdeviceptr,
    bytes: u64,
    size: u64,
}

impl Buffer for CudaBuffer {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        self.gpu.free(self.address);
        self.gpu.memory.remove(self.size);
    }
}

impl Gpu {
    /// The address of a range of this device's memory.
    fn locate(&self, buffer: &dyn Buffer, offset: u64, bytes: u64) -> Result<sys::CUdeviceptr> {
        let fail = |reason: String| Error::Driver { device: self.name.clone(), reason };
        let own = buffer.as_any().downcast_ref::<CudaBuffer>().filter(|b| std::ptr::eq(&*b.gpu, self));
        let own = own.ok_or_else(|| fail("a buffer of another device".into()))?;
        if offset.checked_add(bytes).is_none_or(|end| end > own.size) {
            return Err(fail(format!("bytes {offset}..+{bytes} of a buffer of {}", own.bytes)));
        }
        Ok(own.address + offset)
    }

    fn locate_span(&self, span: &Span) -> Result<sys::CUdeviceptr> {
        self.locate(&*span.buffer, span.offset, span.bytes)
    }
}

impl Backend for CudaBackend {
    fn caps(&self) -> &Caps {
        &self.0.caps
    }

    fn allocate(&self, bytes: u64, what: &str) -> Result<Arc<dyn Buffer>> {
        let gpu = &self.0;
        let limit = gpu.caps.max_buffer;
        let size = bytes.max(1).checked_next_multiple_of(16).filter(|&s| s <= limit).ok_or_else(|| {
            Error::OutOfMemory { device: gpu.name.clone(), what: what.into(), wanted: bytes, limit: Some(limit) }
        })?;
        let address = gpu.allocate(size, what)?;
        gpu.memory.add(size);
        Ok(Arc::new(CudaBuffer { gpu: gpu.clone(), address, bytes, size }))
    }

    fn write(&self, buffer: &dyn Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        let gpu = &self.0;
        gpu.enter()?;
        let to = gpu.locate(buffer, offset, bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        gpu.upload(to, bytes)
    }

    fn read(&self, buffer: &dyn Buffer, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let gpu = &self.0;
        gpu.enter()?;
        let from = gpu.locate(buffer, offset, bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let wanted = bytes.len() as u64;
        // SAFETY: the range is ours (checked), and the wait below keeps `bytes` borrowed until the copy is done.
        gpu.checked(unsafe { result::memcpy_dtoh_async(bytes, from, gpu.stream) }, "a download", wanted)?;
        gpu.wait()
    }

    fn compile(&self, nodes: Vec<BoundNode>) -> Result<Box<dyn Program>> {
        Ok(Box::new(program::CudaProgram::new(self.0.clone(), &nodes)?))
    }

    fn memory(&self) -> MemoryUse {
        self.0.memory.get()
    }
}
