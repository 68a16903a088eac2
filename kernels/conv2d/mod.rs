//! 2-D convolution with everything that surrounds it in a UNet folded in:
//! `y = activation(conv(resize(concat(x, x2)), w) + bias + shift) + residual`.
//!
//! `x [B,H,W,C1]`, `x2 [B,H,W,C2]` and `w [Cout, C1+C2, KH, KW]` (PyTorch's layout) → `[B,Ho,Wo,Cout]`. The two sources are
//! read in place, never concatenated. With `upsample`, the sources are resized to that size by nearest neighbour first:
//! source row = ⌊row · H / size⌋, as PyTorch's `interpolate(mode="nearest")`. `shift [B, T]` adds column `offset + c` of its
//! row to channel c: the time embedding's projection. Padding is zeros. Sums are f32 whatever the storage.

mod cpu;
mod cuda;
mod reference;
mod transform;
mod wgsl;
mod winograd;

use muybridge_runtime::{Cost, Lowering, Mismatch, Op, Site, Target, TensorDesc, Variant};

use crate::{Activation, Case, Operand};

/// The op. Operands: `x`, `x2` where there are two sources, `w`, then `bias [Cout]`, `shift [B, T]` and
/// `residual [B,Ho,Wo,Cout]` where asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Step between outputs, in both directions.
    pub stride: usize,
    /// Zeros above, left, below and right.
    pub padding: [usize; 4],
    /// Height and width to which the sources are resized first.
    pub upsample: Option<[usize; 2]>,
    /// Whether there is a second source.
    pub two_sources: bool,
    /// Whether there is a bias.
    pub bias: bool,
    /// First column of the shift, where there is one.
    pub shift: Option<usize>,
    /// Applied before the residual.
    pub activation: Activation,
    /// Whether there is a residual.
    pub residual: bool,
}

/// Kernels, the preferred one first.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "winograd", target: Target::Cpu, launches: 1 },
    Variant { name: "gemm", target: Target::Cpu, launches: 1 },
    Variant { name: "reference", target: Target::Cpu, launches: 1 },
    Variant { name: "tiled", target: Target::Wgsl, launches: 1 },
    Variant { name: "simple", target: Target::Wgsl, launches: 1 },
    Variant { name: "split_k", target: Target::Cuda, launches: 1 },
    Variant { name: "mma", target: Target::Cuda, launches: 1 },
    Variant { name: "simple", target: Target::Cuda, launches: 1 },
    // By a pin only.
    Variant { name: "tf32", target: Target::Cuda, launches: 1 },
    Variant { name: "wgmma", target: Target::Cuda, launches: 1 },
    Variant { name: "tma", target: Target::Cuda, launches: 1 },
    Variant { name: "stream_k", target: Target::Cuda, launches: 1 },
];

/// Extents of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extents {
    pub batch: usize,
    /// Height and width of the sources as stored.
    pub source: [usize; 2],
    /// Height and width that the kernel slides over (after resizing, before padding).
    pub input: [usize; 2],
    /// Channels of the first and of the second source.
    pub channels: [usize; 2],
    /// Height and width of the result.
    pub output: [usize; 2],
    pub out_channels: usize,
    /// Length of a row of the shift.
    pub shift_stride: usize,
}

impl Conv2d {
    /// A square kernel with `kernel / 2` zeros on every side and a bias: what most layers are.
    pub const fn same(kernel: usize) -> Conv2d {
        let p = kernel / 2;
        Conv2d {
            kernel: [kernel, kernel],
            stride: 1,
            padding: [p, p, p, p],
            upsample: None,
            two_sources: false,
            bias: true,
            shift: None,
            activation: Activation::None,
            residual: false,
        }
    }

    /// Index of the weight among the operands.
    pub(crate) fn weight_index(&self) -> usize {
        1 + usize::from(self.two_sources)
    }

    /// Index of the bias among the operands.
    pub(crate) fn bias_index(&self) -> Option<usize> {
        self.bias.then_some(self.weight_index() + 1)
    }

    /// Index of the shift among the operands.
    pub(crate) fn shift_index(&self) -> Option<usize> {
        self.shift.map(|_| self.weight_index() + 1 + usize::from(self.bias))
    }

