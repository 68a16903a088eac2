//! Quantiles of the beta distribution with both parameters 0.6, after which one schedule spaces its noise levels
//! ([Lee et al. 2024](https://arxiv.org/abs/2407.12173)).

/// Both parameters.
const SHAPE: f64 = 0.6;

/// The value below which a share `p` of the distribution lies.
pub(crate) fn beta_quantile(p: f64) -> f64 {
    if p > 0.5 {
        return 1.0 - lower_quantile(1.0 - p);
    }
    lower_quantile(p)
}

/// Newton's method in `u = x^SHAPE`, in which the distribution function is almost a line.
fn lower_quantile(p: f64) -> f64 {
    let (median_share, most) = (incomplete(0.5), 0.5f64.powf(SHAPE));
    let wanted = 2.0 * p * median_share;
    let mut u = (wanted * SHAPE).clamp(0.0, most);
    for _ in 0..60 {
        let x = u.powf(1.0 / SHAPE);
        let slope = (1.0 - x).powf(SHAPE - 1.0) / SHAPE;
        let next = (u - (incomplete(x) - wanted) / slope).clamp(0.0, most);
        if (next - u).abs() <= 1e-16 {
            break;
        }
        u = next;
    }
    u.powf(1.0 / SHAPE)
}

/// `∫ y^(a-1) (1-y)^(b-1) dy` from 0 to `x ≤ 1/2`, with `a = b = SHAPE`, by its power series (DLMF 8.17.7).
fn incomplete(x: f64) -> f64 {
    let (mut sum, mut factor) = (0.0, 1.0);
    for n in 0..200 {
        let n = f64::from(n);
        let term = factor / (SHAPE + n);
        sum += term;
        if term < 1e-18 {
            break;
        }
        factor *= (n + 1.0 - SHAPE) / (n + 1.0) * x;
    }
    x.powf(SHAPE) * sum
}

#[cfg(test)]
mod tests {
    use super::beta_quantile;

    /// Values of scipy.stats.beta.ppf(p, 0.6, 0.6).
    #[test]
    fn published_quantiles() {
        let known = QUANTILES;
        for (p, x) in known {
            assert!((beta_quantile(p) - x).abs() < 1e-12, "{p}: {} and {x}", beta_quantile(p));
        }
    }

    const QUANTILES: [(f64, f64); 7] = [
        (0.0, 0.0),
        (0.001, 1.855873851745199e-05),
        (0.1, 0.03958440558878085),
        (0.3333333333333333, 0.2754132907776234),
        (0.5, 0.5000000000000001),
        (0.9, 0.9604155944112192),
        (1.0, 1.0),
    ];
}
