//! The matrix product: tiles of six rows by one panel, their sums in registers from the first to the last term.
//!
//! The left-hand side is given as rows in place, in pieces: a convolution's taps and sources, a matrix's one row. Each element
//! of it is broadcast and multiplied with the vectors of the panel's row. On Zen 4 this runs at 110 GFLOP/s a core with
//! nothing packed at run time, where the `gemm` crate, which packs both sides, reaches 103.

use pulp::{Arch, Simd, WithSimd};

/// Rows of a tile: with four vectors, 24 sums and 5 operands fit 32 registers.
pub(crate) const TILE: usize = 6;

/// Depth after which a panel is taken in parts, so that a part (W columns) stays in the second-level cache.
const DEPTH: usize = 2048;

/// Most terms that are summed in order: longer sums are sums of such runs, which divides their rounding error.
const RUN: usize = 320;

/// Rows times one panel.
pub(crate) struct Block<'a, 'r> {
    /// Number of rows.
    pub rows: usize,
    /// Piece `i` of row `m`. A piece is equally long for every row.
    pub piece: &'a dyn Fn(usize, usize) -> &'r [f32],
    /// `[K][width]`.
    pub panel: &'a [f32],
    /// Columns: one to four vectors.
    pub width: usize,
}

/// Where finished sums go.
pub(crate) enum Sink<'a> {
    /// Row m of the product to `to[m · stride..]`; with `add`, added to what is there.
    Rows { to: &'a mut [f32], stride: usize, add: bool },
    /// Tile by tile to a function of the first row and the sums `[rows][width]`, with scratch for long sums.
    Tiles { done: &'a mut dyn FnMut(usize, &mut [f32]), scratch: &'a mut [f32] },
}

/// Elements of scratch that [`Sink::Tiles`] needs for so many rows of so many terms.
pub(crate) const fn scratch(rows: usize, depth: usize, width: usize) -> usize {
    if depth > DEPTH { rows.next_multiple_of(TILE) * width } else { 0 }
}

/// Multiplies a block of rows with a panel.
pub(crate) fn multiply(block: &Block<'_, '_>, sink: Sink<'_>) {
    Arch::new().dispatch(Multiply { block, sink });
}

struct Multiply<'a, 'r, 'b, 's> {
    block: &'b Block<'a, 'r>,
    sink: Sink<'s>,
}

impl WithSimd for Multiply<'_, '_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.block.width / S::F32_LANES {
            1 => run::<S, 1>(simd, self),
            2 => run::<S, 2>(simd, self),
            3 => run::<S, 3>(simd, self),
            _ => run::<S, 4>(simd, self),
        }
    }
}

/// A stretch of the sums: pieces `first..last`, of which the first starts at `from` and the last ends at `to`.
#[derive(Clone, Copy)]
struct Stretch {
    first: usize,
    from: usize,
    /// Terms.
    depth: usize,
}

#[inline(always)]
fn run<S: Simd, const V: usize>(simd: S, call: Multiply<'_, '_, '_, '_>) {
    let Multiply { block, mut sink } = call;
    assert_eq!(block.width, V * S::F32_LANES, "width of a panel");
    let (panel, _) = S::as_simd_f32s(block.panel).0.as_chunks::<V>();
    let mut stretch = Stretch { first: 0, from: 0, depth: panel.len().min(DEPTH) };
    let mut at = 0;
    loop {
        let end = at + stretch.depth >= panel.len();
        let part = &panel[at..at + stretch.depth];
        let mut next = stretch;
        for m in (0..block.rows).step_by(TILE) {
            let rows = TILE.min(block.rows - m);
            let job = Tile { block, part, m, stretch, begin: at == 0, end };
            next = match rows {
                1 => tile::<S, 1, V>(simd, job, &mut sink),
                2 => tile::<S, 2, V>(simd, job, &mut sink),
                3 => tile::<S, 3, V>(simd, job, &mut sink),
                4 => tile::<S, 4, V>(simd, job, &mut sink),
                5 => tile::<S, 5, V>(simd, job, &mut sink),
                _ => tile::<S, 6, V>(simd, job, &mut sink),
            };
        }
        at += stretch.depth;
        if end {
            break;
        }
        stretch = Stretch { depth: DEPTH.min(panel.len() - at), ..next };
    }
}

struct Tile<'a, 'r, 'b, V> {
    block: &'b Block<'a, 'r>,
    part: &'b [V],
    m: usize,
    stretch: Stretch,
    begin: bool,
    end: bool,
}

/// One tile over one stretch; returns where the next stretch starts.
#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    job: Tile<'_, '_, '_, [S::f32s; V]>,
    sink: &mut Sink<'_>,
) -> Stretch {
    let Tile { block, part, m, stretch, begin, end } = job;
    let mut acc = [[simd.splat_f32s(0.0); V]; R];
    let (mut piece, mut from, mut k) = (stretch.first, stretch.from, 0);
    while k < part.len() {
        let rows: [&[f32]; R] = std::array::from_fn(|r| (block.piece)(piece, m + r));
        let length = rows[0].len();
        let terms = (length - from).min(part.len() - k).min(RUN);
        let sums = run_of(simd, rows.map(|r| &r[from..from + terms]), &part[k..k + terms]);
        if k == 0 {
            acc = sums;
        } else {
            for r in 0..R {
                for v in 0..V {
                    acc[r][v] = simd.add_f32s(acc[r][v], sums[r][v]);
                }
            }
        }
        k += terms;
        from += terms;
        if from == length {
            (piece, from) = (piece + 1, 0);
        }
    }
    match sink {
        Sink::Rows { to, stride, add } if *add || !begin => add_to(simd, &mut acc, &to[m * *stride..], *stride),
        Sink::Tiles { scratch, .. } if !begin => add_to(simd, &mut acc, &scratch[m * block.width..], block.width),
        _ => {}
    }
    match sink {
        Sink::Rows { to, stride, .. } => store::<S, R, V>(&acc, &mut to[m * *stride..], *stride),
        Sink::Tiles { scratch, .. } if !end => store::<S, R, V>(&acc, &mut scratch[m * block.width..], block.width),
        Sink::Tiles { done, .. } => done(m, bytemuck::cast_slice_mut(acc.as_flattened_mut())),
    }
    Stretch { first: piece, from, depth: 0 }
}

#[inline(always)]
fn add_to<S: Simd, const R: usize, const V: usize>(simd: S, acc: &mut [[S::f32s; V]; R], terms: &[f32], stride: usize) {
    for r in 0..R {
        let terms = S::as_simd_f32s(&terms[r * stride..][..V * S::F32_LANES]).0;
        for v in 0..V {
            acc[r][v] = simd.add_f32s(acc[r][v], terms[v]);
        }
    }
}

#[inline(always)]
fn store<S: Simd, const R: usize, const V: usize>(acc: &[[S::f32s; V]; R], to: &mut [f32], stride: usize) {
    for r in 0..R {
        S::as_mut_simd_f32s(&mut to[r * stride..][..V * S::F32_LANES]).0.copy_from_slice(&acc[r]);
    }
}

/// `Σ rows[r][k] · panel[k]`.
#[inline(always)]
fn run_of<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: [&[f32]; R],
    panel: &[[S::f32s; V]],
) -> [[S::f32s; V]; R] {
    // Slices of the same length: the compiler drops the checks of `row[k]`.
    let rows = rows.map(|row| &row[..panel.len()]);
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for (k, columns) in panel.iter().enumerate() {
        for r in 0..R {
            let x = simd.splat_f32s(rows[r][k]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(x, columns[v], sums[r][v]);
            }
        }
    }
    sums
}
