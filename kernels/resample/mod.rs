//! Resizing of maps: `x [B,H,W,C]` → `[B,h,w,C]`.

mod cuda;
mod reference;
mod wgsl;

use muybridge_runtime::{Cost, Lowering, Mismatch, Op, Site, Target, TensorDesc, Variant};

use crate::{Case, Operand};

/// How a map is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Source index ⌊i · in / out⌋: PyTorch's `interpolate(mode="nearest")`.
    Nearest,
    /// Two by two neighbours, pixel centres aligned (`align_corners=False`), edges repeated: PyTorch's `mode="bilinear"`.
    Bilinear,
    /// Mean of the source cells ⌊i·in/out⌋ .. ⌈(i+1)·in/out⌉: PyTorch's `adaptive_avg_pool2d`.
    Mean,
}

/// The op. Operand: `x [B,H,W,C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resample {
    /// How.
    pub mode: Mode,
    /// Height and width of the result.
    pub size: [usize; 2],
}

/// Kernels, the preferred one first.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "reference", target: Target::Cpu, launches: 1 },
    Variant { name: "simple", target: Target::Wgsl, launches: 1 },
    Variant { name: "simple", target: Target::Cuda, launches: 1 },
];

impl Op for Resample {
    fn name(&self) -> &'static str {
        "resample"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        let [x] = inputs else { return Err(Mismatch(format!("{} operands, wanted 1", inputs.len()))) };
        let s = x.shape;
        if s.rank() != 4 || s[1] == 0 || s[2] == 0 || self.size.contains(&0) {
            return Err(Mismatch(format!("x {x} to {:?}, wanted [B,H,W,C]", self.size)));
        }
        Ok(TensorDesc::new([s[0], self.size[0], self.size[1], s[3]], x.dtype))
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        let flop = match self.mode {
            Mode::Nearest => 0,
            Mode::Bilinear => 8 * output.shape.count(),
            Mode::Mean => inputs[0].shape.count(),
        };
        Cost::with_traffic(flop as u64, inputs, output)
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
    let x = |shape: [usize; 4]| vec![Operand::activation(shape)];
    let to = |mode, size| Resample { mode, size };
    vec![
        Case::new("one", to(Mode::Nearest, [1, 1]), x([1, 1, 1, 1])),
        Case::new("double", to(Mode::Nearest, [10, 14]), x([2, 5, 7, 12])),
        Case::new("to_odd", to(Mode::Nearest, [13, 9]), x([1, 7, 5, 3])),
        Case::new("nearest_down", to(Mode::Nearest, [3, 4]), x([1, 7, 9, 5])),
        Case::new("bilinear_up", to(Mode::Bilinear, [13, 11]), x([2, 6, 5, 7])),
        Case::new("bilinear_down", to(Mode::Bilinear, [3, 5]), x([1, 8, 11, 4])),
        Case::new("global_mean", to(Mode::Mean, [1, 1]), x([2, 9, 7, 20])),
        Case::new("uneven_mean", to(Mode::Mean, [3, 2]), x([1, 8, 5, 6])),
        Case::full_size("unet_up", to(Mode::Nearest, [64, 64]), x([2, 32, 32, 640])),
    ]
}
