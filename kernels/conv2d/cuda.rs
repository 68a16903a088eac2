//! CUDA launches.

use muybridge_runtime::{DType, Lowering, Site};

use super::{Conv2d, wgsl};
use crate::cuda::{Tile, tensor_cores, tf32_cores, translated};

const MMA: &str = concat!(include_str!("../tile.cu"), "#line 1 \"kernels/conv2d/mma.cu\"\n", include_str!("mma.cu"));

/// The same kernel over the main loop of warpgroups.
const WGMMA: &str = concat!(
    include_str!("../hopper.cu"),
    include_str!("../warpgroup.cu"),
    "#line 1 \"kernels/conv2d/mma.cu\"\n",
    include_str!("mma.cu")
);

pub(super) fn lower(op: &Conv2d, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "mma" | "split_k" | "tf32" => translated(mma(op, variant, site), "kernels/conv2d/mma.cu", MMA),
        "wgmma" => translated(mma(op, variant, site), "kernels/conv2d/mma.cu", WGMMA),
        "simple" => translated(wgsl::lower(op, variant, site), "kernels/conv2d/simple.cu", include_str!("simple.cu")),
        _ => None,
    }
}

fn mma(op: &Conv2d, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    let (dtype, w) = (site.output.dtype, op.weight_index());
    let chunks = e.channels.iter().all(|c| c.is_multiple_of(16 / dtype.size())) && e.channels[0] > 0;
    let served = if variant == "tf32" { tf32_cores(site) } else { tensor_cores(site) };
    if !served || !chunks || !site.is_weight[w] {
        return None;
    }
    let pixels = e.batch * e.output[0] * e.output[1];
    let length = op.kernel[0] * op.kernel[1] * (e.channels[0] + e.channels[1]);
    let sliced = Tile::sliced(site, 1, pixels, e.out_channels, length);
    let tile = match variant {
        "split_k" => sliced?,
        "wgmma" => Tile::of_warpgroups(site)?,
        "tf32" => sliced.unwrap_or(Tile::at(site, 1, pixels, e.out_channels)),
        _ => Tile::at(site, 1, pixels, e.out_channels),
    };
    let kernel = tile
        .kernel(site, "kernels/conv2d/mma.cu", "conv2d")
        .constant("KERNEL_HEIGHT", op.kernel[0] as u32)
        .constant("KERNEL_WIDTH", op.kernel[1] as u32)
        .constant("STRIDE", op.stride as u32)
        .constant("PAD_TOP", op.padding[0] as u32)
        .constant("PAD_LEFT", op.padding[1] as u32)
        .constant("RESIZED", op.upsample.is_some())
        .constant("EVEN", e.out_channels.is_multiple_of(2))
        .activation(op.activation)
        .weight("x", Some(0), dtype, 0.0)
        // Without a second source, the first again, of which nothing is read.
        .weight("x2", Some(usize::from(op.two_sources)), dtype, 0.0)
        .prepared("w", w, wgsl::channels_last(site.inputs[w], dtype), 1)
        .weight("bias", op.bias_index(), DType::F32, 0.0)
        .weight("shift", op.shift_index(), dtype, 0.0)
        .weight("residual", op.residual_index(), dtype, 0.0)
        .output("y");
    let [tiles_m, tiles_n] = tile.count(pixels as u32, e.out_channels as u32);
    let [[height, width], [source_height, source_width], [input_height, input_width]] = [e.output, e.source, e.input];
    let extents = [height, width, source_height, source_width, input_height, input_width];
    let mut params = vec![pixels as u32, e.out_channels as u32, tiles_m];
    params.extend(extents.into_iter().chain(e.channels).map(|n| n as u32));
    params.extend([op.shift.unwrap_or(0) as u32, e.shift_stride as u32]);
    let params: [u32; 13] = params.try_into().ok()?;
    let launch = tile.launch(&kernel, site, u64::from(tiles_m) * u64::from(tiles_n), &params);
    kernel.lower([launch])
}
