//! How sure a mean is: percentile intervals of the bootstrap.

use crate::selection::Shuffle;

/// Draws of the bootstrap.
const DRAWS: usize = 2000;

/// The mean of a sample, and the interval that holds 95 % of the means of samples drawn from it with replacement. Efron,
/// "Bootstrap methods: another look at the jackknife" (1979). The draws are the same for the same numbers of clips.
pub fn mean_interval(sample: &[f64]) -> Option<(f64, [f64; 2])> {
    if sample.is_empty() {
        return None;
    }
    let (n, mut random) = (sample.len(), Shuffle::new(0));
    let mean = sample.iter().sum::<f64>() / n as f64;
    let draw = |_| (0..n).map(|_| sample[random.below(n)]).sum::<f64>() / n as f64;
    let mut means: Vec<f64> = (0..DRAWS).map(draw).collect();
    means.sort_by(f64::total_cmp);
    Some((mean, [means[DRAWS * 25 / 1000], means[DRAWS * 975 / 1000 - 1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_about_two_standard_errors_wide() {
        let sample: Vec<f64> = (0..100).map(|i| f64::from(i % 10)).collect();
        let (mean, [low, high]) = mean_interval(&sample).expect("a sample");
        assert!((mean - 4.5).abs() < 1e-12);
        // A deviation of 2.87 over ten.
        assert!((mean - low - 0.56).abs() < 0.1 && (high - mean - 0.56).abs() < 0.1, "{low} to {high}");
        assert_eq!(mean_interval(&[3.0]), Some((3.0, [3.0, 3.0])));
        assert_eq!(mean_interval(&[]), None);
    }
}
