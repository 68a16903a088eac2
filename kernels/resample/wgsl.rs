//! WGSL launches.

use muybridge_runtime::{Lowering, Site};

use super::Resample;

pub(super) fn lower(_: &Resample, _: &str, _: &Site<'_>) -> Option<Lowering> {
    None
}
