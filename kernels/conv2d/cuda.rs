//! CUDA launches.

use muybridge_runtime::{DType, Lowering, Site};

use super::{Conv2d, Extents, wgsl};
use crate::cuda::{Stream, Tile, moments, tensor_cores, tf32_cores, translated};
use crate::wgsl::Kernel;

const MMA: &str = concat!(
    include_str!("../tile.cu"),
    include_str!("../stream.cu"),
    include_str!("../moments.cu"),
    "#line 1 \"kernels/conv2d/mma.cu\"\n",
    include_str!("mma.cu")
);

/// The same kernel over the main loop of warpgroups.
const WGMMA: &str = concat!(
    include_str!("../hopper.cu"),
    include_str!("../warpgroup.cu"),
    include_str!("../stream.cu"),
    include_str!("../moments.cu"),
    "#line 1 \"kernels/conv2d/mma.cu\"\n",
    include_str!("mma.cu")
);

pub(super) fn lower(op: &Conv2d, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "mma" | "split_k" | "stream_k" | "tf32" => translated(mma(op, variant, site), "kernels/conv2d/mma.cu", MMA),
        "wgmma" | "tma" => translated(mma(op, variant, site), "kernels/conv2d/mma.cu", WGMMA),
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
        "tma" if op.stride == 1 && op.upsample.is_none() => Tile::boxed(site)?,
        "tma" => return None,
        "tf32" => sliced.unwrap_or(Tile::at(site, 1, pixels, e.out_channels)),
        _ => Tile::at(site, 1, pixels, e.out_channels),
    };
    let area = e.output[0] * e.output[1];
    let [item_tiles, tiles_n] = tile.count(area as u32, e.out_channels as u32);
    let across = rectangle(&tile, e.output);
    let [tiles_x, tiles_y] = rectangles(&tile, e.output, across);
    // A tile with moments is of one item, and so is a rectangle.
    let tiles_m = match (tile.is_boxed(), site.summarise) {
        (true, _) => e.batch as u32 * tiles_x * tiles_y,
        (false, true) => e.batch as u32 * item_tiles,
        (false, false) => tile.count(pixels as u32, 0)[0],
    };
    let tiles = u64::from(tiles_m) * u64::from(tiles_n);
    let stream = match variant {
        "stream_k" => Some(tile.stream(site, tiles, length)?),
        _ => None,
    };
    let kernel = operands(op, site, &e, &tile).constant("TILE_W", across);
    let [rows, columns] = tile.extent();
    let summary = moments([e.batch, item_tiles as usize, rows as usize, e.out_channels]);
    let kernel = if tile.is_boxed() { kernel.absent("moments", 0.0) } else { kernel.summary("moments", summary) };
    let ([c1, c2], [h, w]) = (e.channels, e.source);
    let of_box = [across, rows / across, 1];
    let kernel = tile.map(kernel, "x_map", "x", [c1, w, h, e.batch], of_box);
    let kernel = match c2 {
        0 => kernel.missing("x2_map"),
        _ => tile.map(kernel, "x2_map", "x2", [c2, w, h, e.batch], of_box),
    };
    let kernel = tile.map(kernel, "w_map", "w", [length, e.out_channels, 1, 1], [columns, 1, 1]);
    let kernel = Stream::bind(stream, kernel);
    let [[height, width], [source_height, source_width], [input_height, input_width]] = [e.output, e.source, e.input];
    let extents = [height, width, source_height, source_width, input_height, input_width];
    let mut params = vec![pixels as u32, e.out_channels as u32, tiles_m];
    params.extend(extents.into_iter().chain(e.channels).map(|n| n as u32));
    params.extend([op.shift.unwrap_or(0) as u32, e.shift_stride as u32]);
    params.extend([tiles_x, tiles_y]);
    let params: [u32; 15] = params.try_into().ok()?;
    let launch = tile.launch(&kernel, site, stream.map_or(tiles, |s| s.blocks), &params);
    kernel.lower([launch])
}

/// The kernel with all operands that every variant has.
fn operands<'a>(op: &Conv2d, site: &'a Site<'a>, e: &Extents, tile: &Tile) -> Kernel<'a> {
    let (dtype, w) = (site.output.dtype, op.weight_index());
    tile.kernel(site, "kernels/conv2d/mma.cu", "conv2d")
        .constant("KERNEL_HEIGHT", op.kernel[0] as u32)
        .constant("KERNEL_WIDTH", op.kernel[1] as u32)
        .constant("STRIDE", op.stride as u32)
        .constant("PAD_TOP", op.padding[0] as u32)
        .constant("PAD_LEFT", op.padding[1] as u32)
        .constant("RESIZED", op.upsample.is_some())
        .constant("SUMMED", site.summarise && !tile.is_boxed())
        .constant("EVEN", e.out_channels.is_multiple_of(2))
        .activation(op.activation)
        .weight("x", Some(0), dtype, 0.0)
        // Without a second source, the first again, of which nothing is read.
        .weight("x2", Some(usize::from(op.two_sources)), dtype, 0.0)
        .prepared("w", w, wgsl::channels_last(site.inputs[w], dtype), 1)
        .weight("bias", op.bias_index(), DType::F32, 0.0)
        .weight("shift", op.shift_index(), dtype, 0.0)
        .weight("residual", op.residual_index(), dtype, 0.0)
        .output("y")
}

/// Width of the rectangles of a tile's rows that cover a map with the fewest: the widest of them.
fn rectangle(tile: &Tile, output: [usize; 2]) -> u32 {
    let count = |w: &u32| rectangles(tile, output, *w).iter().product::<u32>();
    [128, 64, 32, 16, 8].into_iter().min_by_key(count).unwrap_or(16)
}

/// Rectangles of this width along width and height of a map.
fn rectangles(tile: &Tile, [height, width]: [usize; 2], across: u32) -> [u32; 2] {
    let [rows, _] = tile.extent();
    [(width as u32).div_ceil(across), (height as u32).div_ceil((rows / across).max(1))]
}
