//! The seam between plans and devices: buffers, programs, and what a device can do. No operation is named here.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::op::{Access, Launch, Slot};
use crate::profile::Timing;
use crate::tensor::TensorDesc;

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod trace;
#[cfg(feature = "wgpu")]
pub mod wgpu;

/// The language of kernels that a device takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Functions on the host's threads.
    Cpu,
    /// WGSL through wgpu.
    Wgsl,
    /// CUDA C++ through NVRTC.
    Cuda,
}

impl Target {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Cpu => "cpu",
            Target::Wgsl => "wgsl",
            Target::Cuda => "cuda",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a device can do, as variants and the planner need to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// Kernel language.
    pub target: Target,
    /// Marketing name of the device.
    pub name: String,
    /// Driver or instruction set.
    pub driver: String,
    /// Threads of the host that run host kernels.
    pub threads: usize,
    /// f16 storage and arithmetic in kernels.
    pub f16: bool,
    /// bf16 storage in kernels.
    pub bf16: bool,
    /// Multiprocessors, where the driver says how many.
    pub processors: Option<u32>,
    /// Smallest and largest subgroup (warp) size, where subgroup operations exist.
    pub subgroups: Option<(u32, u32)>,
    /// Compute capability, on CUDA.
    pub compute_capability: Option<(u32, u32)>,
    /// Bytes that one binding may cover.
    pub max_binding: u64,
    /// Bytes of the largest buffer.
    pub max_buffer: u64,
    /// Storage bindings of one kernel.
    pub max_storage_bindings: u32,
    /// Alignment of a binding's first byte.
    pub binding_align: u64,
    /// Workgroups per dimension.
    pub max_workgroups: u32,
    /// Invocations of one workgroup.
    pub max_invocations: u32,
    /// Bytes of workgroup (shared) memory.
    pub max_shared: u32,
    /// Whether the device can time its own work.
    pub timestamps: bool,
    /// Bytes of memory, where known.
    pub memory: Option<u64>,
}

/// Bytes that an engine's device holds now, and held at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes allocated now.
    pub current: u64,
    /// The most that were allocated at once.
    pub peak: u64,
    /// Number of allocations ever made.
    pub allocations: u64,
}

/// Device memory. Freed when the last reference goes.
pub trait Buffer: Send + Sync {
    /// Size.
    fn bytes(&self) -> u64;
    /// The backend's own type.
    fn as_any(&self) -> &dyn Any;
}

/// A range of a buffer.
#[derive(Clone)]
pub struct Span {
    /// The buffer.
    pub buffer: Arc<dyn Buffer>,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({}..{})", self.offset, self.offset + self.bytes)
    }
}

/// An argument of a launch with its memory.
#[derive(Clone, Debug)]
pub struct BoundArg {
    /// Which operand it is.
    pub slot: Slot,
    /// How it is used.
    pub access: Access,
    /// Whether it is a weight: constant, and never in the arena.
    pub is_weight: bool,
    /// The operand's whole description (also where `span` covers a part of it); scratch is f32 words.
    pub desc: TensorDesc,
    /// Its bytes.
    pub span: Span,
}

/// A launch whose arguments have memory.
#[derive(Clone, Debug)]
pub struct BoundLaunch {
    /// The launch.
    pub launch: Launch,
    /// Memory of `launch.args`, in the same order.
    pub args: Vec<BoundArg>,
}

/// A node ready to be compiled.
#[derive(Clone, Debug)]
pub struct BoundNode {
    /// Path in the checkpoint.
    pub path: String,
    /// Name of the op.
    pub op: &'static str,
    /// Name of the chosen variant.
    pub variant: &'static str,
    /// Its launches.
    pub launches: Vec<BoundLaunch>,
}

/// A copy between buffers of one device, before or after a program's launches.
#[derive(Clone, Debug)]
pub struct CopySpan {
    /// Source.
    pub from: Span,
    /// Destination, of the same length.
    pub to: Span,
}

/// A device and its driver. It knows buffers and launches, and no operation.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Limits and features.
    fn caps(&self) -> &Caps;

    /// Memory of `bytes` bytes with arbitrary contents. `what` is named in an out-of-memory error.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) and the driver's errors.
    fn allocate(&self, bytes: u64, what: &str) -> Result<Arc<dyn Buffer>>;

    /// Copies from the host. Later runs see it.
    ///
    /// # Errors
    /// The driver's errors; a range outside the buffer.
    fn write(&self, buffer: &dyn Buffer, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Waits for pending work and copies to the host.
    ///
    /// # Errors
    /// The driver's errors; a range outside the buffer.
    fn read(&self, buffer: &dyn Buffer, offset: u64, bytes: &mut [u8]) -> Result<()>;

    /// Compiles the kernels of a plan and prepares everything that a run needs.
    ///
    /// # Errors
    /// A source that the device's compiler refuses, and the driver's errors.
    fn compile(&self, nodes: Vec<BoundNode>) -> Result<Box<dyn Program>>;

    /// Bytes held on the device by this engine.
    fn memory(&self) -> MemoryUse;

    /// Whether the device holds no elements, so that nothing need be read for it.
    fn is_trace(&self) -> bool {
        false
    }
}

/// A compiled plan.
pub trait Program: Send + Sync {
    /// Copies `before`, launches everything, copies `after`. With `timing`, fills one entry per node and waits for the end;
    /// without, it may return before the device is done.
    ///
    /// # Errors
    /// Only the device's: lost, out of memory, driver errors.
    fn run(&self, before: &[CopySpan], after: &[CopySpan], timing: Option<Timing<'_>>) -> Result<()>;
}

/// Counts what a backend holds.
#[derive(Debug, Default)]
pub(crate) struct MemoryCounter(std::sync::Mutex<MemoryUse>);

impl MemoryCounter {
    pub fn add(&self, bytes: u64) {
        let mut m = self.0.lock().unwrap_or_else(|e| e.into_inner());
        m.current += bytes;
        m.allocations += 1;
        m.peak = m.peak.max(m.current);
    }

    pub fn remove(&self, bytes: u64) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).current -= bytes;
    }

    pub fn get(&self) -> MemoryUse {
        *self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}
