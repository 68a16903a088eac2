//! The formulas in plain loops: specification, oracle, and the CPU's kernel (resizing is never where time goes).

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::{Mode, Resample};
use crate::host;

pub(super) fn lower(op: &Resample, site: &Site<'_>) -> Lowering {
    let op = *op;
    Lowering::host("resample:reference", site.inputs.len(), 0, Arc::new(move |call| run(&op, call)))
}

/// Source cells of output cell `i` and their weights.
fn taps(mode: Mode, i: usize, from: usize, to: usize) -> Vec<(usize, f64)> {
    match mode {
        Mode::Nearest => vec![((i * from / to).min(from - 1), 1.0)],
        Mode::Bilinear => {
            let centre = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
            let low = (centre.floor() as usize).min(from - 1);
            let part = centre - low as f64;
            vec![(low, 1.0 - part), ((low + 1).min(from - 1), part)]
        }
        Mode::Mean => {
            let (first, end) = (i * from / to, ((i + 1) * from).div_ceil(to));
            (first..end).map(|j| (j, 1.0 / (end - first) as f64)).collect()
        }
    }
}

fn run(op: &Resample, mut call: HostCall<'_>) {
    let s = call.inputs[0].desc.shape;
    let (b, h, w, c) = (s[0], s[1], s[2], s[3]);
    let x = host::values(&call.inputs[0]);
    let [oh, ow] = op.size;
    let rows: Vec<_> = (0..oh).map(|i| taps(op.mode, i, h, oh)).collect();
    let cols: Vec<_> = (0..ow).map(|i| taps(op.mode, i, w, ow)).collect();
    let element = |i: usize| -> f64 {
        let (n, y, x_, ch) = (i / (oh * ow * c), i / (ow * c) % oh, i / c % ow, i % c);
        let mut sum = 0.0;
        for (r, wr) in &rows[y] {
            for (q, wq) in &cols[x_] {
                sum += wr * wq * f64::from(x[((n * h + r) * w + q) * c + ch]);
            }
        }
        sum
    };
    host::store(&mut call.output, (0..b * oh * ow * c).map(element));
}
