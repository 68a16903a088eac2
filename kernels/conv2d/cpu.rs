//! CPU kernels. `gemm`: an implicit matrix product. A row of its left-hand side is an output pixel, its pieces are the pixels
//! under the kernel's taps, read in place: nothing is gathered, resized or concatenated.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site, TensorView};

use super::{Conv2d, Extents};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::floats;
use crate::cpu::gemm::{self, Cut, Left};
use crate::cpu::panel::{Panels, Rhs};
use crate::cpu::storage::{Elements, wide_len};

pub(super) fn lower(op: &Conv2d, name: &str, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    if site.output.shape.count() == 0 || e.channels[0] + e.channels[1] == 0 {
        return None;
    }
    match name {
        "winograd" => super::winograd::lower(op, &e, site),
        "gemm" => Some(implicit(op, &e, site)),
        _ => None,
    }
}

/// The panels of a convolution's weight: [`Panels`] of `[Cout][Cin, taps]`, summed tap by tap.
pub(super) fn panels(op: &Conv2d, e: &Extents) -> Panels {
    let taps = op.kernel[0] * op.kernel[1];
    Panels { taps, ..Panels::new(e.out_channels, taps * (e.channels[0] + e.channels[1])) }
}

/// Bias and shift of every batch item, `[B][Cout]`; empty where there are none.
pub(super) fn addend<'a>(op: &Conv2d, e: &Extents, inputs: &[TensorView<'_>], to: &'a mut [f32]) -> &'a [f32] {
    let n = e.out_channels;
    for (b, row) in to.chunks_mut(n).enumerate() {
        match op.bias_index() {
            Some(i) => Elements::of(&inputs[i]).widen(row),
            None => row.fill(0.0),
        }
        if let (Some(i), Some(offset)) = (op.shift_index(), op.shift) {
            let shift = &inputs[i];
            let first = b * e.shift_stride + offset;
            row.iter_mut().enumerate().for_each(|(c, v)| *v += element(&Elements::of(shift), first + c));
        }
    }
    to
}

fn element(all: &Elements<'_>, i: usize) -> f32 {
    let mut one = [0.0];
    all.part(i, 1).widen(&mut one);
    one[0]
}

/// Length of [`addend`].
pub(super) fn addend_len(op: &Conv2d, e: &Extents) -> usize {
    if op.bias || op.shift.is_some() { e.batch * e.out_channels } else { 0 }
}

