//! I3D, the inflated Inception network whose features are compared by the Fréchet video distance.
//!
//! Carreira, Zisserman, "Quo vadis, action recognition?" (2017), its RGB network on Kinetics-400. All padding is TensorFlow's
//! SAME: what a strided window lacks is added on both sides, the odd cell behind.

use std::path::Path;

use muybridge_kernels as ops;
use muybridge_kernels::{Activation, Pool, Pooling};
use muybridge_loaders::Weights;
use muybridge_runtime::{DType, Device, Graph, HostTensor, Plan, TensorDesc, Value};

use super::folded::{BatchNorm, Folded};
use crate::error::{Error, Result};

const MODEL: &str = "InceptionI3d";

/// Whose weights: the epsilon of their norms differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// VideoGPT's `i3d_pretrained_400.pt`: 1e-5.
    VideoGpt,
    /// The port whose layers keep TensorFlow's 1e-3.
    Piergiaj,
}

impl Source {
    fn eps(self) -> f64 {
        match self {
            Source::VideoGpt => 1e-5,
            Source::Piergiaj => 1e-3,
        }
    }
}

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(name: &str) -> Result<Source, String> {
        match name {
            "videogpt" => Ok(Source::VideoGpt),
            "piergiaj" => Ok(Source::Piergiaj),
            _ => Err(format!("unknown source {name:?}; known: videogpt, piergiaj")),
        }
    }
}

/// A convolution with its norm and ReLU.
#[derive(Clone, Debug)]
struct Unit(Folded);

impl Unit {
    fn open(w: &Weights, eps: f64) -> Result<Unit> {
        Ok(Unit(Folded::open(&w.at("conv3d"))?.behind(&BatchNorm::open(&w.at("bn"), eps)?)?))
    }

    fn build(&self, g: &mut Graph, x: Value, stride: usize) -> Result<Value> {
        let s = self.0.shape();
        let kernel = if s.rank() == 5 { [s[2], s[3], s[4]] } else { [0; 3] };
        if kernel == [1; 3] && stride == 1 {
            return self.0.matmul(g, x, Activation::Relu);
        }
        let stride = [stride; 3];
        let (before, after) = same(g, x, kernel, stride)?;
        let op = ops::Conv3d { kernel, stride, before, after, bias: true, activation: Activation::Relu };
        self.0.conv3d(g, x, op)
    }
}

/// Four branches side by side: a point, two of a point and a cube, a maximum and a point.
#[derive(Clone, Debug)]
struct Mixed {
    path: String,
    b0: Unit,
    b1: [Unit; 2],
    b2: [Unit; 2],
    b3: Unit,
}

impl Mixed {
    fn open(w: &Weights, eps: f64) -> Result<Mixed> {
        let unit = |name: &str| Unit::open(&w.at(name), eps);
        Ok(Mixed {
            path: w.path().into(),
            b0: unit("b0")?,
            b1: [unit("b1a")?, unit("b1b")?],
            b2: [unit("b2a")?, unit("b2b")?],
            b3: unit("b3b")?,
        })
    }

    fn build(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let b0 = self.b0.build(g, x, 1)?;
        let pair = |g: &mut Graph, [a, b]: &[Unit; 2]| {
            let h = a.build(g, x, 1)?;
            b.build(g, h, 1)
        };
        let (b1, b2) = (pair(g, &self.b1)?, pair(g, &self.b2)?);
        let h = pool(g, x, [3; 3], [1; 3])?;
        let b3 = self.b3.build(g, h, 1)?;
        let front = g.node(&self.path, ops::Layout::Concat, &[b0, b1])?;
        let back = g.node(&self.path, ops::Layout::Concat, &[b2, b3])?;
        Ok(g.node(&self.path, ops::Layout::Concat, &[front, back])?)
    }
}

/// Zeros on both sides for as many windows as there are steps.
fn same(g: &Graph, x: Value, kernel: [usize; 3], stride: [usize; 3]) -> Result<([usize; 3], [usize; 3])> {
    let s = g.desc(x).shape;
    if s.rank() != 5 || kernel.contains(&0) {
        return Err(Error::call(MODEL, format!("a clip of shape {s} under a kernel {kernel:?}")));
    }
    let total = [0, 1, 2].map(|i| {
        let (n, k, step) = (s[i + 1], kernel[i], stride[i]);
        k.saturating_sub(if n.is_multiple_of(step) { step } else { n % step })
    });
    Ok((total.map(|t| t / 2), total.map(|t| t - t / 2)))
}

fn pool(g: &mut Graph, x: Value, kernel: [usize; 3], stride: [usize; 3]) -> Result<Value> {
    let (before, after) = same(g, x, kernel, stride)?;
    // Every window has a cell that is no padding, and none is below the ReLU's 0: zeros in it change nothing.
    let op = Pool { pooling: Pooling::Max, kernel, stride, before, after, ceil: false };
    Ok(g.node("MaxPool3d", op, &[x])?)
}

/// The network.
#[derive(Clone, Debug)]
pub struct I3d {
    stem: [Unit; 3],
    /// The blocks of each resolution.
    mixed: [Vec<Mixed>; 3],
    logits: Folded,
    device: Device,
}

