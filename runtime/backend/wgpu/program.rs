//! A compiled plan: prepared pipelines and bind groups, encoded anew for each run because wgpu's command buffers are
//! single-use.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use wgpu::{
    BindGroup, BufferUsages, CommandEncoder, ComputePass, ComputePassTimestampWrites, ComputePipeline, SubmissionIndex,
};

use super::adapter::Stamps;
use super::gpu::Gpu;
use super::pipeline::Key;
use super::stamps::Clock;
use super::transfer::WORD;
use crate::backend::{BoundLaunch, BoundNode, Buffer, CopySpan, MemoryCounter, Program};
use crate::error::{Error, Result};
use crate::profile::{Caches, NodeTime, Timing};

/// Runs that may be under way at once. A caller who never reads does not fill the driver's queue.
const IN_FLIGHT: usize = 4;

/// Bytes that leave nothing of use in a device's caches: no interface tells their size, and the largest hold some 100 MiB.
const FLUSH: u64 = 128 << 20;

/// Unit of a binding's size: the widest element of WGSL.
const UNIT: u64 = 16;

struct Prepared {
    pipeline: ComputePipeline,
    /// Whether the launch before it uses the same pipeline.
    same: bool,
    bindings: BindGroup,
    grid: [u32; 3],
}

struct PreparedNode {
    path: String,
    launches: Range<usize>,
}

/// Parameters of all launches in one uniform buffer.
struct Params {
    raw: wgpu::Buffer,
    memory: Arc<MemoryCounter>,
}

impl Drop for Params {
    fn drop(&mut self) {
        self.memory.remove(self.raw.size());
    }
}

pub(super) struct WgpuProgram {
    gpu: Arc<Gpu>,
    nodes: Vec<PreparedNode>,
    launches: Vec<Prepared>,
    /// Keeps what the bind groups refer to, and the weights resident.
    _buffers: Vec<Arc<dyn Buffer>>,
    _params: Option<Params>,
    in_flight: Mutex<VecDeque<SubmissionIndex>>,
}

impl WgpuProgram {
    pub fn new(gpu: Arc<Gpu>, nodes: Vec<BoundNode>) -> Result<WgpuProgram> {
        let mut keys = Vec::new();
        for node in &nodes {
            let fail = |reason: &str| Error::Lowering {
                node: node.path.clone(),
                op: node.op,
                variant: node.variant,
                reason: reason.into(),
            };
            for launch in &node.launches {
                keys.push(Key::of(launch).ok_or_else(|| fail("host code on a GPU"))?);
            }
        }
        let pipelines = gpu.pipelines(&keys)?;
        let bound: Vec<&BoundLaunch> = nodes.iter().flat_map(|n| &n.launches).collect();
        let (params, ranges) = upload_params(&gpu, &bound)?;
        let mut launches: Vec<Prepared> = Vec::with_capacity(bound.len());
        for (((launch, (key, _)), pipeline), range) in bound.iter().zip(&keys).zip(pipelines).zip(ranges) {
            let bindings = bind(&gpu, key, launch, params.as_ref(), range)?;
            let same = launches.last().is_some_and(|l| l.pipeline == pipeline);
            launches.push(Prepared { pipeline, same, bindings, grid: launch.launch.grid });
        }
        let mut end = 0;
        let mut prepared = |n: &BoundNode| {
            let start = end;
            end += n.launches.len();
            PreparedNode { path: n.path.clone(), launches: start..end }
        };
        Ok(WgpuProgram {
            nodes: nodes.iter().map(&mut prepared).collect(),
            launches,
            _buffers: distinct_buffers(&bound),
            _params: params,
            in_flight: Mutex::default(),
            gpu,
        })
    }

    fn encode(&self, before: &[CopySpan], after: &[CopySpan], watch: Option<&Watch>) -> Result<CommandEncoder> {
        let gpu = &*self.gpu;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        before.iter().try_for_each(|c| copy(gpu, &mut encoder, c))?;
        match watch {
            None => {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                self.launches.iter().for_each(|l| launch(&mut pass, l, l.same));
            }
            Some(watch) if gpu.stamps == Stamps::InsidePass && watch.flush.is_none() => {
                self.encode_stamped(&mut encoder, watch);
            }
            Some(watch) => self.encode_passes(&mut encoder, watch),
        }
        after.iter().try_for_each(|c| copy(gpu, &mut encoder, c))?;
        Ok(encoder)
    }

