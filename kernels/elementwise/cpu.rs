//! CPU kernels.

use muybridge_runtime::{Lowering, Site};

use super::Elementwise;

pub(super) fn lower(_: &Elementwise, _: &Site<'_>) -> Option<Lowering> {
    None
}
