//! Group normalisation with what follows it: `y = activation(norm(concat(x, x2)) · weight + bias)`.
//!
//! `x [B, .., C1]` and `x2 [B, .., C2]` → `[B, .., C1+C2]`: the one place where the two sources of an up block become one
//! tensor. Mean and (biased) variance are taken over the channels of a group and all positions of a batch item (Wu, He,
//! "Group normalization", 2018). With `frames` F > 1, over F consecutive batch items together. With `modulate`, the columns
//! `offset..+C` and `offset+C..+C` of `modulation [B, T]` scale and shift before the activation:
//! `norm · (1 + scale) + shift`. Statistics are f32 at least, whatever the storage.

mod cpu;
mod cuda;
mod reference;
mod wgsl;

use muybridge_runtime::{Cost, Lowering, Mismatch, Op, Site, Target, TensorDesc, Variant};

use crate::{Activation, Case, Conv2d, Operand};

/// The op. Operands: `x`, `x2` where there are two sources, `weight [C]`, `bias [C]`, `modulation [B, T]` where asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Number of groups; divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Applied last.
    pub activation: Activation,
    /// Whether there is a second source.
    pub two_sources: bool,
    /// Batch items that share statistics.
    pub frames: usize,
    /// First column of the modulation, where there is one.
    pub modulate: Option<usize>,
}

/// Kernels, the preferred one first.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "two_pass", target: Target::Cpu, launches: 1 },
    Variant { name: "reference", target: Target::Cpu, launches: 1 },
    Variant { name: "one_pass", target: Target::Wgsl, launches: 1 },
    Variant { name: "two_pass", target: Target::Wgsl, launches: 2 },
    Variant { name: "simple", target: Target::Wgsl, launches: 1 },
    Variant { name: "one_pass", target: Target::Cuda, launches: 1 },
    // Where every source comes with its moments. As many launches as `two_pass`, which reads the sources once more.
    Variant { name: "from_moments", target: Target::Cuda, launches: 2 },
    Variant { name: "two_pass", target: Target::Cuda, launches: 2 },
    Variant { name: "simple", target: Target::Cuda, launches: 1 },
];

/// Extents of a normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extents {
    pub batch: usize,
    /// Positions of one batch item.
    pub positions: usize,
    /// Channels of the first and of the second source.
    pub channels: [usize; 2],
}

impl GroupNorm {
    /// Plain group norm of one tensor.
    pub const fn new(groups: usize, eps: f32) -> GroupNorm {
        GroupNorm { groups, eps, activation: Activation::None, two_sources: false, frames: 1, modulate: None }
    }

    /// Index of the weight among the operands; the bias follows it, then the modulation.
    pub(crate) fn weight_index(&self) -> usize {
        1 + usize::from(self.two_sources)
    }

    /// Index of the modulation among the operands.
    pub(crate) fn modulation_index(&self) -> Option<usize> {
        self.modulate.map(|_| self.weight_index() + 2)
    }

    /// Extents of operands that `infer` accepts.
    pub(crate) fn extents(&self, inputs: &[TensorDesc]) -> Extents {
        let x = inputs[0].shape;
        let c2 = if self.two_sources { inputs[1].shape.last() } else { 0 };
        Extents { batch: x[0], positions: x.rows() / x[0].max(1), channels: [x.last(), c2] }
    }
}

impl Op for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        let want = 3 + usize::from(self.two_sources) + usize::from(self.modulate.is_some());
        if inputs.len() != want {
            return Err(Mismatch(format!("{} operands, wanted {want}", inputs.len())));
        }
        let x = inputs[0];
        if x.shape.rank() < 2 || x.shape.count() == 0 {
            return Err(Mismatch(format!("x {x}, wanted [B, .., C]")));
        }
        if self.two_sources {
            let x2 = inputs[1];
            let outer = x.shape.rank() - 1;
            if x2.shape.rank() != outer + 1
                || x2.shape.dims()[..outer] != x.shape.dims()[..outer]
                || x2.dtype != x.dtype
            {
                return Err(Mismatch(format!("sources {x} and {x2} differ in more than channels")));
            }
        }
        let e = self.extents(inputs);
        let c = e.channels[0] + e.channels[1];
        if self.groups == 0 || !c.is_multiple_of(self.groups) {
            return Err(Mismatch(format!("{c} channels in {} groups", self.groups)));
        }
        if self.frames == 0 || !e.batch.is_multiple_of(self.frames) {
            return Err(Mismatch(format!("{} batch items in clips of {} frames", e.batch, self.frames)));
        }
        for i in [self.weight_index(), self.weight_index() + 1] {
            if inputs[i].shape.dims() != [c] {
                return Err(Mismatch(format!("weight or bias {}, wanted [{c}]", inputs[i])));
            }
        }
        if let (Some(i), Some(offset)) = (self.modulation_index(), self.modulate) {
            let m = inputs[i].shape;
            if m.rank() != 2 || m[0] != e.batch || offset + 2 * c > m[1] || inputs[i].dtype != x.dtype {
                return Err(Mismatch(format!("modulation {}, columns {offset}..+{} wanted", inputs[i], 2 * c)));
            }
        }
        Ok(TensorDesc { shape: x.shape.with_last(c), dtype: x.dtype })
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        // Two flop an element for the sums, two for scale and shift.
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

    fn reads_summary(&self, operand: usize) -> bool {
        operand < self.weight_index()
    }

    fn revision(&self) -> &'static str {
        crate::REVISION
    }
}

