//! What the CUDA lowerings of all ops share.
//!
//! A launch is the same data in both kernel languages: the same operands in the same order, the same geometry, the same bytes
//! of parameters. So a CUDA text that is the translation of a WGSL text is lowered as that one is, and [`translated`] puts the
//! text in its place. Kernels that only CUDA has build their launches with [`Kernel`](crate::wgsl::Kernel) themselves.

use bytemuck::NoUninit;
use muybridge_runtime::{Code, DType, Launch, Lowering, Site};

use crate::wgsl::{Kernel, line};

const PRELUDE: &str = include_str!("prelude.cu");

/// Bytes of parameters that every driver since CUDA 12.0 takes.
const MAX_PARAMS: usize = 4096;

/// The same launches with this CUDA text, whose path in the repository is `file`. `None` where parameters are too large.
pub(crate) fn translated(lowering: Option<Lowering>, file: &'static str, text: &'static str) -> Option<Lowering> {
    let mut lowering = lowering?;
    for launch in &mut lowering.launches {
        let Code::Kernel(source) = &mut launch.code else { return None };
        // Operands are parameters too: one address each.
        if launch.params.len() + 8 * launch.args.len() > MAX_PARAMS {
            return None;
        }
        (source.file, source.text, source.prelude) = (file, text, PRELUDE);
    }
    Some(lowering)
}

/// Whether tensor cores serve the site's dtype, by the instructions that the prelude wraps.
pub(crate) fn tensor_cores(site: &Site<'_>) -> bool {
    let least = match site.output.dtype {
        DType::F32 => return false,
        DType::F16 => (7, 5),
        DType::BF16 => (8, 0),
    };
    site.caps.compute_capability.is_some_and(|c| c >= least)
}

/// How the main loop of `kernels/tile.cu` divides a product: rows and columns of a block's tile, its warps along both, and the
/// stages of its ring.
pub(crate) struct Tile {
    rows: u32,
    columns: u32,
    warps: [u32; 2],
    stages: u32,
}

impl Tile {
    /// Tilings that may be asked for: rows and columns, and the stages of the ring.
    pub const NAMES: &'static [&'static str] = &["128x128x3", "128x64x4", "64x64x4"];

    /// The tiling that the site asks for, or else one for a product of this size.
    pub fn at(site: &Site<'_>, rows: usize, columns: usize) -> Tile {
        match site.tile {
            Some("128x128x3") => Tile { rows: 128, columns: 128, warps: [2, 4], stages: 3 },
            Some("128x64x4") => Tile { rows: 128, columns: 64, warps: [4, 2], stages: 4 },
            Some("64x64x4") => Tile { rows: 64, columns: 64, warps: [2, 2], stages: 4 },
            _ => Tile::of(rows, columns),
        }
    }

    /// For a product of this size. Not measured on hardware yet: large tiles where there is more than half of one.
    fn of(rows: usize, columns: usize) -> Tile {
        if rows > 64 && columns > 64 {
            Tile { rows: 128, columns: 128, warps: [2, 4], stages: 3 }
        } else {
            Tile { rows: 64, columns: 64, warps: [2, 2], stages: 4 }
        }
    }

    /// Tiles along rows and columns.
    pub fn count(&self, rows: u32, columns: u32) -> [u32; 2] {
        [rows.div_ceil(self.rows), columns.div_ceil(self.columns)]
    }

    /// A kernel without operands whose text holds the main loop.
    pub fn kernel<'a>(&self, site: &'a Site<'a>, file: &'static str, entry: &'static str) -> Kernel<'a> {
        Kernel::new(site, file, "", entry)
            .constant("TILE_M", self.rows)
            .constant("TILE_N", self.columns)
            .constant("WARPS_M", self.warps[0])
            .constant("WARPS_N", self.warps[1])
            .constant("STAGES", self.stages)
            .constant("BF16", site.output.dtype == DType::BF16)
    }

    /// A launch of this many blocks.
    pub fn launch<P: NoUninit>(&self, kernel: &Kernel<'_>, site: &Site<'_>, blocks: u64, params: &P) -> Option<Launch> {
        let threads = 32 * self.warps[0] * self.warps[1];
        let mut launch = kernel.launch(line(site.caps, blocks), [threads, 1, 1], params)?;
        launch.shared = self.stages * (self.rows + self.columns) * 64;
        (launch.shared <= site.caps.max_shared).then_some(launch)
    }
}
