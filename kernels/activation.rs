//! Pointwise activations that other ops fuse.

/// A pointwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Activation {
    /// x
    #[default]
    None,
    /// x · sigmoid(x), also called swish.
    Silu,
    /// x · Φ(x) with the exact normal distribution function (erf). Hendrycks, Gimpel, "Gaussian error linear units" (2016).
    Gelu,
    /// x · sigmoid(1.702 x), as in CLIP.
    QuickGelu,
    /// max(x, 0)
    Relu,
    /// x · tanh(ln(1 + eˣ)). Misra, "Mish" (2019).
    Mish,
}

impl Activation {
    /// A number that kernels know the function by (`ACTIVATION` in the sources).
    pub const fn code(self) -> u32 {
        match self {
            Activation::None => 0,
            Activation::Silu => 1,
            Activation::Gelu => 2,
            Activation::QuickGelu => 3,
            Activation::Relu => 4,
            Activation::Mish => 5,
        }
    }

    /// The function in f64: the oracle of the tests.
    pub fn exact(self, x: f64) -> f64 {
        match self {
            Activation::None => x,
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => 0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
            Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Activation::Relu => x.max(0.0),
            // ln(1 + eˣ) is x itself, to the last bit, well before eˣ overflows.
            Activation::Mish => x * (if x > 40.0 { x } else { x.exp().ln_1p() }).tanh(),
        }
    }
}

/// Complementary error function to nearly the last bit: a series near 0, a continued fraction in the tails.
fn erfc(x: f64) -> f64 {
    let z = x.abs();
    if z < 3.0 {
        return 1.0 - erf_series(x);
    }
    let tail = erfc_fraction(z);
    if x >= 0.0 { tail } else { 2.0 - tail }
}

/// erf by its Maclaurin series in the form with positive terms (Abramowitz and Stegun 7.1.6): no cancellation.
fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-17 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// erfc for x ≥ 3 by its continued fraction (Abramowitz and Stegun 7.1.14), evaluated from the tail.
fn erfc_fraction(x: f64) -> f64 {
    let mut f = x;
    for k in (1..=60).rev() {
        f = x + 0.5 * f64::from(k) / f;
    }
    (-x * x).exp() / (f * std::f64::consts::PI.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erfc_has_its_tabulated_values() {
        // Abramowitz and Stegun, table 7.1, and erfc(3.5), erfc(5) from table 7.3's asymptotics.
        for (x, want) in [(0.0, 1.0), (0.5, 0.479500122186953), (1.0, 0.157299207050285), (2.0, 0.004677734981047266)] {
            assert!((erfc(x) - want).abs() < 1e-14, "{x}");
            assert!((erfc(-x) - (2.0 - want)).abs() < 1e-14, "{x}");
        }
        assert!((erfc(5.0) / 1.537_459_794_428_035e-12 - 1.0).abs() < 1e-12);
        let (below, above) = (1.0 - erf_series(3.0), erfc_fraction(3.0));
        assert!((below - above).abs() < 1e-14, "the two forms meet");
    }
}
