//! Batch norms with recorded statistics, folded into the layers beside them.
//!
//! At inference a batch norm is `scale · x + offset` per channel. Behind a convolution it is part of the filters, exactly. In
//! front of a convolution that pads with zeros it is not: those zeros come after the norm.

use muybridge_kernels as ops;
use muybridge_loaders::Weights;
use muybridge_runtime::{Graph, HostTensor, Shape, Value, Weight};

use crate::error::{Error, Result};

/// A batch norm as a scale and an offset for each channel.
#[derive(Clone, Debug)]
pub(super) struct BatchNorm {
    path: String,
    scale: Vec<f32>,
    offset: Vec<f32>,
}

impl BatchNorm {
    /// `weight`, `bias`, `running_mean` and `running_var`, all `[C]`, at the cursor; a norm without the first two has 1 and 0.
    pub fn open(w: &Weights, eps: f64) -> Result<BatchNorm> {
        let mean = numbers(&w.get_any("running_mean")?)?;
        let c = mean.len();
        let var = numbers(&w.get("running_var", [c])?)?;
        let or = |given: Option<Weight>, default: f32| given.map_or(Ok(vec![default; c]), |g| numbers(&g));
        let (weight, bias) = (or(w.optional("weight", [c])?, 1.0)?, or(w.optional("bias", [c])?, 0.0)?);
        let scale: Vec<f64> =
            weight.iter().zip(&var).map(|(w, v)| f64::from(*w) / (f64::from(*v) + eps).sqrt()).collect();
        if scale.iter().any(|s| !s.is_finite()) {
            return Err(Error::call("BatchNorm", format!("{}: a variance below 0", w.path())));
        }
        let centred = |((b, m), s): ((&f32, &f32), &f64)| (f64::from(*b) - f64::from(*m) * s) as f32;
        let offset = bias.iter().zip(&mean).zip(&scale).map(centred).collect();
        Ok(BatchNorm { path: w.path().into(), scale: scale.iter().map(|s| *s as f32).collect(), offset })
    }

    /// The norm as a node of its own.
    pub fn layer(&self) -> Result<Affine> {
        let part = |name: &str, v: &[f32]| owned(format!("{}.{name}", self.path), [v.len()], v.to_vec());
        Ok(Affine {
            path: self.path.clone(),
            scale: part("scale", &self.scale)?,
            offset: part("offset", &self.offset)?,
        })
    }
}

/// `x · scale + offset`, per channel.
#[derive(Clone, Debug)]
pub(super) struct Affine {
    path: String,
    scale: Weight,
    offset: Weight,
}

impl Affine {
    /// From the numbers themselves.
    pub fn of(path: &str, scale: Vec<f32>, offset: Vec<f32>) -> Result<Affine> {
        BatchNorm { path: path.into(), scale, offset }.layer()
    }

    pub fn apply(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let operands = [x, g.weight(&self.scale), g.weight(&self.offset)];
        Ok(g.node(&self.path, ops::Elementwise::Affine, &operands)?)
    }
}

/// A convolution with its norms folded in: a weight `[Cout, C, ..]` and a bias `[Cout]`.
#[derive(Clone, Debug)]
pub(super) struct Folded {
    path: String,
    weight: Weight,
    bias: Weight,
}

impl Folded {
    /// `weight [Cout, C, ..]`, and `bias [Cout]` where there is one, at the cursor.
    pub fn open(w: &Weights) -> Result<Folded> {
        let weight = w.get_any("weight")?;
        let &[cout, _, ..] = weight.desc().shape.dims() else {
            return Err(Error::call("Folded", format!("{} {}, wanted [Cout, C, ..]", w.name("weight"), weight.desc())));
        };
        let zeros = || owned(w.name("bias"), [cout], vec![0.0; cout]);
        let bias = w.optional("bias", [cout])?.map_or_else(zeros, Ok)?;
        Ok(Folded { path: w.path().into(), weight, bias })
    }

