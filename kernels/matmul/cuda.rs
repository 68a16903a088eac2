//! CUDA launches.

use std::sync::Arc;

use muybridge_runtime::{DType, HostTensor, Lowering, Prepare, Site, TensorDesc};

use super::{Matmul, wgsl};
use crate::cuda::{Stream, Tile, tensor_cores, tf32_cores, translated};
use crate::wgsl::{Kernel, line};

const MMA: &str = concat!(
    include_str!("../tile.cu"),
    include_str!("../stream.cu"),
    "#line 1 \"kernels/matmul/mma.cu\"\n",
    include_str!("mma.cu")
);

/// The same kernel over the main loop of warpgroups.
const WGMMA: &str = concat!(
    include_str!("../hopper.cu"),
    include_str!("../warpgroup.cu"),
    include_str!("../stream.cu"),
    "#line 1 \"kernels/matmul/mma.cu\"\n",
    include_str!("mma.cu")
);

pub(super) fn lower(op: &Matmul, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    match variant {
        "few_rows" => translated(few_rows(op, site), "kernels/matmul/few_rows.cu", include_str!("few_rows.cu")),
        "mma" | "split_k" | "stream_k" | "tf32" => translated(mma(op, variant, site), "kernels/matmul/mma.cu", MMA),
        "wgmma" | "tma" => translated(mma(op, variant, site), "kernels/matmul/mma.cu", WGMMA),
        "simple" => translated(wgsl::lower(op, variant, site), "kernels/matmul/simple.cu", include_str!("simple.cu")),
        _ => None,
    }
}

fn mma(op: &Matmul, variant: &str, site: &Site<'_>) -> Option<Lowering> {
    let e = op.extents(site.inputs);
    let dtype = site.output.dtype;
    let columns = if op.geglu { 2 * e.n } else { e.n };
    // The interleaving of gates is a layout of a weight.
    let weights = [1, 2].iter().take(1 + usize::from(op.bias)).all(|&i| site.is_weight[i]);
    let gates = !op.geglu || (weights && !op.batched && e.n.is_multiple_of(8));
    let served = if variant == "tf32" { tf32_cores(site) } else { tensor_cores(site) };
    if !served || e.k == 0 || !e.k.is_multiple_of(16 / dtype.size()) || !gates {
        return None;
    }
    let sliced = Tile::sliced(site, e.batch, e.m, columns, e.k);
    let tile = match variant {
        "split_k" => sliced?,
        "wgmma" => Tile::of_warpgroups(site)?,
        "tma" => Tile::boxed(site)?,
        "tf32" => sliced.unwrap_or(Tile::at(site, e.batch, e.m, columns)),
        _ => Tile::at(site, e.batch, e.m, columns),
    };
    let kernel = tile
        .kernel(site, "kernels/matmul/mma.cu", "matmul")
        .constant("BATCHED", op.batched)
        .constant("GATED", op.geglu)
        .constant("EVEN", e.n.is_multiple_of(2))
        .activation(op.activation)
        .weight("a", Some(0), dtype, 0.0);
    let kernel = if op.geglu {
        let kernel = kernel.prepared("w", 1, interleaved(site.inputs[1], dtype), 1);
        match op.bias {
            true => kernel.prepared("bias", 2, interleaved(site.inputs[2], DType::F32), 1),
            false => kernel.optional("bias", None, 0.0),
        }
    } else {
        kernel.weight("w", Some(1), dtype, 0.0).weight("bias", op.bias.then_some(2), DType::F32, 0.0)
    };
    let kernel = kernel.weight("residual", op.residual_index(), dtype, 0.0).output("y");
    let layers = if op.batched { e.batch } else { 1 };
    let [rows, across] = tile.extent();
    let kernel = tile.map(kernel, "a_map", "a", [e.k, e.m, e.batch, 1], [rows, 1, 1]);
    let kernel = tile.map(kernel, "w_map", "w", [e.k, columns, layers, 1], [across, 1, 1]);
    let [items, m, n, k, columns] = [e.batch, e.m, e.n, e.k, columns].map(|v| v as u32);
    let [tiles_m, tiles_n] = tile.count(m, columns);
    let tiles = u64::from(items) * u64::from(tiles_m) * u64::from(tiles_n);
    let stream = match variant {
        "stream_k" => Some(tile.stream(site, tiles, e.k)?),
        _ => None,
    };
    let kernel = Stream::bind(stream, kernel);
    let blocks = stream.map_or(tiles, |s| s.blocks);
    let launch = tile.launch(&kernel, site, blocks, &[items, m, n, k, columns, tiles_m, tiles_n]);
    kernel.lower([launch])
}

/// Most rows that are summed beside each other in registers.
const FEW: usize = 16;

fn few_rows(op: &Matmul, site: &Site<'_>) -> Option<Lowering> {
    const WARPS: u32 = 4;
    let (e, dtype) = (op.extents(site.inputs), site.output.dtype);
    let shared = (e.m * e.k * dtype.size()) as u64;
    let fits = e.k > 0 && e.k.is_multiple_of(8) && shared <= u64::from(site.caps.max_shared);
    if !fits || e.m > FEW || e.m == 0 || (!site.is_weight[1] && site.inputs[1].dtype != dtype) {
        return None;
    }
    let kernel = Kernel::new(site, "kernels/matmul/few_rows.cu", "", "matmul")
        .constant("ROWS", e.m as u32)
        .constant("WARPS", WARPS)
        .constant("BATCHED", op.batched)
        .constant("GATED", op.geglu)
        .activation(op.activation)
        .weight("a", Some(0), dtype, 0.0)
        .weight("w", Some(1), dtype, 0.0)
        .weight("bias", op.bias.then_some(2), DType::F32, 0.0)
        .weight("residual", op.residual_index(), dtype, 0.0)
        .output("y");
    let pairs = if op.geglu { e.n } else { e.n.div_ceil(2) } as u32;
    let spans = pairs.div_ceil(WARPS);
    let params = [e.batch as u32, e.n as u32, e.k as u32, pairs, spans];
    let blocks = line(site.caps, e.batch as u64 * u64::from(spans));
    let mut launch = kernel.launch(blocks, [32 * WARPS, 1, 1], &params)?;
    launch.shared = shared as u32;
    kernel.lower([Some(launch)])
}

/// A weight or bias of `2N` rows, values then gates, with eight rows of values and the eight of their gates in turn: a thread
/// that holds a value in its accumulators then holds its gate too.
fn interleaved(stored: TensorDesc, dtype: DType) -> Prepare {
    let rows = stored.shape[0];
    Prepare {
        layout: format!("geglu_interleaved.{dtype}"),
        desc: TensorDesc { dtype, ..stored },
        make: Arc::new(move |view| {
            let whole = view.to_host()?.convert(dtype);
            let bytes = whole.bytes();
            let row = bytes.len() / rows.max(1);
            let from = |i: usize| i / 16 * 8 + i % 8 + if i % 16 < 8 { 0 } else { rows / 2 };
            let order: Vec<u8> = (0..rows).flat_map(|i| bytes[from(i) * row..][..row].iter().copied()).collect();
            HostTensor::from_bytes(whole.desc(), &order)
        }),
    }
}
