//! Linear combinations of samples: the arithmetic of every step.

/// `Σ factor·sample`, element by element, in f64 and rounded once. The samples have one length.
pub(crate) fn combine(terms: &[(f64, &[f32])]) -> Vec<f32> {
    let terms: Vec<_> = terms.iter().filter(|(factor, _)| *factor != 0.0).collect();
    let n = terms.first().map_or(0, |(_, x)| x.len());
    let sum = |i| terms.iter().map(|(factor, x)| factor * f64::from(x[i])).sum::<f64>() as f32;
    (0..n).map(sum).collect()
}
