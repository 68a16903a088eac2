//! The formula in plain loops in f64, a task per item's rows: specification, oracle, and the CPU's kernel.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::UnitDistance;
use crate::cpu::for_each;
use crate::host;

pub(super) fn lower(op: &UnitDistance, site: &Site<'_>) -> Lowering {
    let op = *op;
    Lowering::host("unit_distance:reference", site.inputs.len(), 0, Arc::new(move |call| run(&op, call)))
}

/// Pixels of a task.
const TASK: usize = 256;

fn run(op: &UnitDistance, call: HostCall<'_>) {
    let (x, w) = (host::values(&call.inputs[0]), host::values(&call.inputs[1]));
    let (a, b) = x.split_at(x.len() / 2);
    let distance = |a: &[f32], b: &[f32]| -> f32 {
        let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() + f64::from(op.eps);
        let (na, nb) = (norm(a), norm(b));
        let term = |((a, b), w): ((&f32, &f32), &f32)| {
            let d = f64::from(*a) / na - f64::from(*b) / nb;
            f64::from(*w) * d * d
        };
        a.iter().zip(b).zip(w.iter()).map(term).sum::<f64>() as f32
    };
    let out: &mut [f32] = bytemuck::cast_slice_mut(call.output.bytes);
    for_each(out.chunks_mut(TASK).enumerate(), &mut [], 0, |(task, out), _| {
        let c = w.len();
        for (i, y) in out.iter_mut().enumerate() {
            let first = (task * TASK + i) * c;
            *y = distance(&a[first..first + c], &b[first..first + c]);
        }
    });
}
