//! The formula in plain loops with f64 sums: specification and oracle.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::Matmul;
use crate::{Activation, host};

pub(super) fn lower(op: &Matmul, site: &Site<'_>) -> Lowering {
    let op = *op;
    Lowering::host("matmul:reference", site.inputs.len(), 0, Arc::new(move |call| run(&op, call)))
}

fn run(op: &Matmul, mut call: HostCall<'_>) {
    let descs: Vec<_> = call.inputs.iter().map(|i| i.desc).collect();
    let e = op.extents(&descs);
    let (a, w) = (host::values(&call.inputs[0]), host::values(&call.inputs[1]));
    let bias = op.bias.then(|| host::values(&call.inputs[2]));
    let residual = op.residual_index().map(|i| host::values(&call.inputs[i]));
    let w_rows = if op.geglu { 2 * e.n } else { e.n };
    let dot = |b: usize, m: usize, row: usize| -> f64 {
        let (a0, w0) = ((b * e.m + m) * e.k, (if op.batched { b * w_rows } else { 0 } + row) * e.k);
        let sum: f64 = (0..e.k).map(|k| f64::from(a[a0 + k]) * f64::from(w[w0 + k])).sum();
        sum + bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]))
    };
    let element = |i: usize| -> f64 {
        let (b, m, n) = (i / (e.m * e.n), i / e.n % e.m, i % e.n);
        let y = if op.geglu {
            dot(b, m, n) * Activation::Gelu.exact(dot(b, m, e.n + n))
        } else {
            op.activation.exact(dot(b, m, n))
        };
        y + residual.as_ref().map_or(0.0, |r| f64::from(r[i]))
    };
    host::store(&mut call.output, (0..e.batch * e.m * e.n).map(element));
}
