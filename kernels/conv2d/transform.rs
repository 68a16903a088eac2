//! The transforms of F(4x4, 3x3) at the points 0, ±a, ±b, ∞ with a = 5/8, b = 3/2. They take several channels at once, in
//! loops over arrays that become vector code within [`vectorised`](crate::cpu::vectorised).

/// Side of a tile of results.
pub(super) const TILE: usize = 4;

/// Side of its inputs.
pub(super) const TILE_IN: usize = 6;

/// Channels that are transformed together.
pub(super) const LANES: usize = 16;

const A: f32 = 0.625;
const B: f32 = 1.5;
const AA: f32 = A * A;
const BB: f32 = B * B;

/// The polynomial products' denominators: Π (pᵢ − pⱼ) over the finite points j ≠ i.
const AT_0: f32 = 1.0 / (AA * BB);
const AT_A: f32 = (1.0 / (2.0 * 0.390_625 * (0.390_625 - 2.25))) as f32;
const AT_B: f32 = (1.0 / (2.0 * 2.25 * (2.25 - 0.390_625))) as f32;

/// Bᵀ d: coefficients of the polynomials Π (x − pⱼ), all but point i.
#[inline(always)]
fn input_line(d: [f32; TILE_IN]) -> [f32; TILE_IN] {
    let even = |q: f32| (-q).mul_add(d[2], d[4]);
    let odd = |q: f32| (-q).mul_add(d[1], d[3]);
    let (even_a, odd_a, even_b, odd_b) = (even(BB), odd(BB), even(AA), odd(AA));
    [
        (AA * BB).mul_add(d[0], (-(AA + BB)).mul_add(d[2], d[4])),
        A.mul_add(odd_a, even_a),
        (-A).mul_add(odd_a, even_a),
        B.mul_add(odd_b, even_b),
        (-B).mul_add(odd_b, even_b),
        (AA * BB).mul_add(d[1], (-(AA + BB)).mul_add(d[3], d[5])),
    ]
}

/// G g: the weights as a polynomial's values at the points, over the denominators.
#[inline(always)]
fn weight_line(g: [f32; 3]) -> [f32; TILE_IN] {
    let at = |p: f32, pp: f32| (pp.mul_add(g[2], g[0]), p * g[1]);
    let ((even_a, odd_a), (even_b, odd_b)) = (at(A, AA), at(B, BB));
    [
        AT_0 * g[0],
        AT_A * (even_a + odd_a),
        AT_A * (even_a - odd_a),
        AT_B * (even_b + odd_b),
        AT_B * (even_b - odd_b),
        g[2],
    ]
}

/// Aᵀ m: powers of the points times the products.
#[inline(always)]
fn output_line(m: [f32; TILE_IN]) -> [f32; TILE] {
    let (sum_a, difference_a) = (m[1] + m[2], m[1] - m[2]);
    let (sum_b, difference_b) = (m[3] + m[4], m[3] - m[4]);
    [
        m[0] + (sum_a + sum_b),
        A.mul_add(difference_a, B * difference_b),
        AA.mul_add(sum_a, BB * sum_b),
        (A * AA).mul_add(difference_a, (B * BB).mul_add(difference_b, m[5])),
    ]
}

/// Transforms a 6x6 tile of inputs in place.
#[inline(always)]
pub(super) fn input(tile: &mut [[f32; LANES]; TILE_IN * TILE_IN]) {
    for column in 0..TILE_IN {
        for l in 0..LANES {
            let t = input_line(std::array::from_fn(|i| tile[i * TILE_IN + column][l]));
            for i in 0..TILE_IN {
                tile[i * TILE_IN + column][l] = t[i];
            }
        }
    }
    for row in tile.as_chunks_mut::<TILE_IN>().0 {
        for l in 0..LANES {
            let t = input_line(std::array::from_fn(|i| row[i][l]));
            for i in 0..TILE_IN {
                row[i][l] = t[i];
            }
        }
    }
}

