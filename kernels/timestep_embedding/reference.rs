//! The formula in plain loops: specification, oracle, and the CPU's kernel.
//!
//! Frequencies and angles are rounded to f32 as in the field's implementations: at t = 999 the rounding of the angle is what
//! the last digits of the result come from.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::TimestepEmbedding;
use crate::host;

pub(super) fn lower(op: &TimestepEmbedding, site: &Site<'_>) -> Lowering {
    let op = *op;
    Lowering::host("timestep_embedding:reference", site.inputs.len(), 0, Arc::new(move |call| run(&op, call)))
}

fn run(op: &TimestepEmbedding, mut call: HostCall<'_>) {
    let t = host::values(&call.inputs[0]);
    let half = op.dim / 2;
    let element = |i: usize| -> f64 {
        let (number, column) = (t[i / op.dim], i % op.dim);
        if column >= 2 * half {
            return 0.0;
        }
        let exponent = -op.period.ln() * (column % half) as f32 / (half as f32 - op.freq_shift);
        let angle = f64::from(number * exponent.exp());
        if (column < half) == op.cosine_first { angle.cos() } else { angle.sin() }
    };
    host::store(&mut call.output, (0..t.len() * op.dim).map(element));
}
