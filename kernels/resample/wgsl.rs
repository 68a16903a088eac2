//! WGSL launches.

use std::ops::Range;

use muybridge_runtime::{Launch, Lowering, Site};

use super::{Mode, Resample};
use crate::wgsl::{Kernel, WIDE, line, pieces};

/// Extents whose products with each other stay within 31 bits.
const EXTENT: usize = 1 << 15;

pub(super) fn lower(op: &Resample, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let x = site.inputs[0].shape;
    let [height, width] = op.size;
    if variant != "simple" || [x[1], x[2], height, width].iter().any(|&e| e >= EXTENT) {
        return None;
    }
    let mode = match op.mode {
        Mode::Nearest => 0,
        Mode::Bilinear => 1,
        Mode::Mean => 2,
    };
    let kernel = Kernel::new(site, "kernels/resample/simple.wgsl", include_str!("simple.wgsl"), "resample")
        .constant("BLOCK", WIDE)
        .constant("MODE", mode)
        .input("x", 0)
        .output("y");
    let size = site.output.dtype.size() as u64;
    let items = x[0] as u64;
    let map_bytes = [x.count() as u64 / items.max(1) * size, site.output.shape.count() as u64 / items.max(1) * size];
    // As many whole maps as fit, or parts of one map.
    let parts: Vec<(Range<u64>, Range<usize>)> = match pieces(site.caps, items, &map_bytes, 1) {
        Some(parts) => parts.into_iter().map(|items| (items, 0..height)).collect(),
        None => {
            let rows = row_parts(op, site)?;
            (0..items).flat_map(|n| rows.iter().map(move |r| (n..n + 1, r.clone()))).collect()
        }
    };
    let launches: Vec<Option<Launch>> =
        parts.into_iter().map(|(items, rows)| launch(op, site, &kernel, items, rows)).collect();
    kernel.lower(launches)
}

/// Rows of x that these rows of the result are made from, or a few more.
fn source_rows(op: &Resample, height: usize, rows: &Range<usize>) -> Range<usize> {
    let out = op.size[0];
    let (first, end) = (rows.start * height / out, (rows.end * height).div_ceil(out));
    // A cell between two centres takes both.
    if op.mode == Mode::Bilinear { first.saturating_sub(1)..(end + 1).min(height) } else { first..end }
}

/// Ranges of rows of one map, so that each range and its source fit one binding.
fn row_parts(op: &Resample, site: &Site<'_>) -> Option<Vec<Range<usize>>> {
    let (x, y) = (site.inputs[0].shape, site.output.shape);
    let size = site.output.dtype.size();
    let room = site.caps.max_binding.saturating_sub(site.caps.binding_align);
    let fits = |rows: &Range<usize>| {
        let from = source_rows(op, x[1], rows);
        let bytes = [(from.end - from.start) * x[2] * x[3] * size, (rows.end - rows.start) * y[2] * y[3] * size];
        bytes.iter().all(|&b| b as u64 <= room)
    };
    let (mut parts, mut start): (Vec<Range<usize>>, usize) = (Vec::new(), 0);
    while start < y[1] {
        // A longer range needs more, so the longest that fits lies where `fits` first turns.
        let end = (start + 1..=y[1]).take_while(|&end| fits(&(start..end))).last()?;
        parts.push(start..end);
        start = end;
    }
    Some(parts)
}

fn launch(
    op: &Resample,
    site: &Site<'_>,
    kernel: &Kernel<'_>,
    items: Range<u64>,
    rows: Range<usize>,
) -> Option<Launch> {
    let (x, y) = (site.inputs[0].shape, site.output.shape);
    let mut kernel = kernel.clone();
    let [x_line, y_line] = [x, y].map(|s| (s[2] * s[3]) as u64);
    // Whole maps are bound whole: a part of a map belongs to a single item.
    let from = if rows == (0..y[1]) { 0..x[1] } else { source_rows(op, x[1], &rows) };
    let last = items.end.saturating_sub(1);
    let reach = |height: usize, rows: &Range<usize>, line: u64| {
        let at = |item: u64, row: usize| (item * height as u64 + row as u64) * line;
        at(items.start, rows.start)..at(last, rows.end)
    };
    let first_x = kernel.cut("x", reach(x[1], &from, x_line));
    let first_y = kernel.cut("y", reach(y[1], &rows, y_line));
    let count = (items.end - items.start) * (rows.end - rows.start) as u64 * y_line;
    let params = [
        count as u32,
        x[1] as u32,
        x[2] as u32,
        y[1] as u32,
        y[2] as u32,
        x[3] as u32,
        from.start as u32,
        rows.start as u32,
        (rows.end - rows.start) as u32,
        first_x,
        first_y,
    ];
    kernel.launch(line(site.caps, count.div_ceil(u64::from(WIDE))), [WIDE, 1, 1], &params)
}
