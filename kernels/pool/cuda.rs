//! CUDA launches.

use muybridge_runtime::{Lowering, Site};

use super::{Pool, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &Pool, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "simple" => translated(wgsl::lower(op, variant, site), "kernels/pool/simple.cu", include_str!("simple.cu")),
        _ => None,
    }
}
