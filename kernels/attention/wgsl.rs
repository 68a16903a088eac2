//! WGSL launches.

use std::ops::Range;

use muybridge_runtime::{Launch, Lowering, Site};

use super::{Attention, Axis, Extents};
use crate::wgsl::{Kernel, line, pieces};

/// Invocations of the variant `simple`.
const SPAN: u32 = 64;

const SIMPLE: &str = concat!(include_str!("operands.wgsl"), include_str!("simple.wgsl"));
const TILED: &str = concat!(include_str!("operands.wgsl"), include_str!("tiled.wgsl"));

/// Queries and invocations of a workgroup of the variant `tiled`, and bytes of its workgroup memory.
const TILE_QUERIES: usize = 64;
const TILE_BLOCK: u32 = 128;
const TILE_SHARED: u32 = 14_720;

/// Fewest queries that are worth a tile.
const TILE_WORTH: usize = 8;

/// Most columns of the values of one workgroup: 80 registers of each invocation.
const TILE_VALUES: usize = 160;

pub(super) fn lower(op: &Attention, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    match variant {
        "tiled" if e.queries >= TILE_WORTH => tiled(op, site, &e),
        "simple" => simple(op, site, &e),
        _ => None,
    }
}

fn simple(op: &Attention, site: &Site<'_>, e: &Extents) -> Option<Lowering> {
    if e.width as u32 + SPAN > site.caps.max_shared / 4 {
        return None;
    }
    let kernel = Kernel::new(site, "kernels/attention/simple.wgsl", SIMPLE, "attention");
    let kernel = operands(op, kernel, e, 1);
    let launch = |part: &Part| {
        let groups = part.attentions(op, e).len() * part.queries.len() * op.heads;
        part.launch(&kernel, op, e, line(site.caps, groups as u64), SPAN)
    };
    let launches: Vec<_> = parts(op, site, e)?.iter().map(launch).collect();
    kernel.lower(launches)
}

fn tiled(op: &Attention, site: &Site<'_>, e: &Extents) -> Option<Lowering> {
    if site.caps.max_shared < TILE_SHARED {
        return None;
    }
    // A wide head is divided evenly; a step takes at most five times eight columns, as evenly.
    let splits = e.width.div_ceil(TILE_VALUES);
    let values = e.width.div_ceil(splits).next_multiple_of(8);
    let octets = values / 8;
    let chunk = octets.div_ceil(octets.div_ceil(5));
    let lanes = if e.width.is_multiple_of(4) { 4 } else { 1 };
    let kernel = Kernel::new(site, "kernels/attention/tiled.wgsl", TILED, "attention")
        .constant("VALUES", values as u32)
        .constant("SPLITS", splits as u32)
        .constant("CHUNK", chunk as u32)
        .constant("RAGGED", lanes == 1);
    let kernel = operands(op, kernel, e, lanes);
    let launch = |part: &Part| {
        let tiles = part.attentions(op, e).len() * part.queries.len().div_ceil(TILE_QUERIES);
        part.launch(&kernel, op, e, line(site.caps, (tiles * splits * op.heads) as u64), TILE_BLOCK)
    };
    let launches: Vec<_> = parts(op, site, e)?.iter().map(launch).collect();
    kernel.lower(launches)
}

/// All operands, as every variant binds them; in vectors of `lanes` but for the mask.
fn operands<'a>(op: &Attention, kernel: Kernel<'a>, e: &Extents, lanes: u32) -> Kernel<'a> {
    let kernel = kernel
        .constant("WIDTH", e.width as u32)
        .constant("SCALE", op.scale(e.width))
        .constant("PACKED", op.packed)
        .constant("FRAMES", op.axis != Axis::Positions)
        .constant("SEGMENT", op.segment.is_some())
        .constant("MASK", op.mask)
        .constant("CAUSAL", op.causal);
    let kv = (!op.packed).then_some(1);
    let kernel = match lanes {
        4 => kernel.input4("q", 0).optional4("kv", kv, 0.0).optional4("kv2", op.segment_index(), 0.0),
        _ => kernel.input("q", 0).optional("kv", kv, 0.0).optional("kv2", op.segment_index(), 0.0),
    };
    kernel.optional("mask", op.mask_index(), 0.0).output("y")
}

/// What one launch computes: these queries of each of these batch items (whole clips along frames).
struct Part {
    items: Range<usize>,
    queries: Range<usize>,
}

/// Everything at once; or, where an operand does not fit one binding, one batch item or clip at a time, and as many of its
/// queries as let their rows fit. The keys of an item are never divided.
fn parts(op: &Attention, site: &Site<'_>, e: &Extents) -> Option<Vec<Part>> {
    if site.inputs.iter().chain([&site.output]).all(|d| d.bytes() <= site.caps.max_binding) {
        return Some(vec![Part { items: 0..e.batch, queries: 0..e.queries }]);
    }
    if let Axis::Frames(f) = op.axis {
        return Some((0..e.batch / f).map(|c| Part { items: c * f..(c + 1) * f, queries: 0..f }).collect());
    }
    let size = site.output.dtype.size();
    let mask = if e.mask[1] > 1 { e.keys } else { 0 };
    let row_bytes = [e.width * op.heads * size, mask * size].map(|b| b as u64);
    let rows = pieces(site.caps, e.queries as u64, &row_bytes, 1)?;
    let of_item =
        |b: usize| rows.iter().map(move |r| Part { items: b..b + 1, queries: r.start as usize..r.end as usize });
    Some((0..e.batch).flat_map(of_item).collect())
}

