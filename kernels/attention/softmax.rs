//! The streaming softmax of the CPU kernel: one head of a block of queries over packed keys and values.

use pulp::{Arch, Simd, WithSimd};

use crate::cpu::panel::Panels;
use crate::cpu::product::{Block, Sink, TILE, multiply};
use crate::cpu::storage::Elements;
use crate::cpu::{math, vectorised, vectors};

/// Keys of a block, about: its scores for all queries of a task stay in the second-level cache.
const KEYS: usize = 512;

/// Widest head: deeper sums would need scratch of the product's own.
const WIDEST: usize = 2048;

/// How one head's keys and values are packed, one behind the other.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// `kᵀ`: depth D, a column per key.
    keys: Panels,
    /// `v`: depth the keys, a column per element of a head.
    values: Panels,
}

/// Where a row of keys or values begins; `None` beyond the last key.
pub(super) type Row<'a, 'r> = &'a dyn Fn(usize) -> Option<(Elements<'r>, usize)>;

/// A part of a head's packed keys and values that is packed on its own.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// A panel of keys.
    Keys(usize),
    /// A panel of values.
    Values(usize),
}

impl Shape {
    /// Heads of width `d` with at most so many keys.
    pub fn new(d: usize, keys: usize) -> Option<Shape> {
        let (lanes, vectors) = vectors();
        // As wide panels of values as divide the head most evenly.
        let needed = d.div_ceil(lanes);
        let values = needed.div_ceil(needed.div_ceil(vectors));
        let fits = d > 0 && keys > 0 && d <= WIDEST;
        fits.then(|| Shape { keys: Panels::new(keys, d), values: Panels { vectors: values, ..Panels::new(d, keys) } })
    }

    fn key_panel(&self) -> usize {
        self.keys.full_width() * self.keys.depth
    }

    fn value_panel(&self) -> usize {
        self.values.full_width() * self.values.depth
    }

    /// Elements of a head's packed keys and values.
    pub fn packed(&self) -> usize {
        self.keys.count() * self.key_panel() + self.values.count() * self.value_panel()
    }

    pub fn parts_per_head(&self) -> usize {
        self.keys.count() + self.values.count()
    }

    /// The parts of the packed heads in `all`, in order.
    pub fn parts<'a>(&self, all: &'a mut [f32]) -> impl Iterator<Item = (Part, &'a mut [f32])> + Send + use<'a> {
        let shape = *self;
        all.chunks_mut(shape.packed()).flat_map(move |head| {
            let (keys, values) = head.split_at_mut(shape.keys.count() * shape.key_panel());
            let keys = keys.chunks_mut(shape.key_panel()).enumerate().map(|(p, to)| (Part::Keys(p), to));
            keys.chain(values.chunks_mut(shape.value_panel()).enumerate().map(|(p, to)| (Part::Values(p), to)))
        })
    }

    /// Packs one part. Beyond the last key there are zeros. `buffer` holds a row.
    pub fn pack(&self, part: Part, key: Row<'_, '_>, value: Row<'_, '_>, buffer: &mut [f32], to: &mut [f32]) {
        let d = self.keys.depth;
        match part {
            Part::Keys(p) => {
                let width = self.keys.width(p);
                for c in 0..width {
                    let column = to[c..].iter_mut().step_by(width).take(d);
                    match key(p * self.keys.step() + c) {
                        Some((all, start)) => {
                            let row = all.part(start, d).wide(buffer);
                            column.zip(row).for_each(|(t, v)| *t = *v);
                        }
                        None => column.for_each(|t| *t = 0.0),
                    }
                }
            }
            Part::Values(p) => {
                let (width, first, count) = (self.values.width(p), p * self.values.step(), self.values.covers(p));
                for (j, to) in to.chunks_mut(width).take(self.values.depth).enumerate() {
                    match value(j) {
                        Some((all, start)) => {
                            all.part(start + first, count).widen(&mut to[..count]);
                            to[count..].fill(0.0);
                        }
                        None => to.fill(0.0),
                    }
                }
            }
        }
    }

    fn block(&self) -> usize {
        (KEYS / self.keys.step()).max(1) * self.keys.step()
    }

    /// Elements of a score row in the scratch.
    fn score_row(&self) -> usize {
        self.block().min(self.keys.count() * self.keys.full_width())
    }

    /// Elements of a result row in the scratch.
    fn result_row(&self) -> usize {
        self.values.count() * self.values.full_width()
    }

    /// Elements of scratch for so many queries: scaled queries, scores, results, maxima, sums and a row's buffer.
    pub fn work(&self, queries: usize) -> usize {
        queries * (self.keys.depth + self.score_row() + self.result_row() + 2) + self.keys.depth
    }
}

