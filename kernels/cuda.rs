//! What the CUDA lowerings of all ops share.
//!
//! A launch is the same data in both kernel languages: the same operands in the same order, the same geometry, the same bytes
//! of parameters. So a CUDA text that is the translation of a WGSL text is lowered as that one is, and [`translated`] puts the
//! text in its place. Kernels that only CUDA has build their launches with [`Kernel`](crate::wgsl::Kernel) themselves.

use bytemuck::NoUninit;
use muybridge_runtime::{Code, DType, Launch, Lowering, Site, Summary};

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

/// Whether tensor cores serve the site at the precision of tf32.
pub(crate) fn tf32_cores(site: &Site<'_>) -> bool {
    site.output.dtype == DType::F32 && site.caps.compute_capability.is_some_and(|c| c >= (8, 0))
}

/// Name of the summary that [`moments`] describes.
pub(crate) const MOMENTS: &str = "moments of channels";

/// Moments of the channels of a result, over tiles of `rows` successive positions of an item: `[items, tiles, channels, 2]` in
/// f32, the mean and the sum of squared distances from it. Extents are items, tiles of an item, rows, channels.
pub(crate) fn moments([items, tiles, rows, channels]: [usize; 4]) -> Summary {
    let bytes = 8 * (items * tiles * channels) as u64;
    Summary { kind: MOMENTS, extents: [items, tiles, rows, channels], bytes }
}

/// Blocks that keep a large device busy. Of the number of its processors only this much is assumed.
const ENOUGH: usize = 128;

/// Fewest steps along k that are worth dividing among the slices of a block.
const LONG: usize = 16;

/// How the main loop of `kernels/tile.cu` divides a product: rows and columns of a block's tile, its warps along both, the
/// slices of k that it sums at once, and the stages of its ring. Not measured on hardware yet.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    rows: u32,
    columns: u32,
    warps: [u32; 2],
    slices: u32,
    stages: u32,
    /// The loop is that of `kernels/warpgroup.cu` instead, whose warps follow from the rows.
    warpgroups: bool,
    /// Whose stages are filled by copies of boxes.
    boxed: bool,
}

/// The shares of `kernels/stream.cu`: blocks, numbers that they leave in scratch memory, and tiles, each with a counter.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    pub blocks: u64,
    sums: u64,
    tiles: u64,
}

impl Stream {
    /// Binds what the shares need, or nothing where there are none.
    pub fn bind(stream: Option<Stream>, kernel: Kernel<'_>) -> Kernel<'_> {
        let kernel = kernel.constant("STREAMED", stream.is_some());
        match stream {
            Some(s) => kernel.scratch("partial", DType::F32, s.sums).counters("counters", s.tiles),
            None => kernel.missing("partial").missing("counters"),
        }
    }
}

impl Tile {
    /// Tilings of one slice that may be asked for: rows and columns, and the stages of the ring.
    pub const NAMES: &'static [&'static str] = &["128x128x3", "128x64x4", "64x64x4"];

