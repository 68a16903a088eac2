//! CPU kernel in two passes over the positions, both in parallel by chunks of positions.
//!
//! The first sums x − k and (x − k)² per channel and chunk, k being the channel's first element of the clip: a shift that lies
//! within the data, so that nothing cancels (Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983).
//! Chunks and channels are then combined in f64. The second pass is one multiply-add and the activation per element.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site, TensorView};

use super::{Extents, GroupNorm};
use crate::Activation;
use crate::cpu::storage::{Elements, narrow};
use crate::cpu::{floats, for_each, math, vectorised};

/// Elements of a chunk, about.
const CHUNK: usize = 1 << 15;

/// Chunks of a batch item, at most: each leaves two sums a channel.
const CHUNKS: usize = 32;

/// Sizes of a call.
#[derive(Clone, Copy)]
struct Plan {
    op: GroupNorm,
    e: Extents,
    /// Channels of both sources.
    c: usize,
    /// Positions of a chunk of the first pass.
    positions: usize,
    /// Chunks of a batch item.
    chunks: usize,
}

pub(super) fn lower(op: &GroupNorm, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    let c = e.channels[0] + e.channels[1];
    let positions = CHUNK.div_ceil(c).max(e.positions.div_ceil(CHUNKS));
    let plan = Plan { op: *op, e, c, positions, chunks: e.positions.div_ceil(positions) };
    let floats = [plan.sums(), plan.affine(), 2 * c, site.caps.threads * c].iter().sum::<usize>();
    let run = Arc::new(move |call: HostCall<'_>| plan.run(call));
    Some(Lowering::host("group_norm:two_pass", site.inputs.len(), 4 * floats as u64, run))
}

impl Plan {
    /// Elements of the first pass's sums: `[B][chunks][shift, sum, sum of squares][C]`.
    fn sums(&self) -> usize {
        self.e.batch * self.chunks * 3 * self.c
    }

    /// Elements of the second pass's factors and terms, `[B][2][C]`.
    fn affine(&self) -> usize {
        self.e.batch * 2 * self.c
    }

    fn run(&self, call: HostCall<'_>) {
        let x = [Elements::of(&call.inputs[0]), Elements::of(&call.inputs[usize::from(self.op.two_sources)])];
        let scratch = floats(call.scratch);
        let (sums, scratch) = scratch.split_at_mut(self.sums());
        let (affine, scratch) = scratch.split_at_mut(self.affine());
        let (parameters, scratch) = scratch.split_at_mut(2 * self.c);
        let w = self.op.weight_index();
        Elements::of(&call.inputs[w]).widen(&mut parameters[..self.c]);
        Elements::of(&call.inputs[w + 1]).widen(&mut parameters[self.c..]);
        for_each(sums.chunks_mut(3 * self.c).enumerate(), scratch, self.c, |(i, sums), row| {
            self.accumulate(&x, i / self.chunks, i % self.chunks * self.positions, sums, row);
        });
        let modulation = self.op.modulation_index().map(|i| call.inputs[i]);
        for (b, affine) in affine.chunks_mut(2 * self.c).enumerate() {
            self.fold(sums, parameters, modulation, b, affine);
        }
        self.apply(&x, affine, call.output.bytes, call.output.desc.dtype, scratch);
    }

    /// Both sources at one position.
    fn load(&self, x: &[Elements<'_>; 2], position: usize, row: &mut [f32]) {
        let [c1, c2] = self.e.channels;
        x[0].part(position * c1, c1).widen(&mut row[..c1]);
        if c2 > 0 {
            x[1].part(position * c2, c2).widen(&mut row[c1..]);
        }
    }

    fn accumulate(&self, x: &[Elements<'_>; 2], b: usize, first: usize, sums: &mut [f32], row: &mut [f32]) {
        let (shift, sums) = sums.split_at_mut(self.c);
        let (sum, squares) = sums.split_at_mut(self.c);
        sum.fill(0.0);
        squares.fill(0.0);
        self.load(x, b * self.e.positions + first, shift);
        let shift = &*shift;
        for p in first..(first + self.positions).min(self.e.positions) {
            self.load(x, b * self.e.positions + p, row);
            add_moments(row, shift, sum, squares);
        }
    }

    /// Statistics of the groups of item `b`'s clip, folded with weight, bias and modulation into one factor and term a channel.
    fn fold(&self, sums: &[f32], parameters: &[f32], modulation: Option<TensorView<'_>>, b: usize, to: &mut [f32]) {
        let (c, width) = (self.c, self.c / self.op.groups);
        let clip = b / self.op.frames * self.op.frames;
        let rows = &sums[clip * self.chunks * 3 * c..(clip + self.op.frames) * self.chunks * 3 * c];
        let (weight, bias) = parameters.split_at(c);
        let (factor, term) = to.split_at_mut(c);
        for g in 0..self.op.groups {
            let channels = g * width..(g + 1) * width;
            let (mean, scale) = self.statistics(rows, channels.clone());
            for ch in channels {
                let f = scale * f64::from(weight[ch]);
                factor[ch] = f as f32;
                term[ch] = (f64::from(bias[ch]) - mean * f) as f32;
            }
        }
        if let (Some(view), Some(offset)) = (modulation, self.op.modulate) {
            let (all, first) = (Elements::of(&view), b * view.desc.shape.last() + offset);
            let mut pair = [[0.0]; 2];
            for ch in 0..c {
                all.part(first + ch, 1).widen(&mut pair[0]);
                all.part(first + c + ch, 1).widen(&mut pair[1]);
                factor[ch] *= 1.0 + pair[0][0];
                term[ch] = term[ch] * (1.0 + pair[0][0]) + pair[1][0];
            }
        }
    }

    /// Mean and reciprocal deviation over some channels of a clip's chunks.
    fn statistics(&self, rows: &[f32], channels: std::ops::Range<usize>) -> (f64, f64) {
        let each = || {
            rows.chunks(3 * self.c).enumerate().flat_map(|(i, row)| {
                let first = i % self.chunks * self.positions;
                let n = self.positions.min(self.e.positions - first) as f64;
                let channels = channels.clone();
                channels.map(move |ch| {
                    let at = |part: usize| f64::from(row[part * self.c + ch]);
                    let mean = at(0) + at(1) / n;
                    // Squares about the chunk's own mean.
                    (n, mean, at(2) - at(1) * at(1) / n)
                })
            })
        };
        let count: f64 = each().map(|(n, ..)| n).sum();
        let mean = each().map(|(n, m, _)| n * m).sum::<f64>() / count;
        let variance = each().map(|(n, m, q)| q + n * (m - mean) * (m - mean)).sum::<f64>() / count;
        (mean, 1.0 / (variance.max(0.0) + f64::from(self.op.eps)).sqrt())
    }

    fn apply(
        &self,
        x: &[Elements<'_>; 2],
        affine: &[f32],
        out: &mut [u8],
        dtype: muybridge_runtime::DType,
        scratch: &mut [f32],
    ) {
        let row_bytes = self.c * dtype.size();
        let rows = CHUNK.div_ceil(self.c);
        for_each(out.chunks_mut(rows * row_bytes).enumerate(), scratch, self.c, |(task, out), row| {
            for (i, out) in out.chunks_mut(row_bytes).enumerate() {
                let position = task * rows + i;
                self.load(x, position, row);
                let (factor, term) = affine[position / self.e.positions * 2 * self.c..][..2 * self.c].split_at(self.c);
                finish(row, factor, term, self.op.activation);
                narrow(row, dtype, out);
            }
        });
    }
}

vectorised! {
    /// Adds x − shift and its square to a chunk's sums.
    fn add_moments<'a>(row: &'a [f32], shift: &'a [f32], sum: &'a mut [f32], squares: &'a mut [f32]) -> () {
        for (((v, k), s), q) in row.iter().zip(shift).zip(sum).zip(squares) {
            let d = v - k;
            *s += d;
            *q = d.mul_add(d, *q);
        }
    }

    fn finish<'a>(row: &'a mut [f32], factor: &'a [f32], term: &'a [f32], activation: Activation) -> () {
        for ((v, f), t) in row.iter_mut().zip(factor).zip(term) {
            *v = v.mul_add(*f, *t);
        }
        math::activate_all(activation, row);
    }
}
