//! Predictions of a denoising network under classifier-free guidance, with or without ControlNets.

use muybridge_runtime::{Device, HostTensor, Pins, PlanOptions, Tensor, TensorDesc};

use super::prompt::{Conditioning, total};
use crate::controlnet::ControlNet;
use crate::error::{Error, Result};
use crate::pipelines::control::strength;
use crate::schedulers::Scheduler;
use crate::stages::{Features, StepPlan, UnetShape};
use crate::unet::Unet;

const MODEL: &str = "denoise";

/// A ControlNet at work.
#[derive(Debug)]
pub(super) struct Controlled {
    pub net: ControlNet,
    /// `[1,H,W,C]` for all frames, or one picture for each of them, from 0 to 1.
    pub pixels: HostTensor,
    /// Strength.
    pub scale: f32,
    /// Shares of the run at which it begins and ends.
    pub range: [f32; 2],
}

impl Controlled {
    /// Its strength in step `i` of `steps`: none outside its range.
    fn scale_at(&self, i: usize, steps: usize) -> f32 {
        strength(self.scale, self.range, i, steps)
    }
}

/// How a network is asked.
pub(super) struct Request<'a> {
    pub unet: &'a Unet,
    pub controls: &'a [Controlled],
    /// Extents of one half of the guidance.
    pub shape: UnetShape,
    pub conditioning: &'a Conditioning,
    /// Sizes of the picture, in XL checkpoints.
    pub time_ids: [f32; 6],
    pub guidance: f32,
    pub rescale: f32,
    /// ControlNets serve the conditional half only.
    pub guess: bool,
    /// The halves of guidance run one after the other, in half the memory.
    pub apart: bool,
}

impl Request<'_> {
    /// The network embeds the strength of guidance, and is not run twice for it.
    fn embedded(&self) -> Option<usize> {
        self.unet.config().trunk.time.condition
    }

    fn rows(&self) -> usize {
        self.conditioning.rows()
    }

    fn apart(&self) -> bool {
        self.rows() == 2 && (self.apart || self.guess)
    }

    fn one_shape(&self) -> UnetShape {
        let batch = if self.apart() { 1 } else { self.rows() };
        UnetShape { batch, context: self.conditioning.tokens(), timestep_cond: self.embedded().is_some(), ..self.shape }
    }

    /// Whether a run of so many steps has some that no ControlNet takes part in.
    fn has_plain(&self, steps: usize) -> bool {
        let idle = |i: usize| self.controls.iter().all(|c| c.scale_at(i, steps) == 0.0);
        !self.controls.is_empty() && ((self.guess && self.rows() == 2) || (0..steps).any(idle))
    }

    fn plan(&self, controlled: bool, device: &Device) -> Result<StepPlan> {
        let nets: Vec<&ControlNet> = self.controls.iter().filter(|_| controlled).map(|c| &c.net).collect();
        let options = PlanOptions { pins: Pins::from_env()?, guard: 0 };
        self.unet.plan_on(self.one_shape(), &nets, &options, device)
    }

    /// Bytes that a run of so many steps takes on the device.
    pub(super) fn memory(&self, steps: usize, trace: &Device) -> Result<u64> {
        let bytes = |plan: &StepPlan| total(plan.report()) + total(plan.clip_plan().report());
        let plan = self.plan(true, trace)?;
        let mut all = bytes(&plan);
        if self.has_plain(steps) {
            let plain = self.plan(false, trace)?;
            // Its weights are on the device already.
            all += plain.report().arena + plain.clip_plan().report().arena;
        }
        Ok(all)
    }
}

/// A plan, and the features of its runs in each window: of both halves at once, or of each.
struct Bound {
    plan: StepPlan,
    features: Vec<Vec<Features>>,
}

impl Bound {
    fn new(request: &Request<'_>, controlled: bool, windows: &[Vec<usize>], device: &Device) -> Result<Bound> {
        let plan = request.plan(controlled, device)?;
        let runs = if request.apart() { 2 } else { 1 };
        // Windows differ in the pictures that ControlNets follow, and in nothing else.
        let differ = controlled && request.controls.iter().any(|c| c.pixels.shape()[0] > 1);
        let windows = if differ { windows } else { &windows[..windows.len().min(1)] };
        let features = |run: usize, window: &[usize]| -> Result<Features> {
            let operand = |(name, desc): (&str, TensorDesc)| -> Result<Tensor> {
                Ok(device.tensor(&clip_operand(request, name, desc, run, window)?)?)
            };
            let operands = plan.clip_inputs().map(operand).collect::<Result<Vec<_>>>()?;
            plan.features(&operands.iter().collect::<Vec<_>>())
        };
        let of_window = |window: &Vec<usize>| (0..runs).map(|run| features(run, window)).collect::<Result<Vec<_>>>();
        let features = windows.iter().map(of_window).collect::<Result<_>>()?;
        Ok(Bound { plan, features })
    }
}

