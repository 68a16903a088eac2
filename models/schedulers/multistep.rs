//! What DPM-Solver, UniPC and DEIS have in common: their noise levels, and a memory of recent predictions.

use std::collections::VecDeque;

use muybridge_loaders::Config;

use crate::error::{Error, Result};
use crate::schedulers::euler::FLOOR;
use crate::schedulers::flow::Shift;
use crate::schedulers::ladder::{Curve, Ends, Ladder, ends_at_least, interpolate, timestep_of};
use crate::schedulers::prediction::{Limit, VP};
use crate::schedulers::run::Sequence;
use crate::schedulers::spacing::{Layout, Spacing, linspace};
use crate::schedulers::tables::LINEAR;
use crate::schedulers::{At, Prediction, Run, StepInput, Tables};

/// The three families differ in details of their schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    DpmSolver,
    UniPc,
    Deis,
}

/// A place on the ladder: signal, noise and half the log of their ratio.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    pub(crate) alpha: f64,
    pub(crate) sigma: f64,
    pub(crate) lambda: f64,
}

/// Configuration, schedule and memory of a multistep solver.
#[derive(Clone, Debug)]
pub(crate) struct Multistep {
    pub(crate) class: &'static str,
    family: Family,
    pub(crate) tables: Tables,
    pub(crate) prediction: Prediction,
    pub(crate) limit: Limit,
    pub(crate) order: usize,
    pub(crate) lower_order_final: bool,
    pub(crate) ends_at_least: bool,
    curve: Curve,
    ends: Ends,
    /// Timesteps of a curve are rounded, not cut.
    rounds: bool,
    spacing: Spacing,
    offset: i64,
    /// `a = 1 − σ` instead of `a² + s² = 1`.
    pub(crate) flow: bool,
    shift: Shift,
    /// Timesteps below this `λ` are not visited.
    least_lambda: f64,
    pub(crate) ladder: Ladder,
    pub(crate) sequence: Sequence,
    /// Recent predictions, the newest first.
    pub(crate) recent: VecDeque<Vec<f32>>,
}

impl Multistep {
    /// Reads the fields that the three classes share.
    pub(crate) fn read(config: &Config, class: &'static str, family: Family) -> Result<Multistep> {
        let flow = config.or("use_flow_sigmas", false)?;
        let curve = Curve::read(config, family == Family::DpmSolver)?;
        if flow && curve != Curve::Table && (family, curve) != (Family::UniPc, Curve::Karras) {
            return Err(config.error("use_flow_sigmas", "another spacing of noise levels is chosen too").into());
        }
        let order: usize = config.or("solver_order", 2)?;
        if !(1..=3).contains(&order) {
            return Err(config.error("solver_order", format!("{order}, wanted 1 to 3")).into());
        }
        let zero_snr = if family == Family::Deis {
            Tables::read(config, &LINEAR)
        } else {
            Tables::read_rescaled(config, &LINEAR, Some(FLOOR))
        };
        let predictions: Vec<_> = VP.into_iter().chain([Prediction::Flow]).collect();
        let shift = Shift::read(config, "flow_shift")?;
        if shift.terminal.is_some() && !(flow && family == Family::UniPc) {
            return Err(config.error("shift_terminal", "wants use_flow_sigmas, and UniPC").into());
        }
        let cosine = config.opt::<String>("beta_schedule")?.as_deref() == Some("squaredcos_cap_v2");
        let rounds = match family {
            Family::DpmSolver => matches!(curve, Curve::Karras | Curve::Lu) && !cosine,
            Family::UniPc | Family::Deis => curve == Curve::Karras && !flow,
        };
        Ok(Multistep {
            class,
            family,
            tables: zero_snr?,
            prediction: Prediction::read(config, &predictions)?,
            limit: Limit::read_threshold(config)?,
            order,
            lower_order_final: config.or("lower_order_final", true)?,
            ends_at_least: family == Family::Deis || ends_at_least(config)?,
            curve,
            ends: if family == Family::UniPc { Ends::read(config)? } else { Ends::default() },
            rounds,
            spacing: Spacing::read(config, Spacing::Linspace)?,
            offset: config.or("steps_offset", 0)?,
            flow,
            shift,
            least_lambda: match family {
                Family::DpmSolver => config.opt_extended("lambda_min_clipped")?.unwrap_or(f64::NEG_INFINITY),
                Family::UniPc | Family::Deis => f64::NEG_INFINITY,
            },
            ladder: Ladder::default(),
            sequence: Sequence::default(),
            recent: VecDeque::new(),
        })
    }

    /// Lays out the noise levels and forgets the run before.
    pub(crate) fn set_timesteps(&mut self, run: &Run) -> Result<()> {
        run.check(self.class, &["mu"])?;
        let table = self.tables.sigmas();
        let (timesteps, sigmas, own_last) =
            if self.flow { self.flow_levels(run, &table)? } else { self.levels(run, &table)? };
        let last = match (self.ends_at_least, own_last) {
            (false, _) => 0.0,
            (true, true) if self.family != Family::DpmSolver => sigmas.last().copied().unwrap_or(0.0),
            (true, _) => f64::from(table[0]),
        };
        self.ladder = Ladder::of(&timesteps, &sigmas, last);
        self.sequence = Sequence::default();
        self.recent.clear();
        Ok(())
    }

