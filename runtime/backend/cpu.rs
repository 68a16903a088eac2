//! Plain CPUs: host kernels over one thread pool, buffers in aligned host memory.

use std::alloc::{Layout, alloc, dealloc};
use std::any::Any;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rayon::prelude::*;

use super::{Backend, BoundLaunch, BoundNode, Buffer, Caps, CopySpan, MemoryCounter, MemoryUse, Program, Span, Target};
use crate::error::{Error, Result};
use crate::host::{TensorView, TensorViewMut};
use crate::op::{Access, Code, HostCall, HostKernel, Slot};
use crate::profile::{Caches, NodeTime, Timing};
use crate::tensor::{DType, TensorDesc};

/// Alignment of every buffer and of every operand in it: a cache line, and the widest vector register.
pub const ALIGN: u64 = 64;

/// Buffers from this size on are held against the memory that there is.
const LARGE: u64 = 64 << 20;

/// Most operands of one host launch.
const MAX_INPUTS: usize = 10;

/// The CPU backend: one thread pool.
pub struct CpuBackend {
    caps: Caps,
    pool: Arc<rayon::ThreadPool>,
    memory: Arc<MemoryCounter>,
    /// Runs and host copies take turns: a program's arena may not be read while it is written.
    turn: Arc<Mutex<()>>,
}

impl std::fmt::Debug for CpuBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CpuBackend({} threads)", self.caps.threads)
    }
}

impl CpuBackend {
    /// A pool of `threads` threads, or one per core that the process may use.
    ///
    /// # Errors
    /// The operating system refuses the threads.
    pub fn new(threads: Option<usize>) -> Result<CpuBackend> {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.unwrap_or_else(available).max(1);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("muybridge-cpu-{i}"))
            .build()
            .map_err(|e| Error::NoDevice { name: "cpu".into(), reason: e.to_string() })?;
        let caps = Caps {
            target: Target::Cpu,
            name: format!("CPU, {threads} thread{}", if threads == 1 { "" } else { "s" }),
            driver: instruction_set().into(),
            threads,
            f16: true,
            bf16: true,
            processors: None,
            subgroups: None,
            compute_capability: None,
            max_binding: u64::MAX,
            max_buffer: isize::MAX as u64,
            max_storage_bindings: MAX_INPUTS as u32 + 2,
            binding_align: ALIGN,
            max_workgroups: 1,
            max_invocations: 1,
            max_shared: 0,
            timestamps: true,
            memory: None,
        };
        Ok(CpuBackend { caps, pool: Arc::new(pool), memory: Arc::default(), turn: Arc::default() })
    }
}

fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "x86-64 AVX-512";
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return "x86-64 AVX2";
        }
    }
    std::env::consts::ARCH
}

/// Host memory whose parts are lent to kernels by the planner's word that they do not overlap.
struct CpuBuffer {
    start: NonNull<u8>,
    layout: Layout,
    memory: Arc<MemoryCounter>,
}

// SAFETY: the memory is plain bytes owned by this value; every access goes through `read`, `write` and `run`, which hold the
// backend's `turn` lock.
unsafe impl Send for CpuBuffer {}
// SAFETY: as for `Send`.
unsafe impl Sync for CpuBuffer {}

