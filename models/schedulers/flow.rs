//! Euler's method for rectified flows: a straight path from noise to sample.
//! [Esser et al. 2024](https://arxiv.org/abs/2403.03206).

use muybridge_loaders::Config;

use crate::error::{Error, Result};
use crate::noise::NoiseSource;
use crate::schedulers::combine::combine;
use crate::schedulers::ddpm::draw;
use crate::schedulers::ladder::{Curve, Ladder};
use crate::schedulers::run::Sequence;
use crate::schedulers::spacing::linspace;
use crate::schedulers::{At, Run, Scheduler, Step, StepInput, Tables};

const CLASS: &str = "FlowMatchEulerDiscreteScheduler";

/// `FlowMatchEulerDiscreteScheduler`.
#[derive(Clone, Debug)]
pub struct FlowEuler {
    total: usize,
    shift: Shift,
    curve: Curve,
    /// Time runs from sample to noise.
    invert: bool,
    stochastic: bool,
    lengths: [f64; 4],
    ladder: Ladder,
    sequence: Sequence,
}

/// How noise levels are moved towards noise for large images: section 5.3.2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shift {
    /// Factor of the odds `σ / (1 − σ)`.
    pub(crate) fixed: f64,
    /// The run says how far.
    pub(crate) dynamic: bool,
    /// It says the factor itself, and not its logarithm.
    pub(crate) linear: bool,
    /// Stretched so that the last level is this one.
    pub(crate) terminal: Option<f64>,
}

impl Shift {
    /// Reads the field `fixed`, `use_dynamic_shifting`, `time_shift_type` and `shift_terminal`.
    pub(crate) fn read(config: &Config, fixed: &str) -> Result<Shift> {
        let linear = match config.opt::<String>("time_shift_type")?.as_deref() {
            None | Some("exponential") => false,
            Some("linear") => true,
            Some(other) => {
                let reason = format!("{other} is not known; known: exponential, linear");
                return Err(config.error("time_shift_type", reason).into());
            }
        };
        let terminal: Option<f64> = config.opt("shift_terminal")?;
        if terminal.is_some_and(|t| !(0.0..1.0).contains(&t)) {
            return Err(config.error("shift_terminal", "wanted from 0 to below 1").into());
        }
        let factor: f64 = config.or(fixed, 1.0)?;
        if factor <= 0.0 {
            return Err(config.error(fixed, "is not above 0").into());
        }
        let dynamic = config.or("use_dynamic_shifting", false)?;
        Ok(Shift { fixed: factor, dynamic, linear, terminal: terminal.filter(|t| *t != 0.0) })
    }

    /// The factor of a run.
    pub(crate) fn factor(&self, class: &'static str, run: &Run) -> Result<f64> {
        match (self.dynamic, run.mu) {
            (false, None) => Ok(self.fixed),
            (true, Some(mu)) if self.linear && mu > 0.0 => Ok(mu),
            (true, Some(mu)) if !self.linear => Ok(mu.exp()),
            (true, Some(mu)) => Err(Error::call(class, format!("a shift mu of {mu}, wanted above 0"))),
            (true, None) => Err(Error::call(class, "use_dynamic_shifting wants the option mu")),
            (false, Some(_)) => Err(Error::call(class, "the option mu wants use_dynamic_shifting")),
        }
    }

    /// Moves levels, and stretches them.
    pub(crate) fn apply(&self, factor: f64, sigmas: &mut [f64]) {
        // Two ways to write one formula: timesteps are cut to whole numbers, and then the last bit counts.
        let moved = |s: f64| if self.dynamic { factor / (factor + (1.0 / s - 1.0)) } else { shifted(factor, s) };
        sigmas.iter_mut().for_each(|s| *s = moved(*s));
        if let (Some(terminal), Some(last)) = (self.terminal, sigmas.last().copied()) {
            let scale = (1.0 - last) / (1.0 - terminal);
            if scale > 0.0 {
                sigmas.iter_mut().for_each(|s| *s = 1.0 - (1.0 - *s) / scale);
            }
        }
    }
}

