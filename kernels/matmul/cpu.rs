//! CPU kernel: rows of `a` in place against panels of the weight, with the epilogue on each tile while it is cached.

use std::sync::Arc;

use muybridge_runtime::{DType, HostCall, Lowering, Site};

use super::Matmul;
use crate::cpu::epilogue::Epilogue;
use crate::cpu::floats;
use crate::cpu::gemm::{self, Cut, Left};
use crate::cpu::panel::{Panels, Rhs};
use crate::cpu::storage::{Elements, wide_len};

/// A matrix, row by row.
struct Rows<'a> {
    elements: Elements<'a>,
    k: usize,
}

impl Left for Rows<'_> {
    fn widen(&self, first: usize, count: usize, buffer: &mut [f32]) {
        if self.elements.f32().is_none() {
            let rows = self.elements.part(first * self.k, count * self.k);
            rows.widen(&mut buffer[..count * self.k]);
        }
    }

    fn piece<'a>(&'a self, buffer: &'a [f32], first: usize, _: usize, m: usize) -> &'a [f32] {
        match self.elements.f32() {
            Some(all) => &all[(first + m) * self.k..(first + m + 1) * self.k],
            None => &buffer[m * self.k..(m + 1) * self.k],
        }
    }
}

pub(super) fn lower(op: &Matmul, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    if e.batch * e.m * e.n * e.k == 0 {
        return None;
    }
    let panels = Panels { gated: op.geglu, ..Panels::new(e.n, e.k) };
    let packed = site.is_weight[1] && !op.batched;
    let (a, w): (DType, DType) = (site.inputs[0].dtype, site.inputs[1].dtype);
    let cut = Cut::new(e.m, panels, w, packed, site.caps.threads, |rows| wide_len(a, rows * e.k));
    let bias = if op.bias { site.inputs[2].shape.count() } else { 0 };
    let floats = bias + cut.scratch(site.caps.threads);
    let op = *op;
    let run = Arc::new(move |call: HostCall<'_>| run(&op, &cut, call));
    let mut lowering = Lowering::host("matmul:gemm", site.inputs.len(), 4 * floats as u64, run);
    if packed {
        lowering.prepare.push((1, panels.prepare(w)));
    }
    Some(lowering)
}

fn run(op: &Matmul, cut: &Cut, call: HostCall<'_>) {
    let (n, k) = (cut.panels.columns, cut.panels.depth);
    let a = Elements::of(&call.inputs[0]);
    let w = Elements::of(&call.inputs[1]);
    let residual = op.residual_index().map(|i| Elements::of(&call.inputs[i]));
    let batch = if op.batched { call.inputs[1].desc.shape[0] } else { 1 };
    let (m, w_count) = (a.len() / k / batch, w.len() / batch);
    let scratch = floats(call.scratch);
    let (bias, scratch) = scratch.split_at_mut(if op.bias { call.inputs[2].desc.shape.count() } else { 0 });
    if op.bias {
        Elements::of(&call.inputs[2]).widen(bias);
    }
    let dtype = call.output.desc.dtype;
    for (b, out) in call.output.bytes.chunks_mut(m * n * dtype.size()).enumerate() {
        let right = Rhs { panels: cut.panels, elements: w.part(b * w_count, w_count), packed: cut.packed };
        let residual = residual.map(|r| r.part(b * m * n, m * n));
        let last = Epilogue { addend: bias, item: m, activation: op.activation, residual, dtype };
        let left = Rows { elements: a.part(b * m * k, m * k), k };
        gemm::run(cut, &left, &right, &last, out, scratch);
    }
}
