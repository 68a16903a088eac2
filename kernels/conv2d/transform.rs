//! The transforms of F(4x4, 3x3) at the points 0, ±a, ±b, ∞ with a = 5/8, b = 3/2. They take several channels at once, in
//! loops over arrays that become vector code within [`vectorised!`].

use crate::cpu::vectorised;

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

vectorised! {
    /// Transforms a 6x6 tile of inputs: the first `count` channels of point i go to `to[i · stride..]`.
    pub(super) fn input<'a>(
        tile: &'a [[f32; LANES]; TILE_IN * TILE_IN],
        to: &'a mut [f32],
        stride: usize,
        count: usize
    ) -> () {
        let mut tile = *tile;
        for column in 0..TILE_IN {
            input_lines(&mut tile, column, TILE_IN);
        }
        for row in 0..TILE_IN {
            input_lines(&mut tile, row * TILE_IN, 1);
        }
        if count >= LANES {
            for (i, values) in tile.iter().enumerate() {
                to[i * stride..][..LANES].copy_from_slice(values);
            }
        } else {
            for (i, values) in tile.iter().enumerate() {
                to[i * stride..][..count].copy_from_slice(&values[..count]);
            }
        }
    }

    /// Row `row` of the transformed 3x3 weights of `depth` input channels: tap t of channel k is
    /// `stored[t · tap + k · width..]`, element `column` of its output channel n goes to `to[column · stride + k · width + n]`.
    pub(super) fn weight_rows<'a>(
        stored: &'a [f32],
        tap: usize,
        width: usize,
        row: usize,
        depth: usize,
        stride: usize,
        to: &'a mut [f32]
    ) -> () {
        // Row `row` of G.
        let factors = [
            weight_line([1.0, 0.0, 0.0])[row],
            weight_line([0.0, 1.0, 0.0])[row],
            weight_line([0.0, 0.0, 1.0])[row],
        ];
        let whole = width / LANES * LANES;
        for k in 0..depth {
            for n in (0..whole).step_by(LANES) {
                weights_at::<LANES>(&stored[k * width + n..], tap, factors, stride, &mut to[k * width + n..]);
            }
            for n in whole..width {
                weights_at::<1>(&stored[k * width + n..], tap, factors, stride, &mut to[k * width + n..]);
            }
        }
    }

    /// Results `[4 · 4][full]` of one tile from its products: point i of channel n is `products[i · stride + n]`.
    pub(super) fn output<'a>(products: &'a [f32], stride: usize, width: usize, full: usize, to: &'a mut [f32]) -> () {
        let whole = width / LANES * LANES;
        for n in (0..whole).step_by(LANES) {
            output_at::<LANES>(&products[n..], stride, full, &mut to[n..]);
        }
        for n in whole..width {
            output_at::<1>(&products[n..], stride, full, &mut to[n..]);
        }
    }
}

/// Transforms one line of six points, `step` apart.
#[expect(clippy::needless_range_loop, reason = "six arrays of one array, lane by lane")]
#[inline(always)]
fn input_lines(tile: &mut [[f32; LANES]; TILE_IN * TILE_IN], first: usize, step: usize) {
    let [p0, p1, p2, p3, p4, p5] = [0, 1, 2, 3, 4, 5].map(|i| first + i * step);
    for l in 0..LANES {
        let d = [tile[p0][l], tile[p1][l], tile[p2][l], tile[p3][l], tile[p4][l], tile[p5][l]];
        let t = input_line(d);
        tile[p0][l] = t[0];
        tile[p1][l] = t[1];
        tile[p2][l] = t[2];
        tile[p3][l] = t[3];
        tile[p4][l] = t[4];
        tile[p5][l] = t[5];
    }
}

/// The first elements as an array; there are as many.
#[inline(always)]
fn head<const L: usize>(from: &[f32]) -> [f32; L] {
    let mut to = [0.0; L];
    to.copy_from_slice(&from[..L]);
    to
}

#[inline(always)]
fn weights_at<const L: usize>(stored: &[f32], tap: usize, factors: [f32; 3], stride: usize, to: &mut [f32]) {
    let mut lines = [[0.0; L]; 3];
    for (j, line) in lines.iter_mut().enumerate() {
        let [g0, g1, g2] = [head(&stored[j * tap..]), head(&stored[(3 + j) * tap..]), head(&stored[(6 + j) * tap..])];
        let (g0, g1, g2): ([f32; L], [f32; L], [f32; L]) = (g0, g1, g2);
        for l in 0..L {
            line[l] = factors[0].mul_add(g0[l], factors[1].mul_add(g1[l], factors[2] * g2[l]));
        }
    }
    let mut out = [[0.0; L]; TILE_IN];
    for l in 0..L {
        let t = weight_line([lines[0][l], lines[1][l], lines[2][l]]);
        for i in 0..TILE_IN {
            out[i][l] = t[i];
        }
    }
    for (i, out) in out.iter().enumerate() {
        to[i * stride..][..L].copy_from_slice(out);
    }
}

#[inline(always)]
fn output_at<const L: usize>(products: &[f32], stride: usize, full: usize, to: &mut [f32]) {
    let mut half = [[[0.0; L]; TILE_IN]; TILE];
    for column in 0..TILE_IN {
        let mut m = [[0.0; L]; TILE_IN];
        for (i, m) in m.iter_mut().enumerate() {
            *m = head(&products[(i * TILE_IN + column) * stride..]);
        }
        for l in 0..L {
            let t = output_line([m[0][l], m[1][l], m[2][l], m[3][l], m[4][l], m[5][l]]);
            for i in 0..TILE {
                half[i][column][l] = t[i];
            }
        }
    }
    for (y, m) in half.iter().enumerate() {
        let mut out = [[0.0; L]; TILE];
        for l in 0..L {
            let t = output_line([m[0][l], m[1][l], m[2][l], m[3][l], m[4][l], m[5][l]]);
            for x in 0..TILE {
                out[x][l] = t[x];
            }
        }
        for (x, out) in out.iter().enumerate() {
            to[(y * TILE + x) * full..][..L].copy_from_slice(out);
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
        let g: [f32; 9] = std::array::from_fn(|i| value(i + 50));
        let mut tile = [0.0; 36];
        input(&d.map(|v| [v; LANES]), &mut tile, 1, 1);
        let mut products = [0.0; 36];
        for row in 0..TILE_IN {
            let mut u = [0.0; TILE_IN];
            weight_rows(&g, 1, 1, row, 1, 1, &mut u);
            for (i, u) in u.iter().enumerate() {
                products[row * TILE_IN + i] = tile[row * TILE_IN + i] * u;
            }
        }
        let mut got = [0.0; 16];
        output(&products, 1, 1, 1, &mut got);
        for (i, got) in got.iter().enumerate() {
            let (y, x) = (i / 4, i % 4);
            let want: f32 = (0..9).map(|t| d[(y + t / 3) * 6 + x + t % 3] * g[t]).sum();
            assert!((got - want).abs() < 1e-5, "{i}: {got} is not {want}");
        }
    }
}
