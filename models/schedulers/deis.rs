//! DEIS: the probability-flow ODE with the prediction of noise interpolated in `ln ρ`, `ρ = s/a`.
//! [Zhang and Chen 2023](https://arxiv.org/abs/2204.13902), section 4 (`ρAB`).

use muybridge_loaders::Config;

use crate::error::Result;
use crate::noise::NoiseSource;
use crate::schedulers::combine::combine;
use crate::schedulers::multistep::{Family, Multistep};
use crate::schedulers::{At, Prediction, Run, Scheduler, Step, StepInput, Tables};

const CLASS: &str = "DEISMultistepScheduler";

/// `DEISMultistepScheduler`.
#[derive(Clone, Debug)]
pub struct Deis {
    core: Multistep,
}

impl Deis {
    /// Reads the fields of a `DEISMultistepScheduler`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that is not known.
    pub fn read(config: &Config) -> Result<Deis> {
        let known = [
            ("algorithm_type", ["deis", "dpmsolver", "dpmsolver++"].as_slice()),
            ("solver_type", &["logrho", "midpoint", "heun", "bh1", "bh2"]),
        ];
        for (field, names) in known {
            if let Some(other) = config.opt::<String>(field)?.filter(|name| !names.contains(&name.as_str())) {
                let reason = format!("{other} is not known; known: {}", names.join(", "));
                return Err(config.error(field, reason).into());
            }
        }
        Ok(Deis { core: Multistep::read(config, CLASS, Family::Deis)? })
    }

    fn order(&self, i: usize) -> usize {
        let most = if self.core.nears_end(i, 0) {
            1
        } else if self.core.nears_end(i, 1) {
            2
        } else {
            3
        };
        self.core.recent.len().min(most)
    }
}

/// `∫ L(ρ) dρ` from `from` to `to`, where `L` is the Lagrange polynomial in `ln ρ` that is 1 at `at` and 0 at `zeros`.
fn lagrange_integral(from: f64, to: f64, at: f64, zeros: &[f64]) -> f64 {
    // In u = ln ρ: ∫ (u − z₁)…(u − zₙ) eᵘ du, by parts, over the product of the polynomial's denominators.
    let antiderivative = |rho: f64| {
        let u = rho.ln();
        match zeros {
            [] => rho,
            [z] => rho * (u - z.ln() - 1.0),
            [y, z] => {
                let (p, q) = (u - y.ln(), u - z.ln());
                rho * (p * q - p - q + 2.0)
            }
            _ => f64::NAN,
        }
    };
    let scale: f64 = zeros.iter().map(|z| at.ln() - z.ln()).product();
    (antiderivative(to) - antiderivative(from)) / scale
}

impl Scheduler for Deis {
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

    /// `x' = a'·(x/a + Σ ε_k ∫ L_k dρ)`.
    fn step(&mut self, i: usize, input: &StepInput, _: &mut dyn NoiseSource) -> Result<Step> {
        self.check_step(i)?;
        input.check(CLASS)?;
        self.core.sequence.enter(CLASS, i, input.sample.len())?;
        let original = self.core.original(i, input, input.output)?;
        let scales = self.core.scales(At::Step(i))?;
        self.core.remember(Prediction::Sample.epsilon(CLASS, scales, input.sample, &original)?);
        let order = self.order(i);
        let rho = |level: usize| self.core.scales(At::Step(level)).map(|(alpha, sigma)| sigma / alpha);
        let nodes = (0..order).map(|k| rho(i - k)).collect::<Result<Vec<_>>>()?;
        let (alpha, _) = self.core.scales(At::Step(i + 1))?;
        let (from, to) = (nodes[0], rho(i + 1)?);
        let mut terms = vec![(alpha / scales.0, input.sample)];
        for (k, prediction) in self.core.recent.iter().take(order).enumerate() {
            let zeros: Vec<f64> = (0..order).filter(|j| *j != k).map(|j| nodes[j]).collect();
            terms.push((alpha * lagrange_integral(from, to, nodes[k], &zeros), prediction));
        }
        Ok(Step { prev_sample: combine(&terms), pred_original: None })
    }

    fn scales(&self, at: At) -> Result<(f64, f64)> {
        self.core.scales(at)
    }
}
