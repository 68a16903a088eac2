//! WGSL launches.

use std::ops::Range;

use muybridge_runtime::{DType, Launch, Lowering, Site};

use super::Elementwise;
use crate::wgsl::{Kernel, WIDE, line, pieces};

pub(super) fn lower(op: &Elementwise, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let count = site.output.shape.count() as u64;
    let repeating = op.repeats();
    let weights = matches!(op, Elementwise::Affine | Elementwise::Slope);
    let period = if repeating { site.inputs[1].shape.count() as u64 } else { count };
    let (file, text, lanes) = match variant {
        "vec4" if count.is_multiple_of(4) && period.is_multiple_of(4) => {
            ("kernels/elementwise/vec4.wgsl", include_str!("vec4.wgsl"), 4)
        }
        "simple" => ("kernels/elementwise/simple.wgsl", include_str!("simple.wgsl"), 1),
        _ => return None,
    };
    let kernel = Kernel::new(site, file, text, "elementwise").constant("BLOCK", WIDE).constant("KIND", kind(op));
    let kernel = if let Elementwise::Activate(activation) = op { kernel.activation(*activation) } else { kernel };
    let [second, third] = [1, 2].map(|i| (site.inputs.len() > i).then_some(i));
    let wide = DType::F32;
    let kernel = match lanes {
        4 if weights => {
            kernel.input4("a", 0).weight4("b", second, wide, 0.0).weight4("c", third, wide, 0.0).output4("y")
        }
        _ if weights => kernel.input("a", 0).weight("b", second, wide, 0.0).weight("c", third, wide, 0.0).output("y"),
        // Scales are read one by one.
        4 if repeating => kernel.input4("a", 0).optional4("b", second, 0.0).optional4("c", third, 0.0).output4("y"),
        4 => kernel.input4("a", 0).optional("b", second, 0.0).optional("c", third, 0.0).output4("y"),
        _ => kernel.input("a", 0).optional("b", second, 0.0).optional("c", third, 0.0).output("y"),
    };
    let launches: Vec<Option<Launch>> =
        parts(site, count, period)?.into_iter().map(|part| launch(op, &kernel, part, period, lanes)).collect();
    kernel.lower(launches)
}

/// Factor or lower limit, upper limit.
pub(super) fn factors(op: &Elementwise) -> [f32; 2] {
    match *op {
        Elementwise::AddScaled(factor) | Elementwise::Scale(factor) => [factor, 0.0],
        Elementwise::Clamp(low, high) => [low, high],
        _ => [0.0, 0.0],
    }
}

/// `KIND` of the sources.
pub(super) fn kind(op: &Elementwise) -> u32 {
    match op {
        Elementwise::AddScaled(_) => 0,
        Elementwise::Multiply => 1,
        Elementwise::Scale(_) => 2,
        Elementwise::ScaleBy(_) => 3,
        Elementwise::Activate(_) => 4,
        Elementwise::Clamp(..) => 5,
        Elementwise::Cast(_) => 6,
        Elementwise::Affine => 7,
        Elementwise::Slope => 8,
    }
}

/// Ranges of the result, one per launch. A second operand that does not fit one binding is cut with the result, so that no
/// range may cross one of its repetitions.
fn parts(site: &Site<'_>, count: u64, period: u64) -> Option<Vec<Range<u64>>> {
    let sizes: Vec<u64> = site.inputs.iter().chain([&site.output]).map(|d| d.dtype.size() as u64).collect();
    let second = site.inputs.get(1).map_or(0, |d| d.bytes());
    if second <= site.caps.max_binding {
        return pieces(site.caps, count, &sizes, 4);
    }
    let each = pieces(site.caps, period, &sizes, 4)?;
    let shifted = |k: u64| each.iter().map(move |r| k * period + r.start..k * period + r.end);
    Some((0..count / period.max(1)).flat_map(shifted).collect())
}

fn launch(op: &Elementwise, kernel: &Kernel<'_>, part: Range<u64>, period: u64, lanes: u64) -> Option<Launch> {
    let mut kernel = kernel.clone();
    let count = (part.end - part.start) / lanes;
    let (mut phase, mut first_b) = (part.start % period, 0);
    if kernel.too_large("b") {
        first_b = kernel.cut("b", phase..phase + (part.end - part.start));
        phase = 0;
    }
    let (first_a, first_y) = (kernel.cut("a", part.clone()), kernel.cut("y", part));
    let [low, high] = factors(op);
    let index = if let Elementwise::ScaleBy(index) = op { *index as u32 } else { 0 };
    let quads = |n: u64| (n / lanes) as u32;
    let params = [
        count as u32,
        quads(phase),
        quads(period),
        quads(u64::from(first_a)),
        quads(u64::from(first_b)),
        quads(u64::from(first_y)),
        low.to_bits(),
        high.to_bits(),
        index,
    ];
    kernel.launch(line(kernel.caps(), count.div_ceil(u64::from(WIDE))), [WIDE, 1, 1], &params)
}
