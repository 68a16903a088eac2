//! CUDA launches.

use muybridge_runtime::{DType, Lowering, Site};

use super::{LayerNorm, bias_rows, wgsl};
use crate::cuda::translated;
use crate::wgsl::{Kernel, line};

pub(super) fn lower(op: &LayerNorm, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let (file, text, lowering) = match variant {
        "vec8" => ("kernels/layer_norm/vec8.cu", include_str!("vec8.cu"), vec8(op, site)),
        // A subgroup of WGSL is a warp.
        "warp" => ("kernels/layer_norm/warp.cu", include_str!("warp.cu"), wgsl::lower(op, "subgroup", site)),
        "simple" => ("kernels/layer_norm/simple.cu", include_str!("simple.cu"), wgsl::lower(op, variant, site)),
        _ => return None,
    };
    translated(lowering, file, text)
}

/// Rows of a block.
const ROWS: u32 = 8;

fn vec8(op: &LayerNorm, site: &Site<'_>) -> Option<Lowering> {
    let (rows, columns) = (site.output.shape.rows(), site.output.shape.last());
    if !columns.is_multiple_of(8) || columns > 2048 {
        return None;
    }
    let kernel = Kernel::new(site, "kernels/layer_norm/vec8.cu", "", "layer_norm")
        .constant("COLUMNS", columns as u32)
        .constant("ROWS", ROWS)
        .constant("EPS", op.eps)
        .input("x", 0)
        .weight("weight", Some(1), DType::F32, 1.0)
        .weight("bias", Some(2), DType::F32, 0.0)
        .output("y");
    // Activations in place of weights may be of another type.
    if [1, 2].iter().any(|&i| !site.is_weight[i] && site.inputs[i].dtype != DType::F32) {
        return None;
    }
    let blocks = line(site.caps, (rows as u64).div_ceil(u64::from(ROWS)));
    let [frames, positions] = bias_rows(site.inputs);
    let params = [rows, positions, frames].map(|n| n as u32);
    let launch = kernel.launch(blocks, [32 * ROWS, 1, 1], &params);
    kernel.lower([launch])
}
