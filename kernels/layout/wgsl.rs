//! WGSL launches.

use std::ops::Range;

use muybridge_runtime::{Launch, Lowering, Site};

use super::Layout;
use crate::wgsl::{Kernel, WIDE, line, pieces};

pub(super) fn lower(op: &Layout, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    if variant != "simple" {
        return None;
    }
    let second = (*op == Layout::Concat).then_some(1);
    // WGSL keeps the word `layout` for itself.
    let kernel = Kernel::new(site, "kernels/layout/simple.wgsl", include_str!("simple.wgsl"), "layout_copy")
        .constant("BLOCK", WIDE)
        .input("x", 0)
        .optional("x2", second, 0.0)
        .output("y");
    let map = Map::new(op, site);
    let size = site.output.dtype.size() as u64;
    let maps = match *op {
        // One run, repeated, that does not fit a binding as a whole: copy after copy.
        Layout::Repeat { times, .. } if map.rows == 1 && map.y_row * size > site.caps.max_binding => {
            (0..times as u64).map(|copy| map.copy(site, copy)).collect()
        }
        _ => vec![map],
    };
    let mut launches: Vec<Option<Launch>> = Vec::new();
    for map in maps {
        let parts = pieces(site.caps, map.rows, &[map.x_row * size, map.x2_row * size, map.y_row * size], 1)?;
        launches.extend(parts.into_iter().map(|part| map.launch(&kernel, part)));
    }
    kernel.lower(launches)
}

/// Where the elements of the result come from.
struct Map {
    /// Units in which the work can be divided, and elements of one in each operand and in the result.
    rows: u64,
    x_row: u64,
    x2_row: u64,
    y_row: u64,
    /// Extents of the three inner axes of the result, and steps in x along all four.
    extents: [u64; 3],
    steps: [i64; 4],
    /// Index in x of the first element of a row.
    base: u64,
    /// Columns that come from x.
    split: u64,
    /// Index in the result of the first element of the first row.
    y_first: u64,
}

impl Map {
    fn new(op: &Layout, site: &Site<'_>) -> Map {
        let (x, y) = (site.inputs[0].shape, site.output.shape);
        let (columns, wide) = (x.last() as u64, y.last() as u64);
        let by_rows = Map {
            rows: y.rows() as u64,
            x_row: columns,
            x2_row: 0,
            y_row: wide,
            extents: [1, 1, wide],
            steps: [columns as i64, 0, 0, 1],
            base: 0,
            split: wide,
            y_first: 0,
        };
        match *op {
            Layout::Concat => Map { x2_row: wide - columns, split: columns, ..by_rows },
            Layout::Slice { from, .. } => Map { base: from as u64, ..by_rows },
            Layout::Reverse => Map { base: columns - 1, steps: [columns as i64, 0, 0, -1], ..by_rows },
            Layout::Repeat { run, times } => {
                let whole = (run * x.count()).checked_div(x[0]).unwrap_or(0) as u64;
                Map {
                    rows: (x[0] / run) as u64,
                    x_row: whole,
                    y_row: whole * times as u64,
                    extents: [times as u64, 1, whole],
                    steps: [whole as i64, 0, 0, 1],
                    split: whole,
                    ..by_rows
                }
            }
            Layout::Permute(axes) => {
                let step = |axis: usize| (axis + 1..4).map(|a| x[a] as i64).product();
                // The work is divided along the outermost axis where that stays in place.
                let rows = if axes[0] == 0 { y[0] as u64 } else { 1 };
                let row = (y.count() as u64).checked_div(rows).unwrap_or(0);
                Map {
                    rows,
                    x_row: row,
                    y_row: row,
                    extents: [1, 2, 3].map(|a| y[a] as u64),
                    steps: axes.map(step),
                    ..by_rows
                }
            }
        }
    }

    /// Copy number `copy` of the whole of x, row by row.
    fn copy(&self, site: &Site<'_>, copy: u64) -> Map {
        let x = site.inputs[0].shape;
        let wide = x.last() as u64;
        Map {
            rows: x.rows() as u64,
            x_row: wide,
            x2_row: 0,
            y_row: wide,
            extents: [1, 1, wide],
            steps: [wide as i64, 0, 0, 1],
            base: 0,
            split: wide,
            y_first: copy * x.count() as u64,
        }
    }

    fn launch(&self, kernel: &Kernel<'_>, part: Range<u64>) -> Option<Launch> {
        let mut kernel = kernel.clone();
        let [x, x2, y] = [("x", self.x_row, 0), ("x2", self.x2_row, 0), ("y", self.y_row, self.y_first)]
            .map(|(name, row, first)| kernel.cut(name, first + part.start * row..first + part.end * row));
        let count = (part.end - part.start) * self.y_row;
        let base = u64::from(x) + self.base;
        let extents = self.extents.map(|e| e as u32);
        let steps = self.steps.map(|s| s as i32 as u32);
        let params = [
            count as u32,
            extents[0],
            extents[1],
            extents[2],
            base as u32,
            steps[0],
            steps[1],
            steps[2],
            steps[3],
            self.split as u32,
            self.x2_row as u32,
            x2,
            y,
        ];
        kernel.launch(line(kernel.caps(), count.div_ceil(u64::from(WIDE))), [WIDE, 1, 1], &params)
    }
}
