//! Eigenvalues and eigenvectors of symmetric matrices: Householder's reduction to three diagonals, then implicit QL.
//!
//! Golub, Van Loan, "Matrix computations", sections 8.3.1 and 8.3.3. A few hundred rows are what the metrics need.

/// A square matrix, row by row.
pub(super) type Square = Vec<f64>;

/// Most steps of QL for one eigenvalue; two or three are usual.
const STEPS: usize = 60;

/// Eigenvalues of a symmetric matrix of `n` rows, and with `vectors` the eigenvectors as rows. In no order.
///
/// `None` where the numbers are not finite, or the iteration does not end, which finite numbers do not make it do.
pub(super) fn symmetric(mut a: Square, n: usize, vectors: bool) -> Option<(Vec<f64>, Square)> {
    if a.iter().any(|v| !v.is_finite()) {
        return None;
    }
    let (mut d, mut e, reflections) = tridiagonal(&mut a, n);
    let mut rows = Vec::new();
    if vectors {
        rows = vec![0.0; n * n];
        (0..n).for_each(|i| rows[i * n + i] = 1.0);
        // Rows hold the transpose, so that a rotation of two eigenvectors runs along memory.
        for (k, v) in reflections.iter().enumerate().rev() {
            reflect(&mut rows, n, k + 1, v);
        }
        rows = transpose(&rows, n);
    }
    ql(&mut d, &mut e, &mut rows, n)?;
    Some((d, rows))
}

/// Reduces `a` to a diagonal and the one beside it, and gives the reflections: v of `1 − 2 v vᵀ`, for rows k+1 on.
fn tridiagonal(a: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>, Vec<Vec<f64>>) {
    let mut reflections = Vec::new();
    for k in 0..n.saturating_sub(2) {
        let mut v: Vec<f64> = (k + 1..n).map(|i| a[i * n + k]).collect();
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let rest = v[1..].iter().map(|x| x * x).sum::<f64>();
        if rest == 0.0 {
            reflections.push(vec![0.0; v.len()]);
            continue;
        }
        let alpha = if v[0] > 0.0 { -norm } else { norm };
        v[0] -= alpha;
        let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.iter_mut().for_each(|x| *x /= length);
        // p = A v, then A − 2 (v wᵀ + w vᵀ) with w = p − (vᵀ p) v, on the part below.
        let m = n - k - 1;
        let row = |i: usize| (k + 1 + i) * n + k + 1;
        let mut w: Vec<f64> = (0..m).map(|i| dot(&a[row(i)..row(i) + m], &v)).collect();
        let kappa = dot(&v, &w);
        w.iter_mut().zip(&v).for_each(|(w, v)| *w -= kappa * v);
        for i in 0..m {
            let (vi, wi) = (2.0 * v[i], 2.0 * w[i]);
            for ((a, v), w) in a[row(i)..row(i) + m].iter_mut().zip(&v).zip(&w) {
                *a -= vi * w + wi * v;
            }
        }
        a[(k + 1) * n + k] = alpha;
        reflections.push(v);
    }
    let d = (0..n).map(|i| a[i * n + i]).collect();
    let e = (1..n).map(|i| a[i * n + i - 1]).chain([0.0]).collect();
    (d, e, reflections)
}

/// `rows ← H rows` for the reflection of rows `first` on.
fn reflect(rows: &mut [f64], n: usize, first: usize, v: &[f64]) {
    let mut sums = vec![0.0; n];
    for (row, v) in rows[first * n..].chunks(n).zip(v) {
        sums.iter_mut().zip(row).for_each(|(s, x)| *s += 2.0 * v * x);
    }
    for (row, v) in rows[first * n..].chunks_mut(n).zip(v) {
        row.iter_mut().zip(&sums).for_each(|(x, s)| *x -= v * s);
    }
}