/// A thread's scratch, divided.
pub(super) struct Work<'a> {
    shape: Shape,
    queries: &'a mut [f32],
    scores: &'a mut [f32],
    results: &'a mut [f32],
    tops: &'a mut [f32],
    sums: &'a mut [f32],
    buffer: &'a mut [f32],
}

impl<'a> Work<'a> {
    pub fn new(shape: &Shape, rows: usize, scratch: &'a mut [f32]) -> Work<'a> {
        let (queries, rest) = scratch.split_at_mut(rows * shape.keys.depth);
        let (scores, rest) = rest.split_at_mut(rows * shape.score_row());
        let (results, rest) = rest.split_at_mut(rows * shape.result_row());
        let (tops, rest) = rest.split_at_mut(rows);
        let (sums, buffer) = rest.split_at_mut(rows);
        Work { shape: *shape, queries, scores, results, tops, sums, buffer }
    }

    /// A row's buffer for [`Shape::pack`].
    pub fn buffer(&mut self) -> &mut [f32] {
        self.buffer
    }

    /// Loads queries, `stride` elements apart, times scale · log₂ e: scores are exponents of 2.
    pub fn load(&mut self, all: Elements<'_>, start: usize, stride: usize, rows: usize, scale: f32) {
        let d = self.shape.keys.depth;
        let factor = (f64::from(scale) * std::f64::consts::LOG2_E) as f32;
        for (m, to) in self.queries.chunks_mut(d).take(rows).enumerate() {
            all.part(start + m * stride, d).widen(to);
            scale_by(to, factor);
        }
    }

    /// Attends over the first `keys` packed keys; query m sees `limit(m)` of them, and `mask(m, scores, first key)` adds to its
    /// scores.
    pub fn attend(
        &mut self,
        packed: &[f32],
        keys: usize,
        rows: usize,
        limit: &dyn Fn(usize) -> usize,
        mask: &dyn Fn(usize, &mut [f32], usize),
    ) {
        let (block, row) = (self.shape.block(), self.shape.score_row());
        self.results.fill(0.0);
        self.tops.fill(f32::NEG_INFINITY);
        self.sums.fill(0.0);
        let (kt, v) = packed.split_at(self.shape.keys.count() * self.shape.key_panel());
        let seen = (0..rows).map(limit).max().unwrap_or(0).min(keys);
        for first in (0..seen).step_by(block) {
            let count = block.min(seen - first);
            self.score(kt, first, count, rows);
            for m in 0..rows {
                let scores = &mut self.scores[m * row..m * row + count];
                let own = limit(m).saturating_sub(first).min(count);
                scores[own..].fill(f32::NEG_INFINITY);
                mask(m, scores, first);
                let old = self.tops[m];
                let (top, sum) = exponentiate(scores, old);
                // Before the first key that counts there is nothing to rescale.
                let rescale = if old == f32::NEG_INFINITY { 0.0 } else { math::exp2(old - top) };
                self.tops[m] = top;
                self.sums[m] = self.sums[m] * rescale + sum;
                let width = self.shape.result_row();
                let result = &mut self.results[m * width..(m + 1) * width];
                if rescale != 1.0 && first > 0 {
                    scale_by(result, rescale);
                }
            }
            self.gather(v, first, count, rows);
        }
        let width = self.shape.result_row();
        for (result, sum) in self.results.chunks_mut(width).zip(self.sums.iter()).take(rows) {
            scale_by(result, 1.0 / *sum);
        }
    }

    /// Scores of the keys `first..first + count`.
    fn score(&mut self, kt: &[f32], first: usize, count: usize, rows: usize) {
        let (panels, row) = (&self.shape.keys, self.shape.score_row());
        let d = panels.depth;
        let queries = &*self.queries;
        let piece = |_: usize, m: usize| &queries[m * d..(m + 1) * d];
        let scores = &mut *self.scores;
        for p in first / panels.step()..(first + count).div_ceil(panels.step()) {
            let (width, column) = (panels.width(p), p * panels.step() - first);
            let panel = &kt[panels.start(p)..][..width * d];
            let sink = Sink::Rows { to: &mut scores[column..], stride: row, add: false };
            multiply(&Block { rows, piece: &piece, panel, width }, sink);
        }
    }

    /// Adds the values of the keys `first..first + count`, weighted by what the scores have become.
    fn gather(&mut self, v: &[f32], first: usize, count: usize, rows: usize) {
        let (panels, row, full) = (&self.shape.values, self.shape.score_row(), self.shape.result_row());
        let scores = &*self.scores;
        let piece = |_: usize, m: usize| &scores[m * row..m * row + count];
        let results = &mut *self.results;
        for p in 0..panels.count() {
            let (width, column) = (panels.width(p), p * panels.step());
            let panel = &v[panels.start(p) + first * width..][..count * width];
            let sink = Sink::Rows { to: &mut results[column..], stride: full, add: true };
            multiply(&Block { rows, piece: &piece, panel, width }, sink);
        }
    }

    /// The first `d` elements of finished row `m`.
    pub fn result(&self, m: usize, d: usize) -> &[f32] {
        &self.results[m * self.shape.result_row()..][..d]
    }
}

vectorised! {
    fn scale_by<'a>(values: &'a mut [f32], factor: f32) -> () {
        for v in values {
            *v *= factor;
        }
    }
}

