//! DDPM: ancestral sampling along the training schedule. [Ho et al. 2020](https://arxiv.org/abs/2006.11239).

use muybridge_loaders::Config;

use crate::error::{Error, Result};
use crate::noise::NoiseSource;
use crate::schedulers::combine::combine;
use crate::schedulers::prediction::{Limit, VP};
use crate::schedulers::run::Sequence;
use crate::schedulers::spacing::{Layout, Spacing};
use crate::schedulers::tables::LINEAR;
use crate::schedulers::{At, Prediction, Run, Scheduler, Step, StepInput, Tables};

const CLASS: &str = "DDPMScheduler";

/// `DDPMScheduler`.
#[derive(Clone, Debug)]
pub struct Ddpm {
    tables: Tables,
    prediction: Prediction,
    limit: Limit,
    variance: Variance,
    spacing: Spacing,
    offset: i64,
    timesteps: Vec<f32>,
    sequence: Sequence,
}

/// How much noise a step adds. `β̃` is the variance of the posterior, equation 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variance {
    /// `β̃`.
    Small,
    /// `β`, the variance of the forward step.
    Large,
    /// As the network predicts it.
    Learned,
    /// Between the logarithms of the two: Nichol and Dhariwal 2021, equation 15.
    LearnedRange,
}

impl Ddpm {
    /// Reads the fields of a `DDPMScheduler`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that is not known.
    pub fn read(config: &Config) -> Result<Ddpm> {
        let kind = config.opt::<String>("variance_type")?;
        let variance = match kind.as_deref() {
            None | Some("fixed_small" | "fixed_small_log") => Variance::Small,
            Some("fixed_large") => Variance::Large,
            Some("learned") => Variance::Learned,
            Some("learned_range") => Variance::LearnedRange,
            Some(other) => {
                let known = "fixed_small, fixed_small_log, fixed_large, learned, learned_range";
                return Err(config.error("variance_type", format!("{other} is not known; known: {known}")).into());
            }
        };
        Ok(Ddpm {
            tables: Tables::read_rescaled(config, &LINEAR, None)?,
            prediction: Prediction::read(config, &VP)?,
            limit: Limit::read(config, true)?,
            variance,
            spacing: Spacing::read(config, Spacing::Leading)?,
            offset: config.or("steps_offset", 0)?,
            timesteps: Vec::new(),
            sequence: Sequence::default(),
        })
    }

    /// Signal power at step `i` and at the step after it.
    fn powers(&self, i: usize) -> Result<(f64, f64)> {
        let power = |t: &f32| self.tables.power(CLASS, f64::from(*t));
        let after = self.timesteps.get(i + 1).map_or(Ok(1.0), power)?;
        Ok((power(&self.timesteps[i])?, after))
    }

    /// Standard deviations of the noise that a step adds, one for all elements or one for each.
    fn deviations(&self, now: f64, after: f64, predicted: &[f32]) -> Vec<f64> {
        let beta = 1.0 - now / after;
        let posterior = ((1.0 - after) / (1.0 - now) * beta).max(1e-20);
        match self.variance {
            Variance::Small => vec![posterior.sqrt()],
            Variance::Large => vec![beta.sqrt()],
            Variance::Learned => predicted.iter().map(|v| f64::from(*v).sqrt()).collect(),
            Variance::LearnedRange => {
                let (low, high) = (posterior.ln(), beta.ln());
                let between = |v: &f32| (0.5 * (low + (f64::from(*v) + 1.0) / 2.0 * (high - low))).exp();
                predicted.iter().map(between).collect()
            }
        }
    }
}

impl Scheduler for Ddpm {
    fn class(&self) -> &'static str {
        CLASS
    }

    fn tables(&self) -> Option<&Tables> {
        Some(&self.tables)
    }

    fn set_timesteps(&mut self, run: &Run) -> Result<()> {
        run.check(CLASS, &[])?;
        let timesteps = self.spacing.timesteps(CLASS, Layout::Whole, self.tables.len(), run.steps, self.offset)?;
        self.timesteps = timesteps.into_iter().map(|t| t as f32).collect();
        self.sequence = Sequence::default();
        Ok(())
    }

    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// Equations 6 and 7: `x ← c₀·x0 + c₁·x + σ·z`.
    fn step(&mut self, i: usize, input: &StepInput, noise: &mut dyn NoiseSource) -> Result<Step> {
        self.check_step(i)?;
        let learned = matches!(self.variance, Variance::Learned | Variance::LearnedRange);
        let (output, predicted) = if learned {
            input.split(CLASS)?
        } else {
            input.check(CLASS)?;
            (input.output.to_vec(), Vec::new())
        };
        let (now, after) = self.powers(i)?;
        self.sequence.enter(CLASS, i, input.sample.len())?;
        let original = self.prediction.original(CLASS, (now.sqrt(), (1.0 - now).sqrt()), input.sample, &output)?;
        let original = self.limit.apply(original, input.batch);
        let beta = 1.0 - now / after;
        let of_original = after.sqrt() * beta / (1.0 - now);
        let of_sample = (now / after).sqrt() * (1.0 - after) / (1.0 - now);
        let mut prev_sample = combine(&[(of_original, &original), (of_sample, input.sample)]);
        if self.timesteps[i] > 0.0 {
            let deviations = self.deviations(now, after, &predicted);
            let drawn = draw(CLASS, noise, prev_sample.len())?;
            for ((x, z), deviation) in prev_sample.iter_mut().zip(drawn).zip(deviations.iter().cycle()) {
                *x = (f64::from(*x) + deviation * f64::from(z)) as f32;
            }
        }
        Ok(Step { prev_sample, pred_original: Some(original) })
    }

    fn scales(&self, at: At) -> Result<(f64, f64)> {
        table_scales(&self.tables, CLASS, &self.timesteps, at)
    }
}

/// Signal and noise at a place of a schedule that steps through training timesteps.
pub(crate) fn table_scales(tables: &Tables, class: &'static str, timesteps: &[f32], at: At) -> Result<(f64, f64)> {
    let missing = |i| Error::call(class, format!("step {i} of {}", timesteps.len()));
    let t = match at {
        At::Timestep(t) => t,
        At::Step(i) => *timesteps.get(i).ok_or_else(|| missing(i))?,
    };
    tables.scales(class, f64::from(t))
}

/// Noise for a sample of `n` elements.
pub(crate) fn draw(class: &'static str, noise: &mut dyn NoiseSource, n: usize) -> Result<Vec<f32>> {
    let drawn = noise.normal(n)?;
    let short = || Error::call(class, format!("{} numbers of noise, where {n} were asked for", drawn.len()));
    if drawn.len() == n { Ok(drawn) } else { Err(short()) }
}
