//! The formula in plain loops with f64 sums: specification and oracle.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::GroupNorm;
use crate::host;

pub(super) fn lower(op: &GroupNorm, site: &Site<'_>) -> Lowering {
    let op = *op;
    Lowering::host("group_norm:reference", site.inputs.len(), 0, Arc::new(move |call| run(&op, call)))
}

fn run(op: &GroupNorm, mut call: HostCall<'_>) {
    let descs: Vec<_> = call.inputs.iter().map(|i| i.desc).collect();
    let e = op.extents(&descs);
    let operand = |i: usize| host::values(&call.inputs[i]);
    let sources = [operand(0), if op.two_sources { operand(1) } else { operand(0) }];
    let (weight, bias) = (operand(op.weight_index()), operand(op.weight_index() + 1));
    let modulation = op.modulation_index().map(|i| (operand(i), descs[i].shape.last()));
    let c = e.channels[0] + e.channels[1];
    let width = c / op.groups;
    let at = |b: usize, p: usize, ch: usize| -> f64 {
        let (s, ch) = if ch < e.channels[0] { (0, ch) } else { (1, ch - e.channels[0]) };
        f64::from(sources[s][(b * e.positions + p) * e.channels[s] + ch])
    };
    // Mean and reciprocal deviation of group g of clip n, over all frames of the clip.
    let statistics = |n: usize, g: usize| -> (f64, f64) {
        let each = || {
            (n * op.frames..(n + 1) * op.frames).flat_map(move |b| {
                (0..e.positions).flat_map(move |p| (g * width..(g + 1) * width).map(move |ch| at(b, p, ch)))
            })
        };
        let count = (op.frames * e.positions * width) as f64;
        let mean = each().sum::<f64>() / count;
        let variance = each().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
        (mean, 1.0 / (variance + f64::from(op.eps)).sqrt())
    };
    let clips = e.batch / op.frames;
    let table: Vec<(f64, f64)> = (0..clips * op.groups).map(|i| statistics(i / op.groups, i % op.groups)).collect();
    let element = |i: usize| -> f64 {
        let (b, p, ch) = (i / (e.positions * c), i / c % e.positions, i % c);
        let (mean, scale) = table[b / op.frames * op.groups + ch / width];
        let mut y = (at(b, p, ch) - mean) * scale * f64::from(weight[ch]) + f64::from(bias[ch]);
        if let (Some((m, stride)), Some(offset)) = (&modulation, op.modulate) {
            let row = b * stride + offset;
            y = y * (1.0 + f64::from(m[row + ch])) + f64::from(m[row + c + ch]);
        }
        op.activation.exact(y)
    };
    host::store(&mut call.output, (0..e.batch * e.positions * c).map(element));
}
