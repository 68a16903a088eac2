//! The residual block, the stack of all time projections of a network, and the changes of resolution between blocks.

use muybridge_kernels as ops;
use muybridge_kernels::Activation;
use muybridge_loaders::Weights;
use muybridge_runtime::{Graph, Value};

use crate::error::Result;
use crate::layers::{Conv2d, GroupNorm, Linear, Source};

/// What all residual blocks of a network have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResnetOptions {
    /// Groups of the norms.
    pub groups: usize,
    /// Added to the variance in the norms.
    pub eps: f32,
    /// Follows each norm.
    pub activation: Activation,
    /// The time embedding scales and shifts the second norm, instead of shifting the first convolution.
    pub scale_shift: bool,
    /// The sum of block and shortcut is divided by this.
    pub output_scale: f32,
}

/// The `time_emb_proj` layers of a network, gathered while it is opened: together they are one product per step.
#[derive(Debug)]
pub struct TimeStack {
    parts: Vec<Linear>,
    input: usize,
    width: usize,
}

impl TimeStack {
    /// An empty stack of layers that read a time embedding of `input` columns.
    pub fn new(input: usize) -> TimeStack {
        TimeStack { parts: Vec::new(), input, width: 0 }
    }

    /// Adds the layer at the cursor, of `n` columns, and gives its first column in the stacked result.
    fn open(&mut self, w: &Weights, n: usize) -> Result<usize> {
        self.parts.push(Linear::open(w, self.input, n)?);
        let offset = self.width;
        self.width += n;
        Ok(offset)
    }

    /// The stacked layer, `[B, input]` → `[B, T]`; none where no block reads the time.
    ///
    /// # Errors
    /// The layers differ in dtype.
    pub fn finish(self) -> Result<Option<Linear>> {
        if self.parts.is_empty() { Ok(None) } else { Linear::stack("time_emb_proj", &self.parts).map(Some) }
    }
}

/// Residual block: `x [B,H,W,Cin]` (or two sources), `t [B,T]` → `[B,H,W,Cout]`, in four launches, five with a shortcut.
///
/// He et al., "Deep residual learning" (2016), with the norms first.
#[derive(Clone, Debug)]
pub struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    /// First column of this block in the stacked time projections.
    time_emb_proj: Option<usize>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    options: ResnetOptions,
    path: String,
}

impl ResnetBlock2D {
    /// The block at the cursor. Without a stack it does not read the time (VAE).
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(
        w: &Weights,
        cin: usize,
        cout: usize,
        options: &ResnetOptions,
        time: Option<&mut TimeStack>,
    ) -> Result<ResnetBlock2D> {
        let columns = if options.scale_shift { 2 * cout } else { cout };
        let shortcut = || Conv2d::open(&w.at("conv_shortcut"), cin, cout, 1);
        Ok(ResnetBlock2D {
            norm1: GroupNorm::open(&w.at("norm1"), cin, options.groups, options.eps)?,
            conv1: Conv2d::open(&w.at("conv1"), cin, cout, 3)?,
            time_emb_proj: time.map(|stack| stack.open(&w.at("time_emb_proj"), columns)).transpose()?,
            norm2: GroupNorm::open(&w.at("norm2"), cout, options.groups, options.eps)?,
            conv2: Conv2d::open(&w.at("conv2"), cout, cout, 3)?,
            conv_shortcut: (cin != cout).then(shortcut).transpose()?,
            options: *options,
            path: w.path().into(),
        })
    }

    /// `x [B,H,W,Cin]`, `t [B,T]` (the stacked time projections) → `[B,H,W,Cout]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn build(&self, g: &mut Graph, x: impl Into<Source>, t: Option<Value>) -> Result<Value> {
        self.build_over(g, x, t, 1)
    }

    /// As [`ResnetBlock2D::build`], with the norms' statistics of `frames` successive items taken together.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn build_over(&self, g: &mut Graph, x: impl Into<Source>, t: Option<Value>, frames: usize) -> Result<Value> {
        let (x, act) = (x.into(), self.options.activation);
        let (norm1, norm2) = (self.norm1.over(frames), self.norm2.over(frames));
        let h = norm1.activate(g, x, act)?; // two sources become one tensor here
        let h = match (t, self.time_emb_proj) {
            (Some(t), Some(offset)) if self.options.scale_shift => {
                let h = self.conv1.apply(g, h)?;
                norm2.modulate(g, h, t, offset, act)?
            }
            (Some(t), Some(offset)) => {
                let h = self.conv1.shift(g, h, t, offset)?; // conv + bias + time
                norm2.activate(g, h, act)?
            }
            _ => {
                let h = self.conv1.apply(g, h)?;
                norm2.activate(g, h, act)?
            }
        };
        let skip = match (&self.conv_shortcut, x) {
            (Some(conv), x) => conv.apply(g, x)?,
            (None, Source::One(x)) => x,
            (None, Source::Two(x, x2)) => g.node(&self.path, ops::Layout::Concat, &[x, x2])?,
        };
        let h = self.conv2.add(g, h, skip)?;
        divide(g, &self.path, h, self.options.output_scale)
    }
}

fn divide(g: &mut Graph, path: &str, x: Value, by: f32) -> Result<Value> {
    if by == 1.0 { Ok(x) } else { Ok(g.node(path, ops::Elementwise::Scale(1.0 / by), &[x])?) }
}

/// The halving convolution between blocks. With `padding` 0, one row of zeros is added below and one column to the
/// right, as in the VAE; otherwise `padding` zeros on every side.
///
/// # Errors
/// A tensor is missing or has another shape.
pub fn open_downsampler(w: &Weights, channels: usize, padding: usize) -> Result<Conv2d> {
    let zeros = if padding == 0 { [0, 0, 1, 1] } else { [padding; 4] };
    Ok(Conv2d::open(&w.at("downsamplers.0.conv"), channels, channels, 3)?.halving(zeros))
}

/// The convolution that follows a doubling between blocks.
///
/// # Errors
/// A tensor is missing or has another shape.
pub fn open_upsampler(w: &Weights, channels: usize) -> Result<Conv2d> {
    Conv2d::open(&w.at("upsamplers.0.conv"), channels, channels, 3)
}

/// Height and width of a map `[B,H,W,C]`.
pub(crate) fn map_size(g: &Graph, x: Value) -> [usize; 2] {
    match g.desc(x).shape.dims() {
        [_, h, w, _] => [*h, *w],
        _ => [0, 0],
    }
}
