//! CPU kernels.

use muybridge_runtime::{Lowering, Site};

use super::Matmul;

pub(super) fn lower(_: &Matmul, _: &Site<'_>) -> Option<Lowering> {
    None
}
