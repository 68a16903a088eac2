//! WGSL launches.

use std::ops::Range;
use std::sync::Arc;

use muybridge_runtime::{DType, Launch, Lowering, Prepare, Site, TensorDesc};

use super::{Conv2d, Extents};
use crate::wgsl::{Kernel, TILE_BLOCK, TILE_COLUMNS, WIDE, line, tile_rows};

const SIMPLE: &str = concat!(include_str!("operands.wgsl"), include_str!("simple.wgsl"));
const TILED: &str = concat!(include_str!("../tile.wgsl"), include_str!("operands.wgsl"), include_str!("tiled.wgsl"));

pub(super) fn lower(op: &Conv2d, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "tiled" => tiled(op, site),
        "simple" => simple(op, site),
        _ => None,
    }
}

fn simple(op: &Conv2d, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    let kernel = Kernel::new(site, "kernels/conv2d/simple.wgsl", SIMPLE, "conv2d");
    let kernel = operands(op, kernel.constant("BLOCK", WIDE), site, 1)?;
    let launch = |part: &Part| {
        let count = part.pixels(&e) * e.out_channels as u64;
        part.launch(&kernel, op, &e, line(site.caps, count.div_ceil(u64::from(WIDE))), WIDE)
    };
    let launches: Vec<_> = parts(op, site, &e)?.iter().map(launch).collect();
    kernel.lower(launches)
}

fn tiled(op: &Conv2d, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    let kernel = Kernel::new(site, "kernels/conv2d/tiled.wgsl", TILED, "conv2d");
    let parts = parts(op, site, &e)?;
    let columns = e.out_channels as u64;
    let rows = tile_rows(site, parts.first()?.pixels(&e), columns);
    let lanes = if e.channels.iter().all(|c| c.is_multiple_of(4)) { 4 } else { 1 };
    let kernel = kernel.constant("ROWS", rows as u32).constant("RAGGED", lanes == 1);
    let kernel = operands(op, kernel, site, lanes)?;
    let launch = |part: &Part| {
        let groups = part.pixels(&e).div_ceil(8 * rows) * columns.div_ceil(TILE_COLUMNS);
        part.launch(&kernel, op, &e, line(site.caps, groups), TILE_BLOCK)
    };
    let launches: Vec<_> = parts.iter().map(launch).collect();
    kernel.lower(launches)
}

/// All operands, as every variant binds them; the sources and the weight in vectors of `lanes`.
fn operands<'a>(op: &Conv2d, kernel: Kernel<'a>, site: &Site<'_>, lanes: u32) -> Option<Kernel<'a>> {
    let dtype = site.output.dtype;
    let (w, x2) = (op.weight_index(), op.two_sources.then_some(1));
    if !site.is_weight[w] {
        return None;
    }
    let kernel = kernel
        .constant("KERNEL_HEIGHT", op.kernel[0] as u32)
        .constant("KERNEL_WIDTH", op.kernel[1] as u32)
        .constant("STRIDE", op.stride as u32)
        .constant("PAD_TOP", op.padding[0] as u32)
        .constant("PAD_LEFT", op.padding[1] as u32)
        .constant("RESIZED", op.upsample.is_some())
        .activation(op.activation);
    let kernel = match lanes {
        4 => kernel.weight4("x", Some(0), dtype, 0.0).weight4("x2", x2, dtype, 0.0),
        _ => kernel.weight("x", Some(0), dtype, 0.0).weight("x2", x2, dtype, 0.0),
    };
    Some(
        kernel
            .prepared("w", w, channels_last(site.inputs[w], dtype), lanes)
            .weight("bias", op.bias_index(), DType::F32, 0.0)
            .weight("shift", op.shift_index(), dtype, 0.0)
            .weight("residual", op.residual_index(), dtype, 0.0)
            .output("y"),
    )
}

/// A weight `[Cout, Cin, KH, KW]` as `[Cout, KH, KW, Cin]`: the order in which a filter meets an NHWC map.
pub(super) fn channels_last(stored: TensorDesc, dtype: DType) -> Prepare {
    let [cout, cin, kh, kw] = [0, 1, 2, 3].map(|i| stored.shape[i]);
    Prepare {
        layout: format!("ohwi.{dtype}"),
        desc: TensorDesc::new([cout, kh, kw, cin], dtype),
        make: Arc::new(move |view| view.to_host()?.convert(dtype).permute(&[0, 2, 3, 1])),
    }
}

