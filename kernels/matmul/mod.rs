//! Matrix product with a fused epilogue: `y = activation(a · wᵀ + bias) + residual`.
//!
//! `a [.., M, K]`, `w [N, K]` → `[.., M, N]`: the layout of a linear layer's weight. All leading axes of `a` are rows.
//! With `geglu`, `w [2N, K]` holds the N value rows, then the N gate rows, and `y = value · gelu(gate)` has N columns
//! (Shazeer, "GLU variants improve transformer", 2020). With `batched`, `w [B, N, K]` is an operand of its own for each of
//! the `B` matrices `a [B, M, K]`. Sums are f32 whatever the storage.

mod cpu;
mod cuda;
mod reference;
mod wgsl;

use muybridge_runtime::{Cost, Lowering, Mismatch, Op, Site, Target, TensorDesc, Variant};

use crate::{Activation, Case, Operand};

/// The op. Operands: `a`, `w`, then `bias [N]` and `residual [.., M, N]` where asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matmul {
    /// Applied to the product plus bias.
    pub activation: Activation,
    /// The second half of the columns gates the first by GELU.
    pub geglu: bool,
    /// A bias row follows the weight.
    pub bias: bool,
    /// A residual, added last, follows.
    pub residual: bool,
    /// `w` has a leading batch axis.
    pub batched: bool,
}

/// Kernels, the preferred one first.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "gemm", target: Target::Cpu, launches: 1 },
    Variant { name: "reference", target: Target::Cpu, launches: 1 },
    Variant { name: "few_rows", target: Target::Wgsl, launches: 1 },
    Variant { name: "tiled", target: Target::Wgsl, launches: 1 },
    Variant { name: "simple", target: Target::Wgsl, launches: 1 },
    Variant { name: "few_rows", target: Target::Cuda, launches: 1 },
    Variant { name: "split_k", target: Target::Cuda, launches: 1 },
    Variant { name: "mma", target: Target::Cuda, launches: 1 },
    Variant { name: "simple", target: Target::Cuda, launches: 1 },
    // By a pin only.
    Variant { name: "tf32", target: Target::Cuda, launches: 1 },
    Variant { name: "wgmma", target: Target::Cuda, launches: 1 },
    Variant { name: "tma", target: Target::Cuda, launches: 1 },
    Variant { name: "stream_k", target: Target::Cuda, launches: 1 },
];

/// Extents of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extents {
    /// Independent products (1 unless batched).
    pub batch: usize,
    /// Rows of each.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
}

impl Matmul {
    pub(crate) fn extents(&self, inputs: &[TensorDesc]) -> Extents {
        let (a, w) = (inputs[0].shape, inputs[1].shape);
        let batch = if self.batched { w[0] } else { 1 };
        let rows = w[w.rank() - 2];
        let n = if self.geglu { rows / 2 } else { rows };
        Extents { batch, m: a.rows() / batch.max(1), n, k: a.last() }
    }

    /// Index of the residual among the operands.
    pub(crate) fn residual_index(&self) -> Option<usize> {
        self.residual.then_some(2 + usize::from(self.bias))
    }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        let want = 2 + usize::from(self.bias) + usize::from(self.residual);
        if inputs.len() != want {
            return Err(Mismatch(format!("{} operands, wanted {want}", inputs.len())));
        }
        let (a, w) = (inputs[0], inputs[1]);
        let w_rank = if self.batched { 3 } else { 2 };
        if w.shape.rank() != w_rank || a.shape.rank() < w_rank || a.shape.last() != w.shape.last() {
            return Err(Mismatch(format!("a {a} does not multiply w {w}")));
        }
        if self.batched && a.shape[0] != w.shape[0] {
            return Err(Mismatch(format!("{} matrices a, {} matrices w", a.shape[0], w.shape[0])));
        }
        if self.geglu && (!w.shape[w_rank - 2].is_multiple_of(2) || self.activation != Activation::None) {
            return Err(Mismatch(format!("w {w} has no value and gate halves, or another activation is asked for")));
        }
        let e = self.extents(inputs);
        let bias_len = w.shape[w_rank - 2];
        if self.bias && inputs[2].shape.dims() != [bias_len] {
            return Err(Mismatch(format!("bias {}, wanted [{bias_len}]", inputs[2])));
        }
        let out = TensorDesc { shape: a.shape.with_last(e.n), dtype: a.dtype };
        if let Some(i) = self.residual_index()
            && inputs[i] != out
        {
            return Err(Mismatch(format!("residual {}, wanted {out}", inputs[i])));
        }
        Ok(out)
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        let e = self.extents(inputs);
        let columns = if self.geglu { 2 * e.n } else { e.n };
        Cost::with_traffic(2 * (e.batch * e.m * columns * e.k) as u64, inputs, output)
    }

    fn variants(&self) -> &'static [Variant] {
        VARIANTS
    }

    fn lower(&self, variant: &Variant, site: &Site<'_>) -> Option<Lowering> {
        match (variant.target, variant.name) {
            (Target::Cpu, "gemm") => cpu::lower(self, site),
            (Target::Cpu, "reference") => Some(reference::lower(self, site)),
            (Target::Wgsl, name) => wgsl::lower(self, name, site),
            (Target::Cuda, name) => cuda::lower(self, name, site),
            _ => None,
        }
    }

    fn tiles(&self, variant: &Variant) -> &'static [&'static str] {
        crate::tiles(variant)
    }

    fn by_pin(&self, variant: &Variant) -> bool {
        crate::by_pin(variant)
    }

    fn revision(&self) -> &'static str {
        crate::REVISION
    }
}

