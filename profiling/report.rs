//! A measured plan, as it is kept in a file.

use std::path::Path;

use muybridge_runtime::{Device, NodeReport, PlanReport, files};
use serde::{Deserialize, Serialize};

use crate::error::{self, Error, Result};
use crate::stats::Ratio;
use crate::{Roofs, Sample};

/// Counts changes of the file's form.
const VERSION: u32 = 1;

/// Everything that was measured of one plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the form.
    pub version: u32,
    /// Version of the engine.
    pub engine: String,
    /// What was measured, in words: model, part, shape, dtype.
    pub subject: String,
    /// Seconds since 1970 when it was measured.
    pub time: u64,
    /// Processes that wanted a core when it began, on average over a minute, where the system tells.
    pub load: Option<f64>,
    /// Where.
    pub device: DeviceInfo,
    /// What the device reaches at best.
    pub roofs: Roofs,
    /// What the plan takes.
    pub plan: PlanInfo,
    /// Seconds of whole runs that were not profiled, until their result was on the host.
    pub wall: Sample,
    /// Seconds of whole runs that were profiled, measured in the same way, in turn with the others.
    pub profiled: Sample,
    /// The part of each profiled run that its nodes account for.
    pub accounted: Sample,
    /// Seconds of each profiled run between nodes.
    pub gaps: Sample,
    /// Every node, in the order of execution.
    pub nodes: Vec<NodeSample>,
    /// Everything that is ever in the arena.
    pub memory: Vec<MemoryBlock>,
}

/// The device of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Name that it was opened by.
    pub name: String,
    /// Its own name.
    pub model: String,
    /// Driver or instruction set.
    pub driver: String,
    /// Kernel language.
    pub target: String,
}

impl DeviceInfo {
    /// Of an open device.
    pub fn of(device: &Device) -> DeviceInfo {
        let caps = device.caps();
        DeviceInfo {
            name: device.name().into(),
            model: caps.name.clone(),
            driver: caps.driver.clone(),
            target: caps.target.name().into(),
        }
    }
}

/// Work and memory of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanInfo {
    /// Launches of a run.
    pub launches: usize,
    /// Floating-point operations.
    pub flop: u64,
    /// Bytes that nodes read and write, each operand once.
    pub bytes: u64,
    /// Bytes of the arena.
    pub arena: u64,
    /// No arena can be smaller.
    pub arena_lower_bound: u64,
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of states.
    pub states: u64,
    /// Nodes whose kernel a measurement chose.
    pub tuned: usize,
}

impl PlanInfo {
    /// Of a plan's report.
    pub fn of(r: &PlanReport) -> PlanInfo {
        let cost = r.cost();
        PlanInfo {
            launches: r.launches(),
            flop: cost.flop,
            bytes: cost.read + cost.write,
            arena: r.arena,
            arena_lower_bound: r.arena_lower_bound,
            weights: r.weights,
            states: r.states,
            tuned: r.nodes.iter().filter(|n| n.tuned).count(),
        }
    }
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeSample {
    /// Path in the checkpoint.
    pub path: String,
    /// Name of the op.
    pub op: String,
    /// The op with its attributes.
    pub identity: String,
    /// Variant, and tiling where one was chosen: `tiled@32x64`.
    pub kernel: String,
    /// Launches.
    pub launches: usize,
    /// Floating-point operations.
    pub flop: u64,
    /// Bytes read, each operand once.
    pub read: u64,
    /// Bytes written.
    pub write: u64,
    /// Bytes of weights among those read, in the layout that the kernel reads.
    pub weights: u64,
    /// Bytes of the arena that are alive at this step.
    pub live: u64,
    /// Operands: `f32[1, 64, 64, 320]`.
    pub inputs: Vec<String>,
    /// Result.
    pub output: String,
    /// Seconds with the caches as the nodes before leave them.
    pub seconds: Sample,
    /// Seconds with its own operands in the caches.
    pub warm: Sample,
    /// Seconds with nothing of use in the caches.
    pub flushed: Sample,
    /// Seconds from the run's start to this node, in the run of median time.
    pub start: f64,
    /// Seconds of this node in that run.
    pub took: f64,
}

impl NodeSample {
    pub(crate) fn of(n: &NodeReport) -> NodeSample {
        NodeSample {
            path: n.path.clone(),
            op: n.op.into(),
            identity: n.spec.identity(),
            kernel: n.kernel(),
            launches: n.launches,
            flop: n.cost.flop,
            read: n.cost.read,
            write: n.cost.write,
            weights: n.weights,
            live: n.live,
            inputs: n.inputs.iter().map(ToString::to_string).collect(),
            output: n.output.to_string(),
            ..NodeSample::default()
        }
    }

