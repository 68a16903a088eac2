//! How like the real set each clip of the pool is.
//!
//! All pairs of 100,000 and 10,000 clips are 0.77 T multiply-adds of width 768 and 4 GB of cosines: they are computed in tiles,
//! of which only each row's best are kept. A row's list does not depend on the tiles, and lists over parts of the real set merge
//! into the list over all of it.

use std::cmp::Ordering;
use std::thread::Builder;

use muybridge_kernels as ops;
use muybridge_runtime::{DType, Device, Graph, HostTensor, Plan, TensorDesc, Weight};

use crate::error::{Error, Result};
use crate::metrics::unit;

const MODEL: &str = "selection";

/// Rows of the pool in a tile.
pub const ROWS: usize = 1024;

/// Rows of the real set in a tile.
pub const COLUMNS: usize = 2048;

/// A clip of the real set and its cosine to a clip of the pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// The cosine.
    pub score: f32,
    /// Its place in the real set.
    pub index: usize,
}

impl Neighbour {
    /// The greater score first, then the smaller index.
    fn order(&self, other: &Neighbour) -> Ordering {
        other.score.total_cmp(&self.score).then(self.index.cmp(&other.index))
    }
}

/// The `k` nearest of the real set for each row of the pool, the nearest first, ties by index. Rows of both have length
/// `width` and are taken as they are; `done` is told how many tiles are done, and of how many.
///
/// # Errors
/// Rows that are no whole number, `k` of 0, threads that the system refuses, the errors of the device, and those of `done`.
pub fn nearest<E: From<Error>>(
    device: &Device,
    pool: &[f32],
    real: &[f32],
    width: usize,
    k: usize,
    mut done: impl FnMut(usize, usize) -> Result<(), E>,
) -> Result<Vec<Vec<Neighbour>>, E> {
    if width == 0 || k == 0 || !pool.len().is_multiple_of(width) || !real.len().is_multiple_of(width) {
        let reason = format!("{} and {} numbers in rows of {width}, {k} neighbours", pool.len(), real.len());
        return Err(Error::call(MODEL, reason).into());
    }
    let mut lists: Vec<Vec<Neighbour>> = vec![Vec::with_capacity(k + 1); pool.len() / width];
    if lists.is_empty() {
        return Ok(lists);
    }
    let tiles = pool.len().div_ceil(ROWS * width) * real.len().div_ceil(COLUMNS * width);
    let mut count = 0;
    for (block, columns) in real.chunks(COLUMNS * width).enumerate() {
        let plan = tile_plan(device, columns, width, ROWS.min(lists.len()))?;
        for (rows, lists) in pool.chunks(ROWS * width).zip(lists.chunks_mut(ROWS)) {
            let cosines = product(&plan, rows, width)?;
            keep(&cosines, columns.len() / width, block * COLUMNS, k, lists, device.caps().threads)?;
            count += 1;
            done(count, tiles)?;
        }
    }
    Ok(lists)
}

/// A plan of `rows · columnsᵀ`.
fn tile_plan(device: &Device, columns: &[f32], width: usize, rows: usize) -> Result<Plan> {
    let mut g = Graph::new();
    let x = g.input("rows", TensorDesc::new([rows, width], DType::F32));
    let w = Weight::owned("columns", HostTensor::new([columns.len() / width, width], columns.to_vec())?);
    let w = g.weight(&w);
    let y = g.node("cosines", ops::Matmul { bias: false, ..Default::default() }, &[x, w])?;
    g.output("cosines", y);
    Ok(Plan::new(&g, device)?)
}

fn product(plan: &Plan, rows: &[f32], width: usize) -> Result<Vec<f32>> {
    let desc = plan.inputs().next().map(|(_, d)| d).ok_or_else(|| Error::call(MODEL, "a plan without operands"))?;
    // The last tile may have fewer rows: the others are zeros, and nobody looks at them.
    let mut whole = rows.to_vec();
    whole.resize(desc.shape.count(), 0.0);
    let results = plan.run_host(&[&HostTensor::new([desc.shape.count() / width, width], whole)?])?;
    results.first().map(HostTensor::to_f32).ok_or_else(|| Error::call(MODEL, "a plan without results"))
}

/// Enters a tile of cosines into the lists of its rows, on so many threads.
fn keep(
    cosines: &[f32],
    columns: usize,
    first: usize,
    k: usize,
    lists: &mut [Vec<Neighbour>],
    threads: usize,
) -> Result<()> {
    let share = lists.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        lists.chunks_mut(share).zip(cosines.chunks(share * columns)).try_for_each(|(lists, cosines)| {
            let rows = lists.iter_mut().zip(cosines.chunks(columns));
            let work = move || rows.for_each(|(list, row)| enter(list, row, first, k));
            Builder::new().spawn_scoped(scope, work).map(drop)
        })
    })
    .map_err(unthreaded)
}

/// The system makes no more threads.
pub(super) fn unthreaded(error: std::io::Error) -> Error {
    Error::call(MODEL, format!("a thread cannot be made: {error}"))
}

fn enter(list: &mut Vec<Neighbour>, row: &[f32], first: usize, k: usize) {
    for (c, scores) in row.chunks(64).enumerate() {
        let least = if list.len() < k { f32::NEG_INFINITY } else { list[k - 1].score };
        // Later columns have greater indices, so a tie never enters. Most stretches hold nothing that does.
        let mut any = false;
        scores.iter().for_each(|s| any |= *s > least);
        if !any && list.len() >= k {
            continue;
        }
        for (i, score) in scores.iter().enumerate() {
            let new = Neighbour { score: *score, index: first + c * 64 + i };
            insert(list, new, k);
        }
    }
}

