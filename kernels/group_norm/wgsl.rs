//! WGSL launches.

use std::ops::Range;

use muybridge_runtime::{DType, Launch, Lowering, Site};

use super::{Extents, GroupNorm};
use crate::wgsl::{Kernel, WIDE, line, pieces};

const SIMPLE: &str = concat!(include_str!("../total.wgsl"), include_str!("operands.wgsl"), include_str!("simple.wgsl"));
const ONE_PASS: &str =
    concat!(include_str!("../total.wgsl"), include_str!("operands.wgsl"), include_str!("one_pass.wgsl"));
const TWO_PASS: &str = include_str!("two_pass.wgsl");

/// Most chunks of a clip: enough workgroups for a large device, few enough to be combined by one workgroup.
const CHUNKS: u64 = 256;

/// Fewest positions of a chunk, except in a clip that has fewer.
const CHUNK: u64 = 64;

/// Channels that make a contiguous load worth while.
const SLAB: usize = 64;

pub(super) fn lower(op: &GroupNorm, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "one_pass" => one_pass(op, site),
        "two_pass" => two_pass(op, site),
        "simple" => {
            let kernel = Kernel::new(site, "kernels/group_norm/simple.wgsl", SIMPLE, "group_norm");
            sweep(op, site, operands(op, kernel).output("y"))
        }
        _ => None,
    }
}

/// All operands but the output, as every variant binds them.
fn operands<'a>(op: &GroupNorm, kernel: Kernel<'a>) -> Kernel<'a> {
    let weight = op.weight_index();
    kernel
        .constant("BLOCK", WIDE)
        .constant("EPS", op.eps)
        .activation(op.activation)
        .input("x", 0)
        .optional("x2", op.two_sources.then_some(1), 0.0)
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
    let count = op.frames * e.positions * (e.channels[0] + e.channels[1]) / op.groups;
    // A whole number of KiB, so that maps of similar size share a pipeline.
    let capacity = (count as u64).next_multiple_of(256);
    if 4 * (capacity + u64::from(WIDE)) > u64::from(site.caps.max_shared) {
        return None;
    }
    let kernel = Kernel::new(site, "kernels/group_norm/one_pass.wgsl", ONE_PASS, "group_norm");
    sweep(op, site, operands(op, kernel.constant("CAPACITY", capacity as u32)).output("y"))
}

/// One workgroup for each clip and group.
fn sweep(op: &GroupNorm, site: &Site<'_>, kernel: Kernel<'_>) -> Option<Lowering> {
    let Extents { batch, positions, channels: [c1, c2] } = op.extents(site.inputs);
    let clips = batch / op.frames;
    let [column, stride] = modulation(op, site);
    let width = (c1 + c2) / op.groups;
    let extents = [clips, op.groups, width, positions, op.frames * positions, c1, c2].map(|n| n as u32);
    let [clips, groups, width, positions, clip_positions, c1, c2] = extents;
    let params = [clips, groups, width, positions, clip_positions, c1, c2, column, stride];
    let launch = kernel.launch(line(site.caps, u64::from(clips) * u64::from(groups)), [WIDE, 1, 1], &params);
    kernel.lower([launch])
}

/// How the work of two passes is divided.
struct Division {
    clips: u64,
    clip_positions: u64,
    /// Positions of a chunk; chunks of a clip.
    chunk: u64,
    chunks: u64,
    slab_groups: u64,
    slabs: u64,
}

impl Division {
    /// `part` is the most positions that one launch can reach.
    fn new(op: &GroupNorm, e: &Extents, part: u64) -> Division {
        let width = (e.channels[0] + e.channels[1]) / op.groups;
        let clip_positions = (op.frames * e.positions) as u64;
        let chunk = clip_positions.div_ceil(CHUNKS).max(CHUNK).min(part).min(clip_positions);
        let most = (WIDE as usize / width).max(1);
        let slab_groups = SLAB.div_ceil(width).min(most).min(op.groups) as u64;
        Division {
            clips: (e.batch / op.frames) as u64,
            clip_positions,
            chunk,
            chunks: clip_positions.div_ceil(chunk),
            slab_groups,
            slabs: (op.groups as u64).div_ceil(slab_groups),
        }
    }
}

fn two_pass(op: &GroupNorm, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    let size = site.output.dtype.size() as u64;
    let [c1, c2] = e.channels.map(|c| c as u64);
    let position_bytes = [c1 * size, c2 * size, (c1 + c2) * size];
    let positions = (e.batch * e.positions) as u64;
    let whole = pieces(site.caps, positions, &position_bytes, 1)?;
    let d = Division::new(op, &e, whole[0].end - whole[0].start);
    let kernel = Kernel::new(site, "kernels/group_norm/two_pass.wgsl", TWO_PASS, "group_norm");
    let scratch = 2 * d.clips * d.chunks * op.groups as u64;
    let kernel = operands(op, kernel).output("y").scratch("partial", DType::F32, scratch);
    let statistics = kernel.clone().entry("group_norm_statistics");
    // Clips and chunks of each launch: all of them, or chunks of one clip as many as fit.
    let parts: Vec<(Range<u64>, Range<u64>)> = if whole.len() == 1 {
        vec![(0..d.clips, 0..d.chunks)]
    } else {
        let chunk_bytes = position_bytes.map(|b| b * d.chunk);
        let each = pieces(site.caps, d.chunks, &chunk_bytes, 1)?;
        (0..d.clips).flat_map(|n| each.iter().map(move |r| (n..n + 1, r.clone()))).collect()
    };
    let pass = |kernel: &Kernel<'_>| -> Vec<Option<Launch>> {
        parts.iter().map(|(clips, chunks)| part(op, site, kernel, &d, clips, chunks)).collect()
    };
    let launches = pass(&statistics).into_iter().chain(pass(&kernel)).collect::<Vec<_>>();
    kernel.lower(launches)
}

/// The launch of one pass over these chunks of these clips.
fn part(
    op: &GroupNorm,
    site: &Site<'_>,
    kernel: &Kernel<'_>,
    d: &Division,
    clips: &Range<u64>,
    chunks: &Range<u64>,
) -> Option<Launch> {
    let e = op.extents(site.inputs);
    let [c1, c2] = e.channels.map(|c| c as u64);
    let first = clips.start * d.clip_positions + chunks.start * d.chunk;
    let end = (clips.end - 1) * d.clip_positions + (chunks.end * d.chunk).min(d.clip_positions);
    let mut kernel = kernel.clone();
    let [first_x, first_x2, first_y] =
        [("x", c1), ("x2", c2), ("y", c1 + c2)].map(|(name, c)| kernel.cut(name, first * c..end * c));
    let [column, stride] = modulation(op, site);
    let count = [clips.end - clips.start, chunks.end - chunks.start];
    let params = [
        count[0] as u32,
        count[1] as u32,
        clips.start as u32,
        chunks.start as u32,
        d.chunks as u32,
        d.chunk as u32,
        e.positions as u32,
        d.clip_positions as u32,
        ((c1 + c2) / op.groups as u64) as u32,
        op.groups as u32,
        d.slab_groups as u32,
        d.slabs as u32,
        c1 as u32,
        c2 as u32,
        column,
        stride,
        first_x,
        first_x2,
        first_y,
        first as u32,
    ];
    kernel.launch(line(site.caps, count[0] * count[1] * d.slabs), [WIDE, 1, 1], &params)
}
