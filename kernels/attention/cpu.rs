//! CPU kernels.

use muybridge_runtime::{Lowering, Site};

use super::Attention;

pub(super) fn lower(_: &Attention, _: &Site<'_>) -> Option<Lowering> {
    None
}
