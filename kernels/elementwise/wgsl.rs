//! WGSL launches.

use muybridge_runtime::{Lowering, Site};

use super::Elementwise;

pub(super) fn lower(_: &Elementwise, _: &str, _: &Site<'_>) -> Option<Lowering> {
    None
}
