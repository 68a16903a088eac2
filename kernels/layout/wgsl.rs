//! WGSL launches.

use muybridge_runtime::{Lowering, Site};

use super::Layout;

pub(super) fn lower(_: &Layout, _: &str, _: &Site<'_>) -> Option<Lowering> {
    None
}
