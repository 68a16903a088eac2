//! A plan: a graph bound to a device. Kernels are chosen and compiled, activations laid out, weights resident.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::arena::{self, Lifetime, Place};
use crate::backend::{Backend, BoundArg, BoundLaunch, BoundNode, Buffer, Caps, CopySpan, Program, Span};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Origin, Value};
use crate::op::{Access, Arg, Code, Cost, Launch, Lowering, Prepare, Site, Slot, Variant};
use crate::profile::{NodeTime, Profile};
use crate::tensor::{DType, HostTensor, Shape, Tensor, TensorDesc, TensorView};

/// Which variants to prefer over the default order: `attention:simple,conv2d:tiled`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pins {
    rules: Vec<(String, String)>,
    /// A pinned variant that does not fit is an error, instead of giving way to the default order.
    pub strict: bool,
}

impl Pins {
    /// Reads `op:variant,op:variant`.
    ///
    /// # Errors
    /// A part without a colon.
    pub fn parse(text: &str) -> Result<Pins> {
        let rule = |part: &str| match part.trim().split_once(':') {
            Some((op, variant)) => Ok((op.to_string(), variant.to_string())),
            None => Err(Error::Call(format!("pin {part:?} is not of the form op:variant"))),
        };
        let rules = text.split(',').filter(|p| !p.trim().is_empty()).map(rule).collect::<Result<_>>()?;
        Ok(Pins { rules, strict: false })
    }

    /// Reads the environment variable `MUYBRIDGE_PIN`.
    ///
    /// # Errors
    /// A part without a colon.
    pub fn from_env() -> Result<Pins> {
        std::env::var("MUYBRIDGE_PIN").map_or_else(|_| Ok(Pins::default()), |text| Pins::parse(&text))
    }

    /// Exactly this variant of this op, or an error.
    pub fn exactly(op: &str, variant: &str) -> Pins {
        Pins { rules: vec![(op.into(), variant.into())], strict: true }
    }

    fn get(&self, op: &str) -> Option<&str> {
        self.rules.iter().find(|(o, _)| o == op).map(|(_, v)| v.as_str())
    }
}

/// How a plan is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanOptions {
    /// Preferred variants.
    pub pins: Pins,
    /// Bytes kept free round every activation, so that [`Plan::guards_intact`] finds writes out of bounds. No memory is
    /// shared then. 0 turns guards off.
    pub guard: u64,
}

/// What a plan does for one node.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Path in the checkpoint.
    pub path: String,
    /// Name of the op.
    pub op: &'static str,
    /// Chosen variant.
    pub variant: &'static str,
    /// Number of launches.
    pub launches: usize,
    /// Most launches that the variant declares.
    pub declared: u32,
    /// Work.
    pub cost: Cost,
    /// Operands.
    pub inputs: Vec<TensorDesc>,
    /// Result.
    pub output: TensorDesc,
    /// Bytes of scratch.
    pub scratch: u64,
    /// The step's part of the arena that is alive: activations and scratch, in bytes.
    pub live: u64,
}

/// What a plan consists of.
#[derive(Clone, Debug, Default)]
pub struct PlanReport {
    /// One entry per node, in the order of execution.
    pub nodes: Vec<NodeReport>,
    /// Bytes of the arena.
    pub arena: u64,
    /// The most bytes alive at one step: no arena can be smaller.
    pub arena_lower_bound: u64,
    /// Bytes of the weights in the layouts that the plan uses.
    pub weights: u64,
    /// Bytes of states.
    pub states: u64,
}

impl PlanReport {
    /// Launches of one run.
    pub fn launches(&self) -> usize {
        self.nodes.iter().map(|n| n.launches).sum()
    }

