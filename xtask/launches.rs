//! The kernels that plans of published networks launch, and those of the ops' cases, on devices that are not there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use muybridge::kernels::OPS;
use muybridge::presets::Preset;
use muybridge::runtime::backend::trace::TraceBackend;
use muybridge::runtime::backend::{Backend, BoundNode, Buffer, Program};
use muybridge::runtime::source::{self, Constant};
use muybridge::runtime::{
    self, Caps, Code, KernelSource, Launch, MemoryUse, Pins, PlanOptions, PlanReport, Target, Variant,
};
use muybridge::{ControlNet, DType, Device, Unet, UnetShape, Vae, Weights};

use crate::Outcome;
use crate::chips::Chip;

/// A kernel's text, its file in the repository and its entry point.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    /// Path of the source.
    pub file: &'static str,
    /// Name of the kernel in the text.
    pub entry: &'static str,
    /// The whole text, as NVRTC is given it.
    pub text: String,
}

/// How a kernel is launched: by its largest launch, where there are several.
#[derive(Clone, Debug)]
pub struct Use {
    /// Op and variant.
    pub kernel: (&'static str, &'static str),
    /// Dtype of the node's result.
    pub dtype: DType,
    /// Constants that specialise the text, as `NAME=value`.
    pub constants: String,
    /// Plan or case, and path of the node.
    pub site: String,
    /// Launches of this kernel in all plans that were looked at.
    pub launches: usize,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
    /// Floating-point operations of the node that the largest launch belongs to.
    pub flop: u64,
    /// Bytes of the operands of the largest launch, each moved once.
    pub bytes: u64,
}

/// Kernels and how they are launched.
pub type Uses = BTreeMap<Kernel, Use>;

/// A network at a size.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Name of the preset.
    pub preset: &'static str,
    /// Pictures at once.
    pub batch: usize,
    /// Side of the latents.
    pub side: usize,
}

/// What the issue of speed is judged by: a guided step of SD 1.5 and of SDXL, ControlNet beside it, and decoding.
pub const JUDGED: [Work; 4] = [
    Work { preset: "sd15-unet", batch: 2, side: 64 },
    Work { preset: "sd15-controlnet", batch: 2, side: 64 },
    Work { preset: "sdxl-unet", batch: 2, side: 128 },
    Work { preset: "sd-vae", batch: 1, side: 64 },
];

/// A device that plans and runs nothing, and notes what would be launched.
#[derive(Debug)]
struct Noting {
    trace: TraceBackend,
    seen: Arc<Mutex<Vec<BoundNode>>>,
}

impl Backend for Noting {
    fn caps(&self) -> &Caps {
        self.trace.caps()
    }

    fn allocate(&self, bytes: u64, what: &str) -> runtime::Result<Arc<dyn Buffer>> {
        self.trace.allocate(bytes, what)
    }

    fn write(&self, buffer: &dyn Buffer, offset: u64, bytes: &[u8]) -> runtime::Result<()> {
        self.trace.write(buffer, offset, bytes)
    }

    fn read(&self, buffer: &dyn Buffer, offset: u64, bytes: &mut [u8]) -> runtime::Result<()> {
        self.trace.read(buffer, offset, bytes)
    }

    fn compile(&self, nodes: Vec<BoundNode>) -> runtime::Result<Box<dyn Program>> {
        self.seen.lock().unwrap_or_else(|e| e.into_inner()).extend(nodes);
        self.trace.compile(Vec::new())
    }

    fn memory(&self) -> MemoryUse {
        self.trace.memory()
    }

    fn is_trace(&self) -> bool {
        true
    }
}

/// Adds the kernels of a network's plans on this chip, with the pins that are given.
///
/// # Errors
/// No preset has the name, or it cannot be planned.
pub fn of_network(uses: &mut Uses, chip: &Chip, work: Work, dtype: DType, pins: &str) -> Outcome<()> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let backend = Noting { trace: TraceBackend::like(chip.caps()), seen: seen.clone() };
    let device = Device::from_backend(chip.name(), Arc::new(backend));
    let reports = plan(&device, work, dtype, Pins::parse(pins)?)?;
    let nodes = std::mem::take(&mut *seen.lock().unwrap_or_else(|e| e.into_inner()));
    // The plans were made in the order of their reports.
    for (node, report) in nodes.iter().zip(reports.iter().flat_map(|r| &r.nodes)) {
        if (&node.path, node.op) != (&report.path, report.op) {
            return Err(format!("{}: planned in another order than reported", node.path).into());
        }
        for launch in &node.launches {
            let bytes = launch.args.iter().map(|a| a.span.bytes).sum();
            let site = format!("{} {}", work.preset, node.path);
            let kernel = (node.op, node.variant);
            add(uses, &launch.launch, Use { bytes, ..used(kernel, report.output.dtype, site, report.cost.flop) });
        }
    }
    Ok(())
}

fn used(kernel: (&'static str, &'static str), dtype: DType, site: String, flop: u64) -> Use {
    Use { kernel, dtype, constants: String::new(), site, launches: 1, threads: 0, shared: 0, flop, bytes: 0 }
}

