//! CPU kernel: a block of queries against blocks of keys, the scores of one pair of blocks in cache at a time.
//!
//! Keys are packed per head as panels of `kᵀ` and values as panels of `v`, so that both products are those of
//! [`product`](crate::cpu::product). Tasks are blocks of queries with all their heads. Along frames, a task is a block of
//! positions, and keys are packed in the task: there are as few as frames.

use std::sync::Arc;

use muybridge_runtime::{DType, HostCall, Lowering, Site, TensorDesc};

use super::softmax::{Shape, Work};
use super::{Attention, Axis, Extents};
use crate::cpu::product::TILE;
use crate::cpu::storage::{Elements, narrow};
use crate::cpu::{floats, for_each, rows_per_task};

/// Most queries of a task.
const QUERIES: usize = 8 * TILE;

/// Most elements that a task along frames reads, about.
const FRAMES_TASK: usize = 1 << 18;

/// The cut of a call.
#[derive(Clone, Copy)]
struct Cut {
    op: Attention,
    e: Extents,
    shape: Shape,
    /// Elements of a row of all heads.
    c: usize,
    /// Queries of a task.
    queries: usize,
}

/// Rows of keys and values: the operand, the element of key 0 in it, and elements from a key to the next. Values lie `c` further.
#[derive(Clone, Copy)]
struct Keys<'a> {
    elements: Elements<'a>,
    start: usize,
    stride: usize,
    count: usize,
}

