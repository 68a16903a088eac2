//! WGSL launches.

use muybridge_runtime::{Lowering, Site};

use super::TimestepEmbedding;
use crate::wgsl::{Kernel, WIDE, line};

/// Bytes of parameters that every device takes.
const PARAMS: usize = 16 << 10;

pub(super) fn lower(op: &TimestepEmbedding, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    if variant != "simple" {
        return None;
    }
    let half = op.dim / 2;
    // As the reference computes them, to the last bit.
    let frequency = |i: usize| (-op.period.ln() * i as f32 / (half as f32 - op.freq_shift)).exp();
    let mut params = vec![site.inputs[0].shape.count() as u32, op.dim as u32, half as u32, 0];
    params.extend((0..half.next_multiple_of(4)).map(|i| if i < half { frequency(i).to_bits() } else { 0 }));
    let params: Vec<u8> = bytemuck::cast_slice(&params).to_vec();
    if params.len() > PARAMS {
        return None;
    }
    let file = "kernels/timestep_embedding/simple.wgsl";
    let kernel = Kernel::new(site, file, include_str!("simple.wgsl"), "timestep_embedding")
        .constant("BLOCK", WIDE)
        .constant("QUADS", half.div_ceil(4) as u32)
        .constant("COSINE_FIRST", op.cosine_first)
        .input("t", 0)
        .output("y");
    let groups = (site.output.shape.count() as u64).div_ceil(u64::from(WIDE));
    let launch = kernel.launch_bytes(line(site.caps, groups), [WIDE, 1, 1], params);
    kernel.lower([launch])
}