fn add(uses: &mut Uses, launch: &Launch, found: Use) {
    let Code::Kernel(source) = &launch.code else { return };
    let text = source::cuda(source, &launch.args);
    let threads = launch.block.iter().product();
    let found = Use { constants: constants(source), threads, shared: launch.shared, ..found };
    let kernel = Kernel { file: source.file, entry: source.entry, text };
    match uses.get_mut(&kernel) {
        None => drop(uses.insert(kernel, found)),
        Some(known) => {
            let (launches, shared) = (known.launches + found.launches, known.shared.max(found.shared));
            let larger = if (found.flop, found.bytes) > (known.flop, known.bytes) { found } else { known.clone() };
            *known = Use { launches, shared, ..larger };
        }
    }
}

/// What specialises a text: the constants that its file names.
fn constants(source: &KernelSource) -> String {
    let value = |c: &Constant| match c {
        Constant::U32(v) => v.to_string(),
        Constant::F32(v) => v.to_string(),
        Constant::Bool(v) => v.to_string(),
        Constant::Type(t) => t.to_string(),
        Constant::Missing => "none".into(),
    };
    let named = source.constants.iter().filter(|(name, _)| source.text.contains(name));
    named.map(|(name, c)| format!("{name}={}", value(c))).collect::<Vec<_>>().join(" ")
}

/// Reports of a network's plans, in the order in which the device compiled them.
fn plan(device: &Device, work: Work, dtype: DType, pins: Pins) -> Outcome<Vec<PlanReport>> {
    let weights = Weights::procedural(0, DType::F16);
    let preset = Preset::find(work.preset)?;
    let config = preset.config()?;
    let options = PlanOptions { pins, guard: 0 };
    let [batch, side] = [work.batch, work.side];
    let shape = UnetShape { batch, height: side, width: side, dtype, ..UnetShape::default() };
    Ok(match preset.class {
        "AutoencoderKL" => {
            let vae = Vae::of(&config, weights, device)?;
            let mut g = runtime::Graph::new();
            let desc = runtime::TensorDesc::new([batch, side, side, vae.config().latent_channels], dtype);
            let latents = g.input("latents", desc);
            let pixels = vae.decode(&mut g, latents)?;
            g.output("pixels", pixels);
            vec![runtime::Plan::with(&g, device, &options)?.report().clone()]
        }
        "ControlNetModel" => both(&ControlNet::of(&config, weights, device)?.plan_with(shape, &options)?),
        _ => both(&Unet::of(&config, weights, device)?.plan_with(shape, &[], &options)?),
    })
}

fn both(plan: &muybridge::StepPlan) -> Vec<PlanReport> {
    vec![plan.report().clone(), plan.clip_plan().report().clone()]
}

/// Adds the kernels of every case of every op that fit this chip; `take` says which variants.
///
/// # Errors
/// A case whose operands do not fit its op.
pub fn of_cases(uses: &mut Uses, chip: &Chip, dtype: DType, take: impl Fn(&str, &str) -> bool) -> Outcome<()> {
    let caps = chip.caps();
    for entry in OPS {
        for case in (entry.cases)() {
            for variant in entry.variants.iter().filter(|v| v.target == Target::Cuda && take(entry.name, v.name)) {
                let failed = |e: runtime::Mismatch| format!("{}/{}: {e}", entry.name, case.name);
                let Some(lowering) = case.lower(variant, dtype, &caps).map_err(failed)? else { continue };
                let descs: Vec<_> = case.operands.iter().map(|o| o.desc(dtype)).collect();
                let output = case.op.infer(&descs).map_err(failed)?;
                let cost = case.op.cost(&descs, &output);
                let site = format!("case {}", case.name);
                for launch in &lowering.launches {
                    let found = used((entry.name, variant.name), output.dtype, site.clone(), cost.flop);
                    // Cases are no launches of a network, and their operands are not bound.
                    add(uses, launch, Use { launches: 0, bytes: cost.read + cost.write, ..found });
                }
            }
        }
    }
    Ok(())
}

/// Variants for CUDA that only a pin chooses, as pins for all of their ops: `matmul:wgmma,conv2d:wgmma`. Those that round
/// operands below their dtype are left out.
pub fn pinned() -> Vec<String> {
    let mut names = BTreeSet::new();
    let own = |v: &&Variant| v.target == Target::Cuda && v.name != "tf32";
    for entry in OPS {
        let Some(case) = (entry.cases)().into_iter().next() else { continue };
        names.extend(entry.variants.iter().filter(own).filter(|v| case.op.by_pin(v)).map(|v| v.name));
    }
    let has = |name: &str| {
        let ops = OPS.iter().filter(|e| e.variants.iter().any(|v| v.target == Target::Cuda && v.name == name));
        ops.map(|e| format!("{}:{name}", e.name)).collect::<Vec<_>>().join(",")
    };
    names.into_iter().map(has).collect()
}
