//! Sinusoidal embedding of numbers: `t [B]` or `[B, n]` in f32 → `[B, dim]` or `[B, n · dim]`.
//!
//! Frequencies are `f_i = period^(−i / (dim/2 − freq_shift))` for i in 0..dim/2; the halves are cosines and sines of `t · f_i`
//! (Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, after Vaswani et al., 2017). An odd `dim` ends in a
//! zero. SDXL embeds six numbers per picture this way, side by side.

mod cuda;
mod reference;
mod wgsl;

use muybridge_runtime::{Cost, DType, Lowering, Mismatch, Op, Shape, Site, Target, TensorDesc, Variant};

use crate::{Case, Operand};

/// The op. Operand: f32 `t [B]` or `[B, n]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimestepEmbedding {
    /// Columns for each number.
    pub dim: usize,
    /// Cosines come first (all Stable Diffusion models) instead of sines.
    pub cosine_first: bool,
    /// Subtracted from the number of frequencies in the exponent (0 in all Stable Diffusion models).
    pub freq_shift: f32,
    /// The longest wavelength over 2π: 10 000.
    pub period: f32,
    /// Dtype of the result.
    pub dtype: DType,
}

/// Kernels, the preferred one first.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "reference", target: Target::Cpu, launches: 1 },
    Variant { name: "simple", target: Target::Wgsl, launches: 1 },
    Variant { name: "simple", target: Target::Cuda, launches: 1 },
];

impl TimestepEmbedding {
    /// The embedding of the Stable Diffusion models.
    pub const fn new(dim: usize, dtype: DType) -> TimestepEmbedding {
        TimestepEmbedding { dim, cosine_first: true, freq_shift: 0.0, period: 10_000.0, dtype }
    }
}

impl Op for TimestepEmbedding {
    fn name(&self) -> &'static str {
        "timestep_embedding"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        let [t] = inputs else { return Err(Mismatch(format!("{} operands, wanted 1", inputs.len()))) };
        if t.dtype != DType::F32 || ![1, 2].contains(&t.shape.rank()) {
            return Err(Mismatch(format!("t {t}, wanted f32 [B] or [B, n]")));
        }
        if (self.dim / 2) as f32 <= self.freq_shift || self.period.is_nan() || self.period <= 0.0 {
            return Err(Mismatch(format!("{} columns, shift {}, period {}", self.dim, self.freq_shift, self.period)));
        }
        let n = if t.shape.rank() == 2 { t.shape[1] } else { 1 };
        Ok(TensorDesc { shape: Shape::from([t.shape[0], n * self.dim]), dtype: self.dtype })
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        Cost::with_traffic(output.shape.count() as u64, inputs, output)
    }

    fn variants(&self) -> &'static [Variant] {
        VARIANTS
    }

    fn lower(&self, variant: &Variant, site: &Site<'_>) -> Option<Lowering> {
        match variant.target {
            Target::Cpu => Some(reference::lower(self, site)),
            Target::Wgsl => wgsl::lower(self, variant.name, site),
            Target::Cuda => cuda::lower(self, variant.name, site),
        }
    }

    fn revision(&self) -> &'static str {
        crate::REVISION
    }
}

/// Rows of tests and benches.
pub fn cases() -> Vec<Case> {
    let t = |n: usize| vec![Operand::full([n]).range(500.0, 499.0)];
    let op = |dim| TimestepEmbedding::new(dim, DType::F32);
    vec![
        Case::new("unet", op(320), t(2)),
        Case::new("one", op(2), t(1)),
        Case::new("odd", op(21), t(3)),
        Case::new("six_numbers", op(256), vec![Operand::full([2, 6]).range(512.0, 512.0)]),
        Case::new("sine_first", TimestepEmbedding { cosine_first: false, freq_shift: 1.0, ..op(32) }, t(4)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use muybridge_runtime::{Device, Graph, HostTensor, Plan};

    #[test]
    fn published_values() -> muybridge_runtime::Result<()> {
        let mut g = Graph::new();
        let t = g.input("t", TensorDesc::new([2], DType::F32));
        let e = g.node("time", TimestepEmbedding::new(320, DType::F32), &[t])?;
        g.output("e", e);
        let plan = Plan::new(&g, &Device::open("cpu")?)?;
        let out = plan.run_host(&[&HostTensor::new([2], vec![999.0f32, 1.0])?])?[0].to_f32();
        let known = [(0, 0.99965), (1, 0.802681), (2, -0.278114), (159, 0.994406), (160, -0.026461), (161, 0.596409)];
        // The published values are exact; the field's f32 angles, which ours equal, are good to 943 rad · 2⁻²⁴.
        for (i, want) in known.into_iter().chain([(319, 0.105622), (320, 0.540302), (480, 0.841471), (639, 0.000106)]) {
            assert!((out[i] - want).abs() < 1e-5, "column {i}: {} is not {want}", out[i]);
        }
        Ok(())
    }
}
