//! CUDA launches.

use muybridge_runtime::{DType, Launch, Lowering, Site};

use super::{Extents, GroupNorm, wgsl};
use crate::cuda::{MOMENTS, translated};
use crate::wgsl::{Kernel, WIDE, line};

pub(super) fn lower(op: &GroupNorm, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let (file, text, lowering) = match variant {
        "one_pass" => ("kernels/group_norm/one_pass.cu", include_str!("one_pass.cu"), one_pass(op, site)),
        "from_moments" => ("kernels/group_norm/from_moments.cu", FROM_MOMENTS, from_moments(op, site)),
        "two_pass" => ("kernels/group_norm/two_pass.cu", include_str!("two_pass.cu"), two_pass(op, site)),
        "simple" => ("kernels/group_norm/simple.cu", include_str!("simple.cu"), wgsl::lower(op, variant, site)),
        _ => return None,
    };
    translated(lowering, file, text)
}

/// The second pass of `two_pass` behind a first of its own.
const FROM_MOMENTS: &str = concat!(
    include_str!("two_pass.cu"),
    "#line 1 \"kernels/group_norm/from_moments.cu\"\n",
    include_str!("from_moments.cu")
);

/// All operands but the output. Without a second source it is the first again, of which nothing is read then.
fn operands<'a>(op: &GroupNorm, site: &'a Site<'a>, file: &'static str, block: u32) -> Kernel<'a> {
    let weight = op.weight_index();
    let Extents { channels: [c1, c2], .. } = op.extents(site.inputs);
    Kernel::new(site, file, "", "group_norm")
        .constant("BLOCK", block)
        .constant("EPS", op.eps)
        .constant("WIDTH", ((c1 + c2) / op.groups) as u32)
        .activation(op.activation)
        .input("x", 0)
        .input("x2", usize::from(op.two_sources))
        .weight("weight", Some(weight), DType::F32, 1.0)
        .weight("bias", Some(weight + 1), DType::F32, 0.0)
        .optional("modulation", op.modulation_index(), 0.0)
}

/// First column and row length of the modulation.
fn modulation(op: &GroupNorm, site: &Site<'_>) -> [u32; 2] {
    let stride = op.modulation_index().map_or(0, |i| site.inputs[i].shape.last());
    [op.modulate.unwrap_or(0) as u32, stride as u32]
}

fn one_pass(op: &GroupNorm, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    let [c1, c2] = e.channels;
    let (width, clip_positions) = ((c1 + c2) / op.groups, op.frames * e.positions);
    // Whole kilobytes of elements, so that maps of similar size share a kernel.
    let capacity = (clip_positions * width).next_multiple_of(1024) as u64;
    let bytes = capacity * site.output.dtype.size() as u64;
    // Then come the warps' parts of a sum.
    let shared = bytes + 4 * 32;
    if shared > u64::from(site.caps.max_shared) {
        return None;
    }
    let lanes = [8, 4, 2, 1].into_iter().find(|v| [width, c1, c2].iter().all(|c| c.is_multiple_of(*v)))?;
    let block = if clip_positions * width / lanes >= 4096 { 512 } else { WIDE };
    let kernel = operands(op, site, "kernels/group_norm/one_pass.cu", block)
        .constant("LANES", lanes as u32)
        .constant("CAPACITY", capacity as u32)
        .output("y");
    let clips = e.batch / op.frames;
    let [clips, groups, positions, clip_positions, c1, c2] =
        [clips, op.groups, e.positions, clip_positions, c1, c2].map(|n| n as u32);
    let [column, stride] = modulation(op, site);
    let params = [clips, groups, positions, clip_positions, c1, c2, column, stride];
    let blocks = line(site.caps, u64::from(clips) * u64::from(groups));
    let mut launch = kernel.launch(blocks, [block, 1, 1], &params)?;
    launch.shared = shared as u32;
    kernel.lower([Some(launch)])
}

/// Channels of a slab, where whole groups give a multiple of 8 that is about this wide.
const SLAB: usize = 128;

/// Most chunks of a clip: enough blocks for a large device, few enough to be combined by every block.
const CHUNKS: usize = 512;

/// How the positions of clips and the channels are divided among blocks that read vectors of eight channels.
struct Slabs {
    extents: Extents,
    /// Channels of a slab.
    slab: usize,
    slabs: usize,
    clips: usize,
    clip_positions: usize,
    chunk: usize,
    chunks: usize,
}

