//! DDIM: implicit sampling, deterministic at `η = 0`. [Song et al. 2021](https://arxiv.org/abs/2010.02502).

use muybridge_loaders::Config;

use crate::error::Result;
use crate::noise::NoiseSource;
use crate::schedulers::combine::combine;
use crate::schedulers::ddpm::{draw, table_scales};
use crate::schedulers::prediction::{Limit, VP};
use crate::schedulers::run::Sequence;
use crate::schedulers::spacing::{Layout, Spacing};
use crate::schedulers::tables::LINEAR;
use crate::schedulers::{At, Prediction, Run, Scheduler, Step, StepInput, Tables};

const CLASS: &str = "DDIMScheduler";

/// `DDIMScheduler`.
#[derive(Clone, Debug)]
pub struct Ddim {
    tables: Tables,
    prediction: Prediction,
    limit: Limit,
    /// Signal power after the last step.
    final_power: f64,
    spacing: Spacing,
    offset: i64,
    timesteps: Vec<f32>,
    run: Run,
    sequence: Sequence,
}

impl Ddim {
    /// Reads the fields of a `DDIMScheduler`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that is not known.
    pub fn read(config: &Config) -> Result<Ddim> {
        let tables = Tables::read_rescaled(config, &LINEAR, None)?;
        Ok(Ddim {
            prediction: Prediction::read(config, &VP)?,
            limit: Limit::read(config, true)?,
            final_power: final_power(config, &tables, true)?,
            tables,
            spacing: Spacing::read(config, Spacing::Leading)?,
            offset: config.or("steps_offset", 0)?,
            timesteps: Vec::new(),
            run: Run::of(1),
            sequence: Sequence::default(),
        })
    }
}

/// Reads `set_alpha_to_one`: the signal power that is aimed at below timestep 0.
pub(crate) fn final_power(config: &Config, tables: &Tables, default: bool) -> Result<f64> {
    let one = config.or("set_alpha_to_one", default)?;
    Ok(if one { 1.0 } else { tables.alphas_cumprod.first().map_or(1.0, |a| f64::from(*a)) })
}

impl Scheduler for Ddim {
    fn class(&self) -> &'static str {
        CLASS
    }

    fn tables(&self) -> Option<&Tables> {
        Some(&self.tables)
    }

    fn set_timesteps(&mut self, run: &Run) -> Result<()> {
        run.check(CLASS, &["eta", "use_clipped_model_output"])?;
        let timesteps = self.spacing.timesteps(CLASS, Layout::Whole, self.tables.len(), run.steps, self.offset)?;
        self.timesteps = timesteps.into_iter().map(|t| t as f32).collect();
        self.run = run.clone();
        self.sequence = Sequence::default();
        Ok(())
    }

    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// Equation 12. The step aims one whole stride down, which is not always the next timestep that is visited.
    fn step(&mut self, i: usize, input: &StepInput, noise: &mut dyn NoiseSource) -> Result<Step> {
        self.check_step(i)?;
        input.check(CLASS)?;
        let t = f64::from(self.timesteps[i]);
        let aim = t - (self.tables.len() / self.run.steps) as f64;
        let now = self.tables.power(CLASS, t)?;
        let after = if aim >= 0.0 { self.tables.power(CLASS, aim)? } else { self.final_power };
        self.sequence.enter(CLASS, i, input.sample.len())?;
        let (a, s) = (now.sqrt(), (1.0 - now).sqrt());
        let original = self.prediction.original(CLASS, (a, s), input.sample, input.output)?;
        let original = self.limit.apply(original, input.batch);
        let epsilon = if self.run.use_clipped_model_output {
            combine(&[(1.0 / s, input.sample), (-a / s, &original)])
        } else {
            self.prediction.epsilon(CLASS, (a, s), input.sample, input.output)?
        };
        let variance = (1.0 - after) / (1.0 - now) * (1.0 - now / after);
        let deviation = self.run.eta * variance.max(0.0).sqrt();
        let direction = (1.0 - after - deviation * deviation).max(0.0).sqrt();
        let drawn = if self.run.eta > 0.0 { draw(CLASS, noise, original.len())? } else { Vec::new() };
        let mut terms = vec![(after.sqrt(), original.as_slice()), (direction, &epsilon)];
        if !drawn.is_empty() {
            terms.push((deviation, &drawn));
        }
        Ok(Step { prev_sample: combine(&terms), pred_original: Some(original) })
    }

    fn scales(&self, at: At) -> Result<(f64, f64)> {
        table_scales(&self.tables, CLASS, &self.timesteps, at)
    }
}
