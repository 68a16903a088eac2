//! CUDA launches.

use muybridge_runtime::{Lowering, Site};

use super::{UnitDistance, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &UnitDistance, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "simple" => {
            translated(wgsl::lower(op, variant, site), "kernels/unit_distance/simple.cu", include_str!("simple.cu"))
        }
        _ => None,
    }
}
