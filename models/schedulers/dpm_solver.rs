//! DPM-Solver and DPM-Solver++, multistep, as ODE and as SDE solvers of order 1 to 3.
//! [Lu et al. 2022a](https://arxiv.org/abs/2206.00927), [2022b](https://arxiv.org/abs/2211.01095), appendices A and B.

use muybridge_loaders::Config;

use crate::error::Result;
use crate::noise::NoiseSource;
use crate::schedulers::combine::combine;
use crate::schedulers::ddpm::draw;
use crate::schedulers::multistep::{Family, Level, Multistep};
use crate::schedulers::{At, Prediction, Run, Scheduler, Step, StepInput, Tables};

const CLASS: &str = "DPMSolverMultistepScheduler";

/// `DPMSolverMultistepScheduler`.
#[derive(Clone, Debug)]
pub struct DpmSolver {
    core: Multistep,
    /// Predictions are of the sample, and not of the noise.
    data: bool,
    stochastic: bool,
    /// Order 2 integrates the slope exactly, instead of taking it at the middle.
    heun: bool,
    euler_at_final: bool,
    learned_variance: bool,
}

/// Factors of a step: of the sample, of the newest prediction and its first and second differences, and of fresh noise.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Factors {
    sample: f64,
    prediction: f64,
    first: f64,
    second: f64,
    noise: f64,
}

impl DpmSolver {
    /// Reads the fields of a `DPMSolverMultistepScheduler`.
    ///
    /// # Errors
    /// A field of the wrong type, a value that is not known, or fields that exclude each other.
    pub fn read(config: &Config) -> Result<DpmSolver> {
        let core = Multistep::read(config, CLASS, Family::DpmSolver)?;
        let algorithm = config.opt("algorithm_type")?.unwrap_or_else(|| "dpmsolver++".to_string());
        let (data, stochastic) = match algorithm.as_str() {
            "dpmsolver++" | "deis" => (true, false),
            "dpmsolver" => (false, false),
            "sde-dpmsolver++" => (true, true),
            "sde-dpmsolver" => (false, true),
            other => {
                let known = "dpmsolver++, dpmsolver, sde-dpmsolver++, sde-dpmsolver";
                return Err(config.error("algorithm_type", format!("{other} is not known; known: {known}")).into());
            }
        };
        if !data && !core.ends_at_least {
            return Err(config.error("final_sigmas_type", format!("{algorithm} wants sigma_min")).into());
        }
        if !data && stochastic && core.order == 3 {
            return Err(config.error("solver_order", format!("{algorithm} goes up to 2")).into());
        }
        if !data && core.prediction == Prediction::Flow {
            return Err(config.error("prediction_type", format!("{algorithm} does not know flow_prediction")).into());
        }
        let heun = match config.opt::<String>("solver_type")?.as_deref() {
            None | Some("midpoint" | "logrho" | "bh1" | "bh2") => false,
            Some("heun") => true,
            Some(other) => {
                return Err(config.error("solver_type", format!("{other} is not known; known: midpoint, heun")).into());
            }
        };
        let learned_variance = match config.opt::<String>("variance_type")?.as_deref() {
            Some("learned" | "learned_range") => core.prediction == Prediction::Epsilon,
            _ => false,
        };
        let euler_at_final = config.or("euler_at_final", false)?;
        Ok(DpmSolver { core, data, stochastic, heun, euler_at_final, learned_variance })
    }

    /// The order of step `i`: what the memory allows, and less towards the end.
    fn order(&self, i: usize) -> usize {
        let core = &self.core;
        let last = i + 1 == core.ladder.timesteps.len();
        let still = core.ladder.sigmas[i] == core.ladder.sigmas[i + 1];
        if still || (last && (self.euler_at_final || !core.ends_at_least)) || core.nears_end(i, 0) {
            1
        } else if core.nears_end(i, 1) {
            core.recent.len().min(2)
        } else {
            core.recent.len()
        }
    }

