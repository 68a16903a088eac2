//! Samplers as stochastic differential equations: the probability-flow ODE and predictor-corrector sampling.
//! [Song et al. 2021](https://arxiv.org/abs/2011.13456).
//!
//! Noise is added by `dx = −½β(t)·x dt + √β(t) dW` for `t` from 0 to 1. A network that predicts noise knows the score of
//! every `t`, `−ε/s`; with it the equation can be run backwards, with noise (equation 6) or without (equation 13). A
//! checkpoint of the discrete schedules is run in this frame by its own [`Tables`].

use crate::error::{Error, Result};
use crate::noise::NoiseSource;
use crate::schedulers::Tables;
use crate::schedulers::combine::combine;
use crate::schedulers::ddpm::draw;
use crate::schedulers::spacing::linspace;

const CLASS: &str = "score_sde";

/// Predicts the noise in a sample: takes the sample and the network's timestep.
pub type Network<'a> = dyn FnMut(&[f32], f32) -> Result<Vec<f32>> + 'a;

/// How noise is added.
#[derive(Clone, Debug, PartialEq)]
pub enum VpSde {
    /// `β(t)` grows on a line: equation 32. The network's timestep is `999·t`.
    Linear {
        /// `β(0)`, 0.1 in the paper.
        beta_min: f64,
        /// `β(1)`, 20 in the paper.
        beta_max: f64,
    },
    /// A discrete schedule, the log of its signal power linear between timesteps. `t = 1` is the last timestep.
    Table(Tables),
}

/// A moment of the process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// The network's timestep.
    pub label: f32,
    /// Rate at which noise is added.
    pub beta: f64,
    /// Factor of the sample: the mean of the marginal.
    pub signal: f64,
    /// Factor of the noise: the standard deviation of the marginal.
    pub noise: f64,
}

impl VpSde {
    /// The moment `t`, from 0 to 1.
    pub fn at(&self, t: f64) -> Moment {
        let t = t.clamp(0.0, 1.0);
        let (label, beta, log_power) = match self {
            VpSde::Linear { beta_min, beta_max } => {
                let slope = beta_max - beta_min;
                (999.0 * t, beta_min + t * slope, -0.5 * t * t * slope - t * beta_min)
            }
            VpSde::Table(tables) => {
                let last = tables.len().saturating_sub(1);
                let log = |i: usize| tables.alphas_cumprod.get(i).map_or(0.0, |a| f64::from(*a).max(1e-30).ln());
                let place = t * last as f64;
                // A place on a timestep belongs to the stretch below it: that is where the process came from.
                let low = (place.ceil() as usize).clamp(1, last.max(1)) - 1;
                let rise = log(low + 1) - log(low);
                (place, -rise * last as f64, log(low) + (place - low as f64) * rise)
            }
        };
        let power = log_power.exp();
        Moment { label: label as f32, beta, signal: power.sqrt(), noise: (-log_power.exp_m1()).max(0.0).sqrt() }
    }

    /// `dx/dt` of the probability-flow ODE, equation 13: `½β·(ε/s − x)`.
    ///
    /// # Errors
    /// The network's errors, or a prediction of another length than the sample.
    pub fn flow(&self, sample: &[f32], t: f64, network: &mut Network) -> Result<Vec<f64>> {
        let moment = self.at(t);
        let epsilon = predict(network, sample, moment.label)?;
        let slope = |(x, e): (&f32, &f32)| 0.5 * moment.beta * (f64::from(*e) / moment.noise - f64::from(*x));
        Ok(sample.iter().zip(&epsilon).map(slope).collect())
    }

    /// The sample at moment `to` from that at `from`, along the probability-flow ODE: the embedded Runge-Kutta pair of
    /// Dormand and Prince (1980) with steps as long as `tolerance`, relative and absolute, allows. 1e-5 in the paper.
    ///
    /// # Errors
    /// The network's errors, a tolerance that is not above 0, or steps that become too short.
    pub fn integrate(
        &self,
        sample: &[f32],
        from: f64,
        to: f64,
        tolerance: f64,
        network: &mut Network,
    ) -> Result<Vec<f32>> {
        let sound = tolerance > 0.0 && from.is_finite() && to.is_finite();
        if !sound {
            return Err(Error::call(CLASS, format!("from {from} to {to} with a tolerance of {tolerance}")));
        }
        let mut y: Vec<f64> = sample.iter().map(|x| f64::from(*x)).collect();
        let (mut t, mut step) = (from, (to - from) / 100.0);
        let mut slope = self.flow(sample, t, network)?;
        while t != to {
            let left = to - t;
            if step.abs() >= left.abs() {
                step = left;
            }
            let (end, slopes, error) = self.dormand_prince(&y, t, step, slope.clone(), network)?;
            let scaled = |((e, a), b): ((&f64, &f64), &f64)| (e / (tolerance * (1.0 + a.abs().max(b.abs())))).powi(2);
            let sum: f64 = error.iter().zip(&y).zip(&end).map(scaled).sum();
            let norm = (sum / y.len().max(1) as f64).sqrt();
            if norm <= 1.0 {
                t = if step == left { to } else { t + step };
                (y, slope) = (end, slopes);
            } else if norm.is_nan() || step.abs() < 1e-9 {
                return Err(Error::call(CLASS, format!("steps become too short at t = {t}")));
            }
            step *= (0.9 * norm.max(1e-10).powf(-0.2)).clamp(0.2, 10.0);
        }
        Ok(y.into_iter().map(|v| v as f32).collect())
    }