    /// One pass with a timestamp before and after each node.
    fn encode_stamped(&self, encoder: &mut CommandEncoder, watch: &Watch) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for (i, node) in self.nodes.iter().enumerate() {
            pass.push_debug_group(&node.path);
            if watch.twice {
                self.launches[node.launches.clone()].iter().for_each(|l| launch(&mut pass, l, l.same));
            }
            watch.clock.stamp(&mut pass, 2 * i);
            let launches = self.launches[node.launches.clone()].iter().enumerate();
            launches.for_each(|(k, l)| launch(&mut pass, l, l.same && !(k == 0 && watch.twice)));
            watch.clock.stamp(&mut pass, 2 * i + 1);
            pass.pop_debug_group();
        }
    }

    /// One pass per node with a timestamp at either end.
    fn encode_passes(&self, encoder: &mut CommandEncoder, watch: &Watch) {
        for (i, node) in self.nodes.iter().enumerate() {
            if let Some(flush) = &watch.flush {
                encoder.clear_buffer(flush, 0, None);
            }
            if watch.twice {
                self.encode_pass(encoder, node, None);
            }
            self.encode_pass(encoder, node, Some(watch.clock.ends(2 * i)));
        }
    }

    fn encode_pass(
        &self,
        encoder: &mut CommandEncoder,
        node: &PreparedNode,
        timestamp_writes: Option<ComputePassTimestampWrites<'_>>,
    ) {
        let desc = wgpu::ComputePassDescriptor { label: Some(&node.path), timestamp_writes };
        let mut pass = encoder.begin_compute_pass(&desc);
        // A pass begins with no pipeline.
        let launches = self.launches[node.launches.clone()].iter().enumerate();
        launches.for_each(|(k, l)| launch(&mut pass, l, l.same && k > 0));
    }

    fn run_timed(&self, before: &[CopySpan], after: &[CopySpan], timing: Timing<'_>) -> Result<()> {
        let gpu = &*self.gpu;
        if gpu.stamps == Stamps::None {
            return Err(Error::Unsupported(format!("{} cannot time its own work", gpu.name)));
        }
        let watch = Watch::new(gpu, self.nodes.len(), timing.caches)?;
        gpu.guarded("a timed run", 0, || {
            let mut encoder = self.encode(before, after, Some(&watch))?;
            watch.clock.resolve(&mut encoder);
            Ok(gpu.queue.submit([encoder.finish()]))
        })??;
        let ticks = watch.clock.read(gpu)?;
        let first = ticks.first().copied().unwrap_or(0);
        let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 * watch.clock.period;
        for (i, time) in timing.times.iter_mut().enumerate().take(self.nodes.len()) {
            let (start, end) = (ticks[2 * i], ticks[2 * i + 1]);
            *time = NodeTime { start: seconds(first, start), seconds: seconds(start, end) };
        }
        Ok(())
    }

    /// Waits until fewer than [`IN_FLIGHT`] runs are under way, and notes another.
    fn follow(&self, submission: SubmissionIndex) -> Result<()> {
        let oldest = {
            let mut in_flight = self.in_flight.lock().unwrap_or_else(|e| e.into_inner());
            in_flight.push_back(submission);
            if in_flight.len() < IN_FLIGHT { None } else { in_flight.pop_front() }
        };
        oldest.map_or(Ok(()), |s| self.gpu.wait(Some(s)))
    }
}

impl Program for WgpuProgram {
    fn run(&self, before: &[CopySpan], after: &[CopySpan], timing: Option<Timing<'_>>) -> Result<()> {
        if let Some(timing) = timing {
            return self.run_timed(before, after, timing);
        }
        let gpu = &*self.gpu;
        let started = Instant::now();
        let submission = gpu.guarded("a run", 0, || {
            let commands = self.encode(before, after, None)?.finish();
            let encoded = started.elapsed().as_secs_f64() * 1e6;
            tracing::trace!(
                nodes = self.nodes.len(),
                launches = self.launches.len(),
                microseconds = encoded,
                "encoded"
            );
            Ok(gpu.queue.submit([commands]))
        })??;
        self.follow(submission)
    }
}

/// How a run is timed.
struct Watch {
    clock: Clock,
    /// Each node is launched once before it is timed.
    twice: bool,
    /// Written before each node: more than the device's caches hold.
    flush: Option<wgpu::Buffer>,
}

