//! One open device: its context, its stream, its memory pool, and the driver's errors in the engine's words.

use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

use cudarc::driver::result::{self, DriverError, ctx, device, mem_pool, primary_ctx, stream};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use super::kernel::Kernels;
use super::staging::Staging;
use crate::backend::{Caps, MemoryCounter, Target};
use crate::device::DeviceOptions;
use crate::error::{Error, Result};

/// The oldest driver that has every symbol called here, as the driver counts: 12.0.
const OLDEST_DRIVER: i32 = 12_000;

/// The driver that brought the event timer whose symbol cudarc calls: 12.8.
const TIMING_DRIVER: i32 = 12_080;

/// The oldest capability whose kernels are written: Turing.
const OLDEST_CAPABILITY: (u32, u32) = (7, 5);

/// Freed memory that the pool keeps for the next allocation instead of giving it back at the next wait.
const POOL_KEEPS: u64 = 256 << 20;

/// One binding: kernels index elements of two bytes at least with 32 bits, and keep a bit to spare.
const MAX_BINDING: u64 = 1 << 32;

/// The device's primary context, which everything in the process that uses the device shares. Given back when dropped.
pub(super) struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
}

// SAFETY: the handle is an opaque pointer of the driver, which locks its own state; it is valid until `drop`.
unsafe impl Send for Context {}
// SAFETY: as for `Send`.
unsafe impl Sync for Context {}

