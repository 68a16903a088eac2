//! Layers: weights with their path in the checkpoint, and the one node that each of them becomes.
//!
//! Activations are `[B,H,W,C]`, tokens `[B,M,C]`. A method is named for what its launch does besides the layer itself:
//! `silu` and `activate` end in an activation, `add` adds a residual, `shift` the projection of the time embedding.

use muybridge_kernels as ops;
use muybridge_kernels::Activation;
use muybridge_loaders::Weights;
use muybridge_runtime::{Graph, HostTensor, Value, Weight};

use crate::error::Result;

/// What a layer reads: one tensor, or two that lie side by side on channels (hidden states and skip of an up block).
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// One tensor.
    One(Value),
    /// Two tensors, which no launch ever copies together.
    Two(Value, Value),
}

impl From<Value> for Source {
    fn from(value: Value) -> Source {
        Source::One(value)
    }
}

impl Source {
    /// The tensor, or the first of two.
    pub(crate) fn first(self) -> Value {
        match self {
            Source::One(x) | Source::Two(x, _) => x,
        }
    }

    fn operands(self) -> Vec<Value> {
        match self {
            Source::One(x) => vec![x],
            Source::Two(x, x2) => vec![x, x2],
        }
    }

    fn is_two(self) -> bool {
        matches!(self, Source::Two(..))
    }
}

/// A linear layer, or a convolution of one point, which is the same thing: `x [.., K]` → `[.., N]`.
#[derive(Clone, Debug)]
pub struct Linear {
    path: String,
    weight: Weight,
    bias: Option<Weight>,
}

impl Linear {
    /// `weight [N, K]` and `bias [N]` at the cursor.
    ///
    /// # Errors
    /// One of them is missing or has another shape.
    pub fn open(w: &Weights, k: usize, n: usize) -> Result<Linear> {
        Ok(Linear { bias: Some(w.get("bias", [n])?), ..Linear::unbiased(w, k, n)? })
    }

    /// `weight [N, K]` at the cursor, and no bias.
    ///
    /// # Errors
    /// It is missing or has another shape.
    pub fn unbiased(w: &Weights, k: usize, n: usize) -> Result<Linear> {
        Ok(Linear { path: w.path().into(), weight: w.get("weight", [n, k])?, bias: None })
    }

    /// A layer from a weight `[N, K]` that is in no checkpoint in this form.
    pub fn of(path: impl Into<String>, weight: Weight) -> Linear {
        Linear { path: path.into(), weight, bias: None }
    }

    /// Layers that read the same operand as one layer: their columns side by side. All have a bias, or none has.
    ///
    /// # Errors
    /// The layers differ in the width they read, or in their dtype.
    pub fn stack(path: &str, parts: &[Linear]) -> Result<Linear> {
        let weights: Vec<Weight> = parts.iter().map(|p| p.weight.clone()).collect();
        let biases: Vec<Weight> = parts.iter().filter_map(|p| p.bias.clone()).collect();
        let weight = Weight::concat(format!("{path}.weight"), &weights)?;
        let bias = (!biases.is_empty()).then(|| Weight::concat(format!("{path}.bias"), &biases)).transpose()?;
        Ok(Linear { path: path.into(), weight, bias })
    }

    /// Number of columns N of the result.
    pub fn width(&self) -> usize {
        self.weight.desc().shape[0]
    }

    /// Path in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `x · wᵀ + bias`
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(&self, g: &mut Graph, x: Value) -> Result<Value> {
        self.activate(g, x, Activation::None)
    }

    /// `activation(x · wᵀ + bias)`
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn activate(&self, g: &mut Graph, x: Value, activation: Activation) -> Result<Value> {
        self.node(g, x, ops::Matmul { activation, ..Default::default() }, None)
    }

    /// `x · wᵀ + bias + residual`
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add(&self, g: &mut Graph, x: Value, residual: Value) -> Result<Value> {
        self.activate_add(g, x, Activation::None, residual)
    }

    /// `activation(x · wᵀ + bias) + residual`
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn activate_add(&self, g: &mut Graph, x: Value, activation: Activation, residual: Value) -> Result<Value> {
        self.node(g, x, ops::Matmul { activation, ..Default::default() }, Some(residual))
    }

