//! CPU kernels.

use muybridge_runtime::{Lowering, Site};

use super::Conv2d;

pub(super) fn lower(_: &Conv2d, _: &str, _: &Site<'_>) -> Option<Lowering> {
    None
}
