//! CUDA launches.

use muybridge_runtime::{Lowering, Site};

use super::{TimestepEmbedding, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &TimestepEmbedding, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "simple" => translated(
            wgsl::lower(op, variant, site),
            "kernels/timestep_embedding/simple.cu",
            include_str!("simple.cu"),
        ),
        _ => None,
    }
}
