//! Distances between sets of features: Fréchet's (of Gaussians with the sets' moments) and the kernel's.
//!
//! Dowson, Landau, "The Fréchet distance between multivariate normal distributions" (1982); Heusel et al. (2017) and
//! Unterthiner et al. (2018) made it the metric of pictures and of clips. Bińkowski et al., "Demystifying MMD GANs" (2018).

use super::eigen::{dot, symmetric, times_transposed, transpose};
use crate::error::{Error, Result};

const MODEL: &str = "Fréchet distance";

/// Mean and covariance of a set, gathered row by row.
#[derive(Clone, Debug)]
pub struct Moments {
    rows: usize,
    /// Everything is counted from the first row, which keeps the sums small.
    origin: Vec<f32>,
    sum: Vec<f64>,
    /// Σ d dᵀ, its lower triangle.
    products: Vec<f64>,
}

/// The distance and its two parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frechet {
    /// ‖μ₁ − μ₂‖².
    pub mean_term: f64,
    /// Tr (S₁ S₂)^½, 0 where a set has a single row.
    pub trace_sqrt: f64,
    /// `mean_term + Tr S₁ + Tr S₂ − 2 · trace_sqrt`, or `mean_term` alone where a set has a single row.
    pub distance: f64,
}

impl Moments {
    /// Of no rows yet, which will be `width` wide.
    pub fn new(width: usize) -> Moments {
        Moments { rows: 0, origin: Vec::new(), sum: vec![0.0; width], products: vec![0.0; width * width] }
    }

    /// Of all these rows.
    ///
    /// # Errors
    /// Rows of different lengths, or none.
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a [f32]>) -> Result<Moments> {
        let mut rows = rows.into_iter().peekable();
        let width = rows.peek().map(|r| r.len()).ok_or_else(|| Error::call(MODEL, "a set without rows"))?;
        let mut moments = Moments::new(width);
        rows.try_for_each(|row| moments.add(row))?;
        Ok(moments)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// One row more.
    ///
    /// # Errors
    /// A row of another length, or with a number that is not finite.
    pub fn add(&mut self, row: &[f32]) -> Result<()> {
        let width = self.sum.len();
        if row.len() != width || row.iter().any(|v| !v.is_finite()) {
            return Err(Error::call(MODEL, format!("a row of {} numbers, wanted {width} finite ones", row.len())));
        }
        if self.rows == 0 {
            self.origin = row.to_vec();
        }
        let d: Vec<f64> = row.iter().zip(&self.origin).map(|(v, o)| f64::from(*v) - f64::from(*o)).collect();
        for (i, di) in d.iter().enumerate() {
            self.sum[i] += di;
            let line = &mut self.products[i * width..=i * width + i];
            line.iter_mut().zip(&d).for_each(|(p, dj)| *p += di * dj);
        }
        self.rows += 1;
        Ok(())
    }

    fn mean(&self) -> Vec<f64> {
        let n = self.rows as f64;
        self.sum.iter().zip(&self.origin).map(|(s, o)| s / n + f64::from(*o)).collect()
    }

    /// The covariance over n − 1.
    fn covariance(&self) -> Vec<f64> {
        let (n, width) = (self.rows as f64, self.sum.len());
        let at = |k: usize| {
            let (i, j) = ((k / width).max(k % width), (k / width).min(k % width));
            (self.products[i * width + j] - self.sum[i] * self.sum[j] / n) / (n - 1.0)
        };
        (0..width * width).map(at).collect()
    }

    /// The distance to another set.
    ///
    /// `Tr (S₁ S₂)^½` is the sum of the roots of the eigenvalues of `S₁^½ S₂ S₁^½`, which is symmetric: the same number, without
    /// a root of a matrix that may have none when the sets are smaller than the features are wide.
    ///
    /// # Errors
    /// Sets of different widths, or an empty one.
    pub fn distance(&self, other: &Moments) -> Result<Frechet> {
        let width = self.sum.len();
        if width != other.sum.len() || width == 0 || self.rows == 0 || other.rows == 0 {
            let sets = format!("{} rows of {width} and {} of {}", self.rows, other.rows, other.sum.len());
            return Err(Error::call(MODEL, sets));
        }
        let mean_term = self.mean().iter().zip(other.mean()).map(|(a, b)| (a - b).powi(2)).sum();
        if self.rows == 1 || other.rows == 1 {
            return Ok(Frechet { mean_term, trace_sqrt: 0.0, distance: mean_term });
        }
        let (s1, s2) = (self.covariance(), other.covariance());
        let trace = |s: &[f64]| (0..width).map(|i| s[i * width + i]).sum::<f64>();
        let traces = trace(&s1) + trace(&s2);
        let not_finite = || Error::call(MODEL, "moments that are not finite");
        let (values, vectors) = symmetric(s1, width, true).ok_or_else(not_finite)?;
        // Vᵀ S₂ V between the roots: what S₁^½ S₂ S₁^½ is in the eigenvectors' own axes.
        let product = times_transposed(&vectors, &s2, width);
        let mut middle = times_transposed(&product, &vectors, width);
        let roots: Vec<f64> = values.iter().map(|v| v.max(0.0).sqrt()).collect();
        middle.iter_mut().enumerate().for_each(|(k, v)| *v *= roots[k / width] * roots[k % width]);
        let flipped = transpose(&middle, width);
        middle.iter_mut().zip(flipped).for_each(|(v, f)| *v = 0.5 * (*v + f));
        let (values, _) = symmetric(middle, width, false).ok_or_else(not_finite)?;
        // What rounding leaves of a zero is no eigenvalue: its root would be far larger than it.
        let least = values.iter().cloned().fold(0.0, f64::max) * f64::EPSILON * width as f64;
        let trace_sqrt = values.iter().filter(|v| **v > least).map(|v| v.sqrt()).sum();
        Ok(Frechet { mean_term, trace_sqrt, distance: mean_term + traces - 2.0 * trace_sqrt })
    }
}

