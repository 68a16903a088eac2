//! Memory of a plan: activations in one arena, states and weights in buffers of their own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::PlanOptions;
use super::lower::Lowered;
use super::report::Resident;
use crate::arena::{self, Lifetime, Place};
use crate::backend::{Backend, BoundArg, BoundLaunch, BoundNode, Buffer, Span};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Origin, Value};
use crate::host::TensorView;
use crate::op::{Access, Arg, Launch, Prepare, Slot};
use crate::tensor::{DType, Shape, TensorDesc};
use crate::weight::Weight;

/// Memory of every value of a plan.
pub(super) struct Memory {
    pub slabs: Vec<Arc<dyn Buffer>>,
    spans: HashMap<Value, Span>,
    /// Weights by value and layout.
    pub weights: HashMap<(Value, String), Span>,
    scratch: Vec<Option<Span>>,
    summaries: Vec<Option<Span>>,
    counters: Option<Span>,
    /// Guarded bytes, where guards were asked for.
    pub guards: Vec<(Place, u64)>,
    /// Everything that is ever in the arena.
    pub residents: Vec<Resident>,
    /// Bytes alive at each step.
    pub live: Vec<u64>,
    /// Bytes of the arena.
    pub arena: u64,
    /// No arena can be smaller.
    pub lower_bound: u64,
    /// Bytes of weights in the layouts used.
    pub weight_bytes: u64,
    /// Bytes of states.
    pub state_bytes: u64,
}

impl Memory {
    /// `shared` are slabs of another plan's arena, to be used again as far as they are large enough.
    pub fn new(
        graph: &Graph,
        device: &Device,
        lowered: &[Lowered],
        options: &PlanOptions,
        shared: &[Arc<dyn Buffer>],
    ) -> Result<Memory> {
        let homes = graph.homes();
        let (owners, lifetimes) = lifetimes(graph, lowered, &homes, options.guard > 0);
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
        let slab = |(i, &bytes): (usize, &u64)| match shared.get(i) {
            Some(there) if there.bytes() >= bytes => Ok(there.clone()),
            _ => device.allocate(bytes, "the arena of activations"),
        };
        let slabs = layout.slabs.iter().enumerate().map(slab).collect::<Result<Vec<_>>>()?;
        let mut memory = Memory {
            slabs,
            spans: HashMap::new(),
            weights: HashMap::new(),
            scratch: vec![None; lowered.len()],
            summaries: vec![None; lowered.len()],
            counters: counters(device, lowered)?,
            guards: Vec::new(),
            residents: Vec::new(),
            live: live_bytes(&lifetimes, lowered.len()),
            arena: layout.bytes(),
            lower_bound: layout.lower_bound,
            weight_bytes: 0,
            state_bytes: 0,
        };
        for ((owner, life), place) in owners.iter().zip(&lifetimes).zip(&layout.places) {
            let start = place.offset + guard;
            let span = Span { buffer: memory.slabs[place.slab].clone(), offset: start, bytes: life.bytes };
            memory.residents.push(Resident {
                name: owner.describe(graph).into(),
                scratch: !matches!(owner, Owner::Value(_)),
                first: life.first,
                last: life.last,
                bytes: life.bytes,
                slab: place.slab,
                offset: start,
            });
            match owner {
                Owner::Value(v) => drop(memory.spans.insert(*v, span)),
                Owner::Scratch(node) => memory.scratch[*node] = Some(span),
                Owner::Summary(node) => memory.summaries[*node] = Some(span),
            }
            if guard > 0 {
                memory.guards.push((*place, guard));
                // From the value's last byte on, so that a write one element too far is seen. Operands of the run are
                // copied in by whole words, and no kernel writes them.
                let copied = matches!(owner, Owner::Value(v) if graph.inputs.contains(v));
                let end = start + if copied { life.bytes.next_multiple_of(4) } else { life.bytes };
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
        memory.place_parts(graph, &homes, align)?;
        memory.place_weights(graph, device, lowered)?;
        Ok(memory)
    }

    /// Gives what lies within other values its bytes of theirs.
    fn place_parts(&mut self, graph: &Graph, homes: &Homes, align: u64) -> Result<()> {
        for v in homes.keys() {
            let (root, offset) = home(homes, *v);
            let Some(whole) = self.spans.get(&root) else { continue };
            if !offset.is_multiple_of(align) {
                let node = graph.name_of(*v).into();
                return Err(Error::Misaligned { node, offset, align });
            }
            let span =
                Span { buffer: whole.buffer.clone(), offset: whole.offset + offset, bytes: graph.desc(*v).bytes() };
            self.spans.insert(*v, span);
        }
        Ok(())
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

    pub fn span(&self, v: Value) -> Result<Span> {
        let span = self.spans.get(&v).or_else(|| self.weights.get(&(v, String::new())));
        span.cloned().ok_or_else(|| Error::Call("a weight that no node uses as stored cannot be a result".into()))
    }
}

/// Zeros for the nodes that count; each leaves them as it found them.
fn counters(device: &Device, lowered: &[Lowered]) -> Result<Option<Span>> {
    let bytes = lowered.iter().map(|l| l.lowering.counters).max().unwrap_or(0);
    if bytes == 0 {
        return Ok(None);
    }
    let buffer = device.allocate(bytes, "the counters of a plan")?;
    if !device.backend().is_trace() {
        device.backend().write(&*buffer, 0, &vec![0; bytes as usize])?;
    }
    Ok(Some(Span { buffer, offset: 0, bytes }))
}

fn padded_end(bytes: u64, align: u64, guard: u64) -> u64 {
    bytes.max(1).next_multiple_of(align) + 2 * guard
}

fn upload(backend: &dyn Backend, weight: &Weight, prepare: Option<&Prepare>, bytes: u64) -> Result<Arc<dyn Buffer>> {
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
    Summary(usize),
}

impl Owner {
    fn describe<'g>(&self, graph: &'g Graph) -> &'g str {
        match self {
            Owner::Value(v) => graph.name_of(*v),
            Owner::Scratch(node) | Owner::Summary(node) => &graph.nodes[*node].path,
        }
    }
}

/// For every value that lies within another one: which, and from which byte on.
type Homes = HashMap<Value, (Value, u64)>;

/// The value that has memory of its own for this one, and the byte within.
fn home(homes: &Homes, mut v: Value) -> (Value, u64) {
    let mut from = 0;
    while let Some((whole, offset)) = homes.get(&v) {
        (v, from) = (*whole, from + offset);
    }
    (v, from)
}

/// Who needs arena memory, and when. `forever` keeps everything apart for good.
fn lifetimes(graph: &Graph, lowered: &[Lowered], homes: &Homes, forever: bool) -> (Vec<Owner>, Vec<Lifetime>) {
    let end = graph.nodes.len();
    let root = |v: Value| home(homes, v).0;
    let mut last: HashMap<Value, usize> = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        // What nobody reads is written all the same.
        last.insert(root(node.output), i);
        last.extend(node.inputs.iter().map(|v| (root(*v), i)));
    }
    last.extend(graph.outputs.iter().map(|(_, v)| (root(*v), end)));
    let mut summaries: HashMap<usize, usize> = HashMap::new();
    for (i, (node, l)) in graph.nodes.iter().zip(lowered).enumerate() {
        for arg in l.lowering.launches.iter().flat_map(|l| &l.args) {
            summaries.extend(maker(graph, node, arg.slot).map(|maker| (maker, i)));
        }
    }
    let (mut owners, mut lifetimes) = (Vec::new(), Vec::new());
    let mut add = |owner, first: usize, last: usize, bytes| {
        owners.push(owner);
        let (first, last) = if forever { (0, end) } else { (first, last) };
        lifetimes.push(Lifetime { first, last, bytes });
    };
    for v in &graph.inputs {
        add(Owner::Value(*v), 0, last.get(v).copied().unwrap_or(0), graph.desc(*v).bytes());
    }
    let mut begun = HashSet::new();
    for (i, (node, l)) in graph.nodes.iter().zip(lowered).enumerate() {
        let whole = root(node.output);
        if begun.insert(whole) {
            add(Owner::Value(whole), i, last.get(&whole).copied().unwrap_or(i), graph.desc(whole).bytes());
        }
        if l.lowering.scratch > 0 {
            add(Owner::Scratch(i), i, i, l.lowering.scratch);
        }
        if let Some(summary) = &l.lowering.summary {
            add(Owner::Summary(i), i, summaries.get(&i).copied().unwrap_or(i), summary.bytes);
        }
    }
    (owners, lifetimes)
}

