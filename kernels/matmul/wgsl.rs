//! WGSL launches.

use std::ops::Range;

use muybridge_runtime::{DType, Launch, Lowering, Site};

use super::{Extents, Matmul};
use crate::wgsl::{Kernel, TILE_BLOCK, TILE_COLUMNS, WIDE, line, pieces, tile_rows};

const SIMPLE: &str = concat!(include_str!("operands.wgsl"), include_str!("simple.wgsl"));
const FEW_ROWS: &str = concat!(include_str!("operands.wgsl"), include_str!("few_rows.wgsl"));
const TILED: &str = concat!(include_str!("../tile.wgsl"), include_str!("operands.wgsl"), include_str!("tiled.wgsl"));

/// Most rows of the variant `few_rows`.
const FEW: usize = 8;

/// Columns of a workgroup of the variant `few_rows`.
const FEW_COLUMNS: u64 = 8;

pub(super) fn lower(op: &Matmul, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    match variant {
        "few_rows" if (1..=FEW).contains(&e.m) && !op.batched => few_rows(op, site, &e),
        "tiled" => tiled(op, site, &e),
        "simple" => simple(op, site, &e),
        _ => None,
    }
}

fn simple(op: &Matmul, site: &Site<'_>, e: &Extents) -> Option<Lowering> {
    let kernel = Kernel::new(site, "kernels/matmul/simple.wgsl", SIMPLE, "matmul");
    let kernel = operands(op, kernel.constant("BLOCK", WIDE), site, e);
    let launch = |part: &Part| {
        let count = part.items() * part.rows() * e.n as u64;
        part.launch(&kernel, e, op, line(site.caps, count.div_ceil(u64::from(WIDE))), WIDE)
    };
    let launches: Vec<_> = parts(&kernel, op, site, e)?.iter().map(launch).collect();
    kernel.lower(launches)
}

fn few_rows(op: &Matmul, site: &Site<'_>, e: &Extents) -> Option<Lowering> {
    let kernel = Kernel::new(site, "kernels/matmul/few_rows.wgsl", FEW_ROWS, "matmul");
    let kernel = operands(op, kernel.constant("ROWS", e.m as u32), site, e);
    let part = Part { items: 0..1, rows: 0..e.m as u64 };
    let launch = part.launch(&kernel, e, op, line(site.caps, (e.n as u64).div_ceil(FEW_COLUMNS)), WIDE);
    kernel.lower([launch])
}

fn tiled(op: &Matmul, site: &Site<'_>, e: &Extents) -> Option<Lowering> {
    let kernel = Kernel::new(site, "kernels/matmul/tiled.wgsl", TILED, "matmul");
    let columns = if op.geglu { 2 * e.n } else { e.n } as u64;
    let parts = parts(&kernel, op, site, e)?;
    let rows = tile_rows(site, parts[0].items() * parts[0].rows(), columns);
    let kernel = operands(op, kernel.constant("ROWS", rows as u32), site, e);
    let launch = |part: &Part| {
        let groups = part.items() * part.rows().div_ceil(8 * rows) * columns.div_ceil(TILE_COLUMNS);
        part.launch(&kernel, e, op, line(site.caps, groups), TILE_BLOCK)
    };
    let launches: Vec<_> = parts.iter().map(launch).collect();
    kernel.lower(launches)
}

/// All operands, as every variant binds them; `a` and `w` in vectors of four where rows are whole vectors.
fn operands<'a>(op: &Matmul, kernel: Kernel<'a>, site: &Site<'_>, e: &Extents) -> Kernel<'a> {
    let dtype = site.output.dtype;
    let lanes = if e.k.is_multiple_of(4) { 4 } else { 1 };
    let kernel = kernel
        .constant("RAGGED", lanes == 1)
        .constant("HALVES", if op.geglu { 2 } else { 1 })
        .constant("BATCHED", op.batched)
        .activation(op.activation);
    let kernel = match lanes {
        4 => kernel.weight4("a", Some(0), dtype, 0.0).weight4("w", Some(1), dtype, 0.0),
        _ => kernel.weight("a", Some(0), dtype, 0.0).weight("w", Some(1), dtype, 0.0),
    };
    kernel
        .weight("bias", op.bias.then_some(2), DType::F32, 0.0)
        .weight("residual", op.residual_index(), dtype, 0.0)
        .output("y")
}

/// What one launch computes: these rows of each of these items.
struct Part {
    items: Range<u64>,
    rows: Range<u64>,
}

/// The whole product, or rows of one item at a time where an operand does not fit one binding.
fn parts(kernel: &Kernel<'_>, op: &Matmul, site: &Site<'_>, e: &Extents) -> Option<Vec<Part>> {
    let [batch, m] = [e.batch, e.m].map(|n| n as u64);
    let cut: &[&str] = if op.batched { &["a", "w", "residual", "y"] } else { &["a", "residual", "y"] };
    if !cut.iter().any(|name| kernel.too_large(name)) {
        return Some(vec![Part { items: 0..batch, rows: 0..m }]);
    }
    let size = site.output.dtype.size() as u64;
    let rows = pieces(site.caps, m, &[e.k as u64 * size, e.n as u64 * size], 1)?;
    let of_item = |b: u64| rows.iter().map(move |r| Part { items: b..b + 1, rows: r.clone() });
    Some((0..batch).flat_map(of_item).collect())
}

impl Part {
    fn items(&self) -> u64 {
        self.items.end - self.items.start
    }

    fn rows(&self) -> u64 {
        self.rows.end - self.rows.start
    }

    /// Cuts the operands to this part and launches.
    fn launch(
        &self,
        kernel: &Kernel<'_>,
        e: &Extents,
        op: &Matmul,
        grid: Option<[u32; 3]>,
        block: u32,
    ) -> Option<Launch> {
        let mut kernel = kernel.clone();
        let [m, n, k] = [e.m, e.n, e.k].map(|x| x as u64);
        let (first, end) = (self.items.start * m + self.rows.start, (self.items.end - 1) * m + self.rows.end);
        // Indices of the sources are those of whole operands; the difference may be negative, and wraps.
        let mut place = |name: &str, elements: Range<u64>| {
            let start = elements.start as u32;
            kernel.cut(name, elements).wrapping_sub(start)
        };
        let at_a = place("a", first * k..end * k);
        let at_residual = place("residual", first * n..end * n);
        let at_y = place("y", first * n..end * n);
        let at_w = if op.batched {
            let w_item = if op.geglu { 2 * n * k } else { n * k };
            place("w", self.items.start * w_item..self.items.end * w_item)
        } else {
            0
        };
        let [m, n, k] = [e.m, e.n, e.k].map(|x| x as u32);
        let [item, items] = [self.items.start, self.items()].map(|x| x as u32);
        let [row, rows] = [self.rows.start, self.rows()].map(|x| x as u32);
        let params = [item, items, row, rows, m, n, k, at_a, at_w, at_residual, at_y];
        kernel.launch(grid, [block, 1, 1], &params)
    }
}
