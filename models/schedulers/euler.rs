//! Euler's method along the probability-flow ODE, with churn or without.
//! [Karras et al. 2022](https://arxiv.org/abs/2206.00364), algorithm 2 without its second half.

use muybridge_loaders::Config;

use crate::error::Result;
use crate::noise::NoiseSource;
use crate::schedulers::combine::combine;
use crate::schedulers::ddpm::draw;
use crate::schedulers::ladder::{Curve, Ends, Ladder, ends_at_least, interpolate, timestep_of};
use crate::schedulers::prediction::VP;
use crate::schedulers::run::Sequence;
use crate::schedulers::spacing::{Layout, Spacing, linspace_f32};
use crate::schedulers::tables::LINEAR;
use crate::schedulers::{At, Churn, Prediction, Run, Scheduler, Step, StepInput, Tables};

const CLASS: &str = "EulerDiscreteScheduler";
/// Signal power that stands for none: noise levels stay finite.
pub(crate) const FLOOR: f32 = 1.0 / 16_777_216.0;

/// `EulerDiscreteScheduler`.
#[derive(Clone, Debug)]
pub struct Euler {
    tables: Tables,
    prediction: Prediction,
    curve: Curve,
    ends: Ends,
    /// Levels are even in `ln σ` before a curve is laid over them.
    log_linear: bool,
    /// The network reads `ln σ / 4`.
    continuous: bool,
    ends_at_least: bool,
    spacing: Spacing,
    offset: i64,
    ladder: Ladder,
    churn: Churn,
    sequence: Sequence,
}

impl Euler {
    /// Reads the fields of an `EulerDiscreteScheduler`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that is not known.
    pub fn read(config: &Config) -> Result<Euler> {
        let prediction = Prediction::read(config, &VP)?;
        let continuous = choice(config, "timestep_type", ["discrete", "continuous"])?;
        Ok(Euler {
            tables: Tables::read_rescaled(config, &LINEAR, Some(FLOOR))?,
            prediction,
            curve: Curve::read(config, false)?,
            ends: Ends::read(config)?,
            log_linear: choice(config, "interpolation_type", ["linear", "log_linear"])?,
            continuous: continuous && prediction == Prediction::Velocity,
            ends_at_least: ends_at_least(config)?,
            spacing: Spacing::read(config, Spacing::Linspace)?,
            offset: config.or("steps_offset", 0)?,
            ladder: Ladder::default(),
            churn: Churn::default(),
            sequence: Sequence::default(),
        })
    }

    /// Noise levels without the last, and their timesteps.
    fn levels(&self, n: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let table = self.tables.sigmas();
        let mut timesteps = fractional(self.spacing, &self.tables, n, self.offset, CLASS)?;
        let mut sigmas: Vec<f64> = timesteps.iter().map(|t| interpolate(&table, *t)).collect();
        if self.log_linear {
            let (low, high) = (f64::from(table[0]).ln(), f64::from(table[table.len() - 1]).ln());
            sigmas = linspace_f32(high, low, n + 1).into_iter().map(|l| f64::from(l).exp()).collect();
        }
        let most = self.ends.most.unwrap_or(sigmas[0]);
        let least = self.ends.least.unwrap_or(sigmas[sigmas.len() - 1]);
        if let Some(curve) = self.curve.sigmas(most, least, n) {
            timesteps = curve.iter().map(|s| timestep_of(*s, &table)).collect();
            sigmas = curve;
        }
        Ok((timesteps, sigmas))
    }
}

/// Timesteps of the schedulers that allow fractions, as they hand them out: rounded to f32.
pub(crate) fn fractional(
    spacing: Spacing,
    tables: &Tables,
    n: usize,
    offset: i64,
    class: &'static str,
) -> Result<Vec<f64>> {
    let timesteps = spacing.timesteps(class, Layout::Fractional, tables.len(), n, offset)?;
    Ok(timesteps.into_iter().map(|t| f64::from(t as f32)).collect())
}

