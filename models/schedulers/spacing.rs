//! Which timesteps of the training schedule a run visits.

use muybridge_loaders::Config;

use crate::error::{Error, Result};

/// Where the timesteps lie: [Lin et al. 2023](https://arxiv.org/abs/2305.08891), table 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spacing {
    /// Multiples of a whole stride, from 0.
    Leading,
    /// Multiples of a stride, back from the last timestep.
    Trailing,
    /// From the first to the last.
    Linspace,
}

/// How a scheduler lays its timesteps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Layout {
    /// Whole timesteps.
    Whole,
    /// Linspace is not rounded.
    Fractional,
    /// Leading and linspace have one timestep more, the lowest, which is not visited; they end below `last`.
    DropLowest {
        /// One past the highest timestep.
        last: usize,
    },
}

impl Spacing {
    pub(crate) fn read(config: &Config, default: Spacing) -> Result<Spacing> {
        match config.opt::<String>("timestep_spacing")?.as_deref() {
            None => Ok(default),
            Some("leading") => Ok(Spacing::Leading),
            Some("trailing") => Ok(Spacing::Trailing),
            Some("linspace") => Ok(Spacing::Linspace),
            Some(other) => {
                let reason = format!("{other} is not known; known: leading, trailing, linspace");
                Err(config.error("timestep_spacing", reason).into())
            }
        }
    }

    /// `n` timesteps out of `total`, descending.
    pub(crate) fn timesteps(
        self,
        class: &'static str,
        layout: Layout,
        total: usize,
        n: usize,
        offset: i64,
    ) -> Result<Vec<f64>> {
        if n == 0 || n > total {
            return Err(Error::call(class, format!("{n} steps, where the schedule has {total} timesteps")));
        }
        let (points, drop, last) = match layout {
            Layout::DropLowest { last } => (n + 1, 1, last),
            Layout::Whole | Layout::Fractional => (n, 0, total),
        };
        if last == 0 {
            return Err(Error::call(class, "lambda_min_clipped leaves no timestep"));
        }
        Ok(match self {
            Spacing::Linspace => {
                let even = linspace(0.0, last as f64 - 1.0, points).into_iter().rev().take(points - drop);
                if layout == Layout::Fractional { even.collect() } else { even.map(f64::round_ties_even).collect() }
            }
            Spacing::Leading => {
                let stride = last / points;
                if stride == 0 {
                    return Err(Error::call(class, format!("{n} steps with leading timesteps, out of {last}")));
                }
                (drop..points).rev().map(|k| (k * stride) as f64 + offset as f64).collect()
            }
            Spacing::Trailing => {
                // The stride is taken between the first two values, as the arange does that published samplers call:
                // it decides how halves are rounded.
                let stride = (last as f64 - total as f64 / n as f64) - last as f64;
                let value = |k: usize| (last as f64 + k as f64 * stride).round_ties_even() - 1.0;
                (0..n).map(value).filter(|t| *t >= 0.0).collect()
            }
        })
    }
}

/// `n` even steps from `from` to `to`, both included.
pub(crate) fn linspace(from: f64, to: f64, n: usize) -> Vec<f64> {
    let step = (to - from) / (n.max(2) - 1) as f64;
    let at = |i: usize| if i > 0 && i + 1 == n { to } else { i as f64 * step + from };
    (0..n).map(at).collect()
}

/// As [`linspace`] in f32, counted from the nearer end with one rounding: PyTorch's values, bit for bit.
pub(crate) fn linspace_f32(from: f64, to: f64, n: usize) -> Vec<f32> {
    let (from, to) = (from as f32, to as f32);
    let step = (to - from) / (n.max(2) - 1) as f32;
    let at = |i: usize| {
        if i < n / 2 || n == 1 { step.mul_add(i as f32, from) } else { (-step).mul_add((n - i - 1) as f32, to) }
    };
    (0..n).map(at).collect()
}