    /// Work of one run.
    pub fn cost(&self) -> Cost {
        let mut total = Cost::default();
        self.nodes.iter().for_each(|n| total += n.cost);
        total
    }
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |b: u64| b as f64 / (1 << 20) as f64;
        write!(
            f,
            "{} nodes, {} launches, {:.1} GFLOP, arena {:.1} MiB (lower bound {:.1}), weights {:.1} MiB, states {:.1} MiB",
            self.nodes.len(),
            self.launches(),
            self.cost().flop as f64 / 1e9,
            mib(self.arena),
            mib(self.arena_lower_bound),
            mib(self.weights),
            mib(self.states),
        )
    }
}

struct Io {
    name: String,
    desc: TensorDesc,
    span: Span,
}

/// A graph bound to a device, ready to run any number of times. A run allocates nothing but its results.
pub struct Plan {
    device: Device,
    inputs: Vec<Io>,
    states: Vec<Io>,
    outputs: Vec<Io>,
    program: Box<dyn Program>,
    report: PlanReport,
    arena: Vec<Arc<dyn Buffer>>,
    guards: Vec<(Place, u64)>,
    /// Runs share the arena, so they take turns.
    turn: Mutex<()>,
}

impl Plan {
    /// Binds a graph to a device, with the pins of `MUYBRIDGE_PIN`.
    ///
    /// # Errors
    /// A node that no kernel fits, a kernel that does not compile, too little memory, a weight that cannot be read.
    pub fn new(graph: &Graph, device: &Device) -> Result<Plan> {
        Plan::with(graph, device, &PlanOptions { pins: Pins::from_env()?, guard: 0 })
    }

    /// Binds a graph to a device.
    ///
    /// # Errors
    /// As for [`Plan::new`].
    pub fn with(graph: &Graph, device: &Device, options: &PlanOptions) -> Result<Plan> {
        let lowered = lower_all(graph, device.caps(), &options.pins)?;
        let memory = Memory::new(graph, device, &lowered, options)?;
        let report = report(graph, &lowered, &memory);
        let nodes = bind(graph, device.caps(), &lowered, &memory)?;
        let program = device.backend().compile(nodes)?;
        let io = |name: &str, v: Value| -> Result<Io> {
            Ok(Io { name: name.into(), desc: graph.desc(v), span: memory.span(v)? })
        };
        Ok(Plan {
            device: device.clone(),
            inputs: graph.inputs.iter().map(|v| io(graph.name_of(*v), *v)).collect::<Result<_>>()?,
            states: graph.states.iter().map(|v| io(graph.name_of(*v), *v)).collect::<Result<_>>()?,
            outputs: graph.outputs.iter().map(|(name, v)| io(name, *v)).collect::<Result<_>>()?,
            program,
            report,
            arena: memory.slabs,
            guards: memory.guards,
            turn: Mutex::default(),
        })
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Launches, memory and work.
    pub fn report(&self) -> &PlanReport {
        &self.report
    }

    /// Names and descriptions of the operands of [`Plan::run`], in order.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, TensorDesc)> {
        self.inputs.iter().map(|io| (io.name.as_str(), io.desc))
    }