    /// Index of the residual among the operands.
    pub(crate) fn residual_index(&self) -> Option<usize> {
        let before = usize::from(self.bias) + usize::from(self.shift.is_some());
        self.residual.then_some(self.weight_index() + 1 + before)
    }

    /// Extents of operands that `infer` accepts.
    pub(crate) fn extents(&self, inputs: &[TensorDesc]) -> Extents {
        let (x, w) = (inputs[0].shape, inputs[self.weight_index()].shape);
        let source = [x[1], x[2]];
        let input = self.upsample.unwrap_or(source);
        let padded = [input[0] + self.padding[0] + self.padding[2], input[1] + self.padding[1] + self.padding[3]];
        let out = |i: usize| (padded[i].saturating_sub(self.kernel[i])) / self.stride.max(1) + 1;
        Extents {
            batch: x[0],
            source,
            input,
            channels: [x[3], if self.two_sources { inputs[1].shape[3] } else { 0 }],
            output: [out(0), out(1)],
            out_channels: w[0],
            shift_stride: self.shift_index().map_or(0, |i| inputs[i].shape.last()),
        }
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        let flags = [self.two_sources, self.bias, self.shift.is_some(), self.residual];
        let want = 2 + flags.iter().filter(|f| **f).count();
        if inputs.len() != want {
            return Err(Mismatch(format!("{} operands, wanted {want}", inputs.len())));
        }
        let (x, w) = (inputs[0], inputs[self.weight_index()]);
        if x.shape.rank() != 4 || w.shape.rank() != 4 || self.stride == 0 {
            return Err(Mismatch(format!("x {x}, w {w}, stride {}: wanted [B,H,W,C], [Cout,Cin,KH,KW]", self.stride)));
        }
        if self.two_sources {
            let x2 = inputs[1];
            if x2.shape.rank() != 4 || x2.shape.dims()[..3] != x.shape.dims()[..3] || x2.dtype != x.dtype {
                return Err(Mismatch(format!("sources {x} and {x2} differ in more than channels")));
            }
        }
        let e = self.extents(inputs);
        let [c1, c2] = e.channels;
        if w.shape.dims()[1..] != [c1 + c2, self.kernel[0], self.kernel[1]] || self.kernel.contains(&0) {
            return Err(Mismatch(format!("w {w}, wanted [Cout, {}, {}, {}]", c1 + c2, self.kernel[0], self.kernel[1])));
        }
        let reach = |i: usize| e.input[i] + self.padding[i] + self.padding[i + 2] >= self.kernel[i];
        if e.source.contains(&0) || !reach(0) || !reach(1) {
            return Err(Mismatch(format!("x {x} is smaller than the kernel")));
        }
        if let Some(i) = self.bias_index()
            && inputs[i].shape.dims() != [e.out_channels]
        {
            return Err(Mismatch(format!("bias {}, wanted [{}]", inputs[i], e.out_channels)));
        }
        if let (Some(i), Some(offset)) = (self.shift_index(), self.shift) {
            let s = inputs[i].shape;
            let fits = s.rank() >= 2 && s.rows() == e.batch && offset + e.out_channels <= s.last();
            if !fits || inputs[i].dtype != x.dtype {
                return Err(Mismatch(format!("shift {}, columns {offset}..+{} wanted", inputs[i], e.out_channels)));
            }
        }
        let out = TensorDesc::new([e.batch, e.output[0], e.output[1], e.out_channels], x.dtype);
        if let Some(i) = self.residual_index()
            && inputs[i] != out
        {
            return Err(Mismatch(format!("residual {}, wanted {out}", inputs[i])));
        }
        Ok(out)
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        let e = self.extents(inputs);
        let taps = self.kernel[0] * self.kernel[1] * (e.channels[0] + e.channels[1]);
        Cost::with_traffic(2 * (output.shape.count() * taps) as u64, inputs, output)
    }