    /// The same layer with a norm behind it.
    pub fn behind(self, norm: &BatchNorm) -> Result<Folded> {
        let (mut weight, mut bias) = (numbers(&self.weight)?, numbers(&self.bias)?);
        if norm.scale.len() != bias.len() {
            return Err(self.mismatch(norm));
        }
        let row = (weight.len() / bias.len().max(1)).max(1);
        for ((n, row), bias) in weight.chunks_mut(row).enumerate().zip(&mut bias) {
            row.iter_mut().for_each(|v| *v *= norm.scale[n]);
            *bias = bias.mul_add(norm.scale[n], norm.offset[n]);
        }
        self.with(weight, bias)
    }

    /// The same layer with a norm in front of it: exact where it reads no padding.
    pub fn in_front(self, norm: &BatchNorm) -> Result<Folded> {
        let (mut weight, mut bias) = (numbers(&self.weight)?, numbers(&self.bias)?);
        let (row, c) = (weight.len() / bias.len().max(1), norm.scale.len());
        if c == 0 || row == 0 || !row.is_multiple_of(c) {
            return Err(self.mismatch(norm));
        }
        let taps = row / c;
        for (row, bias) in weight.chunks_mut(row).zip(&mut bias) {
            let mut sum = f64::from(*bias);
            for (i, v) in row.iter_mut().enumerate() {
                let channel = i / taps;
                sum += f64::from(*v) * f64::from(norm.offset[channel]);
                *v *= norm.scale[channel];
            }
            *bias = sum as f32;
        }
        self.with(weight, bias)
    }

    /// The same weight under another shape: a matrix over a flattened map as filters.
    pub fn reshaped(self, shape: impl Into<Shape>) -> Result<Folded> {
        Ok(Folded { weight: self.weight.reshape(shape)?, ..self })
    }

    /// Where it stands in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Extents of the weight.
    pub fn shape(&self) -> Shape {
        self.weight.desc().shape
    }

    /// The layer as a node of this op, with a residual where one is given.
    pub fn conv2d(&self, g: &mut Graph, x: Value, op: ops::Conv2d, residual: Option<Value>) -> Result<Value> {
        let s = self.shape();
        let kernel = if s.rank() == 4 { [s[2], s[3]] } else { op.kernel };
        let op = ops::Conv2d { kernel, bias: true, residual: residual.is_some(), ..op };
        let mut operands = vec![x, g.weight(&self.weight), g.weight(&self.bias)];
        operands.extend(residual);
        Ok(g.node(&self.path, op, &operands)?)
    }

    /// The layer as a node of this op.
    pub fn conv3d(&self, g: &mut Graph, x: Value, op: ops::Conv3d) -> Result<Value> {
        let operands = [x, g.weight(&self.weight), g.weight(&self.bias)];
        Ok(g.node(&self.path, ops::Conv3d { bias: true, ..op }, &operands)?)
    }

    /// A convolution of one point as the product that it is.
    pub fn matmul(&self, g: &mut Graph, x: Value, activation: ops::Activation) -> Result<Value> {
        let s = self.shape();
        let matrix = self.weight.reshape([s[0], s.count() / s[0].max(1)])?;
        let operands = [x, g.weight(&matrix), g.weight(&self.bias)];
        Ok(g.node(&self.path, ops::Matmul { bias: true, activation, ..Default::default() }, &operands)?)
    }

    fn with(self, weight: Vec<f32>, bias: Vec<f32>) -> Result<Folded> {
        Ok(Folded {
            weight: owned(self.weight.name().into(), self.shape(), weight)?,
            bias: owned(self.bias.name().into(), [bias.len()], bias)?,
            path: self.path,
        })
    }

    fn mismatch(&self, norm: &BatchNorm) -> Error {
        let (channels, shape) = (norm.scale.len(), self.shape());
        Error::call("BatchNorm", format!("{}: {channels} channels beside {} {shape}", norm.path, self.path))
    }
}

/// All elements of a weight.
pub(super) fn numbers(weight: &Weight) -> Result<Vec<f32>> {
    Ok(weight.read()?.to_f32())
}

/// A weight held in host memory.
pub(super) fn owned(name: String, shape: impl Into<Shape>, values: Vec<f32>) -> Result<Weight> {
    Ok(Weight::owned(name, HostTensor::new(shape.into(), values)?))
}
