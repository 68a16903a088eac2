//! WGSL launches.

use std::sync::Arc;

use muybridge_runtime::{DType, Lowering, Prepare, Site, TensorDesc};

use super::Conv3d;
use crate::wgsl::{Kernel, TILE_BLOCK, TILE_COLUMNS, WIDE, line, pieces, tile_rows};

const SIMPLE: &str = concat!(include_str!("operands.wgsl"), include_str!("simple.wgsl"));
const TILED: &str = concat!(include_str!("../tile.wgsl"), include_str!("operands.wgsl"), include_str!("tiled.wgsl"));

pub(super) fn lower(op: &Conv3d, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    let (dtype, size) = (site.output.dtype, site.output.dtype.size() as u64);
    if !site.is_weight[1] {
        return None;
    }
    let [from, to] =
        [(e.input, e.channels), (e.output, e.out_channels)].map(|(n, c)| (n.iter().product::<usize>() * c) as u64);
    let parts = pieces(site.caps, e.batch as u64, &[from * size, to * size], 1)?;
    let columns = e.out_channels as u64;
    let cells = |items: u64| items * e.output.iter().product::<usize>() as u64;
    let (file, text) = match variant {
        "tiled" => ("kernels/conv3d/tiled.wgsl", TILED),
        "simple" => ("kernels/conv3d/simple.wgsl", SIMPLE),
        _ => return None,
    };
    let first = parts.first()?;
    let rows = tile_rows(site, cells(first.end - first.start), columns);
    let lanes = if variant == "tiled" && e.channels.is_multiple_of(4) { 4 } else { 1 };
    let kernel = Kernel::new(site, file, text, "conv3d")
        .constant("KERNEL_FRAMES", op.kernel[0] as u32)
        .constant("KERNEL_HEIGHT", op.kernel[1] as u32)
        .constant("KERNEL_WIDTH", op.kernel[2] as u32)
        .activation(op.activation);
    let kernel = match variant {
        "tiled" => kernel.constant("ROWS", rows as u32).constant("RAGGED", lanes == 1),
        _ => kernel.constant("BLOCK", WIDE),
    };
    let kernel = if lanes == 4 { kernel.input4("x", 0) } else { kernel.input("x", 0) };
    let kernel = kernel
        .prepared("w", 1, channels_last(site.inputs[1], dtype), lanes)
        .weight("bias", op.bias.then_some(2), DType::F32, 0.0)
        .output("y");
    let launches: Vec<_> = parts
        .into_iter()
        .map(|items| {
            let mut kernel = kernel.clone();
            let first_x = kernel.cut("x", items.start * from..items.end * from);
            let first_y = kernel.cut("y", items.start * to..items.end * to);
            let cells = cells(items.end - items.start);
            let mut params = vec![cells as u32, e.channels as u32, e.out_channels as u32];
            params.extend([e.input, e.output, op.stride, op.before].concat().into_iter().map(|n| n as u32));
            params.extend([first_x, first_y]);
            let params: [u32; 17] = params.try_into().ok()?;
            let (groups, block) = match variant {
                "tiled" => (cells.div_ceil(8 * rows) * columns.div_ceil(TILE_COLUMNS), TILE_BLOCK),
                _ => ((cells * columns).div_ceil(u64::from(WIDE)), WIDE),
            };
            kernel.launch(line(site.caps, groups), [block, 1, 1], &params)
        })
        .collect();
    kernel.lower(launches)
}

/// A weight `[Cout, C, KF, KH, KW]` as `[Cout, KF, KH, KW, C]`: the order in which a filter meets a clip.
fn channels_last(stored: TensorDesc, dtype: DType) -> Prepare {
    let [cout, cin, kf, kh, kw] = [0, 1, 2, 3, 4].map(|i| stored.shape[i]);
    Prepare {
        layout: format!("ofhwi.{dtype}"),
        desc: TensorDesc::new([cout, kf, kh, kw, cin], dtype),
        make: Arc::new(move |view| view.to_host()?.convert(dtype).permute(&[0, 2, 3, 4, 1])),
    }
}