    /// `value · gelu(gate)`, value and gate being the two halves of the layer's columns: `[.., N/2]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn geglu(&self, g: &mut Graph, x: Value) -> Result<Value> {
        self.node(g, x, ops::Matmul { geglu: true, ..Default::default() }, None)
    }

    fn node(&self, g: &mut Graph, x: Value, op: ops::Matmul, residual: Option<Value>) -> Result<Value> {
        let op = ops::Matmul { bias: self.bias.is_some(), residual: residual.is_some(), ..op };
        let mut operands = vec![x, g.weight(&self.weight)];
        operands.extend(self.bias.as_ref().map(|b| g.weight(b)));
        operands.extend(residual);
        Ok(g.node(&self.path, op, &operands)?)
    }
}

/// A 2-D convolution: `x [B,H,W,Cin]` → `[B,Ho,Wo,Cout]`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    path: String,
    weight: Weight,
    bias: Weight,
    op: ops::Conv2d,
}

impl Conv2d {
    /// `weight [Cout, Cin, kernel, kernel]` and `bias [Cout]` at the cursor; zeros around keep the extents.
    ///
    /// # Errors
    /// One of them is missing or has another shape.
    pub fn open(w: &Weights, cin: usize, cout: usize, kernel: usize) -> Result<Conv2d> {
        let weight = w.get("weight", [cout, cin, kernel, kernel])?;
        // Stated here rather than by `kernel / 2`, because an even kernel gets (kernel − 1) / 2 zeros on each side.
        let padding = [kernel.saturating_sub(1) / 2; 4];
        let op = ops::Conv2d { padding, ..ops::Conv2d::same(kernel) };
        Ok(Conv2d { path: w.path().into(), weight, bias: w.get("bias", [cout])?, op })
    }

    /// A linear layer with a bias, seen as a convolution of one point. None without a bias.
    ///
    /// # Errors
    /// None: the elements are the same.
    pub fn of_point(layer: &Linear) -> Result<Option<Conv2d>> {
        let Some(bias) = layer.bias.clone() else { return Ok(None) };
        let [n, k] = *layer.weight.desc().shape.dims() else { return Ok(None) };
        let weight = layer.weight.reshape([n, k, 1, 1])?;
        Ok(Some(Conv2d { path: layer.path.clone(), weight, bias, op: ops::Conv2d::same(1) }))
    }

    /// The same layer with a step of two and `padding` zeros above, left, below and right.
    pub fn halving(mut self, padding: [usize; 4]) -> Conv2d {
        self.op.stride = 2;
        self.op.padding = padding;
        self
    }

    /// The convolution plus bias.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(&self, g: &mut Graph, x: impl Into<Source>) -> Result<Value> {
        self.node(g, x.into(), self.op, &[])
    }

    /// As [`Conv2d::apply`], with an activation.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn activate(&self, g: &mut Graph, x: Value, activation: Activation) -> Result<Value> {
        self.node(g, x.into(), ops::Conv2d { activation, ..self.op }, &[])
    }

    /// As [`Conv2d::apply`], plus columns `offset..` of `t [B, T]` on every channel: the time embedding's projection.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn shift(&self, g: &mut Graph, x: Value, t: Value, offset: usize) -> Result<Value> {
        self.node(g, x.into(), ops::Conv2d { shift: Some(offset), ..self.op }, &[t])
    }

    /// As [`Conv2d::apply`], plus a residual of the result's shape.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add(&self, g: &mut Graph, x: Value, residual: Value) -> Result<Value> {
        self.node(g, x.into(), ops::Conv2d { residual: true, ..self.op }, &[residual])
    }

    /// As [`Conv2d::add`], plus columns `0..` of `t [B, .., T]` on every channel.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn shift_add(&self, g: &mut Graph, x: Value, t: Value, residual: Value) -> Result<Value> {
        self.node(g, x.into(), ops::Conv2d { shift: Some(0), residual: true, ..self.op }, &[t, residual])
    }

    /// Resizes to `size` by nearest neighbour, then convolves; the resized tensor never exists.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn upsample(&self, g: &mut Graph, x: Value, size: [usize; 2]) -> Result<Value> {
        self.node(g, x.into(), ops::Conv2d { upsample: Some(size), ..self.op }, &[])
    }

    fn node(&self, g: &mut Graph, x: Source, op: ops::Conv2d, last: &[Value]) -> Result<Value> {
        let mut operands = x.operands();
        operands.push(g.weight(&self.weight));
        operands.push(g.weight(&self.bias));
        operands.extend(last);
        Ok(g.node(&self.path, ops::Conv2d { two_sources: x.is_two(), ..op }, &operands)?)
    }
}

