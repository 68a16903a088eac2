//! WGSL launches.

use muybridge_runtime::{Lowering, Site};

use super::{Pool, Pooling};
use crate::wgsl::{Kernel, WIDE, line, pieces};

/// Extents whose differences stay within 31 bits.
const EXTENT: usize = 1 << 20;

pub(super) fn lower(op: &Pool, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs[0].shape);
    if variant != "simple" || e.input.iter().any(|&n| n >= EXTENT) {
        return None;
    }
    let kind = match op.pooling {
        Pooling::Max => 0,
        Pooling::Mean => 1,
        Pooling::MeanInside => 2,
    };
    let kernel = Kernel::new(site, "kernels/pool/simple.wgsl", include_str!("simple.wgsl"), "pool")
        .constant("BLOCK", WIDE)
        .constant("KIND", kind)
        .constant("KERNEL_FRAMES", op.kernel[0] as u32)
        .constant("KERNEL_HEIGHT", op.kernel[1] as u32)
        .constant("KERNEL_WIDTH", op.kernel[2] as u32)
        .input("x", 0)
        .output("y");
    let [from, to] = [e.input, e.output].map(|n| (n.iter().product::<usize>() * e.channels) as u64);
    let size = site.output.dtype.size() as u64;
    let parts = pieces(site.caps, e.batch as u64, &[from * size, to * size], 1)?;
    let launches: Vec<_> = parts
        .into_iter()
        .map(|items| {
            let mut kernel = kernel.clone();
            let first_x = kernel.cut("x", items.start * from..items.end * from);
            let first_y = kernel.cut("y", items.start * to..items.end * to);
            let count = (items.end - items.start) * to;
            let mut params = vec![count as u32, e.channels as u32];
            let end = [0, 1, 2].map(|i| e.input[i] + op.after[i]);
            params.extend([e.input, e.output, op.stride, op.before, end].concat().into_iter().map(|n| n as u32));
            params.extend([first_x, first_y]);
            let params: [u32; 19] = params.try_into().ok()?;
            kernel.launch(line(site.caps, count.div_ceil(u64::from(WIDE))), [WIDE, 1, 1], &params)
        })
        .collect();
    kernel.lower(launches)
}
