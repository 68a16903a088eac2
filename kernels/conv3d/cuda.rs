//! CUDA launches.

use muybridge_runtime::{Lowering, Site};

use super::{Conv3d, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &Conv3d, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "simple" => translated(wgsl::lower(op, variant, site), "kernels/conv3d/simple.cu", include_str!("simple.cu")),
        _ => None,
    }
}
