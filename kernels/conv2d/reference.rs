//! The formula in plain loops with f64 sums: specification and oracle.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::Conv2d;
use crate::host;

pub(super) fn lower(op: &Conv2d, site: &Site<'_>) -> Lowering {
    let op = *op;
    Lowering::host("conv2d:reference", site.inputs.len(), 0, Arc::new(move |call| run(&op, call)))
}

fn run(op: &Conv2d, mut call: HostCall<'_>) {
    let descs: Vec<_> = call.inputs.iter().map(|i| i.desc).collect();
    let e = op.extents(&descs);
    let operand = |i: usize| host::values(&call.inputs[i]);
    let sources = [operand(0), if op.two_sources { operand(1) } else { operand(0) }];
    let w = operand(op.weight_index());
    let bias = op.bias_index().map(operand);
    let shift = op.shift_index().map(operand);
    let residual = op.residual_index().map(operand);
    let ([kh, kw], [h, wd], [sh, sw]) = (op.kernel, e.input, e.source);
    let cin = e.channels[0] + e.channels[1];

    // Where the kernel's tap (ky, kx) at output (oy, ox) reads, if it does not read padding.
    let tap = |oy: usize, ox: usize, ky: usize, kx: usize| -> Option<(usize, usize)> {
        let y = (oy * op.stride + ky).checked_sub(op.padding[0]).filter(|y| *y < h)?;
        let x = (ox * op.stride + kx).checked_sub(op.padding[1]).filter(|x| *x < wd)?;
        Some((y * sh / h, x * sw / wd))
    };
    let element = |i: usize| -> f64 {
        let co = i % e.out_channels;
        let (ox, oy) = (i / e.out_channels % e.output[1], i / e.out_channels / e.output[1] % e.output[0]);
        let b = i / e.out_channels / e.output[1] / e.output[0];
        let mut sum = 0.0f64;
        for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
            let Some((y, x)) = tap(oy, ox, ky, kx) else { continue };
            for ci in 0..cin {
                let (s, c) = if ci < e.channels[0] { (0, ci) } else { (1, ci - e.channels[0]) };
                let v = sources[s][((b * sh + y) * sw + x) * e.channels[s] + c];
                sum += f64::from(v) * f64::from(w[((co * cin + ci) * kh + ky) * kw + kx]);
            }
        }
        sum += bias.as_ref().map_or(0.0, |v| f64::from(v[co]));
        sum += shift.as_ref().map_or(0.0, |v| f64::from(v[b * e.shift_stride + op.shift.unwrap_or(0) + co]));
        op.activation.exact(sum) + residual.as_ref().map_or(0.0, |v| f64::from(v[i]))
    };
    let count = e.batch * e.output[0] * e.output[1] * e.out_channels;
    host::store(&mut call.output, (0..count).map(element));
}
