//! Samplers: how a prediction of the network turns a noisy sample into a less noisy one.
//!
//! One file per scheduler, each with the names, defaults and formulas of the configuration class that it reads. All of them
//! run on the host: a sample is a few hundred thousand numbers and a step is one linear combination of a few of them.
//! Tables are held in f32 as checkpoints were trained on them; coefficients are computed from them in f64.
//!
//! Two frames are in use. In the variance-preserving one `x_t = a·x0 + s·ε` with `a² + s² = 1`; in the variance-exploding
//! one `x̄ = x / a = x0 + σ·ε` with `σ = s / a`. `λ = ln a − ln s` is half the log of the signal-to-noise ratio.
//!
//! ```no_run
//! use muybridge::loaders::Config;
//! use muybridge::noise::{NoiseSource, TorchCpu};
//! use muybridge::schedulers::{self, Run, StepInput};
//! # fn network(_: &[f32], _: f32) -> Vec<f32> { Vec::new() }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut scheduler = schedulers::open(&Config::open("sd15/scheduler/scheduler_config.json")?)?;
//! scheduler.set_timesteps(&Run::of(25))?;
//! let mut noise = TorchCpu::new(42);
//! let mut sample = noise.normal(4 * 64 * 64)?;
//! for x in &mut sample {
//!     *x *= scheduler.init_noise_sigma();
//! }
//! for i in 0..scheduler.timesteps().len() {
//!     let scaled = scheduler.scale_model_input(&sample, i)?;
//!     let output = network(&scaled, scheduler.timesteps()[i]);
//!     let input = StepInput { sample: &sample, output: &output, batch: 1 };
//!     sample = scheduler.step(i, &input, &mut noise)?.prev_sample;
//! }
//! # Ok(())
//! # }
//! ```

mod ancestral;
mod beta_quantile;
mod combine;
mod ddim;
mod ddpm;
mod deis;
mod dpm_solver;
mod euler;
mod flow;
mod heun;
mod ladder;
mod lcm;
mod multistep;
mod pndm;
mod prediction;
mod root;
mod run;
pub mod score_sde;
mod spacing;
mod tables;
mod unipc;

use muybridge_loaders::Config;

pub use ancestral::EulerAncestral;
pub use ddim::Ddim;
pub use ddpm::Ddpm;
pub use deis::Deis;
pub use dpm_solver::DpmSolver;
pub use euler::Euler;
pub use flow::FlowEuler;
pub use heun::Heun;
pub use lcm::Lcm;
pub use pndm::Pndm;
pub use prediction::Prediction;
pub use run::{Churn, Run};
pub use tables::Tables;
pub use unipc::UniPc;

use crate::error::{Error, Result};
use crate::noise::NoiseSource;
use combine::combine;

/// What a step reads.
#[derive(Clone, Copy, Debug)]
pub struct StepInput<'a> {
    /// The sample as it stands, before [`Scheduler::scale_model_input`].
    pub sample: &'a [f32],
    /// What the network made of it. Twice as long where the network predicts a variance too.
    pub output: &'a [f32],
    /// Outermost extent of both: dynamic thresholding looks at one item at a time.
    pub batch: usize,
}

/// What a step gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The sample for the next step.
    pub prev_sample: Vec<f32>,
    /// The step's estimate of the sample without noise, where the scheduler makes one.
    pub pred_original: Option<Vec<f32>>,
}

/// A place on the way from noise to sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At {
    /// A training timestep; schedulers that step through noise levels know only those of their schedule.
    Timestep(f32),
    /// A step of the schedule.
    Step(usize),
}

/// A sampler. Steps are taken in order; the first one may be any of the schedule, which is how image-to-image starts.
pub trait Scheduler: Send {
    /// The name of its configuration class.
    fn class(&self) -> &'static str;

    /// The training schedule, where there is one.
    fn tables(&self) -> Option<&Tables>;

    /// Lays out the steps of a run and forgets the run before.
    ///
    /// # Errors
    /// A number of steps that the schedule does not allow, or an option that this scheduler does not know.
    fn set_timesteps(&mut self, run: &Run) -> Result<()>;

    /// The network's timestep of each step. Empty before [`Scheduler::set_timesteps`].
    fn timesteps(&self) -> &[f32];

    /// The noise level before each step and after the last one. Empty where the scheduler knows none.
    fn sigmas(&self) -> &[f32] {
        &[]
    }

    /// What unit noise is multiplied with to begin.
    fn init_noise_sigma(&self) -> f32 {
        1.0
    }

    /// Evaluations of the network that make up one step of a run.
    fn order(&self) -> usize {
        1
    }

    /// The sample as the network wants it at step `i`.
    ///
    /// # Errors
    /// The schedule has no step `i`.
    fn scale_model_input(&self, sample: &[f32], i: usize) -> Result<Vec<f32>> {
        self.check_step(i)?;
        Ok(sample.to_vec())
    }

    /// Takes step `i`.
    ///
    /// # Errors
    /// A step out of order, lengths that do not fit, a timestep outside the training schedule, or the source's errors.
    fn step(&mut self, i: usize, input: &StepInput, noise: &mut dyn NoiseSource) -> Result<Step>;

    /// Factors of signal and noise in a noisy sample.
    ///
    /// # Errors
    /// The schedule has no such place.
    fn scales(&self, at: At) -> Result<(f64, f64)>;

