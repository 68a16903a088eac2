//! 3-D convolution over frames, rows and columns: `y = activation(conv(x, w) + bias)`.
//!
//! `x [B,F,H,W,C]` and `w [Cout, C, KF, KH, KW]` (PyTorch's layout) → `[B,Fo,Ho,Wo,Cout]`. Padding is zeros, and its two sides
//! may differ, as in TensorFlow's SAME. Sums are f32 whatever the storage. A convolution of one point is a matmul.

mod cpu;
mod cuda;
mod reference;
mod wgsl;

use muybridge_runtime::{Cost, Lowering, Mismatch, Op, Site, Target, TensorDesc, Variant};

use crate::{Activation, Case, Operand};

/// The op. Operands: `x`, `w`, then `bias [Cout]` where asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv3d {
    /// Frames, height and width of the kernel.
    pub kernel: [usize; 3],
    /// Step between outputs.
    pub stride: [usize; 3],
    /// Zeros before the first cell.
    pub before: [usize; 3],
    /// Zeros after the last cell.
    pub after: [usize; 3],
    /// Whether there is a bias.
    pub bias: bool,
    /// Applied last.
    pub activation: Activation,
}

/// Kernels, the preferred one first.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "gemm", target: Target::Cpu, launches: 1 },
    Variant { name: "reference", target: Target::Cpu, launches: 1 },
    Variant { name: "tiled", target: Target::Wgsl, launches: 1 },
    Variant { name: "simple", target: Target::Wgsl, launches: 1 },
    Variant { name: "simple", target: Target::Cuda, launches: 1 },
];

/// Extents of a convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents {
    pub batch: usize,
    /// Frames, height and width of the operand.
    pub input: [usize; 3],
    pub channels: usize,
    /// Frames, height and width of the result.
    pub output: [usize; 3],
    pub out_channels: usize,
}

impl Extents {
    /// Cells of the result.
    pub fn cells(&self) -> usize {
        self.batch * self.output.iter().product::<usize>()
    }
}

impl Conv3d {
    /// A kernel with a bias that moves by one, between `(kernel − 1) / 2` zeros on every side.
    pub fn same(kernel: [usize; 3]) -> Conv3d {
        let pad = kernel.map(|k| k.saturating_sub(1) / 2);
        Conv3d { kernel, stride: [1; 3], before: pad, after: pad, bias: true, activation: Activation::None }
    }

    /// Taps of a filter.
    pub(crate) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Extents of operands that `infer` accepts.
    pub(crate) fn extents(&self, inputs: &[TensorDesc]) -> Extents {
        let (x, w) = (inputs[0].shape, inputs[1].shape);
        let input = [x[1], x[2], x[3]];
        let out = |i: usize| (input[i] + self.before[i] + self.after[i] - self.kernel[i]) / self.stride[i] + 1;
        Extents { batch: x[0], input, channels: x[4], output: [0, 1, 2].map(out), out_channels: w[0] }
    }
}

impl Op for Conv3d {
    fn name(&self) -> &'static str {
        "conv3d"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        let want = 2 + usize::from(self.bias);
        if inputs.len() != want {
            return Err(Mismatch(format!("{} operands, wanted {want}", inputs.len())));
        }
        let (x, w) = (inputs[0], inputs[1]);
        if x.shape.rank() != 5 || w.shape.rank() != 5 || self.stride.contains(&0) {
            let stride = self.stride;
            return Err(Mismatch(format!("x {x}, w {w}, stride {stride:?}: wanted [B,F,H,W,C], [Cout,C,KF,KH,KW]")));
        }
        if w.shape[1] != x.shape[4] || w.shape.dims()[2..] != self.kernel || self.kernel.contains(&0) {
            return Err(Mismatch(format!("w {w}, wanted [Cout, {}, {:?}]", x.shape[4], self.kernel)));
        }
        let short = |i: usize| x.shape[i + 1] + self.before[i] + self.after[i] < self.kernel[i];
        if (0..3).any(|i| short(i) || x.shape[i + 1] == 0) {
            return Err(Mismatch(format!("x {x} is smaller than the kernel")));
        }
        if self.bias && inputs[2].shape.dims() != [w.shape[0]] {
            return Err(Mismatch(format!("bias {}, wanted [{}]", inputs[2], w.shape[0])));
        }
        let e = self.extents(inputs);
        let [f, h, wd] = e.output;
        Ok(TensorDesc::new([e.batch, f, h, wd, e.out_channels], x.dtype))
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        let terms = self.taps() * inputs[0].shape.last();
        Cost::with_traffic(2 * (output.shape.count() * terms) as u64, inputs, output)
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

    fn tiles(&self, variant: &Variant) -> &'static [&'static str] {
        crate::tiles(variant)
    }

    fn revision(&self) -> &'static str {
        crate::REVISION
    }
}

/// Rows of tests and benches.
pub fn cases() -> Vec<Case> {
    let ops = |x: [usize; 5], cout: usize, [kf, kh, kw]: [usize; 3]| {
        vec![Operand::activation(x), Operand::weight([cout, x[4], kf, kh, kw]), Operand::weight([cout])]
    };
    let c3 = Conv3d::same([3; 3]);
    let stem = Conv3d { stride: [2; 3], before: [2; 3], after: [3; 3], ..Conv3d::same([7; 3]) };
    vec![
        Case::new("one", Conv3d::same([1; 3]), ops([1, 1, 1, 1, 1], 1, [1; 3])),
        Case::new("ragged", c3, ops([2, 3, 5, 4, 7], 9, [3; 3])),
        Case::new("vectors", c3, ops([1, 4, 6, 7, 12], 70, [3; 3])),
        Case::new("relu", Conv3d { activation: Activation::Relu, ..c3 }, ops([1, 2, 9, 5, 8], 6, [3; 3])),
        Case::new("stem", stem, ops([1, 6, 13, 11, 3], 16, [7; 3])),
        Case::new("frames_only", Conv3d::same([3, 1, 1]), ops([2, 5, 3, 3, 10], 12, [3, 1, 1])),
        Case::new(
            "uneven",
            Conv3d { stride: [1, 2, 3], before: [1, 0, 2], after: [0, 1, 1], ..Conv3d::same([2, 3, 4]) },
            ops([1, 4, 7, 10, 5], 11, [2, 3, 4]),
        ),
        Case::new("no_bias", Conv3d { bias: false, ..c3 }, {
            vec![Operand::activation([1, 3, 4, 5, 6]), Operand::weight([7, 6, 3, 3, 3])]
        }),
        Case::new("several_tiles", c3, ops([2, 3, 9, 8, 16], 72, [3; 3])),
        Case::full_size("i3d_1a", stem, ops([1, 16, 224, 224, 3], 64, [7; 3])),
        Case::full_size("i3d_2c", c3, ops([1, 8, 56, 56, 64], 192, [3; 3])),
        Case::full_size("i3d_4e_b1", c3, ops([1, 4, 14, 14, 144], 288, [3; 3])),
    ]
}
