//! What a network predicts, and what it says about the sample without noise.

use muybridge_loaders::Config;

use crate::error::{Error, Result};
use crate::schedulers::StepInput;
use crate::schedulers::combine::combine;

/// The meaning of a network's output `o`, where `x = a·x0 + s·ε`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// `o = ε` (Ho et al. 2020).
    Epsilon,
    /// `o = x0`.
    Sample,
    /// `o = a·ε − s·x0` (Salimans and Ho 2022).
    Velocity,
    /// `o = ε − x0`, where `a = 1 − s` (Lipman et al. 2023).
    Flow,
}

impl Prediction {
    /// Reads `prediction_type`, which must be one of `known`.
    pub(crate) fn read(config: &Config, known: &[Prediction]) -> Result<Prediction> {
        let name = config.opt("prediction_type")?.unwrap_or_else(|| "epsilon".to_string());
        let found = known.iter().find(|p| p.name() == name || (**p == Prediction::Sample && name == "original_sample"));
        found.copied().ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|p| p.name()).collect();
            config.error("prediction_type", format!("{name} is not known here; known: {}", names.join(", "))).into()
        })
    }

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Prediction::Epsilon => "epsilon",
            Prediction::Sample => "sample",
            Prediction::Velocity => "v_prediction",
            Prediction::Flow => "flow_prediction",
        }
    }

    /// The sample without noise. A prediction of noise says nothing about it where no signal is left.
    pub(crate) fn original(
        self,
        class: &'static str,
        at: (f64, f64),
        sample: &[f32],
        output: &[f32],
    ) -> Result<Vec<f32>> {
        let (a, s) = at;
        if self == Prediction::Epsilon && a == 0.0 {
            return Err(Error::call(class, "a network that predicts noise cannot start where no signal is left"));
        }
        Ok(match self {
            Prediction::Epsilon => combine(&[(1.0 / a, sample), (-s / a, output)]),
            Prediction::Sample => output.to_vec(),
            Prediction::Velocity => combine(&[(a, sample), (-s, output)]),
            Prediction::Flow => combine(&[(1.0, sample), (-s, output)]),
        })
    }

    /// The noise. A prediction of the sample says nothing about it where no noise is left.
    pub(crate) fn epsilon(
        self,
        class: &'static str,
        at: (f64, f64),
        sample: &[f32],
        output: &[f32],
    ) -> Result<Vec<f32>> {
        let (a, s) = at;
        if self == Prediction::Sample && s == 0.0 {
            return Err(Error::call(class, "a network that predicts samples cannot step where no noise is left"));
        }
        Ok(match self {
            Prediction::Epsilon => output.to_vec(),
            Prediction::Sample => combine(&[(1.0 / s, sample), (-a / s, output)]),
            Prediction::Velocity => combine(&[(a, output), (s, sample)]),
            Prediction::Flow => combine(&[(1.0, sample), (1.0 - s, output)]),
        })
    }
}

/// The predictions of the variance-preserving frame.
pub(crate) const VP: [Prediction; 3] = [Prediction::Epsilon, Prediction::Sample, Prediction::Velocity];

/// How far a predicted sample may reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    /// Anywhere.
    None,
    /// From `-range` to `range`.
    Clip { range: f32 },
    /// Each item to a quantile of its own magnitudes, then divided by it: Saharia et al. 2022, section 2.3.
    Quantile { ratio: f64, most: f32 },
}

impl Limit {
    /// Reads `thresholding` with its two numbers, and `clip_sample` with its range.
    pub(crate) fn read(config: &Config, clip: bool) -> Result<Limit> {
        let threshold = Limit::read_threshold(config)?;
        let clip = config.or("clip_sample", clip)?;
        let range: f32 = config.or("clip_sample_range", 1.0)?;
        if range < 0.0 {
            return Err(config.error("clip_sample_range", format!("{range} is below 0")).into());
        }
        Ok(if threshold == Limit::None && clip { Limit::Clip { range } } else { threshold })
    }

    /// Reads `thresholding` with its two numbers.
    pub(crate) fn read_threshold(config: &Config) -> Result<Limit> {
        let on = config.or("thresholding", false)?;
        let ratio: f64 = config.or("dynamic_thresholding_ratio", 0.995)?;
        let most: f32 = config.or("sample_max_value", 1.0)?;
        if !(0.0..=1.0).contains(&ratio) {
            return Err(config.error("dynamic_thresholding_ratio", format!("{ratio}, wanted 0 to 1")).into());
        }
        if most <= 0.0 {
            return Err(config.error("sample_max_value", format!("{most} is not above 0")).into());
        }
        Ok(if on { Limit::Quantile { ratio, most } } else { Limit::None })
    }

    pub(crate) fn apply(self, mut original: Vec<f32>, batch: usize) -> Vec<f32> {
        match self {
            Limit::None => {}
            Limit::Clip { range } => original.iter_mut().for_each(|x| *x = x.clamp(-range, range)),
            Limit::Quantile { ratio, most } => {
                let each = (original.len() / batch.max(1)).max(1);
                for item in original.chunks_mut(each) {
                    let bound = quantile(item, ratio).max(1.0).min(most);
                    item.iter_mut().for_each(|x| *x = x.clamp(-bound, bound) / bound);
                }
            }
        }
        original
    }
}

/// A quantile of the magnitudes, linear between neighbours.
fn quantile(values: &[f32], ratio: f64) -> f32 {
    let mut sorted: Vec<f32> = values.iter().map(|v| v.abs()).collect();
    sorted.sort_by(f32::total_cmp);
    let rank = ratio * (sorted.len() - 1) as f64;
    let low = sorted[rank.floor() as usize];
    let high = sorted[rank.ceil() as usize];
    (f64::from(low) + rank.fract() * f64::from(high - low)) as f32
}

impl StepInput<'_> {
    /// Checks that sample and output fit.
    pub(crate) fn check(&self, class: &'static str) -> Result<()> {
        if self.output.len() == self.sample.len() { self.check_batch(class) } else { self.misfit(class) }
    }

    /// As [`StepInput::check`], for a network whose output has twice the channels: the prediction, and the rest.
    pub(crate) fn split(&self, class: &'static str) -> Result<(Vec<f32>, Vec<f32>)> {
        if self.output.len() != 2 * self.sample.len() {
            return self.misfit(class);
        }
        self.check_batch(class)?;
        let each = (self.sample.len() / self.batch).max(1);
        let part = |first: usize| self.output.chunks(each).skip(first).step_by(2).flatten().copied().collect();
        Ok((part(0), part(1)))
    }

    fn check_batch(&self, class: &'static str) -> Result<()> {
        let fits = self.batch > 0 && self.sample.len().is_multiple_of(self.batch) && !self.sample.is_empty();
        if fits { Ok(()) } else { self.misfit(class) }
    }

    fn misfit<T>(&self, class: &'static str) -> Result<T> {
        let (sample, output, batch) = (self.sample.len(), self.output.len(), self.batch);
        let reason = format!("a sample of {sample} elements and an output of {output} for a batch of {batch}");
        Err(Error::call(class, reason))
    }
}