    fn variants(&self) -> &'static [Variant] {
        VARIANTS
    }

    fn lower(&self, variant: &Variant, site: &Site<'_>) -> Option<Lowering> {
        match (variant.target, variant.name) {
            (Target::Cpu, "reference") => Some(reference::lower(self, site)),
            (Target::Cpu, name) => cpu::lower(self, name, site),
            (Target::Wgsl, name) => wgsl::lower(self, name, site),
            (Target::Cuda, name) => cuda::lower(self, name, site),
        }
    }

    fn tiles(&self, variant: &Variant) -> &'static [&'static str] {
        crate::tiles(variant)
    }

    fn identity(&self) -> String {
        // The column at which the shift begins differs from layer to layer.
        format!("{:?}", Conv2d { shift: self.shift.map(|_| 0), ..*self })
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
    let c3 = Conv2d::same(3);
    let c1 = Conv2d::same(1);
    let ops = |x: [usize; 4], cout: usize, k: usize| {
        vec![Operand::activation(x), Operand::weight([cout, x[3], k, k]), Operand::weight([cout])]
    };
    let two = |b: usize, h: usize, w: usize, c: [usize; 2], cout: usize, k: usize| {
        let [a, b2] = [Operand::activation([b, h, w, c[0]]), Operand::activation([b, h, w, c[1]])];
        vec![a, b2, Operand::weight([cout, c[0] + c[1], k, k]), Operand::weight([cout])]
    };
    let plus = |mut o: Vec<Operand>, more: Vec<Operand>| {
        o.extend(more);
        o
    };
    let down = Conv2d { stride: 2, ..c3 };
    let everything = Conv2d {
        stride: 2,
        upsample: Some([16, 11]),
        two_sources: true,
        shift: Some(7),
        activation: Activation::Silu,
        residual: true,
        ..c3
    };
    let vae_down = Conv2d { stride: 2, padding: [0, 0, 1, 1], ..c3 };
    vec![
        Case::new("one", c1, ops([1, 1, 1, 1], 1, 1)),
        Case::new("one_by_one", c1, ops([2, 5, 7, 19], 13, 1)),
        Case::new("ragged", c3, ops([1, 7, 11, 5], 9, 3)),
        Case::new("prime_batch", c3, ops([3, 5, 3, 17], 7, 3)),
        Case::new("tile", c3, ops([1, 16, 16, 32], 64, 3)),
        Case::new("wide_channels", c3, ops([2, 9, 10, 64], 72, 3)),
        // Several tiles of pixels and of channels, and a ring of tiles that comes round.
        Case::new("ragged_tiles", c3, ops([2, 9, 13, 24], 133, 3)),
        // Sums long enough to be divided, on a map that has few tiles, and on one that has more.
        Case::new("small_map", Conv2d { residual: true, ..c3 }, {
            plus(ops([2, 5, 7, 96], 72, 3), vec![Operand::activation([2, 5, 7, 72])])
        }),
        Case::new("middle_map", c3, ops([1, 32, 37, 64], 260, 3)),
        // As many tiles as keep a device busy: large ones, and tall ones.
        Case::new("large_tiles", c1, ops([1, 62, 70, 8], 512, 1)),
        Case::new("tall_tiles", c1, ops([1, 77, 79, 16], 180, 1)),
        Case::new("image_in", c3, ops([1, 12, 20, 3], 16, 3)),
        Case::new("latent_out", c3, ops([1, 8, 12, 32], 4, 3)),
        Case::new("down", down, ops([1, 9, 12, 16], 16, 3)),
        Case::new("down_asymmetric", vae_down, ops([1, 12, 10, 16], 16, 3)),
        Case::new("up", Conv2d { upsample: Some([12, 20]), ..c3 }, ops([1, 6, 10, 16], 24, 3)),
        Case::new("up_to_odd", Conv2d { upsample: Some([13, 7]), ..c3 }, ops([2, 7, 4, 12], 8, 3)),
        Case::new("two_sources", Conv2d { two_sources: true, ..c3 }, two(2, 6, 5, [16, 8], 12, 3)),
        Case::new("two_sources_ragged", Conv2d { two_sources: true, ..c3 }, two(1, 9, 5, [7, 10], 11, 3)),
        Case::new("two_sources_one_by_one", Conv2d { two_sources: true, ..c1 }, two(2, 6, 5, [24, 16], 20, 1)),
        Case::new("shift", Conv2d { shift: Some(10), ..c3 }, {
            plus(ops([2, 6, 6, 16], 20, 3), vec![Operand::activation([2, 36])])
        }),
        Case::new("residual", Conv2d { residual: true, ..c3 }, {
            plus(ops([2, 6, 6, 16], 20, 3), vec![Operand::activation([2, 6, 6, 20])])
        }),
        Case::new("shift_residual", Conv2d { shift: Some(0), residual: true, ..c3 }, {
            plus(ops([1, 10, 6, 32], 32, 3), vec![Operand::activation([1, 32]), Operand::activation([1, 10, 6, 32])])
        }),
        Case::new("silu", Conv2d { activation: Activation::Silu, ..c3 }, ops([1, 8, 8, 8], 16, 3)),
        Case::new("no_bias", Conv2d { bias: false, ..c3 }, {
            vec![Operand::activation([1, 8, 8, 8]), Operand::weight([16, 8, 3, 3])]
        }),
        Case::new("one_by_three", Conv2d { kernel: [1, 3], padding: [0, 1, 0, 1], ..c3 }, {
            vec![Operand::activation([2, 5, 9, 8]), Operand::weight([6, 8, 1, 3]), Operand::weight([6])]
        }),
        Case::new("everything", everything, {
            let x = two(2, 9, 7, [12, 20], 36, 3);
            plus(x, vec![Operand::activation([2, 50]), Operand::activation([2, 8, 6, 36])])
        }),
        // Enough tiles for the middle and the tallest of them; vectors of four that end inside a step.
        Case::new("many_tiles", c3, ops([1, 32, 40, 12], 256, 3)),
        Case::new("many_tall_tiles", c3, ops([2, 34, 40, 4], 192, 3)),
        Case::new("winograd_odd", c3, ops([2, 9, 13, 40], 33, 3)),
        Case::new("winograd_deep", c3, ops([1, 8, 9, 700], 70, 3)),
        Case::new("winograd_two_sources", Conv2d { two_sources: true, ..c3 }, two(1, 11, 9, [37, 30], 80, 3)),
        Case::new("winograd_upsample", Conv2d { upsample: Some([11, 14]), residual: true, ..c3 }, {
            plus(ops([2, 6, 7, 48], 65, 3), vec![Operand::activation([2, 11, 14, 65])])
        }),
        Case::new("winograd_no_padding", Conv2d { padding: [0, 2, 1, 0], ..c3 }, ops([1, 12, 10, 32], 36, 3)),
        Case::new("five_by_five", Conv2d::same(5), ops([1, 9, 8, 6], 5, 5)),
        Case::full_size("unet_down0", c3, ops([1, 64, 64, 320], 320, 3)),
        Case::full_size("unet_down1", c3, ops([1, 32, 32, 640], 640, 3)),
        Case::full_size("unet_down2", c3, ops([1, 16, 16, 1280], 1280, 3)),
        Case::full_size("unet_mid", c3, ops([1, 8, 8, 1280], 1280, 3)),
        Case::full_size("unet_up3", c3, ops([1, 64, 64, 960], 320, 3)),
        Case::full_size("unet_up2_upsample", Conv2d { upsample: Some([64, 64]), ..c3 }, ops([1, 32, 32, 640], 640, 3)),
        Case::full_size("unet_up1_first", c3, ops([1, 16, 16, 2560], 1280, 3)),
        Case::full_size("unet_down0_downsample", down, ops([1, 64, 64, 320], 320, 3)),
        Case::full_size("unet_up3_shortcut", Conv2d { two_sources: true, ..c1 }, two(1, 64, 64, [640, 320], 320, 1)),
        Case::full_size("unet_down0_proj", c1, ops([1, 64, 64, 320], 320, 1)),
        Case::full_size("vae_mid", c3, ops([1, 64, 64, 512], 512, 3)),
        Case::full_size("vae_up3", c3, ops([1, 512, 512, 128], 128, 3)),
        Case::full_size(
            "vae_up2_upsample",
            Conv2d { upsample: Some([512, 512]), ..c3 },
            ops([1, 256, 256, 256], 256, 3),
        ),
    ]
}
