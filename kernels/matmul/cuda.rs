//! CUDA launches.

use muybridge_runtime::{Lowering, Site};

use super::{Matmul, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &Matmul, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "simple" => translated(wgsl::lower(op, variant, site), "kernels/matmul/simple.cu", include_str!("simple.cu")),
        _ => None,
    }
}