/// What a clip's operand is in a run: its rows of the conditioning, or the same for all of them.
fn clip_operand(r: &Request<'_>, name: &str, desc: TensorDesc, run: usize, window: &[usize]) -> Result<HostTensor> {
    let missing = || Error::call(MODEL, format!("the network wants {name}, which this pipeline does not have"));
    let count = desc.shape.count();
    let rows = |tensor: &HostTensor| -> Result<HostTensor> {
        let values = tensor.to_f32();
        let from = run * count;
        let part = values.get(from..from + count).ok_or_else(|| {
            Error::call(MODEL, format!("{name}: the network wants {desc}, and {} is given", tensor.shape()))
        })?;
        Ok(HostTensor::new(desc.shape, part.to_vec())?.convert(desc.dtype))
    };
    let repeated = |values: &[f32]| -> Result<HostTensor> {
        if values.is_empty() || !count.is_multiple_of(values.len()) {
            return Err(Error::call(MODEL, format!("{name}: the network wants {desc}, not {} values", values.len())));
        }
        Ok(HostTensor::from_fn(desc.shape, |i| values[i % values.len()]).convert(desc.dtype))
    };
    if let Some(i) = name.strip_prefix("cond.").and_then(|i| i.parse::<usize>().ok()) {
        return repeated(&frames_of(&r.controls.get(i).ok_or_else(missing)?.pixels, window));
    }
    match (name, &r.conditioning.pooled, r.embedded()) {
        ("encoder_hidden_states", _, _) => rows(&r.conditioning.states),
        ("text_embeds", Some(pooled), _) => rows(pooled),
        ("time_ids", _, _) => repeated(&r.time_ids),
        ("timestep_cond", _, Some(n)) => repeated(&guidance_embedding(r.guidance - 1.0, n)),
        _ => Err(missing()),
    }
}

/// The frames of a window out of all frames, or the one picture that there is.
pub(super) fn frames_of(frames: &HostTensor, window: &[usize]) -> Vec<f32> {
    let (values, count) = (frames.to_f32(), frames.shape()[0]);
    let each = values.len() / count.max(1);
    if count <= 1 {
        return values;
    }
    window.iter().filter_map(|f| values.get(f * each..(f + 1) * each)).flatten().copied().collect()
}

/// Sinusoids of the strength of guidance, as consistency models read it (Luo et al., "Latent consistency models", 2023).
fn guidance_embedding(w: f32, n: usize) -> Vec<f32> {
    let half = n / 2;
    let step = 10_000f64.ln() / (half.max(2) - 1) as f64;
    let angle = |k: usize| f64::from(w) * 1000.0 * (-(k as f64) * step).exp();
    let mut all: Vec<f32> = (0..half).map(|k| angle(k).sin() as f32).collect();
    all.extend((0..half).map(|k| angle(k).cos() as f32));
    all.resize(n, 0.0);
    all
}

/// A network bound to its device for one run.
pub(super) struct Denoiser<'a> {
    request: Request<'a>,
    /// With the ControlNets, where there are any.
    main: Bound,
    /// Without them, where some evaluation needs that.
    plain: Option<Bound>,
    device: &'a Device,
    steps: usize,
}

