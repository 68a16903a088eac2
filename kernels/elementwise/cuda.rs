//! CUDA launches.

use muybridge_runtime::{Lowering, Site};

use super::{Elementwise, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &Elementwise, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "simple" => {
            translated(wgsl::lower(op, variant, site), "kernels/elementwise/simple.cu", include_str!("simple.cu"))
        }
        _ => None,
    }
}