    /// With `k` the rate of the exponential that is integrated and `E = e^k − 1`: the prediction has the factor `-c·E`, its
    /// slope `-c·(E/k − 1)` and its curvature `-c·((E − k)/k² − 1/2)`, for all four solvers.
    fn factors(&self, from: Level, to: Level, order: usize) -> Factors {
        let h = to.lambda - from.lambda;
        let (c, k) = match (self.data, self.stochastic) {
            (true, false) => (to.alpha, -h),
            (true, true) => (to.alpha, -2.0 * h),
            (false, false) => (to.sigma, h),
            (false, true) => (2.0 * to.sigma, h),
        };
        let e = k.exp_m1();
        let midpoint = order == 2 && !self.heun;
        // The published SDE solver of order 3 has this one sign the other way round.
        let half = if self.stochastic { -0.5 } else { 0.5 };
        let diffusion = if self.data { 1.0 - (-2.0 * h).exp() } else { (2.0 * h).exp() - 1.0 };
        Factors {
            sample: match (self.data, self.stochastic) {
                (true, false) => to.sigma / from.sigma,
                (true, true) => to.sigma / from.sigma * (-h).exp(),
                (false, _) => to.alpha / from.alpha,
            },
            prediction: -c * e,
            first: if midpoint { -0.5 * c * e } else { -c * (e / k - 1.0) },
            second: -c * ((e - k) / (k * k) - half),
            noise: to.sigma * diffusion.max(0.0).sqrt(),
        }
    }

    /// Weights of the recent predictions, newest first: their differences over the steps' lengths, written out.
    fn weights(&self, i: usize, f: &Factors, order: usize) -> Result<Vec<f64>> {
        let (to, now) = (self.core.level(i + 1)?, self.core.level(i)?);
        let h = to.lambda - now.lambda;
        if order == 1 {
            return Ok(vec![f.prediction]);
        }
        let before = self.core.level(i - 1)?;
        let r0 = (now.lambda - before.lambda) / h;
        if order == 2 {
            return Ok(vec![f.prediction + f.first / r0, -f.first / r0]);
        }
        let r1 = (before.lambda - self.core.level(i - 2)?.lambda) / h;
        // Slope and curvature in the two first differences: Lu et al. 2022b, algorithm of appendix B.
        let slope = [1.0 + r0 / (r0 + r1), -r0 / (r0 + r1)];
        let curvature = [1.0 / (r0 + r1), -1.0 / (r0 + r1)];
        let newer = (f.first * slope[0] + f.second * curvature[0]) / r0;
        let older = (f.first * slope[1] + f.second * curvature[1]) / r1;
        Ok(vec![f.prediction + newer, older - newer, -older])
    }
}

impl Scheduler for DpmSolver {
    fn class(&self) -> &'static str {
        CLASS
    }

    fn tables(&self) -> Option<&Tables> {
        Some(&self.core.tables)
    }

    fn set_timesteps(&mut self, run: &Run) -> Result<()> {
        self.core.set_timesteps(run)
    }

    fn timesteps(&self) -> &[f32] {
        &self.core.ladder.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.core.ladder.sigmas
    }

    fn step(&mut self, i: usize, input: &StepInput, noise: &mut dyn NoiseSource) -> Result<Step> {
        self.check_step(i)?;
        let output = if self.learned_variance {
            input.split(CLASS)?.0
        } else {
            input.check(CLASS)?;
            input.output.to_vec()
        };
        self.core.sequence.enter(CLASS, i, input.sample.len())?;
        let prediction =
            if self.data { self.core.original(i, input, &output)? } else { self.core.epsilon(i, input, &output)? };
        self.core.remember(prediction);
        let order = self.order(i);
        let factors = self.factors(self.core.level(i)?, self.core.level(i + 1)?, order);
        let weights = self.weights(i, &factors, order)?;
        let drawn = if self.stochastic { draw(CLASS, noise, input.sample.len())? } else { Vec::new() };
        let mut terms = vec![(factors.sample, input.sample)];
        terms.extend(weights.iter().copied().zip(self.core.recent.iter().map(Vec::as_slice)));
        if self.stochastic {
            terms.push((factors.noise, &drawn));
        }
        Ok(Step { prev_sample: combine(&terms), pred_original: None })
    }

    fn scales(&self, at: At) -> Result<(f64, f64)> {
        self.core.scales(at)
    }
}