/// Turns scores into 2^(score − top), top being the highest of them and `old`; returns it and their sum.
fn exponentiate(scores: &mut [f32], old: f32) -> (f32, f32) {
    Arch::new().dispatch(Exponentiate { scores, old })
}

struct Exponentiate<'a> {
    scores: &'a mut [f32],
    old: f32,
}

impl WithSimd for Exponentiate<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, f32) {
        let Exponentiate { scores, old } = self;
        let (whole, rest) = S::as_mut_simd_f32s(scores);
        let mut tops = simd.splat_f32s(old);
        for s in whole.iter() {
            tops = simd.max_f32s(*s, tops);
        }
        let mut top = simd.reduce_max_f32s(tops);
        for s in rest.iter() {
            top = if *s > top { *s } else { top };
        }
        // All keys hidden so far: their weights are 0, not NaN.
        let base = if top == f32::NEG_INFINITY { 0.0 } else { top };
        let (bases, least, mut sums) = (simd.splat_f32s(base), simd.splat_f32s(-126.0), simd.splat_f32s(0.0));
        for s in whole {
            let x = simd.sub_f32s(*s, bases);
            let far = simd.less_than_f32s(x, least);
            *s = simd.select_f32s(far, simd.splat_f32s(0.0), math::exp2_vector(simd, x));
            sums = simd.add_f32s(sums, *s);
        }
        let mut sum = simd.reduce_sum_f32s(sums);
        for s in rest {
            *s = if *s - base < -126.0 { 0.0 } else { math::exp2(*s - base) };
            sum += *s;
        }
        (top, sum)
    }
}

const _: () = assert!(KEYS <= 2048 && TILE > 1, "a block of keys is one stretch of the product");
