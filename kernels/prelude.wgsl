// What WGSL kernels share. The generated header defines ACTIVATION (see kernels/activation.rs) and stands before this.

// Number of this workgroup, where a line of workgroups was folded into a grid of up to three dimensions.
fn linear_group(id: vec3<u32>, count: vec3<u32>) -> u32 {
    return id.x + count.x * (id.y + count.y * id.z);
}

// exp for arguments that may be far from zero: some drivers make NaN of what would overflow.
fn bounded_exp(x: f32) -> f32 {
    return exp(clamp(x, -87.0, 87.0));
}

// tanh for any argument: some drivers make NaN of exp(2x) / exp(2x). tanh(10) is 1 to the last bit.
fn bounded_tanh(x: f32) -> f32 {
    return tanh(clamp(x, -10.0, 10.0));
}

// Upper tail of erf for z >= 0, |error| <= 1.5e-7 (Abramowitz and Stegun 7.1.26), relative to exp(-z^2) in the far tail.
fn erfc_positive(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return series * bounded_exp(-z * z);
}

// erf(x), |error| <= 3e-7.
fn error_function(x: f32) -> f32 {
    return sign(x) * (1.0 - erfc_positive(abs(x)));
}

// x * Phi(x), with the lower tail taken as it is and not as a difference from 1.
fn gelu(x: f32) -> f32 {
    let tail = 0.5 * erfc_positive(abs(x) * 0.70710678);
    return x * select(1.0 - tail, tail, x < 0.0);
}

// x * tanh(ln(1 + e)) with e = exp(x), as a quotient without cancellation; beyond 20 it is x to the last bit.
fn mish(x: f32) -> f32 {
    let e = bounded_exp(min(x, 20.0));
    let n = e * (e + 2.0);
    return select(x * (n / (n + 2.0)), x, x > 20.0);
}

// The pointwise function with the code ACTIVATION.
fn activate(x: f32) -> f32 {
    switch ACTIVATION {
        case 1u: { return x / (1.0 + bounded_exp(-x)); }
        case 2u: { return gelu(x); }
        case 3u: { return x / (1.0 + bounded_exp(-1.702 * x)); }
        case 4u: { return max(x, 0.0); }
        case 5u: { return mish(x); }
        default: { return x; }
    }
}

fn activate4(v: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(activate(v.x), activate(v.y), activate(v.z), activate(v.w));
}

