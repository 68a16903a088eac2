//! Heun's method along the probability-flow ODE: two evaluations a step, but for the last.
//! [Karras et al. 2022](https://arxiv.org/abs/2206.00364), algorithm 1.

use muybridge_loaders::Config;

use crate::error::{Error, Result};
use crate::noise::NoiseSource;
use crate::schedulers::combine::combine;
use crate::schedulers::euler::{fractional, initial_sigma, original};
use crate::schedulers::ladder::{Curve, Ladder, interpolate, timestep_of};
use crate::schedulers::prediction::{Limit, VP};
use crate::schedulers::run::Sequence;
use crate::schedulers::spacing::Spacing;
use crate::schedulers::tables::Defaults;
use crate::schedulers::{At, Prediction, Run, Scheduler, Step, StepInput, Tables};

const CLASS: &str = "HeunDiscreteScheduler";
const DEFAULTS: Defaults = Defaults { start: 0.00085, end: 0.012, schedule: "linear" };

/// `HeunDiscreteScheduler`. Every timestep but the first is listed twice.
#[derive(Clone, Debug)]
pub struct Heun {
    tables: Tables,
    prediction: Prediction,
    limit: Limit,
    curve: Curve,
    spacing: Spacing,
    offset: i64,
    ladder: Ladder,
    sequence: Sequence,
    /// Where the step under way began, and its slope there.
    begun: Option<(Vec<f32>, Vec<f32>)>,
}

impl Heun {
    /// Reads the fields of a `HeunDiscreteScheduler`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that is not known.
    pub fn read(config: &Config) -> Result<Heun> {
        let clip = Limit::read(config, false)?;
        if matches!(clip, Limit::Quantile { .. }) {
            return Err(config.error("thresholding", "is not known here").into());
        }
        Ok(Heun {
            tables: Tables::read(config, &DEFAULTS)?,
            prediction: Prediction::read(config, &VP)?,
            limit: clip,
            curve: Curve::read(config, false)?,
            spacing: Spacing::read(config, Spacing::Linspace)?,
            offset: config.or("steps_offset", 0)?,
            ladder: Ladder::default(),
            sequence: Sequence::default(),
            begun: None,
        })
    }

    fn sigma(&self, i: usize) -> Result<f64> {
        self.ladder.sigma(CLASS, At::Step(i))
    }
}

impl Scheduler for Heun {
    fn class(&self) -> &'static str {
        CLASS
    }

    fn tables(&self) -> Option<&Tables> {
        Some(&self.tables)
    }

    fn set_timesteps(&mut self, run: &Run) -> Result<()> {
        run.check(CLASS, &[])?;
        let table = self.tables.sigmas();
        let mut timesteps = fractional(self.spacing, &self.tables, run.steps, self.offset, CLASS)?;
        let mut sigmas: Vec<f64> = timesteps.iter().map(|t| interpolate(&table, *t)).collect();
        if let Some(curve) = self.curve.sigmas(sigmas[0], sigmas[sigmas.len() - 1], run.steps) {
            timesteps = curve.iter().map(|s| timestep_of(*s, &table)).collect();
            sigmas = curve;
        }
        let twice = |v: &[f64]| v.iter().enumerate().flat_map(|(i, x)| vec![*x; if i == 0 { 1 } else { 2 }]).collect();
        let (timesteps, sigmas): (Vec<f64>, Vec<f64>) = (twice(&timesteps), twice(&sigmas));
        self.ladder = Ladder::of(&timesteps, &sigmas, 0.0);
        self.sequence = Sequence::default();
        self.begun = None;
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

    fn order(&self) -> usize {
        2
    }

    fn scale_model_input(&self, sample: &[f32], i: usize) -> Result<Vec<f32>> {
        self.check_step(i)?;
        let sigma = self.sigma(i)?;
        Ok(combine(&[(1.0 / (sigma * sigma + 1.0).sqrt(), sample)]))
    }

    /// An Euler step; where it is not the last, its repetition with the mean of the slopes at both ends.
    fn step(&mut self, i: usize, input: &StepInput, _: &mut dyn NoiseSource) -> Result<Step> {
        self.check_step(i)?;
        input.check(CLASS)?;
        self.sequence.enter(CLASS, i, input.sample.len())?;
        let here = self.sigma(i)?;
        if here == 0.0 {
            return Err(Error::call(CLASS, format!("step {i} has no noise to take away")));
        }
        let original = original(self.prediction, here, input.sample, input.output);
        let original = self.limit.apply(original, input.batch);
        let slope = combine(&[(1.0 / here, input.sample), (-1.0 / here, &original)]);
        let prev_sample = match self.begun.take() {
            None => {
                let stride = self.sigma(i + 1)? - here;
                let euler = combine(&[(1.0, input.sample), (stride, &slope)]);
                self.begun = Some((input.sample.to_vec(), slope));
                euler
            }
            Some((sample, before)) => {
                let stride = here - self.sigma(i - 1)?;
                combine(&[(1.0, &sample), (0.5 * stride, &before), (0.5 * stride, &slope)])
            }
        };
        Ok(Step { prev_sample, pred_original: Some(original) })
    }

    fn scales(&self, at: At) -> Result<(f64, f64)> {
        self.ladder.sigma(CLASS, at).map(|sigma| (1.0, sigma))
    }
}