fn insert(list: &mut Vec<Neighbour>, new: Neighbour, k: usize) {
    if list.len() >= k && list[k - 1].order(&new) != Ordering::Greater {
        return;
    }
    let at = list.partition_point(|n| n.order(&new) != Ordering::Greater);
    list.insert(at, new);
    list.truncate(k);
}

/// The list over a whole real set from the lists over its parts, whose indices are those in the whole.
pub fn merge(parts: &[&[Neighbour]], k: usize) -> Vec<Neighbour> {
    let mut all: Vec<Neighbour> = parts.concat();
    all.sort_by(Neighbour::order);
    all.truncate(k);
    all
}

/// The cosine of each row of the pool to the direction of the mean of the real set.
///
/// # Errors
/// Rows that are no whole number.
pub fn centroid(pool: &[f32], real: &[f32], width: usize) -> Result<Vec<f32>> {
    if width == 0 || !pool.len().is_multiple_of(width) || !real.len().is_multiple_of(width) {
        return Err(Error::call(MODEL, format!("{} and {} numbers in rows of {width}", pool.len(), real.len())));
    }
    let mut sum = vec![0.0f64; width];
    for row in real.chunks(width) {
        sum.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
    }
    let rows = (real.len() / width).max(1) as f64;
    let centre = unit(&sum.iter().map(|s| (s / rows) as f32).collect::<Vec<_>>());
    Ok(pool.chunks(width).map(|row| dot(row, &centre)).collect())
}

/// The mean of a list's scores: of the nearest where it has one, of the k nearest where it has k.
pub fn mean(list: &[Neighbour]) -> f32 {
    let sum: f64 = list.iter().map(|n| f64::from(n.score)).sum();
    (sum / list.len().max(1) as f64) as f32
}

/// `Σ a b` in eight sums that the compiler can keep apart.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a8, b8) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0f32; 8];
    for (a, b) in a8.0.iter().zip(b8.0) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a8.1.iter().zip(b8.1).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of length 1 that have exact ties among them.
    fn rows(n: usize, width: usize, seed: usize) -> Vec<f32> {
        let at = |i: usize| (((i + 1) * (seed * 7919 + 104_729)) % 997) as f32 / 498.5 - 1.0;
        let row = |r: usize| unit(&(0..width).map(|c| at(r % 700 * width + c)).collect::<Vec<_>>());
        (0..n).flat_map(row).collect()
    }

    #[test]
    fn tiles_give_what_brute_force_gives() -> Result<()> {
        let (device, width, k) = (Device::open("cpu")?, 40, 5);
        // More than a tile of each, and neither a whole number of tiles.
        let (pool, real) = (rows(2050, width, 1), rows(2100, width, 2));
        let mut last = (0, 0);
        let got = nearest::<Error>(&device, &pool, &real, width, k, |i, n| {
            last = (i, n);
            Ok(())
        })?;
        assert_eq!(last, (6, 6));
        for (i, (row, got)) in pool.chunks(width).zip(&got).enumerate() {
            let score = |(index, r): (usize, &[f32])| Neighbour { score: dot(row, r), index };
            let mut want: Vec<Neighbour> = real.chunks(width).enumerate().map(score).collect();
            want.sort_by(Neighbour::order);
            for (g, w) in got.iter().zip(&want) {
                assert!((g.score - w.score).abs() < 1e-5, "row {i}: {g:?}, not {w:?}");
            }
            assert_eq!(got.len(), k);
        }
        Ok(())
    }

    #[test]
    fn parts_merge_into_the_whole() -> Result<()> {
        let (device, width, k) = (Device::open("cpu")?, 24, 4);
        let (pool, real) = (rows(90, width, 3), rows(500, width, 4));
        let of = |real: &[f32]| nearest::<Error>(&device, &pool, real, width, k, |_, _| Ok(()));
        let whole = of(&real)?;
        let (first, mut second) = (of(&real[..137 * width])?, of(&real[137 * width..])?);
        second.iter_mut().flatten().for_each(|n| n.index += 137);
        for ((whole, a), b) in whole.iter().zip(&first).zip(&second) {
            assert_eq!(merge(&[a, b], k), *whole);
        }
        // A pool in two parts gives the same lists one after the other.
        let parts = [&pool[..31 * width], &pool[31 * width..]]
            .map(|p| nearest::<Error>(&device, p, &real, width, k, |_, _| Ok(())));
        let [a, b] = parts;
        assert_eq!([a?, b?].concat(), whole);
        Ok(())
    }

    #[test]
    fn ties_go_to_the_smaller_index() {
        let mut list = Vec::new();
        enter(&mut list, &[0.5, 0.7, 0.7, 0.5, 0.7], 10, 2);
        enter(&mut list, &[0.7; 70], 20, 2);
        assert_eq!(list.iter().map(|n| n.index).collect::<Vec<_>>(), [11, 12]);
        assert_eq!(mean(&list), 0.7);
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() -> Result<()> {
        let device = Device::open("cpu")?;
        let run = |pool: &[f32], width, k| nearest::<Error>(&device, pool, &[1.0; 6], width, k, |_, _| Ok(()));
        assert!(run(&[1.0; 5], 3, 1).is_err() && run(&[1.0; 6], 3, 0).is_err() && run(&[1.0; 6], 0, 1).is_err());
        assert_eq!(run(&[], 3, 1)?.len(), 0);
        // More neighbours than there are.
        assert_eq!(run(&[1.0; 3], 3, 9)?[0].len(), 2);
        Ok(())
    }
}
