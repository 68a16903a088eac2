//! CUDA launches.

use muybridge_runtime::{DType, Lowering, Site};

use super::{Elementwise, wgsl};
use crate::cuda::translated;
use crate::wgsl::{Kernel, WIDE, line};

pub(super) fn lower(op: &Elementwise, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let (file, text, lowering) = match variant {
        "vec8" => ("kernels/elementwise/vec8.cu", include_str!("vec8.cu"), vec8(op, site)),
        "simple" => ("kernels/elementwise/simple.cu", include_str!("simple.cu"), wgsl::lower(op, variant, site)),
        _ => return None,
    };
    translated(lowering, file, text)
}

fn vec8(op: &Elementwise, site: &Site<'_>) -> Option<Lowering> {
    let count = site.output.shape.count() as u64;
    let period = if op.repeats() { site.inputs[1].shape.count() as u64 } else { count };
    if !count.is_multiple_of(8) || !period.is_multiple_of(8) || period == 0 {
        return None;
    }
    // Without a second or third operand it is the first again, of which nothing is read then.
    let [second, third] = [1, 2].map(|i| if i < site.inputs.len() { i } else { 0 });
    let weights = matches!(op, Elementwise::Affine | Elementwise::Slope);
    if weights && [second, third].iter().any(|i| *i > 0 && !site.is_weight[*i]) {
        return None;
    }
    let stored = |i: usize| if weights && i > 0 { DType::F32 } else { site.inputs[i].dtype };
    let kernel = Kernel::new(site, "kernels/elementwise/vec8.cu", "", "elementwise")
        .constant("BLOCK", WIDE)
        .constant("KIND", wgsl::kind(op))
        .constant("a_elem", site.inputs[0].dtype)
        .constant("b_elem", stored(second))
        .constant("c_elem", stored(third))
        .input("a", 0)
        .weight("b", Some(second), stored(second), 0.0)
        .weight("c", Some(third), stored(third), 0.0)
        .output("y");
    let kernel = if let Elementwise::Activate(activation) = op { kernel.activation(*activation) } else { kernel };
    let [low, high] = wgsl::factors(op);
    let index = if let Elementwise::ScaleBy(index) = op { *index as u32 } else { 0 };
    let (octets, period) = (u32::try_from(count / 8).ok()?, (period / 8) as u32);
    let params = [octets, period, low.to_bits(), high.to_bits(), index];
    let launch = kernel.launch(line(site.caps, u64::from(octets.div_ceil(WIDE))), [WIDE, 1, 1], &params);
    kernel.lower([launch])
}
