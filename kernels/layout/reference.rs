//! The index maps in plain loops: specification, oracle, and the CPU's kernel (these run at the edges of a model).

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::Layout;
use crate::host;

pub(super) fn lower(op: &Layout, site: &Site<'_>) -> Lowering {
    let op = *op;
    Lowering::host("layout:reference", site.inputs.len(), 0, Arc::new(move |call| run(&op, call)))
}

fn run(op: &Layout, mut call: HostCall<'_>) {
    let x = host::values(&call.inputs[0]);
    let x2 = call.inputs.get(1).map_or(x.clone(), host::values);
    let (shape, c) = (call.inputs[0].desc.shape, call.inputs[0].desc.shape.last());
    let out = call.output.desc.shape;
    let element = |i: usize| -> f32 {
        let (row, column) = (i / out.last(), i % out.last());
        match *op {
            Layout::Permute(axes) => {
                let index =
                    [i / (out[1] * out[2] * out[3]), i / (out[2] * out[3]) % out[1], i / out[3] % out[2], column];
                let mut source = [0; 4];
                axes.iter().zip(index).for_each(|(a, j)| source[*a] = j);
                x[((source[0] * shape[1] + source[1]) * shape[2] + source[2]) * shape[3] + source[3]]
            }
            Layout::Concat if column < c => x[row * c + column],
            Layout::Concat => x2[row * (out.last() - c) + column - c],
            Layout::Slice { from, .. } => x[row * c + from + column],
            Layout::Reverse => x[row * c + c - 1 - column],
            Layout::Repeat { run, times } => {
                let whole = run * shape.count() / shape[0].max(1);
                x[i / (whole * times) * whole + i % whole]
            }
        }
    };
    let elements: Vec<f32> = (0..out.count()).map(element).collect();
    host::store(&mut call.output, elements.into_iter().map(f64::from));
}
