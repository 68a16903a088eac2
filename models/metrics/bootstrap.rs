//! How sure a mean is: percentile intervals of the bootstrap.

use super::eigen::{dot, nuclear_norm};
use super::frechet::Moments;
use crate::error::Error;
use crate::selection::Shuffle;

/// Draws of the bootstrap.
const DRAWS: usize = 2000;

/// And for a distance between sets, each of which takes eigenvalues.
const SET_DRAWS: usize = 200;

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

/// Features of the windows of one clip, real and generated.
pub type Windows<'a> = [&'a [Vec<f32>]; 2];

/// The interval that holds 95 % of the Fréchet distances of as many clips drawn with replacement, both sides of a clip together.
/// Clips that are drawn twice bring sets closer to singular, which raises every distance: the draws are moved so that their mean
/// is `distance`, that of the clips themselves. What the distance owes to the number of clips is not in the interval.
///
/// Nothing where fewer than three clips have windows. `step` is called before each draw.
///
/// # Errors
/// Features of different lengths, and the errors of `step`.
pub fn frechet_interval<E: From<Error>>(
    clips: &[Windows<'_>],
    distance: f64,
    mut step: impl FnMut() -> Result<(), E>,
) -> Result<Option<[f64; 2]>, E> {
    let clips: Vec<&Windows<'_>> = clips.iter().filter(|c| c.iter().all(|side| !side.is_empty())).collect();
    if clips.len() < 3 {
        return Ok(None);
    }
    let width = clips[0][0][0].len();
    let rows = clips.iter().map(|c| c[0].len().max(c[1].len())).sum::<usize>();
    if clips.iter().flat_map(|c| c.iter().flat_map(|side| side.iter())).any(|row| row.len() != width) {
        return Err(Error::call("bootstrap", "features of different lengths").into());
    }
    // Products of rows are less work than products of columns until there are far more rows.
    let products = (rows <= 2 * width).then(|| Products::of(&clips));
    let mut random = Shuffle::new(0);
    let mut distances = Vec::with_capacity(SET_DRAWS);
    for _ in 0..SET_DRAWS {
        step()?;
        let mut times = vec![0usize; clips.len()];
        (0..clips.len()).for_each(|_| times[random.below(clips.len())] += 1);
        // A single clip over and over has no covariance.
        if times.iter().filter(|t| **t > 0).count() < 2 {
            continue;
        }
        distances.push(match &products {
            Some(products) => products.distance(&times),
            None => {
                let side = |i: usize| {
                    let each = clips.iter().zip(&times).flat_map(move |(c, t)| std::iter::repeat_n(c[i], *t));
                    Moments::of(each.flatten().map(Vec::as_slice))
                };
                side(0)?.distance(&side(1)?)?.distance
            }
        });
    }
    distances.sort_by(f64::total_cmp);
    let mean = distances.iter().sum::<f64>() / distances.len() as f64;
    let at = |share: f64| distances[(share * (distances.len() - 1) as f64).round() as usize] - mean + distance;
    Ok(Some([at(0.025), at(0.975)]))
}

/// Inner products of all rows of both sets, from which distances of any choice of them follow: `Tr (S₁ S₂)^½` is the sum of the
/// singular values of `A Bᵀ`, where `S₁ = Aᵀ A` and `S₂ = Bᵀ B`.
struct Products {
    /// The clip of each row, real and generated.
    clip: [Vec<usize>; 2],
    /// Rows of a set with each other, row by row.
    within: [Vec<f64>; 2],
    /// Real rows with generated ones.
    across: Vec<f64>,
}

impl Products {
    fn of(clips: &[&Windows<'_>]) -> Products {
        let place = |side: usize| -> Vec<usize> {
            clips.iter().enumerate().flat_map(|(i, c)| std::iter::repeat_n(i, c[side].len())).collect()
        };
        // Counted from the first row, which keeps the products small.
        let origin = &clips[0][0][0];
        let centred = |row: &Vec<f32>| -> Vec<f64> {
            row.iter().zip(origin).map(|(v, o)| f64::from(*v) - f64::from(*o)).collect()
        };
        let all = |side: usize| -> Vec<Vec<f64>> { clips.iter().flat_map(|c| c[side].iter().map(centred)).collect() };
        let (a, b) = (all(0), all(1));
        let table = |a: &[Vec<f64>], b: &[Vec<f64>]| -> Vec<f64> {
            a.iter().flat_map(|x| b.iter().map(move |y| dot(x, y))).collect()
        };
        Products { clip: [place(0), place(1)], within: [table(&a, &a), table(&b, &b)], across: table(&a, &b) }
    }

    /// The Fréchet distance of the sets in which each clip stands so many times.
    fn distance(&self, times: &[usize]) -> f64 {
        let weights = |side: usize| -> Vec<f64> { self.clip[side].iter().map(|c| times[*c] as f64).collect() };
        let (u, v) = (weights(0), weights(1));
        let (n, m) = (u.iter().sum::<f64>(), v.iter().sum::<f64>());
        // Σ w x·y over a table, for each of its rows.
        let sums = |table: &[f64], w: &[f64]| -> Vec<f64> { table.chunks(w.len()).map(|row| dot(row, w)).collect() };
        let mean = |table: &[f64], u: &[f64], v: &[f64]| {
            dot(&sums(table, v), u) / (u.iter().sum::<f64>() * v.iter().sum::<f64>())
        };
        let [a, b] = &self.within;
        let (aa, bb, ab) = (mean(a, &u, &u), mean(b, &v, &v), mean(&self.across, &u, &v));
        let trace = |table: &[f64], w: &[f64], n: f64, mean: f64| {
            let squares: f64 = w.iter().enumerate().map(|(i, w)| w * table[i * (self.side(table) + 1)]).sum();
            (squares - n * mean) / (n - 1.0)
        };
        let traces = trace(a, &u, n, aa) + trace(b, &v, m, bb);
        let kept = |w: &[f64]| -> Vec<usize> { (0..w.len()).filter(|i| w[*i] > 0.0).collect() };
        let (rows, columns) = (kept(&u), kept(&v));
        let by_row: Vec<f64> = sums(&self.across, &v).iter().map(|s| s / m).collect();
        let by_column: Vec<f64> = columns
            .iter()
            .map(|j| rows.iter().map(|i| u[*i] * self.across[i * v.len() + j]).sum::<f64>() / n)
            .collect();
        let mut middle = Vec::with_capacity(rows.len() * columns.len());
        for i in &rows {
            for (j, by_column) in columns.iter().zip(&by_column) {
                let centred = self.across[i * v.len() + j] - by_row[*i] - by_column + ab;
                middle.push((u[*i] * v[*j]).sqrt() * centred);
            }
        }
        let trace_sqrt = nuclear_norm(&middle, columns.len()) / ((n - 1.0) * (m - 1.0)).sqrt();
        aa + bb - 2.0 * ab + traces - 2.0 * trace_sqrt
    }

    /// Rows of a square table.
    fn side(&self, table: &[f64]) -> usize {
        table.len().isqrt()
    }
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

    /// Clips of one or two windows a side, in directions that `spread` widens.
    fn windows(clips: usize, width: usize, spread: f32) -> Vec<[Vec<Vec<f32>>; 2]> {
        let mut random = Shuffle::new(5);
        let mut row = |shift: f32| -> Vec<f32> {
            (0..width).map(|_| spread * (random.below(2001) as f32 / 1000.0 - 1.0) + shift).collect()
        };
        (0..clips).map(|i| [(0..1 + i % 2).map(|_| row(0.0)).collect(), vec![row(0.5)]]).collect()
    }

    #[test]
    fn products_of_rows_give_the_distance_of_the_moments() {
        let owned = windows(9, 20, 1.0);
        let clips: Vec<Windows<'_>> = owned.iter().map(|[a, b]| [&a[..], &b[..]]).collect();
        let clips: Vec<&Windows<'_>> = clips.iter().collect();
        let products = Products::of(&clips);
        for times in [[1usize; 9], [0, 2, 1, 3, 0, 0, 1, 1, 1]] {
            let side = |i: usize| {
                let each = clips.iter().zip(&times).flat_map(|(c, t)| std::iter::repeat_n(c[i], *t));
                Moments::of(each.flatten().map(Vec::as_slice)).expect("rows")
            };
            let want = side(0).distance(&side(1)).expect("a distance").distance;
            let got = products.distance(&times);
            assert!((got - want).abs() < 1e-6 * want, "{got}, not {want}");
        }
    }

    #[test]
    fn an_interval_lies_around_its_distance_and_widens_with_the_spread() {
        let width_of = |clips: usize, columns: usize, spread: f32| {
            let owned = windows(clips, columns, spread);
            let clips: Vec<Windows<'_>> = owned.iter().map(|[a, b]| [&a[..], &b[..]]).collect();
            let got = frechet_interval::<Error>(&clips, 7.0, || Ok(())).expect("features of one length");
            got.map(|[low, high]| {
                assert!(low < 7.0 && high > 7.0, "{low} to {high}");
                high - low
            })
        };
        let (narrow, wide) = (width_of(12, 30, 0.1), width_of(12, 30, 1.0));
        assert!(narrow < wide, "{narrow:?} and {wide:?}");
        // More rows than columns: by moments.
        assert!(width_of(30, 6, 1.0).is_some_and(|w| w < 7.0));
        assert_eq!(width_of(2, 6, 1.0), None);
    }
}
