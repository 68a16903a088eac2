//! A whole product `epilogue(left · right)` over the pool's threads.
//!
//! Tasks are blocks of rows, each against all panels. With few rows (time projections, text, the innermost level of a UNet)
//! the traffic of the right-hand side is the cost: there the panels are the tasks, so that it is read once.

use muybridge_runtime::DType;

use super::epilogue::Epilogue;
use super::panel::{Panels, Rhs};
use super::product::{self, Block, Sink, TILE, multiply};
use super::{for_each, rows_per_task};

/// Up to here, panels are the tasks.
const FEW_ROWS: usize = 16 * TILE;

/// Most rows of a task.
const BLOCK_ROWS: usize = 40 * TILE;

/// The left-hand side: rows in place, in pieces, or widened to f32 in a buffer first.
pub(crate) trait Left: Sync {
    /// Widens rows `first..first + count`, where they are not f32 in place.
    fn widen(&self, first: usize, count: usize, buffer: &mut [f32]);

    /// Piece `i` of row `first + m`, for the same `first` that was widened.
    fn piece<'a>(&'a self, buffer: &'a [f32], first: usize, i: usize, m: usize) -> &'a [f32];
}

/// How a product is cut up, and where its parts of the scratch lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Rows of the result.
    rows: usize,
    /// The right-hand side.
    pub panels: Panels,
    /// Whether it is stored in panels.
    pub packed: bool,
    /// Rows of a task.
    task: usize,
    /// Elements of a thread's scratch: widened rows, a panel, sums.
    each: [usize; 3],
    /// Elements of the shared scratch for few rows: widened rows, results by panels.
    shared: [usize; 2],
}

impl Cut {
    /// `wide(rows)` is the buffer that blocks of so many rows need, 0 where none; it is kept below a MiB or so.
    pub fn new(
        rows: usize,
        panels: Panels,
        w: DType,
        packed: bool,
        threads: usize,
        wide: impl Fn(usize) -> usize,
    ) -> Cut {
        let buffer = Rhs::buffer(&panels, w, packed);
        let width = panels.full_width();
        if rows <= FEW_ROWS {
            let each = [0, buffer, 0];
            let shared = [wide(rows), panels.count() * width * rows];
            return Cut { rows, panels, packed, task: rows, each, shared };
        }
        // Every task widens the panels for itself: fewer of them where that is work.
        let tasks = if buffer == 0 { 4 } else { 1 };
        let mut task = rows_per_task(rows, tasks * threads, TILE, BLOCK_ROWS);
        while wide(task) > 1 << 18 && task > 4 * TILE {
            task = (task / 2).next_multiple_of(TILE);
        }
        let each = [wide(task), buffer, product::scratch(task, panels.depth, width)];
        Cut { rows, panels, packed, task, each, shared: [0, 0] }
    }

    fn thread(&self) -> usize {
        self.each.iter().map(|n| n.next_multiple_of(16)).sum()
    }

    /// f32 elements of scratch for so many threads.
    pub fn scratch(&self, threads: usize) -> usize {
        self.shared.iter().sum::<usize>() + threads * self.thread()
    }
}

/// Computes all rows into `out`.
pub(crate) fn run(
    cut: &Cut,
    left: &dyn Left,
    right: &Rhs<'_>,
    last: &Epilogue<'_>,
    out: &mut [u8],
    scratch: &mut [f32],
) {
    if cut.rows <= FEW_ROWS {
        few_rows(cut, left, right, last, out, scratch);
    } else {
        many_rows(cut, left, right, last, out, scratch);
    }
}

fn many_rows(cut: &Cut, left: &dyn Left, right: &Rhs<'_>, last: &Epilogue<'_>, out: &mut [u8], scratch: &mut [f32]) {
    let row_bytes = cut.panels.columns * last.dtype.size();
    let tasks = out.chunks_mut(cut.task * row_bytes).enumerate();
    for_each(tasks, scratch, cut.thread(), |(task, out), own| {
        let (first, rows) = (task * cut.task, out.len() / row_bytes);
        let (wide, own) = own.split_at_mut(cut.each[0].next_multiple_of(16));
        let (buffer, sums) = own.split_at_mut(cut.each[1].next_multiple_of(16));
        left.widen(first, rows, wide);
        let piece = |i: usize, m: usize| left.piece(wide, first, i, m);
        for p in 0..cut.panels.count() {
            let panel = right.panel(p, buffer);
            let width = cut.panels.width(p);
            let block = Block { rows, piece: &piece, panel, width };
            let done = &mut |m: usize, tile: &mut [f32]| {
                for (i, sums) in tile.chunks_mut(width).enumerate() {
                    let row = &mut out[(m + i) * row_bytes..(m + i + 1) * row_bytes];
                    last.finish(&cut.panels, p, sums, first + m + i, row);
                }
            };
            multiply(&block, Sink::Tiles { done, scratch: sums });
        }
    });
}

fn few_rows(cut: &Cut, left: &dyn Left, right: &Rhs<'_>, last: &Epilogue<'_>, out: &mut [u8], scratch: &mut [f32]) {
    let (wide, scratch) = scratch.split_at_mut(cut.shared[0]);
    left.widen(0, cut.rows, wide);
    let piece = |i: usize, m: usize| left.piece(wide, 0, i, m);
    let (results, scratch) = scratch.split_at_mut(cut.shared[1]);
    let full = cut.panels.full_width();
    let tasks = results.chunks_mut(cut.rows * full).enumerate();
    for_each(tasks, scratch, cut.thread(), |(p, results), own| {
        let width = cut.panels.width(p);
        let block = Block { rows: cut.rows, piece: &piece, panel: right.panel(p, own), width };
        multiply(&block, Sink::Rows { to: results, stride: width, add: false });
    });
    let results = &*results;
    let row_bytes = cut.panels.columns * last.dtype.size();
    for_each(out.chunks_mut(row_bytes).enumerate(), &mut [], 0, |(m, out), _| {
        for p in 0..cut.panels.count() {
            let width = cut.panels.width(p);
            let mut sums = [0.0; super::epilogue::WIDEST];
            let sums = &mut sums[..width];
            sums.copy_from_slice(&results[p * cut.rows * full + m * width..][..width]);
            last.finish(&cut.panels, p, sums, m, out);
        }
    });
}
