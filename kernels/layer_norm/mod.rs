//! Layer normalisation over the last axis: `y = (x − mean) / √(variance + eps) · weight + bias`.
//!
//! `x [.., C]` → `[.., C]` (Ba, Kiros, Hinton, "Layer normalization", 2016; biased variance). Statistics are f32 at least.
//! `bias` is `[C]`, or a table `[F, C]` for clips: item b of the outermost axis takes row b mod F, so that the encoding of a
//! frame's position costs no launch.

mod cpu;
mod cuda;
mod reference;
mod wgsl;

use muybridge_runtime::{Cost, Lowering, Mismatch, Op, Site, Target, TensorDesc, Variant};

use crate::{Case, Operand};

/// The op. Operands: `x`, `weight [C]`, `bias [C]` or `[F, C]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
}

/// Kernels, the preferred one first.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "rows", target: Target::Cpu, launches: 1 },
    Variant { name: "reference", target: Target::Cpu, launches: 1 },
    Variant { name: "subgroup", target: Target::Wgsl, launches: 1 },
    Variant { name: "workgroup", target: Target::Wgsl, launches: 1 },
    Variant { name: "simple", target: Target::Wgsl, launches: 1 },
    Variant { name: "vec8", target: Target::Cuda, launches: 1 },
    Variant { name: "warp", target: Target::Cuda, launches: 1 },
    Variant { name: "simple", target: Target::Cuda, launches: 1 },
];

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        let [x, weight, bias] = inputs else {
            return Err(Mismatch(format!("{} operands, wanted 3", inputs.len())));
        };
        let c = x.shape.last();
        let fits = |frames: usize| x.shape.rank() > 1 && frames > 0 && x.shape[0].is_multiple_of(frames);
        let bias_fits = match *bias.shape.dims() {
            [width] => width == c,
            [frames, width] => width == c && fits(frames),
            _ => false,
        };
        if x.shape.rank() == 0 || c == 0 || weight.shape.dims() != [c] || !bias_fits {
            let wanted = "wanted [.., C], [C], and [C] or [F, C] with F frames in each clip";
            return Err(Mismatch(format!("x {x}, weight {weight}, bias {bias}: {wanted}")));
        }
        Ok(*x)
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        Cost::with_traffic(4 * output.shape.count() as u64, inputs, output)
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

/// Rows of the bias, and rows of `x` that each of them serves before the next one's turn.
pub(crate) fn bias_rows(inputs: &[TensorDesc]) -> [usize; 2] {
    let (x, bias) = (inputs[0].shape, inputs[2].shape);
    match bias.dims() {
        [frames, _] => [*frames, x.rows() / x[0].max(1)],
        _ => [1, x.rows()],
    }
}

/// Rows of tests and benches.
pub fn cases() -> Vec<Case> {
    let ops = |shape: [usize; 3]| {
        let c = shape[2];
        vec![Operand::activation(shape).range(2.0, 1.0), Operand::weight([c]).range(1.0, 0.5), Operand::weight([c])]
    };
    let op = LayerNorm { eps: 1e-5 };
    vec![
        Case::new("one", op, ops([1, 1, 1])),
        Case::new("ragged", op, ops([2, 7, 13])),
        Case::new("unet_like", op, ops([2, 40, 320])),
        Case::new("wide", op, ops([1, 3, 1280])),
        Case::new("far_mean", op, {
            let affine = || Operand::weight([264]).range(1.0, 0.5);
            vec![Operand::activation([2, 9, 264]).range(30.0, 1.0), affine(), affine()]
        }),
        Case::new("prime", op, ops([1, 101, 67])),
        Case::new("frames", op, {
            vec![Operand::activation([6, 7, 13]), Operand::weight([13]).range(1.0, 0.5), Operand::weight([3, 13])]
        }),
        Case::new("frames_wide", op, {
            vec![Operand::activation([5, 40, 96]), Operand::weight([96]).range(1.0, 0.5), Operand::weight([5, 96])]
        }),
        Case::full_size("unet_down0", op, ops([2, 4096, 320])),
        Case::full_size("unet_down2", op, ops([2, 256, 1280])),
    ]
}
