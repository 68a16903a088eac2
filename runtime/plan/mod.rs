//! A plan: a graph bound to a device. Kernels are chosen and compiled, activations laid out, weights resident.

mod lower;
mod memory;
mod report;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::arena::Place;
use crate::backend::{Buffer, CopySpan, Program, Span};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::host::HostTensor;
use crate::profile::{Caches, NodeTime, Profile, Timing};
use crate::record::RecordedRun;
use crate::tensor::{Tensor, TensorDesc};

pub use self::lower::Pins;
pub use self::report::{NodeReport, PlanReport, Resident};

/// How a plan is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanOptions {
    /// Preferred variants.
    pub pins: Pins,
    /// Bytes kept free round every activation, so that [`Plan::guards_intact`] finds writes out of bounds. No memory is
    /// shared then. 0 turns guards off.
    pub guard: u64,
}

struct Io {
    name: String,
    desc: TensorDesc,
    span: Span,
}

/// Keeps the weights of a plan on its device, in the layouts it uses, when the plan and its arena are gone: the next plan of
/// the same network finds them there.
#[derive(Clone)]
pub struct KeptWeights(Vec<Arc<dyn Buffer>>);

impl fmt::Debug for KeptWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptWeights({} buffers)", self.0.len())
    }
}

/// A graph bound to a device, ready to run any number of times. A run allocates nothing but its results.
pub struct Plan {
    /// Tells plans of a process apart.
    id: u64,
    device: Device,
    inputs: Vec<Io>,
    states: Vec<Io>,
    outputs: Vec<Io>,
    program: Box<dyn Program>,
    report: PlanReport,
    arena: Vec<Arc<dyn Buffer>>,
    weights: KeptWeights,
    guards: Vec<(Place, u64)>,
    /// Runs share the arena, so they take turns, and so do plans that share one.
    turn: Arc<Mutex<()>>,
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
        Plan::bind(graph, device, options, None)
    }

    /// Binds a graph to the device of another plan, whose arena it uses as far as that is large enough: plans that never run
    /// at the same time need the memory of the largest only. Guarded plans share nothing.
    ///
    /// # Errors
    /// As for [`Plan::new`].
    pub fn beside(graph: &Graph, other: &Plan, options: &PlanOptions) -> Result<Plan> {
        let guarded = options.guard > 0 || !other.guards.is_empty();
        Plan::bind(graph, &other.device, options, (!guarded).then_some(other))
    }

    fn bind(graph: &Graph, device: &Device, options: &PlanOptions, other: Option<&Plan>) -> Result<Plan> {
        let lowered = lower::lower_all(graph, device, &options.pins)?;
        let shared = other.map_or(&[][..], |plan| &plan.arena);
        let memory = memory::Memory::new(graph, device, &lowered, options, shared)?;
        let report = report::report(graph, &lowered, &memory);
        let nodes = memory::bind(graph, &lowered, &memory)?;
        let program = device.backend().compile(nodes)?;
        let io = |name: &str, v: Value| -> Result<Io> {
            Ok(Io { name: name.into(), desc: graph.desc(v), span: memory.span(v)? })
        };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Plan {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            device: device.clone(),
            inputs: graph.inputs.iter().map(|v| io(graph.name_of(*v), *v)).collect::<Result<_>>()?,
            states: graph.states.iter().map(|v| io(graph.name_of(*v), *v)).collect::<Result<_>>()?,
            outputs: graph.outputs.iter().map(|(name, v)| io(name, *v)).collect::<Result<_>>()?,
            program,
            report,
            weights: KeptWeights(memory.weights.into_values().map(|span| span.buffer).collect()),
            arena: memory.slabs,
            guards: memory.guards,
            turn: other.map_or_else(Arc::default, |plan| plan.turn.clone()),
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

    /// A hold on its weights that outlives it.
    pub fn weights(&self) -> KeptWeights {
        self.weights.clone()
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
        let Some(recorder) = self.device.recorder() else { return self.execute(inputs, outputs, None) };
        let start = recorder.seconds();
        let profile = self.profile(inputs, outputs)?;
        recorder.add(self.id, &self.report, RecordedRun { start, profile });
        Ok(())
    }

    /// Runs once and times every node on the device's clock.
    ///
    /// # Errors
    /// As for [`Plan::run_into`].
    pub fn profile(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<Profile> {
        self.profile_in(Caches::AsLeft, inputs, outputs)
    }

    /// Runs once and times every node on the device's clock, each with its caches in this state. The results are those of
    /// any run; the nodes' times add up to a run's only with [`Caches::AsLeft`].
    ///
    /// # Errors
    /// As for [`Plan::run_into`].
    pub fn profile_in(&self, caches: Caches, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<Profile> {
        let mut nodes = vec![NodeTime::default(); self.report.nodes.len()];
        let started = Instant::now();
        self.execute(inputs, outputs, Some(Timing { times: &mut nodes, caches }))?;
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

    fn execute(&self, inputs: &[&Tensor], outputs: &[Tensor], timing: Option<Timing<'_>>) -> Result<()> {
        let before = self
            .copies(&self.inputs, inputs.iter().copied(), "operands", |own, given| CopySpan { from: given, to: own })?;
        let after =
            self.copies(&self.outputs, outputs.iter(), "results", |own, given| CopySpan { from: own, to: given })?;
        let _turn = self.turn.lock();
        self.program.run(&before, &after, timing)
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

    /// Fills the arena with bytes that read as NaN in every dtype, and guards with others that do, by which tools that
    /// watch memory know them.
    ///
    /// # Errors
    /// The device's errors.
    pub fn poison(&self) -> Result<()> {
        for (i, slab) in self.arena.iter().enumerate() {
            let mut bytes = vec![0xFF; slab.bytes() as usize];
            for (place, length) in self.guards.iter().filter(|(place, _)| place.slab == i) {
                let start = place.offset as usize;
                (start..start + *length as usize).for_each(|at| bytes[at] = GUARD[at % 2]);
            }
            self.device.backend().write(&**slab, 0, &bytes)?;
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
            if found.iter().zip(place.offset..).any(|(&b, at)| b != GUARD[(at % 2) as usize]) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What guards hold, at even and odd places: NaN as f32, f16 and bf16.
const GUARD: [u8; 2] = [0xC3, 0xFF];

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
