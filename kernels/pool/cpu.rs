//! CPU kernel: a task is a row of windows; the cells of a window are taken one after the other, all channels at once.

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::{Extents, Pool, Pooling};
use crate::cpu::storage::{Elements, narrow};
use crate::cpu::{floats, for_each, vectorised};

pub(super) fn lower(op: &Pool, site: &Site<'_>) -> Option<Lowering> {
    if site.output.shape.count() == 0 {
        return None;
    }
    let (op, e) = (*op, op.extents(site.inputs[0].shape));
    // A thread's window and the cell that joins it.
    let each = 2 * e.channels.next_multiple_of(16);
    let run = Arc::new(move |call: HostCall<'_>| run(&op, &e, each, call));
    Some(Lowering::host("pool:rows", 1, 4 * (each * site.caps.threads) as u64, run))
}

fn run(op: &Pool, e: &Extents, each: usize, call: HostCall<'_>) {
    let (x, dtype) = (Elements::of(&call.inputs[0]), call.output.desc.dtype);
    let (c, [frames, rows, columns]) = (e.channels, e.output);
    let tasks = call.output.bytes.chunks_mut(columns * c * dtype.size()).enumerate();
    for_each(tasks, floats(call.scratch), each, |(line, out), own| {
        let (b, at) = (line / rows / frames, [line / rows % frames, line % rows]);
        let [(f, nf), (h, nh)] = [0, 1].map(|axis| op.window(e, axis, at[axis]));
        let (window, cell) = own.split_at_mut(each / 2);
        let window = &mut window[..c];
        for (column, out) in out.chunks_mut(c * dtype.size()).enumerate() {
            let (w, nw) = op.window(e, 2, column);
            window.fill(if op.pooling == Pooling::Max { f32::NEG_INFINITY } else { 0.0 });
            for (t, y) in f.clone().flat_map(|t| h.clone().map(move |y| (t, y))) {
                for x_at in w.clone() {
                    let place = ((b * e.input[0] + t) * e.input[1] + y) * e.input[2] + x_at;
                    join(op.pooling, window, x.part(place * c, c).wide(cell));
                }
            }
            match op.pooling {
                Pooling::Max => {}
                Pooling::Mean => divide(window, (nf * nh * nw) as f32),
                Pooling::MeanInside => divide(window, (f.len() * h.len() * w.len()) as f32),
            }
            narrow(window, dtype, out);
        }
    });
}

vectorised! {
    fn join<'a>(pooling: Pooling, window: &'a mut [f32], cell: &'a [f32]) -> () {
        if pooling == Pooling::Max {
            for (w, v) in window.iter_mut().zip(cell) {
                *w = w.max(*v);
            }
        } else {
            for (w, v) in window.iter_mut().zip(cell) {
                *w += v;
            }
        }
    }

    fn divide<'a>(window: &'a mut [f32], count: f32) -> () {
        for w in window {
            *w /= count;
        }
    }
}
