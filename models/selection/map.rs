//! A plane on which sets of embeddings can be looked at: their two directions of greatest variance.

use super::scores::dot;
use crate::metrics::unit;

/// Rounds of orthogonal iteration; a picture needs no more.
const ROUNDS: usize = 40;

/// Coordinates of every row of several sets in the plane of the two greatest principal components of all rows together.
pub fn plane(sets: &[&[f32]], width: usize) -> Vec<Vec<[f32; 2]>> {
    let rows = || sets.iter().flat_map(|s| s.chunks(width.max(1)));
    let count = rows().count().max(1);
    let mut mean = vec![0.0f64; width];
    rows().for_each(|row| mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / count as f64));
    let mean: Vec<f32> = mean.iter().map(|m| *m as f32).collect();
    let start = |axis: usize| {
        unit(&(0..width).map(|c| if (c + axis).is_multiple_of(2) { 1.0 } else { -0.5 }).collect::<Vec<_>>())
    };
    let mut axes = [start(0), start(1)];
    let centred = |row: &[f32]| row.iter().zip(&mean).map(|(v, m)| v - m).collect::<Vec<f32>>();
    for _ in 0..ROUNDS {
        let mut next = [vec![0.0f32; width], vec![0.0f32; width]];
        for row in rows().map(centred) {
            for (axis, next) in axes.iter().zip(&mut next) {
                let along = dot(&row, axis);
                next.iter_mut().zip(&row).for_each(|(n, v)| *n += along * v);
            }
        }
        let [first, second] = next.map(|axis| unit(&axis));
        let along = dot(&first, &second);
        let rest: Vec<f32> = second.iter().zip(&first).map(|(s, f)| s - along * f).collect();
        axes = [first, unit(&rest)];
    }
    let place = |row: &[f32]| {
        let row = centred(row);
        [dot(&row, &axes[0]), dot(&row, &axes[1])]
    };
    sets.iter().map(|s| s.chunks(width.max(1)).map(place).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_variance_lies_across() {
        // Along the third axis by 10, along the first by 1, along the others not at all.
        let rows: Vec<f32> =
            (0..40).flat_map(|i| [((i * 7) % 5) as f32 - 2.0, 0.0, (i as f32 - 19.5) / 2.0, 0.0]).collect();
        let places = plane(&[&rows[..80], &rows[80..]], 4);
        assert_eq!((places.len(), places[0].len()), (2, 20));
        for (i, place) in places.concat().iter().enumerate() {
            assert!((place[0].abs() - ((i as f32 - 19.5) / 2.0).abs()).abs() < 0.3, "{i}: {place:?}");
        }
        assert!(plane(&[&[]], 4)[0].is_empty());
    }
}