pub(super) fn lower(op: &Attention, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    let shape = Shape::new(e.width, e.keys + e.keys2)?;
    let frames = matches!(op.axis, Axis::Frames(_));
    let queries = if frames { e.queries } else { rows_per_task(e.queries, 4 * site.caps.threads, TILE, QUERIES) };
    let cut = Cut { op: *op, e, shape, c: e.width * op.heads, queries };
    let packed = if frames { 0 } else { op.heads * shape.packed() };
    let floats = packed + site.caps.threads * cut.thread();
    let run =
        Arc::new(move |call: HostCall<'_>| if frames { cut.along_frames(call) } else { cut.along_positions(call) });
    Some(Lowering::host("attention:streaming", site.inputs.len(), 4 * floats as u64, run))
}

impl Cut {
    /// Elements of a thread's scratch.
    fn thread(&self) -> usize {
        let packed = if matches!(self.op.axis, Axis::Frames(_)) { self.shape.packed() } else { 0 };
        self.shape.work(self.queries) + packed
    }

    /// Elements of a row of queries; and of keys, with the column where keys begin.
    fn strides(&self) -> (usize, usize, usize) {
        if self.op.packed { (3 * self.c, 3 * self.c, self.c) } else { (self.c, 2 * self.c, 0) }
    }

    fn along_positions(&self, call: HostCall<'_>) {
        let (e, shape, heads) = (&self.e, &self.shape, self.op.heads);
        let operands: Vec<Elements<'_>> = call.inputs.iter().map(Elements::of).collect();
        let (packed, scratch) = floats(call.scratch).split_at_mut(heads * shape.packed());
        let dtype = call.output.desc.dtype;
        let row_bytes = self.c * dtype.size();
        let mut resident = None;
        for (b, out) in call.output.bytes.chunks_mut(e.positions * row_bytes).enumerate() {
            let (own, more) = self.segments(b);
            // Consecutive items may share their keys: a video's frames and its text.
            if resident != Some((own, more)) {
                self.pack(&operands, own, more, packed, scratch);
                resident = Some((own, more));
            }
            let keys = e.keys + more.map_or(0, |_| e.keys2);
            let packed = &*packed;
            let tasks = out.chunks_mut(self.queries * row_bytes).enumerate();
            for_each(tasks, scratch, self.thread(), |(task, out), own| {
                let (first, rows) = (task * self.queries, out.len() / row_bytes);
                let mut work = Work::new(shape, self.queries, own);
                for h in 0..heads {
                    let q_stride = self.strides().0;
                    let start = (b * e.positions + first) * q_stride + h * e.width;
                    work.load(operands[0], start, q_stride, rows, self.op.scale(e.width));
                    let packed = &packed[h * shape.packed()..(h + 1) * shape.packed()];
                    work.attend(packed, keys, rows, &|m| self.limit(first + m, keys), &|m, scores, at| {
                        self.add_mask(&operands, b, first + m, scores, at);
                    });
                    self.store(&work, h, dtype, out);
                }
            });
        }
    }

    /// Which item of keys, and which of the second segment, query item `b` sees.
    fn segments(&self, b: usize) -> (usize, Option<usize>) {
        let e = &self.e;
        let more = self.op.segment.filter(|first| b >= *first);
        (b / (e.batch / e.kv_batch), more.map(|first| (b - first) / ((e.batch - first) / e.kv2_batch)))
    }

    /// Packs the keys and values of all heads.
    fn pack(&self, operands: &[Elements<'_>], own: usize, more: Option<usize>, to: &mut [f32], scratch: &mut [f32]) {
        let (e, shape) = (&self.e, &self.shape);
        let (_, stride, column) = self.strides();
        let first = operands[usize::from(!self.op.packed)];
        let own = Keys { elements: first, start: own * e.keys * stride + column, stride, count: e.keys };
        let second = more.zip(self.op.segment_index()).map(|(item, i)| {
            let stride = 2 * self.c;
            Keys { elements: operands[i], start: item * e.keys2 * stride, stride, count: e.keys2 }
        });
        for_each(shape.parts(to).enumerate(), scratch, self.thread(), |(i, (part, to)), buffer| {
            let h = i / shape.parts_per_head();
            let row = |j: usize, column: usize| -> Option<(Elements<'_>, usize)> {
                let (keys, j) = if j < own.count { (own, j) } else { (second?, j - own.count) };
                let start = keys.start + j * keys.stride + h * e.width + column;
                (j < keys.count).then_some((keys.elements, start))
            };
            shape.pack(part, &|j| row(j, 0), &|j| row(j, self.c), buffer, to);
        });
    }

    /// Keys that query `l` sees of `keys`.
    fn limit(&self, l: usize, keys: usize) -> usize {
        // A second segment lies behind the keys that a causal query may not see: `add_mask` hides those then.
        if self.op.causal && keys == self.e.keys { (l + 1).min(keys) } else { keys }
    }

    /// Adds the mask of query `l` to its scores of the keys from `at` on; scores are times log₂ e.
    fn add_mask(&self, operands: &[Elements<'_>], b: usize, l: usize, scores: &mut [f32], at: usize) {
        let e = &self.e;
        let own = scores.len().min(e.keys.saturating_sub(at));
        if let Some(i) = self.op.mask_index() {
            let (b, l) = (if e.mask[0] == 1 { 0 } else { b }, if e.mask[1] == 1 { 0 } else { l });
            let mask = operands[i].part((b * e.mask[1] + l) * e.keys + at.min(e.keys), own);
            let mut buffer = [0.0; 64];
            for (j, scores) in scores[..own].chunks_mut(64).enumerate() {
                let mask = mask.part(64 * j, scores.len()).wide(&mut buffer);
                scores.iter_mut().zip(mask).for_each(|(s, m)| *s += m * std::f32::consts::LOG2_E);
            }
        }
        if self.op.causal {
            let seen = (l + 1).saturating_sub(at).min(own);
            scores[seen..own].fill(f32::NEG_INFINITY);
        }
    }

    /// Rounds head `h` of the finished rows into `out`, rows of all heads.
    fn store(&self, work: &Work<'_>, h: usize, dtype: DType, out: &mut [u8]) {
        let (d, size) = (self.e.width, dtype.size());
        for (m, row) in out.chunks_mut(self.c * size).enumerate() {
            narrow(work.result(m, d), dtype, &mut row[h * d * size..(h + 1) * d * size]);
        }
    }

    fn along_frames(&self, call: HostCall<'_>) {
        let (e, frames, d) = (&self.e, self.e.queries, self.e.width);
        let x = Elements::of(&call.inputs[0]);
        let TensorDesc { dtype, .. } = call.output.desc;
        let row_bytes = self.c * dtype.size();
        let positions = (FRAMES_TASK / (frames * 3 * self.c)).clamp(1, e.positions);
        let frame = e.positions * row_bytes;
        for (clip, out) in call.output.bytes.chunks_mut(frames * frame).enumerate() {
            let mut rest: Vec<&mut [u8]> = out.chunks_mut(frame).collect();
            // A task's output: its positions in every frame.
            let tasks = (0..e.positions).step_by(positions).map(|first| {
                let bytes = positions.min(e.positions - first) * row_bytes;
                (first, rest.iter_mut().map(|slot| take(slot, bytes)).collect::<Vec<_>>())
            });
            for_each(tasks, floats(&mut *call.scratch), self.thread(), |(first, mut out), own| {
                let (packed, own) = own.split_at_mut(self.shape.packed());
                let mut work = Work::new(&self.shape, frames, own);
                for p in first..first + out[0].len() / row_bytes {
                    for h in 0..self.op.heads {
                        let at = |f: usize, part: usize| {
                            ((clip * frames + f) * e.positions + p) * 3 * self.c + part * self.c + h * d
                        };
                        let row = |j: usize, part: usize| (j < frames).then(|| (x, at(j, part)));
                        for (part, to) in self.shape.parts(packed) {
                            self.shape.pack(part, &|j| row(j, 1), &|j| row(j, 2), work.buffer(), to);
                        }
                        work.load(x, at(0, 0), e.positions * 3 * self.c, frames, self.op.scale(d));
                        let limit = |m: usize| if self.op.causal { m + 1 } else { frames };
                        work.attend(packed, frames, frames, &limit, &|_, _, _| {});
                        for (f, out) in out.iter_mut().enumerate() {
                            let column = ((p - first) * self.c + h * d) * dtype.size();
                            narrow(work.result(f, d), dtype, &mut out[column..column + d * dtype.size()]);
                        }
                    }
                }
            });
        }
    }
}

/// Cuts the first bytes off a slice.
fn take<'a>(slot: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let (own, more) = std::mem::take(slot).split_at_mut(bytes);
    *slot = more;
    own
}