    /// Timesteps and noise levels, and whether the levels end by a rule of their own.
    fn levels(&self, run: &Run, table: &[f32]) -> Result<(Vec<f64>, Vec<f64>, bool)> {
        if run.mu.is_some() {
            return Err(Error::call(self.class, "the option mu wants use_flow_sigmas"));
        }
        let log_snr = |a: &f32| f64::from((a.sqrt().ln()) - (1.0 - a).sqrt().ln());
        let below = self.tables.alphas_cumprod.iter().filter(|a| log_snr(a) < self.least_lambda).count();
        let layout = Layout::DropLowest { last: self.tables.len() - below };
        let timesteps = self.spacing.timesteps(self.class, layout, self.tables.len(), run.steps, self.offset)?;
        let (most, least) = (f64::from(table[table.len() - 1]), f64::from(table[0]));
        let curve = self.curve.sigmas(self.ends.most.unwrap_or(most), self.ends.least.unwrap_or(least), run.steps);
        Ok(match curve {
            None => {
                let sigmas = timesteps.iter().map(|t| interpolate(table, *t)).collect();
                (timesteps, sigmas, false)
            }
            Some(sigmas) => {
                let whole = |t: f64| if self.rounds { t.round_ties_even() } else { t.trunc() };
                (sigmas.iter().map(|s| whole(timestep_of(*s, table))).collect(), sigmas, true)
            }
        })
    }

    fn flow_levels(&self, run: &Run, table: &[f32]) -> Result<(Vec<f64>, Vec<f64>, bool)> {
        let (n, total) = (run.steps, self.tables.len() as f64);
        if n == 0 || n > self.tables.len() {
            return Err(Error::call(self.class, format!("{n} steps, where the schedule has {total} timesteps")));
        }
        let factor = match self.family {
            Family::UniPc => self.shift.factor(self.class, run)?,
            Family::DpmSolver | Family::Deis if run.mu.is_none() => self.shift.fixed,
            Family::DpmSolver | Family::Deis => self.shift.factor(self.class, run)?,
        };
        let even = linspace(1.0, 1.0 / total, n + 1);
        let mut sigmas: Vec<f64> = match (self.family, self.curve) {
            (Family::UniPc, Curve::Table) => {
                let mut sigmas = even[..n].to_vec();
                self.shift.apply(factor, &mut sigmas);
                sigmas
            }
            (Family::UniPc, curve) => {
                let (most, least) = (f64::from(table[table.len() - 1]), f64::from(table[0]));
                let curve = curve.sigmas(self.ends.most.unwrap_or(most), self.ends.least.unwrap_or(least), n);
                curve.unwrap_or_default().into_iter().map(|s| s / (s + 1.0)).collect()
            }
            _ => even[1..].iter().rev().map(|a| crate::schedulers::flow::shifted(factor, 1.0 - a)).collect(),
        };
        // Where no signal is left its logarithm is not finite.
        if let Some(first) = sigmas.first_mut().filter(|s| (**s - 1.0).abs() < 1e-6) {
            *first -= 1e-6;
        }
        Ok((sigmas.iter().map(|s| (s * total).trunc()).collect(), sigmas, true))
    }

    /// Signal and noise at step `i`, or after the last one.
    pub(crate) fn level(&self, i: usize) -> Result<Level> {
        let (alpha, sigma) = self.scales(At::Step(i))?;
        Ok(Level { alpha, sigma, lambda: alpha.ln() - sigma.ln() })
    }

    pub(crate) fn scales(&self, at: At) -> Result<(f64, f64)> {
        let sigma = self.ladder.sigma(self.class, at)?;
        let alpha = if self.flow { 1.0 - sigma } else { 1.0 / (sigma * sigma + 1.0).sqrt() };
        Ok((alpha, if self.flow { sigma } else { sigma * alpha }))
    }

    /// The sample without noise, within its limit.
    pub(crate) fn original(&self, i: usize, input: &StepInput, output: &[f32]) -> Result<Vec<f32>> {
        let scales = self.prediction_scales(i)?;
        let original = self.prediction.original(self.class, scales, input.sample, output)?;
        Ok(self.limit.apply(original, input.batch))
    }

    /// The noise; where samples have a limit, what is left when they keep to it.
    pub(crate) fn epsilon(&self, i: usize, input: &StepInput, output: &[f32]) -> Result<Vec<f32>> {
        if self.limit == Limit::None {
            return self.prediction.epsilon(self.class, self.prediction_scales(i)?, input.sample, output);
        }
        let original = self.original(i, input, output)?;
        Prediction::Sample.epsilon(self.class, self.prediction_scales(i)?, input.sample, &original)
    }

    fn prediction_scales(&self, i: usize) -> Result<(f64, f64)> {
        let (alpha, sigma) = self.scales(At::Step(i))?;
        // A predicted flow is read with the ladder's level, whatever the frame.
        let raw = self.ladder.sigma(self.class, At::Step(i))?;
        Ok(if self.prediction == Prediction::Flow { (alpha, raw) } else { (alpha, sigma) })
    }

    /// Takes a prediction into the memory, which holds as many as the solver's order.
    pub(crate) fn remember(&mut self, prediction: Vec<f32>) {
        self.recent.push_front(prediction);
        self.recent.truncate(self.order);
    }

    /// Whether step `i` is the last but `k`, in a run so short that the end is taken at lower order.
    pub(crate) fn nears_end(&self, i: usize, k: usize) -> bool {
        let steps = self.ladder.timesteps.len();
        self.lower_order_final && steps < 15 && i + 1 + k == steps
    }
}
