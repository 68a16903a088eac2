//! The formula in plain loops in f64: specification and oracle.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::Elementwise;
use crate::host;

pub(super) fn lower(op: &Elementwise, site: &Site<'_>) -> Lowering {
    let op = *op;
    Lowering::host("elementwise:reference", site.inputs.len(), 0, Arc::new(move |call| run(&op, call)))
}

fn run(op: &Elementwise, mut call: HostCall<'_>) {
    let a = host::values(&call.inputs[0]);
    let b = call.inputs.get(1).map(host::values);
    let c = call.inputs.get(2).map(host::values);
    let c_at = |i: usize| c.as_ref().map_or(0.0, |c| f64::from(c[i % c.len()]));
    // The second operand repeats: its own element for index i, 0 where there is none.
    let b_at = |i: usize| b.as_ref().map_or(0.0, |b| f64::from(b[i % b.len()]));
    let element = |(i, a): (usize, &f32)| -> f64 {
        let a = f64::from(*a);
        match op {
            Elementwise::AddScaled(factor) => a + f64::from(*factor) * b_at(i),
            Elementwise::Multiply => a * b_at(i),
            Elementwise::Affine => a * b_at(i) + c_at(i),
            Elementwise::Slope => a.max(0.0) + a.min(0.0) * b_at(i),
            Elementwise::Scale(factor) => a * f64::from(*factor),
            Elementwise::ScaleBy(index) => a * b_at(*index),
            Elementwise::Activate(activation) => activation.exact(a),
            Elementwise::Clamp(low, high) => a.clamp(f64::from(*low), f64::from(*high)),
            Elementwise::Cast(_) => a,
        }
    };
    host::store(&mut call.output, a.iter().enumerate().map(element));
}
