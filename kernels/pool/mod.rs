//! The maximum or the mean over windows of a map or of a clip: `x [B,H,W,C]` or `[B,F,H,W,C]` → the same with fewer cells.
//!
//! Extents, strides and padding are those of frames, height and width; a map is a clip of one frame. Padding never wins a
//! maximum. With `ceil` a last window may reach beyond the padding, as in PyTorch: it must begin before the end of the cells.

mod cpu;
mod cuda;
mod reference;
mod wgsl;

use std::ops::Range;

use muybridge_runtime::{Cost, Lowering, Mismatch, Op, Shape, Site, Target, TensorDesc, Variant};

use crate::{Case, Operand};

/// What becomes of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Its largest element.
    Max,
    /// Its sum over the number of its cells, padding counted as zeros: PyTorch's `count_include_pad=True`.
    Mean,
    /// Its sum over the number of its cells that are not padding.
    MeanInside,
}

/// The op. Operand: `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// What becomes of a window.
    pub pooling: Pooling,
    /// Frames, height and width of a window.
    pub kernel: [usize; 3],
    /// Step between windows.
    pub stride: [usize; 3],
    /// Padding before the first cell.
    pub before: [usize; 3],
    /// Padding after the last cell.
    pub after: [usize; 3],
    /// Whether a window may reach beyond the padding.
    pub ceil: bool,
}

/// Kernels, the preferred one first.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "rows", target: Target::Cpu, launches: 1 },
    Variant { name: "reference", target: Target::Cpu, launches: 1 },
    Variant { name: "simple", target: Target::Wgsl, launches: 1 },
    Variant { name: "simple", target: Target::Cuda, launches: 1 },
];

/// Extents of a pooling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents {
    pub batch: usize,
    /// Frames, height and width of the operand.
    pub input: [usize; 3],
    /// And of the result.
    pub output: [usize; 3],
    pub channels: usize,
}

impl Pool {
    /// Windows of a map, the same in both directions, without padding.
    pub const fn square(pooling: Pooling, kernel: usize, stride: usize) -> Pool {
        Pool {
            pooling,
            kernel: [1, kernel, kernel],
            stride: [1, stride, stride],
            before: [0; 3],
            after: [0; 3],
            ceil: false,
        }
    }

    /// Number of windows along axis `i` over `n` cells.
    fn windows(&self, i: usize, n: usize) -> usize {
        let (stride, padded) = (self.stride[i], n + self.before[i] + self.after[i]);
        // With `ceil` a window may be larger than all there is.
        let room = padded.saturating_sub(self.kernel[i]);
        let count = if self.ceil { room.div_ceil(stride) } else { room / stride } + 1;
        // A window that begins beyond the cells would have nothing but padding.
        if self.ceil && (count - 1) * stride >= n + self.before[i] { count - 1 } else { count }
    }

    /// Extents of an operand that `infer` accepts.
    pub(crate) fn extents(&self, x: Shape) -> Extents {
        let [batch, input, channels] = match *x.dims() {
            [b, f, h, w, c] => [[b, 0, 0], [f, h, w], [c, 0, 0]],
            [b, h, w, c] => [[b, 0, 0], [1, h, w], [c, 0, 0]],
            _ => [[0; 3]; 3],
        };
        let output = [0, 1, 2].map(|i| self.windows(i, input[i]));
        Extents { batch: batch[0], input, output, channels: channels[0] }
    }

    /// Cells of window `o` along axis `i`, and how many it counts with padding.
    pub(crate) fn window(&self, e: &Extents, i: usize, o: usize) -> (Range<usize>, usize) {
        let start = o * self.stride[i];
        let end = (start + self.kernel[i]).min(e.input[i] + self.before[i] + self.after[i]);
        let inside = |at: usize| at.saturating_sub(self.before[i]).min(e.input[i]);
        (inside(start)..inside(end), end - start)
    }
}

