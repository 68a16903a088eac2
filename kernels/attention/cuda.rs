//! CUDA launches.

use muybridge_runtime::{DType, Lowering, Site};

use super::{Attention, Axis, Extents, wgsl};
use crate::cuda::{tensor_cores, translated};
use crate::wgsl::{Kernel, line};

/// A text over `fragments.cu`.
macro_rules! over_fragments {
    ($name:literal) => {
        concat!(include_str!("fragments.cu"), "#line 1 \"kernels/attention/", $name, "\"\n", include_str!($name))
    };
}

pub(super) fn lower(op: &Attention, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    let (file, text, lowering) = match variant {
        "frames" => ("kernels/attention/frames.cu", over_fragments!("frames.cu"), frames(op, site, &e)),
        "few_keys" => ("kernels/attention/few_keys.cu", over_fragments!("few_keys.cu"), few_keys(op, site, &e)),
        "mma" => ("kernels/attention/mma.cu", over_fragments!("mma.cu"), mma(op, site, &e)),
        "wgmma" | "tma" => ("kernels/attention/wgmma.cu", WGMMA, wgmma(op, site, &e, variant == "tma")),
        "wide" => ("kernels/attention/wide.cu", over_fragments!("wide.cu"), wide(op, site, &e)),
        "simple" => ("kernels/attention/simple.cu", include_str!("simple.cu"), wgsl::lower(op, variant, site)),
        _ => return None,
    };
    translated(lowering, file, text)
}

const WGMMA: &str = concat!(include_str!("../hopper.cu"), over_fragments!("wgmma.cu"));

/// Most keys that stay in shared memory.
const FEW: usize = 128;

/// Widest head whose values one warp's registers hold.
const WIDEST: usize = 160;

/// Bytes of a head's row in shared memory, as `ROW` in `fragments.cu`.
fn row_bytes(width: usize) -> u32 {
    ((2 * width.div_ceil(16)) | 1) as u32 * 16
}

/// Whether heads of the site are whole chunks of 16-bit elements that tensor cores take.
fn fits(op: &Attention, site: &Site<'_>, e: &Extents) -> bool {
    tensor_cores(site) && e.width.is_multiple_of(8) && e.width > 0 && op.heads > 0
}

/// All operands but the mask, as every kernel on tensor cores binds them. What is absent is the queries again, of which
/// nothing is read then.
fn operands<'a>(op: &Attention, site: &'a Site<'a>, e: &Extents, file: &'static str, segment: bool) -> Kernel<'a> {
    let kernel = Kernel::new(site, file, "", "attention")
        .constant("WIDTH", e.width as u32)
        .constant("SCALE", op.scale(e.width))
        .constant("BF16", site.output.dtype == DType::BF16)
        .constant("MASK", op.mask)
        .constant("CAUSAL", op.causal)
        .input("q", 0)
        .input("kv", usize::from(!op.packed));
    if segment { kernel.input("kv2", op.segment_index().unwrap_or(0)) } else { kernel }
}

/// Heads, their columns, the rows of queries and of keys, and the keys' first column.
fn columns(op: &Attention, e: &Extents) -> [u32; 5] {
    let all = e.width * op.heads;
    let [q, kv, first] = if op.packed { [3 * all, 3 * all, all] } else { [all, 2 * all, 0] };
    [op.heads, all, q, kv, first].map(|n| n as u32)
}

/// Elements of the mask from item to item and from query to query.
fn mask_strides(e: &Extents) -> [u32; 2] {
    let item = if e.mask[0] > 1 { e.mask[1] * e.keys } else { 0 };
    [item, if e.mask[1] > 1 { e.keys } else { 0 }].map(|n| n as u32)
}

/// Queries and keys of a tile, and warps, for a head of this width: as many queries a warp as its registers allow, because
/// each warp reads all keys and values from shared memory. Not measured on hardware yet.
fn tile(width: usize, queries: usize) -> [u32; 3] {
    match width {
        _ if queries <= 64 => [64, 64, 4],
        ..=64 => [128, 64, 4],
        // Two rows of tiles a warp would spill registers.
        65..=128 => [128, 64, 8],
        _ => [64, 64, 4],
    }
}

