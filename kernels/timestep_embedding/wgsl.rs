//! WGSL launches.

use muybridge_runtime::{Lowering, Site};

use super::TimestepEmbedding;

pub(super) fn lower(_: &TimestepEmbedding, _: &str, _: &Site<'_>) -> Option<Lowering> {
    None
}
