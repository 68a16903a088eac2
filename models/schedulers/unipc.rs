//! UniPC: a multistep predictor, and a corrector that uses the prediction at the place it arrived at.
//! [Zhao et al. 2023](https://arxiv.org/abs/2302.04867), algorithms 5 to 8.

use muybridge_loaders::Config;

use crate::error::{Error, Result};
use crate::noise::NoiseSource;
use crate::schedulers::combine::combine;
use crate::schedulers::multistep::{Family, Multistep};
use crate::schedulers::prediction::Limit;
use crate::schedulers::{At, Prediction, Run, Scheduler, Step, StepInput, Tables};

const CLASS: &str = "UniPCMultistepScheduler";

/// `UniPCMultistepScheduler`.
#[derive(Clone, Debug)]
pub struct UniPc {
    core: Multistep,
    /// Predictions are of the sample, and not of the noise.
    data: bool,
    /// `B(h) = e^h − 1` instead of `h`.
    exponential: bool,
    /// Steps after which nothing is corrected.
    uncorrected: Vec<usize>,
    /// The corrected sample of the step before, and the order it was left with.
    before: Option<(Vec<f32>, usize)>,
}

impl UniPc {
    /// Reads the fields of a `UniPCMultistepScheduler`.
    ///
    /// # Errors
    /// A field of the wrong type, a value that is not known, or fields that exclude each other.
    pub fn read(config: &Config) -> Result<UniPc> {
        let core = Multistep::read(config, CLASS, Family::UniPc)?;
        if config.has("solver_p") {
            return Err(config.error("solver_p", "another scheduler as predictor is not known").into());
        }
        let exponential = match config.opt::<String>("solver_type")?.as_deref() {
            None | Some("bh2" | "midpoint" | "heun" | "logrho") => true,
            Some("bh1") => false,
            Some(other) => {
                return Err(config.error("solver_type", format!("{other} is not known; known: bh1, bh2")).into());
            }
        };
        let data = config.or("predict_x0", true)?;
        if !data && core.prediction == Prediction::Flow {
            return Err(config.error("prediction_type", "flow_prediction wants predict_x0").into());
        }
        if !data && core.limit != Limit::None {
            return Err(config.error("thresholding", "wants predict_x0").into());
        }
        let uncorrected = config.opt("disable_corrector")?.unwrap_or_default();
        Ok(UniPc { core, data, exponential, uncorrected, before: None })
    }

    /// The sample at level `i + 1` from the one at level `i`, by the `order` newest predictions; with `arrived`, the
    /// prediction at `i + 1`, it is the corrector's. Predictions of steps are newest first.
    fn advance(&self, i: usize, order: usize, sample: &[f32], arrived: Option<&[f32]>) -> Result<Vec<f32>> {
        let (from, to) = (self.core.level(i)?, self.core.level(i + 1)?);
        let h = to.lambda - from.lambda;
        let hh = if self.data { -h } else { h };
        let (scale, kept) =
            if self.data { (to.alpha, to.sigma / from.sigma) } else { (to.sigma, to.alpha / from.alpha) };
        // σ'·(e^h − 1) has a limit where no noise is left.
        let whole = if self.data { scale * hh.exp_m1() } else { to.alpha * from.sigma / from.alpha - to.sigma };
        let mut ratios = Vec::with_capacity(order);
        for k in 1..order {
            ratios.push((self.core.level(i - k)?.lambda - from.lambda) / h);
        }
        ratios.push(1.0);
        let weights = weights(hh, self.exponential, &ratios, arrived.is_some())?;
        let unit = scale * if self.exponential { hh.exp_m1() } else { hh };
        let mut newest = -whole;
        let mut terms = vec![(kept, sample)];
        for (k, rho) in weights.iter().enumerate() {
            let later = match arrived {
                Some(arrived) if k + 1 == order => arrived,
                _ => self.core.recent[k + 1].as_slice(),
            };
            let factor = -unit * rho / ratios[k];
            newest -= factor;
            terms.push((factor, later));
        }
        terms.push((newest, &self.core.recent[0]));
        Ok(combine(&terms))
    }

