//! Repeated times: their middle, their spread, and ratios with their uncertainty.

use serde::{Deserialize, Serialize};

/// Seconds of repeated runs, in the order in which they were taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sample(pub Vec<f64>);

/// Makes the median absolute deviation of a normal distribution its standard deviation: 1 / Φ⁻¹(3/4).
const MAD_TO_SIGMA: f64 = 1.4826;

/// Middle of numbers; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]),
    }
}

impl Sample {
    /// Middle of the times.
    pub fn median(&self) -> f64 {
        median(&self.0)
    }

    /// The shortest time.
    pub fn best(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Spread of the times in seconds: a standard deviation that outliers do not move, from the median absolute deviation.
    pub fn spread(&self) -> f64 {
        let middle = self.median();
        let away: Vec<f64> = self.0.iter().map(|v| (v - middle).abs()).collect();
        MAD_TO_SIGMA * median(&away)
    }

    /// [`Sample::spread`] as a part of the median.
    pub fn relative_spread(&self) -> f64 {
        let middle = self.median();
        if middle > 0.0 { self.spread() / middle } else { 0.0 }
    }

    /// Uncertainty of the median: of the mean of a normal distribution by √(π/2) larger.
    pub fn uncertainty(&self) -> f64 {
        1.2533 * self.spread() / (self.0.len().max(1) as f64).sqrt()
    }

    /// Whether anything was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sums of samples, run by run: as many as the shortest has.
    pub fn sum<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Sample {
        let mut total: Option<Vec<f64>> = None;
        for sample in samples {
            total = Some(match total {
                None => sample.0.clone(),
                Some(sums) => sums.iter().zip(&sample.0).map(|(a, b)| a + b).collect(),
            });
        }
        Sample(total.unwrap_or_default())
    }
}

/// How many times as long something takes, give or take one standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The later median by the earlier one.
    pub ratio: f64,
    /// Its standard deviation, by propagation of the medians' relative uncertainties.
    pub uncertainty: f64,
}

impl Ratio {
    /// Of two samples; `None` where one is empty or takes no time.
    pub fn of(before: &Sample, after: &Sample) -> Option<Ratio> {
        let (a, b) = (before.median(), after.median());
        if a <= 0.0 || b <= 0.0 || !a.is_finite() || !b.is_finite() {
            return None;
        }
        let ratio = b / a;
        let parts = (before.uncertainty() / a).powi(2) + (after.uncertainty() / b).powi(2);
        Some(Ratio { ratio, uncertainty: ratio * parts.sqrt() })
    }

    /// Of two samples whose runs were taken in turn: the median of the ratios round by round, so that what slows a whole round
    /// down falls out. `None` where there is no round.
    pub fn paired(before: &Sample, after: &Sample) -> Option<Ratio> {
        let rounds = before.0.iter().zip(&after.0).filter(|(b, a)| **b > 0.0 && **a > 0.0);
        let ratios = Sample(rounds.map(|(b, a)| a / b).collect());
        (!ratios.is_empty()).then(|| Ratio { ratio: ratios.median(), uncertainty: ratios.uncertainty() })
    }

    /// Whether it differs from 1 by more than twice its uncertainty, and by more than one per cent.
    pub fn is_clear(&self) -> bool {
        (self.ratio - 1.0).abs() > (2.0 * self.uncertainty).max(0.01)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_spread_ignore_an_outlier() {
        let calm = Sample(vec![1.0, 1.01, 0.99, 1.0, 1.02]);
        let disturbed = Sample(vec![1.0, 1.01, 0.99, 1.0, 9.0]);
        assert_eq!((calm.median(), disturbed.median()), (1.0, 1.0));
        assert!(disturbed.spread() < 0.02 && calm.spread() > 0.0);
        assert_eq!(Sample(vec![1.0, 2.0]).median(), 1.5);
        assert_eq!(Sample::default().median(), 0.0);
    }

    #[test]
    fn ratios_carry_both_uncertainties() {
        let steady = |v: f64| Sample(vec![v * 0.99, v, v * 1.01, v, v * 1.005]);
        let slower = Ratio::of(&steady(1.0), &steady(1.2)).expect("both take time");
        assert!((slower.ratio - 1.2).abs() < 1e-9 && slower.is_clear());
        let same = Ratio::of(&steady(1.0), &steady(1.003)).expect("both take time");
        assert!(!same.is_clear());
        let noisy = Sample(vec![0.7, 1.0, 1.3, 0.8, 1.25]);
        let unsure = Ratio::of(&steady(1.0), &noisy).expect("both take time");
        assert!(unsure.uncertainty > 5.0 * slower.uncertainty);
        assert!(Ratio::of(&Sample::default(), &steady(1.0)).is_none());
    }

    #[test]
    fn drift_falls_out_of_ratios_in_turn() {
        // The machine slows down to a quarter of its speed; the kernel takes 0.8 of the other's time all along.
        let drift = [1.0, 1.1, 1.4, 2.0, 3.0, 4.0, 4.0];
        let before = Sample(drift.to_vec());
        let after = Sample(
            drift.iter().zip([0.01, -0.01, 0.0, 0.005, -0.005, 0.01, 0.0]).map(|(d, e)| d * (0.8 + e)).collect(),
        );
        let paired = Ratio::paired(&before, &after).expect("there are rounds");
        assert!((paired.ratio - 0.8).abs() < 0.01 && paired.is_clear(), "{paired:?}");
        assert!(!Ratio::of(&before, &after).expect("both take time").is_clear());
        assert!(Ratio::paired(&before, &Sample::default()).is_none());
    }

    #[test]
    fn sums_go_run_by_run() {
        let sum = Sample::sum([&Sample(vec![1.0, 2.0, 3.0]), &Sample(vec![10.0, 20.0])]);
        assert_eq!(sum.0, [11.0, 22.0]);
    }
}