    /// Names and descriptions of the results of [`Plan::run`], in order.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, TensorDesc)> {
        self.outputs.iter().map(|io| (io.name.as_str(), io.desc))
    }

    /// Names and descriptions of the states that [`Plan::set`] takes.
    pub fn states(&self) -> impl Iterator<Item = (&str, TensorDesc)> {
        self.states.iter().map(|io| (io.name.as_str(), io.desc))
    }

    /// Copies a host tensor into a state, where it stays until it is set again.
    ///
    /// # Errors
    /// No state of this name, another shape or dtype, or the device's errors.
    pub fn set(&self, name: &str, tensor: &HostTensor) -> Result<()> {
        let io = self.states.iter().find(|io| io.name == name);
        let io = io.ok_or_else(|| Error::Call(format!("the plan has no state {name:?}")))?;
        check(name, io.desc, tensor.desc())?;
        let _turn = self.turn.lock();
        self.device.backend().write(&*io.span.buffer, io.span.offset, tensor.bytes())
    }

    /// Runs once. `inputs` are in the order of [`Plan::inputs`], on this plan's device; the results are new tensors.
    ///
    /// # Errors
    /// Operands that do not fit, and the device's errors.
    pub fn run(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let outputs = self.empty_outputs()?;
        self.run_into(inputs, &outputs)?;
        Ok(outputs)
    }

    /// Tensors that [`Plan::run_into`] can write its results to.
    ///
    /// # Errors
    /// Out of memory.
    pub fn empty_outputs(&self) -> Result<Vec<Tensor>> {
        self.outputs.iter().map(|io| self.device.empty(io.desc, &io.name)).collect()
    }

    /// Runs once into existing tensors; allocates nothing on the device.
    ///
    /// # Errors
    /// Operands that do not fit, and the device's errors.
    pub fn run_into(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        self.execute(inputs, outputs, None)
    }

    /// Runs once and times every node on the device's clock.
    ///
    /// # Errors
    /// As for [`Plan::run_into`].
    pub fn profile(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<Profile> {
        let mut nodes = vec![NodeTime::default(); self.report.nodes.len()];
        let started = Instant::now();
        self.execute(inputs, outputs, Some(&mut nodes))?;
        Ok(Profile { nodes, wall: started.elapsed().as_secs_f64() })
    }

    /// Runs once on host tensors: uploads, runs, downloads.
    ///
    /// # Errors
    /// As for [`Plan::run`].
    pub fn run_host(&self, inputs: &[&HostTensor]) -> Result<Vec<HostTensor>> {
        let tensors = inputs.iter().map(|t| self.device.tensor(t)).collect::<Result<Vec<_>>>()?;
        let refs: Vec<&Tensor> = tensors.iter().collect();
        self.run(&refs)?.iter().map(Tensor::to_host).collect()
    }

    fn execute(&self, inputs: &[&Tensor], outputs: &[Tensor], times: Option<&mut [NodeTime]>) -> Result<()> {
        let before = self
            .copies(&self.inputs, inputs.iter().copied(), "operands", |own, given| CopySpan { from: given, to: own })?;
        let after =
            self.copies(&self.outputs, outputs.iter(), "results", |own, given| CopySpan { from: own, to: given })?;
        let _turn = self.turn.lock();
        self.program.run(&before, &after, times)
    }

    fn copies<'a>(
        &self,
        own: &[Io],
        given: impl ExactSizeIterator<Item = &'a Tensor>,
        what: &str,
        pair: impl Fn(Span, Span) -> CopySpan,
    ) -> Result<Vec<CopySpan>> {
        if given.len() != own.len() {
            let names: Vec<&str> = own.iter().map(|io| io.name.as_str()).collect();
            return Err(Error::Call(format!(
                "{} {what} given, {} wanted: {}",
                given.len(),
                own.len(),
                names.join(", ")
            )));
        }
        let one = |(io, tensor): (&Io, &Tensor)| {
            check(&io.name, io.desc, tensor.desc)?;
            if tensor.device.id() != self.device.id() {
                let (there, here) = (tensor.device.name(), self.device.name());
                return Err(Error::Call(format!("{} is on {there}, the plan is on {here}", io.name)));
            }
            let span = Span { buffer: tensor.buffer.clone(), offset: 0, bytes: io.desc.bytes() };
            Ok(pair(io.span.clone(), span))
        };
        own.iter().zip(given).map(one).collect()
    }

    /// Fills the arena, guards included, with bytes that read as NaN in every dtype.
    ///
    /// # Errors
    /// The device's errors.
    pub fn poison(&self) -> Result<()> {
        for slab in &self.arena {
            self.device.backend().write(&**slab, 0, &vec![0xFF; slab.bytes() as usize])?;
        }
        Ok(())
    }

    /// Whether the guards round every activation still hold what [`Plan::poison`] wrote. Needs [`PlanOptions::guard`].
    ///
    /// # Errors
    /// The device's errors.
    pub fn guards_intact(&self) -> Result<bool> {
        for (place, bytes) in &self.guards {
            let mut found = vec![0; *bytes as usize];
            self.device.backend().read(&*self.arena[place.slab], place.offset, &mut found)?;
            if found.iter().any(|&b| b != 0xFF) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plan on {}: {}", self.device.name(), self.report)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.report, f)
    }
}

