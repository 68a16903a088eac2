//! Pointwise functions on slices, in forms that compilers turn into vector code: no branches, no tables, no calls.

use pulp::Simd;

use crate::Activation;

/// eˣ to 1.5 ulp. Beyond the range of normal numbers it stays at its ends: never 0, never infinite.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts (Cody, Waite): the first has so few bits that its product with an integer is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = clamp(x, -87.6, 88.37);
    let (n, scale) = round(x * LOG2E);
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    // Minimax on ±ln 2 / 2, relative error 2e-9.
    let p = horner(r, [1.0, 1.0, 0.499_999_93, 0.166_664_2, 0.041_668_233, 0.008_374_899, 0.001_383_674_2]);
    p * scale
}

/// 2ˣ to 1.5 ulp for x ≤ 127; at least 2⁻¹²⁶, which no softmax can tell from 0. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    let x = clamp(x, -126.0, 127.0);
    let (n, scale) = round(x);
    horner(x - n, EXP2) * scale
}

/// [`exp2`] of a vector of x ≤ 127.
#[inline(always)]
pub(crate) fn exp2_vector<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // The second operand of a maximum is what remains of a NaN.
    let x = simd.max_f32s(simd.splat_f32s(-126.0), x);
    let magic = simd.splat_f32s(MAGIC);
    let shifted = simd.add_f32s(x, magic);
    let f = simd.sub_f32s(x, simd.sub_f32s(shifted, magic));
    let bits = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(127));
    let scale = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23)));
    let mut p = simd.splat_f32s(EXP2[6]);
    for c in EXP2[..6].iter().rev() {
        p = simd.mul_add_f32s(p, f, simd.splat_f32s(*c));
    }
    simd.mul_f32s(p, scale)
}

/// 1.5 · 2²³: added to x, it leaves the nearest integer in the lowest bits.
const MAGIC: f32 = 12_582_912.0;

/// 2ˣ on ±½: minimax, relative error 2e-9.
const EXP2: [f32; 7] =
    [1.0, std::f32::consts::LN_2, 0.240_226_47, 0.055_503_283, 0.009_618_49, 0.001_340_006_3, 0.000_153_456_96];

/// The nearest integer n, and 2ⁿ.
#[inline(always)]
fn round(x: f32) -> (f32, f32) {
    let shifted = x + MAGIC;
    (shifted - MAGIC, f32::from_bits(shifted.to_bits().wrapping_add(127) << 23))
}

/// Keeps NaN, unlike `f32::max` and `f32::min`, and compiles to one instruction per limit.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

#[inline(always)]
fn horner<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut p = c[N - 1];
    for i in (0..N - 1).rev() {
        p = p.mul_add(x, c[i]);
    }
    p
}

#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// x · Φ(x). The tail of the normal distribution is exp(−x²/2) · t · Q(t) with t = 1 / (1 + 0.35 |x|), the form of Abramowitz
/// and Stegun 7.1.26; Q is a minimax fit of our own on |x| ≤ 13.5, relative error 2e-7 in f32.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / a.mul_add(0.35, 1.0);
    let q = horner(
        t,
        [
            0.139_621_57,
            0.139_859_08,
            0.119_852_43,
            0.105_432_95,
            -0.022_937_179,
            0.158_929_35,
            -0.255_504_6,
            0.143_872_26,
            -0.029_125_871,
        ],
    );
    let tail = exp(-0.5 * x * x) * t * q;
    let positive = if x < 0.0 { 0.0 } else { x };
    positive - a * tail
}

#[inline(always)]
pub(crate) fn quick_gelu(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

#[inline(always)]
pub(crate) fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// With e = eˣ, tanh(ln(1 + e)) = e (e + 2) / (e (e + 2) + 2); it is 1 to the last bit from x = 20 on.
#[inline(always)]
pub(crate) fn mish(x: f32) -> f32 {
    let e = exp(if x > 20.0 { 20.0 } else { x });
    let s = e * (e + 2.0);
    x * (s / (s + 2.0))
}

/// Applies an activation to every element, within [`vectorised!`](super::vectorised).
#[inline(always)]
pub(crate) fn activate_all(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::None => {}
        Activation::Silu => {
            for v in values {
                *v = silu(*v);
            }
        }
        Activation::Gelu => {
            for v in values {
                *v = gelu(*v);
            }
        }
        Activation::QuickGelu => {
            for v in values {
                *v = quick_gelu(*v);
            }
        }
        Activation::Relu => {
            for v in values {
                *v = relu(*v);
            }
        }
        Activation::Mish => {
            for v in values {
                *v = mish(*v);
            }
        }
    }
}

/// Sum of the elements, in 32 partial sums, within [`vectorised!`](super::vectorised).
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0f32; 32];
    let (whole, rest) = values.as_chunks::<32>();
    for chunk in whole {
        for (s, v) in sums.iter_mut().zip(chunk) {
            *s += v;
        }
    }
    for (s, v) in sums.iter_mut().zip(rest) {
        *s += v;
    }
    sums.iter().sum()
}

/// Sum of the squares, likewise.
#[inline(always)]
pub(crate) fn square_sum(values: &[f32]) -> f32 {
    let mut sums = [0.0f32; 32];
    let (whole, rest) = values.as_chunks::<32>();
    for chunk in whole {
        for (s, v) in sums.iter_mut().zip(chunk) {
            *s = v.mul_add(*v, *s);
        }
    }
    for (s, v) in sums.iter_mut().zip(rest) {
        *s = v.mul_add(*v, *s);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(range: std::ops::Range<i32>, step: f64, f: impl Fn(f64) -> f64) -> f64 {
        range.map(|i| f(f64::from(i) * step)).fold(0.0, f64::max)
    }

    #[test]
    fn exponentials_are_within_two_ulp() {
        let e = worst(-87_000..88_000, 1e-3, |x| (f64::from(exp(x as f32)) / f64::from(x as f32).exp() - 1.0).abs());
        assert!(e < 2.4e-7, "exp: {e:e}");
        let e =
            worst(-125_000..127_000, 1e-3, |x| (f64::from(exp2(x as f32)) / f64::from(x as f32).exp2() - 1.0).abs());
        assert!(e < 2.4e-7, "exp2: {e:e}");
        assert!(exp2(f32::NEG_INFINITY) < 1e-37 && exp2(f32::NAN).is_nan() && exp(f32::NAN).is_nan());
    }

    #[test]
    fn activations_meet_their_oracle() {
        let all = [Activation::Silu, Activation::Gelu, Activation::QuickGelu, Activation::Relu, Activation::Mish];
        for activation in all {
            let e = worst(-30_000..30_000, 1e-3, |x| {
                let mut v = [x as f32];
                activate_all(activation, &mut v);
                let want = activation.exact(f64::from(x as f32));
                (f64::from(v[0]) - want).abs() / want.abs().max(1e-3)
            });
            assert!(e < 1e-6, "{activation:?}: {e:e}");
        }
    }
}