    /// One step: the result of order 5, the slope there, and its difference to the result of order 4.
    fn dormand_prince(
        &self,
        y: &[f64],
        t: f64,
        step: f64,
        slope: Vec<f64>,
        network: &mut Network,
    ) -> Result<(Vec<f64>, Vec<f64>, Vec<f64>)> {
        let mut slopes = vec![slope];
        let mut end = y.to_vec();
        for (place, row) in STAGES {
            end = advance(y, step, row, &slopes);
            let narrow: Vec<f32> = end.iter().map(|v| *v as f32).collect();
            slopes.push(self.flow(&narrow, t + place * step, network)?);
        }
        let zero = vec![0.0; y.len()];
        let error = advance(&zero, step, &ERROR, &slopes);
        let last = slopes.pop().unwrap_or_default();
        Ok((end, last, error))
    }
}

fn advance(y: &[f64], step: f64, row: &[f64], slopes: &[Vec<f64>]) -> Vec<f64> {
    let at = |i: usize| y[i] + step * row.iter().zip(slopes).map(|(a, k)| a * k[i]).sum::<f64>();
    (0..y.len()).map(at).collect()
}

/// Places and weights of the stages; the last one is the result itself.
const STAGES: [(f64, &[f64]); 6] = [
    (0.2, &[0.2]),
    (0.3, &[3.0 / 40.0, 9.0 / 40.0]),
    (0.8, &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0]),
    (8.0 / 9.0, &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0]),
    (1.0, &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0]),
    (1.0, &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0]),
];

/// Order 5 less order 4.
const ERROR: [f64; 7] =
    [71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339200.0, 22.0 / 525.0, -1.0 / 40.0];

fn predict(network: &mut Network, sample: &[f32], label: f32) -> Result<Vec<f32>> {
    let epsilon = network(sample, label)?;
    let short = || Error::call(CLASS, format!("{} predictions for {} elements", epsilon.len(), sample.len()));
    if epsilon.len() == sample.len() { Ok(epsilon) } else { Err(short()) }
}

/// How a step back in time is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predictor {
    /// Euler-Maruyama on the reverse SDE.
    EulerMaruyama,
    /// The discretisation of the forward process, reversed: equation 46.
    ReverseDiffusion,
    /// Ancestral sampling: equation 4.
    Ancestral,
}

/// Predictor-corrector sampling: algorithms 1, 3 and 5.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictorCorrector {
    /// How a step back in time is taken.
    pub predictor: Predictor,
    /// Steps from `t = 1` down to `end`.
    pub steps: usize,
    /// The last moment, 1e-3 in the paper.
    pub end: f64,
    /// Langevin steps at each moment, before the predictor's.
    pub corrections: usize,
    /// Signal-to-noise ratio `r` of a Langevin step.
    pub snr: f64,
}

impl PredictorCorrector {
    /// The sample of `x`, which is noise of standard deviation 1, in a batch of `batch` items. It is the last step's mean:
    /// its noise is left out.
    ///
    /// # Errors
    /// Settings that make no schedule, a batch that does not divide the sample, or errors of network and source.
    pub fn sample(
        &self,
        sde: &VpSde,
        mut x: Vec<f32>,
        batch: usize,
        network: &mut Network,
        noise: &mut dyn NoiseSource,
    ) -> Result<Vec<f32>> {
        let fits = batch > 0 && x.len().is_multiple_of(batch) && !x.is_empty();
        let sound = self.steps > 0 && self.end > 0.0 && self.end < 1.0 && self.snr.is_finite();
        if !fits || !sound {
            return Err(Error::call(CLASS, format!("{} elements in {batch} items with {self:?}", x.len())));
        }
        let times = linspace(1.0, self.end, self.steps);
        let mut mean = x.clone();
        for (i, t) in times.iter().enumerate() {
            let now = sde.at(*t);
            let before = times.get(i + 1).map_or(0.0, |next| *next);
            for _ in 0..self.corrections {
                x = self.correct(now, sde.at(before), &x, batch, network, noise)?;
            }
            let epsilon = predict(network, &x, now.label)?;
            let factors = self.factors(now, sde.at(before), t - before);
            mean = combine(&[(factors[0], &x), (-factors[1] / now.noise, &epsilon)]);
            x = combine(&[(1.0, &mean), (factors[2], &draw(CLASS, noise, x.len())?)]);
        }
        Ok(mean)
    }

