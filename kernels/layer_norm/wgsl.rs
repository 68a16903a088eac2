//! WGSL launches.

use muybridge_runtime::{DType, Lowering, Site};

use super::{LayerNorm, bias_rows};
use crate::wgsl::{Kernel, WIDE, line, pieces};

const WORKGROUP: &str = concat!(include_str!("../total.wgsl"), include_str!("workgroup.wgsl"));

pub(super) fn lower(op: &LayerNorm, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let x = site.inputs[0];
    let (rows, columns) = (x.shape.rows() as u64, x.shape.last() as u64);
    let [frames, positions] = bias_rows(site.inputs).map(|n| n as u32);
    // Rows of a workgroup, and its invocations.
    let (file, text, height, block) = match variant {
        "simple" => ("kernels/layer_norm/simple.wgsl", include_str!("simple.wgsl"), 64, 64),
        "workgroup" => {
            let block = (columns as u32).next_power_of_two().clamp(32, WIDE);
            ("kernels/layer_norm/workgroup.wgsl", WORKGROUP, 1, block)
        }
        "subgroup" => {
            // A row for each subgroup, even if all are as small as they may be.
            let (smallest, _) = site.caps.subgroups?;
            ("kernels/layer_norm/subgroup.wgsl", include_str!("subgroup.wgsl"), WIDE / smallest.clamp(1, 64), WIDE)
        }
        _ => return None,
    };
    let kernel = Kernel::new(site, file, text, "layer_norm")
        .constant("BLOCK", block)
        .constant("ROWS", height)
        .constant("EPS", op.eps)
        .input("x", 0)
        .weight("weight", Some(1), DType::F32, 1.0)
        .weight("bias", Some(2), DType::F32, 0.0)
        .output("y");
    let parts = pieces(site.caps, rows, &[columns * x.dtype.size() as u64], 1)?;
    let launches: Vec<_> = parts
        .into_iter()
        .map(|part| {
            let mut kernel = kernel.clone();
            let elements = part.start * columns..part.end * columns;
            let [first_x, first_y] = ["x", "y"].map(|name| kernel.cut(name, elements.clone()));
            let count = part.end - part.start;
            let params = [count as u32, columns as u32, first_x, first_y, part.start as u32, positions, frames];
            kernel.launch(line(site.caps, count.div_ceil(u64::from(height))), [block, 1, 1], &params)
        })
        .collect();
    kernel.lower(launches)
}
