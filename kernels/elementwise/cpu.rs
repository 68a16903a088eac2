//! CPU kernel: chunks that fit the first-level cache, widened, computed and rounded.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::Elementwise;
use crate::cpu::storage::{Elements, narrow};
use crate::cpu::{for_each, math, vectorised};

/// Elements of a chunk.
const CHUNK: usize = 1024;

/// Chunks of a task.
const CHUNKS: usize = 32;

pub(super) fn lower(op: &Elementwise, site: &Site<'_>) -> Option<Lowering> {
    if site.output.shape.count() == 0 || site.inputs.iter().any(|i| i.shape.count() == 0) {
        return None;
    }
    let op = *op;
    Some(Lowering::host("elementwise:chunks", site.inputs.len(), 0, Arc::new(move |call| run(&op, call))))
}

fn run(op: &Elementwise, call: HostCall<'_>) {
    let a = Elements::of(&call.inputs[0]);
    let [b, c] = [1, 2].map(|i| call.inputs.get(i).map(Elements::of));
    let dtype = call.output.desc.dtype;
    let tasks = call.output.bytes.chunks_mut(CHUNKS * CHUNK * dtype.size()).enumerate();
    for_each(tasks, &mut [], 0, |(task, out), _| {
        for (i, out) in out.chunks_mut(CHUNK * dtype.size()).enumerate() {
            let (first, count) = ((task * CHUNKS + i) * CHUNK, out.len() / dtype.size());
            let (mut x, mut y, mut z) = ([0.0; CHUNK], [0.0; CHUNK], [0.0; CHUNK]);
            a.part(first, count).widen(&mut x[..count]);
            if op.repeats() {
                for (operand, to) in [(&b, &mut y), (&c, &mut z)] {
                    operand.iter().for_each(|o| repeated(o, first, &mut to[..count]));
                }
            }
            if let (Elementwise::ScaleBy(index), Some(b)) = (op, &b) {
                b.part(*index, 1).widen(&mut y[..1]);
            }
            compute(*op, &mut x[..count], &y[..count], &z[..count]);
            narrow(&x[..count], dtype, out);
        }
    });
}

/// Elements `first..` of `b` repeated without end.
fn repeated(b: &Elements<'_>, first: usize, to: &mut [f32]) {
    let mut done = 0;
    while done < to.len() {
        let at = (first + done) % b.len();
        let count = (b.len() - at).min(to.len() - done);
        b.part(at, count).widen(&mut to[done..done + count]);
        done += count;
    }
}

vectorised! {
    fn compute<'a>(op: Elementwise, x: &'a mut [f32], y: &'a [f32], z: &'a [f32]) -> () {
        match op {
            Elementwise::AddScaled(factor) => {
                for (x, y) in x.iter_mut().zip(y) {
                    *x += factor * y;
                }
            }
            Elementwise::Multiply => {
                for (x, y) in x.iter_mut().zip(y) {
                    *x *= y;
                }
            }
            Elementwise::Affine => {
                for ((x, y), z) in x.iter_mut().zip(y).zip(z) {
                    *x = x.mul_add(*y, *z);
                }
            }
            Elementwise::Slope => {
                for (x, y) in x.iter_mut().zip(y) {
                    *x = x.max(0.0) + x.min(0.0) * y;
                }
            }
            Elementwise::Scale(factor) => {
                for x in x {
                    *x *= factor;
                }
            }
            Elementwise::ScaleBy(_) => {
                let factor = y[0];
                for x in x {
                    *x *= factor;
                }
            }
            Elementwise::Activate(activation) => math::activate_all(activation, x),
            Elementwise::Clamp(low, high) => {
                for x in x {
                    *x = x.clamp(low, high);
                }
            }
            Elementwise::Cast(_) => {}
        }
    }
}
