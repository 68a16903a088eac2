//! Multi-head attention with a streaming softmax: `softmax(scale · q kᵀ + mask) v` for every head, without the matrix of
//! scores ever being stored (Milakov, Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
//! "FlashAttention", 2022).
//!
//! Tensors are `[B, .., C]` with the axes between taken together as positions, and head h owning the columns `h·D..(h+1)·D` of
//! its C = N·D. Two forms of operands:
//! * packed: `qkv [B, L, 3C]`, columns q, then k, then v;
//! * apart: `q [B, L, C]` and `kv [Bk, M, 2C]`, columns k, then v. `Bk` divides `B`; query item b reads `b / (B / Bk)`: a video's
//!   context serves all its frames.
//!
//! A second segment `kv2 [B2, M2, 2C]` is appended to the keys of the items `b ≥ segment` (reference features serve only the
//! conditional half of a guided batch, and one set serves all its frames: item `(b − segment) / ((B − segment) / B2)`).
//! `mask [1|B, 1|L, M]` is added to the scores of the first segment. With `causal`, query l sees keys 0..=l.
//!
//! Along [`Axis::Frames`], `qkv [B·F, P, 3C]` attends over the F frames of each of the P positions instead: temporal attention
//! without a transpose.

mod cpu;
mod cuda;
mod reference;
mod softmax;
mod wgsl;

use muybridge_runtime::{Cost, Lowering, Mismatch, Op, Site, Target, TensorDesc, Variant};

use crate::{Case, Operand};

/// What attention runs along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// The positions of a batch item.
    Positions,
    /// The frames at one position; the batch axis holds clips of this many frames.
    Frames(usize),
}

/// The op. Operands: `qkv`, or `q` and `kv`; then `kv2` and `mask` where asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Number of heads N; C / N is the head width D.
    pub heads: usize,
    /// Queries, keys and values come in one tensor.
    pub packed: bool,
    /// What attention runs along. Frames need packed operands.
    pub axis: Axis,
    /// The first batch item that also sees the second segment, where there is one.
    pub segment: Option<usize>,
    /// Whether there is a mask.
    pub mask: bool,
    /// Query l sees only the keys 0..=l (needs L = M).
    pub causal: bool,
}

/// Kernels, the preferred one first.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "streaming", target: Target::Cpu, launches: 1 },
    Variant { name: "reference", target: Target::Cpu, launches: 1 },
    Variant { name: "tiled", target: Target::Wgsl, launches: 1 },
    Variant { name: "simple", target: Target::Wgsl, launches: 1 },
    Variant { name: "frames", target: Target::Cuda, launches: 1 },
    Variant { name: "few_keys", target: Target::Cuda, launches: 1 },
    Variant { name: "mma", target: Target::Cuda, launches: 1 },
    Variant { name: "wide", target: Target::Cuda, launches: 1 },
    Variant { name: "simple", target: Target::Cuda, launches: 1 },
    // By a pin only.
    Variant { name: "wgmma", target: Target::Cuda, launches: 1 },
    Variant { name: "tma", target: Target::Cuda, launches: 1 },
];

/// Extents of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extents {
    /// Batch items of the tensors.
    pub batch: usize,
    /// Positions of a batch item.
    pub positions: usize,
    /// Queries of one attention: positions, or frames.
    pub queries: usize,
    /// Keys of the first segment.
    pub keys: usize,
    /// Keys of the second segment.
    pub keys2: usize,
    /// Batch items of `kv`.
    pub kv_batch: usize,
    /// Batch items of `kv2`.
    pub kv2_batch: usize,
    /// Head width.
    pub width: usize,
    /// Batch items and queries of the mask (1 is broadcast).
    pub mask: [usize; 2],
}

impl Attention {
    /// Self-attention over positions from a packed tensor.
    pub const fn packed(heads: usize) -> Attention {
        Attention { heads, packed: true, axis: Axis::Positions, segment: None, mask: false, causal: false }
    }

    /// Attention of queries to keys and values of another tensor.
    pub const fn cross(heads: usize) -> Attention {
        Attention { packed: false, ..Attention::packed(heads) }
    }

