//! A graph: values, and nodes that make them, in the order in which they run.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::op::{Cost, Op};
use crate::tensor::TensorDesc;
use crate::weight::Weight;

/// A tensor of a graph, before it has memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Value(pub(crate) u32);

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Handed to every run.
    Input {
        /// Name of the operand.
        name: String,
    },
    /// Set now and then, and kept from run to run in memory of its own (keys and values of a context).
    State {
        /// Name of the operand.
        name: String,
    },
    /// A constant of the checkpoint.
    Weight(Weight),
    /// Made by the node of this index.
    Node(usize),
}

/// One op applied to values.
#[derive(Clone, Debug)]
pub struct Node {
    /// Path in the checkpoint: `up_blocks.1.resnets.0.norm1`.
    pub path: String,
    /// What is done.
    pub op: Arc<dyn Op>,
    /// Operands.
    pub inputs: Vec<Value>,
    /// Result.
    pub output: Value,
}

#[derive(Debug)]
pub(crate) struct ValueInfo {
    pub desc: TensorDesc,
    pub origin: Origin,
}

/// A network as a list of nodes in the order of execution. Shapes are checked as nodes are added.
#[derive(Debug, Default)]
pub struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) values: Vec<ValueInfo>,
    pub(crate) inputs: Vec<Value>,
    pub(crate) states: Vec<Value>,
    pub(crate) outputs: Vec<(String, Value)>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    fn push(&mut self, desc: TensorDesc, origin: Origin) -> Value {
        self.values.push(ValueInfo { desc, origin });
        Value(self.values.len() as u32 - 1)
    }

    /// An operand of every run, in the order of the calls.
    pub fn input(&mut self, name: impl Into<String>, desc: TensorDesc) -> Value {
        let v = self.push(desc, Origin::Input { name: name.into() });
        self.inputs.push(v);
        v
    }

    /// An operand that is set by [`Plan::set`](crate::Plan::set) and kept from run to run.
    pub fn state(&mut self, name: impl Into<String>, desc: TensorDesc) -> Value {
        let v = self.push(desc, Origin::State { name: name.into() });
        self.states.push(v);
        v
    }

    /// A constant of the checkpoint. The same weight gives the same value.
    pub fn weight(&mut self, weight: &Weight) -> Value {
        let same = |v: &ValueInfo| matches!(&v.origin, Origin::Weight(w) if w.key() == weight.key());
        match self.values.iter().position(same) {
            Some(i) => Value(i as u32),
            None => self.push(weight.desc(), Origin::Weight(weight.clone())),
        }
    }

    /// Appends a node and gives its result.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with the node's path, where the operands do not fit the op.
    pub fn node(&mut self, path: &str, op: impl Op + 'static, inputs: &[Value]) -> Result<Value> {
        self.node_of(path, Arc::new(op), inputs)
    }

    /// Appends a node of a shared op and gives its result.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with the node's path, where the operands do not fit the op.
    pub fn node_of(&mut self, path: &str, op: Arc<dyn Op>, inputs: &[Value]) -> Result<Value> {
        let descs: Vec<TensorDesc> = inputs.iter().map(|v| self.desc(*v)).collect();
        let desc = op.infer(&descs).map_err(|m| Error::Mismatch { node: path.into(), op: op.name(), reason: m.0 })?;
        let output = self.push(desc, Origin::Node(self.nodes.len()));
        self.nodes.push(Node { path: path.into(), op, inputs: inputs.to_vec(), output });
        Ok(output)
    }

    /// Makes a value a result of the run, in the order of the calls.
    pub fn output(&mut self, name: impl Into<String>, value: Value) {
        self.outputs.push((name.into(), value));
    }

    /// The same graph without the nodes and weights that no result needs. Operands stay, needed or not.
    #[must_use]
    pub fn pruned(&self) -> Graph {
        let mut needed = vec![false; self.values.len()];
        let kept = self.inputs.iter().chain(&self.states).chain(self.outputs.iter().map(|(_, v)| v));
        kept.for_each(|v| needed[v.0 as usize] = true);
        for node in self.nodes.iter().rev() {
            if needed[node.output.0 as usize] {
                node.inputs.iter().for_each(|v| needed[v.0 as usize] = true);
            }
        }
        let mut graph = Graph::new();
        let mut places = vec![Value(u32::MAX); self.values.len()];
        for (i, value) in self.values.iter().enumerate().filter(|(i, _)| needed[*i]) {
            let origin = match &value.origin {
                Origin::Node(n) => {
                    let node = &self.nodes[*n];
                    let inputs = node.inputs.iter().map(|v| places[v.0 as usize]).collect();
                    let output = Value(graph.values.len() as u32);
                    graph.nodes.push(Node { inputs, output, ..node.clone() });
                    Origin::Node(graph.nodes.len() - 1)
                }
                other => other.clone(),
            };
            places[i] = graph.push(value.desc, origin);
        }
        let moved = |v: &Value| places[v.0 as usize];
        graph.inputs = self.inputs.iter().map(moved).collect();
        graph.states = self.states.iter().map(moved).collect();
        graph.outputs = self.outputs.iter().map(|(name, v)| (name.clone(), moved(v))).collect();
        graph
    }

    /// Shape and dtype of a value.
    pub fn desc(&self, value: Value) -> TensorDesc {
        self.values[value.0 as usize].desc
    }

    /// Where a value comes from.
    pub fn origin(&self, value: Value) -> &Origin {
        &self.values[value.0 as usize].origin
    }

    /// All nodes, in the order of execution.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Names and descriptions of the operands of a run.
    pub fn input_descs(&self) -> impl Iterator<Item = (&str, TensorDesc)> {
        self.inputs.iter().map(|v| (self.name_of(*v), self.desc(*v)))
    }

    /// Names and descriptions of the results of a run.
    pub fn output_descs(&self) -> impl Iterator<Item = (&str, TensorDesc)> {
        self.outputs.iter().map(|(name, v)| (name.as_str(), self.desc(*v)))
    }

    pub(crate) fn name_of(&self, value: Value) -> &str {
        match self.origin(value) {
            Origin::Input { name } | Origin::State { name } => name,
            Origin::Weight(w) => w.name(),
            Origin::Node(i) => &self.nodes[*i].path,
        }
    }

    /// Work of one node.
    pub fn cost(&self, node: &Node) -> Cost {
        let descs: Vec<TensorDesc> = node.inputs.iter().map(|v| self.desc(*v)).collect();
        node.op.cost(&descs, &self.desc(node.output))
    }

    /// Bytes of all weights as stored, each counted once.
    pub fn weight_bytes(&self) -> u64 {
        self.values.iter().filter(|v| matches!(v.origin, Origin::Weight(_))).map(|v| v.desc.bytes()).sum()
    }
}
