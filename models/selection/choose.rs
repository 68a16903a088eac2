//! Which clips of a pool to take.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::thread::Builder;

use super::Shuffle;
use super::scores::{dot, unthreaded};
use crate::error::{Error, Result};

const MODEL: &str = "selection";

/// Rows of one length.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    all: &'a [f32],
    width: usize,
}

impl<'a> Rows<'a> {
    /// Of `width` numbers each.
    ///
    /// # Errors
    /// The numbers are not a whole number of rows.
    pub fn new(all: &'a [f32], width: usize) -> Result<Rows<'a>> {
        if width == 0 || !all.len().is_multiple_of(width) {
            return Err(Error::call(MODEL, format!("{} numbers in rows of {width}", all.len())));
        }
        Ok(Rows { all, width })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len() / self.width
    }

    fn row(&self, i: usize) -> &'a [f32] {
        &self.all[i * self.width..(i + 1) * self.width]
    }
}

/// Places of the pool by score, the best first, ties by place.
pub fn ranked(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order
}

/// Number of clips that a fraction of a pool is: rounded, and 1 at least where the pool has one.
///
/// # Errors
/// A fraction that is not within 0 and 1.
pub fn fraction_of(pool: usize, fraction: f64) -> Result<usize> {
    if !(fraction > 0.0 && fraction <= 1.0) {
        return Err(Error::call(MODEL, format!("a fraction of {fraction}, wanted above 0 and at most 1")));
    }
    Ok(((pool as f64 * fraction).round() as usize).clamp(pool.min(1), pool))
}

/// The clips of an order that are no near-duplicates of one taken before (a cosine above `limit`), up to `count` of them.
pub fn without_duplicates(pool: Rows<'_>, order: &[usize], limit: f32, count: usize) -> Vec<usize> {
    let mut taken: Vec<usize> = Vec::new();
    for candidate in order {
        if taken.len() == count {
            break;
        }
        let row = pool.row(*candidate);
        if taken.iter().all(|t| dot(pool.row(*t), row) <= limit) {
            taken.push(*candidate);
        }
    }
    taken
}

/// A candidate and the gain it had when it was last looked at.
#[derive(PartialEq)]
struct Candidate {
    gain: f64,
    place: usize,
    /// How many were taken when the gain was computed.
    seen: usize,
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        self.gain.total_cmp(&other.gain).then(other.place.cmp(&self.place))
    }
}

/// Up to `count` clips that together cover the real set: greedily, each the one that adds most to the facility location
/// `Σ_r max(0, max_{s taken} cos(r, s))`. Near-duplicates of one taken before (a cosine above `limit`) are passed over.
///
/// Gains only shrink as clips are taken, so that one which is still the greatest after it was computed anew is the greatest of
/// all (Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978). What greed reaches is at
/// least 1 − 1/e of the best (Nemhauser, Wolsey, Fisher, 1978). `step` is told how many are taken.
///
/// # Errors
/// Rows of different lengths, threads that the system refuses, and the errors of `step`.
pub fn covering<E: From<Error>>(
    pool: Rows<'_>,
    real: Rows<'_>,
    count: usize,
    limit: f32,
    threads: usize,
    mut step: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<usize>, E> {
    if pool.width != real.width {
        return Err(Error::call(MODEL, format!("rows of {} and of {}", pool.width, real.width)).into());
    }
    let mut covered = vec![0.0f32; real.count()];
    let gain = |place: usize, covered: &[f32]| -> f64 {
        let row = pool.row(place);
        let more = |(r, c): (usize, &f32)| f64::from((dot(real.row(r), row) - c).max(0.0));
        covered.iter().enumerate().map(more).sum()
    };
    let mut gains = vec![0.0f64; pool.count()];
    let share = gains.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        gains.chunks_mut(share).enumerate().try_for_each(|(i, gains)| {
            let (gain, covered) = (&gain, &covered);
            let work = move || gains.iter_mut().enumerate().for_each(|(j, g)| *g = gain(i * share + j, covered));
            Builder::new().spawn_scoped(scope, work).map(drop)
        })
    })
    .map_err(unthreaded)?;
    let first = gains.into_iter().enumerate().map(|(place, gain)| Candidate { gain, place, seen: 0 });
    let mut heap: BinaryHeap<Candidate> = first.collect();
    let mut taken: Vec<usize> = Vec::new();
    while let Some(best) = heap.pop() {
        if taken.len() == count {
            break;
        }
        if best.seen < taken.len() {
            heap.push(Candidate { gain: gain(best.place, &covered), seen: taken.len(), ..best });
            continue;
        }
        let row = pool.row(best.place);
        if taken.iter().any(|t| dot(pool.row(*t), row) > limit) {
            continue;
        }
        covered.iter_mut().enumerate().for_each(|(r, c)| *c = c.max(dot(real.row(r), row)));
        taken.push(best.place);
        step(taken.len())?;
    }
    Ok(taken)
}

