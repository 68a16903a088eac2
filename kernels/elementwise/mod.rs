//! Pointwise arithmetic that no other op folds in.
//!
//! `a [..]` → the same shape. A second operand has the same shape, or is a suffix of it that repeats: `[C]`, `[H, W, C]`.

mod cpu;
mod cuda;
mod reference;
mod wgsl;

use muybridge_runtime::{Cost, DType, Lowering, Mismatch, Op, Site, Target, TensorDesc, Variant};

use crate::{Activation, Case, Operand};

/// The op.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Elementwise {
    /// `a + factor · b`
    AddScaled(f32),
    /// `a · b`
    Multiply,
    /// `a · b + c`, where `b` and `c` are weights of one shape: a batch norm that cannot be folded.
    Affine,
    /// `a` where it is positive, `a · b` elsewhere; `b` is a weight (PReLU).
    Slope,
    /// `factor · a`
    Scale(f32),
    /// `a · scales[index]`: operands `a` and f32 `scales [n]`. A factor that changes without a new plan.
    ScaleBy(usize),
    /// `activation(a)`
    Activate(Activation),
    /// `a` between two limits.
    Clamp(f32, f32),
    /// `a` in another dtype.
    Cast(DType),
}

/// Kernels, the preferred one first.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "chunks", target: Target::Cpu, launches: 1 },
    Variant { name: "reference", target: Target::Cpu, launches: 1 },
    Variant { name: "vec4", target: Target::Wgsl, launches: 1 },
    Variant { name: "simple", target: Target::Wgsl, launches: 1 },
    Variant { name: "vec8", target: Target::Cuda, launches: 1 },
    Variant { name: "simple", target: Target::Cuda, launches: 1 },
];

impl Elementwise {
    /// `a + b`
    pub const ADD: Elementwise = Elementwise::AddScaled(1.0);

    /// Whether the second operand (and a third) repeats along the first.
    pub(crate) fn repeats(&self) -> bool {
        use Elementwise::{AddScaled, Affine, Multiply, Slope};
        matches!(self, AddScaled(_) | Multiply | Affine | Slope)
    }

    /// Number of operands.
    pub(crate) fn operands(&self) -> usize {
        match self {
            Elementwise::Affine => 3,
            Elementwise::AddScaled(_) | Elementwise::Multiply | Elementwise::Slope | Elementwise::ScaleBy(_) => 2,
            _ => 1,
        }
    }
}

impl Op for Elementwise {
    fn name(&self) -> &'static str {
        "elementwise"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        if inputs.len() != self.operands() {
            return Err(Mismatch(format!("{} operands, wanted {}", inputs.len(), self.operands())));
        }
        let a = inputs[0];
        match self {
            Elementwise::AddScaled(_) | Elementwise::Multiply => {
                let (big, small) = (a.shape.dims(), inputs[1].shape.dims());
                if !big.ends_with(small) || inputs[1].dtype != a.dtype {
                    return Err(Mismatch(format!("{} is no suffix of {a}", inputs[1])));
                }
            }
            Elementwise::Affine | Elementwise::Slope => {
                let same = inputs[1..].iter().all(|b| b.shape == inputs[1].shape);
                if !same || !a.shape.dims().ends_with(inputs[1].shape.dims()) {
                    return Err(Mismatch(format!("{:?} are no suffixes of {a}", &inputs[1..])));
                }
            }
            Elementwise::ScaleBy(index) => {
                let s = inputs[1];
                if s.shape.rank() != 1 || s.dtype != DType::F32 || *index >= s.shape[0] {
                    return Err(Mismatch(format!("scales {s}, wanted f32 [n] with n > {index}")));
                }
            }
            Elementwise::Clamp(low, high) if low.is_nan() || high.is_nan() || low > high => {
                return Err(Mismatch(format!("limits {low} and {high}")));
            }
            Elementwise::Cast(dtype) => return Ok(TensorDesc { dtype: *dtype, ..a }),
            _ => {}
        }
        Ok(a)
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        let flop = match self {
            Elementwise::Cast(_) => 0,
            Elementwise::AddScaled(_) | Elementwise::Affine => 2,
            _ => 1,
        };
        Cost::with_traffic(flop * output.shape.count() as u64, inputs, output)
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
    let one = |shape: [usize; 3]| vec![Operand::activation(shape).range(0.0, 4.0)];
    let two = |a: [usize; 3]| vec![Operand::activation(a), Operand::activation(a)];
    let act = Elementwise::Activate;
    vec![
        Case::new("one", Elementwise::ADD, two([1, 1, 1])),
        Case::new("add", Elementwise::ADD, two([3, 7, 13])),
        Case::new("add_scaled", Elementwise::AddScaled(0.35), two([2, 64, 32])),
        Case::new("add_row", Elementwise::ADD, vec![Operand::activation([5, 9, 24]), Operand::activation([24])]),
        Case::new(
            "add_ragged_row",
            Elementwise::ADD,
            vec![Operand::activation([5, 9, 7]), Operand::activation([9, 7])],
        ),
        Case::new("multiply", Elementwise::Multiply, two([2, 11, 8])),
        Case::new("affine", Elementwise::Affine, {
            vec![Operand::activation([5, 9, 24]), Operand::weight([24]), Operand::weight([24])]
        }),
        Case::new("affine_ragged", Elementwise::Affine, {
            vec![Operand::activation([3, 7, 5]), Operand::weight([7, 5]), Operand::weight([7, 5])]
        }),
        Case::new("slope", Elementwise::Slope, vec![Operand::activation([5, 9, 24]), Operand::weight([24])]),
        Case::new("slope_ragged", Elementwise::Slope, vec![Operand::activation([5, 9, 7]), Operand::weight([7])]),
        Case::new("scale", Elementwise::Scale(-1.5), one([2, 5, 7])),
        Case::new("scale_by", Elementwise::ScaleBy(2), vec![Operand::activation([2, 5, 12]), Operand::full([4])]),
        Case::new("silu", act(Activation::Silu), one([2, 33, 4])),
        Case::new("gelu", act(Activation::Gelu), one([2, 33, 5])),
        Case::new("quick_gelu", act(Activation::QuickGelu), one([2, 33, 4])),
        Case::new("relu", act(Activation::Relu), one([2, 33, 4])),
        Case::new("mish", act(Activation::Mish), one([2, 33, 4])),
        Case::new("silu_far", act(Activation::Silu), vec![Operand::activation([1, 64, 4]).range(0.0, 200.0)]),
        Case::new("mish_far", act(Activation::Mish), vec![Operand::activation([1, 64, 4]).range(0.0, 200.0)]),
        Case::new("clamp", Elementwise::Clamp(-1.0, 0.5), one([3, 5, 7])),
        Case::new("to_f32", Elementwise::Cast(DType::F32), one([3, 5, 7])),
        Case::new("octets_to_f32", Elementwise::Cast(DType::F32), one([3, 5, 16])),
        Case::new("clamp_octets", Elementwise::Clamp(-1.0, 0.5), one([3, 50, 24])),
        Case::full_size("unet_skip", Elementwise::ADD, two([2, 4096, 320])),
    ]
}