impl Buffer for CpuBuffer {
    fn bytes(&self) -> u64 {
        self.layout.size() as u64
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        self.memory.remove(self.layout.size() as u64);
        // SAFETY: allocated in `allocate` with this very layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// The bytes of a span, checked to lie within a buffer of this backend.
fn locate(span: &Span) -> Result<NonNull<u8>> {
    within(&*span.buffer, span.offset, span.bytes)
}

fn within(buffer: &dyn Buffer, offset: u64, bytes: u64) -> Result<NonNull<u8>> {
    let fail = |reason: &str| Error::Driver { device: "cpu".into(), reason: reason.into() };
    let own = buffer.as_any().downcast_ref::<CpuBuffer>().ok_or_else(|| fail("a buffer of another device"))?;
    if offset.checked_add(bytes).is_none_or(|end| end > own.bytes()) {
        return Err(fail(&format!("bytes {offset}..+{bytes} of a buffer of {}", own.bytes())));
    }
    // SAFETY: the offset was just checked to lie within the allocation, or at its end for an empty span.
    Ok(unsafe { own.start.add(offset as usize) })
}

impl Backend for CpuBackend {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn allocate(&self, bytes: u64, what: &str) -> Result<Arc<dyn Buffer>> {
        let beyond = |limit| Error::OutOfMemory { device: "cpu".into(), what: what.into(), wanted: bytes, limit };
        let oom = || beyond(None);
        let size = usize::try_from(bytes.max(1)).map_err(|_| oom())?;
        let layout = Layout::from_size_align(size, ALIGN as usize).map_err(|_| oom())?;
        // Systems promise more memory than there is, and end a process that then writes to it.
        if let Some(limit) = (bytes >= LARGE).then(available_memory).flatten().filter(|limit| bytes > *limit) {
            return Err(beyond(Some(limit)));
        }
        // SAFETY: the layout's size is at least one.
        let start = NonNull::new(unsafe { alloc(layout) }).ok_or_else(oom)?;
        // SAFETY: freshly allocated, `size` bytes long. Contents are arbitrary by contract, but Rust wants them written
        // before they are lent out as initialised bytes; NaN makes a kernel that reads too much visible.
        unsafe { start.as_ptr().write_bytes(0xFF, size) };
        self.memory.add(layout.size() as u64);
        Ok(Arc::new(CpuBuffer { start, layout, memory: self.memory.clone() }))
    }

    fn write(&self, buffer: &dyn Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        let to = within(buffer, offset, bytes.len() as u64)?;
        let _turn = self.turn.lock();
        // SAFETY: `to` has room for the bytes (checked), and the lock keeps every other access away.
        unsafe { to.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn read(&self, buffer: &dyn Buffer, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let from = within(buffer, offset, bytes.len() as u64)?;
        let _turn = self.turn.lock();
        // SAFETY: `from` has that many bytes (checked), and the lock keeps every writer away.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(from.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn compile(&self, nodes: Vec<BoundNode>) -> Result<Box<dyn Program>> {
        let nodes = nodes.into_iter().map(host_calls).collect::<Result<Vec<_>>>()?;
        Ok(Box::new(CpuProgram { nodes, pool: self.pool.clone(), turn: self.turn.clone() }))
    }

    fn memory(&self) -> MemoryUse {
        self.memory.get()
    }
}

/// An operand as it is lent to a kernel.
#[derive(Clone)]
struct Lent {
    desc: TensorDesc,
    span: Span,
}

struct PreparedCall {
    kernel: HostKernel,
    inputs: Vec<Lent>,
    output: Lent,
    scratch: Option<Lent>,
}

fn host_calls(node: BoundNode) -> Result<Vec<PreparedCall>> {
    let fail = |reason: String| Error::Lowering { node: node.path.clone(), op: node.op, variant: node.variant, reason };
    node.launches.iter().map(|l| host_call(l).map_err(fail)).collect()
}

/// Sorts a launch's arguments by slot, and proves what `run` relies on: ranges within buffers, aligned, and nothing written
/// that overlaps another operand.
fn host_call(bound: &BoundLaunch) -> Result<PreparedCall, String> {
    let Code::Host(kernel) = &bound.launch.code else { return Err("a device kernel on the CPU".into()) };
    let (mut inputs, mut output, mut scratch) = (Vec::new(), None, None);
    for a in &bound.args {
        let lent = Lent { desc: a.desc, span: a.span.clone() };
        let start = locate(&a.span).map_err(|e| e.to_string())?;
        if !(start.as_ptr() as u64).is_multiple_of(ALIGN) {
            return Err(format!("an operand at offset {} is not aligned to {ALIGN}", a.span.offset));
        }
        match (a.slot, a.access) {
            (Slot::Input(_), Access::Read) => inputs.push(lent),
            (Slot::Input(i), Access::Write) => return Err(format!("writes its operand {i}")),
            (Slot::Output, _) => output = Some(lent),
            (Slot::Scratch, _) => scratch = Some(lent),
            (slot @ (Slot::Counters | Slot::Summary | Slot::SummaryOf(_)), _) => {
                return Err(format!("{slot:?}, which no host kernel has"));
            }
        }
    }
    if inputs.len() > MAX_INPUTS {
        return Err(format!("{} operands (at most {MAX_INPUTS})", inputs.len()));
    }
    let output = output.ok_or("no output")?;
    let written = [Some(&output), scratch.as_ref()];
    for (i, w) in written.iter().enumerate().filter_map(|(i, w)| w.map(|w| (i, w))) {
        let others = inputs.iter().chain(written.iter().skip(i + 1).flatten().copied());
        for o in others {
            let same = Arc::ptr_eq(&w.span.buffer, &o.span.buffer);
            if same && w.span.offset < o.span.offset + o.span.bytes && o.span.offset < w.span.offset + w.span.bytes {
                return Err("an operand overlaps memory that the launch writes".into());
            }
        }
    }
    Ok(PreparedCall { kernel: kernel.clone(), inputs, output, scratch })
}

struct CpuProgram {
    nodes: Vec<Vec<PreparedCall>>,
    pool: Arc<rayon::ThreadPool>,
    turn: Arc<Mutex<()>>,
}

impl Program for CpuProgram {
    fn run(&self, before: &[CopySpan], after: &[CopySpan], timing: Option<Timing<'_>>) -> Result<()> {
        let _turn = self.turn.lock();
        let started = Instant::now();
        before.iter().try_for_each(copy)?;
        self.pool.install(|| match timing {
            None => self.nodes.iter().flatten().try_for_each(call),
            Some(timing) => self.run_timed(started, timing),
        })?;
        after.iter().try_for_each(copy)
    }
}

impl CpuProgram {
    fn run_timed(&self, started: Instant, timing: Timing<'_>) -> Result<()> {
        let mut flush = if timing.caches == Caches::Flushed { vec![0u64; flush_bytes() / 8] } else { Vec::new() };
        for (node, time) in self.nodes.iter().zip(timing.times) {
            match timing.caches {
                Caches::AsLeft => {}
                // Nothing is written that is read by the same node (`host_call`), so that it may be done twice.
                Caches::Warm => node.iter().try_for_each(call)?,
                Caches::Flushed => flush.par_iter_mut().for_each(|word| *word = word.wrapping_add(1)),
            }
            let begun = started.elapsed();
            node.iter().try_for_each(call)?;
            let seconds = started.elapsed() - begun;
            *time = NodeTime { start: begun.as_secs_f64(), seconds: seconds.as_secs_f64() };
        }
        Ok(())
    }
}

/// Bytes of memory that programs can still get, where the system tells.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// Twice the bytes of the largest cache, where the system tells.
fn flush_bytes() -> usize {
    const USUAL: usize = 128 << 20;
    let size = |i: usize| -> Option<usize> {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{i}/size")).ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok().map(|kib| kib << 10)
    };
    (0..6).filter_map(size).max().map_or(USUAL, |largest| (2 * largest).min(1 << 30))
}

fn copy(c: &CopySpan) -> Result<()> {
    let (from, to) = (locate(&c.from)?, locate(&c.to)?);
    let bytes = c.from.bytes.min(c.to.bytes) as usize;
    // SAFETY: both spans have that many bytes (checked by `locate`); `copy_to` allows overlap; the caller holds the lock.
    unsafe { from.as_ptr().copy_to(to.as_ptr(), bytes) };
    Ok(())
}

fn call(c: &PreparedCall) -> Result<()> {
    const EMPTY: TensorView<'_> =
        TensorView { desc: TensorDesc { shape: crate::tensor::Shape::scalar(), dtype: DType::F32 }, bytes: &[] };
    let mut inputs = [EMPTY; MAX_INPUTS];
    for (slot, lent) in inputs.iter_mut().zip(&c.inputs) {
        let start = locate(&lent.span)?;
        // SAFETY: in bounds (`locate`), initialised at allocation, and nothing writes it during the call: `host_call` proved
        // that outputs and scratch are disjoint from it, and `turn` is held.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), lent.span.bytes as usize) };
        *slot = TensorView { desc: lent.desc, bytes };
    }
    let start = locate(&c.output.span)?;
    // SAFETY: in bounds, initialised, and disjoint from every other operand (`host_call`); `turn` is held.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), c.output.span.bytes as usize) };
    let output = TensorViewMut { desc: c.output.desc, bytes };
    let scratch: &mut [u8] = match &c.scratch {
        None => &mut [],
        Some(s) => {
            let start = locate(&s.span)?;
            // SAFETY: as for the output.
            unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), s.span.bytes as usize) }
        }
    };
    (c.kernel.run)(HostCall { inputs: &inputs[..c.inputs.len()], output, scratch });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_memory_than_there_is_is_refused() -> Result<()> {
        let cpu = CpuBackend::new(Some(1))?;
        // What systems that do not tell would promise is not tried.
        let much = available_memory().map_or(u64::MAX, |_| 1 << 46);
        for bytes in [much, u64::MAX] {
            let refused = cpu.allocate(bytes, "a test").map(drop);
            assert!(matches!(refused, Err(Error::OutOfMemory { wanted, .. }) if wanted == bytes), "{refused:?}");
        }
        assert!(available_memory().is_none_or(|n| n > 0));
        Ok(())
    }
}