impl<'a> Denoiser<'a> {
    /// Binds the network for a run of so many steps over windows of frames; a picture is one window of one frame.
    pub(super) fn new(
        request: Request<'a>,
        steps: usize,
        windows: &[Vec<usize>],
        device: &'a Device,
    ) -> Result<Denoiser<'a>> {
        let main = Bound::new(&request, true, windows, device)?;
        let plain = if request.has_plain(steps) { Some(Bound::new(&request, false, windows, device)?) } else { None };
        Ok(Denoiser { request, main, plain, device, steps })
    }

    /// The guided prediction in step `i` for the frames of a window, `sample [F,h,w,Cin]`, at time `t`: `[F,h,w,Cout]`.
    pub(super) fn predict(&self, sample: &HostTensor, t: f32, i: usize, window: usize) -> Result<HostTensor> {
        let r = &self.request;
        let scales: Vec<f32> = r.controls.iter().map(|c| c.scale_at(i, self.steps)).collect();
        let idle = scales.iter().all(|s| *s == 0.0);
        let mut halves = Vec::new();
        for run in 0..self.main.features.first().map_or(0, Vec::len) {
            let spared = idle || (r.guess && r.rows() == 2 && run == 0);
            let bound = self.plain.as_ref().filter(|_| spared).unwrap_or(&self.main);
            let features = bound.features.get(window).or(bound.features.first()).and_then(|runs| runs.get(run));
            let features = features.ok_or_else(|| Error::call(MODEL, "no such window"))?;
            halves.push(self.run(bound, features, sample, t, &scales)?);
        }
        match &halves[..] {
            [one] if r.rows() == 1 => Ok(one.clone()),
            [both] => {
                let (values, n) = (both.to_f32(), both.shape().count() / 2);
                let half = both.shape().dims()[0] / 2;
                let mut extents = both.shape().dims().to_vec();
                extents[0] = half;
                let shape = muybridge_runtime::Shape::new(&extents)?;
                Ok(HostTensor::new(shape, guide(&values[..n], &values[n..], r.guidance, r.rescale))?)
            }
            [uncond, cond] => {
                let guided = guide(&uncond.to_f32(), &cond.to_f32(), r.guidance, r.rescale);
                Ok(HostTensor::new(cond.shape(), guided)?)
            }
            _ => Err(Error::call(MODEL, "no prediction")),
        }
    }

    fn run(
        &self,
        bound: &Bound,
        features: &Features,
        sample: &HostTensor,
        t: f32,
        scales: &[f32],
    ) -> Result<HostTensor> {
        let r = &self.request;
        let values = sample.to_f32();
        let operand = |(name, desc): (&str, TensorDesc)| -> Result<Tensor> {
            let tensor = match name.strip_prefix("scales.").and_then(|i| i.parse::<usize>().ok()) {
                Some(i) => r.controls[i].net.scales(scales[i], r.guess),
                None if name == "timestep" => HostTensor::from_fn(desc.shape, |_| t),
                None if name == "sample" && desc.shape.count().is_multiple_of(values.len().max(1)) => {
                    HostTensor::from_fn(desc.shape, |i| values[i % values.len()])
                }
                None => {
                    let reason = format!("{name}: the network wants {desc}, latents are {}", sample.shape());
                    return Err(Error::call(MODEL, reason));
                }
            };
            Ok(self.device.tensor(&tensor.convert(desc.dtype))?)
        };
        let operands = bound.plan.step_inputs().map(operand).collect::<Result<Vec<_>>>()?;
        let results = bound.plan.step(&operands.iter().collect::<Vec<_>>(), features)?;
        let result = results.first().ok_or_else(|| Error::call(MODEL, "the network has no result"))?;
        Ok(result.to_host()?)
    }
}

/// `u + g · (c − u)` (Ho, Salimans, "Classifier-free diffusion guidance", 2022), drawn by `rescale` towards the standard
/// deviation of `c` (Lin et al., "Common diffusion noise schedules and sample steps are flawed", 2023, section 3.4).
pub fn guide(uncond: &[f32], cond: &[f32], scale: f32, rescale: f32) -> Vec<f32> {
    let guided: Vec<f32> = uncond.iter().zip(cond).map(|(u, c)| u + scale * (c - u)).collect();
    if rescale == 0.0 {
        return guided;
    }
    let factor = (deviation(cond) / deviation(&guided)) as f32;
    guided.iter().map(|g| rescale * g * factor + (1.0 - rescale) * g).collect()
}

fn deviation(values: &[f32]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum();
    (squares / (n - 1.0)).sqrt()
}

/// Where a run that keeps `1 − strength` of a picture begins: the index of its first step among the scheduler's.
pub(super) fn first_step(scheduler: &dyn Scheduler, steps: usize, strength: f32) -> usize {
    let kept = ((steps as f64 * f64::from(strength)) as usize).min(steps);
    (steps - kept) * scheduler.order()
}
