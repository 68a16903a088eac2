//! A device that owns no memory and runs nothing: it lets full-size models be planned anywhere, for any kernel language.

use std::any::Any;
use std::sync::Arc;

use super::{Backend, BoundNode, Buffer, Caps, CopySpan, MemoryCounter, MemoryUse, Program, Target};
use crate::error::{Error, Result};
use crate::profile::Timing;

/// The trace backend for one kernel language.
#[derive(Debug)]
pub struct TraceBackend {
    caps: Caps,
    memory: Arc<MemoryCounter>,
}

impl TraceBackend {
    /// Pretends to be a device of this kind, with the limits that current discrete GPUs have.
    pub fn new(target: Target) -> TraceBackend {
        let caps = Caps {
            target,
            name: format!("trace ({target})"),
            driver: "none".into(),
            threads: 1,
            f16: true,
            bf16: target != Target::Wgsl,
            processors: (target == Target::Cuda).then_some(132),
            subgroups: Some((32, 32)),
            compute_capability: (target == Target::Cuda).then_some((9, 0)),
            max_binding: (1 << 31) - 4,
            max_buffer: 1 << 40,
            max_storage_bindings: 8,
            binding_align: 256,
            max_workgroups: 65_535,
            max_invocations: 1024,
            max_shared: if target == Target::Cuda { 232_448 } else { 32_768 },
            timestamps: false,
            memory: None,
        };
        TraceBackend::like(caps)
    }

    /// Pretends to be a device of these limits and features.
    pub fn like(caps: Caps) -> TraceBackend {
        TraceBackend { caps, memory: Arc::default() }
    }
}

struct TraceBuffer {
    bytes: u64,
    memory: Arc<MemoryCounter>,
}

impl Buffer for TraceBuffer {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for TraceBuffer {
    fn drop(&mut self) {
        self.memory.remove(self.bytes);
    }
}

impl Backend for TraceBackend {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn allocate(&self, bytes: u64, _what: &str) -> Result<Arc<dyn Buffer>> {
        self.memory.add(bytes);
        Ok(Arc::new(TraceBuffer { bytes, memory: self.memory.clone() }))
    }

    fn write(&self, _: &dyn Buffer, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn read(&self, _: &dyn Buffer, _: u64, _: &mut [u8]) -> Result<()> {
        Err(Error::Unsupported("reading from the trace device, which holds no elements".into()))
    }

    fn compile(&self, _: Vec<BoundNode>) -> Result<Box<dyn Program>> {
        Ok(Box::new(TraceProgram))
    }

    fn memory(&self) -> MemoryUse {
        self.memory.get()
    }

    fn is_trace(&self) -> bool {
        true
    }
}

struct TraceProgram;

impl Program for TraceProgram {
    fn run(&self, _: &[CopySpan], _: &[CopySpan], _: Option<Timing<'_>>) -> Result<()> {
        Err(Error::Unsupported("running on the trace device, which only plans".into()))
    }
}
