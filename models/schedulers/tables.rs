//! The training schedule: how much noise each timestep adds, and how much is there.

use muybridge_loaders::Config;

use crate::error::{Error, Result};
use crate::schedulers::root::sqrt;
use crate::schedulers::spacing::linspace_f32;

/// `β_t` and `ᾱ_t = Π (1 − β)` of the timesteps that a network was trained with.
#[derive(Clone, Debug, PartialEq)]
pub struct Tables {
    /// Variance that each timestep adds.
    pub betas: Vec<f32>,
    /// Signal power that is left at each timestep.
    pub alphas_cumprod: Vec<f32>,
}

/// What a class takes where its configuration says nothing.
pub(crate) struct Defaults {
    pub(crate) start: f64,
    pub(crate) end: f64,
    pub(crate) schedule: &'static str,
}

/// Defaults of most classes.
pub(crate) const LINEAR: Defaults = Defaults { start: 0.0001, end: 0.02, schedule: "linear" };

impl Tables {
    /// Reads `num_train_timesteps`, `beta_start`, `beta_end`, `beta_schedule` and `trained_betas`.
    pub(crate) fn read(config: &Config, defaults: &Defaults) -> Result<Tables> {
        let n: usize = config.or("num_train_timesteps", 1000)?;
        let (start, end) = (config.or("beta_start", defaults.start)?, config.or("beta_end", defaults.end)?);
        let name = config.opt("beta_schedule")?.unwrap_or_else(|| defaults.schedule.to_string());
        if !(2..=Config::MAX_LIST).contains(&n) {
            return Err(config.error("num_train_timesteps", format!("{n}, wanted 2 to {}", Config::MAX_LIST)).into());
        }
        let betas = match config.opt::<Vec<f64>>("trained_betas")? {
            Some(own) if own.len() == n => own.into_iter().map(|b| b as f32).collect(),
            Some(own) => {
                let reason = format!("{} values for {n} timesteps", own.len());
                return Err(config.error("trained_betas", reason).into());
            }
            None => schedule(&name, start, end, n).ok_or_else(|| {
                let known = "linear, scaled_linear, squaredcos_cap_v2, sigmoid, laplace, exp";
                config.error("beta_schedule", format!("{name} is not known; known: {known}"))
            })?,
        };
        match betas.iter().position(|b| !(0.0..=1.0).contains(b)) {
            Some(t) => {
                let reason = format!("a variance of {} at timestep {t}, wanted 0 to 1", betas[t]);
                Err(config.error(if config.has("trained_betas") { "trained_betas" } else { "beta_end" }, reason).into())
            }
            None => Ok(Tables::of(betas)),
        }
    }

    /// As [`Tables::read`], with `rescale_betas_zero_snr`. Where noise levels are divided by the signal, the signal that
    /// the last timestep then lacks is replaced by `floor`.
    pub(crate) fn read_rescaled(config: &Config, defaults: &Defaults, floor: Option<f32>) -> Result<Tables> {
        let mut tables = Tables::read(config, defaults)?;
        if config.or("rescale_betas_zero_snr", false)? {
            tables = tables.zero_terminal_snr();
            if let (Some(floor), Some(last)) = (floor, tables.alphas_cumprod.last_mut()) {
                *last = floor;
            }
        }
        Ok(tables)
    }

    /// Tables of given variances.
    pub fn of(betas: Vec<f32>) -> Tables {
        let alphas_cumprod = running_product(betas.iter().map(|b| 1.0 - b));
        Tables { betas, alphas_cumprod }
    }

    /// The same schedule bent so that no signal is left at its end:
    /// [Lin et al. 2023](https://arxiv.org/abs/2305.08891), algorithm 1.
    pub fn zero_terminal_snr(&self) -> Tables {
        let root: Vec<f32> = self.alphas_cumprod.iter().map(|a| sqrt(*a)).collect();
        let (Some(&first), Some(&last)) = (root.first(), root.last()) else { return self.clone() };
        let stretch = first / (first - last);
        let bar: Vec<f32> = root.iter().map(|r| (r - last) * stretch).map(|r| r * r).collect();
        let ratio = |t: usize| if t == 0 { bar[0] } else { bar[t] / bar[t - 1] };
        Tables::of((0..bar.len()).map(|t| 1.0 - ratio(t)).collect())
    }

    /// Number of timesteps.
    pub fn len(&self) -> usize {
        self.betas.len()
    }

    /// Whether there is no timestep.
    pub fn is_empty(&self) -> bool {
        self.betas.is_empty()
    }

    /// Noise levels `σ = √((1 − ᾱ)/ᾱ)` of the variance-exploding frame.
    pub fn sigmas(&self) -> Vec<f32> {
        self.alphas_cumprod.iter().map(|a| ((1.0 - a) / a).sqrt()).collect()
    }

    /// Signal power at a timestep.
    pub(crate) fn power(&self, class: &'static str, t: f64) -> Result<f64> {
        let known = t >= 0.0 && t.fract() == 0.0;
        let power = if known { self.alphas_cumprod.get(t as usize) } else { None };
        let wrong = || Error::call(class, format!("timestep {t}, where the schedule has 0 to {}", self.len() - 1));
        power.map(|a| f64::from(*a)).ok_or_else(wrong)
    }

    /// Factors of signal and noise at a timestep.
    pub(crate) fn scales(&self, class: &'static str, t: f64) -> Result<(f64, f64)> {
        self.power(class, t).map(|a| (a.sqrt(), (1.0 - a).sqrt()))
    }
}

fn schedule(name: &str, start: f64, end: f64, n: usize) -> Option<Vec<f32>> {
    Some(match name {
        "linear" => linspace_f32(start, end, n),
        "scaled_linear" => linspace_f32(start.sqrt(), end.sqrt(), n).into_iter().map(|b| b * b).collect(),
        "sigmoid" => {
            let gate = |x: f32| 1.0 / (1.0 + (-f64::from(x)).exp());
            linspace_f32(-6.0, 6.0, n).into_iter().map(|x| (gate(x) * (end - start) + start) as f32).collect()
        }
        "squaredcos_cap_v2" => from_power(n, |t| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)),
        "exp" => from_power(n, |t| (t * -12.0).exp()),
        "laplace" => from_power(n, |t| {
            let lambda = -0.5 * (0.5 - t).signum() * (1.0 - 2.0 * (0.5 - t).abs() + 1e-6).ln();
            let snr = lambda.exp();
            (snr / (1.0 + snr)).sqrt()
        }),
        _ => return None,
    })
}

/// Variances that lead to a given signal power, at most 0.999 each: Nichol and Dhariwal 2021, equation 17.
fn from_power(n: usize, power: impl Fn(f64) -> f64) -> Vec<f32> {
    let beta = |i: usize| 1.0 - power((i + 1) as f64 / n as f64) / power(i as f64 / n as f64);
    (0..n).map(|i| beta(i).min(0.999) as f32).collect()
}

fn running_product(factors: impl Iterator<Item = f32>) -> Vec<f32> {
    let mut product = 1.0;
    let next = |factor| {
        product *= f64::from(factor);
        product as f32
    };
    factors.map(next).collect()
}
