//! The formula in plain loops with f64 sums: specification and oracle.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::{LayerNorm, bias_rows};
use crate::host;

pub(super) fn lower(op: &LayerNorm, site: &Site<'_>) -> Lowering {
    let op = *op;
    Lowering::host("layer_norm:reference", site.inputs.len(), 0, Arc::new(move |call| run(&op, call)))
}

fn run(op: &LayerNorm, mut call: HostCall<'_>) {
    let [x, weight, bias] = [0, 1, 2].map(|i| host::values(&call.inputs[i]));
    let c = weight.len();
    let descs: Vec<_> = call.inputs.iter().map(|i| i.desc).collect();
    let [frames, positions] = bias_rows(&descs);
    let row = |(r, row): (usize, &[f32])| -> Vec<f64> {
        let bias = &bias[r / positions.max(1) % frames * c..];
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / c as f64;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / c as f64;
        let scale = 1.0 / (variance + f64::from(op.eps)).sqrt();
        let one = |i: usize| (f64::from(row[i]) - mean) * scale * f64::from(weight[i]) + f64::from(bias[i]);
        (0..c).map(one).collect()
    };
    host::store(&mut call.output, x.chunks(c.max(1)).enumerate().flat_map(row));
}