/// Row `row` of the transformed 3x3 weights of one input channel: element `column` of output channel n goes to
/// `to[column · stride + n]`.
#[inline(always)]
pub(super) fn weights(taps: &[&[f32]; 9], row: usize, stride: usize, to: &mut [f32]) {
    // Row `row` of G.
    let factors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]].map(|unit| weight_line(unit)[row]);
    let width = taps[0].len();
    let whole = width / LANES * LANES;
    for n in (0..whole).step_by(LANES) {
        weights_at::<LANES>(taps, factors, n, stride, to);
    }
    for n in whole..width {
        weights_at::<1>(taps, factors, n, stride, to);
    }
}

#[inline(always)]
fn weights_at<const L: usize>(taps: &[&[f32]; 9], factors: [f32; 3], n: usize, stride: usize, to: &mut [f32]) {
    let tap: [&[f32; L]; 9] = std::array::from_fn(|t| taps[t][n..].first_chunk().unwrap_or(&[0.0; L]));
    let mut out = [[0.0; L]; TILE_IN];
    for l in 0..L {
        let line = weight_line(std::array::from_fn(|j| {
            factors[0].mul_add(tap[j][l], factors[1].mul_add(tap[3 + j][l], factors[2] * tap[6 + j][l]))
        }));
        for i in 0..TILE_IN {
            out[i][l] = line[i];
        }
    }
    for (i, out) in out.iter().enumerate() {
        to[i * stride + n..][..L].copy_from_slice(out);
    }
}

/// Results `[4 · 4][full]` of one tile from its products: point i of channel n is `products[i · stride + n]`.
#[inline(always)]
pub(super) fn output(products: &[f32], stride: usize, width: usize, full: usize, to: &mut [f32]) {
    let whole = width / LANES * LANES;
    for n in (0..whole).step_by(LANES) {
        output_at::<LANES>(products, stride, n, full, to);
    }
    for n in whole..width {
        output_at::<1>(products, stride, n, full, to);
    }
}

#[inline(always)]
fn output_at<const L: usize>(products: &[f32], stride: usize, n: usize, full: usize, to: &mut [f32]) {
    let mut half = [[[0.0; L]; TILE_IN]; TILE];
    for column in 0..TILE_IN {
        let m: [&[f32; L]; TILE_IN] = std::array::from_fn(|i| {
            products[(i * TILE_IN + column) * stride + n..].first_chunk().unwrap_or(&[0.0; L])
        });
        for l in 0..L {
            let line = output_line(std::array::from_fn(|i| m[i][l]));
            for i in 0..TILE {
                half[i][column][l] = line[i];
            }
        }
    }
    for (y, half) in half.iter().enumerate() {
        let mut out = [[0.0; L]; TILE];
        for l in 0..L {
            let line = output_line(std::array::from_fn(|i| half[i][l]));
            for x in 0..TILE {
                out[x][l] = line[x];
            }
        }
        for (x, out) in out.iter().enumerate() {
            to[(y * TILE + x) * full + n..][..L].copy_from_slice(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One tile, one channel: the transforms invert into a convolution.
    #[test]
    fn a_tile_is_its_convolution() {
        let value = |i: usize| ((i * 7919) % 23) as f32 / 11.0 - 1.0;
        let d: [f32; 36] = std::array::from_fn(value);
        let g: [[f32; 1]; 9] = std::array::from_fn(|i| [value(i + 50)]);
        let taps: [&[f32]; 9] = std::array::from_fn(|i| &g[i][..]);
        let mut tile = d.map(|v| [v; LANES]);
        input(&mut tile);
        let mut products = [0.0; 36];
        for row in 0..TILE_IN {
            let mut u = [0.0; TILE_IN];
            weights(&taps, row, 1, &mut u);
            for (i, u) in u.iter().enumerate() {
                products[row * TILE_IN + i] = tile[row * TILE_IN + i][0] * u;
            }
        }
        let mut got = [0.0; 16];
        output(&products, 1, 1, 1, &mut got);
        for (i, got) in got.iter().enumerate() {
            let (y, x) = (i / 4, i % 4);
            let want: f32 = (0..9).map(|t| d[(y + t / 3) * 6 + x + t % 3] * g[t][0]).sum();
            assert!((got - want).abs() < 1e-5, "{i}: {got} is not {want}");
        }
    }
}
