//! Kernels that each use one wrapper of CUDA's instructions on known operands. What the tests' emulator takes the wrapper to mean
//! is recorded in `recorded.txt`; a GPU gives the same words, or the emulator is wrong.

use std::collections::BTreeMap;

use muybridge_runtime::{Cost, DType, HostTensor, Lowering, Mismatch, Op, Site, Target, TensorDesc, Variant};

use crate::cuda::translated;
use crate::wgsl::Kernel;

/// Words of every result.
pub const WORDS: usize = 4096;

const VARIANTS: &[Variant] = &[Variant { name: "wrapper", target: Target::Cuda, launches: 1 }];

const WARPGROUP: &str =
    concat!(include_str!("../hopper.cu"), "#line 1 \"kernels/wrappers/warpgroup.cu\"\n", include_str!("warpgroup.cu"));

const BOXES: &str =
    concat!(include_str!("../hopper.cu"), "#line 1 \"kernels/wrappers/boxes.cu\"\n", include_str!("boxes.cu"));

/// Extents of the operand whose boxes are copied, the innermost first.
const EXTENTS: [u32; 4] = [72, 5, 3, 2];

/// A wrapper, or some that go together: an op of one operand and a result of [`WORDS`] words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrapper {
    /// What it is called in `prelude.cu` or `hopper.cu`.
    pub name: &'static str,
    what: What,
}

/// Which file has it, and what chooses it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Of a warp: its number, and the oldest compute capability that has it.
    Warp(u32, (u32, u32)),
    /// Of a warpgroup, which compute capability 9.0 alone has: its number, and whether in bf16.
    Warpgroup(u32, bool),
    /// Copies of boxes of so many columns, on compute capability 9.0.
    Boxes(u32),
}

const fn warp(name: &'static str, number: u32, least: (u32, u32)) -> Wrapper {
    Wrapper { name, what: What::Warp(number, least) }
}

const fn group(name: &'static str, number: u32, bf16: bool) -> Wrapper {
    Wrapper { name, what: What::Warpgroup(number, bf16) }
}

const fn boxes(name: &'static str, columns: u32) -> Wrapper {
    Wrapper { name, what: What::Boxes(columns) }
}

/// All of them.
pub const WRAPPERS: [Wrapper; 16] = [
    warp("ldmatrix_x4", 0, (7, 5)),
    warp("ldmatrix_x4_transposed", 1, (7, 5)),
    warp("mma_tile/f16", 2, (7, 5)),
    warp("mma_tile/bf16", 3, (8, 0)),
    warp("mma_tile_tf32", 4, (8, 0)),
    warp("copy_async_16", 5, (7, 5)),
    warp("conversions", 6, (7, 5)),
    group("product/swizzled_rows/f16", 0, false),
    group("product/swizzled_rows/bf16", 0, true),
    group("product/matrices/f16", 1, false),
    group("product/matrices/bf16", 1, true),
    group("product_of_registers/f16", 2, false),
    group("product_of_registers/bf16", 2, true),
    group("barrier", 3, false),
    boxes("copy_box/64", 64),
    boxes("copy_box/8", 8),
];

impl Wrapper {
    /// Its operand: numbers of many sizes, those at the limits of f16 among them; for boxes, each element another one.
    pub fn operand(&self) -> HostTensor {
        if let What::Boxes(_) = self.what {
            let extents = EXTENTS.map(|n| n as usize);
            return HostTensor::from_fn([extents[3], extents[2], extents[1], extents[0]], |i| i as f32 - 1080.0)
                .convert(DType::F16);
        }
        let limits =
            [65504.0, 65519.0, 65520.0, -65520.0, 6e-8, 2.9e-8, 0.0, -0.0, 6.1e-5, 1.000_488_3, 1.001_464_8, 3e38];
        HostTensor::from_fn([128], |i| {
            limits.get(i).copied().unwrap_or((i as f32 - 60.5) * (i as f32 % 40.0 - 24.0).exp2())
        })
    }
}

impl Op for Wrapper {
    fn name(&self) -> &'static str {
        "wrapper"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        let wanted = self.operand().desc();
        match inputs {
            [x] if *x == wanted => Ok(TensorDesc::new([WORDS], DType::F32)),
            _ => Err(Mismatch(format!("x {wanted} was wanted"))),
        }
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        Cost::with_traffic(0, inputs, output)
    }

    fn variants(&self) -> &'static [Variant] {
        VARIANTS
    }

    fn lower(&self, _: &Variant, site: &Site<'_>) -> Option<Lowering> {
        let capability = site.caps.compute_capability?;
        let (file, text, threads, shared) = match self.what {
            What::Warp(_, least) if capability >= least => {
                ("kernels/wrappers/warp.cu", include_str!("warp.cu"), 32, 512)
            }
            What::Warpgroup(..) if capability == (9, 0) => ("kernels/wrappers/warpgroup.cu", WARPGROUP, 128, 18_432),
            What::Boxes(_) if capability == (9, 0) => ("kernels/wrappers/boxes.cu", BOXES, 128, 18_432),
            _ => return None,
        };
        let kernel = Kernel::new(site, file, "", "wrapper").input("x", 0).output("y");
        let kernel = match self.what {
            What::Warp(number, _) => kernel.constant("WRAPPER", number),
            What::Warpgroup(number, bf16) => kernel.constant("WRAPPER", number).constant("BF16", bf16),
            What::Boxes(columns) => kernel.constant("COLUMNS", columns).map("boxes", "x", EXTENTS, [columns, 4, 2, 1]),
        };
        let mut launch = kernel.launch(Some([1; 3]), [threads, 1, 1], &[0u32])?;
        launch.shared = shared;
        translated(kernel.lower([Some(launch)]), file, text)
    }
}

/// Checksum of a result (FNV-1a in 64 bits, Fowler, Noll, Vo).
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// The recorded checksums by name.
pub fn recorded() -> BTreeMap<&'static str, u64> {
    let lines = include_str!("recorded.txt").lines().filter_map(|l| l.split_once(' '));
    lines.filter_map(|(name, sum)| Some((name, u64::from_str_radix(sum, 16).ok()?))).collect()
}
