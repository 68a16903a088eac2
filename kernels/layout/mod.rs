//! Changes of layout: permutations of axes, channels put together, cut out or reversed, and items repeated.

mod cuda;
mod reference;
mod wgsl;

use muybridge_runtime::{Cost, Lowering, Mismatch, Op, Shape, Site, Target, TensorDesc, Variant};

use crate::{Case, Operand};

/// The op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Axis i of the result is axis `axes[i]` of the operand, for the four axes of a map: `[0, 2, 3, 1]` is NCHW → NHWC.
    Permute([usize; 4]),
    /// `x [.., C1]` and `x2 [.., C2]` side by side: `[.., C1+C2]`.
    Concat,
    /// Columns `from..to` of the last axis.
    Slice {
        /// First column.
        from: usize,
        /// One past the last column.
        to: usize,
    },
    /// The last axis backwards (RGB ↔ BGR).
    Reverse,
    /// `x [B, ..]` → `[B · times, ..]`: each run of `run` items of the outermost axis `times` times in a row. A clip's row
    /// for each of its frames has runs of one; a batch for both halves of guidance is one run.
    Repeat {
        /// Items that stay together; divides B.
        run: usize,
        /// How often.
        times: usize,
    },
}

/// Kernels, the preferred one first.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "reference", target: Target::Cpu, launches: 1 },
    Variant { name: "simple", target: Target::Wgsl, launches: 1 },
    Variant { name: "simple", target: Target::Cuda, launches: 1 },
];

impl Op for Layout {
    fn name(&self) -> &'static str {
        "layout"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        let want = if *self == Layout::Concat { 2 } else { 1 };
        if inputs.len() != want || inputs[0].shape.rank() == 0 {
            return Err(Mismatch(format!("{} operands, wanted {want} of rank 1 at least", inputs.len())));
        }
        let x = inputs[0];
        let shape = match *self {
            Layout::Permute(axes) => {
                let mut sorted = axes;
                sorted.sort_unstable();
                if x.shape.rank() != 4 || sorted != [0, 1, 2, 3] {
                    return Err(Mismatch(format!("x {x} by axes {axes:?}")));
                }
                Shape::from(axes.map(|a| x.shape[a]))
            }
            Layout::Concat => {
                let outer = x.shape.rank() - 1;
                let x2 = inputs[1];
                let same = x2.shape.rank() == outer + 1 && x2.shape.dims()[..outer] == x.shape.dims()[..outer];
                if !same || x2.dtype != x.dtype {
                    return Err(Mismatch(format!("{x} and {x2} differ in more than the last axis")));
                }
                x.shape.with_last(x.shape.last() + x2.shape.last())
            }
            Layout::Slice { from, to } => {
                if from >= to || to > x.shape.last() {
                    return Err(Mismatch(format!("columns {from}..{to} of {x}")));
                }
                x.shape.with_last(to - from)
            }
            Layout::Reverse => x.shape,
            Layout::Repeat { run, times } => {
                let mut extents = x.shape.dims().to_vec();
                if run == 0 || times == 0 || !extents[0].is_multiple_of(run) {
                    return Err(Mismatch(format!("runs of {run} of {x}, {times} times")));
                }
                extents[0] *= times;
                Shape::new(&extents).map_err(|e| Mismatch(e.to_string()))?
            }
        };
        Ok(TensorDesc { shape, dtype: x.dtype })
    }

    fn cost(&self, _: &[TensorDesc], output: &TensorDesc) -> Cost {
        Cost { flop: 0, read: output.bytes(), write: output.bytes() }
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
    vec![
        Case::new("one", Layout::Reverse, x([1, 1, 1, 1])),
        Case::new("nchw_to_nhwc", Layout::Permute([0, 2, 3, 1]), x([2, 5, 7, 3])),
        Case::new("nhwc_to_nchw", Layout::Permute([0, 3, 1, 2]), x([2, 7, 3, 5])),
        Case::new("swap_outer", Layout::Permute([1, 0, 2, 3]), x([3, 4, 5, 6])),
        Case::new("concat", Layout::Concat, vec![Operand::activation([3, 5, 7]), Operand::activation([3, 5, 4])]),
        Case::new("slice", Layout::Slice { from: 3, to: 8 }, x([2, 3, 5, 11])),
        Case::new("reverse", Layout::Reverse, x([2, 5, 4, 3])),
        Case::new("repeat_each", Layout::Repeat { run: 1, times: 3 }, vec![Operand::activation([2, 1, 7])]),
        Case::new("repeat_pairs", Layout::Repeat { run: 2, times: 2 }, x([4, 3, 2, 5])),
        Case::new("repeat_all", Layout::Repeat { run: 3, times: 2 }, x([3, 5, 2, 3])),
    ]
}
