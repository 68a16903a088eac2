//! A compiled plan: one CUDA graph, captured when the plan is made and launched by every run.

use std::ffi::{CString, c_void};
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::result::{self, event, graph, stream};
use cudarc::driver::sys;

use super::gpu::Gpu;
use super::kernel::{Kernel, Key};
use super::nvtx;
use super::tensor_map::TensorMap;
use crate::backend::{BoundLaunch, BoundNode, Buffer, CopySpan, Program};
use crate::error::{Error, Result};
use crate::op::BoxMap;
use crate::profile::{Caches, NodeTime, Timing};

/// A launch with everything that the driver is given.
struct Prepared {
    kernel: Arc<Kernel>,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    addresses: Vec<sys::CUdeviceptr>,
    maps: Vec<TensorMap>,
    /// The bytes of the kernel's `Params`, in words so that they are aligned as its fields are.
    params: Vec<u32>,
}

pub(super) struct CudaProgram {
    gpu: Arc<Gpu>,
    nodes: Vec<Range<usize>>,
    /// Paths of the nodes, as names of ranges.
    names: Vec<CString>,
    launches: Vec<Prepared>,
    /// `None` where there is nothing to launch.
    graph: Option<Graph>,
    /// Keeps what the launches refer to.
    _buffers: Vec<Arc<dyn Buffer>>,
}

/// A captured graph, ready to be launched.
struct Graph(sys::CUgraphExec);

// SAFETY: an opaque handle that any thread may use; a plan's runs take turns, so that it is never launched by two at once.
unsafe impl Send for Graph {}
// SAFETY: as for `Send`.
unsafe impl Sync for Graph {}

impl CudaProgram {
    pub fn new(gpu: Arc<Gpu>, nodes: &[BoundNode]) -> Result<CudaProgram> {
        gpu.enter()?;
        let fail = |node: &BoundNode, reason: &str| Error::Lowering {
            node: node.path.clone(),
            op: node.op,
            variant: node.variant,
            reason: reason.into(),
        };
        let mut keys = Vec::new();
        for (node, launch) in nodes.iter().flat_map(|n| n.launches.iter().map(move |l| (n, l))) {
            if !launch.launch.params.len().is_multiple_of(4) {
                return Err(fail(node, "its parameters are not 32-bit fields"));
            }
            keys.push(Key::of(launch).ok_or_else(|| fail(node, "host code on a GPU"))?);
        }
        let kernels = gpu.load_all(&keys)?;
        let bound = nodes.iter().flat_map(|n| &n.launches);
        let launches = bound
            .zip(kernels)
            .map(|(launch, kernel)| Prepared::new(&gpu, launch, kernel))
            .collect::<Result<Vec<_>>>()?;
        let mut end = 0;
        let ranges = nodes.iter().map(|n| {
            let start = end;
            end += n.launches.len();
            start..end
        });
        let nodes_of = ranges.collect();
        let graph = if launches.is_empty() { None } else { Some(capture(&gpu, &launches)?) };
        let names = nodes.iter().map(|n| nvtx::name(&n.path)).collect();
        Ok(CudaProgram { nodes: nodes_of, names, launches, graph, _buffers: distinct_buffers(nodes), gpu })
    }

    /// Launches node by node between two events: a graph has no place for the timer. A tool that watches sees the node's path
    /// as a range round its launches.
    fn run_timed(&self, timing: Timing<'_>) -> Result<()> {
        let gpu = &*self.gpu;
        if !gpu.caps.timestamps {
            return Err(Error::Unsupported(format!("{}: node times need the driver of CUDA 12.8 or newer", gpu.name)));
        }
        let flush = if timing.caches == Caches::Flushed { Some(Flush::new(gpu)?) } else { None };
        let pair = |_| Ok([Stamp::new(gpu)?, Stamp::new(gpu)?]);
        let stamps = self.nodes.iter().map(pair).collect::<Result<Vec<_>>>()?;
        let tool = nvtx::tool().as_ref().ok();
        for ((node, name), [start, end]) in self.nodes.iter().zip(&self.names).zip(&stamps) {
            let _range = tool.map(|t| t.range(name));
            let launch = || self.launches[node.clone()].iter().try_for_each(|l| l.launch(gpu, gpu.stream));
            if let Some(flush) = &flush {
                flush.write(gpu)?;
            }
            if timing.caches == Caches::Warm {
                launch()?;
            }
            start.record(gpu)?;
            launch()?;
            end.record(gpu)?;
        }
        gpu.wait()?;
        for (time, [start, end]) in timing.times.iter_mut().zip(&stamps) {
            let from = stamps[0][0].seconds_to(gpu, start)?;
            *time = NodeTime { start: from, seconds: start.seconds_to(gpu, end)? };
        }
        Ok(())
    }
}

