//! CUDA launches.

use muybridge_runtime::{DType, Lowering, Site};

use super::{Extents, GroupNorm, wgsl};
use crate::cuda::translated;
use crate::wgsl::{Kernel, WIDE, line};

pub(super) fn lower(op: &GroupNorm, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let (file, text, lowering) = match variant {
        "one_pass" => ("kernels/group_norm/one_pass.cu", include_str!("one_pass.cu"), one_pass(op, site)),
        "two_pass" => ("kernels/group_norm/two_pass.cu", include_str!("two_pass.cu"), two_pass(op, site)),
        "simple" => ("kernels/group_norm/simple.cu", include_str!("simple.cu"), wgsl::lower(op, variant, site)),
        _ => return None,
    };
    translated(lowering, file, text)
}

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
    // The warps' parts of a sum are static and count too, with what aligns the rest.
    if bytes + 1024 > u64::from(site.caps.max_shared) {
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
    launch.shared = bytes as u32;
    kernel.lower([Some(launch)])
}

/// Channels of a slab, where whole groups give a multiple of 8 that is about this wide.
const SLAB: usize = 128;

/// Most chunks of a clip: enough blocks for a large device, few enough to be combined by every block.
const CHUNKS: usize = 512;

fn two_pass(op: &GroupNorm, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    let ([c1, c2], block) = (e.channels, WIDE as usize);
    let width = (c1 + c2) / op.groups;
    let least = (1..=8).map(|n| n * width).find(|n| n.is_multiple_of(8))?;
    let slab = (SLAB / least).max(1) * least;
    if !c1.is_multiple_of(8) || !c2.is_multiple_of(8) || slab / 8 > block {
        return None;
    }
    let (clips, clip_positions) = (e.batch / op.frames, op.frames * e.positions);
    let (slabs, lines) = ((c1 + c2).div_ceil(slab), block / (slab / 8));
    // Four positions a thread at least, where there are so many.
    let chunk = clip_positions.div_ceil(CHUNKS).max(4 * lines).min(clip_positions);
    let chunks = clip_positions.div_ceil(chunk);
    let kernel = operands(op, site, "kernels/group_norm/two_pass.cu", WIDE)
        .constant("SLAB", slab as u32)
        .output("y")
        .scratch("partial", DType::F32, (2 * clips * chunks * op.groups) as u64);
    let extents = [clips, chunks, chunk, e.positions, clip_positions, op.groups, slabs, c1, c2].map(|n| n as u32);
    let params: Vec<u32> = extents.into_iter().chain(modulation(op, site)).collect();
    let blocks = (clips * chunks * slabs) as u64;
    let launch = |kernel: &Kernel<'_>, shared: usize| {
        let params = bytemuck::cast_slice(&params).to_vec();
        let mut launch = kernel.launch_bytes(line(site.caps, blocks), [WIDE, 1, 1], params)?;
        launch.shared = shared as u32;
        Some(launch)
    };
    let statistics = launch(&kernel.clone().entry("group_norm_statistics"), (8 * block + slab) * 8);
    let result = launch(&kernel, 8 * (slab / width));
    kernel.lower([statistics, result])
}
