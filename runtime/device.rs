//! Devices: opening them by name, and memory on them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::backend::cpu::CpuBackend;
use crate::backend::trace::TraceBackend;
use crate::backend::{Backend, Buffer, Caps, MemoryUse, Target};
use crate::error::{Error, Result};
use crate::host::HostTensor;
use crate::record::Recorder;
use crate::tensor::{Tensor, TensorDesc};
use crate::tuned::{Table, Tuned};

/// How a device is opened. The default takes everything that the device offers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceOptions {
    /// Host threads of the CPU device; one per core where `None`.
    pub threads: Option<usize>,
    /// Work within WebGPU's default limits, even where the adapter has larger ones.
    pub default_limits: bool,
    /// A smaller limit for one binding, in bytes (tests of splitting).
    pub max_binding: Option<u64>,
    /// Do without f16 in kernels.
    pub no_f16: bool,
    /// Do without subgroup operations.
    pub no_subgroups: bool,
    /// Keep the bounds and loop checks of the shader compiler, which trusted kernels do without.
    pub checked: bool,
    /// Name nodes to the driver, so that a debugger of GPUs shows their paths (wgpu; costs a little).
    pub labels: bool,
    /// Kernels that were measured to be the fastest here.
    pub tuned: Tuned,
}

/// A device that the machine offers, or one that was expected and is missing.
#[derive(Clone, Debug)]
pub struct Found {
    /// The name to open it by: `cpu`, `wgpu:0`, `cuda:0`.
    pub name: String,
    /// Its limits and features, or why it is missing.
    pub caps: std::result::Result<Caps, String>,
}

struct Shared {
    name: String,
    id: u64,
    backend: Arc<dyn Backend>,
    tuned: Mutex<Option<Arc<Table>>>,
    recorder: Mutex<Option<Arc<Recorder>>>,
}

/// Where plans run. Cloning shares the device.
#[derive(Clone)]
pub struct Device(Arc<Shared>);

impl Device {
    /// Opens a device by name: `auto` (the best present), `cpu`, `wgpu:0`, `cuda:0`, or `trace` (plans without running;
    /// `trace:cpu`, `trace:wgpu` and `trace:cuda` choose the kernel language).
    ///
    /// # Errors
    /// [`Error::NoDevice`] says why it cannot be had.
    pub fn open(name: &str) -> Result<Device> {
        Device::open_with(name, &DeviceOptions::default())
    }

    /// Opens a device by name with options.
    ///
    /// # Errors
    /// [`Error::NoDevice`] says why it cannot be had.
    pub fn open_with(name: &str, options: &DeviceOptions) -> Result<Device> {
        let none = |reason: String| Error::NoDevice { name: name.into(), reason };
        let (kind, index) = match name.split_once(':') {
            Some((kind, rest)) => (kind, Some(rest)),
            None => (name, None),
        };
        let number = || -> Result<usize> {
            index.unwrap_or("0").parse().map_err(|_| none("the part after the colon must be a number".into()))
        };
        let (name, backend): (String, Arc<dyn Backend>) = match (kind, index) {
            ("auto", None) => return Device::open_best(options),
            ("cpu", None) => ("cpu".into(), Arc::new(CpuBackend::new(options.threads)?)),
            ("trace", _) => {
                let target = match index {
                    Some("cpu") => Target::Cpu,
                    None | Some("wgpu") => Target::Wgsl,
                    Some("cuda") => Target::Cuda,
                    Some(other) => return Err(none(format!("no kernel language {other:?}; known: cpu, wgpu, cuda"))),
                };
                (name.into(), Arc::new(TraceBackend::new(target)))
            }
            ("wgpu", _) => (format!("wgpu:{}", number()?), open_wgpu(number()?, options)?),
            ("cuda", _) => (format!("cuda:{}", number()?), open_cuda(number()?, options)?),
            _ => return Err(none("known names: auto, cpu, wgpu:N, cuda:N, trace".into())),
        };
        let device = Device::from_backend(name, backend);
        // A trace device takes the ops' own order, so that its plans depend on nothing of this machine.
        if kind != "trace" {
            device.set_tuned(options.tuned.load()?.map(Arc::new));
        }
        Ok(device)
    }

    /// A device over a backend of one's own.
    pub fn from_backend(name: impl Into<String>, backend: Arc<dyn Backend>) -> Device {
        // Only to tell devices apart in the weights' list of residences; never zero, never reused.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Device(Arc::new(Shared { name: name.into(), id, backend, tuned: Mutex::default(), recorder: Mutex::default() }))
    }

    /// A device of the same limits and features that owns no memory and runs nothing: plans made on it report what they
    /// would need on this one.
    pub fn trace(&self) -> Device {
        Device::from_backend(format!("trace of {}", self.name()), Arc::new(TraceBackend::like(self.caps().clone())))
    }