fn check(name: &str, want: TensorDesc, got: TensorDesc) -> Result<()> {
    if want == got {
        return Ok(());
    }
    Err(Error::Tensor { name: name.into(), want: want.to_string(), got: got.to_string() })
}

struct Lowered {
    variant: Variant,
    lowering: Lowering,
}

fn lower_all(graph: &Graph, caps: &Caps, pins: &Pins) -> Result<Vec<Lowered>> {
    graph.nodes.iter().map(|node| lower_node(graph, node, caps, pins)).collect()
}

fn lower_node(graph: &Graph, node: &Node, caps: &Caps, pins: &Pins) -> Result<Lowered> {
    let inputs: Vec<TensorDesc> = node.inputs.iter().map(|v| graph.desc(*v)).collect();
    let is_weight: Vec<bool> = node.inputs.iter().map(|v| matches!(graph.origin(*v), Origin::Weight(_))).collect();
    let site = Site { inputs: &inputs, is_weight: &is_weight, output: graph.desc(node.output), caps };
    let pinned = pins.get(node.op.name());
    let mut candidates: Vec<&Variant> = node.op.variants().iter().filter(|v| v.target == caps.target).collect();
    if let Some(name) = pinned {
        candidates.sort_by_key(|v| v.name != name);
        if pins.strict {
            candidates.retain(|v| v.name == name);
        }
    }
    for variant in &candidates {
        if let Some(lowering) = node.op.lower(variant, &site) {
            let ok = launchable(&lowering, variant, &site);
            ok.map_err(|reason| Error::Lowering {
                node: node.path.clone(),
                op: node.op.name(),
                variant: variant.name,
                reason,
            })?;
            return Ok(Lowered { variant: **variant, lowering });
        }
    }
    Err(Error::NoVariant {
        node: node.path.clone(),
        op: node.op.name(),
        target: caps.target.name(),
        inputs: inputs.iter().map(TensorDesc::to_string).collect::<Vec<_>>().join(" "),
        considered: candidates.iter().map(|v| v.name).collect::<Vec<_>>().join(", "),
    })
}

/// Checks a lowering against the device's limits, so that a driver never sees an invalid launch.
fn launchable(lowering: &Lowering, variant: &Variant, site: &Site<'_>) -> Result<(), String> {
    let caps = site.caps;
    let whole = site.inputs.iter().chain([&site.output]).all(|d| d.bytes() <= caps.max_binding)
        && lowering.scratch <= caps.max_binding;
    if whole && lowering.launches.len() > variant.launches as usize {
        return Err(format!("{} launches, {} declared", lowering.launches.len(), variant.launches));
    }
    for launch in &lowering.launches {
        if matches!(launch.code, Code::Host(_)) != (caps.target == crate::Target::Cpu) {
            return Err("code for another kind of device".into());
        }
        if let Some(g) = launch.grid.iter().find(|&&g| g == 0 || g > caps.max_workgroups) {
            return Err(format!("{g} workgroups in one dimension (1..={})", caps.max_workgroups));
        }
        let block: u32 = launch.block.iter().product();
        if block == 0 || block > caps.max_invocations || launch.shared > caps.max_shared {
            return Err(format!("{block} invocations, {} shared bytes", launch.shared));
        }
        if launch.args.len() > caps.max_storage_bindings as usize {
            return Err(format!("{} bindings of {}", launch.args.len(), caps.max_storage_bindings));
        }
        for arg in &launch.args {
            let size = operand_bytes(arg, lowering, site).ok_or("an argument names no operand")?;
            let end = arg.offset.checked_add(arg.bytes.unwrap_or(size.saturating_sub(arg.offset)));
            let len = end.map_or(0, |e| e - arg.offset);
            if end.is_none_or(|e| e > size.next_multiple_of(16)) || len > caps.max_binding {
                return Err(format!("bytes {}..+{len} of {:?}, which has {size}", arg.offset, arg.slot));
            }
            if arg.offset % caps.binding_align != 0 {
                return Err(format!(
                    "{:?} is bound at {}, not a multiple of {}",
                    arg.slot, arg.offset, caps.binding_align
                ));
            }
        }
    }
    Ok(())
}