    /// Factors of sample, score and fresh noise. `β` of a step is the share of the signal's power that it takes.
    fn factors(&self, now: Moment, before: Moment, length: f64) -> [f64; 3] {
        let kept = (now.signal / before.signal).min(1.0);
        let beta = 1.0 - kept * kept;
        match self.predictor {
            Predictor::EulerMaruyama => {
                let amount = now.beta * length;
                [1.0 + 0.5 * amount, amount, amount.sqrt()]
            }
            Predictor::ReverseDiffusion => [2.0 - kept, beta, beta.sqrt()],
            Predictor::Ancestral => [1.0 / kept, beta / kept, beta.sqrt()],
        }
    }

    /// A Langevin step: algorithm 5. Its length follows the norms of score and noise, means over the batch.
    fn correct(
        &self,
        now: Moment,
        before: Moment,
        x: &[f32],
        batch: usize,
        network: &mut Network,
        noise: &mut dyn NoiseSource,
    ) -> Result<Vec<f32>> {
        let epsilon = predict(network, x, now.label)?;
        let drawn = draw(CLASS, noise, x.len())?;
        let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let mean_norm = |v: &[f32]| v.chunks(v.len() / batch).map(norm).sum::<f64>() / batch as f64;
        let ratio = self.snr * mean_norm(&drawn) * now.noise / mean_norm(&epsilon).max(f64::MIN_POSITIVE);
        let kept = now.signal / before.signal;
        let length = 2.0 * kept * kept * ratio * ratio;
        Ok(combine(&[(1.0, x), (-length / now.noise, &epsilon), ((2.0 * length).sqrt(), &drawn)]))
    }
}

#[cfg(test)]
mod tests {
    use super::{Predictor, PredictorCorrector, VpSde};
    use crate::noise::{NoiseSource, TorchCpu};
    use crate::schedulers::Tables;

    /// Power of the data, which is normal: then the score is known.
    const POWER: f64 = 0.25;
    const LINEAR: VpSde = VpSde::Linear { beta_min: 0.1, beta_max: 20.0 };

    fn power_at(sde: &VpSde, t: f64) -> f64 {
        let m = sde.at(t);
        m.signal * m.signal * POWER + m.noise * m.noise
    }

    fn network(sde: &VpSde, last: f64) -> impl FnMut(&[f32], f32) -> crate::error::Result<Vec<f32>> {
        move |x, label| {
            let t = f64::from(label) / last;
            let factor = sde.at(t).noise / power_at(sde, t);
            Ok(x.iter().map(|x| (f64::from(*x) * factor) as f32).collect())
        }
    }

    #[test]
    fn flow_scales_normal_data() -> Result<(), Box<dyn std::error::Error>> {
        let root = |i: u32| (0.00085f64.sqrt() + f64::from(i) / 999.0 * (0.012f64.sqrt() - 0.00085f64.sqrt())).powi(2);
        let table = VpSde::Table(Tables::of((0..1000).map(|i| root(i) as f32).collect()));
        for sde in [LINEAR, table] {
            let x = sde.integrate(&[1.0, -0.5], 1.0, 1e-3, 1e-5, &mut network(&sde, 999.0))?;
            let exact = (power_at(&sde, 1e-3) / power_at(&sde, 1.0)).sqrt();
            assert!((f64::from(x[0]) - exact).abs() < 2e-4, "{x:?} and {exact}");
            assert!((f64::from(x[1]) + exact / 2.0).abs() < 2e-4, "{x:?} and {exact}");
        }
        Ok(())
    }

    #[test]
    fn samples_have_the_data_s_power() -> Result<(), Box<dyn std::error::Error>> {
        for predictor in [Predictor::EulerMaruyama, Predictor::ReverseDiffusion, Predictor::Ancestral] {
            for corrections in [0, 1] {
                let mut noise = TorchCpu::new(1);
                let sampler = PredictorCorrector { predictor, steps: 200, end: 1e-3, corrections, snr: 0.16 };
                let x = noise.normal(8192)?;
                let x = sampler.sample(&LINEAR, x, 4, &mut network(&LINEAR, 999.0), &mut noise)?;
                let power = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
                assert!((power / POWER - 1.0).abs() < 0.1, "{predictor:?} with {corrections}: {power}");
            }
        }
        Ok(())
    }
}