/// The unbiased squared maximum mean discrepancy with the kernel `(x·y / d + 1)³`, as the kernel inception distance has it.
///
/// # Errors
/// Fewer than two rows on a side, or rows of different lengths.
pub fn polynomial_mmd(a: &[&[f32]], b: &[&[f32]]) -> Result<f64> {
    let width = a.first().map_or(0, |r| r.len());
    if a.len() < 2 || b.len() < 2 || width == 0 || a.iter().chain(b).any(|r| r.len() != width) {
        let sets = format!("{} and {} rows, wanted two at least, of one length", a.len(), b.len());
        return Err(Error::call("MMD", sets));
    }
    let wide =
        |rows: &[&[f32]]| -> Vec<Vec<f64>> { rows.iter().map(|r| r.iter().map(|v| f64::from(*v)).collect()).collect() };
    let (a, b) = (wide(a), wide(b));
    let kernel = |x: &[f64], y: &[f64]| (dot(x, y) / width as f64 + 1.0).powi(3);
    let within = |rows: &[Vec<f64>]| {
        let pairs = (0..rows.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
        let sum: f64 = pairs.map(|(i, j)| kernel(&rows[i], &rows[j])).sum();
        2.0 * sum / (rows.len() * (rows.len() - 1)) as f64
    };
    let across: f64 = a.iter().flat_map(|x| b.iter().map(move |y| kernel(x, y))).sum();
    Ok(within(&a) + within(&b) - 2.0 * across / (a.len() * b.len()) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, width: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut random = crate::selection::Shuffle::new(seed);
        let mut row = || (0..width).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).collect();
        (0..n).map(|_| row()).collect()
    }

    fn moments(rows: &[Vec<f32>]) -> Moments {
        Moments::of(rows.iter().map(Vec::as_slice)).expect("rows of one length")
    }

    #[test]
    fn a_set_is_at_no_distance_from_itself() -> Result<()> {
        // Fewer rows than columns: both covariances are singular.
        for (n, width) in [(40, 6), (5, 12)] {
            let set = moments(&rows(n, width, 1));
            assert!(set.distance(&set)?.distance.abs() < 1e-6);
        }
        Ok(())
    }

    #[test]
    fn scaled_sets_have_the_distance_of_their_deviations() -> Result<()> {
        // N(μ, S) and N(μ, 4 S): Tr (S + 4 S − 2 · 2 S) = Tr S, where the means agree.
        let one = rows(30, 5, 3);
        let mean: Vec<f32> = (0..5).map(|c| one.iter().map(|r| r[c]).sum::<f32>() / 30.0).collect();
        let two: Vec<Vec<f32>> =
            one.iter().map(|r| r.iter().zip(&mean).map(|(v, m)| m + 2.0 * (v - m)).collect()).collect();
        let (a, b) = (moments(&one), moments(&two));
        let trace: f64 = (0..5).map(|i| a.covariance()[i * 6]).sum();
        let d = a.distance(&b)?;
        assert!((d.distance - trace).abs() < 1e-5 * trace, "{d:?}, wanted {trace}");
        assert!(d.mean_term < 1e-10);
        Ok(())
    }

    #[test]
    fn a_single_row_has_only_a_mean() -> Result<()> {
        let (a, b) = (moments(&[vec![0.0, 3.0]]), moments(&[vec![4.0, 0.0]]));
        assert_eq!(a.distance(&b)?.distance, 25.0);
        assert!(a.distance(&moments(&[vec![1.0]])).is_err());
        assert!(Moments::of(std::iter::empty::<&[f32]>()).is_err());
        assert!(Moments::new(1).add(&[f32::NAN]).is_err());
        Ok(())
    }

    #[test]
    fn the_kernel_distance_tells_sets_apart() -> Result<()> {
        let (a, b) = (rows(20, 4, 1), rows(20, 4, 2));
        let far: Vec<Vec<f32>> = b.iter().map(|r| r.iter().map(|v| v + 3.0).collect()).collect();
        let mmd = |a: &[Vec<f32>], b: &[Vec<f32>]| {
            let [a, b] = [a, b].map(|rows| rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
            polynomial_mmd(&a, &b)
        };
        assert!(mmd(&a, &b)?.abs() < 0.3);
        assert!(mmd(&a, &far)? > 1.0);
        assert!(mmd(&a[..1], &b).is_err());
        Ok(())
    }
}
