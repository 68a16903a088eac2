//! WGSL launches.

use muybridge_runtime::{Lowering, Site};

use super::LayerNorm;

pub(super) fn lower(_: &LayerNorm, _: &str, _: &Site<'_>) -> Option<Lowering> {
    None
}
