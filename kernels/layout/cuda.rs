//! CUDA launches.

use muybridge_runtime::{Lowering, Site};

use super::{Layout, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &Layout, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "simple" => translated(wgsl::lower(op, variant, site), "kernels/layout/simple.cu", include_str!("simple.cu")),
        _ => None,
    }
}
