//! CUDA launches.

use muybridge_runtime::{Lowering, Site};

use super::{LayerNorm, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &LayerNorm, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "simple" => {
            translated(wgsl::lower(op, variant, site), "kernels/layer_norm/simple.cu", include_str!("simple.cu"))
        }
        _ => None,
    }
}
