//! WGSL launches.

use muybridge_runtime::{Lowering, Site};

use super::GroupNorm;

pub(super) fn lower(_: &GroupNorm, _: &str, _: &Site<'_>) -> Option<Lowering> {
    None
}