/// Bytes of an argument's operand in the layout that the kernel sees.
fn operand_bytes(arg: &Arg, lowering: &Lowering, site: &Site<'_>) -> Option<u64> {
    match arg.slot {
        Slot::Input(i) => match lowering.prepare.iter().find(|(p, _)| *p == i) {
            Some((_, prepare)) => Some(prepare.desc.bytes()),
            None => site.inputs.get(i).map(TensorDesc::bytes),
        },
        Slot::Output => Some(site.output.bytes()),
        Slot::Scratch => Some(lowering.scratch),
    }
}

/// Memory of every value of a plan.
struct Memory {
    slabs: Vec<Arc<dyn Buffer>>,
    spans: HashMap<Value, Span>,
    /// Weights by value and layout.
    weights: HashMap<(Value, String), Span>,
    scratch: Vec<Option<Span>>,
    guards: Vec<(Place, u64)>,
    live: Vec<u64>,
    arena: u64,
    lower_bound: u64,
    weight_bytes: u64,
    state_bytes: u64,
}

impl Memory {
    fn new(graph: &Graph, device: &Device, lowered: &[Lowered], options: &PlanOptions) -> Result<Memory> {
        let (owners, lifetimes) = lifetimes(graph, lowered, options.guard > 0);
        let caps = device.caps();
        let align = caps.binding_align.max(16);
        let guard = options.guard.next_multiple_of(align);
        let padded: Vec<Lifetime> = lifetimes
            .iter()
            .map(|l| Lifetime { bytes: l.bytes.max(1).next_multiple_of(align) + 2 * guard, ..*l })
            .collect();
        let layout = arena::layout(&padded, align, caps.max_buffer).map_err(|i| Error::OutOfMemory {
            device: device.name().into(),
            what: format!("the activation of {}", owners[i].describe(graph)),
            wanted: lifetimes[i].bytes,
            limit: Some(caps.max_buffer),
        })?;
        let slabs = layout
            .slabs
            .iter()
            .map(|&bytes| device.allocate(bytes, "the arena of activations"))
            .collect::<Result<Vec<_>>>()?;
        let mut memory = Memory {
            slabs,
            spans: HashMap::new(),
            weights: HashMap::new(),
            scratch: vec![None; lowered.len()],
            guards: Vec::new(),
            live: live_bytes(&lifetimes, lowered.len()),
            arena: layout.bytes(),
            lower_bound: layout.lower_bound,
            weight_bytes: 0,
            state_bytes: 0,
        };
        for ((owner, life), place) in owners.iter().zip(&lifetimes).zip(&layout.places) {
            let start = place.offset + guard;
            let span = Span { buffer: memory.slabs[place.slab].clone(), offset: start, bytes: life.bytes };
            match owner {
                Owner::Value(v) => drop(memory.spans.insert(*v, span)),
                Owner::Scratch(node) => memory.scratch[*node] = Some(span),
            }
            if guard > 0 {
                memory.guards.push((*place, guard));
                // From the value's last byte on, so that a write one element too far is seen.
                let end = start + life.bytes;
                let after = place.offset + padded_end(life.bytes, align, guard) - end;
                memory.guards.push((Place { offset: end, ..*place }, after));
            }
        }
        for v in &graph.states {
            let bytes = graph.desc(*v).bytes();
            let buffer = device.allocate(bytes, graph.name_of(*v))?;
            memory.state_bytes += bytes;
            memory.spans.insert(*v, Span { buffer, offset: 0, bytes });
        }
        memory.place_weights(graph, device, lowered)?;
        Ok(memory)
    }

