//! LCM: a few steps with a network that was distilled to jump to the end.
//! [Luo et al. 2023](https://arxiv.org/abs/2310.04378).

use muybridge_loaders::Config;

use crate::error::{Error, Result};
use crate::noise::NoiseSource;
use crate::schedulers::combine::combine;
use crate::schedulers::ddpm::{draw, table_scales};
use crate::schedulers::prediction::{Limit, VP};
use crate::schedulers::run::Sequence;
use crate::schedulers::spacing::Spacing;
use crate::schedulers::tables::Defaults;
use crate::schedulers::{At, Prediction, Run, Scheduler, Step, StepInput, Tables};

const CLASS: &str = "LCMScheduler";
const DEFAULTS: Defaults = Defaults { start: 0.00085, end: 0.012, schedule: "scaled_linear" };
/// Standard deviation of the data in the boundary conditions.
const SIGMA_DATA: f64 = 0.5;

/// `LCMScheduler`.
#[derive(Clone, Debug)]
pub struct Lcm {
    tables: Tables,
    prediction: Prediction,
    limit: Limit,
    original_steps: usize,
    timestep_scaling: f64,
    timesteps: Vec<f32>,
    sequence: Sequence,
}

impl Lcm {
    /// Reads the fields of an `LCMScheduler`. The distilled schedule decides the timesteps, whatever their spacing.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that is not known.
    pub fn read(config: &Config) -> Result<Lcm> {
        Spacing::read(config, Spacing::Leading)?;
        Ok(Lcm {
            tables: Tables::read_rescaled(config, &DEFAULTS, None)?,
            prediction: Prediction::read(config, &VP)?,
            limit: Limit::read(config, false)?,
            original_steps: config.or("original_inference_steps", 50)?,
            timestep_scaling: config.or("timestep_scaling", 10.0)?,
            timesteps: Vec::new(),
            sequence: Sequence::default(),
        })
    }
}

impl Scheduler for Lcm {
    fn class(&self) -> &'static str {
        CLASS
    }

    fn tables(&self) -> Option<&Tables> {
        Some(&self.tables)
    }

    /// Picks evenly from the timesteps of the distillation, highest first.
    fn set_timesteps(&mut self, run: &Run) -> Result<()> {
        run.check(CLASS, &["strength", "original_steps"])?;
        let (total, original) = (self.tables.len(), run.original_steps.unwrap_or(self.original_steps));
        if original == 0 || original > total {
            let reason = format!("{original} steps of distillation, where the schedule has {total} timesteps");
            return Err(Error::call(CLASS, reason));
        }
        let kept = (original as f64 * run.strength.clamp(0.0, 1.0)) as usize;
        if run.steps == 0 || run.steps > kept {
            let reason = format!("{} steps, where strength {} leaves {kept} of {original}", run.steps, run.strength);
            return Err(Error::call(CLASS, reason));
        }
        let stride = total / original;
        let share = kept as f64 / run.steps as f64;
        let pick = |k: usize| ((kept - (k as f64 * share).floor() as usize) * stride - 1) as f32;
        self.timesteps = (0..run.steps).map(pick).collect();
        self.sequence = Sequence::default();
        Ok(())
    }

    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// Algorithm 2: jump to the end, then back up to the noise level of the next step.
    fn step(&mut self, i: usize, input: &StepInput, noise: &mut dyn NoiseSource) -> Result<Step> {
        self.check_step(i)?;
        input.check(CLASS)?;
        let t = f64::from(self.timesteps[i]);
        let scales = self.tables.scales(CLASS, t)?;
        self.sequence.enter(CLASS, i, input.sample.len())?;
        let original = self.prediction.original(CLASS, scales, input.sample, input.output)?;
        let original = self.limit.apply(original, input.batch);
        let scaled = t * self.timestep_scaling;
        let norm = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        let skip = SIGMA_DATA * SIGMA_DATA / norm;
        let denoised = combine(&[(scaled / norm.sqrt(), &original), (skip, input.sample)]);
        let prev_sample = match self.timesteps.get(i + 1) {
            None => denoised.clone(),
            Some(next) => {
                let (a, s) = self.tables.scales(CLASS, f64::from(*next))?;
                combine(&[(a, &denoised), (s, &draw(CLASS, noise, denoised.len())?)])
            }
        };
        Ok(Step { prev_sample, pred_original: Some(denoised) })
    }

    fn scales(&self, at: At) -> Result<(f64, f64)> {
        table_scales(&self.tables, CLASS, &self.timesteps, at)
    }
}