impl Op for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        let [x] = inputs else { return Err(Mismatch(format!("{} operands, wanted 1", inputs.len()))) };
        let cells = match *x.shape.dims() {
            [_, h, w, _] => [1, h, w],
            [_, f, h, w, _] => [f, h, w],
            _ => return Err(Mismatch(format!("x {x}, wanted [B,H,W,C] or [B,F,H,W,C]"))),
        };
        for (i, &n) in cells.iter().enumerate() {
            let (k, s, before, after) = (self.kernel[i], self.stride[i], self.before[i], self.after[i]);
            // What a window must find: as in PyTorch, rounding up counts one that lacks less than a stride.
            let least = if self.ceil { (k + 1).saturating_sub(s).max(1) } else { k };
            if k == 0 || s == 0 || before >= k || after >= k || n == 0 || n + before + after < least {
                let what = ["frames", "height", "width"][i];
                return Err(Mismatch(format!(
                    "x {x}: windows of {k}, step {s}, padding {before} + {after} over {what}"
                )));
            }
        }
        let e = self.extents(x.shape);
        let [f, h, w] = e.output;
        let shape = match x.shape.rank() {
            4 => Shape::from([e.batch, h, w, e.channels]),
            _ => Shape::from([e.batch, f, h, w, e.channels]),
        };
        Ok(TensorDesc { shape, dtype: x.dtype })
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        let window: usize = self.kernel.iter().product();
        Cost::with_traffic((output.shape.count() * window) as u64, inputs, output)
    }

    fn variants(&self) -> &'static [Variant] {
        VARIANTS
    }

    fn lower(&self, variant: &Variant, site: &Site<'_>) -> Option<Lowering> {
        match (variant.target, variant.name) {
            (Target::Cpu, "reference") => Some(reference::lower(self, site)),
            (Target::Cpu, _) => cpu::lower(self, site),
            (Target::Wgsl, name) => wgsl::lower(self, name, site),
            (Target::Cuda, name) => cuda::lower(self, name, site),
        }
    }

    fn revision(&self) -> &'static str {
        crate::REVISION
    }
}

/// Rows of tests and benches.
pub fn cases() -> Vec<Case> {
    let x = |shape: &[usize]| match *shape {
        [b, h, w, c] => vec![Operand::activation([b, h, w, c])],
        _ => vec![Operand::activation([shape[0], shape[1], shape[2], shape[3], shape[4]])],
    };
    let max = |kernel, stride| Pool::square(Pooling::Max, kernel, stride);
    let clip = |pooling, kernel, stride| Pool { kernel, stride, ..Pool::square(pooling, 1, 1) };
    let same = Pool { before: [1; 3], after: [1; 3], ..clip(Pooling::Max, [3; 3], [1; 3]) };
    let mean = Pool { before: [0, 1, 2], after: [0, 2, 1], ..Pool::square(Pooling::Mean, 3, 2) };
    vec![
        Case::new("one", max(1, 1), x(&[1, 1, 1, 1])),
        Case::new("max_2", max(2, 2), x(&[2, 7, 9, 5])),
        Case::new("max_3", max(3, 2), x(&[1, 15, 13, 20])),
        Case::new("max_ceil_small", Pool { ceil: true, ..max(3, 2) }, x(&[2, 2, 3, 7])),
        Case::new("max_ceil", Pool { ceil: true, ..max(3, 2) }, x(&[2, 14, 11, 7])),
        Case::new(
            "max_ceil_padded",
            Pool { ceil: true, before: [0, 1, 1], after: [0, 1, 1], ..max(2, 2) },
            x(&[1, 6, 9, 3]),
        ),
        Case::new("max_same_clip", same, x(&[1, 4, 7, 5, 11])),
        Case::new(
            "max_asymmetric",
            Pool { before: [0, 0, 1], after: [0, 1, 1], ..clip(Pooling::Max, [1, 3, 3], [1, 2, 2]) },
            x(&[2, 3, 10, 9, 6]),
        ),
        Case::new("mean_padded", mean, x(&[1, 9, 8, 6])),
        Case::new("mean_inside", Pool { pooling: Pooling::MeanInside, ..mean }, x(&[1, 9, 8, 6])),
        Case::new("mean_ceil", Pool { ceil: true, ..mean }, x(&[1, 8, 9, 4])),
        Case::new("mean_clip", clip(Pooling::Mean, [2, 7, 7], [1, 1, 1]), x(&[1, 3, 7, 7, 13])),
        Case::full_size("i3d_3b", same, x(&[1, 8, 28, 28, 192])),
        Case::full_size("vgg_1", max(2, 2), x(&[2, 512, 512, 64])),
    ]
}