impl Context {
    /// Makes this the calling thread's context, as every call into the driver needs.
    pub fn enter(&self) -> Result<(), DriverError> {
        // SAFETY: retained in `Gpu::open` and not yet released.
        unsafe { ctx::set_current(self.raw) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, released once. A failure leaves nothing that could be done about it.
        let _ = unsafe { primary_ctx::release(self.device) };
    }
}

/// An open device, shared by its backend, its buffers and its programs.
pub(super) struct Gpu {
    pub name: String,
    pub caps: Caps,
    /// Everything runs on this one stream, in the order of the calls: allocations and frees, copies, graphs.
    pub stream: sys::CUstream,
    pool: Option<sys::CUmemoryPool>,
    /// Why the device was lost. Stays.
    lost: Mutex<Option<String>>,
    pub memory: Arc<MemoryCounter>,
    pub kernels: Kernels,
    /// Made by the first upload; `None` in it where there is no pinned memory.
    pub staging: Mutex<Option<Option<Staging>>>,
    pub context: Arc<Context>,
}

// SAFETY: stream and pool are opaque handles that the driver lets any thread use; they are valid until `drop`.
unsafe impl Send for Gpu {}
// SAFETY: as for `Send`.
unsafe impl Sync for Gpu {}

/// Loads the driver and counts its devices.
pub(super) fn devices() -> Result<usize, String> {
    // SAFETY: loads a library by name and runs its initialisers, which is what opening a device means.
    if !unsafe { sys::is_culib_present() } {
        return Err(format!(
            "no NVIDIA driver: {} was not found",
            if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" }
        ));
    }
    let version = driver_version().map_err(|e| words(e.0))?;
    if version < OLDEST_DRIVER {
        let want = version_text(OLDEST_DRIVER);
        return Err(format!(
            "the NVIDIA driver supports CUDA {}, and {want} at least is needed",
            version_text(version)
        ));
    }
    result::init().map_err(|e| words(e.0))?;
    let count = device::get_count().map_err(|e| words(e.0))?;
    if count < 1 { Err("the NVIDIA driver finds no device".into()) } else { Ok(count as usize) }
}

/// The newest CUDA that the driver supports, as 1000 · major + 10 · minor.
fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: the driver library is loaded (callers check), and the pointer is to a local.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// The driver's words for a result: `CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)`.
fn words(result: CUresult) -> String {
    let error = DriverError(result);
    let text = |t: Result<&CStr, DriverError>| t.ok().map(|t| t.to_string_lossy().into_owned());
    let name = text(error.error_name()).unwrap_or_else(|| format!("{result:?}"));
    text(error.error_string()).map_or(name.clone(), |t| format!("{name} ({t})"))
}

/// Whether a result says that the context is beyond use: a kernel crashed, memory failed, the device went away.
fn is_loss(result: CUresult) -> bool {
    use CUresult as R;
    let after_a_crash = [
        R::CUDA_ERROR_ILLEGAL_ADDRESS,
        R::CUDA_ERROR_LAUNCH_TIMEOUT,
        R::CUDA_ERROR_ASSERT,
        R::CUDA_ERROR_HARDWARE_STACK_ERROR,
        R::CUDA_ERROR_ILLEGAL_INSTRUCTION,
        R::CUDA_ERROR_MISALIGNED_ADDRESS,
        R::CUDA_ERROR_INVALID_ADDRESS_SPACE,
        R::CUDA_ERROR_INVALID_PC,
        R::CUDA_ERROR_LAUNCH_FAILED,
        R::CUDA_ERROR_CONTAINED,
        R::CUDA_ERROR_TENSOR_MEMORY_LEAK,
    ];
    let hardware = [
        R::CUDA_ERROR_ECC_UNCORRECTABLE,
        R::CUDA_ERROR_NVLINK_UNCORRECTABLE,
        R::CUDA_ERROR_DEVICE_UNAVAILABLE,
        R::CUDA_ERROR_CONTEXT_IS_DESTROYED,
        R::CUDA_ERROR_DEINITIALIZED,
        R::CUDA_ERROR_SYSTEM_NOT_READY,
    ];
    after_a_crash.contains(&result) || hardware.contains(&result)
}

/// What a device can do, or why it will not do.
fn capabilities(dev: sys::CUdevice, options: &DeviceOptions) -> Result<Caps, String> {
    let text = |e: DriverError| words(e.0);
    // SAFETY: `dev` came from the driver.
    let attribute = |a: Attribute| unsafe { device::get_attribute(dev, a) }.map_err(text).map(|v| v.max(0) as u32);
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let name = device::get_name(dev).map_err(text)?;
    if capability < OLDEST_CAPABILITY {
        let ((a, b), (c, d)) = (capability, OLDEST_CAPABILITY);
        return Err(format!("{name} has compute capability {a}.{b}, and {c}.{d} at least is needed"));
    }
    // SAFETY: as above.
    let total = unsafe { device::total_mem(dev) }.map_err(text)? as u64;
    let version = driver_version().map_err(text)?;
    Ok(Caps {
        target: Target::Cuda,
        driver: format!("CUDA {}, compute capability {}.{}", version_text(version), capability.0, capability.1),
        name,
        threads: 1,
        f16: !options.no_f16,
        bf16: true,
        processors: Some(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?),
        subgroups: Some((32, 32)),
        compute_capability: Some(capability),
        max_binding: MAX_BINDING.min(options.max_binding.unwrap_or(u64::MAX)),
        max_buffer: total,
        max_storage_bindings: 16,
        binding_align: 256,
        // Of the second and third dimension; the first may be longer.
        max_workgroups: 65_535,
        max_invocations: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        max_shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        timestamps: version >= TIMING_DRIVER,
        memory: Some(total),
    })
}

/// Limits and features of a device, without opening it.
pub(super) fn describe(index: usize) -> Result<Caps, String> {
    let dev = device::get(index as i32).map_err(|e| words(e.0))?;
    capabilities(dev, &DeviceOptions::default())
}

impl Gpu {
    pub fn open(index: usize, options: &DeviceOptions) -> Result<Gpu> {
        let name = format!("cuda:{index}");
        let none = |reason: String| Error::NoDevice { name: name.clone(), reason };
        let count = devices().map_err(none)?;
        if index >= count {
            return Err(none(format!(
                "there {}",
                if count == 1 { "is 1 device".into() } else { format!("are {count} devices") }
            )));
        }
        let failed = |e: DriverError| none(words(e.0));
        let dev = device::get(index as i32).map_err(failed)?;
        let caps = capabilities(dev, options).map_err(none)?;
        // SAFETY: `dev` came from the driver; the context is released by `Context::drop`.
        let context = Context { device: dev, raw: unsafe { primary_ctx::retain(dev) }.map_err(failed)? };
        context.enter().map_err(failed)?;
        let stream = stream::create(stream::StreamKind::NonBlocking).map_err(failed)?;
        let kernels = Kernels::new(caps.compute_capability.unwrap_or(OLDEST_CAPABILITY));
        Ok(Gpu {
            caps,
            stream,
            pool: pool(dev),
            lost: Mutex::default(),
            memory: Arc::default(),
            kernels,
            staging: Mutex::default(),
            context: Arc::new(context),
            name,
        })
    }

