//! Rows of the tables that drive tests and benches.

use std::sync::Arc;

use muybridge_runtime::{
    Caps, DType, Graph, HostTensor, Lowering, Mismatch, Op, Result, Shape, Site, Summary, Target, TensorDesc, Value,
    Variant, Weight,
};

/// What an operand of a case is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    /// An activation in the case's dtype.
    Activation,
    /// A weight in the case's dtype.
    Weight,
    /// An operand that is f32 whatever the case's dtype (timesteps, scales).
    Full,
}

/// An operand of a case, with elements uniform in `offset ± amplitude`.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Extents.
    pub shape: Shape,
    /// What it is.
    pub role: Role,
    /// Half the width of the elements' range.
    pub amplitude: f32,
    /// Middle of the elements' range.
    pub offset: f32,
    /// The first of the last axis that are −∞ instead, in an activation.
    pub hidden: usize,
}

impl Operand {
    /// An activation in ±1.
    pub fn activation(shape: impl Into<Shape>) -> Operand {
        Operand { shape: shape.into(), role: Role::Activation, amplitude: 1.0, offset: 0.0, hidden: 0 }
    }

    /// A weight whose amplitude keeps the results of a product over its inner extents near 1.
    pub fn weight(shape: impl Into<Shape>) -> Operand {
        let shape = shape.into();
        let fan_in = shape.dims().iter().skip(1).product::<usize>().max(1);
        let amplitude = if shape.rank() < 2 { 0.5 } else { (3.0 / fan_in as f32).sqrt() };
        Operand { shape, role: Role::Weight, amplitude, offset: 0.0, hidden: 0 }
    }

    /// An f32 operand in ±1.
    pub fn full(shape: impl Into<Shape>) -> Operand {
        Operand { role: Role::Full, ..Operand::activation(shape) }
    }

    /// The same operand with another range.
    pub fn range(mut self, offset: f32, amplitude: f32) -> Operand {
        self.offset = offset;
        self.amplitude = amplitude;
        self
    }

    /// The same operand as a mask that hides the first of its last axis: so many are −∞ in every row.
    pub fn hiding(mut self, first: usize) -> Operand {
        self.hidden = first;
        self
    }

    /// Shape and dtype in a case of dtype `dtype`.
    pub fn desc(&self, dtype: DType) -> TensorDesc {
        let dtype = if self.role == Role::Full { DType::F32 } else { dtype };
        TensorDesc { shape: self.shape, dtype }
    }

    fn masked(&self, tensor: HostTensor) -> HostTensor {
        if self.hidden == 0 {
            return tensor;
        }
        let (values, last) = (tensor.to_f32(), self.shape.last().max(1));
        let element = |i: usize| if i % last < self.hidden { f32::NEG_INFINITY } else { values[i] };
        HostTensor::from_fn(self.shape, element).convert(tensor.dtype())
    }

    fn procedural(&self, dtype: DType, seed: u64) -> Weight {
        Weight::procedural("operand", self.desc(dtype), seed, self.amplitude, self.offset)
    }
}

/// One row: an op on operands.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name: `unet_down0_self`, `vae_mid`, `ragged`, `one`.
    pub name: &'static str,
    /// The op.
    pub op: Arc<dyn Op>,
    /// Its operands.
    pub operands: Vec<Operand>,
    /// Operands that are results of other rows: by index. The operand itself says only its shape.
    pub made: Vec<(usize, Case)>,
    /// A real shape of full-size models: timed by the benches, too slow for the references of the tests.
    pub full_size: bool,
}

impl Case {
    /// A case that tests run.
    pub fn new(name: &'static str, op: impl Op + 'static, operands: Vec<Operand>) -> Case {
        Case { name, op: Arc::new(op), operands, made: Vec::new(), full_size: false }
    }

    /// A case that only benches run.
    pub fn full_size(name: &'static str, op: impl Op + 'static, operands: Vec<Operand>) -> Case {
        Case { full_size: true, ..Case::new(name, op, operands) }
    }

    /// The same row with an operand that is the result of another.
    #[must_use]
    pub fn made_by(mut self, operand: usize, maker: Case) -> Case {
        self.made.push((operand, maker));
        self
    }