/// `σ` with its odds multiplied: equation 23.
pub(crate) fn shifted(factor: f64, sigma: f64) -> f64 {
    factor * sigma / (1.0 + (factor - 1.0) * sigma)
}

impl FlowEuler {
    /// Reads the fields of a `FlowMatchEulerDiscreteScheduler`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that is not known.
    pub fn read(config: &Config) -> Result<FlowEuler> {
        let total: usize = config.or("num_train_timesteps", 1000)?;
        if total == 0 {
            return Err(config.error("num_train_timesteps", "is 0").into());
        }
        let number = |field, default| config.or(field, default);
        Ok(FlowEuler {
            total,
            shift: Shift::read(config, "shift")?,
            curve: Curve::read(config, false)?,
            invert: config.or("invert_sigmas", false)?,
            stochastic: config.or("stochastic_sampling", false)?,
            lengths: [
                number("base_image_seq_len", 256.0)?,
                number("max_image_seq_len", 4096.0)?,
                number("base_shift", 0.5)?,
                number("max_shift", 1.15)?,
            ],
            ladder: Ladder::default(),
            sequence: Sequence::default(),
        })
    }

    /// The option `mu` for an image of so many tokens: a line through the configuration's two points.
    pub fn mu_of(&self, tokens: usize) -> f64 {
        let [from, to, low, high] = self.lengths;
        low + (high - low) / (to - from) * (tokens as f64 - from)
    }
}

impl Scheduler for FlowEuler {
    fn class(&self) -> &'static str {
        CLASS
    }

    fn tables(&self) -> Option<&Tables> {
        None
    }

    fn set_timesteps(&mut self, run: &Run) -> Result<()> {
        run.check(CLASS, &["mu"])?;
        if run.steps == 0 || run.steps > Config::MAX_LIST {
            return Err(Error::call(CLASS, format!("{} steps, wanted 1 to {}", run.steps, Config::MAX_LIST)));
        }
        let total = self.total as f64;
        // The ends of the grid are those of the training levels, which a fixed shift has already moved.
        let least = if self.shift.dynamic { 1.0 / total } else { shifted(self.shift.fixed, 1.0 / total) };
        let mut sigmas = linspace(1.0, f64::from(least as f32), run.steps);
        self.shift.apply(self.shift.factor(CLASS, run)?, &mut sigmas);
        if let Some(curve) = self.curve.sigmas(sigmas[0], sigmas[sigmas.len() - 1], run.steps) {
            sigmas = curve;
        }
        let last = if self.invert { 1.0 } else { 0.0 };
        if self.invert {
            sigmas.iter_mut().for_each(|s| *s = 1.0 - *s);
        }
        let timesteps: Vec<f64> = sigmas.iter().map(|s| s * total).collect();
        self.ladder = Ladder::of(&timesteps, &sigmas, last);
        self.sequence = Sequence::default();
        Ok(())
    }

    fn timesteps(&self) -> &[f32] {
        &self.ladder.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.ladder.sigmas
    }

    /// `x ← x + (σ' − σ)·o`; stochastic: to the end and back up with fresh noise.
    fn step(&mut self, i: usize, input: &StepInput, noise: &mut dyn NoiseSource) -> Result<Step> {
        self.check_step(i)?;
        input.check(CLASS)?;
        let sigma = self.ladder.sigma(CLASS, At::Step(i))?;
        let next = self.ladder.sigma(CLASS, At::Step(i + 1))?;
        self.sequence.enter(CLASS, i, input.sample.len())?;
        let prev_sample = if self.stochastic {
            let drawn = draw(CLASS, noise, input.sample.len())?;
            let kept = 1.0 - next;
            combine(&[(kept, input.sample), (-sigma * kept, input.output), (next, &drawn)])
        } else {
            combine(&[(1.0, input.sample), (next - sigma, input.output)])
        };
        Ok(Step { prev_sample, pred_original: None })
    }

    fn scales(&self, at: At) -> Result<(f64, f64)> {
        self.ladder.sigma(CLASS, at).map(|sigma| (1.0 - sigma, sigma))
    }
}