impl I3d {
    /// Opens a checkpoint's folder or file.
    ///
    /// # Errors
    /// Files that cannot be used, and those of [`I3d::of`].
    pub fn open(path: impl AsRef<Path>, source: Source, device: &Device) -> Result<I3d> {
        I3d::of(Weights::open(path)?.strip_wrappers()?, source, device)
    }

    /// The network of these weights; its widths are theirs.
    ///
    /// # Errors
    /// Tensors that are missing, do not fit each other, or that nothing asks for.
    pub fn of(weights: Weights, source: Source, device: &Device) -> Result<I3d> {
        let (w, eps) = (&weights, source.eps());
        let unit = |name: &str| Unit::open(&w.at(name), eps);
        let mixed = |names: &[&str]| -> Result<Vec<Mixed>> {
            names.iter().map(|n| Mixed::open(&w.at(format!("Mixed_{n}")), eps)).collect()
        };
        let net = I3d {
            stem: [unit("Conv3d_1a_7x7")?, unit("Conv3d_2b_1x1")?, unit("Conv3d_2c_3x3")?],
            mixed: [mixed(&["3b", "3c"])?, mixed(&["4b", "4c", "4d", "4e", "4f"])?, mixed(&["5b", "5c"])?],
            logits: Folded::open(&w.at("logits.conv3d"))?,
            device: device.clone(),
        };
        weights.finish()?;
        Ok(net)
    }

    /// Number of classes, the length of what [`I3d::logits`] gives.
    pub fn classes(&self) -> usize {
        self.logits.shape()[0]
    }

    /// A plan for `video [batch, frames, height, width, 3]`, RGB in [−1, 1], to `logits [batch, T, 1, 1, classes]` of each
    /// of the T stretches of time that are left, and the `features [batch, T, 1, 1, C]` that they are made of. Height and
    /// width are 224, or within 193 to 224; nine frames at least.
    ///
    /// # Errors
    /// Clips that are too small or too large, a device that fails, too little memory.
    pub fn plan(&self, batch: usize, frames: usize, size: [usize; 2], dtype: DType) -> Result<Plan> {
        if !(1..=1 << 12).contains(&batch) || !(1..=1 << 12).contains(&frames) || size.iter().any(|n| *n > 224) {
            let [height, width] = size;
            let reason = format!("{batch} clips of {frames} frames of {width} x {height} pixels");
            return Err(Error::call(MODEL, format!("{reason}, wanted at most 4096, 4096 and 224 x 224")));
        }
        let mut g = Graph::new();
        let x = g.input("video", TensorDesc::new([batch, frames, size[0], size[1], 3], dtype));
        let [conv1a, conv2b, conv2c] = &self.stem;
        let x = conv1a.build(&mut g, x, 2)?;
        let x = pool(&mut g, x, [1, 3, 3], [1, 2, 2])?;
        let x = conv2b.build(&mut g, x, 1)?;
        let x = conv2c.build(&mut g, x, 1)?;
        let mut x = pool(&mut g, x, [1, 3, 3], [1, 2, 2])?;
        for (i, blocks) in self.mixed.iter().enumerate() {
            x = match i {
                0 => x,
                1 => pool(&mut g, x, [3; 3], [2; 3])?,
                _ => pool(&mut g, x, [2; 3], [2; 3])?,
            };
            for block in blocks {
                x = block.build(&mut g, x)?;
            }
        }
        let mean = Pool { kernel: [2, 7, 7], stride: [1; 3], ..Pool::square(Pooling::Mean, 1, 1) };
        let features = g.node("AvgPool3d", mean, &[x])?;
        let s = g.desc(features).shape;
        if s.dims()[2..4] != [1, 1] {
            return Err(Error::call(MODEL, format!("{size:?} pixels leave {s}, wanted one cell: 193 to 224 pixels")));
        }
        let logits = self.logits.matmul(&mut g, features, Activation::None)?;
        g.output("logits", logits);
        g.output("features", features);
        Ok(Plan::new(&g, &self.device)?)
    }

    /// The logits `[batch][classes]` of clips that fit the plan: the mean over the stretches of time.
    ///
    /// # Errors
    /// Clips that do not fit the plan, and the errors of the device.
    pub fn logits(&self, plan: &Plan, video: &HostTensor) -> Result<Vec<Vec<f32>>> {
        let results = plan.run_host(&[video])?;
        let logits = results.first().ok_or_else(|| Error::call(MODEL, "a plan without results"))?;
        Ok(mean_over_time(logits))
    }
}

/// Rows `[batch][classes]` of `[batch, T, 1, 1, classes]`.
pub(crate) fn mean_over_time(logits: &HostTensor) -> Vec<Vec<f32>> {
    let (s, all) = (logits.shape(), logits.to_f32());
    let (steps, classes) = (s[1], s.last());
    let of_item = |item: &[f32]| -> Vec<f32> {
        let class = |c: usize| item.iter().skip(c).step_by(classes).map(|v| f64::from(*v)).sum::<f64>();
        (0..classes).map(|c| (class(c) / steps as f64) as f32).collect()
    };
    all.chunks((steps * classes).max(1)).map(of_item).collect()
}
