//! The formula in plain loops with f64 sums: specification and oracle.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::Conv3d;
use crate::host;

pub(super) fn lower(op: &Conv3d, site: &Site<'_>) -> Lowering {
    let op = *op;
    Lowering::host("conv3d:reference", site.inputs.len(), 0, Arc::new(move |call| run(&op, call)))
}

fn run(op: &Conv3d, mut call: HostCall<'_>) {
    let descs: Vec<_> = call.inputs.iter().map(|i| i.desc).collect();
    let e = op.extents(&descs);
    let (x, w) = (host::values(&call.inputs[0]), host::values(&call.inputs[1]));
    let bias = op.bias.then(|| host::values(&call.inputs[2]));
    let ([frames, height, width], [kf, kh, kw]) = (e.input, op.kernel);
    let source = |axis: usize, o: usize, tap: usize| {
        (o * op.stride[axis] + tap).checked_sub(op.before[axis]).filter(|i| *i < e.input[axis])
    };
    let element = |i: usize| -> f64 {
        let (n, cell) = (i % e.out_channels, i / e.out_channels);
        let at = [cell / e.output[2] / e.output[1] % e.output[0], cell / e.output[2] % e.output[1], cell % e.output[2]];
        let b = cell / e.output.iter().product::<usize>();
        let mut sum = bias.as_ref().map_or(0.0, |v| f64::from(v[n]));
        for tap in 0..kf * kh * kw {
            let taps = [tap / kw / kh, tap / kw % kh, tap % kw];
            let [Some(t), Some(y), Some(x_at)] = [0, 1, 2].map(|a| source(a, at[a], taps[a])) else { continue };
            let place = ((b * frames + t) * height + y) * width + x_at;
            for c in 0..e.channels {
                let weight = w[(n * e.channels + c) * kf * kh * kw + tap];
                sum += f64::from(x[place * e.channels + c]) * f64::from(weight);
            }
        }
        op.activation.exact(sum)
    };
    host::store(&mut call.output, (0..e.cells() * e.out_channels).map(element));
}