/// Group normalisation with a scale and an offset for each channel.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    path: String,
    weight: Weight,
    bias: Weight,
    groups: usize,
    eps: f32,
    frames: usize,
}

impl GroupNorm {
    /// `weight [C]` and `bias [C]` at the cursor.
    ///
    /// # Errors
    /// One of them is missing or has another shape.
    pub fn open(w: &Weights, channels: usize, groups: usize, eps: f32) -> Result<GroupNorm> {
        let (weight, bias) = (w.get("weight", [channels])?, w.get("bias", [channels])?);
        Ok(GroupNorm { path: w.path().into(), weight, bias, groups, eps, frames: 1 })
    }

    /// The same layer with the statistics of `frames` successive items taken together.
    #[must_use]
    pub fn over(&self, frames: usize) -> GroupNorm {
        GroupNorm { frames, ..self.clone() }
    }

    /// The norm.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(&self, g: &mut Graph, x: impl Into<Source>) -> Result<Value> {
        self.activate(g, x, Activation::None)
    }

    /// The norm, then SiLU.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn silu(&self, g: &mut Graph, x: impl Into<Source>) -> Result<Value> {
        self.activate(g, x, Activation::Silu)
    }

    /// The norm, then an activation. Of two sources it makes one tensor.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn activate(&self, g: &mut Graph, x: impl Into<Source>, activation: Activation) -> Result<Value> {
        self.node(g, x.into(), activation, None)
    }

    /// The norm times (1 + scale) plus shift, then an activation: `t [B, T]` holds C scales, then C shifts from column
    /// `offset` on.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn modulate(&self, g: &mut Graph, x: Value, t: Value, offset: usize, activation: Activation) -> Result<Value> {
        self.node(g, x.into(), activation, Some((t, offset)))
    }

    fn node(&self, g: &mut Graph, x: Source, activation: Activation, t: Option<(Value, usize)>) -> Result<Value> {
        let plain = ops::GroupNorm { frames: self.frames, ..ops::GroupNorm::new(self.groups, self.eps) };
        let op = ops::GroupNorm { activation, two_sources: x.is_two(), modulate: t.map(|(_, o)| o), ..plain };
        let mut operands = x.operands();
        operands.push(g.weight(&self.weight));
        operands.push(g.weight(&self.bias));
        operands.extend(t.map(|(t, _)| t));
        Ok(g.node(&self.path, op, &operands)?)
    }
}

/// Layer normalisation over channels.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    path: String,
    weight: Weight,
    bias: Weight,
    eps: f32,
}

impl LayerNorm {
    /// `weight [C]` and `bias [C]` at the cursor.
    ///
    /// # Errors
    /// One of them is missing or has another shape.
    pub fn open(w: &Weights, channels: usize, eps: f32) -> Result<LayerNorm> {
        let (weight, bias) = (w.get("weight", [channels])?, w.get("bias", [channels])?);
        Ok(LayerNorm { path: w.path().into(), weight, bias, eps })
    }

    /// The norm.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let operands = [x, g.weight(&self.weight), g.weight(&self.bias)];
        Ok(g.node(&self.path, ops::LayerNorm { eps: self.eps }, &operands)?)
    }

    /// The norm of clips `x [B·F,..,C]`, plus row f of `table [F,C]` for frame f.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply_table(&self, g: &mut Graph, x: Value, table: &HostTensor) -> Result<Value> {
        let bias = self.bias.read()?.to_f32();
        let rows = table.to_f32().iter().enumerate().map(|(i, v)| v + bias[i % bias.len()]).collect();
        let rows = Weight::owned(format!("{}.bias_of_frames", self.path), HostTensor::new(table.shape(), rows)?);
        let operands = [x, g.weight(&self.weight), g.weight(&rows)];
        Ok(g.node(&self.path, ops::LayerNorm { eps: self.eps }, &operands)?)
    }
}