/// Implicit QL with Wilkinson's shift on the diagonal `d` and the one beside it; rotates pairs of `rows` along.
fn ql(d: &mut [f64], e: &mut [f64], rows: &mut [f64], n: usize) -> Option<()> {
    for l in 0..n {
        for step in 0.. {
            let small = |i: &usize| e[*i].abs() <= f64::EPSILON * (d[*i].abs() + d[*i + 1].abs());
            let m = (l..n - 1).find(small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            if step == STEPS {
                return None;
            }
            let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let r = g.hypot(1.0);
            g = d[m] - d[l] + e[l] / (g + r.copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut split = false;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    split = true;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                if !rows.is_empty() {
                    let (low, high) = rows.split_at_mut((i + 1) * n);
                    for (x, y) in low[i * n..].iter_mut().zip(&mut high[..n]) {
                        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                    }
                }
            }
            if !split {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    Some(())
}

/// `Σ a b`, in four sums that the compiler can keep apart.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (a4, b4) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a4.remainder().iter().zip(b4.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a4.zip(b4) {
        for i in 0..4 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// The sum of the singular values of a matrix with rows of `n` numbers, to half the digits: roots of the eigenvalues of its
/// product with itself.
pub(super) fn nuclear_norm(a: &[f64], n: usize) -> f64 {
    let m = a.len().checked_div(n).unwrap_or(0);
    let columns: Vec<f64> = (0..a.len()).map(|k| a[k % m * n + k / m]).collect();
    let (rows, length, side) = if m <= n { (a, n, m) } else { (&columns[..], m, n) };
    let row = |i: usize| &rows[i * length..(i + 1) * length];
    let square = (0..side * side).map(|k| dot(row(k / side), row(k % side))).collect();
    symmetric(square, side, false).map_or(f64::NAN, |(values, _)| values.iter().map(|v| v.max(0.0).sqrt()).sum())
}

pub(super) fn transpose(a: &[f64], n: usize) -> Square {
    (0..n * n).map(|i| a[i % n * n + i / n]).collect()
}

/// `a · bᵀ` of square matrices.
pub(super) fn times_transposed(a: &[f64], b: &[f64], n: usize) -> Square {
    let row = |m: &'_ [f64], i: usize| -> Vec<f64> { m[i * n..(i + 1) * n].to_vec() };
    let mut c = Vec::with_capacity(n * n);
    for i in 0..n {
        let a = row(a, i);
        c.extend((0..n).map(|j| dot(&a, &b[j * n..(j + 1) * n])));
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(i: usize) -> f64 {
        ((i * 7919 + 13) % 1009) as f64 / 504.5 - 1.0
    }

    #[test]
    fn vectors_and_values_rebuild_the_matrix() {
        for n in [1, 2, 3, 17, 40] {
            let b: Square = (0..n * n).map(noise).collect();
            let a = times_transposed(&b, &b, n);
            let (values, rows) = symmetric(a.clone(), n, true).expect("finite");
            let (only, none) = symmetric(a.clone(), n, false).expect("finite");
            assert!(none.is_empty());
            for (v, w) in values.iter().zip(&only) {
                assert!((v - w).abs() < 1e-10 * (1.0 + v.abs()));
            }
            for i in 0..n * n {
                let sum: f64 = (0..n).map(|k| values[k] * rows[k * n + i / n] * rows[k * n + i % n]).sum();
                assert!((sum - a[i]).abs() < 1e-11 * n as f64, "{n}: element {i} is {sum}, not {}", a[i]);
            }
        }
    }

    #[test]
    fn singular_values_are_summed_on_either_side() {
        // Rows of lengths 5 and 13 at right angles, in three columns.
        let wide = [3.0, 4.0, 0.0, 0.0, 0.0, -13.0];
        assert!((nuclear_norm(&wide, 3) - 18.0).abs() < 1e-12);
        assert!((nuclear_norm(&[3.0, 0.0, 4.0, 0.0, 0.0, -13.0], 2) - 18.0).abs() < 1e-12);
        assert_eq!(nuclear_norm(&[], 0), 0.0);
    }

    #[test]
    fn diagonal_and_degenerate_matrices_end() {
        assert_eq!(symmetric(vec![3.0, 0.0, 0.0, -2.0], 2, false).expect("finite").0, [3.0, -2.0]);
        let ones = symmetric(vec![1.0; 25], 5, false).expect("finite").0;
        assert!((ones.iter().sum::<f64>() - 5.0).abs() < 1e-12);
        assert!((ones.iter().cloned().fold(0.0, f64::max) - 5.0).abs() < 1e-12);
        assert!(symmetric(vec![f64::NAN], 1, false).is_none());
        assert!(symmetric(vec![0.0; 9], 3, true).is_some());
    }
}
