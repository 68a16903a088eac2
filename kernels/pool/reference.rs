//! The formula in plain loops in f64: specification and oracle.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::{Pool, Pooling};
use crate::host;

pub(super) fn lower(op: &Pool, site: &Site<'_>) -> Lowering {
    let op = *op;
    Lowering::host("pool:reference", site.inputs.len(), 0, Arc::new(move |call| run(&op, call)))
}

fn run(op: &Pool, mut call: HostCall<'_>) {
    let e = op.extents(call.inputs[0].desc.shape);
    let x = host::values(&call.inputs[0]);
    let ([_, height, width], [frames, rows, columns], c) = (e.input, e.output, e.channels);
    let element = |i: usize| -> f64 {
        let at = [i / c / columns / rows % frames, i / c / columns % rows, i / c % columns];
        let b = i / c / columns / rows / frames;
        let [(f, nf), (h, nh), (w, nw)] = [0, 1, 2].map(|axis| op.window(&e, axis, at[axis]));
        let inside = f.len() * h.len() * w.len();
        let (mut most, mut sum) = (f64::NEG_INFINITY, 0.0);
        for (t, y) in f.flat_map(|t| h.clone().map(move |y| (t, y))) {
            for column in w.clone() {
                let v = f64::from(x[(((b * e.input[0] + t) * height + y) * width + column) * c + i % c]);
                (most, sum) = (most.max(v), sum + v);
            }
        }
        match op.pooling {
            Pooling::Max => most,
            Pooling::Mean => sum / (nf * nh * nw) as f64,
            Pooling::MeanInside => sum / inside as f64,
        }
    };
    host::store(&mut call.output, (0..e.batch * frames * rows * columns * c).map(element));
}