    fn place_weights(&mut self, graph: &Graph, device: &Device, lowered: &[Lowered]) -> Result<()> {
        for (node, l) in graph.nodes.iter().zip(lowered) {
            for (i, v) in node.inputs.iter().enumerate() {
                let prepare = l.lowering.prepare.iter().find(|(p, _)| *p == i).map(|(_, p)| p);
                self.place_weight(graph, device, *v, prepare)?;
            }
        }
        Ok(())
    }

    fn place_weight(&mut self, graph: &Graph, device: &Device, v: Value, prepare: Option<&Prepare>) -> Result<()> {
        let Origin::Weight(weight) = graph.origin(v) else { return Ok(()) };
        let layout = prepare.map_or(String::new(), |p| p.layout.clone());
        if self.weights.contains_key(&(v, layout.clone())) {
            return Ok(());
        }
        let bytes = prepare.map_or(weight.desc(), |p| p.desc).bytes();
        let buffer = weight.resident(device.id(), prepare, || upload(device.backend(), weight, prepare, bytes))?;
        self.weight_bytes += bytes;
        self.weights.insert((v, layout), Span { buffer, offset: 0, bytes });
        Ok(())
    }

    fn span(&self, v: Value) -> Result<Span> {
        let span = self.spans.get(&v).or_else(|| self.weights.get(&(v, String::new())));
        span.cloned().ok_or_else(|| Error::Call("a weight that no node uses as stored cannot be a result".into()))
    }
}

fn padded_end(bytes: u64, align: u64, guard: u64) -> u64 {
    bytes.max(1).next_multiple_of(align) + 2 * guard
}

fn upload(
    backend: &dyn Backend,
    weight: &crate::Weight,
    prepare: Option<&Prepare>,
    bytes: u64,
) -> Result<Arc<dyn Buffer>> {
    let buffer = backend.allocate(bytes.next_multiple_of(16).max(16), &format!("weight {}", weight.name()))?;
    if !backend.is_trace() {
        match prepare {
            None => backend.write(&*buffer, 0, &weight.bytes())?,
            Some(p) => {
                let made = (p.make)(TensorView { desc: weight.desc(), bytes: &weight.bytes() })?;
                if made.desc() != p.desc {
                    let reason = format!("layout {} gave {}, promised {}", p.layout, made.desc(), p.desc);
                    return Err(Error::Weight { name: weight.name().into(), reason });
                }
                backend.write(&*buffer, 0, made.bytes())?;
            }
        }
        weight.release();
    }
    Ok(buffer)
}

enum Owner {
    Value(Value),
    Scratch(usize),
}

impl Owner {
    fn describe<'g>(&self, graph: &'g Graph) -> &'g str {
        match self {
            Owner::Value(v) => graph.name_of(*v),
            Owner::Scratch(node) => &graph.nodes[*node].path,
        }
    }
}

/// Who needs arena memory, and when. `forever` keeps everything apart for good.
fn lifetimes(graph: &Graph, lowered: &[Lowered], forever: bool) -> (Vec<Owner>, Vec<Lifetime>) {
    let end = graph.nodes.len();
    let mut last: HashMap<Value, usize> = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        last.extend(node.inputs.iter().map(|v| (*v, i)));
    }
    last.extend(graph.outputs.iter().map(|(_, v)| (*v, end)));
    let (mut owners, mut lifetimes) = (Vec::new(), Vec::new());
    let mut add = |owner, first: usize, last: usize, bytes| {
        owners.push(owner);
        let (first, last) = if forever { (0, end) } else { (first, last) };
        lifetimes.push(Lifetime { first, last, bytes });
    };
    for v in &graph.inputs {
        add(Owner::Value(*v), 0, last.get(v).copied().unwrap_or(0), graph.desc(*v).bytes());
    }
    for (i, (node, l)) in graph.nodes.iter().zip(lowered).enumerate() {
        let bytes = graph.desc(node.output).bytes();
        add(Owner::Value(node.output), i, last.get(&node.output).copied().unwrap_or(i), bytes);
        if l.lowering.scratch > 0 {
            add(Owner::Scratch(i), i, i, l.lowering.scratch);
        }
    }
    (owners, lifetimes)
}