    /// Prepares the calling thread for calls into the driver, unless the device is lost.
    pub fn enter(&self) -> Result<()> {
        let lost = self.lost.lock().unwrap_or_else(|e| e.into_inner()).clone();
        match lost {
            Some(reason) => Err(Error::DeviceLost { device: self.name.clone(), reason }),
            None => self.checked(self.context.enter(), "entering the device's context", 0),
        }
    }

    /// A result of the driver in the engine's words. `what` and `wanted` go into the error. A loss is remembered.
    pub fn checked<T>(&self, result: Result<T, DriverError>, what: &str, wanted: u64) -> Result<T> {
        let code = match result {
            Ok(value) => return Ok(value),
            Err(e) => e.0,
        };
        let device = self.name.clone();
        if is_loss(code) {
            let mut lost = self.lost.lock().unwrap_or_else(|e| e.into_inner());
            let reason = lost.get_or_insert_with(|| format!("{what}: {}", words(code))).clone();
            return Err(Error::DeviceLost { device, reason });
        }
        if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Err(Error::OutOfMemory { device, what: what.into(), wanted, limit: self.caps.memory });
        }
        Err(Error::Driver { device, reason: format!("{what}: {}", words(code)) })
    }

    /// Bytes of the device's second-level cache.
    pub fn second_level_cache(&self) -> Result<usize> {
        let what = Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
        // SAFETY: the device came from the driver.
        let bytes = unsafe { device::get_attribute(self.context.device, what) };
        self.checked(bytes, "the size of the cache", 0).map(|b| b.max(0) as usize)
    }

    /// Waits for everything that was asked of the device.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        self.checked(unsafe { stream::synchronize(self.stream) }, "waiting for the device", 0)
    }

    /// Device memory, ordered after everything asked before. Once more without cached memory where there is too little.
    pub fn allocate(&self, bytes: u64, what: &str) -> Result<sys::CUdeviceptr> {
        self.enter()?;
        let allocate = || {
            // SAFETY: pool and stream live as long as `self`; the address is freed by `free`.
            let made = unsafe {
                match self.pool {
                    Some(pool) => mem_pool::alloc_async(pool, bytes as usize, self.stream),
                    None => result::malloc_sync(bytes as usize),
                }
            };
            self.checked(made, what, bytes)
        };
        match allocate() {
            Err(Error::OutOfMemory { .. }) => {
                self.wait()?;
                if let Some(pool) = self.pool {
                    // SAFETY: the pool lives as long as `self`.
                    self.checked(unsafe { mem_pool::trim_to(pool, 0) }, "giving cached memory back", 0)?;
                }
                allocate()
            }
            other => other,
        }
    }

    /// Frees memory once everything asked before is done. Errors have no one to go to; a loss frees it all.
    pub fn free(&self, address: sys::CUdeviceptr) {
        if self.enter().is_err() {
            return;
        }
        // SAFETY: allocated by `allocate` from the same source, and freed once: its buffer is being dropped.
        let _ = unsafe {
            match self.pool {
                Some(_) => result::free_async(address, self.stream),
                None => result::free_sync(address),
            }
        };
    }
}

/// A memory pool of our own on this device, where the driver has pools: the process's default pool is not ours to configure.
fn pool(dev: sys::CUdevice) -> Option<sys::CUmemoryPool> {
    let supported = Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
    // SAFETY: `dev` came from the driver.
    if unsafe { device::get_attribute(dev, supported) }.ok()? == 0 {
        return None;
    }
    // SAFETY: a C struct of integers and pointers, for which all zeros is valid and means "default".
    let mut props: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
    props.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    props.handleTypes = sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE;
    props.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    props.location.__bindgen_anon_1.id = dev;
    props.win32SecurityAttributes = null_mut();
    // SAFETY: `props` is complete; the pool is destroyed by `Gpu::drop`.
    let pool = unsafe { mem_pool::create(&props) }.ok()?;
    let mut keep = POOL_KEEPS;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: this attribute's value is a u64. Where it is refused, the pool merely gives memory back sooner.
    let _ = unsafe { mem_pool::set_attribute(pool, attribute, (&raw mut keep).cast()) };
    Some(pool)
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.context.enter().is_err() {
            return;
        }
        // SAFETY: the last owner is gone, and with it every buffer and program; nothing is left to run on the stream. Kernels
        // and context go after this. After a loss these calls fail, and releasing the context frees everything.
        unsafe {
            let _ = stream::synchronize(self.stream);
            let _ = stream::destroy(self.stream);
            if let Some(pool) = self.pool {
                let _ = mem_pool::destroy(pool);
            }
        }
    }
}
