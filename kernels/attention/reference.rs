//! The formula in plain loops with f64 sums: specification and oracle.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::{Attention, Axis};
use crate::host;

pub(super) fn lower(op: &Attention, site: &Site<'_>) -> Lowering {
    let op = *op;
    Lowering::host("attention:reference", site.inputs.len(), 0, Arc::new(move |call| run(&op, call)))
}

/// A row of a tensor: which of the operands, and the index of its first element.
#[derive(Clone, Copy)]
struct Row {
    operand: usize,
    start: usize,
}

fn run(op: &Attention, mut call: HostCall<'_>) {
    let descs: Vec<_> = call.inputs.iter().map(|i| i.desc).collect();
    let e = op.extents(&descs);
    let data: Vec<_> = call.inputs.iter().map(host::values).collect();
    let (d, c) = (e.width, e.width * op.heads);
    let scale = f64::from(op.scale(d));

    let (q_stride, kv_stride, kv_operand, k_column) = if op.packed { (3 * c, 3 * c, 0, c) } else { (c, 2 * c, 1, 0) };
    // Key j of the attention that query item b at position p belongs to; values are `c` columns further.
    let key = |b: usize, p: usize, j: usize| -> Row {
        let row = match op.axis {
            Axis::Frames(f) => (b / f * f + j) * e.positions + p,
            Axis::Positions => b / (e.batch / e.kv_batch) * e.keys + j,
        };
        Row { operand: kv_operand, start: row * kv_stride + k_column }
    };
    let key2 = |b: usize, first: usize, j: usize| -> Row {
        let item = (b - first) / ((e.batch - first) / e.kv2_batch);
        Row { operand: op.segment_index().unwrap_or(0), start: (item * e.keys2 + j) * 2 * c }
    };
    let keys_of = |b: usize, p: usize| -> Vec<Row> {
        let own = if op.causal { query_index(op, b, p) + 1 } else { e.keys };
        let more = op.segment.filter(|first| b >= *first).map_or(0, |_| e.keys2);
        let second = (0..more).map(|j| key2(b, op.segment.unwrap_or(0), j));
        (0..own).map(|j| key(b, p, j)).chain(second).collect()
    };
    let mask = |b: usize, l: usize, j: usize| -> f64 {
        let Some(i) = op.mask_index().filter(|_| j < e.keys) else { return 0.0 };
        let (b, l) = (if e.mask[0] == 1 { 0 } else { b }, if e.mask[1] == 1 { 0 } else { l });
        f64::from(data[i][(b * e.mask[1] + l) * e.keys + j])
    };
    let head = |b: usize, p: usize, h: usize| -> Vec<f64> {
        let q = (b * e.positions + p) * q_stride + h * d;
        let rows = keys_of(b, p);
        let score = |(j, k): (usize, &Row)| -> f64 {
            let dot = |i: usize| f64::from(data[0][q + i]) * f64::from(data[k.operand][k.start + h * d + i]);
            (0..d).map(dot).sum::<f64>() * scale + mask(b, query_index(op, b, p), j)
        };
        let scores: Vec<f64> = rows.iter().enumerate().map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let value = |i: usize| -> f64 {
            let each = |(w, k): (&f64, &Row)| w * f64::from(data[k.operand][k.start + c + h * d + i]);
            weights.iter().zip(&rows).map(each).sum::<f64>() / sum
        };
        (0..d).map(value).collect()
    };
    let all =
        (0..e.batch * e.positions).flat_map(|r| (0..op.heads).map(move |h| (r / e.positions, r % e.positions, h)));
    host::store(&mut call.output, all.flat_map(|(b, p, h)| head(b, p, h)));
}

/// Index of a query within its attention: its position, or its frame.
fn query_index(op: &Attention, b: usize, p: usize) -> usize {
    match op.axis {
        Axis::Positions => p,
        Axis::Frames(f) => b % f,
    }
}
