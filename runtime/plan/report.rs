//! What a plan consists of, for people and tools.

use std::fmt;
use std::sync::Arc;

use super::lower::Lowered;
use super::memory::Memory;
use crate::graph::{Graph, Node, Origin};
use crate::op::{Cost, Op};
use crate::tensor::TensorDesc;

/// What a plan does for one node.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Path in the checkpoint.
    pub path: String,
    /// Name of the op.
    pub op: &'static str,
    /// The op itself.
    pub spec: Arc<dyn Op>,
    /// Chosen variant.
    pub variant: &'static str,
    /// Chosen tiling, where it is not the variant's own choice.
    pub tile: Option<&'static str>,
    /// Whether a measurement on this device chose them.
    pub tuned: bool,
    /// Number of launches.
    pub launches: usize,
    /// Most launches that the variant declares.
    pub declared: u32,
    /// Work.
    pub cost: Cost,
    /// Operands.
    pub inputs: Vec<TensorDesc>,
    /// For each operand, whether it is a weight.
    pub is_weight: Vec<bool>,
    /// Bytes of its weights in the layouts that it reads.
    pub weights: u64,
    /// Result.
    pub output: TensorDesc,
    /// Bytes of scratch.
    pub scratch: u64,
    /// The step's part of the arena that is alive: activations and scratch, in bytes.
    pub live: u64,
}

impl NodeReport {
    /// Variant and tiling: `tiled`, `tiled@8x64`.
    pub fn kernel(&self) -> String {
        match self.tile {
            Some(tile) => format!("{}@{tile}", self.variant),
            None => self.variant.into(),
        }
    }
}

/// A value's place in the arena, and the steps at which it is alive.
#[derive(Clone, Debug)]
pub struct Resident {
    /// Path of the node that makes it, or name of the operand.
    pub name: String,
    /// Whether it is scratch memory.
    pub scratch: bool,
    /// First step that it is needed at.
    pub first: usize,
    /// Last step that it is needed at; the number of steps for a result.
    pub last: usize,
    /// Its size.
    pub bytes: u64,
    /// Slab of the arena.
    pub slab: usize,
    /// First byte within the slab.
    pub offset: u64,
}

/// What a plan consists of.
#[derive(Clone, Debug, Default)]
pub struct PlanReport {
    /// One entry per node, in the order of execution.
    pub nodes: Vec<NodeReport>,
    /// Everything that is ever in the arena.
    pub residents: Vec<Resident>,
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

pub(super) fn report(graph: &Graph, lowered: &[Lowered], memory: &Memory) -> PlanReport {
    let weights = |node: &Node, l: &Lowered| -> u64 {
        let stored = |k: usize| l.lowering.prepare.iter().find(|(p, _)| *p == k).map(|(_, p)| p.desc);
        let weights = node.inputs.iter().enumerate().filter(|(_, v)| matches!(graph.origin(**v), Origin::Weight(_)));
        weights.map(|(k, v)| stored(k).unwrap_or(graph.desc(*v)).bytes()).sum()
    };
    let node = |(i, (node, l)): (usize, (&Node, &Lowered))| NodeReport {
        path: node.path.clone(),
        op: node.op.name(),
        spec: node.op.clone(),
        variant: l.variant.name,
        tile: l.tile,
        tuned: l.tuned,
        launches: l.lowering.launches.len(),
        declared: l.variant.launches,
        cost: graph.cost(node),
        inputs: node.inputs.iter().map(|v| graph.desc(*v)).collect(),
        is_weight: node.inputs.iter().map(|v| matches!(graph.origin(*v), Origin::Weight(_))).collect(),
        weights: weights(node, l),
        output: graph.desc(node.output),
        scratch: l.lowering.scratch,
        live: memory.live[i],
    };
    PlanReport {
        nodes: graph.nodes.iter().zip(lowered).enumerate().map(node).collect(),
        residents: memory.residents.clone(),
        arena: memory.arena,
        arena_lower_bound: memory.lower_bound,
        weights: memory.weight_bytes,
        states: memory.state_bytes,
    }
}