/// Memory that is written to leave nothing of use in the caches.
struct Flush<'g> {
    gpu: &'g Gpu,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl<'g> Flush<'g> {
    /// Twice as much as the second-level cache holds.
    fn new(gpu: &'g Gpu) -> Result<Flush<'g>> {
        let bytes = 2 * gpu.second_level_cache()?.max(1 << 20);
        let address = gpu.allocate(bytes as u64, "memory to flush caches with")?;
        Ok(Flush { gpu, address, bytes })
    }

    fn write(&self, gpu: &Gpu) -> Result<()> {
        // SAFETY: the range is our own allocation, which lives until after the stream is waited for.
        let done = unsafe { result::memset_d8_async(self.address, 0, self.bytes, gpu.stream) };
        gpu.checked(done, "flushing caches", self.bytes as u64)
    }
}

impl Drop for Flush<'_> {
    fn drop(&mut self) {
        self.gpu.free(self.address);
    }
}

impl Prepared {
    fn new(gpu: &Gpu, bound: &BoundLaunch, kernel: Arc<Kernel>) -> Result<Prepared> {
        let launch = &bound.launch;
        kernel.prepare(gpu, launch.block.iter().product(), launch.shared)?;
        let addresses = bound.args.iter().map(|a| gpu.locate_span(&a.span)).collect::<Result<Vec<_>>>()?;
        let map = |m: &BoxMap| TensorMap::encode(gpu, m, bound.args[m.arg].desc.dtype, addresses[m.arg]);
        Ok(Prepared {
            maps: launch.maps.iter().map(map).collect::<Result<_>>()?,
            kernel,
            grid: launch.grid,
            block: launch.block,
            shared: launch.shared,
            addresses,
            params: bytemuck::pod_collect_to_vec(&launch.params),
        })
    }

    fn launch(&self, gpu: &Gpu, stream: sys::CUstream) -> Result<()> {
        let address = |a: &sys::CUdeviceptr| std::ptr::from_ref(a).cast_mut().cast::<c_void>();
        let mut args: Vec<*mut c_void> = self.addresses.iter().map(address).collect();
        args.extend(self.maps.iter().map(|m| std::ptr::from_ref(m).cast_mut().cast::<c_void>()));
        if !self.params.is_empty() {
            args.push(self.params.as_ptr().cast_mut().cast());
        }
        let dims = |d: [u32; 3]| (d[0], d[1], d[2]);
        let (grid, block) = (dims(self.grid), dims(self.block));
        // SAFETY: the driver copies the arguments before it returns. They are as many and as large as the kernel's parameters,
        // which the generated header declares from the same bindings, followed by tensor maps and the op's `Params`. The addresses are ranges
        // of buffers that the program holds, and kernels stay within them: shapes and ranges were checked when it was planned.
        let done = unsafe { result::launch_kernel(self.kernel.function, grid, block, self.shared, stream, &mut args) };
        gpu.checked(done, "a launch", 0)
    }
}