/// Rows of tests and benches.
pub fn cases() -> Vec<Case> {
    let plain = |m: usize, n: usize, k: usize| vec![Operand::activation([m, k]), Operand::weight([n, k])];
    let biased = |m: usize, n: usize, k: usize| {
        let mut o = plain(m, n, k);
        o.push(Operand::weight([n]));
        o
    };
    let with_residual = |m: usize, n: usize, k: usize| {
        let mut o = biased(m, n, k);
        o.push(Operand::activation([m, n]));
        o
    };
    let bias = Matmul { bias: true, ..Matmul::default() };
    let out = Matmul { residual: true, ..bias };
    let geglu = Matmul { geglu: true, ..bias };
    let act = |activation| Matmul { activation, ..bias };
    let batched = Matmul { batched: true, ..Matmul::default() };
    vec![
        Case::new("one", Matmul::default(), plain(1, 1, 1)),
        Case::new("ragged", bias, biased(37, 29, 53)),
        Case::new("ragged_residual", out, with_residual(67, 45, 31)),
        Case::new("tile", Matmul::default(), plain(128, 128, 64)),
        Case::new("tile_residual", out, with_residual(192, 64, 96)),
        // Whole vectors of k, ragged tiles, and sums long enough for a ring of tiles to come round.
        Case::new("ragged_long", out, with_residual(131, 133, 200)),
        Case::new("ragged_long_narrow", bias, biased(37, 45, 168)),
        Case::new("silu", act(Activation::Silu), biased(3, 40, 24)),
        Case::new("gelu", act(Activation::Gelu), biased(18, 33, 16)),
        Case::new("quick_gelu", act(Activation::QuickGelu), biased(18, 36, 16)),
        Case::new("relu", act(Activation::Relu), biased(5, 7, 8)),
        Case::new("mish", act(Activation::Mish), biased(5, 7, 8)),
        Case::new("geglu", geglu, {
            vec![Operand::activation([50, 40]), Operand::weight([144, 40]), Operand::weight([144])]
        }),
        Case::new("geglu_ragged", geglu, {
            vec![Operand::activation([2, 9, 20]), Operand::weight([38, 20]), Operand::weight([38])]
        }),
        Case::new("batched", batched, vec![Operand::activation([3, 21, 17]), Operand::activation([3, 13, 17])]),
        Case::new("batched_tiles", batched, vec![Operand::activation([2, 70, 24]), Operand::activation([2, 130, 24])]),
        Case::new("batched_geglu", Matmul { batched: true, ..geglu }, {
            vec![Operand::activation([2, 19, 24]), Operand::activation([2, 90, 24]), Operand::weight([90])]
        }),
        // Enough tiles for the middle and the tallest of them.
        Case::new("many_tiles", out, with_residual(350, 720, 36)),
        Case::new("many_tall_tiles", out, with_residual(700, 720, 20)),
        // As many tiles as keep a device busy: large ones, and tall ones.
        Case::new("large_tiles", bias, biased(1500, 1500, 8)),
        Case::new("tall_tiles", out, with_residual(5600, 300, 8)),
        // Sums long enough to be divided, for few tiles, for more, and with gates.
        Case::new("few_tiles_long", out, with_residual(70, 132, 840)),
        Case::new("more_tiles_long", bias, biased(500, 520, 528)),
        Case::new("many_tiles_long", bias, biased(700, 720, 512)),
        Case::new("geglu_long", geglu, {
            vec![Operand::activation([30, 600]), Operand::weight([144, 600]), Operand::weight([144])]
        }),
        Case::new("one_row", Matmul { activation: Activation::Silu, ..out }, with_residual(1, 333, 264)),
        Case::new("batched_rows", batched, vec![Operand::activation([3, 5, 72]), Operand::activation([3, 37, 72])]),
        Case::new("geglu_rows", geglu, {
            vec![Operand::activation([7, 40]), Operand::weight([54, 40]), Operand::weight([54])]
        }),
        Case::new("time_projection", bias, biased(2, 640, 128)),
        Case::full_size("unet_down0_qkv", Matmul::default(), plain(4096, 960, 320)),
        Case::full_size("unet_down0_geglu", geglu, {
            vec![Operand::activation([4096, 320]), Operand::weight([2560, 320]), Operand::weight([2560])]
        }),
        Case::full_size("unet_down0_ff_out", out, with_residual(4096, 320, 1280)),
        Case::full_size("unet_down1_geglu", geglu, {
            vec![Operand::activation([1024, 640]), Operand::weight([5120, 640]), Operand::weight([5120])]
        }),
        Case::full_size("unet_down2_geglu", geglu, {
            vec![Operand::activation([256, 1280]), Operand::weight([10240, 1280]), Operand::weight([10240])]
        }),
        Case::full_size("unet_mid_ff_out", out, with_residual(64, 1280, 5120)),
        Case::full_size("unet_time_projections", bias, biased(1, 19_200, 1280)),
        Case::full_size("text_keys_values", Matmul::default(), plain(77, 640, 768)),
        Case::full_size("vae_mid_qkv", bias, biased(4096, 1536, 512)),
    ]
}