/// A random choice of the same size, to compare with.
pub fn random(pool: usize, count: usize, seed: u64) -> Vec<usize> {
    Shuffle::new(seed).sample(pool, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::unit;

    fn rows(n: usize, width: usize, seed: usize) -> Vec<f32> {
        let at = |i: usize| (((i + 1) * (seed * 7919 + 104_729)) % 1009) as f32 / 504.5 - 0.7;
        (0..n).flat_map(|r| unit(&(0..width).map(|c| at(r * width + c)).collect::<Vec<_>>())).collect()
    }

    #[test]
    fn lazy_greed_is_greed() -> Result<()> {
        let (pool, real) = (rows(60, 6, 1), rows(40, 6, 2));
        let (p, r) = (Rows::new(&pool, 6)?, Rows::new(&real, 6)?);
        let got = covering::<Error>(p, r, 9, 2.0, 2, |_| Ok(()))?;
        let mut covered = [0.0f32; 40];
        let mut want: Vec<usize> = Vec::new();
        for _ in 0..9 {
            let gain = |s: &usize| -> f64 {
                let more = |(i, c): (usize, &f32)| f64::from((dot(r.row(i), p.row(*s)) - c).max(0.0));
                covered.iter().enumerate().map(more).sum()
            };
            let rest = (0..60).filter(|s| !want.contains(s));
            let best = rest.max_by(|a, b| gain(a).total_cmp(&gain(b)).then(b.cmp(a))).expect("some are left");
            covered.iter_mut().enumerate().for_each(|(i, c)| *c = c.max(dot(r.row(i), p.row(best))));
            want.push(best);
        }
        assert_eq!(got, want);
        Ok(())
    }

    #[test]
    fn duplicates_are_passed_over() -> Result<()> {
        let mut pool = rows(5, 8, 3);
        let first = pool[..8].to_vec();
        pool.extend(&first);
        let rows = Rows::new(&pool, 8)?;
        assert_eq!(without_duplicates(rows, &[5, 0, 1], 0.98, 9), [5, 1]);
        assert_eq!(without_duplicates(rows, &[5, 0, 1, 2], 2.0, 3), [5, 0, 1]);
        let all = covering::<Error>(rows, rows, 6, 0.98, 1, |_| Ok(()))?;
        assert!(!(all.contains(&0) && all.contains(&5)));
        Ok(())
    }

    #[test]
    fn ranks_and_fractions() -> Result<()> {
        assert_eq!(ranked(&[0.1, 0.9, 0.9, 0.5]), [1, 2, 3, 0]);
        assert_eq!((fraction_of(10, 0.25)?, fraction_of(10, 0.01)?, fraction_of(0, 0.5)?), (3, 1, 0));
        assert!(fraction_of(10, 0.0).is_err() && fraction_of(10, 1.5).is_err() && fraction_of(1, f64::NAN).is_err());
        assert_eq!(random(9, 4, 1).len(), 4);
        Ok(())
    }
}