fn mma(op: &Attention, site: &Site<'_>, e: &Extents) -> Option<Lowering> {
    if !fits(op, site, e) || op.axis != Axis::Positions || e.width > WIDEST {
        return None;
    }
    let bytes = |keys: u32| 4 * keys * row_bytes(e.width);
    // Before compute capability 8.0 copies pass through registers, and shared memory is scarce.
    let small = site.caps.compute_capability < Some((8, 0)) && e.width >= 80;
    let tiles = [if small { [64, 32, 4] } else { tile(e.width, e.queries) }, [64, 32, 4]];
    let [queries, keys, warps] = tiles.into_iter().find(|[_, keys, _]| bytes(*keys) <= site.caps.max_shared)?;
    let kernel = operands(op, site, e, "kernels/attention/mma.cu", true)
        .constant("SEGMENT", op.segment.is_some())
        .constant("QUERIES", queries)
        .constant("KEYS", keys)
        .constant("WARPS", warps)
        .optional("mask", op.mask_index(), 0.0)
        .output("y");
    let (mut params, blocks) = streamed(op, e, queries);
    params.extend(mask_strides(e));
    finish(&kernel, blocks, warps, bytes(keys), &params)
}

/// Parameters of a kernel that streams keys past tiles of this many queries, but for the mask's, and its blocks.
fn streamed(op: &Attention, e: &Extents, queries: u32) -> (Vec<u32>, u64) {
    let tiles = (e.queries as u32).div_ceil(queries);
    let first = op.segment.unwrap_or(0);
    let share2 = ((e.batch - first) / e.kv2_batch.max(1)).max(1);
    let extents = [e.batch, e.queries, tiles as usize, e.keys, e.keys2, e.batch / e.kv_batch, share2, first];
    let params = extents.into_iter().map(|n| n as u32).chain(columns(op, e)).collect();
    (params, e.batch as u64 * op.heads as u64 * u64::from(tiles))
}

/// Registers of a thread that copies and of one that multiplies.
const REGISTERS: [u32; 2] = [72, 208];

/// The same where one thread asks for boxes.
const BOXED_REGISTERS: [u32; 2] = [56, 216];

fn wgmma(op: &Attention, site: &Site<'_>, e: &Extents, boxed: bool) -> Option<Lowering> {
    const KEYS: u32 = 64;
    let known = [32, 40, 64, 80, 128, 160].contains(&e.width) && site.caps.compute_capability == Some((9, 0));
    if !fits(op, site, e) || !known || op.axis != Axis::Positions || op.mask || op.causal {
        return None;
    }
    let padded = e.width.next_multiple_of(16) as u32;
    let bytes = |stages: u32| padded * (256 + 4 * KEYS * stages) + 16 * stages;
    let [copy, sum] = if boxed { BOXED_REGISTERS } else { REGISTERS };
    let stages = [4, 3, 2].into_iter().find(|s| bytes(*s) <= site.caps.max_shared)?;
    let kernel = operands(op, site, e, "kernels/attention/wgmma.cu", true)
        .constant("SEGMENT", op.segment.is_some())
        .constant("KEYS", KEYS)
        .constant("STAGES", stages)
        .constant("BOXED", boxed)
        .constant("COPY_REGISTERS", copy)
        .constant("SUM_REGISTERS", sum)
        .output("y");
    let [_, all, q, kv, _] = columns(op, e);
    let rows = [[q, e.queries as u32, e.batch as u32], [kv, e.keys as u32, e.kv_batch as u32]];
    let second = op.segment.map(|_| [2 * all, e.keys2 as u32, e.kv2_batch as u32]);
    let maps =
        [("q_map", "q", Some(rows[0]), 128), ("kv_map", "kv", Some(rows[1]), KEYS), ("kv2_map", "kv2", second, KEYS)];
    let kernel = maps.into_iter().fold(kernel, |kernel, (name, of, extents, high)| match extents {
        Some([length, rows, items]) if boxed => kernel.map(name, of, [length, rows, items, 1], [8, high, 1, 1]),
        _ => kernel.missing(name),
    });
    let (params, blocks) = streamed(op, e, 128);
    finish(&kernel, blocks, 12, bytes(stages), &params)
}

