//! CUDA launches.

use muybridge_runtime::{Lowering, Site};

use super::{Attention, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &Attention, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "simple" => {
            translated(wgsl::lower(op, variant, site), "kernels/attention/simple.cu", include_str!("simple.cu"))
        }
        _ => None,
    }
}
