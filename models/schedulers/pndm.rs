//! PNDM: pseudo numerical methods, with a warm-up of Runge-Kutta steps or without.
//! [Liu et al. 2022](https://arxiv.org/abs/2202.09778).

use std::collections::VecDeque;

use muybridge_loaders::Config;

use crate::error::{Error, Result};
use crate::noise::NoiseSource;
use crate::schedulers::combine::combine;
use crate::schedulers::ddim::final_power;
use crate::schedulers::ddpm::table_scales;
use crate::schedulers::run::Sequence;
use crate::schedulers::spacing::{Layout, Spacing};
use crate::schedulers::tables::LINEAR;
use crate::schedulers::{At, Prediction, Run, Scheduler, Step, StepInput, Tables};

const CLASS: &str = "PNDMScheduler";
/// Predictions that the multistep formula looks at.
const ORDER: usize = 4;

/// `PNDMScheduler`.
#[derive(Clone, Debug)]
pub struct Pndm {
    tables: Tables,
    prediction: Prediction,
    final_power: f64,
    skip_warm_up: bool,
    spacing: Spacing,
    offset: i64,
    steps: usize,
    timesteps: Vec<f32>,
    /// How many of the timesteps belong to the warm-up.
    warm_up: usize,
    sequence: Sequence,
    /// Steps taken. The formulas go by this and not by the place in the schedule.
    taken: usize,
    /// Recent predictions, the newest last.
    recent: VecDeque<Vec<f32>>,
    /// Sum of the predictions of a Runge-Kutta step.
    sum: Vec<f32>,
    /// The sample that a step of several evaluations starts from.
    start: Vec<f32>,
}

impl Pndm {
    /// Reads the fields of a `PNDMScheduler`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that is not known.
    pub fn read(config: &Config) -> Result<Pndm> {
        let tables = Tables::read(config, &LINEAR)?;
        Ok(Pndm {
            prediction: Prediction::read(config, &[Prediction::Epsilon, Prediction::Velocity])?,
            final_power: final_power(config, &tables, false)?,
            tables,
            skip_warm_up: config.or("skip_prk_steps", false)?,
            spacing: Spacing::read(config, Spacing::Leading)?,
            offset: config.or("steps_offset", 0)?,
            steps: 1,
            timesteps: Vec::new(),
            warm_up: 0,
            sequence: Sequence::default(),
            taken: 0,
            recent: VecDeque::new(),
            sum: Vec::new(),
            start: Vec::new(),
        })
    }

    fn stride(&self) -> usize {
        self.tables.len() / self.steps
    }

    /// One evaluation of a classical Runge-Kutta step: equation 13.
    fn runge_kutta(&mut self, i: usize, input: &StepInput) -> Result<Vec<f32>> {
        let phase = self.taken % 4;
        let half = if phase % 2 == 1 { 0 } else { self.stride() / 2 };
        let weight = if phase == 0 || phase == 3 { 1.0 / 6.0 } else { 1.0 / 3.0 };
        if phase == 0 {
            self.sum = vec![0.0; input.output.len()];
            self.recent.push_back(input.output.to_vec());
            self.start = input.sample.to_vec();
        }
        self.sum = combine(&[(1.0, &self.sum), (weight, input.output)]);
        let from = self.timesteps[self.taken / 4 * 4];
        let to = f64::from(self.timesteps[i]) - half as f64;
        let output = if phase == 3 { &self.sum } else { input.output };
        self.transfer(&self.start, f64::from(from), to, output)
    }

