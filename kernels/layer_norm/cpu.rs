//! CPU kernel: a row at a time, in cache: mean, variance about the mean, result.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::{LayerNorm, bias_rows};
use crate::cpu::math::{square_sum, sum};
use crate::cpu::storage::{Elements, narrow};
use crate::cpu::{floats, for_each, vectorised};

/// Elements of a task, about.
const TASK: usize = 1 << 14;

pub(super) fn lower(op: &LayerNorm, site: &Site<'_>) -> Option<Lowering> {
    let c = site.output.shape.last();
    let frames = bias_rows(site.inputs);
    let floats = (1 + frames[0] + site.caps.threads) * c;
    let op = *op;
    Some(Lowering::host("layer_norm:rows", 3, 4 * floats as u64, Arc::new(move |call| run(&op, frames, call))))
}

fn run(op: &LayerNorm, [frames, positions]: [usize; 2], call: HostCall<'_>) {
    let c = call.output.desc.shape.last();
    let (x, dtype) = (Elements::of(&call.inputs[0]), call.output.desc.dtype);
    let scratch = floats(call.scratch);
    let (weight, scratch) = scratch.split_at_mut(c);
    let (bias, scratch) = scratch.split_at_mut(frames * c);
    Elements::of(&call.inputs[1]).widen(weight);
    Elements::of(&call.inputs[2]).widen(bias);
    let (weight, bias) = (&*weight, &*bias);
    let rows = TASK.div_ceil(c);
    let row_bytes = c * dtype.size();
    let tasks = call.output.bytes.chunks_mut(rows * row_bytes).enumerate();
    for_each(tasks, scratch, c, |(task, out), row| {
        for (i, out) in out.chunks_mut(row_bytes).enumerate() {
            let r = task * rows + i;
            x.part(r * c, c).widen(row);
            normalise(row, weight, &bias[r / positions % frames * c..][..c], op.eps);
            narrow(row, dtype, out);
        }
    });
}

vectorised! {
    fn normalise<'a>(row: &'a mut [f32], weight: &'a [f32], bias: &'a [f32], eps: f32) -> () {
        let mean = sum(row) / row.len() as f32;
        for v in row.iter_mut() {
            *v -= mean;
        }
        let variance = square_sum(row) / row.len() as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for ((v, w), b) in row.iter_mut().zip(weight).zip(bias) {
            *v = (*v * scale).mul_add(*w, *b);
        }
    }
}
