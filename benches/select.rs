//! Times the search for the nearest real clips, in turns with the bare `gemm` crate multiplying the same tiles.
//!
//! The machine may be shared, so a time alone says little: read the ratio, which is gemm's time over ours. Random directions
//! stand for embeddings; the pool comes in slices, so that both see the same weather.
//!
//!     cargo bench --bench select -- [rows of the pool] [rows of the real set] [width]

#[path = "../kernels/examples/cpu_bench/roof.rs"]
mod roof;

use std::time::Instant;

use muybridge::metrics::unit;
use muybridge::selection::Shuffle;
use muybridge::selection::scores::{COLUMNS, ROWS, nearest};
use muybridge::{Device, Error, Result};
use roof::Roof;

/// Rows of the pool between two changes of turn, and neighbours of each.
const SLICE: usize = 8 * ROWS;
const K: usize = 5;

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let at = |i: usize, default: usize| numbers.get(i).copied().unwrap_or(default);
    if let Err(e) = compare(at(0, 20_000), at(1, 10_000), at(2, 768)) {
        eprintln!("{e}");
        std::process::exit(2);
    }
}

fn compare(pool: usize, real: usize, width: usize) -> Result<()> {
    let device = Device::open("cpu")?;
    let mut roof = Roof::of(device.caps().threads, [ROWS, COLUMNS, width]);
    let (pool, real) = (directions(pool, width, 1), directions(real, width, 2));
    let gflop = |rows: usize| 2.0 * (rows * (real.len() / width) * width) as f64 / 1e9;
    let (mut ours, mut gemm, mut work) = (0.0, 0.0, 0.0);
    // The first products wake threads and grow buffers on both sides.
    roof.seconds_per_gflop();
    nearest::<Error>(&device, &pool[..width], &real, width, K, |_, _| Ok(()))?;
    println!("{:>8} {:>12} {:>12} {:>8}", "rows", "GFLOP/s", "gemm", "ratio");
    for slice in pool.chunks(SLICE * width) {
        let gflop = gflop(slice.len() / width);
        let started = Instant::now();
        nearest::<Error>(&device, slice, &real, width, K, |_, _| Ok(()))?;
        let seconds = started.elapsed().as_secs_f64();
        let products = (gflop / roof.gflop()).ceil() as usize;
        let peer = gflop * (0..products).map(|_| roof.seconds_per_gflop()).sum::<f64>() / products as f64;
        let rows = slice.len() / width;
        println!("{rows:8} {:12.1} {:12.1} {:8.2}", gflop / seconds, gflop / peer, peer / seconds);
        (ours, gemm, work) = (ours + seconds, gemm + peer, work + gflop);
    }
    let rows = pool.len() / width;
    println!("{rows:8} {:12.1} {:12.1} {:8.2}  in all, {ours:.2} s", work / ours, work / gemm, gemm / ours);
    Ok(())
}

/// Rows of length 1 in random directions.
fn directions(count: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut random = Shuffle::new(seed);
    let mut number = || random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0;
    (0..count).flat_map(|_| unit(&(0..width).map(|_| number()).collect::<Vec<_>>())).collect()
}
