//! What a pipeline asks of a run beside its tensors.

use crate::error::{Error, Result};

/// How a trajectory is to be run. Options that a scheduler does not know are refused where they are not at their default.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Number of steps. Heun and PNDM evaluate the network more often than that.
    pub steps: usize,
    /// Share of fresh noise in each step, from 0 (deterministic) to 1 (DDIM).
    pub eta: f64,
    /// Derive the noise estimate again from the clipped sample (DDIM).
    pub use_clipped_model_output: bool,
    /// Noise put back before a step (Euler).
    pub churn: Churn,
    /// Shift of the noise levels for this resolution (schedulers with `use_dynamic_shifting`).
    pub mu: Option<f64>,
    /// Share of the distilled schedule that is walked (LCM).
    pub strength: f64,
    /// Steps of the distilled schedule, where not those of the configuration (LCM).
    pub original_steps: Option<usize>,
}

impl Run {
    /// A run of so many steps, everything else at its default.
    pub fn of(steps: usize) -> Run {
        Run {
            steps,
            eta: 0.0,
            use_clipped_model_output: false,
            churn: Churn::default(),
            mu: None,
            strength: 1.0,
            original_steps: None,
        }
    }

    /// Refuses options outside `known`, and numbers that are none.
    pub(crate) fn check(&self, class: &'static str, known: &[&str]) -> Result<()> {
        let plain = Run::of(self.steps);
        let set = [
            ("eta", self.eta != plain.eta),
            ("use_clipped_model_output", self.use_clipped_model_output),
            ("churn", self.churn != plain.churn),
            ("mu", self.mu.is_some()),
            ("strength", self.strength != plain.strength),
            ("original_steps", self.original_steps.is_some()),
        ];
        if let Some((name, _)) = set.iter().find(|(name, set)| *set && !known.contains(name)) {
            return Err(Error::call(class, format!("does not know the option {name}")));
        }
        let Churn { amount, noise, from, to } = self.churn;
        let finite = [self.eta, self.strength, self.mu.unwrap_or(0.0), amount, noise].iter().all(|v| v.is_finite());
        if !finite || from.is_nan() || to.is_nan() || self.eta < 0.0 || amount < 0.0 {
            return Err(Error::call(class, format!("options that are no numbers or below 0: {self:?}")));
        }
        Ok(())
    }
}

/// Stochasticity of [Karras et al. 2022](https://arxiv.org/abs/2206.00364), algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// `S_churn`: noise put back over the whole run.
    pub amount: f64,
    /// `S_tmin`: smallest noise level that is churned.
    pub from: f64,
    /// `S_tmax`: largest noise level that is churned.
    pub to: f64,
    /// `S_noise`: standard deviation of what is put back.
    pub noise: f64,
}

impl Default for Churn {
    fn default() -> Churn {
        Churn { amount: 0.0, from: 0.0, to: f64::INFINITY, noise: 1.0 }
    }
}

/// The order in which steps come: any one first, then one after the other, with samples of one length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sequence {
    /// The step that comes next and the length of its sample.
    next: Option<(usize, usize)>,
}

impl Sequence {
    /// Enters step `i` with a sample of `n` elements.
    pub(crate) fn enter(&mut self, class: &'static str, i: usize, n: usize) -> Result<()> {
        match self.next {
            Some((next, _)) if next != i => Err(Error::call(class, format!("step {i}, where step {next} comes next"))),
            Some((_, before)) if before != n => {
                Err(Error::call(class, format!("a sample of {n} elements, where the run began with {before}")))
            }
            _ => {
                self.next = Some((i + 1, n));
                Ok(())
            }
        }
    }
}
