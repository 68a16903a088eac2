//! CUDA launches.

use muybridge_runtime::{Lowering, Site};

use super::{GroupNorm, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &GroupNorm, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "simple" => {
            translated(wgsl::lower(op, variant, site), "kernels/group_norm/simple.cu", include_str!("simple.cu"))
        }
        _ => None,
    }
}
