//! WGSL launches.

use muybridge_runtime::{DType, Lowering, Site};

use super::UnitDistance;
use crate::wgsl::{Kernel, WIDE, line};

pub(super) fn lower(op: &UnitDistance, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    if variant != "simple" {
        return None;
    }
    let pixels = site.output.shape.count() as u64;
    let kernel = Kernel::new(site, "kernels/unit_distance/simple.wgsl", include_str!("simple.wgsl"), "unit_distance")
        .constant("BLOCK", WIDE)
        .input("x", 0)
        .weight("w", Some(1), DType::F32, 0.0)
        .output("y");
    let params = [pixels as u32, site.inputs[0].shape.last() as u32, op.eps.to_bits()];
    let launch = kernel.launch(line(site.caps, pixels.div_ceil(u64::from(WIDE))), [WIDE, 1, 1], &params);
    kernel.lower([launch])
}