/// Reads a field that says the first name or the second: whether it is the second.
fn choice(config: &Config, field: &str, names: [&str; 2]) -> Result<bool> {
    match config.opt::<String>(field)?.as_deref() {
        None => Ok(false),
        Some(name) if name == names[0] => Ok(false),
        Some(name) if name == names[1] => Ok(true),
        Some(other) => Err(config.error(field, format!("{other} is not known; known: {}", names.join(", "))).into()),
    }
}

/// Standard deviation that a run begins with: schedules that do not reach the end of the table begin with signal in it.
pub(crate) fn initial_sigma(spacing: Spacing, sigmas: &[f32]) -> f32 {
    let most = sigmas.iter().copied().fold(0.0, f32::max);
    if spacing == Spacing::Leading { (most * most + 1.0).sqrt() } else { most }
}

/// The sample without noise in the variance-exploding frame.
pub(crate) fn original(prediction: Prediction, sigma: f64, sample: &[f32], output: &[f32]) -> Vec<f32> {
    match prediction {
        Prediction::Sample => output.to_vec(),
        Prediction::Velocity => {
            let norm = sigma * sigma + 1.0;
            combine(&[(-sigma / norm.sqrt(), output), (1.0 / norm, sample)])
        }
        Prediction::Epsilon | Prediction::Flow => combine(&[(1.0, sample), (-sigma, output)]),
    }
}

impl Scheduler for Euler {
    fn class(&self) -> &'static str {
        CLASS
    }

    fn tables(&self) -> Option<&Tables> {
        Some(&self.tables)
    }

    fn set_timesteps(&mut self, run: &Run) -> Result<()> {
        run.check(CLASS, &["churn"])?;
        let (timesteps, sigmas) = self.levels(run.steps)?;
        let last = if self.ends_at_least { f64::from(self.tables.sigmas()[0]) } else { 0.0 };
        self.ladder = Ladder::of(&timesteps, &sigmas, last);
        if self.continuous {
            let quarter_log = |s: &f32| (0.25 * f64::from(*s).ln()) as f32;
            let levels = self.ladder.sigmas.len() - 1;
            self.ladder.timesteps = self.ladder.sigmas[..levels].iter().map(quarter_log).collect();
        }
        self.churn = run.churn;
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

    /// `x ← x + (x − x0)/σ̂ · (σ' − σ̂)`.
    fn step(&mut self, i: usize, input: &StepInput, noise: &mut dyn NoiseSource) -> Result<Step> {
        self.check_step(i)?;
        input.check(CLASS)?;
        let sigma = self.ladder.sigma(CLASS, At::Step(i))?;
        let next = self.ladder.sigma(CLASS, At::Step(i + 1))?;
        self.sequence.enter(CLASS, i, input.sample.len())?;
        let Churn { amount, from, to, noise: level } = self.churn;
        let share = amount / (self.ladder.sigmas.len() - 1) as f64;
        let gamma = if (from..=to).contains(&sigma) { share.min(2f64.sqrt() - 1.0) } else { 0.0 };
        let raised = sigma * (gamma + 1.0);
        let mut sample = input.sample.to_vec();
        if gamma > 0.0 {
            let drawn = draw(CLASS, noise, sample.len())?;
            sample = combine(&[(1.0, &sample), (level * (raised * raised - sigma * sigma).sqrt(), &drawn)]);
        }
        let at = if self.prediction == Prediction::Epsilon { raised } else { sigma };
        let original = original(self.prediction, at, &sample, input.output);
        let share = (next - raised) / raised;
        let prev_sample = combine(&[(1.0 + share, &sample), (-share, &original)]);
        Ok(Step { prev_sample, pred_original: Some(original) })
    }

    fn scales(&self, at: At) -> Result<(f64, f64)> {
        self.ladder.sigma(CLASS, at).map(|sigma| (1.0, sigma))
    }
}