/// Records the launches on a stream of their own, where they do not run, and makes a graph of them.
fn capture(gpu: &Gpu, launches: &[Prepared]) -> Result<Graph> {
    let what = "capturing a plan";
    let own = gpu.checked(stream::create(stream::StreamKind::NonBlocking), what, 0)?;
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the stream was just made, is used by this thread alone, and is destroyed below, after the capture has ended.
    let captured = unsafe {
        let begun = gpu.checked(stream::begin_capture(own, mode), what, 0);
        let recorded = begun.and_then(|()| {
            let launched = launches.iter().try_for_each(|l| l.launch(gpu, own));
            let ended = gpu.checked(stream::end_capture(own), what, 0);
            if let (Err(_), Ok(part)) = (&launched, &ended) {
                let _ = graph::destroy(*part);
            }
            launched.and(ended)
        });
        let _ = stream::destroy(own);
        recorded?
    };
    // SAFETY: the graph was just captured; its executable form is independent of it. Flags 0: nothing special.
    unsafe {
        let made = graph::instantiate(captured, sys::CUgraphInstantiate_flags(0));
        let _ = graph::destroy(captured);
        let graph = Graph(gpu.checked(made, what, 0)?);
        match gpu.checked(graph::upload(graph.0, gpu.stream), what, 0) {
            Ok(()) => Ok(graph),
            Err(e) => {
                let _ = graph::exec_destroy(graph.0);
                Err(e)
            }
        }
    }
}

impl Program for CudaProgram {
    fn run(&self, before: &[CopySpan], after: &[CopySpan], timing: Option<Timing<'_>>) -> Result<()> {
        let gpu = &*self.gpu;
        gpu.enter()?;
        before.iter().try_for_each(|c| copy(gpu, c))?;
        match (timing, &self.graph) {
            (Some(timing), _) => self.run_timed(timing)?,
            (None, None) => {}
            // SAFETY: graph and stream live as long as `self`.
            (None, Some(graph)) => gpu.checked(unsafe { graph::launch(graph.0, gpu.stream) }, "a run", 0)?,
        }
        after.iter().try_for_each(|c| copy(gpu, c))
    }
}

impl Drop for CudaProgram {
    fn drop(&mut self) {
        if self.gpu.enter().is_err() {
            return;
        }
        // A graph may not be destroyed while it runs. An error means that nothing runs any more.
        let _ = self.gpu.wait();
        if let Some(graph) = &self.graph {
            // SAFETY: made once, destroyed once, and not running.
            let _ = unsafe { graph::exec_destroy(graph.0) };
        }
    }
}

fn copy(gpu: &Gpu, c: &CopySpan) -> Result<()> {
    let (from, to) = (gpu.locate_span(&c.from)?, gpu.locate_span(&c.to)?);
    let bytes = c.from.bytes.min(c.to.bytes);
    if bytes == 0 || from == to {
        return Ok(());
    }
    // SAFETY: both ranges are ours and that long (checked). Copies are asynchronous, and so is the freeing of either buffer.
    gpu.checked(unsafe { result::memcpy_dtod_async(to, from, bytes as usize, gpu.stream) }, "a copy", bytes)
}

/// A moment on the device's clock.
struct Stamp(sys::CUevent);

impl Stamp {
    fn new(gpu: &Gpu) -> Result<Stamp> {
        gpu.checked(event::create(sys::CUevent_flags::CU_EVENT_DEFAULT), "an event", 0).map(Stamp)
    }

    fn record(&self, gpu: &Gpu) -> Result<()> {
        // SAFETY: event and stream are alive.
        gpu.checked(unsafe { event::record(self.0, gpu.stream) }, "an event", 0)
    }

    fn seconds_to(&self, gpu: &Gpu, end: &Stamp) -> Result<f64> {
        // SAFETY: both were recorded, and the stream has been waited for.
        let ms = gpu.checked(unsafe { event::elapsed(self.0, end.0) }, "an event", 0)?;
        Ok(f64::from(ms) * 1e-3)
    }
}

impl Drop for Stamp {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once.
        let _ = unsafe { event::destroy(self.0) };
    }
}

fn distinct_buffers(nodes: &[BoundNode]) -> Vec<Arc<dyn Buffer>> {
    let launches = nodes.iter().flat_map(|n| &n.launches);
    let mut all: Vec<_> = launches.flat_map(|l| &l.args).map(|a| a.span.buffer.clone()).collect();
    let address = |b: &Arc<dyn Buffer>| Arc::as_ptr(b).cast::<()>() as usize;
    all.sort_by_key(address);
    all.dedup_by_key(|b| address(b));
    all
}