impl Watch {
    fn new(gpu: &Gpu, nodes: usize, caches: Caches) -> Result<Watch> {
        let bytes = FLUSH.min(gpu.caps.max_buffer);
        let buffer = || gpu.create_buffer(bytes, BufferUsages::COPY_DST, "memory to flush caches with");
        let flush = (caches == Caches::Flushed).then(buffer).transpose()?;
        Ok(Watch { clock: Clock::new(gpu, (2 * nodes).max(1))?, twice: caches == Caches::Warm, flush })
    }
}

fn launch(pass: &mut ComputePass<'_>, l: &Prepared, same: bool) {
    if !same {
        pass.set_pipeline(&l.pipeline);
    }
    pass.set_bind_group(0, &l.bindings, &[]);
    pass.dispatch_workgroups(l.grid[0], l.grid[1], l.grid[2]);
}

/// Whole words are copied: every operand is padded to 16 bytes at least, so nothing else is touched.
fn copy(gpu: &Gpu, encoder: &mut CommandEncoder, c: &CopySpan) -> Result<()> {
    let (from, to) = (gpu.own_span(&c.from)?, gpu.own_span(&c.to)?);
    let bytes = c.from.bytes.min(c.to.bytes).next_multiple_of(WORD);
    to.fresh.store(false, Ordering::Relaxed);
    if bytes > 0 {
        encoder.copy_buffer_to_buffer(&from.raw, c.from.offset, &to.raw, c.to.offset, bytes);
    }
    Ok(())
}

/// Puts the parameters of all launches into one buffer. Gives each launch's range in it, empty where it has none.
fn upload_params(gpu: &Gpu, launches: &[&BoundLaunch]) -> Result<(Option<Params>, Vec<Range<u64>>)> {
    let align = u64::from(gpu.device.limits().min_uniform_buffer_offset_alignment).max(UNIT) as usize;
    let mut all: Vec<u8> = Vec::new();
    let mut ranges = Vec::with_capacity(launches.len());
    for l in launches {
        let start = all.len();
        all.extend_from_slice(&l.launch.params);
        all.resize(all.len().next_multiple_of(UNIT as usize), 0);
        ranges.push(start as u64..all.len() as u64);
        all.resize(all.len().next_multiple_of(align), 0);
    }
    if all.is_empty() {
        return Ok((None, ranges));
    }
    let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
    let raw = gpu.create_buffer(all.len() as u64, usage, "the parameters of a plan")?;
    gpu.memory.add(raw.size());
    let params = Params { raw, memory: gpu.memory.clone() };
    gpu.guarded("the parameters of a plan", all.len() as u64, || gpu.queue.write_buffer(&params.raw, 0, &all))?;
    Ok((Some(params), ranges))
}

fn bind(gpu: &Gpu, key: &Key, launch: &BoundLaunch, params: Option<&Params>, range: Range<u64>) -> Result<BindGroup> {
    let binding = |buffer, offset, bytes: u64| wgpu::BufferBinding {
        buffer,
        offset,
        size: wgpu::BufferSize::new(bytes.next_multiple_of(UNIT).max(UNIT)),
    };
    let mut bindings = Vec::with_capacity(launch.args.len() + 1);
    for arg in &launch.args {
        let own = gpu.own_span(&arg.span)?;
        own.fresh.store(false, Ordering::Relaxed);
        bindings.push(binding(&own.raw, arg.span.offset, arg.span.bytes));
    }
    if let Some(params) = params.filter(|_| !range.is_empty()) {
        bindings.push(binding(&params.raw, range.start, range.end - range.start));
    }
    let entry = |(i, b)| wgpu::BindGroupEntry { binding: i as u32, resource: wgpu::BindingResource::Buffer(b) };
    let entries: Vec<_> = bindings.into_iter().enumerate().map(entry).collect();
    let layout = gpu.layout(key.signature)?;
    let desc = wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries };
    gpu.guarded("binding a launch", 0, || gpu.device.create_bind_group(&desc))
}

fn distinct_buffers(launches: &[&BoundLaunch]) -> Vec<Arc<dyn Buffer>> {
    let mut all: Vec<_> = launches.iter().flat_map(|l| &l.args).map(|a| a.span.buffer.clone()).collect();
    let address = |b: &Arc<dyn Buffer>| Arc::as_ptr(b).cast::<()>() as usize;
    all.sort_by_key(address);
    all.dedup_by_key(|b| address(b));
    all
}