    /// One step of the linear multistep formula: equation 12. Its first step is taken twice, by Heun's rule.
    fn multistep(&mut self, i: usize, input: &StepInput) -> Result<Vec<f32>> {
        let (t, stride) = (f64::from(self.timesteps[i]), self.stride() as f64);
        let again = self.taken == 1;
        let (from, to) = if again { (t + stride, t) } else { (t, t - stride) };
        if !again {
            while self.recent.len() >= ORDER {
                self.recent.pop_front();
            }
            self.recent.push_back(input.output.to_vec());
        }
        let e: Vec<&[f32]> = self.recent.iter().rev().map(Vec::as_slice).collect();
        let output = match (e.as_slice(), again) {
            ([a], true) => combine(&[(0.5, input.output), (0.5, a)]),
            ([a], false) => a.to_vec(),
            ([a, b], _) => combine(&[(1.5, a), (-0.5, b)]),
            ([a, b, c], _) => combine(&[(23.0 / 12.0, a), (-16.0 / 12.0, b), (5.0 / 12.0, c)]),
            ([a, b, c, d, ..], _) => {
                combine(&[(55.0 / 24.0, a), (-59.0 / 24.0, b), (37.0 / 24.0, c), (-9.0 / 24.0, d)])
            }
            ([], _) => return Err(Error::call(CLASS, "no prediction to step with")),
        };
        if self.taken == 0 {
            self.start = input.sample.to_vec();
        }
        let sample = if again { std::mem::take(&mut self.start) } else { input.sample.to_vec() };
        self.transfer(&sample, from, to, &output)
    }

    /// The sample at timestep `to`, where `output` holds between: equation 11.
    fn transfer(&self, sample: &[f32], from: f64, to: f64, output: &[f32]) -> Result<Vec<f32>> {
        let now = self.tables.power(CLASS, from)?;
        let after = if to >= 0.0 { self.tables.power(CLASS, to)? } else { self.final_power };
        let epsilon = self.prediction.epsilon(CLASS, (now.sqrt(), (1.0 - now).sqrt()), sample, output)?;
        let scale = now * (1.0 - after).sqrt() + (now * (1.0 - now) * after).sqrt();
        Ok(combine(&[((after / now).sqrt(), sample), (-(after - now) / scale, &epsilon)]))
    }
}

impl Scheduler for Pndm {
    fn class(&self) -> &'static str {
        CLASS
    }

    fn tables(&self) -> Option<&Tables> {
        Some(&self.tables)
    }

    fn set_timesteps(&mut self, run: &Run) -> Result<()> {
        run.check(CLASS, &[])?;
        let n = run.steps;
        let down = self.spacing.timesteps(CLASS, Layout::Whole, self.tables.len(), n, self.offset)?;
        if !self.skip_warm_up && down.len() < ORDER {
            return Err(Error::call(CLASS, format!("{n} steps, where the warm-up needs {ORDER}")));
        }
        self.steps = n;
        let (warm_up, rest): (Vec<f64>, Vec<f64>) = if self.skip_warm_up {
            // The second timestep comes twice.
            let twice = down.iter().take(2).chain(down.iter().skip(1)).copied().collect();
            (Vec::new(), if down.len() > 1 { twice } else { down })
        } else {
            // Each of the first three timesteps: itself, the middle between it and the next twice, and the next.
            let half = (self.stride() / 2) as f64;
            let visit = |pair: &[f64]| [pair[0], pair[1] + half, pair[1] + half, pair[1]];
            (down[..ORDER].windows(2).flat_map(visit).collect(), down[ORDER - 1..].to_vec())
        };
        self.warm_up = warm_up.len();
        self.timesteps = warm_up.into_iter().chain(rest).map(|t| t as f32).collect();
        self.sequence = Sequence::default();
        self.taken = 0;
        self.recent.clear();
        Ok(())
    }

    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn step(&mut self, i: usize, input: &StepInput, _: &mut dyn NoiseSource) -> Result<Step> {
        self.check_step(i)?;
        input.check(CLASS)?;
        self.sequence.enter(CLASS, i, input.sample.len())?;
        let warm = self.taken < self.warm_up;
        let prev_sample = if warm { self.runge_kutta(i, input)? } else { self.multistep(i, input)? };
        self.taken += 1;
        Ok(Step { prev_sample, pred_original: None })
    }

    fn scales(&self, at: At) -> Result<(f64, f64)> {
        table_scales(&self.tables, CLASS, &self.timesteps, at)
    }
}