/// What one launch computes: these output rows of each of these batch items.
struct Part {
    items: Range<usize>,
    rows: Range<usize>,
}

/// Source rows that a range of output rows of an item reads.
fn source_rows(op: &Conv2d, e: &Extents, rows: &Range<usize>) -> Range<usize> {
    let source = |y: usize| y.min(e.input[0] - 1) * e.source[0] / e.input[0];
    let first = (rows.start * op.stride).saturating_sub(op.padding[0]);
    let last = ((rows.end - 1) * op.stride + op.kernel[0] - 1).saturating_sub(op.padding[0]);
    source(first)..source(last) + 1
}

/// The whole convolution; or, where an operand does not fit one binding, as many output rows of one item at a time as let the
/// rows of every operand fit.
fn parts(op: &Conv2d, site: &Site<'_>, e: &Extents) -> Option<Vec<Part>> {
    let size = site.output.dtype.size() as u64;
    let map = |channels: usize, rows: usize, width: usize| (channels * rows * width) as u64 * size;
    let [most, align] = [site.caps.max_binding, site.caps.binding_align];
    let (widest, [height, width]) = (e.channels[0].max(e.channels[1]), e.output);
    if map(widest, e.batch * e.source[0], e.source[1]).max(map(e.out_channels, e.batch * height, width)) <= most {
        return Some(vec![Part { items: 0..e.batch, rows: 0..height }]);
    }
    // A range begins at the last aligned byte before its first element.
    let fits = |rows: Range<usize>| {
        let input = source_rows(op, e, &rows).len();
        map(widest, input, e.source[1]).max(map(e.out_channels, rows.len(), width)) + align <= most
    };
    let mut rows = Vec::new();
    let mut start = 0;
    while start < height {
        // More rows never need less: the first count that does not fit bounds the search.
        let count = (1..=height - start).take_while(|n| fits(start..start + n)).last()?;
        rows.push(start..start + count);
        start += count;
    }
    let of_item = |b: usize| rows.iter().map(move |r| Part { items: b..b + 1, rows: r.clone() });
    Some((0..e.batch).flat_map(of_item).collect())
}

impl Part {
    /// Number of output pixels.
    fn pixels(&self, e: &Extents) -> u64 {
        (self.items.len() * self.rows.len() * e.output[1]) as u64
    }

    /// Cuts the operands to this part and launches.
    fn launch(
        &self,
        kernel: &Kernel<'_>,
        op: &Conv2d,
        e: &Extents,
        grid: Option<[u32; 3]>,
        block: u32,
    ) -> Option<Launch> {
        let mut kernel = kernel.clone();
        // Indices of the sources are those of whole operands; the difference may be negative, and wraps.
        let mut place = |name: &str, rows: &Range<usize>, height: usize, row: usize| {
            let start = (self.items.start * height + rows.start) * row;
            let end = ((self.items.end - 1) * height + rows.end) * row;
            kernel.cut(name, start as u64..end as u64).wrapping_sub(start as u32)
        };
        let input = source_rows(op, e, &self.rows);
        let row = e.output[1] * e.out_channels;
        let at_x = place("x", &input, e.source[0], e.source[1] * e.channels[0]);
        let at_x2 = place("x2", &input, e.source[0], e.source[1] * e.channels[1]);
        let at_residual = place("residual", &self.rows, e.output[0], row);
        let at_y = place("y", &self.rows, e.output[0], row);
        let params = [
            self.items.start as u32,
            self.items.len() as u32,
            self.rows.start as u32,
            self.rows.len() as u32,
            e.output[0] as u32,
            e.output[1] as u32,
            e.out_channels as u32,
            e.source[0] as u32,
            e.source[1] as u32,
            e.input[0] as u32,
            e.input[1] as u32,
            e.channels[0] as u32,
            e.channels[1] as u32,
            op.shift.unwrap_or(0) as u32,
            e.shift_stride as u32,
            at_x,
            at_x2,
            at_residual,
            at_y,
        ];
        kernel.launch(grid, [block, 1, 1], &params)
    }
}
