//! CPU kernel: an implicit matrix product. The operand is copied once between its zeros, as f32; then the taps of a kernel's
//! row lie side by side, and a row of the product is `KF · KH` pieces of `KW · C` elements in place.

use std::sync::Arc;

use muybridge_runtime::{DType, HostCall, Lowering, Site};

use super::{Conv3d, Extents};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::gemm::{self, Cut, Left};
use crate::cpu::panel::{Panels, Rhs};
use crate::cpu::storage::Elements;
use crate::cpu::{floats, for_each};

/// What is known before a call.
struct Made {
    op: Conv3d,
    e: Extents,
    cut: Cut,
    /// Extents with padding.
    padded: [usize; 3],
    /// Elements of the padded copy; 0 where the operand serves as it is.
    copied: usize,
    /// First element of each output cell's pieces.
    starts: Vec<usize>,
    /// First element of each piece of a row, from the row's own.
    pieces: Vec<usize>,
}

pub(super) fn lower(op: &Conv3d, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    if site.output.shape.count() == 0 || e.channels == 0 {
        return None;
    }
    let (w, c) = (site.inputs[1].dtype, e.channels);
    let padded = [0, 1, 2].map(|i| e.input[i] + op.before[i] + op.after[i]);
    let in_place = padded == e.input && site.inputs[0].dtype == DType::F32;
    let copied = if in_place { 0 } else { e.batch * padded.iter().product::<usize>() * c };
    let panels = Panels { taps: op.taps(), ..Panels::new(e.out_channels, op.taps() * c) };
    let threads = site.caps.threads;
    let cut = Cut::new(e.cells(), panels, w, site.is_weight[1], threads, |_| 0);
    let place = |b: usize, at: [usize; 3]| (((b * padded[0] + at[0]) * padded[1] + at[1]) * padded[2] + at[2]) * c;
    let [frames, rows, columns] = e.output;
    let start = |cell: usize| {
        let at = [cell / columns / rows % frames, cell / columns % rows, cell % columns];
        place(cell / columns / rows / frames, [0, 1, 2].map(|i| at[i] * op.stride[i]))
    };
    let starts = (0..e.cells()).map(start).collect();
    let pieces = (0..op.kernel[0] * op.kernel[1]).map(|i| place(0, [i / op.kernel[1], i % op.kernel[1], 0])).collect();
    let floats = copied.next_multiple_of(16) + e.out_channels.next_multiple_of(16) + cut.scratch(threads);
    let made = Made { op: *op, e, cut, padded, copied, starts, pieces };
    let run = Arc::new(move |call: HostCall<'_>| run(&made, call));
    let mut lowering = Lowering::host("conv3d:gemm", site.inputs.len(), 4 * floats as u64, run);
    if site.is_weight[1] {
        lowering.prepare.push((1, panels.prepare(w)));
    }
    Some(lowering)
}

fn run(made: &Made, call: HostCall<'_>) {
    let Made { op, e, cut, .. } = made;
    let (copy, scratch) = floats(call.scratch).split_at_mut(made.copied.next_multiple_of(16));
    let (bias, scratch) = scratch.split_at_mut(e.out_channels.next_multiple_of(16));
    let x = Elements::of(&call.inputs[0]);
    let all = match x.f32() {
        Some(all) if made.copied == 0 => all,
        _ => {
            pad(made, x, &mut copy[..made.copied]);
            &*copy
        }
    };
    let addend = if op.bias {
        Elements::of(&call.inputs[2]).widen(&mut bias[..e.out_channels]);
        &bias[..e.out_channels]
    } else {
        &[]
    };
    let right = Rhs { panels: cut.panels, elements: Elements::of(&call.inputs[1]), packed: cut.packed };
    let dtype = call.output.desc.dtype;
    let last = Epilogue { addend, item: e.cells(), activation: op.activation, residual: None, dtype };
    let length = op.kernel[2] * e.channels;
    let left = Cells { all, starts: &made.starts, pieces: &made.pieces, length };
    gemm::run(cut, &left, &right, &last, call.output.bytes, scratch);
}

/// Copies the operand between its zeros.
fn pad(made: &Made, x: Elements<'_>, to: &mut [f32]) {
    let (e, before) = (&made.e, made.op.before);
    let line = made.padded[2] * e.channels;
    for_each(to.chunks_mut(line).enumerate(), &mut [], 0, |(i, to), _| {
        let (b, t, y) = (i / made.padded[1] / made.padded[0], i / made.padded[1] % made.padded[0], i % made.padded[1]);
        let inside = |at: usize, axis: usize| at.checked_sub(before[axis]).filter(|at| *at < e.input[axis]);
        to.fill(0.0);
        if let (Some(t), Some(y)) = (inside(t, 0), inside(y, 1)) {
            let (first, count) = (before[2] * e.channels, e.input[2] * e.channels);
            x.part(((b * e.input[0] + t) * e.input[1] + y) * count, count).widen(&mut to[first..first + count]);
        }
    });
}

/// Output cells as rows of a product.
struct Cells<'s> {
    all: &'s [f32],
    starts: &'s [usize],
    pieces: &'s [usize],
    length: usize,
}

impl Left for Cells<'_> {
    fn widen(&self, _: usize, _: usize, _: &mut [f32]) {}

    #[inline]
    fn piece<'a>(&'a self, _: &'a [f32], first: usize, i: usize, m: usize) -> &'a [f32] {
        &self.all[self.starts[first + m] + self.pieces[i]..][..self.length]
    }
}