fn implicit(op: &Conv2d, e: &Extents, site: &Site<'_>) -> Lowering {
    let (w_index, dtype) = (op.weight_index(), site.inputs[0].dtype);
    let (panels, w) = (panels(op, e), site.inputs[w_index].dtype);
    let packed = site.is_weight[w_index];
    let map = Map { op: *op, e: *e };
    let rows = e.batch * e.output[0] * e.output[1];
    let wide = |count: usize| wide_len(dtype, map.widest(rows, count) * (e.channels[0] + e.channels[1]) * e.source[1]);
    let threads = site.caps.threads;
    let cut = Cut::new(rows, panels, w, packed, threads, wide);
    let floats = addend_len(op, e) + cut.scratch(threads);
    let zeros = vec![0.0; e.channels[0].max(e.channels[1])];
    let run = Arc::new(move |call: HostCall<'_>| run(&map, &cut, &zeros, call));
    let mut lowering = Lowering::host("conv2d:gemm", site.inputs.len(), 4 * floats as u64, run);
    if packed {
        lowering.prepare.push((w_index, panels.prepare(w)));
    }
    lowering
}

fn run(map: &Map, cut: &Cut, zeros: &[f32], call: HostCall<'_>) {
    let (op, e) = (&map.op, &map.e);
    let scratch = floats(call.scratch);
    let (added, scratch) = scratch.split_at_mut(addend_len(op, e));
    let addend = addend(op, e, call.inputs, added);
    let sources = [Elements::of(&call.inputs[0]), Elements::of(&call.inputs[usize::from(op.two_sources)])];
    let right = Rhs { panels: cut.panels, elements: Elements::of(&call.inputs[op.weight_index()]), packed: cut.packed };
    let last = Epilogue {
        addend,
        item: e.output[0] * e.output[1],
        activation: op.activation,
        residual: op.residual_index().map(|i| Elements::of(&call.inputs[i])),
        dtype: call.output.desc.dtype,
    };
    gemm::run(cut, &Pixels { map, sources, zeros }, &right, &last, call.output.bytes, scratch);
}

/// Where the taps of an output pixel read.
#[derive(Clone, Copy)]
pub(super) struct Map {
    pub op: Conv2d,
    pub e: Extents,
}

impl Map {
    /// Source row or column (axis 0 or 1) that `tap` of output `o` reads; `None` in the padding.
    #[inline]
    fn source(&self, axis: usize, o: usize, tap: usize) -> Option<usize> {
        self.input(axis, o * self.op.stride + tap)
    }

    /// Source row or column under row or column `i` of the padded input; `None` in the padding.
    #[inline]
    pub fn input(&self, axis: usize, i: usize) -> Option<usize> {
        let i = i.checked_sub(self.op.padding[axis]).filter(|i| *i < self.e.input[axis])?;
        Some(if self.op.upsample.is_some() { i * self.e.source[axis] / self.e.input[axis] } else { i })
    }

    /// Rows of the sources (counted through all batch items) that the output pixels `first..first + count` read.
    fn source_rows(&self, first: usize, count: usize) -> std::ops::Range<usize> {
        let [h, w] = self.e.output;
        let row = |pixel: usize, last: bool| -> usize {
            let (b, y) = (pixel / w / h, pixel / w % h);
            let edge = if last { y * self.op.stride + self.op.kernel[0] - 1 } else { y * self.op.stride };
            let y = edge.saturating_sub(self.op.padding[0]).min(self.e.input[0] - 1);
            b * self.e.source[0] + y * self.e.source[0] / self.e.input[0]
        };
        row(first, false)..row(first + count - 1, true) + 1
    }

    /// The most source rows that any block of `count` of all `rows` pixels reads.
    fn widest(&self, rows: usize, count: usize) -> usize {
        let blocks = (0..rows).step_by(count.max(1));
        blocks.map(|first| self.source_rows(first, count.min(rows - first)).len()).max().unwrap_or(0)
    }
}

/// Output pixels as rows of a product.
struct Pixels<'s> {
    map: &'s Map,
    sources: [Elements<'s>; 2],
    zeros: &'s [f32],
}

impl Left for Pixels<'_> {
    /// Row by row of the sources, the second source's row behind the first's.
    fn widen(&self, first: usize, count: usize, buffer: &mut [f32]) {
        if self.sources[0].f32().is_some() {
            return;
        }
        let [w, c] = [self.map.e.source[1], self.map.e.channels[0] + self.map.e.channels[1]];
        for (row, to) in self.map.source_rows(first, count).zip(buffer.chunks_mut(w * c)) {
            let (one, two) = to.split_at_mut(w * self.map.e.channels[0]);
            self.sources[0].part(row * one.len(), one.len()).widen(one);
            if self.map.op.two_sources {
                self.sources[1].part(row * two.len(), two.len()).widen(two);
            }
        }
    }

    #[inline]
    fn piece<'a>(&'a self, buffer: &'a [f32], first: usize, i: usize, m: usize) -> &'a [f32] {
        let (op, e) = (&self.map.op, &self.map.e);
        let (tap, s) = if op.two_sources { (i / 2, i % 2) } else { (i, 0) };
        let [h, w] = e.output;
        let (ox, row) = ((first + m) % w, (first + m) / w);
        let (b, oy) = (row / h, row % h);
        let c = e.channels[s];
        let at = (self.map.source(0, oy, tap / op.kernel[1]), self.map.source(1, ox, tap % op.kernel[1]));
        let (Some(y), Some(x)) = at else { return &self.zeros[..c] };
        let (row, w) = (b * e.source[0] + y, e.source[1]);
        match self.sources[s].f32() {
            Some(all) => &all[(row * w + x) * c..][..c],
            None => {
                let row = row - self.map.source_rows(first, 1).start;
                let at = (row * (e.channels[0] + e.channels[1]) + s * e.channels[0]) * w + x * c;
                &buffer[at..at + c]
            }
        }
    }
}