    /// Bytes read and written.
    pub fn bytes(&self) -> u64 {
        self.read + self.write
    }

    /// Op, first operand and result: `conv2d 1x64x64x320 → 1x64x64x320 f32`. Nodes of one shape do the same work.
    pub fn shape(&self) -> String {
        let plain = |desc: &str| -> String {
            let dims = desc.split_once('[').map_or(desc, |(_, rest)| rest.trim_end_matches(']'));
            dims.replace(", ", "x")
        };
        let dtype = self.output.split('[').next().unwrap_or_default();
        let second = match (self.op.as_str(), self.inputs.get(1)) {
            ("matmul" | "attention", Some(w)) => format!(" · {}", plain(w)),
            _ => String::new(),
        };
        let first = self.inputs.first().map(|d| plain(d)).unwrap_or_default();
        format!("{} {first}{second} → {} {dtype}", self.op, plain(&self.output))
    }
}

/// A value's place in the arena.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryBlock {
    /// The node or operand.
    pub name: String,
    /// Scratch memory.
    pub scratch: bool,
    /// First and last step at which it is needed.
    pub steps: [usize; 2],
    /// Slab of the arena, first byte in it, and length.
    pub place: [u64; 3],
}

impl Report {
    /// Longest file that is read, in bytes.
    pub const MAX_BYTES: u64 = 1 << 30;

    pub(crate) fn new(subject: &str, device: &Device, roofs: Roofs, plan: &PlanReport) -> Report {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Report {
            version: VERSION,
            engine: env!("CARGO_PKG_VERSION").into(),
            subject: subject.into(),
            time: now.map_or(0, |d| d.as_secs()),
            load: load(),
            device: DeviceInfo::of(device),
            roofs,
            plan: PlanInfo::of(plan),
            wall: Sample::default(),
            profiled: Sample::default(),
            accounted: Sample::default(),
            gaps: Sample::default(),
            nodes: plan.nodes.iter().map(NodeSample::of).collect(),
            memory: plan
                .residents
                .iter()
                .map(|r| MemoryBlock {
                    name: r.name.clone(),
                    scratch: r.scratch,
                    steps: [r.first, r.last],
                    place: [r.slab as u64, r.offset, r.bytes],
                })
                .collect(),
        }
    }

    /// Reads a file that [`Report::save`] wrote.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn load(file: &Path) -> Result<Report> {
        let bytes = files::read(file, Report::MAX_BYTES).map_err(|e| Error::file(file, e))?;
        let report: Report =
            serde_json::from_slice(&bytes).map_err(|e| Error::file(file, format!("no profile: {e}")))?;
        if report.version != VERSION {
            return Err(Error::file(
                file,
                format!("a profile of form {}, and {VERSION} is known here", report.version),
            ));
        }
        Ok(report)
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, file: &Path) -> Result<()> {
        error::write(file, self.json().as_bytes())
    }

    /// As JSON.
    pub fn json(&self) -> String {
        // A tree of numbers and strings has a form in JSON; numbers that JSON has not become null.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Seconds that nodes take together, run by run.
    pub fn busy(&self) -> Sample {
        Sample::sum(self.nodes.iter().map(|n| &n.seconds))
    }

    /// How much longer a profiled run takes than one that is not, as a part: 0.02 is 2 %. The runs took turns.
    pub fn overhead(&self) -> f64 {
        Ratio::paired(&self.wall, &self.profiled).map_or(0.0, |r| r.ratio - 1.0)
    }
}

/// Load of the machine over the last minute.
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}
