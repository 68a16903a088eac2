//! CUDA launches.

use muybridge_runtime::{Lowering, Site};

use super::{LayerNorm, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &LayerNorm, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    // A subgroup of WGSL is a warp.
    let (sibling, file, text) = match variant {
        "warp" => ("subgroup", "kernels/layer_norm/warp.cu", include_str!("warp.cu")),
        "simple" => ("simple", "kernels/layer_norm/simple.cu", include_str!("simple.cu")),
        _ => return None,
    };
    translated(wgsl::lower(op, sibling, site), file, text)
}