    /// Scale of the scores: D^−½.
    pub(crate) fn scale(&self, width: usize) -> f32 {
        (1.0 / (width as f64).sqrt()) as f32
    }

    /// Index of the second segment among the operands.
    pub(crate) fn segment_index(&self) -> Option<usize> {
        self.segment.map(|_| if self.packed { 1 } else { 2 })
    }

    /// Index of the mask among the operands.
    pub(crate) fn mask_index(&self) -> Option<usize> {
        let before = if self.packed { 1 } else { 2 } + usize::from(self.segment.is_some());
        self.mask.then_some(before)
    }

    /// Extents of operands that `infer` accepts.
    pub(crate) fn extents(&self, inputs: &[TensorDesc]) -> Extents {
        let rows = |d: &TensorDesc| d.shape.rows() / d.shape[0].max(1);
        let q = inputs[0].shape;
        let positions = rows(&inputs[0]);
        let c = if self.packed { q.last() / 3 } else { q.last() };
        let (kv_batch, kv_positions) =
            if self.packed { (q[0], positions) } else { (inputs[1].shape[0], rows(&inputs[1])) };
        let (queries, keys) = match self.axis {
            Axis::Positions => (positions, kv_positions),
            Axis::Frames(f) => (f, f),
        };
        let kv2 = self.segment_index().map(|i| &inputs[i]);
        Extents {
            batch: q[0],
            positions,
            queries,
            keys,
            keys2: kv2.map_or(0, rows),
            kv_batch,
            kv2_batch: kv2.map_or(0, |d| d.shape[0]),
            width: c / self.heads.max(1),
            mask: self.mask_index().map_or([0, 0], |i| [inputs[i].shape[0], inputs[i].shape[1]]),
        }
    }

    fn check_operands(&self, inputs: &[TensorDesc]) -> Result<(), Mismatch> {
        let q = inputs[0];
        let c = if self.packed { q.shape.last() / 3 } else { q.shape.last() };
        if self.packed && q.shape.last() != 3 * c || c == 0 || self.heads == 0 || !c.is_multiple_of(self.heads) {
            return Err(Mismatch(format!("{q} does not divide into {} heads", self.heads)));
        }
        let tail = if self.packed { &inputs[1..1] } else { &inputs[1..2] };
        let segment = self.segment_index().map(|i| inputs[i]);
        for kv in tail.iter().chain(segment.iter()) {
            if kv.shape.rank() < 3 || kv.shape.last() != 2 * c || kv.shape.count() == 0 || kv.dtype != q.dtype {
                return Err(Mismatch(format!("keys and values {kv}, wanted {} [B, M, {}]", q.dtype, 2 * c)));
            }
        }
        Ok(())
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        let want = if self.packed { 1 } else { 2 } + usize::from(self.segment.is_some()) + usize::from(self.mask);
        if inputs.len() != want {
            return Err(Mismatch(format!("{} operands, wanted {want}", inputs.len())));
        }
        let q = inputs[0];
        if q.shape.rank() < 3 || q.shape.count() == 0 {
            return Err(Mismatch(format!("queries {q}, wanted [B, L, C]")));
        }
        self.check_operands(inputs)?;
        let e = self.extents(inputs);
        if let Axis::Frames(f) = self.axis
            && (!self.packed || self.segment.is_some() || self.mask || f == 0 || !e.batch.is_multiple_of(f))
        {
            return Err(Mismatch(format!("{q} over {f} frames: wanted packed clips with no mask or second segment")));
        }
        if !e.batch.is_multiple_of(e.kv_batch) {
            return Err(Mismatch(format!("{} query items share {} items of keys", e.batch, e.kv_batch)));
        }
        if let Some(first) = self.segment
            && (first >= e.batch || !(e.batch - first).is_multiple_of(e.kv2_batch))
        {
            return Err(Mismatch(format!(
                "items {first}..{} share {} items of a second segment",
                e.batch, e.kv2_batch
            )));
        }
        if let Some(i) = self.mask_index() {
            let m = inputs[i].shape;
            let fits =
                m.rank() == 3 && [1, e.batch].contains(&m[0]) && [1, e.queries].contains(&m[1]) && m[2] == e.keys;
            if !fits || inputs[i].dtype != q.dtype {
                return Err(Mismatch(format!(
                    "mask {}, wanted [1|{}, 1|{}, {}]",
                    inputs[i], e.batch, e.queries, e.keys
                )));
            }
        }
        if self.causal && e.queries != e.keys {
            return Err(Mismatch(format!("causal attention of {} queries to {} keys", e.queries, e.keys)));
        }
        let c = e.width * self.heads;
        Ok(TensorDesc { shape: q.shape.with_last(c), dtype: q.dtype })
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        let e = self.extents(inputs);
        let with_segment = self.segment.map_or(0, |first| e.batch - first);
        let scores = e.batch * e.positions * e.keys + with_segment * e.positions * e.keys2;
        Cost::with_traffic(4 * (scores * e.width * self.heads) as u64, inputs, output)
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

    fn by_pin(&self, variant: &Variant) -> bool {
        crate::by_pin(variant)
    }

    fn revision(&self) -> &'static str {
        crate::REVISION
    }
}

