//! What a plan consists of, for people and tools.

use std::fmt;

use super::lower::Lowered;
use super::memory::Memory;
use crate::graph::{Graph, Node};
use crate::op::Cost;
use crate::tensor::TensorDesc;

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

pub(super) fn report(graph: &Graph, lowered: &[Lowered], memory: &Memory) -> PlanReport {
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