impl Part {
    /// Numbers of the attentions: batch items, or clips' positions.
    fn attentions(&self, op: &Attention, e: &Extents) -> Range<usize> {
        match op.axis {
            Axis::Positions => self.items.clone(),
            Axis::Frames(f) => self.items.start / f * e.positions..self.items.end / f * e.positions,
        }
    }

    /// Rows of the batch from the first query to the last.
    fn query_rows(&self, op: &Attention, e: &Extents) -> Range<usize> {
        match op.axis {
            Axis::Positions => {
                self.items.start * e.queries + self.queries.start..(self.items.end - 1) * e.queries + self.queries.end
            }
            Axis::Frames(_) => self.items.start * e.positions..self.items.end * e.positions,
        }
    }

    /// Rows of `keys` keys that `batch` items share by `share` from item `first` on.
    fn key_rows(&self, first: usize, share: usize, keys: usize) -> Range<usize> {
        let (start, end) = (self.items.start.max(first), self.items.end);
        if end <= start {
            // No item of this part sees them, but something must be bound.
            return 0..keys;
        }
        (start - first) / share * keys..((end - 1 - first) / share + 1) * keys
    }

    /// Rows of the mask from the first item's first query to the last one's last. One row may serve all of either.
    fn mask_rows(&self, e: &Extents) -> Range<usize> {
        let of = |item: usize, query: usize| {
            (if e.mask[0] > 1 { item * e.mask[1] } else { 0 }) + if e.mask[1] > 1 { query } else { 0 }
        };
        of(self.items.start, self.queries.start)..of(self.items.end - 1, self.queries.end - 1) + 1
    }

    /// Cuts the operands to this part. Gives what is added to an index of each whole operand to give its place in the
    /// binding: the difference may be negative, and wraps.
    fn cut(&self, kernel: &mut Kernel<'_>, op: &Attention, e: &Extents, at: &Layout) -> [u32; 5] {
        let queries = self.query_rows(op, e);
        // A packed tensor holds the keys of all queries of its items.
        let whole = self.items.start * e.positions..self.items.end * e.positions;
        let rows = [
            ("q", if op.packed { whole } else { queries.clone() }, at.q_stride),
            ("kv", self.key_rows(0, at.share, e.keys), at.kv_stride),
            ("kv2", self.key_rows(at.first, at.share2, e.keys2), 2 * at.columns),
            ("mask", self.mask_rows(e), e.keys),
            ("y", queries, at.columns),
        ];
        rows.map(|(name, rows, row)| {
            let elements = (rows.start * row) as u64..(rows.end * row) as u64;
            let start = elements.start as u32;
            kernel.cut(name, elements).wrapping_sub(start)
        })
    }

    /// A launch over this part.
    fn launch(
        &self,
        kernel: &Kernel<'_>,
        op: &Attention,
        e: &Extents,
        grid: Option<[u32; 3]>,
        block: u32,
    ) -> Option<Launch> {
        let mut kernel = kernel.clone();
        let at = Layout::new(op, e);
        let [at_q, at_kv, at_kv2, at_mask, at_y] = self.cut(&mut kernel, op, e, &at);
        let attentions = self.attentions(op, e);
        let params = [
            attentions.start as u32,
            attentions.len() as u32,
            self.queries.start as u32,
            self.queries.len() as u32,
            e.queries as u32,
            e.positions as u32,
            e.keys as u32,
            e.keys2 as u32,
            at.share as u32,
            at.share2 as u32,
            at.first as u32,
            op.heads as u32,
            at.columns as u32,
            at.q_stride as u32,
            at.kv_stride as u32,
            if op.packed { at.columns as u32 } else { 0 },
            if e.mask[0] > 1 { (e.mask[1] * e.keys) as u32 } else { 0 },
            if e.mask[1] > 1 { e.keys as u32 } else { 0 },
            at_q,
            at_kv,
            at_kv2,
            at_mask,
            at_y,
        ];
        kernel.launch(grid, [block, 1, 1], &params)
    }
}

/// Where the rows of the operands lie.
struct Layout {
    /// Columns of all heads together, and lengths of the rows of queries and of keys.
    columns: usize,
    q_stride: usize,
    kv_stride: usize,
    /// The first item that sees the second segment, and the items that share one item of each segment.
    first: usize,
    share: usize,
    share2: usize,
}

impl Layout {
    fn new(op: &Attention, e: &Extents) -> Layout {
        let columns = e.width * op.heads;
        let (q_stride, kv_stride) = if op.packed { (3 * columns, 3 * columns) } else { (columns, 2 * columns) };
        let first = op.segment.unwrap_or(0);
        let share2 = ((e.batch - first) / e.kv2_batch.max(1)).max(1);
        Layout { columns, q_stride, kv_stride, first, share: e.batch / e.kv_batch, share2 }
    }
}