    /// Noisy samples: one place per item of the batch.
    ///
    /// # Errors
    /// Lengths that do not fit, or a place that the schedule does not have.
    fn add_noise(&self, original: &[f32], noise: &[f32], places: &[At]) -> Result<Vec<f32>> {
        let items = items(self.class(), original, noise, places)?;
        let noisy = |(x, z, at)| self.scales(at).map(|(a, s)| combine(&[(a, x), (s, z)]));
        Ok(items.into_iter().map(noisy).collect::<Result<Vec<_>>>()?.concat())
    }

    /// The target of a network that predicts velocities, `a·ε − s·x0` (Salimans and Ho 2022, appendix D).
    ///
    /// # Errors
    /// As [`Scheduler::add_noise`], or a scheduler outside the variance-preserving frame.
    fn velocity(&self, original: &[f32], noise: &[f32], places: &[At]) -> Result<Vec<f32>> {
        if !self.sigmas().is_empty() || self.tables().is_none() {
            return Err(Error::call(
                self.class(),
                "has no velocities: it does not work in the variance-preserving frame",
            ));
        }
        let items = items(self.class(), original, noise, places)?;
        let target = |(x, z, at)| self.scales(at).map(|(a, s)| combine(&[(a, z), (-s, x)]));
        Ok(items.into_iter().map(target).collect::<Result<Vec<_>>>()?.concat())
    }

    /// Whether the schedule has a step `i`.
    ///
    /// # Errors
    /// It has none.
    fn check_step(&self, i: usize) -> Result<()> {
        let steps = self.timesteps().len();
        if i < steps {
            return Ok(());
        }
        let hint = if steps == 0 { ": set_timesteps was not called" } else { "" };
        Err(Error::call(self.class(), format!("step {i} of {steps}{hint}")))
    }
}

type Item<'a> = (&'a [f32], &'a [f32], At);

fn items<'a>(class: &'static str, original: &'a [f32], noise: &'a [f32], places: &'a [At]) -> Result<Vec<Item<'a>>> {
    let (n, batch) = (original.len(), places.len());
    if noise.len() != n || batch == 0 || !n.is_multiple_of(batch) {
        let reason = format!("{n} elements and {} of noise at {batch} places", noise.len());
        return Err(Error::call(class, reason));
    }
    let each = (n / batch).max(1);
    Ok(original.chunks(each).zip(noise.chunks(each)).zip(places).map(|((x, z), at)| (x, z, *at)).collect())
}

/// The scheduler that a `scheduler_config.json` is written for.
///
/// # Errors
/// As [`from_config`], or the file does not say its `_class_name`.
pub fn open(config: &Config) -> Result<Box<dyn Scheduler>> {
    from_config(config.str("_class_name")?, config)
}

/// A scheduler of the named class from the fields of a configuration, which may have been written for another class:
/// fields of other classes are left alone.
///
/// # Errors
/// A class or field that is not known, a field of the wrong type, or a value that the class does not have.
pub fn from_config(class: &str, config: &Config) -> Result<Box<dyn Scheduler>> {
    let scheduler: Box<dyn Scheduler> = match class {
        "DDPMScheduler" => Box::new(Ddpm::read(config)?),
        "DDIMScheduler" => Box::new(Ddim::read(config)?),
        "PNDMScheduler" => Box::new(Pndm::read(config)?),
        "EulerDiscreteScheduler" => Box::new(Euler::read(config)?),
        "EulerAncestralDiscreteScheduler" => Box::new(EulerAncestral::read(config)?),
        "HeunDiscreteScheduler" => Box::new(Heun::read(config)?),
        "DPMSolverMultistepScheduler" => Box::new(DpmSolver::read(config)?),
        "UniPCMultistepScheduler" => Box::new(UniPc::read(config)?),
        "DEISMultistepScheduler" => Box::new(Deis::read(config)?),
        "LCMScheduler" => Box::new(Lcm::read(config)?),
        "FlowMatchEulerDiscreteScheduler" => Box::new(FlowEuler::read(config)?),
        other => {
            let known = CLASSES.join(", ");
            return Err(config.error("_class_name", format!("{other} is not known; known: {known}")).into());
        }
    };
    match config.unread().iter().find(|field| !ELSEWHERE.contains(&field.as_str())) {
        Some(field) => Err(config.error(field, format!("{class} does not know this field")).into()),
        None => Ok(scheduler),
    }
}

/// The classes that [`from_config`] knows.
pub const CLASSES: [&str; 11] = [
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "LCMScheduler",
    "FlowMatchEulerDiscreteScheduler",
];

/// Fields of one class that say nothing to another. A checkpoint's file is often read as another class than it names.
const ELSEWHERE: [&str; 40] = [
    "algorithm_type",
    "clip_sample",
    "clip_sample_range",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "invert_sigmas",
    "lambda_min_clipped",
    "lower_order_final",
    "original_inference_steps",
    "predict_x0",
    "rescale_betas_zero_snr",
    "sample_max_value",
    "set_alpha_to_one",
    "shift",
    "shift_terminal",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "steps_offset",
    "stochastic_sampling",
    "thresholding",
    "time_shift_type",
    "timestep_scaling",
    "timestep_type",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
    "variance_type",
    "base_shift",
    "max_shift",
];
