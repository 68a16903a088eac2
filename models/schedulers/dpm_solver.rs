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
    first_midpoint: f64,
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

    fn factors(&self, from: Level, to: Level) -> Factors {
        let h = to.lambda - from.lambda;
        // Everything below is one formula for four solvers: `k` is the exponent's rate, `c` what stands before it.
        let c = if self.data { to.alpha } else { -to.sigma };
        let k = if self.stochastic && self.data { -2.0 * h } else if self.data { -h } else { h };
        let e = k.exp_m1();
        let twice = if self.stochastic && !self.data { 2.0 } else { 1.0 };
        let slope = twice * c * (e / k - 1.0);
        let sign = if self.data { 1.0 } else { -1.0 };
        let _ = sign;
        Factors {
            sample: match (self.data, self.stochastic) {
                (true, false) => to.sigma / from.sigma,
                (true, true) => to.sigma / from.sigma * (-h).exp(),
                (false, _) => to.alpha / from.alpha,
            },
            prediction: 0.0,
            first_midpoint: 0.0,
            first: slope,
            second: 0.0,
            noise: 0.0,
        }
    }
}