    /// The fastest device present: CUDA, then a GPU through wgpu, then the CPU. A software Vulkan driver is never chosen:
    /// the CPU device is faster.
    fn open_best(options: &DeviceOptions) -> Result<Device> {
        // Without its compiler, the CUDA device could run only what is in the cache.
        if cuda_compiles()
            && let Ok(cuda) = Device::open_with("cuda:0", options)
        {
            return Ok(cuda);
        }
        match best_wgpu_adapter() {
            Some(index) => Device::open_with(&format!("wgpu:{index}"), options),
            None => Device::open_with("cpu", options),
        }
    }

    /// Every device the machine offers, and why one that was expected is missing.
    pub fn list() -> Vec<Found> {
        let mut found = Vec::new();
        let cpu = CpuBackend::new(None).map(|b| b.caps().clone()).map_err(|e| e.to_string());
        found.push(Found { name: "cpu".into(), caps: cpu });
        found.extend(list_wgpu());
        found.extend(list_cuda());
        found
    }

    /// The name it was opened by (`auto` resolved).
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Limits and features.
    pub fn caps(&self) -> &Caps {
        self.0.backend.caps()
    }

    /// Kernels that later plans take because they were measured to be the fastest here.
    pub fn tuned(&self) -> Option<Arc<Table>> {
        self.0.tuned.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Has later plans take these kernels, or the ops' own order.
    pub fn set_tuned(&self, table: Option<Arc<Table>>) {
        *self.0.tuned.lock().unwrap_or_else(|e| e.into_inner()) = table;
    }

    /// Has every run of a plan on this device timed node by node and kept, until it is given `None`. Results stay the same;
    /// each run then waits for its end, and a device that cannot time its own work refuses to run.
    pub fn record(&self, recorder: Option<Arc<Recorder>>) {
        *self.0.recorder.lock().unwrap_or_else(|e| e.into_inner()) = recorder;
    }

    pub(crate) fn recorder(&self) -> Option<Arc<Recorder>> {
        self.0.recorder.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Bytes held on the device by this engine.
    pub fn memory(&self) -> MemoryUse {
        self.0.backend.memory()
    }

    /// Copies a host tensor to the device.
    ///
    /// # Errors
    /// The device's errors.
    pub fn tensor(&self, host: &HostTensor) -> Result<Tensor> {
        let tensor = self.empty(host.desc(), "a tensor")?;
        self.0.backend.write(&*tensor.buffer, 0, host.bytes())?;
        Ok(tensor)
    }

    /// A device tensor with arbitrary contents.
    pub(crate) fn empty(&self, desc: TensorDesc, what: &str) -> Result<Tensor> {
        let buffer = self.allocate(desc.bytes(), what)?;
        Ok(Tensor { device: self.clone(), buffer, desc })
    }

    pub(crate) fn allocate(&self, bytes: u64, what: &str) -> Result<Arc<dyn Buffer>> {
        // Devices copy and bind in whole words.
        self.0.backend.allocate(bytes.next_multiple_of(16).max(16), what)
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.0.backend
    }

    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}: {})", self.name(), self.caps().name)
    }
}

#[cfg(feature = "cuda")]
use crate::backend::cuda::{compiles as cuda_compiles, list as list_cuda, open as open_cuda};

#[cfg(not(feature = "cuda"))]
fn open_cuda(index: usize, _: &DeviceOptions) -> Result<Arc<dyn Backend>> {
    Err(Error::NoDevice { name: format!("cuda:{index}"), reason: "built without the feature `cuda`".into() })
}

#[cfg(not(feature = "cuda"))]
fn list_cuda() -> Vec<Found> {
    vec![Found { name: "cuda:0".into(), caps: Err("built without the feature `cuda`".into()) }]
}

#[cfg(not(feature = "cuda"))]
fn cuda_compiles() -> bool {
    false
}

#[cfg(feature = "wgpu")]
use crate::backend::wgpu::{best_adapter as best_wgpu_adapter, list as list_wgpu, open as open_wgpu};

#[cfg(not(feature = "wgpu"))]
fn open_wgpu(index: usize, _: &DeviceOptions) -> Result<Arc<dyn Backend>> {
    Err(Error::NoDevice { name: format!("wgpu:{index}"), reason: "built without the feature `wgpu`".into() })
}

#[cfg(not(feature = "wgpu"))]
fn list_wgpu() -> Vec<Found> {
    vec![Found { name: "wgpu:0".into(), caps: Err("built without the feature `wgpu`".into()) }]
}

#[cfg(not(feature = "wgpu"))]
fn best_wgpu_adapter() -> Option<usize> {
    None
}
