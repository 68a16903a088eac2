//! Choosing synthetic clips that stand for real ones, by the likeness of their embeddings.
//!
//! The rules are ours, stated where they stand; papers say that clips were chosen by CLIP similarity, and rarely how. A clip's
//! embedding is the direction of the mean of its frames' directions ([`of_frames`]); scores ([`scores`]) compare the pool with
//! the real set; [`choose`] picks; what was picked is judged by distances between sets ([`crate::metrics::frechet`]).

pub mod choose;
mod embeddings;
pub mod map;
pub mod scores;

pub use embeddings::Embeddings;

use crate::metrics::unit;

/// The embedding of a clip from those of its frames: each brought to length 1, their mean, and that brought to length 1.
pub fn of_frames(frames: &[Vec<f32>]) -> Vec<f32> {
    let width = frames.first().map_or(0, Vec::len);
    let mut sum = vec![0.0f64; width];
    for frame in frames {
        sum.iter_mut().zip(unit(frame)).for_each(|(s, v)| *s += f64::from(v));
    }
    let count = frames.len().max(1) as f64;
    unit(&sum.iter().map(|s| (s / count) as f32).collect::<Vec<_>>())
}

/// Which of `total` frames to look at: the middles of `count` equal stretches, or all where there are no more.
pub fn spread(total: usize, count: usize) -> Vec<usize> {
    let count = count.min(total);
    (0..count).map(|i| (2 * i + 1) * total / (2 * count)).collect()
}

/// Numbers in an order that a seed fixes (SplitMix64).
#[derive(Clone, Debug)]
pub struct Shuffle(u64);

impl Shuffle {
    /// Started from a seed.
    pub fn new(seed: u64) -> Shuffle {
        Shuffle(seed)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        ((u128::from(z) * n as u128) >> 64) as usize
    }

    /// `count` different numbers below `n`, or all of them, in random order.
    pub fn sample(&mut self, n: usize, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        let count = count.min(n);
        for i in 0..count {
            let j = i + self.below(n - i);
            all.swap(i, j);
        }
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_spread_evenly() {
        assert_eq!(spread(16, 4), [2, 6, 10, 14]);
        assert_eq!(spread(3, 8), [0, 1, 2]);
        assert_eq!(spread(0, 8), Vec::<usize>::new());
        assert_eq!(spread(9, 1), [4]);
    }

    #[test]
    fn a_clip_is_the_direction_of_its_frames() {
        let e = of_frames(&[vec![2.0, 0.0], vec![0.0, 0.5]]);
        assert!((e[0] - 0.5f32.sqrt()).abs() < 1e-6 && (e[1] - 0.5f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn samples_are_different_numbers() {
        let mut drawn = Shuffle::new(7).sample(50, 50);
        assert_ne!(drawn, (0..50).collect::<Vec<_>>());
        drawn.sort_unstable();
        assert_eq!(drawn, (0..50).collect::<Vec<_>>());
        assert_eq!(Shuffle::new(1).sample(5, 2), Shuffle::new(1).sample(5, 2));
    }
}