fn few_keys(op: &Attention, site: &Site<'_>, e: &Extents) -> Option<Lowering> {
    let plain = op.axis == Axis::Positions && op.segment.is_none() && !op.causal;
    if !fits(op, site, e) || !plain || e.width > WIDEST || e.keys > FEW {
        return None;
    }
    const WARPS: u32 = 4;
    const ROUNDS: u32 = 4;
    let keys = e.keys.next_multiple_of(16) as u32;
    let kernel = operands(op, site, e, "kernels/attention/few_keys.cu", false)
        .constant("KEYS", keys)
        .constant("WARPS", WARPS)
        .constant("ROUNDS", ROUNDS)
        .optional("mask", op.mask_index(), 0.0)
        .output("y");
    let tiles = (e.queries as u32).div_ceil(16 * WARPS);
    let spans = tiles.div_ceil(ROUNDS);
    let [items, share] = [e.batch, e.batch / e.kv_batch].map(|n| n as u32);
    let [heads, all, q, kv, k] = columns(op, e);
    let [mask_item, mask_query] = mask_strides(e);
    let [l, m] = [e.queries, e.keys].map(|n| n as u32);
    let params = [items, l, tiles, spans, m, share, heads, all, q, kv, k, mask_item, mask_query];
    let blocks = u64::from(items) * u64::from(heads) * u64::from(spans);
    finish(&kernel, blocks, WARPS, 2 * (keys + 16 * WARPS) * row_bytes(e.width), &params)
}

fn wide(op: &Attention, site: &Site<'_>, e: &Extents) -> Option<Lowering> {
    let plain = op.axis == Axis::Positions && op.segment.is_none() && !op.causal && !op.mask;
    if !fits(op, site, e) || !plain || e.width <= WIDEST || e.width > 512 {
        return None;
    }
    const WARPS: u32 = 8;
    let row = row_bytes(e.width);
    let bytes = |[queries, keys]: [u32; 2]| {
        (queries + 2 * keys) * row + queries * (2 * keys + 16) + 4 * queries * (keys / 8 + 1)
    };
    let [queries, keys] = [[64, 32], [32, 16]].into_iter().find(|t| bytes(*t) <= site.caps.max_shared)?;
    let kernel = operands(op, site, e, "kernels/attention/wide.cu", false)
        .constant("QUERIES", queries)
        .constant("KEYS", keys)
        .constant("WARPS", WARPS)
        .output("y");
    let tiles = (e.queries as u32).div_ceil(queries);
    let [items, share] = [e.batch, e.batch / e.kv_batch].map(|n| n as u32);
    let [heads, all, q, kv, k] = columns(op, e);
    let params = [items, e.queries as u32, tiles, e.keys as u32, share, heads, all, q, kv, k];
    let blocks = u64::from(items) * u64::from(heads) * u64::from(tiles);
    finish(&kernel, blocks, WARPS, bytes([queries, keys]), &params)
}

fn frames(op: &Attention, site: &Site<'_>, e: &Extents) -> Option<Lowering> {
    let Axis::Frames(f) = op.axis else { return None };
    if !fits(op, site, e) || e.width > WIDEST || f > 32 {
        return None;
    }
    let span = f.next_multiple_of(16) as u32;
    // Wide heads take more room: two warps leave that of two blocks.
    let warps = if e.width <= 80 { 4 } else { 2 };
    let kernel = Kernel::new(site, "kernels/attention/frames.cu", "", "attention")
        .constant("WIDTH", e.width as u32)
        .constant("SCALE", op.scale(e.width))
        .constant("BF16", site.output.dtype == DType::BF16)
        .constant("MASK", false)
        .constant("CAUSAL", op.causal)
        .constant("SPAN", span)
        .constant("WARPS", warps)
        .input("q", 0)
        .output("y");
    let [clips, f, positions, heads, all] =
        [e.batch / f, f, e.positions, op.heads, e.width * op.heads].map(|n| n as u32);
    let attentions = u64::from(clips) * u64::from(positions) * u64::from(heads);
    let params = [clips, f, positions, heads, all];
    finish(&kernel, attentions.div_ceil(u64::from(warps)), warps, 3 * span * row_bytes(e.width) * warps, &params)
}

/// One launch, or `None` where a block would have too little shared memory.
fn finish(kernel: &Kernel<'_>, blocks: u64, warps: u32, shared: u32, params: &[u32]) -> Option<Lowering> {
    if shared > kernel.caps().max_shared {
        return None;
    }
    let params = bytemuck::cast_slice(params).to_vec();
    let mut launch = kernel.launch_bytes(line(kernel.caps(), blocks), [32 * warps, 1, 1], params)?;
    launch.shared = shared;
    kernel.clone().lower([Some(launch)])
}
