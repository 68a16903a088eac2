//! WGSL launches.

use muybridge_runtime::{Lowering, Site};

use super::Matmul;

pub(super) fn lower(_: &Matmul, _: &str, _: &Site<'_>) -> Option<Lowering> {
    None
}
