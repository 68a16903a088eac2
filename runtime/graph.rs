//! A graph: values, and nodes that make them, in the order in which they run.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::op::{Cost, Op};
use crate::tensor::{Shape, TensorDesc};
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
    /// Items of another value, where they lie: no node makes them.
    Part {
        /// The value.
        of: Value,
        /// The first of its items along the outermost axis.
        first: usize,
    },
    /// Results of nodes one behind the other along the outermost axis: each is written where it lies in the whole.
    Joined(Vec<Value>),
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
    /// The value of each weight by its key.
    weights: HashMap<usize, Value>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    fn push(&mut self, desc: TensorDesc, origin: Origin) -> Value {
        let value = Value(self.values.len() as u32);
        if let Origin::Weight(weight) = &origin {
            self.weights.insert(weight.key(), value);
        }
        self.values.push(ValueInfo { desc, origin });
        value
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
        if let Some(value) = self.weights.get(&weight.key()) {
            return *value;
        }
        self.push(weight.desc(), Origin::Weight(weight.clone()))
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
        let mismatch = |reason: String| Error::Mismatch { node: path.into(), op: op.name(), reason };
        // Ops multiply extents unchecked: operands of a run come with any, and an op's result may be larger than they are.
        let sound = |desc: &TensorDesc| Shape::new(desc.shape.dims()).map(drop).map_err(|e| mismatch(e.to_string()));
        descs.iter().try_for_each(sound)?;
        let desc = op.infer(&descs).map_err(|m| mismatch(m.0))?;
        sound(&desc)?;
        let output = self.push(desc, Origin::Node(self.nodes.len()));
        self.nodes.push(Node { path: path.into(), op, inputs: inputs.to_vec(), output });
        Ok(output)
    }

    /// Items `first..first + count` of a value along its outermost axis, where they lie: no launch, no copy.
    ///
    /// # Errors
    /// Items that the value does not have; a weight, which may lie in another layout than its shape says.
    pub fn part(&mut self, of: Value, first: usize, count: usize) -> Result<Value> {
        let desc = self.desc(of);
        let items = desc.shape.dims().first().copied().unwrap_or(0);
        if count == 0 || first.checked_add(count).is_none_or(|end| end > items) {
            let reason = format!("{count} items of {desc} from {first} on");
            return Err(Error::Mismatch { node: self.name_of(of).into(), op: "part", reason });
        }
        if matches!(self.origin(of), Origin::Weight(_)) {
            let reason = "a weight is bound as a whole".into();
            return Err(Error::Mismatch { node: self.name_of(of).into(), op: "part", reason });
        }
        if count == items {
            return Ok(of);
        }
        let desc = TensorDesc { shape: with_items(desc, count)?, ..desc };
        Ok(self.push(desc, Origin::Part { of, first }))
    }

    /// Results of nodes, one behind the other along the outermost axis, as one value. Their nodes write to where they lie in
    /// it: no launch, no copy.
    ///
    /// # Errors
    /// Values that no node makes, that are part of a whole already, or that differ in more than the outermost axis.
    pub fn join(&mut self, parts: &[Value]) -> Result<Value> {
        let Some(&first) = parts.first() else { return Err(Error::Call("nothing to join".into())) };
        let desc = self.desc(first);
        let fail = |graph: &Graph, v: Value, reason: String| {
            Err(Error::Mismatch { node: graph.name_of(v).into(), op: "join", reason })
        };
        let (mut items, mut seen) = (0, HashSet::new());
        for &v in parts {
            let own = self.desc(v);
            let inner = |d: &TensorDesc| d.shape.dims().get(1..).map(<[usize]>::to_vec);
            if own.dtype != desc.dtype || inner(&own).is_none() || inner(&own) != inner(&desc) {
                return fail(self, v, format!("{own} behind {desc}"));
            }
            if !matches!(self.origin(v), Origin::Node(_)) || !seen.insert(v) {
                return fail(self, v, "not the result of a node of its own".into());
            }
            items += own.shape[0];
        }
        let taken =
            |value: &ValueInfo| matches!(&value.origin, Origin::Joined(of) if of.iter().any(|v| seen.contains(v)));
        if self.values.iter().any(taken) {
            return fail(self, first, "part of a whole already".into());
        }
        if parts.len() == 1 {
            return Ok(first);
        }
        let desc = TensorDesc { shape: with_items(desc, items)?, ..desc };
        Ok(self.push(desc, Origin::Joined(parts.to_vec())))
    }

    /// For every value that lies within another one: which, and from which byte on.
    pub(crate) fn homes(&self) -> HashMap<Value, (Value, u64)> {
        let mut homes = HashMap::new();
        for (i, value) in self.values.iter().enumerate() {
            match &value.origin {
                Origin::Part { of, first } => {
                    let whole = self.desc(*of);
                    let item = whole.bytes() / whole.shape[0].max(1) as u64;
                    homes.insert(Value(i as u32), (*of, item * *first as u64));
                }
                Origin::Joined(parts) => {
                    let mut offset = 0;
                    for part in parts {
                        homes.insert(*part, (Value(i as u32), offset));
                        offset += self.desc(*part).bytes();
                    }
                }
                _ => {}
            }
        }
        homes
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
        // A value comes after everything that it is made of.
        for i in (0..self.values.len()).rev() {
            if !needed[i] {
                continue;
            }
            let of: &[Value] = match &self.values[i].origin {
                Origin::Node(n) => &self.nodes[*n].inputs,
                Origin::Part { of, .. } => std::slice::from_ref(of),
                Origin::Joined(parts) => parts,
                _ => &[],
            };
            of.iter().for_each(|v| needed[v.0 as usize] = true);
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
                Origin::Part { of, first } => Origin::Part { of: places[of.0 as usize], first: *first },
                Origin::Joined(parts) => Origin::Joined(parts.iter().map(|v| places[v.0 as usize]).collect()),
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
            Origin::Part { of, .. } => self.name_of(*of),
            Origin::Joined(parts) => parts.first().map_or("", |v| self.name_of(*v)),
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

/// The extents of a tensor with so many items along its outermost axis.
fn with_items(desc: TensorDesc, items: usize) -> Result<Shape> {
    let mut extents = desc.shape.dims().to_vec();
    extents[0] = items;
    Shape::new(&extents)
}