/// Rows of tests and benches.
pub fn cases() -> Vec<Case> {
    // Wide enough that the softmax is far from uniform.
    let act = |shape: [usize; 3]| Operand::activation(shape).range(0.0, 2.0);
    let packed = |b: usize, l: usize, n: usize, d: usize| vec![act([b, l, 3 * n * d])];
    let cross = |b: usize, l: usize, m: usize, n: usize, d: usize| vec![act([b, l, n * d]), act([b, m, 2 * n * d])];
    let own = |name, b, l, n, d| Case::new(name, Attention::packed(n), packed(b, l, n, d));
    let full = |name, b, l, n, d| Case::full_size(name, Attention::packed(n), packed(b, l, n, d));
    let segment = |first, n| Attention { segment: Some(first), ..Attention::packed(n) };
    vec![
        own("one", 1, 1, 1, 1),
        own("ragged", 2, 37, 3, 5),
        own("width_40", 1, 70, 2, 40),
        own("width_64", 1, 65, 2, 64),
        own("width_80", 2, 33, 1, 80),
        own("width_128", 1, 40, 1, 128),
        own("width_160", 1, 48, 2, 160),
        own("width_512", 1, 35, 1, 512),
        Case::new("text", Attention::cross(2), cross(2, 50, 77, 2, 40)),
        Case::new("three_tokens", Attention::cross(4), cross(1, 19, 3, 4, 8)),
        Case::new("one_token", Attention::cross(2), cross(3, 10, 1, 2, 16)),
        Case::new("shared_context", Attention::cross(2), vec![act([6, 9, 16]), act([2, 7, 32])]),
        Case::new("two_segments", segment(0, 2), vec![act([2, 20, 48]), act([2, 13, 32])]),
        Case::new("reference_features", segment(2, 2), vec![act([6, 18, 48]), act([1, 18, 32])]),
        Case::new("masked", Attention { mask: true, ..Attention::cross(2) }, {
            vec![act([2, 11, 16]), act([2, 6, 32]), Operand::activation([2, 1, 6]).range(-5.0, 5.0)]
        }),
        Case::new("full_mask", Attention { mask: true, ..Attention::packed(2) }, {
            vec![act([2, 11, 48]), Operand::activation([1, 11, 11]).range(-5.0, 5.0)]
        }),
        Case::new("causal", Attention { causal: true, ..Attention::packed(2) }, packed(2, 21, 2, 8)),
        // Second segments that begin inside a block of keys, with more queries than a tile has.
        Case::new("long_segment", segment(1, 2), vec![act([3, 70, 72]), act([2, 45, 48])]),
        Case::new("masked_segment", Attention { segment: Some(1), mask: true, ..Attention::cross(2) }, {
            vec![act([3, 9, 24]), act([1, 37, 48]), act([1, 10, 48]), Operand::activation([3, 9, 37]).range(-5.0, 5.0)]
        }),
        Case::new("causal_segment", Attention { segment: Some(0), causal: true, ..Attention::packed(1) }, {
            vec![act([2, 67, 15]), act([1, 8, 10])]
        }),
        Case::new("causal_text", Attention { causal: true, ..Attention::packed(2) }, packed(1, 77, 2, 64)),
        // Heads too wide for one tile's values, divided with and without a rest.
        own("width_200", 1, 20, 1, 200),
        own("width_166", 2, 11, 1, 166),
        // Heads of the widths that networks have, with several tiles of queries and of keys, and ragged ends.
        own("width_32_tiles", 1, 150, 2, 32),
        own("width_40_tiles", 1, 150, 2, 40),
        own("width_80_tiles", 1, 133, 1, 80),
        own("width_128_tiles", 1, 140, 1, 128),
        own("width_160_tiles", 1, 129, 1, 160),
        own("width_512_tiles", 1, 70, 1, 512),
        own("width_168", 2, 33, 1, 168),
        Case::new("segment_tiles", segment(1, 2), vec![act([3, 130, 240]), act([2, 75, 160])]),
        Case::new("causal_tiles", Attention { causal: true, ..Attention::packed(2) }, packed(1, 150, 2, 40)),
        Case::new("masked_tiles", Attention { segment: Some(1), mask: true, ..Attention::packed(1) }, {
            vec![act([2, 90, 120]), act([1, 20, 80]), Operand::activation([2, 90, 90]).range(-5.0, 5.0)]
        }),
        Case::new("text_tiles", Attention::cross(2), cross(2, 330, 77, 2, 40)),
        Case::new("text_width_160", Attention::cross(1), cross(1, 70, 77, 1, 160)),
        Case::new("masked_text", Attention { mask: true, ..Attention::cross(2) }, {
            vec![act([2, 70, 80]), act([1, 20, 160]), Operand::activation([2, 1, 20]).range(-5.0, 5.0)]
        }),
        // Keys that are hidden fill a whole tile of them, and all but a few of a text.
        Case::new("hidden_tiles", Attention { mask: true, ..Attention::packed(1) }, {
            vec![act([1, 90, 120]), Operand::activation([1, 1, 90]).range(-5.0, 5.0).hiding(70)]
        }),
        Case::new("hidden_text", Attention { mask: true, ..Attention::cross(2) }, {
            vec![act([2, 70, 80]), act([2, 20, 160]), Operand::activation([2, 1, 20]).range(-5.0, 5.0).hiding(17)]
        }),
        Case::new("frames_16", Attention { axis: Axis::Frames(16), ..Attention::packed(3) }, packed(32, 5, 3, 40)),
        Case::new("frames_29", Attention { axis: Axis::Frames(29), ..Attention::packed(2) }, packed(29, 3, 2, 80)),
        Case::new(
            "frames_width_160",
            Attention { axis: Axis::Frames(24), ..Attention::packed(1) },
            packed(24, 3, 1, 160),
        ),
        Case::new("causal_frames", Attention { axis: Axis::Frames(20), causal: true, ..Attention::packed(2) }, {
            packed(20, 3, 2, 8)
        }),
        Case::new("large_scores", Attention::packed(1), vec![Operand::activation([1, 24, 96]).range(0.0, 12.0)]),
        Case::new("frames", Attention { axis: Axis::Frames(3), ..Attention::packed(2) }, packed(6, 10, 2, 8)),
        Case::new("frames_24", Attention { axis: Axis::Frames(24), ..Attention::packed(8) }, packed(24, 6, 8, 5)),
        Case::new("one_frame", Attention { axis: Axis::Frames(1), ..Attention::packed(2) }, packed(3, 4, 2, 8)),
        full("unet_down0_self", 1, 4096, 8, 40),
        full("unet_down1_self", 1, 1024, 8, 80),
        full("unet_down2_self", 1, 256, 8, 160),
        full("sdxl_down1_self", 1, 4096, 10, 64),
        full("vae_mid", 1, 4096, 1, 512),
        Case::full_size("unet_down0_text", Attention::cross(8), cross(1, 4096, 77, 8, 40)),
        Case::full_size("unet_down0_reference", segment(0, 8), vec![act([1, 4096, 960]), act([1, 4096, 640])]),
        Case::full_size("motion_down0", Attention { axis: Axis::Frames(24), ..Attention::packed(8) }, {
            packed(24, 1024, 8, 40)
        }),
    ]
}
