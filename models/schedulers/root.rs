//! Square roots as PyTorch takes them on AMD processors, where published and recorded schedules were made.

/// What the instruction `rsqrtps` of Zen 4 returns, less the correctly rounded value, in units of its last place, plus one: two
/// bits for each of the 4096 leading fractions of numbers from 1/4 to 1/2, then of those from 1/2 to 1.
const ROUNDED: &[u8; 2048] = include_bytes!("rsqrt.bin");

/// Bits of fraction that the instruction looks at, and that it returns.
const BITS: u32 = 12;

/// `√x`, at most a unit in the last place from the correct one: MKL's, an estimate to 12 bits and one step of Newton's without
/// fused products.
///
/// Near the end of a schedule without terminal signal a variance is one less the ratio of small differences of such roots, so
/// that the last bit of a root moves it by up to 4e-6.
pub(crate) fn sqrt(x: f32) -> f32 {
    if !x.is_normal() || x < 0.0 {
        return x.sqrt();
    }
    let estimate = reciprocal_sqrt(x);
    let (half, root) = (estimate * 0.5, x * estimate);
    let error = 0.5 - root * half;
    let (root, half) = (root + root * error, half + half * error);
    root + (x - root * root) * half
}

/// The estimate of `1/√x`.
fn reciprocal_sqrt(x: f32) -> f32 {
    let exponent = (x.to_bits() >> 23) as i32 - 125;
    let (odd, pairs) = (exponent.rem_euclid(2), exponent.div_euclid(2));
    let fraction = (x.to_bits() >> (23 - BITS)) as usize & 0xfff;
    // The middle of the interval that the instruction cannot tell apart; its estimate lies between 1 and 2.
    let middle = (1.0 + (fraction as f64 + 0.5) / 4096.0) * 0.25 * f64::from(1 + odd);
    let at = odd as usize * 4096 + fraction;
    let off = f64::from(ROUNDED[at / 4] >> (at % 4 * 2) & 3) - 1.0;
    let scale = f64::from(1u32 << BITS);
    let estimate = ((1.0 / middle.sqrt() * scale).round_ties_even() + off) / scale;
    (estimate * 2f64.powi(-pairs)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_within_a_unit_of_correct_ones() {
        for i in 0..2_000_000u32 {
            let x = f32::from_bits(0x0080_0000 + i * 1000);
            let apart = sqrt(x).to_bits().abs_diff(x.sqrt().to_bits());
            assert!(apart <= 1, "the root of {x} is {apart} units off");
        }
    }

    #[test]
    fn what_has_no_estimate_is_rooted_as_usual() {
        for x in [0.0, f32::MIN_POSITIVE / 4.0, f32::INFINITY] {
            assert_eq!(sqrt(x), x.sqrt());
        }
        assert!(sqrt(-1.0).is_nan() && sqrt(f32::NAN).is_nan());
    }
}