    /// The same of several slices, whose number comes last.
    pub const SLICED: &'static [&'static str] = &["32x64x4x4", "64x64x3x4", "64x64x4x2"];

    const LARGE: Tile =
        Tile { rows: 128, columns: 128, warps: [2, 4], slices: 1, stages: 3, warpgroups: false, boxed: false };
    const TALL: Tile =
        Tile { rows: 128, columns: 64, warps: [2, 2], slices: 1, stages: 4, warpgroups: false, boxed: false };
    const SMALL: Tile =
        Tile { rows: 64, columns: 64, warps: [2, 2], slices: 1, stages: 4, warpgroups: false, boxed: false };

    /// For tensor cores that read shared memory themselves.
    const WARPGROUPS: Tile = Tile { stages: 6, warpgroups: true, ..Tile::LARGE };

    /// The same where boxes are copied.
    const BOXED: Tile = Tile { boxed: true, ..Tile::WARPGROUPS };

    /// Registers of a thread that asks for boxes and of one that multiplies.
    const BOXED_REGISTERS: [u32; 2] = [40, 232];

    /// Registers of a thread that copies and of one that multiplies, by `kernels/warpgroup.cu`.
    const REGISTERS: [u32; 2] = [104, 200];

    /// For a device that has warpgroups' products. They are not promised to later ones.
    pub fn of_warpgroups(site: &Site<'_>) -> Option<Tile> {
        let has = site.caps.compute_capability == Some((9, 0)) && site.output.dtype != DType::F32;
        has.then_some(Tile::WARPGROUPS)
    }

    /// As [`Tile::of_warpgroups`], with copies of boxes.
    pub fn boxed(site: &Site<'_>) -> Option<Tile> {
        Tile::of_warpgroups(site).map(|_| Tile::BOXED)
    }

    /// Binds a map of an operand, of boxes of 64 columns; or nothing where boxes are not copied.
    pub fn map<'a>(
        &self,
        kernel: Kernel<'a>,
        name: &'static str,
        of: &str,
        extents: [usize; 4],
        rows: [u32; 3],
    ) -> Kernel<'a> {
        let [a, b, c] = rows;
        if self.boxed { kernel.map(name, of, extents.map(|n| n as u32), [64, a, b, c]) } else { kernel.missing(name) }
    }

    /// The tiling that the site asks for, or else one for `items` products of this size: large tiles where they are many, tall
    /// ones where columns end in half of a large one.
    pub fn at(site: &Site<'_>, items: usize, rows: usize, columns: usize) -> Tile {
        match site.tile {
            Some("128x128x3") => return Tile::LARGE,
            Some("128x64x4") => return Tile::TALL,
            Some("64x64x4") => return Tile::SMALL,
            _ => {}
        }
        let large = if (1..=64).contains(&(columns % 128)) { Tile::TALL } else { Tile::LARGE };
        if large.blocks(items, rows, columns) >= ENOUGH { large } else { Tile::SMALL }
    }

    /// The same for products that even the smallest tiles divide into too few blocks: each block's threads are slices that
    /// divide k, `length` long. One launch; the sums of the slices meet in shared memory. `None` where tiles are enough or
    /// sums short.
    pub fn sliced(site: &Site<'_>, items: usize, rows: usize, columns: usize, length: usize) -> Option<Tile> {
        const LOW: Tile = Tile { rows: 32, warps: [1, 2], slices: 4, ..Tile::SMALL };
        const FOUR: Tile = Tile { slices: 4, stages: 3, ..Tile::SMALL };
        const TWO: Tile = Tile { slices: 2, ..Tile::SMALL };
        let steps = length.div_ceil(64 / site.output.dtype.size());
        let blocks = Tile::SMALL.blocks(items, rows, columns);
        match (site.tile, blocks) {
            (Some("32x64x4x4"), _) => Some(LOW),
            (Some("64x64x3x4"), _) => Some(FOUR),
            (Some("64x64x4x2"), _) => Some(TWO),
            _ if steps < LONG || blocks >= 2 * ENOUGH => None,
            (_, ..64) => Some(LOW),
            (_, 64..ENOUGH) => Some(FOUR),
            _ => Some(TWO),
        }
    }

    /// Even shares of the steps of `tiles` tiles, for sums of this length; `None` where the device does not say how many blocks
    /// it holds, or the steps are too many to be counted.
    ///
    /// What they could spare, counted over the shapes of a guided step of SD 1.5 at 512x512 with the tilings that are chosen
    /// otherwise, a block at a time on each of 132 processors: whole tiles leave 25 % of the products' time idle (convolutions
    /// 29 %, matrix products 19 %; 160 tiles, which take two rounds, are the most frequent count), 23 % on 128 processors; 1 to 3 %
    /// in the VAE and in UNet3D of 24 frames. Processors that hold several blocks hide some of it, so that hardware must show
    /// the rest.
    pub fn stream(&self, site: &Site<'_>, tiles: u64, length: usize) -> Option<Stream> {
        let [threads, _] = self.block();
        let steps = length.div_ceil(64 / site.output.dtype.size()) as u64;
        let all = tiles.checked_mul(steps).filter(|n| *n > 0 && *n < 1 << 31)?;
        // As `RESIDENT` in `kernels/tile.cu`.
        let most = u64::from(site.caps.processors? * (384 / threads).max(1));
        let blocks = most.min(all);
        Some(Stream { blocks, sums: 2 * blocks * u64::from(self.rows * self.columns), tiles })
    }

    fn blocks(&self, items: usize, rows: usize, columns: usize) -> usize {
        items * rows.div_ceil(self.rows as usize) * columns.div_ceil(self.columns as usize)
    }

    /// Rows and columns of a tile.
    pub fn extent(&self) -> [u32; 2] {
        [self.rows, self.columns]
    }

    /// Whether boxes are copied.
    pub fn is_boxed(&self) -> bool {
        self.boxed
    }

    /// Tiles along rows and columns.
    pub fn count(&self, rows: u32, columns: u32) -> [u32; 2] {
        [rows.div_ceil(self.rows), columns.div_ceil(self.columns)]
    }

    /// A kernel without operands whose text holds the main loop.
    pub fn kernel<'a>(&self, site: &'a Site<'a>, file: &'static str, entry: &'static str) -> Kernel<'a> {
        let kernel = Kernel::new(site, file, "", entry)
            .constant("TILE_M", self.rows)
            .constant("TILE_N", self.columns)
            .constant("STAGES", self.stages)
            .constant("BF16", site.output.dtype == DType::BF16);
        if self.warpgroups {
            let [copy, sum] = if self.boxed { Tile::BOXED_REGISTERS } else { Tile::REGISTERS };
            return kernel
                .constant("BOXED", self.boxed)
                .constant("COPY_REGISTERS", copy)
                .constant("SUM_REGISTERS", sum);
        }
        kernel
            .constant("BOXED", false)
            .constant("WARPS_M", self.warps[0])
            .constant("WARPS_N", self.warps[1])
            .constant("SLICES", self.slices)
    }

    /// Threads and dynamic shared bytes of a block.
    fn block(&self) -> [u32; 2] {
        let lines = self.rows + self.columns;
        match self.warpgroups {
            true => [128 * (1 + self.rows / 64), self.stages * (lines * 128 + 16)],
            false => [32 * self.warps[0] * self.warps[1] * self.slices, self.stages * self.slices * lines * 64],
        }
    }

    /// A launch of this many blocks.
    pub fn launch<P: NoUninit>(&self, kernel: &Kernel<'_>, site: &Site<'_>, blocks: u64, params: &P) -> Option<Launch> {
        let [threads, shared] = self.block();
        let mut launch = kernel.launch(line(site.caps, blocks), [threads, 1, 1], params)?;
        launch.shared = shared;
        (launch.shared <= site.caps.max_shared).then_some(launch)
    }
}
