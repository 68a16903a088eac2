//! What the CUDA lowerings of all ops share.
//!
//! A launch is the same data in both kernel languages: the same operands in the same order, the same geometry, the same bytes
//! of parameters. So a CUDA text that is the translation of a WGSL text is lowered as that one is, and [`translated`] puts the
//! text in its place. Kernels that only CUDA has build their launches with [`Kernel`](crate::wgsl::Kernel) themselves.

use muybridge_runtime::{Code, Lowering};

const PRELUDE: &str = include_str!("prelude.cu");

/// Bytes of parameters that every driver since CUDA 12.0 takes.
const MAX_PARAMS: usize = 4096;

/// The same launches with this CUDA text, whose path in the repository is `file`. `None` where parameters are too large.
pub(crate) fn translated(lowering: Option<Lowering>, file: &'static str, text: &'static str) -> Option<Lowering> {
    let mut lowering = lowering?;
    for launch in &mut lowering.launches {
        let Code::Kernel(source) = &mut launch.code else { return None };
        // Operands are parameters too: one address each.
        if launch.params.len() + 8 * launch.args.len() > MAX_PARAMS {
            return None;
        }
        (source.file, source.text, source.prelude) = (file, text, PRELUDE);
    }
    Some(lowering)
}
