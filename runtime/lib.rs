//! Tensors, graphs, memory, time and devices.
//!
//! This crate knows how a graph of opaque operations becomes memory and launches on a device, and how they are run and
//! timed. It must not know any operation: there is no convolution, norm or attention here, only the [`Op`] trait that
//! `muybridge-kernels` implements. Its `backend` modules are the only code of the engine that calls a driver.
//!
//! The three main types are [`Graph`] (what to compute), [`Plan`] (a graph bound to a device: kernels chosen and compiled,
//! every activation at its place in one arena) and [`Device`] (where it runs).

pub mod arena;
pub mod backend;
mod cache;
pub mod cubin;
mod device;
mod error;
pub mod files;
mod graph;
mod host;
mod op;
mod plan;
mod profile;
mod record;
pub mod source;
mod tensor;
pub mod tuned;
mod weight;

pub use backend::{Caps, MemoryUse, Target};
pub use device::{Device, DeviceOptions, Found};
pub use error::{Error, Result};
pub use graph::{Graph, Node, Origin, Value};
pub use host::{HostTensor, TensorView, TensorViewMut};
pub use op::{
    Access, Arg, BoxMap, Code, Cost, HostCall, HostFn, HostKernel, KernelSource, Launch, Lowering, Mismatch, Op,
    Prepare, Site, Slot, Summary, Variant,
};
pub use plan::{KeptWeights, NodeReport, Pins, Plan, PlanOptions, PlanReport, Resident};
pub use profile::{Caches, NodeTime, Profile, Timing};
pub use record::{RecordedPlan, RecordedRun, Recorder};
pub use tensor::{DType, Element, Shape, Tensor, TensorDesc};
pub use weight::{ByteOwner, Weight};
