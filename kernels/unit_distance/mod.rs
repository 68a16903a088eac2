//! How far apart the directions of two maps are, pixel by pixel: the distance that LPIPS takes at each of its layers.
//!
//! `x [2B,H,W,C]` holds the maps a of B items, then the maps b of the same items; `w [C]` → f32 `[B,H,W,1]`:
//! `Σ_c w_c (a_c / (‖a‖ + eps) − b_c / (‖b‖ + eps))²`. Zhang et al., "The unreasonable effectiveness of deep features as a
//! perceptual metric" (2018), equation 1, before its mean over pixels.

mod cuda;
mod reference;
mod wgsl;

use muybridge_runtime::{Cost, DType, Lowering, Mismatch, Op, Site, Target, TensorDesc, Variant};

use crate::{Case, Operand};

/// The op. Operands: `x [2B,H,W,C]`, `w [C]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnitDistance {
    /// Added to the norms.
    pub eps: f32,
}

/// Kernels, the preferred one first.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "reference", target: Target::Cpu, launches: 1 },
    Variant { name: "simple", target: Target::Wgsl, launches: 1 },
    Variant { name: "simple", target: Target::Cuda, launches: 1 },
];

impl Op for UnitDistance {
    fn name(&self) -> &'static str {
        "unit_distance"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        let [x, w] = inputs else { return Err(Mismatch(format!("{} operands, wanted 2", inputs.len()))) };
        let s = x.shape;
        if s.rank() != 4 || s[0] == 0 || !s[0].is_multiple_of(2) || w.shape.dims() != [s[3]] {
            return Err(Mismatch(format!("x {x}, w {w}, wanted [2B,H,W,C] and [C]")));
        }
        Ok(TensorDesc::new([s[0] / 2, s[1], s[2], 1], DType::F32))
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        Cost::with_traffic(10 * (inputs[0].shape.count() / 2) as u64, inputs, output)
    }

    fn variants(&self) -> &'static [Variant] {
        VARIANTS
    }

    fn lower(&self, variant: &Variant, site: &Site<'_>) -> Option<Lowering> {
        match variant.target {
            Target::Cpu => Some(reference::lower(self, site)),
            Target::Wgsl => wgsl::lower(self, variant.name, site),
            Target::Cuda => cuda::lower(self, variant.name, site),
        }
    }

    fn revision(&self) -> &'static str {
        crate::REVISION
    }
}

/// Rows of tests and benches.
pub fn cases() -> Vec<Case> {
    let op = UnitDistance { eps: 1e-10 };
    let ops = |x: [usize; 4]| vec![Operand::activation(x), Operand::weight([x[3]])];
    vec![
        Case::new("one", op, ops([2, 1, 1, 1])),
        Case::new("ragged", op, ops([4, 5, 7, 13])),
        Case::new("alex", op, ops([2, 7, 9, 64])),
        Case::new("squeeze", op, ops([6, 3, 5, 96])),
        Case::full_size("vgg_1", op, ops([2, 512, 512, 64])),
    ]
}