/// A norm of results of convolutions with these channels on items of this size.
fn convolved(name: &'static str, op: GroupNorm, kernel: usize, channels: &[usize], [b, h, w]: [usize; 3]) -> Case {
    let all = channels.iter().sum();
    let mut operands: Vec<_> = channels.iter().map(|c| Operand::activation([b, h, w, *c])).collect();
    operands.extend([Operand::weight([all]).range(1.0, 0.5), Operand::weight([all])]);
    // Sums of the wider kernels are long enough to be divided.
    let sources = if kernel == 1 { 16 } else { 64 };
    let maker = |c: usize| {
        let weights = [Operand::weight([c, sources, kernel, kernel]), Operand::weight([c]).range(1.0, 0.5)];
        let operands = [Operand::activation([b, h, w, sources])].into_iter().chain(weights).collect();
        Case::new("conv", Conv2d::same(kernel), operands)
    };
    channels.iter().enumerate().fold(Case::new(name, op, operands), |case, (i, c)| case.made_by(i, maker(*c)))
}

/// Rows of tests and benches.
pub fn cases() -> Vec<Case> {
    // A mean far from zero: a variance computed as E[x²] − E[x]² would lose its digits.
    let x = |shape: [usize; 4]| Operand::activation(shape).range(3.0, 1.0);
    let affine = |c: usize| [Operand::weight([c]).range(1.0, 0.5), Operand::weight([c])];
    let ops = |x: Vec<Operand>, c: usize| x.into_iter().chain(affine(c)).collect::<Vec<_>>();
    let silu = |groups| GroupNorm { activation: Activation::Silu, ..GroupNorm::new(groups, 1e-5) };
    let two = GroupNorm { two_sources: true, ..silu(4) };
    vec![
        Case::new("one", GroupNorm::new(1, 1e-5), ops(vec![x([1, 1, 2, 1])], 1)),
        Case::new("ragged", silu(5), ops(vec![x([2, 3, 7, 15])], 15)),
        Case::new("one_channel_groups", silu(8), ops(vec![x([1, 9, 5, 8])], 8)),
        Case::new("unet_like", silu(32), ops(vec![x([2, 16, 16, 64])], 64)),
        Case::new("many_positions", GroupNorm::new(4, 1e-6), ops(vec![x([1, 40, 33, 16])], 16)),
        // A variance computed as E[x²] − E[x]² in f32 would miss the tolerance here.
        Case::new("far_mean", GroupNorm::new(4, 1e-6), {
            ops(vec![Operand::activation([1, 40, 33, 16]).range(30.0, 1.0)], 16)
        }),
        Case::new("narrow_groups", silu(32), ops(vec![x([1, 11, 13, 96])], 96)),
        // As much as every kernel of CUDA may have in shared memory, in f16, before what it needs besides.
        Case::new("group_of_48_kib", silu(1), ops(vec![x([1, 20, 20, 60])], 60)),
        Case::new("wide_group", silu(1), ops(vec![x([1, 9, 13, 300])], 300)),
        Case::new("two_sources", two, ops(vec![x([2, 5, 6, 12]), x([2, 5, 6, 20])], 32)),
        Case::new("group_across_sources", two, ops(vec![x([1, 5, 6, 10]), x([1, 5, 6, 18])], 28)),
        Case::new("frames", GroupNorm { frames: 3, ..silu(4) }, ops(vec![x([6, 4, 5, 16])], 16)),
        Case::new("modulated", GroupNorm { modulate: Some(6), ..silu(4) }, {
            let mut o = ops(vec![x([2, 5, 6, 16])], 16);
            o.push(Operand::activation([2, 40]));
            o
        }),
        // Groups that share vectors of eight channels, a slab that ends early, and several chunks that end unevenly.
        Case::new("width_10", silu(4), ops(vec![x([2, 21, 23, 40])], 40)),
        Case::new("uneven_slabs", silu(20), ops(vec![x([1, 9, 13, 200])], 200)),
        Case::new("chunks_of_clips", GroupNorm { frames: 2, modulate: Some(8), ..two }, {
            let mut o = ops(vec![x([4, 19, 16, 24]), x([4, 19, 16, 8])], 32);
            o.push(Operand::activation([4, 72]));
            o
        }),
        // Moments that come with the sources: tiles that end early, several items, clips, groups in both sources.
        convolved("after_conv", silu(4), 1, &[24], [2, 9, 15]),
        convolved("after_conv_clips", GroupNorm { frames: 2, ..silu(5) }, 3, &[40], [4, 13, 11]),
        convolved("after_convs", two, 1, &[72, 24], [2, 11, 19]),
        convolved("after_large_tiles", silu(4), 1, &[1016], [1, 35, 60]),
        Case::new("mish", GroupNorm { activation: Activation::Mish, ..silu(4) }, ops(vec![x([2, 5, 6, 16])], 16)),
        Case::full_size("unet_down0", silu(32), ops(vec![x([2, 64, 64, 320])], 320)),
        Case::full_size("unet_up3_concat", GroupNorm { two_sources: true, ..silu(32) }, {
            ops(vec![x([2, 64, 64, 640]), x([2, 64, 64, 320])], 960)
        }),
        Case::full_size("unet_mid", silu(32), ops(vec![x([2, 8, 8, 1280])], 1280)),
        Case::full_size("vae_up3", silu(32), ops(vec![x([1, 512, 512, 128])], 128)),
    ]
}
