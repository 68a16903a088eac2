//! CUDA launches.

use muybridge_runtime::{Lowering, Site};

use super::{Resample, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &Resample, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "simple" => translated(wgsl::lower(op, variant, site), "kernels/resample/simple.cu", include_str!("simple.cu")),
        _ => None,
    }
}
