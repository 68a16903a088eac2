//! IResNet, the residual network behind ArcFace embeddings: aligned faces to vectors that stand for who they are.
//!
//! Deng et al., "ArcFace: additive angular margin loss for deep face recognition" (2019), in the layout of insightface's
//! `arcface_torch`. Depth and widths are those of the checkpoint: 18, 34, 50, 100 or 200 layers, or any other number.

use std::path::Path;

use muybridge_kernels as ops;
use muybridge_loaders::{LoadReport, Weights};
use muybridge_runtime::{DType, Device, Graph, HostTensor, Plan, TensorDesc, Value, Weight};

use super::folded::{Affine, BatchNorm, Folded, numbers, owned};
use crate::error::{Error, Result};

const MODEL: &str = "IResNet";

/// Added to the variance in all norms.
const EPS: f64 = 1e-5;

/// Sides of the map that the last layer reads.
const LAST: usize = 7;

/// PReLU: one slope per channel for what is negative.
#[derive(Clone, Debug)]
struct Slope {
    path: String,
    weight: Weight,
}

impl Slope {
    fn open(w: &Weights) -> Result<Slope> {
        let slopes = numbers(&w.get_any("weight")?)?;
        Ok(Slope { path: w.path().into(), weight: owned(w.name("weight"), [slopes.len()], slopes)? })
    }

    fn apply(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let operands = [x, g.weight(&self.weight)];
        Ok(g.node(&self.path, ops::Elementwise::Slope, &operands)?)
    }
}

/// Four launches, five with a shortcut: norm, convolution, PReLU, convolution + residual.
#[derive(Clone, Debug)]
struct Block {
    bn1: Affine,
    conv1: Folded,
    prelu: Slope,
    conv2: Folded,
    downsample: Option<Folded>,
}

impl Block {
    fn open(w: &Weights) -> Result<Block> {
        let norm = |name: &str| BatchNorm::open(&w.at(name), EPS);
        let downsample = || Folded::open(&w.at("downsample.0"))?.behind(&norm("downsample.1")?);
        Ok(Block {
            // It is followed by a padded convolution, so it stays a node of its own.
            bn1: norm("bn1")?.layer()?,
            conv1: Folded::open(&w.at("conv1"))?.behind(&norm("bn2")?)?,
            prelu: Slope::open(&w.at("prelu"))?,
            conv2: Folded::open(&w.at("conv2"))?.behind(&norm("bn3")?)?,
            downsample: w.has_prefix("downsample").then(downsample).transpose()?,
        })
    }

    fn build(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let c3 = ops::Conv2d::same(3);
        // The first block of a stage halves, and only that one has a shortcut of its own.
        let stride = if self.downsample.is_some() { 2 } else { 1 };
        let h = self.bn1.apply(g, x)?;
        let h = self.conv1.conv2d(g, h, c3, None)?;
        let h = self.prelu.apply(g, h)?;
        let skip = match &self.downsample {
            Some(c) => c.conv2d(g, x, ops::Conv2d { stride, ..ops::Conv2d::same(1) }, None)?,
            None => x,
        };
        self.conv2.conv2d(g, h, ops::Conv2d { stride, ..c3 }, Some(skip))
    }
}

/// The network.
#[derive(Clone, Debug)]
pub struct IResNet {
    conv1: Folded,
    prelu: Slope,
    blocks: Vec<Block>,
    /// `bn2`, `fc` and `features` in one.
    fc: Folded,
    report: LoadReport,
    device: Device,
}

impl IResNet {
    /// Opens a checkpoint's folder or file.
    ///
    /// # Errors
    /// Files that cannot be used, and those of [`IResNet::of`].
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<IResNet> {
        IResNet::of(Weights::open(path)?.strip_wrappers()?, device)
    }

    /// The network that these weights are of.
    ///
    /// # Errors
    /// Tensors that are missing, do not fit each other, or that nothing asks for.
    pub fn of(weights: Weights, device: &Device) -> Result<IResNet> {
        let w = &weights;
        let mut blocks = Vec::new();
        for layer in 1..=4 {
            let at = w.at(format!("layer{layer}"));
            let first = blocks.len();
            while at.has_prefix(blocks.len() - first) {
                blocks.push(Block::open(&at.at(blocks.len() - first))?);
            }
        }
        let fc = Folded::open(&w.at("fc"))?;
        let (shape, cells) = (fc.shape(), LAST * LAST);
        if shape.rank() != 2 || !shape[1].is_multiple_of(cells) {
            return Err(Error::call(MODEL, format!("fc.weight {shape}, wanted [N, C · {cells}]")));
        }
        let fc = fc.reshaped([shape[0], shape[1] / cells, LAST, LAST])?;
        let norm = |name: &str| BatchNorm::open(&w.at(name), EPS);
        Ok(IResNet {
            conv1: Folded::open(&w.at("conv1"))?.behind(&norm("bn1")?)?,
            prelu: Slope::open(&w.at("prelu"))?,
            blocks,
            fc: fc.in_front(&norm("bn2")?)?.behind(&norm("features")?)?,
            report: weights.finish()?,
            device: device.clone(),
        })
    }

    /// What was loaded.
    pub fn load_report(&self) -> &LoadReport {
        &self.report
    }

    /// Length of an embedding.
    pub fn width(&self) -> usize {
        self.fc.shape()[0]
    }

    /// A plan for `images [batch,112,112,3]`, RGB in [−1, 1], to embeddings `[batch,1,1,N]`.
    ///
    /// # Errors
    /// A device that fails, too little memory.
    pub fn plan(&self, batch: usize, dtype: DType) -> Result<Plan> {
        let mut g = Graph::new();
        let x = g.input("images", TensorDesc::new([batch, 112, 112, 3], dtype));
        let mut x = self.conv1.conv2d(&mut g, x, ops::Conv2d::same(3), None)?;
        x = self.prelu.apply(&mut g, x)?;
        for block in &self.blocks {
            x = block.build(&mut g, x)?;
        }
        let x = self.fc.conv2d(&mut g, x, ops::Conv2d { padding: [0; 4], ..ops::Conv2d::same(LAST) }, None)?;
        g.output("embedding", x);
        Ok(Plan::new(&g, &self.device)?)
    }

    /// Embeddings of length 1 of `images [B,112,112,3]`, a plan for so many of which is given.
    ///
    /// # Errors
    /// Images that do not fit the plan, and the errors of the device.
    pub fn embed(&self, plan: &Plan, images: &HostTensor) -> Result<Vec<Vec<f32>>> {
        let results = plan.run_host(&[images])?;
        let all = results.first().map(HostTensor::to_f32).unwrap_or_default();
        Ok(all.chunks(self.width().max(1)).map(super::unit).collect())
    }
}