/// The node whose summary an argument of `node` is.
fn maker(graph: &Graph, node: &Node, slot: Slot) -> Option<usize> {
    let Slot::SummaryOf(k) = slot else { return None };
    let Origin::Node(maker) = *graph.origin(*node.inputs.get(k)?) else { return None };
    Some(maker)
}

fn live_bytes(lifetimes: &[Lifetime], steps: usize) -> Vec<u64> {
    let alive = |step| lifetimes.iter().filter(move |l| l.first <= step && step <= l.last).map(|l| l.bytes).sum();
    (0..steps).map(alive).collect()
}

/// Gives every argument of every launch its bytes.
pub(super) fn bind(graph: &Graph, lowered: &[Lowered], memory: &Memory) -> Result<Vec<BoundNode>> {
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
                Slot::Scratch => words(&memory.scratch[i]).ok_or_else(|| fail("uses scratch it did not ask for"))?,
                Slot::Counters => words(&memory.counters).ok_or_else(|| fail("counts what it did not ask for"))?,
                Slot::Summary => words(&memory.summaries[i]).ok_or_else(|| fail("writes a summary it has not"))?,
                Slot::SummaryOf(_) => maker(graph, node, arg.slot)
                    .and_then(|maker| words(&memory.summaries[maker]))
                    .ok_or_else(|| fail("reads a summary that nobody makes"))?,
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
        nodes.push(BoundNode { path: node.path.clone(), op: node.op.name(), variant: l.variant.name, launches });
    }
    Ok(nodes)
}

/// Memory that is no tensor's.
fn words(span: &Option<Span>) -> Option<(Span, TensorDesc, bool)> {
    let span = span.clone()?;
    let words = TensorDesc { shape: Shape::from([(span.bytes / 4) as usize]), dtype: DType::F32 };
    Some((span, words, false))
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
