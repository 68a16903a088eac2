//! Ladders of noise levels: what schedulers in the variance-exploding frame walk down.

use muybridge_loaders::Config;

use crate::error::{Error, Result};
use crate::schedulers::At;
use crate::schedulers::beta_quantile::beta_quantile;
use crate::schedulers::spacing::linspace;

/// The noise level before each step and after the last, with the network's timesteps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ladder {
    pub(crate) timesteps: Vec<f32>,
    pub(crate) sigmas: Vec<f32>,
}

impl Ladder {
    /// Rounds both to what is handed out.
    pub(crate) fn of(timesteps: &[f64], sigmas: &[f64], last: f64) -> Ladder {
        let narrow = |v: &f64| *v as f32;
        Ladder {
            timesteps: timesteps.iter().map(narrow).collect(),
            sigmas: sigmas.iter().chain([&last]).map(narrow).collect(),
        }
    }

    /// The noise level at a place.
    pub(crate) fn sigma(&self, class: &'static str, at: At) -> Result<f64> {
        let i = match at {
            At::Step(i) => i,
            At::Timestep(t) => self.index_of(class, t)?,
        };
        let missing = || Error::call(class, format!("noise level {i} of {}", self.sigmas.len()));
        self.sigmas.get(i).map(|s| f64::from(*s)).ok_or_else(missing)
    }

    /// The step of a timestep. Where it is listed twice the second is meant: a schedule that starts there does not skip.
    fn index_of(&self, class: &'static str, t: f32) -> Result<usize> {
        let mut found = (0..self.timesteps.len()).filter(|i| self.timesteps[*i] == t);
        let first =
            found.next().ok_or_else(|| Error::call(class, format!("the schedule does not visit timestep {t}")))?;
        Ok(found.next().unwrap_or(first))
    }
}

/// How noise levels are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    /// As the training schedule has them at the timesteps.
    Table,
    /// Even in `σ^(1/7)`: Karras et al. 2022, equation 5.
    Karras,
    /// Even in `ln σ`.
    Exponential,
    /// After a beta distribution: Lee et al. 2024.
    Beta,
    /// Even in `λ`: Lu et al. 2022.
    Lu,
}

impl Curve {
    /// Reads the flags, of which one may be set.
    pub(crate) fn read(config: &Config, lu: bool) -> Result<Curve> {
        let flags = [
            ("use_karras_sigmas", Curve::Karras),
            ("use_exponential_sigmas", Curve::Exponential),
            ("use_beta_sigmas", Curve::Beta),
            ("use_lu_lambdas", Curve::Lu),
        ];
        let mut chosen = Curve::Table;
        for (field, curve) in &flags[..if lu { 4 } else { 3 }] {
            if config.or(field, false)? {
                if chosen != Curve::Table {
                    return Err(config.error(field, "another spacing of noise levels is chosen too").into());
                }
                chosen = *curve;
            }
        }
        Ok(chosen)
    }

    /// `n` noise levels from `most` down to `least`. None for [`Curve::Table`], which needs timesteps.
    pub(crate) fn sigmas(self, most: f64, least: f64, n: usize) -> Option<Vec<f64>> {
        let ramp = linspace(0.0, 1.0, n).into_iter();
        Some(match self {
            Curve::Table => return None,
            Curve::Karras => {
                let (low, high) = (least.powf(1.0 / 7.0), most.powf(1.0 / 7.0));
                ramp.map(|r| (high + r * (low - high)).powf(7.0)).collect()
            }
            Curve::Exponential => linspace(most.ln(), least.ln(), n).into_iter().map(f64::exp).collect(),
            Curve::Beta => ramp.map(|r| least + beta_quantile(1.0 - r) * (most - least)).collect(),
            Curve::Lu => {
                let (low, high) = (most.ln(), least.ln());
                ramp.map(|r| (low + r * (high - low)).exp()).collect()
            }
        })
    }
}

/// The ends of a [`Curve`], where the configuration sets them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ends {
    pub(crate) least: Option<f64>,
    pub(crate) most: Option<f64>,
}

impl Ends {
    /// Reads `sigma_min` and `sigma_max`.
    pub(crate) fn read(config: &Config) -> Result<Ends> {
        let ends = Ends { least: config.opt("sigma_min")?, most: config.opt("sigma_max")? };
        for (field, value) in [("sigma_min", ends.least), ("sigma_max", ends.most)] {
            if value.is_some_and(|v| v <= 0.0) {
                return Err(config.error(field, "is not above 0").into());
            }
        }
        Ok(ends)
    }
}

/// Reads `final_sigmas_type`: whether the last level is that of timestep 0, instead of no noise.
pub(crate) fn ends_at_least(config: &Config) -> Result<bool> {
    match config.opt::<String>("final_sigmas_type")?.as_deref() {
        None | Some("zero") => Ok(false),
        Some("sigma_min") => Ok(true),
        Some(other) => {
            Err(config.error("final_sigmas_type", format!("{other} is not known; known: zero, sigma_min")).into())
        }
    }
}

/// The table's value at a fractional timestep, linear between neighbours.
pub(crate) fn interpolate(table: &[f32], t: f64) -> f64 {
    let at = |i: usize| table.get(i).or(table.last()).map_or(0.0, |v| f64::from(*v));
    let (low, t) = (t.max(0.0).floor() as usize, t.max(0.0));
    if low + 1 >= table.len() { at(low) } else { at(low) + (at(low + 1) - at(low)) * (t - low as f64) }
}

/// The fractional timestep of a noise level: linear in `ln σ` between neighbours of the table.
pub(crate) fn timestep_of(sigma: f64, table: &[f32]) -> f64 {
    let log = |i: usize| f64::from(f64::from(table[i]).ln() as f32);
    let wanted = sigma.max(1e-10).ln();
    let below = (0..table.len()).filter(|i| log(*i) <= wanted).count();
    let low = below.saturating_sub(1).min(table.len().saturating_sub(2));
    let share = ((log(low) - wanted) / (log(low) - log(low + 1))).clamp(0.0, 1.0);
    low as f64 + share
}
