//! Euler's method with fresh noise after every step, in the amounts of ancestral sampling (k-diffusion's
//! `sample_euler_ancestral`; the split of noise levels is equation 47 of Song et al. 2021 in the variance-exploding frame).

use muybridge_loaders::Config;

use crate::error::Result;
use crate::noise::NoiseSource;
use crate::schedulers::combine::combine;
use crate::schedulers::ddpm::draw;
use crate::schedulers::euler::{FLOOR, fractional, initial_sigma, original};
use crate::schedulers::ladder::{Ladder, interpolate};
use crate::schedulers::run::Sequence;
use crate::schedulers::spacing::Spacing;
use crate::schedulers::tables::LINEAR;
use crate::schedulers::{At, Prediction, Run, Scheduler, Step, StepInput, Tables};

const CLASS: &str = "EulerAncestralDiscreteScheduler";

/// `EulerAncestralDiscreteScheduler`.
#[derive(Clone, Debug)]
pub struct EulerAncestral {
    tables: Tables,
    prediction: Prediction,
    spacing: Spacing,
    offset: i64,
    ladder: Ladder,
    sequence: Sequence,
}

impl EulerAncestral {
    /// Reads the fields of an `EulerAncestralDiscreteScheduler`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that is not known.
    pub fn read(config: &Config) -> Result<EulerAncestral> {
        Ok(EulerAncestral {
            tables: Tables::read_rescaled(config, &LINEAR, Some(FLOOR))?,
            prediction: Prediction::read(config, &[Prediction::Epsilon, Prediction::Velocity])?,
            spacing: Spacing::read(config, Spacing::Linspace)?,
            offset: config.or("steps_offset", 0)?,
            ladder: Ladder::default(),
            sequence: Sequence::default(),
        })
    }
}

impl Scheduler for EulerAncestral {
    fn class(&self) -> &'static str {
        CLASS
    }

    fn tables(&self) -> Option<&Tables> {
        Some(&self.tables)
    }

    fn set_timesteps(&mut self, run: &Run) -> Result<()> {
        run.check(CLASS, &[])?;
        let table = self.tables.sigmas();
        let timesteps = fractional(self.spacing, &self.tables, run.steps, self.offset, CLASS)?;
        let sigmas: Vec<f64> = timesteps.iter().map(|t| interpolate(&table, *t)).collect();
        self.ladder = Ladder::of(&timesteps, &sigmas, 0.0);
        self.sequence = Sequence::default();
        Ok(())
    }

    fn timesteps(&self) -> &[f32] {
        &self.ladder.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.ladder.sigmas
    }

    fn init_noise_sigma(&self) -> f32 {
        initial_sigma(self.spacing, &self.ladder.sigmas)
    }

    fn scale_model_input(&self, sample: &[f32], i: usize) -> Result<Vec<f32>> {
        self.check_step(i)?;
        let sigma = self.ladder.sigma(CLASS, At::Step(i))?;
        Ok(combine(&[(1.0 / (sigma * sigma + 1.0).sqrt(), sample)]))
    }

    /// Down to `σ_down`, then noise of `σ_up`, so that `σ_down² + σ_up² = σ'²`.
    fn step(&mut self, i: usize, input: &StepInput, noise: &mut dyn NoiseSource) -> Result<Step> {
        self.check_step(i)?;
        input.check(CLASS)?;
        let sigma = self.ladder.sigma(CLASS, At::Step(i))?;
        let next = self.ladder.sigma(CLASS, At::Step(i + 1))?;
        self.sequence.enter(CLASS, i, input.sample.len())?;
        let original = original(self.prediction, sigma, input.sample, input.output);
        let up = (next * next * (sigma * sigma - next * next) / (sigma * sigma)).max(0.0).sqrt();
        let down = (next * next - up * up).max(0.0).sqrt();
        let share = (down - sigma) / sigma;
        let drawn = draw(CLASS, noise, original.len())?;
        let prev_sample = combine(&[(1.0 + share, input.sample), (-share, &original), (up, &drawn)]);
        Ok(Step { prev_sample, pred_original: Some(original) })
    }

    fn scales(&self, at: At) -> Result<(f64, f64)> {
        self.ladder.sigma(CLASS, at).map(|sigma| (1.0, sigma))
    }
}
