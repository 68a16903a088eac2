//! CUDA launches.

use muybridge_runtime::source::Constant;
use muybridge_runtime::{Code, Lowering, Site};

use super::{GroupNorm, wgsl};
use crate::cuda::translated;

pub(super) fn lower(op: &GroupNorm, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let (file, text) = match variant {
        "one_pass" => ("kernels/group_norm/one_pass.cu", include_str!("one_pass.cu")),
        "simple" => ("kernels/group_norm/simple.cu", include_str!("simple.cu")),
        _ => return None,
    };
    let mut lowering = translated(wgsl::lower(op, variant, site), file, text)?;
    for launch in &mut lowering.launches {
        launch.shared = shared_bytes(&launch.code);
    }
    Some(lowering)
}

/// What WGSL declares as an array of CAPACITY numbers is dynamic shared memory here, of which a block may have more.
fn shared_bytes(code: &Code) -> u32 {
    let Code::Kernel(source) = code else { return 0 };
    let capacity = source.constants.iter().find(|(name, _)| *name == "CAPACITY");
    if let Some((_, Constant::U32(elements))) = capacity { 4 * elements } else { 0 }
}