    fn maker(&self, operand: usize) -> Option<&Case> {
        self.made.iter().find(|(i, _)| *i == operand).map(|(_, maker)| maker)
    }

    /// A graph of this op, and of those that make its operands, that computes in `dtype` on weights that are stored as `stored`;
    /// the other operands are inputs.
    ///
    /// # Errors
    /// The operands do not fit the op: a defect of the row.
    pub fn graph(&self, dtype: DType, stored: DType) -> Result<Graph> {
        let mut g = Graph::new();
        let y = self.node(&mut g, dtype, stored, 0)?;
        g.output("y", y);
        Ok(g)
    }

    /// Numbers of the operands begin at `first`; a maker's at a hundred times its operand's, and ten more.
    fn node(&self, g: &mut Graph, dtype: DType, stored: DType, first: usize) -> Result<Value> {
        let mut values = Vec::new();
        for (i, o) in self.operands.iter().enumerate() {
            values.push(match (self.maker(i), o.role) {
                (Some(maker), _) => maker.node(g, dtype, stored, made_from(first + i))?,
                (None, Role::Weight) => g.weight(&o.procedural(stored, (first + i) as u64)),
                (None, _) => g.input(format!("operand {}", first + i), o.desc(dtype)),
            });
        }
        g.node_of(self.name, self.op.clone(), &values)
    }

    /// Elements of the inputs of [`Case::graph`]: the same numbers, rounded, in every dtype.
    ///
    /// # Errors
    /// None that a well-formed row can meet.
    pub fn inputs(&self, dtype: DType) -> Result<Vec<HostTensor>> {
        self.inputs_from(dtype, 0)
    }

    fn inputs_from(&self, dtype: DType, first: usize) -> Result<Vec<HostTensor>> {
        let mut all = Vec::new();
        for (i, o) in self.operands.iter().enumerate() {
            match (self.maker(i), o.role) {
                (Some(maker), _) => all.extend(maker.inputs_from(dtype, made_from(first + i))?),
                (None, Role::Weight) => {}
                (None, _) => all.push(o.masked(o.procedural(dtype, (first + i) as u64).read()?)),
            }
        }
        Ok(all)
    }

    /// What `variant` lowers to for this row on a device with these capabilities, or `None` where it does not fit, or where
    /// nothing fits that makes an operand.
    ///
    /// # Errors
    /// The operands do not fit the op: a defect of the row.
    pub fn lower(&self, variant: &Variant, dtype: DType, caps: &Caps) -> Result<Option<Lowering>, Mismatch> {
        let mut summaries = Vec::new();
        for maker in (0..self.operands.len()).map(|i| self.maker(i)) {
            summaries.push(match maker.map(|maker| maker.chosen(variant.target, dtype, caps)).transpose()? {
                Some(None) => return Ok(None),
                Some(Some(made)) => made.summary,
                None => None,
            });
        }
        self.lower_at(variant, dtype, caps, &summaries, false)
    }

    fn lower_at(
        &self,
        variant: &Variant,
        dtype: DType,
        caps: &Caps,
        summaries: &[Option<Summary>],
        summarise: bool,
    ) -> Result<Option<Lowering>, Mismatch> {
        let inputs: Vec<TensorDesc> = self.operands.iter().map(|o| o.desc(dtype)).collect();
        let is_weight: Vec<bool> = self.operands.iter().map(|o| o.role == Role::Weight).collect();
        let output = self.op.infer(&inputs)?;
        let site = Site { inputs: &inputs, is_weight: &is_weight, output, caps, tile: None, summarise, summaries };
        Ok(self.op.lower(variant, &site))
    }

    /// What the variant that a plan chooses lowers to with a summary of the result, or `None` where none fits.
    fn chosen(&self, target: Target, dtype: DType, caps: &Caps) -> Result<Option<Lowering>, Mismatch> {
        for variant in self.op.variants().iter().filter(|v| v.target == target && !self.op.by_pin(v)) {
            if let Some(lowering) = self.lower_at(variant, dtype, caps, &[], true)? {
                return Ok(Some(lowering));
            }
        }
        Ok(None)
    }
}

fn made_from(operand: usize) -> usize {
    100 * operand + 10
}