impl Slabs {
    fn of(op: &GroupNorm, site: &Site<'_>) -> Option<Slabs> {
        let e = op.extents(site.inputs);
        let ([c1, c2], block) = (e.channels, WIDE as usize);
        let width = (c1 + c2) / op.groups;
        let least = (1..=8).map(|n| n * width).find(|n| n.is_multiple_of(8))?;
        let slab = (SLAB / least).max(1) * least;
        if !c1.is_multiple_of(8) || !c2.is_multiple_of(8) || slab / 8 > block {
            return None;
        }
        let (clips, clip_positions) = (e.batch / op.frames, op.frames * e.positions);
        let lines = block / (slab / 8);
        // Four positions a thread at least, where there are so many.
        let chunk = clip_positions.div_ceil(CHUNKS).max(4 * lines).min(clip_positions);
        let chunks = clip_positions.div_ceil(chunk);
        Some(Slabs { slabs: (c1 + c2).div_ceil(slab), extents: e, slab, clips, clip_positions, chunk, chunks })
    }

    /// Parameters of the kernels of `two_pass.cu`, whose sums are of `parts` parts of a clip, each of `part` positions.
    fn params(&self, op: &GroupNorm, site: &Site<'_>, [parts, part]: [usize; 2]) -> Vec<u32> {
        let Slabs { extents: e, slabs, clips, clip_positions, chunk, chunks, .. } = *self;
        let [c1, c2] = e.channels;
        let extents = [clips, chunks, chunk, e.positions, clip_positions, op.groups, slabs, c1, c2].map(|n| n as u32);
        extents.into_iter().chain(modulation(op, site)).chain([parts, part].map(|n| n as u32)).collect()
    }

    /// A launch of `kernel` in so many blocks, with `shared` bytes.
    fn launch(&self, kernel: &Kernel<'_>, blocks: usize, shared: usize, params: &[u32]) -> Option<Launch> {
        let params = bytemuck::cast_slice(params).to_vec();
        let mut launch = kernel.launch_bytes(line(kernel.caps(), blocks as u64), [WIDE, 1, 1], params)?;
        launch.shared = shared as u32;
        Some(launch)
    }

    fn blocks(&self) -> usize {
        self.clips * self.chunks * self.slabs
    }
}

fn two_pass(op: &GroupNorm, site: &Site<'_>) -> Option<Lowering> {
    let s = Slabs::of(op, site)?;
    let width = s.extents.channels.iter().sum::<usize>() / op.groups;
    let kernel = operands(op, site, "kernels/group_norm/two_pass.cu", WIDE)
        .constant("SLAB", s.slab as u32)
        .output("y")
        .scratch("partial", DType::F32, (2 * s.clips * s.chunks * op.groups) as u64);
    let params = s.params(op, site, [s.chunks, s.chunk]);
    let shared = (8 * WIDE as usize + s.slab) * 8;
    let statistics = s.launch(&kernel.clone().entry("group_norm_statistics"), s.blocks(), shared, &params);
    let result = s.launch(&kernel, s.blocks(), 8 * (s.slab / width), &params);
    kernel.lower([statistics, result])
}

/// As `two_pass`, with sums that come with the sources.
fn from_moments(op: &GroupNorm, site: &Site<'_>) -> Option<Lowering> {
    let s = Slabs::of(op, site)?;
    let [c1, c2] = s.extents.channels;
    let width = (c1 + c2) / op.groups;
    let moments = |source: usize, channels: usize| {
        let summary = site.summaries.get(source)?.as_ref().filter(|m| m.kind == MOMENTS)?;
        let [items, tiles, rows, c] = summary.extents;
        let of_this = items == s.extents.batch && c == channels && tiles == s.extents.positions.div_ceil(rows.max(1));
        of_this.then_some([tiles, rows])
    };
    let second = usize::from(op.two_sources);
    let [tiles, rows] = moments(0, c1)?;
    let [tiles2, rows2] = if op.two_sources { moments(1, c2)? } else { [0, 0] };
    let kernel = operands(op, site, "kernels/group_norm/from_moments.cu", WIDE)
        .constant("SLAB", s.slab as u32)
        .constant("FRAMES", op.frames as u32)
        .output("y")
        .scratch("partial", DType::F32, (2 * s.clips * op.groups) as u64)
        .summary_of("moments", 0)
        .summary_of("moments2", second);
    let mut params = s.params(op, site, [1, s.clip_positions]);
    let result = s.launch(&kernel, s.blocks(), 8 * (s.slab / width), &params);
    params.extend([tiles, rows, tiles2, rows2].map(|n| n as u32));
    let shared = 12 * WIDE as usize / 32;
    let statistics = s.launch(&kernel.clone().entry("group_norm_moments"), s.clips * op.groups, shared, &params);
    kernel.lower([statistics, result])
}