fn live_bytes(lifetimes: &[Lifetime], steps: usize) -> Vec<u64> {
    let alive = |step| lifetimes.iter().filter(move |l| l.first <= step && step <= l.last).map(|l| l.bytes).sum();
    (0..steps).map(alive).collect()
}

fn bind(graph: &Graph, caps: &Caps, lowered: &[Lowered], memory: &Memory) -> Result<Vec<BoundNode>> {
    let mut nodes = Vec::with_capacity(lowered.len());
    for (i, (node, l)) in graph.nodes.iter().zip(lowered).enumerate() {
        let fail = |reason: &str| Error::Lowering {
            node: node.path.clone(),
            op: node.op.name(),
            variant: l.variant.name,
            reason: reason.into(),
        };
        let bind_arg = |arg: &Arg| -> Result<BoundArg> {
            let (whole, desc, is_weight) = match arg.slot {
                Slot::Input(k) => operand(graph, memory, node, l, k).ok_or_else(|| fail("an operand has no memory"))?,
                Slot::Output => (memory.span(node.output)?, graph.desc(node.output), false),
                Slot::Scratch => {
                    let span = memory.scratch[i].clone().ok_or_else(|| fail("uses scratch it did not ask for"))?;
                    let words = TensorDesc { shape: Shape::from([(span.bytes / 4) as usize]), dtype: DType::F32 };
                    (span, words, false)
                }
            };
            if is_weight && arg.access == Access::Write {
                return Err(fail("writes a weight"));
            }
            let bytes = arg.bytes.unwrap_or(whole.bytes.saturating_sub(arg.offset));
            let span = Span { buffer: whole.buffer, offset: whole.offset + arg.offset, bytes };
            Ok(BoundArg { slot: arg.slot, access: arg.access, is_weight, desc, span })
        };
        let bind_launch = |launch: &Launch| -> Result<BoundLaunch> {
            let args = launch.args.iter().map(bind_arg).collect::<Result<_>>()?;
            Ok(BoundLaunch { launch: launch.clone(), args })
        };
        let launches = l.lowering.launches.iter().map(bind_launch).collect::<Result<_>>()?;
        debug_assert!(caps.target == l.variant.target);
        nodes.push(BoundNode { path: node.path.clone(), op: node.op.name(), variant: l.variant.name, launches });
    }
    Ok(nodes)
}

/// Memory of operand `k`, its description there, and whether it is a weight.
fn operand(graph: &Graph, memory: &Memory, node: &Node, l: &Lowered, k: usize) -> Option<(Span, TensorDesc, bool)> {
    let v = *node.inputs.get(k)?;
    if !matches!(graph.origin(v), Origin::Weight(_)) {
        return Some((memory.spans.get(&v)?.clone(), graph.desc(v), false));
    }
    let prepare = l.lowering.prepare.iter().find(|(p, _)| *p == k).map(|(_, p)| p);
    let layout = prepare.map_or(String::new(), |p| p.layout.clone());
    let desc = prepare.map_or(graph.desc(v), |p| p.desc);
    Some((memory.weights.get(&(v, layout))?.clone(), desc, true))
}

fn report(graph: &Graph, lowered: &[Lowered], memory: &Memory) -> PlanReport {
    let node = |(i, (node, l)): (usize, (&Node, &Lowered))| NodeReport {
        path: node.path.clone(),
        op: node.op.name(),
        variant: l.variant.name,
        launches: l.lowering.launches.len(),
        declared: l.variant.launches,
        cost: graph.cost(node),
        inputs: node.inputs.iter().map(|v| graph.desc(*v)).collect(),
        output: graph.desc(node.output),
        scratch: l.lowering.scratch,
        live: memory.live[i],
    };
    PlanReport {
        nodes: graph.nodes.iter().zip(lowered).enumerate().map(node).collect(),
        arena: memory.arena,
        arena_lower_bound: memory.lower_bound,
        weights: memory.weight_bytes,
        states: memory.state_bytes,
    }
}