    /// The order of a step's predictor.
    fn order(&self, i: usize) -> usize {
        let ladder = &self.core.ladder;
        let left = if self.core.lower_order_final { ladder.timesteps.len() - i } else { usize::MAX };
        // Towards a level without noise, or the same level again, there is nothing to extrapolate by.
        let still = ladder.sigmas[i + 1] == 0.0 || ladder.sigmas[i + 1] == ladder.sigmas[i];
        if still { 1 } else { self.core.recent.len().min(left) }
    }
}

/// Weights `ρ` of the differences: the solution of equation 9, without the last unknown for the predictor. At orders 1
/// and 2 one weight is known to be 1/2.
fn weights(hh: f64, exponential: bool, ratios: &[f64], corrects: bool) -> Result<Vec<f64>> {
    let unknowns = if corrects { ratios.len() } else { ratios.len() - 1 };
    if unknowns == 1 {
        return Ok(vec![0.5]);
    }
    let base = if exponential { hh.exp_m1() } else { hh };
    let mut phi = hh.exp_m1() / hh - 1.0;
    let mut factorial = 1.0;
    let mut rows = Vec::with_capacity(unknowns);
    for j in 0..unknowns {
        let mut row: Vec<f64> = ratios[..unknowns].iter().map(|r| r.powi(j as i32)).collect();
        row.push(phi * factorial / base);
        rows.push(row);
        factorial *= (j + 2) as f64;
        phi = phi / hh - 1.0 / factorial;
    }
    solve(rows).ok_or_else(|| Error::call(CLASS, "two noise levels of the schedule are equal"))
}

/// Solves a small linear system whose rows end with their right-hand side, by elimination with pivots.
fn solve(mut rows: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let n = rows.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()))?;
        rows.swap(column, pivot);
        let top = rows[column].clone();
        if top[column] == 0.0 || !top[column].is_finite() {
            return None;
        }
        for (_, row) in rows.iter_mut().enumerate().filter(|(r, _)| *r != column) {
            let factor = row[column] / top[column];
            row.iter_mut().zip(&top).for_each(|(x, t)| *x -= factor * t);
        }
    }
    Some(rows.iter().enumerate().map(|(i, row)| row[n] / row[i]).collect())
}

impl Scheduler for UniPc {
    fn class(&self) -> &'static str {
        CLASS
    }

    fn tables(&self) -> Option<&Tables> {
        Some(&self.core.tables)
    }

    fn set_timesteps(&mut self, run: &Run) -> Result<()> {
        self.before = None;
        self.core.set_timesteps(run)
    }

    fn timesteps(&self) -> &[f32] {
        &self.core.ladder.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.core.ladder.sigmas
    }

    fn step(&mut self, i: usize, input: &StepInput, _: &mut dyn NoiseSource) -> Result<Step> {
        self.check_step(i)?;
        input.check(CLASS)?;
        self.core.sequence.enter(CLASS, i, input.sample.len())?;
        let prediction = if self.data {
            self.core.original(i, input, input.output)?
        } else {
            self.core.epsilon(i, input, input.output)?
        };
        let sample = match self.before.take() {
            Some((before, order)) if !self.uncorrected.contains(&(i - 1)) => {
                self.advance(i - 1, order, &before, Some(&prediction))?
            }
            _ => input.sample.to_vec(),
        };
        self.core.remember(prediction);
        let order = self.order(i);
        let prev_sample = self.advance(i, order, &sample, None)?;
        self.before = Some((sample, order));
        Ok(Step { prev_sample, pred_original: None })
    }

    fn scales(&self, at: At) -> Result<(f64, f64)> {
        self.core.scales(at)
    }
}
